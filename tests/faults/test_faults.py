"""Each fault once, modes and forms in turn; the whole matrix is `make faults`."""

import random
import sys

import psutil
import pytest

from mnistdist.cluster.network import private_network_available
from tests.faults import matrix, soak
from tests.faults.cells import FAULTS, PAUSE, ROLES, SAVE_STEPS, cells, longest_stall, run_cell, steps_lost
from tests.faults.clients import ENDED, PHASES, kill_client
from tests.faults.contained import Hang, Orphans, contained, end_rest, tried

# Every role and every fault twice, each with both forms and both modes.
CELLS = [
    ("program", "worker", "kill", "async"),
    ("cluster", "chief", "kill", "sync"),
    ("program", "ps", "pause", "async"),
    ("cluster", "worker", "pause", "sync"),
    ("program", "chief", "restart", "sync"),
    ("cluster", "ps", "restart", "async"),
]

needs_network = pytest.mark.skipif(
    not private_network_available(), reason="no network namespaces on this system: the servers would be open to all"
)


def test_the_cells_cover_what_they_should():
    assert set(CELLS) <= set(cells())
    assert len(cells()) == 36
    for fault in FAULTS:
        for position in (0, 1, 3):
            assert len({cell[position] for cell in CELLS if cell[2] == fault}) == 2
    assert all(sum(role in cell for cell in CELLS) == 2 for role in ROLES)


@needs_network
@pytest.mark.parametrize("cell", CELLS, ids=" ".join)
def test_training_goes_on_or_says_why_it_does_not(cell):
    """`run_cell` itself asserts what has to come of the fault, and that no process is left."""
    outcome = run_cell(*cell)
    form, role, fault, mode = cell
    ends = fault == "kill" and (form == "cluster" or role == "ps" or mode == "sync")
    assert bool(outcome["error"]) == ends
    least, most = (1, SAVE_STEPS) if (role, fault) == ("ps", "restart") else (0, 0)
    assert outcome["lost"] is None if ends else least <= outcome["lost"] <= most
    if fault == "pause" and (mode == "sync" or role == "ps"):
        # Steps are timed by those who make them, and one that was under way may end after the signal.
        assert outcome["seconds"] >= PAUSE - 0.5


@pytest.mark.parametrize(("form", "phase"), list(zip(("cluster", "program", "cluster"), PHASES, strict=True)))
def test_a_killed_client_leaves_no_process(form, phase):
    done = kill_client(form, phase, random.uniform(0, 0.2))
    assert done["seconds"] < 10
    assert done["phase"] in (phase, ENDED)


def test_the_longest_stall_begins_with_the_fault():
    assert longest_stall(10.0, [1.0, 9.0, 14.0, 15.0]) == 4.0
    assert longest_stall(10.0, [10.5, 11.0, 17.0]) == 6.0
    assert longest_stall(10.0, [9.0]) == 0.0


def test_steps_lost_are_those_that_the_parameters_went_back():
    told = [(1, 0, 5), (3, 0, 7), (5, 0, 9), (2, 1, 6), (6, 1, 8)]  # 8 is told after 9, by another worker
    assert steps_lost(told, 5.5) == 0
    back = [(1, 0, 600), (4, 0, 602), (2, 1, 640), (3, 1, 601)]
    assert steps_lost(back, 2) == 40


def test_a_cell_that_leaves_a_process_or_does_not_end_is_a_failure():
    python = [sys.executable, "-c"]
    sleep = "import time; time.sleep(60)"
    sleeper = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {sleep!r}]); print(1)"
    with pytest.raises(AssertionError, match="expected no process left"):
        contained([*python, sleeper], 30)
    with pytest.raises(AssertionError, match="none within 1 s"):
        contained([*python, sleep], 1)
    with pytest.raises(AssertionError, match=r"(?s)got 3:.*oh"):
        contained([*python, "print('oh'); raise SystemExit(3)"], 30)


def test_what_a_cell_says_has_no_colours(monkeypatch):
    monkeypatch.setenv("PYTHON_COLORS", "1")
    assert contained([sys.executable, "-c", "import os; print(os.environ['PYTHON_COLORS'])"], 30) == 0


def test_what_is_left_may_end_while_it_is_ended(monkeypatch):
    monkeypatch.setattr("tests.faults.contained._marked", lambda mark: [Ended()])
    assert len(end_rest("mark", seconds=0)) == 1


class Ended:
    def kill(self):
        raise psutil.NoSuchProcess(1)


def test_the_table_counts_what_failed():
    good = {"form": "program", "role": "ps", "fault": "kill", "mode": "async", "seconds": 2.0, "lost": 0, "error": "x"}
    rows = [good | {"failed": ""}, good | {"seconds": 4.0, "failed": ""}, good | {"seconds": None, "failed": "why"}]
    (line,) = matrix.table(rows).splitlines()[1:]
    assert line.split() == ["kill", "ps", "async", "program", "3.0", "4.0", "0", "error", "1", "FAILED"]
    (line,) = matrix.table([good | {"failed": "", "lost": None}]).splitlines()[1:]
    assert "all  error" in line


def test_a_soak_counts_cycles_faults_hangs_and_what_is_left():
    held = dict.fromkeys(soak.HELD, 10)
    cycle = {"form": "cluster", "role": "", "fault": "", "mode": "sync", "seconds": 5.0, "lost": 0, "failed": ""}
    cycles = [cycle | {"held": held | {"threads": number}} for number in range(12)]
    restart = {"role": "ps", "fault": "restart", "failed": "", "lost": SAVE_STEPS + 7}
    kills = [{"role": "client", "fault": "kill"} | tried(fails) for fails in (hangs, leaves, breaks)]
    said = soak.summary([*cycles, restart, *kills])
    assert "12 cycles of start, training and stop; 1 faults in tasks; 3 kills of a client" in said
    assert "1 hangs, 1 with processes left, 1 failed in other ways" in said
    assert "7 steps lost beyond the 200 between checkpoints" in said
    assert "descriptors 10 -> 10, threads 4 -> 10" in said


def hangs():
    raise Hang("no end")


def leaves():
    raise Orphans("a process")


def breaks():
    raise AssertionError("a difference")


def test_a_client_of_the_soak_says_what_went_wrong_and_ends():
    client = soak.Client()
    try:
        with pytest.raises(AssertionError, match="ps: expected an int of 1 or more"):
            client.cycle(0, 1, False)
        assert client.cycle(1, 1, False)["held"]["processes"] >= 0
        psutil.Process(client._process.pid).kill()
        with pytest.raises(AssertionError, match="the client lives on"):
            client.cycle(1, 1, False)
    finally:
        client.close()
    assert client._process.exitcode is not None
