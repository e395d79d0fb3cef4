"""What several test modules do with processes."""

import os
import shutil
import time

import psutil
import pytest


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


def alive(processes):
    """Those of the given ``psutil.Process`` that still run (a zombie does not)."""
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
