"""The wheel: every module and the data are in it, and it works where there is no checkout."""

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib import metadata

import pytest

import mnistdist
from tests.book.book_rules import ROOT
from tests.package.idx_sets import DATA, ZIPPED

TRAIN = """
import mnistdist
from mnistdist import Cluster, train
with Cluster(ps=1, workers=2) as cluster:
    print(mnistdist.__file__, train(cluster, steps=100, sync=True).global_step)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Made of a copy of the project's files, since a build leaves things beside them."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "mnistdist", folder / "source/mnistdist", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    command = [sys.executable, "-m", "pip", "wheel", str(folder / "source"), "--no-deps", "-w", str(folder)]
    with contextlib.suppress(metadata.PackageNotFoundError):
        if int(metadata.version("setuptools").partition(".")[0]) >= 77:
            command.append("--no-build-isolation")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_every_module_the_data_and_its_notice(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "mnistdist").rglob("*.py")}
    assert {name for name in held if name.endswith(".py")} == modules
    assert len(modules) > 40
    for name in [*ZIPPED, "NOTICE.md"]:
        assert held[f"mnistdist/data/{name}"] == (DATA / name).read_bytes()
    assert any(name.endswith("dist-info/licenses/mnistdist/data/NOTICE.md") for name in held)


def test_the_data_is_read_from_the_zipped_wheel(wheel, tmp_path):
    code = f"import sys; sys.path.insert(0, {str(wheel)!r})\n"
    code += "from mnistdist import read_data_sets; print(read_data_sets(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "filled")], capture_output=True, text=True)
    assert done.stdout.startswith("Datasets(train=DataSet(55000"), done.stderr
    assert sorted(path.name for path in (tmp_path / "filled").iterdir()) == ZIPPED


def test_installed_in_an_environment_of_its_own_it_trains_away_from_the_checkout(wheel, tmp_path):
    """The other packages are borrowed; a .pth of theirs, such as an editable install's, is not read there."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    python = tmp_path / "env/bin/python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (tmp_path / "training.py").write_text(TRAIN)

    def run(*command):
        unmarked = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env=unmarked)

    done = run(python, "training.py")
    assert done.stdout.split() == [str(site / "mnistdist/__init__.py"), "100"], done.stderr
    for program in [python, "-m", "mnistdist"], [python.parent / "mnistdist"]:
        assert run(*program, "--version").stdout == f"mnistdist {mnistdist.__version__}\n"
