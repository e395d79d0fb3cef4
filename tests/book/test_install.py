"""What `make install` does, and its plain messages."""

import importlib.util
from types import SimpleNamespace

import pytest

from book._ext import install


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A project folder for the installer, with a lock file, and pip and venv replaced by notes of their calls."""
    calls = []
    (tmp_path / "requirements.lock").write_text("a==1\n")
    (tmp_path / "pyproject.toml").write_text('requires-python = ">=3.10,<3.14"\n')
    venv = tmp_path / ".venv"
    for name, path in {
        "ROOT": tmp_path,
        "VENV": venv,
        "STAMP": venv / "stamp",
        "LOG": venv / "log",
        "LOCK": tmp_path / "requirements.lock",
        "PROJECT": tmp_path / "pyproject.toml",
    }.items():
        monkeypatch.setattr(install, name, path)

    def make_environment():
        calls.append("venv")
        venv.mkdir(exist_ok=True)
        (venv / "stamp").write_text("started\n")

    monkeypatch.setattr(install, "make_environment", make_environment)
    monkeypatch.setattr(install, "venv_version", lambda: (3, 11) if venv.exists() else None)
    monkeypatch.setattr(install, "pip", lambda *arguments: calls.append("pip"))
    return SimpleNamespace(path=tmp_path, calls=calls)


def fails(capsys):
    """What the installer says when it fails: one line, on stderr, with status 1."""
    assert install.main([]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_it_supports_what_pyproject_says():
    assert install.supported_versions() == ((3, 10), (3, 14))


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 6, 0), (3, 9, 18), (3, 14, 0)])
def test_an_unsupported_python_is_named(version, monkeypatch):
    monkeypatch.setattr(install, "ask", lambda name, code: b"" if name == "python3.12" else None)
    with pytest.raises(install.InstallError) as caught:
        install.check_python(version, "/usr/bin/python")
    assert str(caught.value) == (
        f"Python {version[0]}.{version[1]} at /usr/bin/python is not supported: this needs Python 3.10 to 3.13. "
        "Try: make PYTHON=python3.12"
    )


@pytest.mark.parametrize("version", [(3, 10, 0), (3, 13, 1)])
def test_a_supported_python_passes(version):
    install.check_python(version, "/usr/bin/python")


def test_a_missing_venv_module_is_one_line(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ensurepip" else find(name))
    with pytest.raises(install.InstallError, match=r"lacks the module ensurepip: .*apt install python3\.\d+-venv"):
        install.check_venv_module()


def test_a_small_disk_is_refused_before_anything_is_downloaded():
    install.check_disk(install.NEEDED_BYTES)
    with pytest.raises(install.InstallError, match=r"1\.5 GB free, and the environment needs 4 GB"):
        install.check_disk(1_500_000_000)


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("ERROR: Could not install packages: [Errno 28] No space left on device", "The disk is full: make room"),
        ("WARNING: Retrying ... NewConnectionError\nERROR: No matching distribution found", "can't be reached"),
        ("Collecting a\nERROR: No matching distribution found for a==1\n", "No matching distribution found for a==1"),
        ("", "pip failed without saying why"),
    ],
)
def test_what_pip_says_becomes_one_line(log, reason):
    assert reason in install.explain(log)
    assert "\n" not in install.explain(log)


def test_a_second_install_does_nothing_and_a_changed_lock_brings_it_up_to_date(checkout):
    assert install.main([]) == 0
    assert checkout.calls == ["venv", "pip", "pip"]
    assert install.main([]) == 0
    assert checkout.calls == ["venv", "pip", "pip"]
    (checkout.path / "requirements.lock").write_text("a==2\n")
    assert install.main([]) == 0
    assert checkout.calls == ["venv", "pip", "pip", "pip", "pip"]


def test_an_interrupted_install_starts_over(checkout, monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(install, "pip", interrupted)
        assert fails(capsys).startswith("Interrupted: run make again")
    (checkout.path / ".venv" / "half a package").touch()
    assert install.main([]) == 0
    assert not (checkout.path / ".venv" / "half a package").exists()


def test_a_full_disk_in_the_middle_is_one_line(checkout, monkeypatch, capsys):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(install, "pip", full)
    assert fails(capsys).startswith("The disk is full")


def test_a_pip_that_fails_is_one_line_and_all_of_it_is_in_the_log(tmp_path, monkeypatch):
    monkeypatch.setattr(install, "VENV", tmp_path)
    monkeypatch.setattr(install, "LOG", tmp_path / "log")
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho Collecting a\necho ERROR: No matching distribution found\nexit $STATUS\n")
    python.chmod(0o700)
    monkeypatch.setenv("STATUS", "1")
    with pytest.raises(install.InstallError, match=r"^ERROR: No matching distribution found \(everything pip said: "):
        install.pip("-r", "lock")
    assert (tmp_path / "log").read_text().startswith("Collecting a")
    monkeypatch.setenv("STATUS", "0")
    install.pip("-r", "lock")
