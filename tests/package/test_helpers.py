"""The tests' own looks at processes: what ends meanwhile is no error, and what can't be looked at is not ours."""

import os
import subprocess
import sys

import psutil
import pytest

from tests.helpers import alive, below


class Process:
    """A ``psutil.Process`` that has ended, or is another user's, when it is asked for the ``moment``."""

    def __init__(self, moment=None, error=psutil.NoSuchProcess, status="running"):
        self._moment, self._error, self._status = moment, error, status

    def _answer(self, moment, answer):
        if moment == self._moment:
            raise self._error(1)
        return answer

    def is_running(self):
        return self._answer("is_running", True)

    def status(self):
        return self._answer("status", self._status)

    def environ(self):
        return self._answer("environ", {"MARK": "1"})


@pytest.mark.parametrize("error", [psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied])
@pytest.mark.parametrize("moment", ["is_running", "status", "environ"])
def test_a_process_that_ends_while_it_is_looked_at_does_not_run(moment, error):
    stays, zombie = Process(), Process(status=psutil.STATUS_ZOMBIE)
    scanned = [Process(moment, error), stays, zombie]
    assert alive(scanned, lambda process: process.environ()["MARK"] == "1") == [stays]
    assert alive(scanned, lambda process: process.environ()["MARK"] == "2") == []


def test_an_error_of_the_condition_itself_is_not_hidden():
    with pytest.raises(KeyError):
        alive([Process()], lambda process: process.environ()["another"])


def test_who_has_ended_has_no_processes_below():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert [each.pid for each in below(os.getpid(), lambda each: each.pid == child.pid)] == [child.pid]
    child.communicate()
    assert below(child.pid) == []
