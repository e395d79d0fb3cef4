"""Data directories, filled with MNIST where nothing else is meant; and the copy of MNIST in the wheel."""

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from idx_sets import DATA, ZIPPED, names_in, refused, small_set, write

from mnistdist import idx, read_data_sets

ROOT = Path(__file__).parents[1]
READ = """
import sys, mnistdist
try:
    print(mnistdist.read_data_sets(sys.argv[1]))
except OSError as error:
    print(error)
"""


def run(code, *arguments):
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


def test_the_embedded_files_are_those_of_the_notice():
    rows = re.findall(r"\| `(\S+)` \|.*\| `([0-9a-f]{64})` \|", (DATA / "NOTICE.md").read_text())
    contents = {file.name: gzip.decompress(file.read_bytes()) for file in idx.embedded_files().values()}
    assert len(rows) == 4
    assert dict(rows) == {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def test_a_new_or_empty_directory_is_filled_with_mnist(tmp_path, monkeypatch):
    new = tmp_path / "not" / "yet"
    assert read_data_sets(str(new)).train.num_examples == 55_000
    assert names_in(new) == ZIPPED
    (tmp_path / "ordinary").touch()
    for path in new.iterdir():
        assert path.read_bytes() == (DATA / path.name).read_bytes()
        assert path.stat().st_mode == (tmp_path / "ordinary").stat().st_mode  # readable as any new file is
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "README").write_text("a directory with something else in it")
    read_data_sets("~/here")
    assert names_in(tmp_path / "here") == ["README", *ZIPPED]


def test_an_interrupted_fill_is_completed(tmp_path):
    first, *others = ZIPPED
    (tmp_path / first.removesuffix(".gz")).write_bytes(gzip.decompress((DATA / first).read_bytes()))
    shutil.copy(DATA / others[0], tmp_path)
    (tmp_path / ".0123.tmp").write_bytes(b"half of a file")
    assert read_data_sets(tmp_path).train.num_examples == 55_000
    assert set(names_in(tmp_path)) == {".0123.tmp", first.removesuffix(".gz"), *others}


def test_mnist_is_not_mixed_into_another_set(tmp_path):
    write(tmp_path, small_set())
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    before = names_in(tmp_path)
    missing = "missing: train-labels-idx1-ubyte, t10k-labels-idx1-ubyte; found"
    with refused(tmp_path, missing, "train-images-idx3-ubyte, not of MNIST"):
        read_data_sets(tmp_path)
    assert names_in(tmp_path) == before


def test_files_that_another_process_adds_meanwhile_are_no_strangers(tmp_path, monkeypatch):
    check = idx._check_only_mnist

    def after_another_process(directory, found, missing):
        shutil.copy(DATA / ZIPPED[0], directory)
        check(directory, found, missing)

    monkeypatch.setattr(idx, "_check_only_mnist", after_another_process)
    assert read_data_sets(tmp_path).train.num_examples == 55_000
    assert names_in(tmp_path) == ZIPPED


@pytest.mark.parametrize("stranger", ["train-images.idx3-ubyte", "emnist-letters-train-labels-idx1-ubyte.gz"])
def test_mnist_is_not_written_beside_a_set_under_other_names(tmp_path, stranger):
    (tmp_path / stranger).write_bytes(b"")
    with refused(tmp_path, stranger, "Rename", "missing: train-images-idx3-ubyte"):
        read_data_sets(tmp_path)
    assert names_in(tmp_path) == [stranger]


