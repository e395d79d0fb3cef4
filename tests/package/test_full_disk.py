"""Disks that are full or closed to writing: one clear error, and nothing half-written. See also test_data_dir.py."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.package.idx_sets import ZIPPED, names_in

SAVE = """
import sys
import numpy as np
from mnistdist import Run
from mnistdist.results import SharedModel

def save(path, value, floats=100_000):
    model = SharedModel(1, {"weights": np.full(floats, value, np.float32)}, None, None, None)
    try:
        print("saved", Run(sync=False, results=[], model=model).save(path))
    except OSError as error:
        print(error)
"""
LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
AS_NOBODY = """
import os
if os.geteuid() == 0:
    os.setgroups([]), os.setegid(65534), os.seteuid(65534)  # root may write everywhere
"""
DOWNLOAD = [sys.executable, "-m", "mnistdist.distributed", "--download_only"]


def run(command):
    """Run a command to its end; returns what it printed, line by line, having complained of nothing."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.stdout.splitlines()


def run_python(code, *arguments):
    return run([sys.executable, "-c", code, *map(str, arguments)])


@pytest.fixture
def with_mounts():
    """Makes the command that runs a shell script in a mount namespace of its own."""
    unshare = ["unshare", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "mount", "-t", "tmpfs", "none", "/mnt"]).returncode:
        pytest.skip("mounting a small disk needs user namespaces, which this system does not allow")
    return lambda script, *arguments: [*unshare, "sh", "-c", script, *map(str, arguments)]


def test_a_model_that_does_not_fit_on_the_disk(with_mounts, tmp_path):
    """A first model fits and stays as it was; a larger one does not, and nothing of it is left."""
    code = SAVE + "save(sys.argv[1] + '/model.npz', 1.0); save(sys.argv[1] + '/model.npz', 2.0, 400_000)"
    code += "\nprint(set(np.load(sys.argv[1] + '/model.npz')['weights'].tolist()))"
    script = 'mount -t tmpfs -o size=1m none "$2" && "$0" -c "$1" "$2"; ls -A "$2"'
    path = tmp_path / "model.npz"
    assert run(with_mounts(script, sys.executable, code, tmp_path)) == [
        f"saved {path}",
        f"[Errno 28] can't save the model: No space left on device: '{path}'",
        "{1.0}",
        "model.npz",
    ]


def test_a_model_on_a_disk_that_is_read_only(with_mounts, tmp_path):
    code = SAVE + "save(sys.argv[1] + '/model.npz', 1.0)"
    script = 'mount -t tmpfs none "$2" && mount -o remount,bind,ro "$2" && "$0" -c "$1" "$2"; ls -A "$2"'
    error = f"[Errno 30] can't save the model: Read-only file system: '{tmp_path}/model.npz'"
    assert run(with_mounts(script, sys.executable, code, tmp_path)) == [error]


def test_a_model_larger_than_a_file_may_be(tmp_path):
    """The limit that needs no disk of its own, and so holds on every system."""
    path = tmp_path / "model.npz"
    code = SAVE + "save(sys.argv[1], 1.0, 1000)\n" + LIMIT + "save(sys.argv[1], 2.0)"
    saved, failed = run_python(code, path)
    assert saved == f"saved {path}"
    assert failed == f"[Errno 27] can't save the model: File too large: '{path}'"
    assert names_in(tmp_path) == ["model.npz"]
    assert path.stat().st_size < 10_000


@pytest.fixture
def closed_folder():
    """A folder in which an ordinary user may read, and not write; not tmp_path, which is closed as a whole."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "empty").mkdir()
        Path(folder, "model.npz").write_bytes(b"an older model")
        for path in (Path(folder), Path(folder, "empty")):
            path.chmod(0o555)
        yield Path(folder)
        Path(folder).chmod(0o755)


def test_a_folder_that_an_ordinary_user_may_not_write(closed_folder):
    code = SAVE + "import mnistdist.datasets, tempfile, shutil\n"
    code += "folder = tempfile.mkdtemp(); save(folder + '/warm', 1.0); mnistdist.read_data_sets(folder + '/mnist')\n"
    code += "shutil.rmtree(folder)\n" + AS_NOBODY  # all imported by now: the interpreter may be closed to others too
    code += """
save(sys.argv[1] + "/model.npz", 1.0)
save(sys.argv[1] + "/other.npz", 1.0)
for name in ("empty", "new"):
    try:
        mnistdist.read_data_sets(f"{sys.argv[1]}/{name}")
    except OSError as error:
        print(error)
"""
    _, *failed = run_python(code, closed_folder)
    assert failed == [
        f"[Errno 13] can't save the model: Permission denied: '{closed_folder}/model.npz'",
        f"[Errno 13] can't save the model: Permission denied: '{closed_folder}/other.npz'",
        f"[Errno 13] Permission denied: '{closed_folder}/empty/train-images-idx3-ubyte.gz'",
        f"[Errno 13] Permission denied: '{closed_folder}/new'",
    ]
    assert names_in(closed_folder) == ["empty", "model.npz"]
    assert names_in(closed_folder / "empty") == []
    assert (closed_folder / "model.npz").read_bytes() == b"an older model"


@pytest.mark.parametrize(
    ("options", "error", "missing"),
    [
        ("size=4m", "[Errno 28] No space left on device", "train-images-idx3-ubyte.gz"),
        ("nr_inodes=4", "[Errno 28] No space left on device", "t10k-images-idx3-ubyte.gz"),  # root, mnist, two files
        ("ro", "[Errno 30] Read-only file system", None),
    ],
)
def test_the_program_says_in_one_line_that_it_can_not_put_the_data_there(
    with_mounts, tmp_path, options, error, missing
):
    script = 'disk=$1; shift; mount -t tmpfs -o "$0" none "$disk"; "$@" 2>&1; echo "status $?"; ls -A "$disk/mnist"'
    folder = tmp_path / "mnist"
    command = with_mounts(script + " 2>/dev/null || true", options, tmp_path, *DOWNLOAD, f"--data_dir={folder}")
    line, status, *left = run(command)
    assert line == f"mnistdist.distributed: error: --data_dir: {error}: '{folder / missing if missing else folder}'"
    assert status == "status 1"
    assert left == (ZIPPED_BEFORE[missing] if missing else [])


# The four files are written in this order, each whole or not at all.
ORDER = [name for split in ("train", "t10k") for name in ZIPPED if name.startswith(split)]
ZIPPED_BEFORE = {name: sorted(ORDER[: ORDER.index(name)]) for name in ORDER}


def test_a_killed_program_leaves_whole_files_and_the_next_one_completes_them(tmp_path):
    """SIGXFSZ, which Python ignores, is left to end the process in the middle of a file."""
    code = "import signal, sys, mnistdist\nsignal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n" + LIMIT
    code += "mnistdist.read_data_sets(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True)
    assert done.returncode < 0
    assert not [name for name in names_in(tmp_path) if not name.endswith(".tmp")]
    assert run([*DOWNLOAD, f"--data_dir={tmp_path}"]) == [f"The data is in {tmp_path}"]
    assert [name for name in names_in(tmp_path) if not name.endswith(".tmp")] == ZIPPED
