"""Data directories, filled with MNIST where nothing else is meant; and the copy of MNIST in the wheel."""

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mnistdist import idx, read_data_sets, train
from tests.helpers import Running
from tests.package.idx_sets import DATA, ZIPPED, names_in, refused, small_set, write

ROOT = Path(__file__).parents[2]
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
    for name in (".gitignore", "lost+found"):  # a hidden file, and what a new file system has
        (tmp_path / "here" / name).mkdir(parents=True)
    read_data_sets("~/here")
    assert names_in(tmp_path / "here") == sorted([".gitignore", "lost+found", *ZIPPED])


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
    """All four, and a folder of its own beside them, as the classic program makes one for its checkpoints."""
    iterdir = Path.iterdir

    def and_another_process(directory):
        entries = list(iterdir(directory))
        for name in ZIPPED:
            shutil.copy(DATA / name, directory)
        (directory / "tmpcheckpoints").mkdir()
        return entries

    monkeypatch.setattr(Path, "iterdir", and_another_process)
    assert read_data_sets(tmp_path).train.num_examples == 55_000
    monkeypatch.undo()
    assert names_in(tmp_path) == [*ZIPPED[:2], "tmpcheckpoints", *ZIPPED[2:]]
    read_data_sets(tmp_path)


def links(folder, ending=""):
    for name in ZIPPED:
        (folder / (name.removesuffix(".gz") + ending)).symlink_to(f"/not/there/{name}")


def torchvision(folder, below=""):
    (folder / below / "processed").mkdir(parents=True)
    (folder / below / "processed" / "training.pt").write_bytes(b"a tensor")
    write(folder / below / "raw", small_set())


RENAME = "Rename these, or name an empty or new directory"
OTHER = "Name the directory that has the four files, or name an empty"
STRANGERS = {
    "dotted": (
        lambda folder: (folder / "train-images.idx3-ubyte").touch(),
        ["found train-images.idx3-ubyte. " + RENAME],
    ),
    "emnist": (lambda folder: (folder / "emnist-letters-train-labels-idx1-ubyte.gz").touch(), [RENAME]),
    "links": (links, ["found train-images-idx3-ubyte, a link to /not/there/train-images-idx3", "Mend the link"]),
    "packed links": (lambda folder: links(folder, ".gz"), ["ubyte.gz, a link to /not/there/", "Mend the link"]),
    "a zip": (lambda folder: (folder / "archive.zip").touch(), ["found archive.zip. Unpack the archive there"]),
    "a tar": (lambda folder: (folder / "mnist.tar.gz").touch(), ["found mnist.tar.gz. Unpack the archive there"]),
    "torchvision's root": (lambda folder: torchvision(folder, "MNIST"), ["If {}/MNIST/raw is meant, name that"]),
    "torchvision's": (torchvision, ["found processed, raw. If {}/raw is meant, name that as data_dir"]),
    "tensors": (lambda folder: (folder / "training.pt").touch(), ["found training.pt. " + OTHER]),
    "a download cut off": (lambda folder: (folder / f"{ZIPPED[0]}.part").touch(), [f"found {ZIPPED[0]}.part"]),
    "a README": (lambda folder: (folder / "README").touch(), ["found README. " + OTHER]),
    "a project": (
        lambda folder: [(folder / f"{i}.py").touch() for i in range(9)],
        ["0.py, 1.py, 2.py, 3.py, 4.py, 4 more"],
    ),
}


@pytest.mark.parametrize("what", STRANGERS)
def test_nothing_is_written_beside_anything_else(tmp_path, what):
    make, parts = STRANGERS[what]
    folder = tmp_path / "data"
    folder.mkdir()
    make(folder)
    before = sorted(folder.rglob("*"))
    parts = [part.format(folder) for part in parts]
    with refused(folder, "missing: train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k", *parts):
        read_data_sets(folder)
    assert sorted(folder.rglob("*")) == before


def test_torchvisions_processed_folder_leads_to_the_raw_one(tmp_path):
    torchvision(tmp_path)
    with refused(f"found training.pt. If {tmp_path}/raw is meant"):
        read_data_sets(tmp_path / "processed")
    assert read_data_sets(tmp_path / "raw", validation_size=0).train.num_examples == 12


def test_mnists_own_files_beside_a_stranger_are_not_completed(tmp_path):
    shutil.copy(DATA / ZIPPED[0], tmp_path)
    (tmp_path / "notes.txt").touch()
    with refused("found notes.txt. Name the directory"):
        read_data_sets(tmp_path)
    for name in ZIPPED:
        shutil.copy(DATA / name, tmp_path)
    assert read_data_sets(tmp_path).train.num_examples == 55_000  # nothing to be written: the rest is of no concern
    assert names_in(tmp_path) == ["notes.txt", *ZIPPED]


def test_program_and_train_refuse_such_a_directory_too(tmp_path):
    links(tmp_path)
    before = names_in(tmp_path)
    with refused(tmp_path, "Mend the link"):
        train(Running(), steps=1, data=str(tmp_path))
    command = [sys.executable, "-m", "mnistdist.distributed", "--download_only", f"--data_dir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"mnistdist.distributed: error: --data_dir: {tmp_path}: expected")
    assert names_in(tmp_path) == before


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
    (tmp_path / "link").symlink_to("not/there")
    with refused("link: expected a directory, found a link to not/there, which is not there; name an empty"):
        read_data_sets(tmp_path / "link")
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