def test_three_processes_fill_a_directory_at_once(tmp_path):
    target, go = tmp_path / "mnist", tmp_path / "go"
    code = "import os, sys, mnistdist.datasets\nprint('ready', flush=True)\n"
    code += f"while not os.path.exists({str(go)!r}): pass\n"
    code += "print(mnistdist.read_data_sets(sys.argv[1]).train.num_examples)"
    command = [sys.executable, "-c", code, str(target)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    three = [subprocess.Popen(command, **pipes) for _ in range(3)]
    for process in three:
        assert process.stdout.readline() == "ready\n"
    go.touch()
    for process in three:
        assert process.communicate(timeout=60) == ("55000\n", "")
    assert names_in(target) == ZIPPED


def test_directories_that_can_not_be(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with refused(file, "expected a directory, found a file"):
        read_data_sets(file)
    with refused(file, error=NotADirectoryError):
        read_data_sets(file / "below")
    with refused("data_dir: expected the name of a directory"):
        read_data_sets("")
    write(tmp_path / "set", small_set())
    (tmp_path / "set" / "t10k-labels-idx1-ubyte").unlink()
    (tmp_path / "set" / "t10k-labels-idx1-ubyte").mkdir()
    with refused(tmp_path / "set" / "t10k-labels-idx1-ubyte", "expected a file; found a directory"):
        read_data_sets(tmp_path / "set", validation_size=0)
    os.rmdir(tmp_path / "set" / "t10k-labels-idx1-ubyte")
    os.mkfifo(tmp_path / "set" / "t10k-labels-idx1-ubyte")  # to open it would wait for ever
    with refused(tmp_path / "set" / "t10k-labels-idx1-ubyte", "expected a file"):
        read_data_sets(tmp_path / "set", validation_size=0)


def test_a_write_that_fails_leaves_nothing_half_written(tmp_path):
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))" + READ
    result = run(limited, str(tmp_path))
    assert result.stdout == f"[Errno 27] File too large: '{tmp_path}/train-images-idx3-ubyte.gz'\n"
    assert names_in(tmp_path) == []


@pytest.fixture
def private_mounts():
    command = ["unshare", "--map-root-user", "--mount"]
    probe = [*command, "mount", "-t", "tmpfs", "none", "/mnt"]
    if not shutil.which("unshare") or subprocess.run(probe).returncode:
        pytest.skip("mounting a small disk needs user namespaces, which this system does not allow")
    return command


def test_a_full_disk(private_mounts, tmp_path):
    """Nothing half-written stays; with more room, the next call completes the directory."""
    script = """
mount -t tmpfs -o size=16m none "$2" && mkdir "$2/mnist" && cp "$3"/t10k* "$2/mnist"
head -c 8388608 /dev/zero > "$2/filler"
"$0" -c "$1" "$2/mnist"; ls -A "$2/mnist"
rm "$2/filler" && "$0" -c "$1" "$2/mnist" && ls -A "$2/mnist"
"""
    command = [*private_mounts, "sh", "-c", script, sys.executable, READ, str(tmp_path), str(DATA)]
    result = subprocess.run(command, capture_output=True, text=True)
    lines = result.stdout.splitlines()
    path = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    assert lines[0] == f"[Errno 28] No space left on device: '{path}'", result.stderr
    assert lines[1:3] == [name for name in ZIPPED if name.startswith("t10k")]
    assert lines[3].startswith("Datasets(train=DataSet(55000 examples")
    assert lines[4:] == ZIPPED


def test_a_disk_that_is_read_only(private_mounts, tmp_path):
    """Empty, it is an error; with the four files on it, it is all that is needed."""
    script = """
mount -t tmpfs none "$2" && mkdir "$2/empty" "$2/full" && cp "$3"/*.gz "$2/full"
mount -o remount,bind,ro "$2"
"$0" -c "$1" "$2/empty"; "$0" -c "$1" "$2/new"; "$0" -c "$1" "$2/full"
"""
    command = [*private_mounts, "sh", "-c", script, sys.executable, READ, str(tmp_path), str(DATA)]
    result = subprocess.run(command, capture_output=True, text=True)
    empty, new, full = result.stdout.splitlines()
    assert empty == f"[Errno 30] Read-only file system: '{tmp_path}/empty/train-images-idx3-ubyte.gz'"
    assert new == f"[Errno 30] Read-only file system: '{tmp_path}/new'"
    assert full.startswith("Datasets(train=DataSet(55000 examples")


def test_the_wheel_holds_the_data_and_its_notice(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT / "mnistdist", source / "mnistdist", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", str(source), "--no-deps", "-w", str(tmp_path)]
    probe = "import setuptools; assert int(setuptools.__version__.split('.')[0]) >= 77"
    if run(probe).returncode == 0:
        command.append("--no-build-isolation")
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    for name in [*ZIPPED, "NOTICE.md"]:
        assert held[f"mnistdist/data/{name}"] == (DATA / name).read_bytes()
    assert any(name.endswith("dist-info/licenses/mnistdist/data/NOTICE.md") for name in held)
    zipped_import = f"import sys; sys.path.insert(0, {str(wheel)!r})\n{READ}"
    assert run(zipped_import, str(tmp_path / "filled")).stdout.startswith("Datasets(train=DataSet(55000")
    assert names_in(tmp_path / "filled") == ZIPPED
