"""Tasks that are stopped, as SIGSTOP or Ctrl-Z does it: they answer nobody, and don't end by themselves."""

import contextlib
import time

import psutil


class StoppedTasks:
    """Finds the processes that have been stopped for too long.

    One that is stopped looks like one that thinks: its connections stay open. The system knows better.

    Args:
        limit: Seconds, none of them in a time when this process was stopped itself; None to find none.

    Example::

        stopped = StoppedTasks(60)
        while training:
            time.sleep(0.1)
            names = stopped.find({"worker:0": 4711, "worker:1": 4712})
    """

    def __init__(self, limit):
        self.limit, self._seconds, self._polled = limit, {}, time.monotonic()

    def find(self, pids):
        """Names, of those in ``{name: pid}``, whose process has been stopped for longer. Call it again and again."""
        if self.limit is None:
            return []
        before, self._polled = self._polled, time.monotonic()
        seen = min(self._polled - before, 1)
        halted = [pid for pid in pids.values() if is_stopped(pid)]
        self._seconds = {pid: self._seconds.get(pid, 0) + seen for pid in halted}
        return [name for name, pid in pids.items() if self._seconds.get(pid, 0) > self.limit]


def is_stopped(pid):
    """Whether a process is stopped now."""
    with contextlib.suppress(psutil.Error):  # it has ended
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    return False
