"""The book's two whole programs, each run as three processes: both modes, with each task killed and started again."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mnistdist.cluster.network import private_network_available

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "book" / "programs"
# With MACHINES=all, as `make machines` sets it, each form runs in both modes.
ALL = [("distributed.py", True), ("distributed_monitored.py", False)]
ALL += [("distributed.py", False), ("distributed_monitored.py", True)]
BOTH = pytest.mark.parametrize("program", ["distributed.py", "distributed_monitored.py"])


def run(folder, program, *words):
    """The exit status of each task, and what each has printed."""
    if not private_network_available():
        pytest.skip("this system allows no network namespaces, and servers would be open to all")
    command = [
        sys.executable,
        "-m",
        "tests.book.program_runs",
        folder,
        PROGRAMS / program,
        f"--data_dir={folder}/data",
        *words,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=ROOT)
    logs = {path.name: path.read_text() for path in folder.iterdir() if ":" in path.name}
    assert done.returncode == 0, (done.stderr, logs)
    return json.loads(done.stdout), logs


@pytest.mark.parametrize(("program", "sync"), ALL if os.environ.get("MACHINES") == "all" else ALL[:2])
def test_each_task_may_be_killed_and_started_again(tmp_path, program, sync):
    flags = [f"--sync_replicas={sync}", "--train_steps=4000", f"--train_dir={tmp_path}/train", "--save_steps=100"]
    status, logs = run(tmp_path, program, *flags, "--", "200:worker:1", "600:worker:0", "1000:ps:0")
    assert status == {"ps:0": 0, "worker:0": 0, "worker:1": 0}, logs
    for index in 0, 1:
        steps, entropy = re.search(
            r"After (\d+) training step\(s\), validation cross entropy = (\S+)", logs[f"worker:{index}"]
        ).groups()
        assert 4000 <= int(steps) <= 4003
        assert float(entropy) < 1200  # of 5,000 examples; guessing gives 11,513
    if program == "distributed.py":
        began = [[int(n) for n in re.findall(r"begins at global step (\d+)", logs[f"worker:{i}"])] for i in (0, 1)]
        assert began[0][0] == 0
        assert began[0][1] >= 600  # the ps still held the training
        assert began[0][2] >= 900  # the last checkpoint, or the one before
        assert began[1][1] >= 200


def test_a_missing_ps_is_named(tmp_path):
    status, logs = run(tmp_path, "distributed.py", "--timeout=2", "--", "0:-ps:0")
    assert status == {"worker:0": 1, "worker:1": 1}
    assert "TimeoutError: no ps at 192.168.233.201:2222" in logs["worker:0"]


@BOTH
def test_a_worker_whose_chief_never_comes_gives_up(tmp_path, program):
    status, logs = run(tmp_path, program, "--timeout=3", "--", "0:-worker:0")
    assert status == {"ps:0": None, "worker:1": 1}, logs  # a ps waits for the first worker to finish
    assert "Session was not ready after waiting 3 secs" in logs["worker:1"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--job_name=worker"], "flag --task_index=None: Flag --task_index must have a value"),
        (["--job_name=chief", "--task_index=0"], "should be one of <ps|worker>"),
        (["--job_name=ps", "--task_index=0", "--sync_replicas", "False"], "got ['False']"),
        (["--job_name=ps", "--task_index=0", "--train_step=9"], "got ['--train_step=9']"),
    ],
)
@BOTH
def test_wrong_flags_are_refused(program, words, message):
    done = subprocess.run([sys.executable, PROGRAMS / program, *words], capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert message in done.stdout + done.stderr


@BOTH
def test_it_is_short_and_takes_only_the_data_from_the_package(program):
    lines = (PROGRAMS / program).read_text().splitlines()
    assert len(lines) < 150
    assert [line for line in lines if "mnistdist" in line] == ["from mnistdist import read_data_sets"]
