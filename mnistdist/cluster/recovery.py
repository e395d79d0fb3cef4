"""Tasks that a training has lost: which of them are only stopped, and which begin again.

A task that SIGSTOP or Ctrl-Z has stopped answers nobody, and doesn't end by itself.
"""

import contextlib
import time

import psutil


class StoppedTasks:
    """Finds the processes that have been stopped for too long.

    A stopped process looks like a busy one, because its connections stay open. The system knows the difference.

    Args:
        limit: Seconds, not counting any time when this process itself was stopped; None to find none.
        ask: Says whether a process is stopped now, by default of a pid on this machine.
    """

    def __init__(self, limit, ask=None):
        self.limit, self._ask, self._seconds, self._polled = limit, ask or is_stopped, {}, time.monotonic()

    def find(self, pids):
        """The names in ``{name: pid}`` whose process has been stopped for longer. Call it again and again."""
        if self.limit is None:
            return []
        before, self._polled = self._polled, time.monotonic()
        seen = min(self._polled - before, 1)
        halted = [pid for pid in pids.values() if self._ask(pid)]
        self._seconds = {pid: self._seconds.get(pid, 0) + seen for pid in halted}
        return [name for name, pid in pids.items() if self._seconds.get(pid, 0) > self.limit]


def is_stopped(pid):
    """Whether a process is stopped now."""
    with contextlib.suppress(psutil.Error):  # it has ended
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    return False


def to_begin_again(lost, workers, finished, *, restores):
    """The tasks that begin again when a training has lost one too early; none if it no longer needs that one.

    Takes the task ``(job, index)``, all ``workers``, lost or not, those that have ``finished``, and whether worker 0
    restores from a checkpoint what a ps has lost.
    """
    chief, finished = ("worker", 0), set(finished)
    if lost in finished or finished.issuperset(workers):
        return []
    # Nobody else restores what the ps has lost.
    return [lost, chief] if lost[0] == "ps" and restores and chief in finished else [lost]
