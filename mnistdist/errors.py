"""The package's own errors: what was expected, what was got, the last log lines, and what to do."""

import signal
from functools import partial

# For children whose output is read by a program: Python 3.13 colours tracebacks where Jupyter has set FORCE_COLOR.
PLAIN = {"PYTHON_COLORS": "0"}


def describe_exit(returncode):
    """Exit of a process in words: ``exit code 3`` or the signal's name, ``SIGKILL``."""
    if returncode < 0:
        try:
            return signal.Signals(-returncode).name
        except ValueError:
            return f"signal {-returncode}"
    return f"exit code {returncode}"


def _compose(headline, log_lines, hint):
    parts = [headline]
    if log_lines:
        parts.append("last log lines:\n" + "\n".join(f"    {line}" for line in log_lines))
    if hint:
        parts.append(f"what to do: {hint}")
    return "\n".join(parts)


class TaskLost(ConnectionError):
    """In a worker: a ps, or the chief of a synchronous training, has gone.

    Training may go on when it is back, unless it has gone ``for_good``.
    """

    def __init__(self, message, for_good=False):
        super().__init__(message)
        self.for_good = for_good


class ClusterStartError(RuntimeError):
    """The cluster's tasks did not all come up.

    Attributes: ``ready`` and ``expected`` (numbers of tasks), ``timeout`` (seconds), ``log`` (the last lines that the
    cluster's processes wrote) and ``hint`` (what to do).

    Example::

        try:
            Cluster(timeout=0.01).start()
        except ClusterStartError as error:
            print(error.ready, "of", error.expected, "tasks:", error.hint)
    """

    def __init__(self, reason, *, ready, expected, timeout, log=(), hint=""):
        self.ready, self.expected, self.timeout = ready, expected, timeout
        self._reason, self.log, self.hint = reason, tuple(log), hint
        headline = f"{reason}: {ready} of {expected} tasks were ready (limit {timeout:g} s)"
        super().__init__(_compose(headline, self.log, hint))

    def __reduce__(self):
        """Pickle by what it was made of: an error goes from one process to another."""
        return partial(type(self), **{k: v for k, v in vars(self).items() if k != "_reason"}), (self._reason,)


class TaskFailed(RuntimeError):
    """A task of a running cluster ended, or its code raised.

    Attributes: ``task`` (the name, ``worker:1``), ``reason``, ``log`` (its last log lines) and ``hint``.

    Example::

        def fail(record):
            raise MemoryError("made up")

        try:
            train(cluster, steps=100, on_step=fail)
        except TaskFailed as error:
            print(error.task, error.reason)
    """

    def __init__(self, task, reason, *, log=(), hint=""):
        self.task, self.reason, self.log, self.hint = task, reason, tuple(log), hint
        super().__init__(_compose(f"task {task} failed: {reason}", self.log, hint))

    def __reduce__(self):
        """Pickle by what it was made of: an error goes from one process to another."""
        return partial(type(self), log=self.log, hint=self.hint), (self.task, self.reason)
