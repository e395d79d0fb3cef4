"""Processes that are started, waited for and ended by the system's own means."""

import math
import os
import resource
import selectors
import signal

from mnistdist.cluster import linux


def test_a_child_that_ends_while_a_request_is_heard_is_not_lost(monkeypatch):
    """Its byte may be read with those of others, or after the look that found none."""
    select = selectors.PollSelector.select
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(9)

    def look_then_lose_the_child(self, timeout=None):
        ready = select(self, timeout)
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # it has ended, and its signal has come
        return ready

    read, write = os.pipe()
    os.write(write, b"a request")
    try:
        with linux.child_exits(read) as wait:
            monkeypatch.setattr(selectors.PollSelector, "select", look_then_lose_the_child)
            asked, ended = wait(1)
            assert (asked, ended) == (True, [(pid, -signal.SIGKILL)])
    finally:
        os.close(read)
        os.close(write)


def test_threads_that_a_user_may_still_start_are_counted(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: {resource.RLIMIT_NPROC: (5000, 5000)}[which])
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert linux.spare_threads() == math.inf
    monkeypatch.setattr(os, "getuid", lambda: 2**30)  # a user who runs nothing
    assert linux.spare_threads() == 5000
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert linux.spare_threads() == math.inf
