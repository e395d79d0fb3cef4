"""What several test modules do with processes."""

import time

import psutil


def wait_until(condition, timeout, what):
    """Poll until ``condition()`` is true; fail the test, naming ``what``, after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout} s"
        time.sleep(0.05)


def alive(processes):
    """Those of the given ``psutil.Process`` that still run (a zombie does not)."""
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
