"""What several test modules do with processes."""

import contextlib
import os
import shutil
import time
from types import SimpleNamespace

import psutil
import pytest


class Running:
    """As much of a running cluster as ``train`` looks at before it starts anything on it."""

    workers = (0, 1)
    tasks = (SimpleNamespace(job="worker"), SimpleNamespace(job="worker"))


def unprivileged(command):
    """The command without the capabilities of root: as an ordinary user would run it, with the same files in reach."""
    if os.geteuid() != 0:
        return command
    if not shutil.which("setpriv"):
        pytest.skip("giving root's capabilities up needs setpriv, which is not installed here")
    # The one that stays is needed to map user 0 to itself (user_namespaces(7)); an ordinary user maps another one.
    return ["setpriv", "--bounding-set=-all,+setfcap", "--inh-caps=-all", *command]


def wait_until(condition, timeout, what):
    """Poll until ``condition()`` is true; fail the test, naming ``what``, after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout} s"
        time.sleep(0.05)


def alive(processes, condition=lambda process: True):
    """Those of the ``psutil.Process`` that still run (a zombie does not), and of which the condition holds.

    One that ends while it is looked at does not run; another user's, of which nothing is told, is none of ours.
    """
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE and condition(process):
                found.append(process)
    return found


def below(pid, condition=lambda process: True):
    """The running processes below the process ``pid``, with such a condition; none if it has ended itself."""
    try:
        return alive(psutil.Process(pid).children(recursive=True), condition)
    except psutil.NoSuchProcess:
        return []
