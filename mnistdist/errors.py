"""The package's own errors, which say what was expected, what was got, the last log lines, and what to do."""

import signal

# For children whose output a program reads, because Python 3.13 colours tracebacks if Jupyter has set FORCE_COLOR.
PLAIN = {"PYTHON_COLORS": "0"}


def describe_exit(returncode):
    """The exit of a process in words: ``exit code 3``, or the name of the signal, such as ``SIGKILL``."""
    if returncode < 0:
        return {each.value: each.name for each in signal.Signals}.get(-returncode, f"signal {-returncode}")
    return f"exit code {returncode}"


class TaskLost(ConnectionError):
    """In a worker: a ps, or the chief of a synchronous training, has gone.

    Training may go on when the task is back, unless it has gone ``for_good``.
    """

    def __init__(self, message, for_good=False):
        super().__init__(message)
        self.for_good = for_good


class _Explained(RuntimeError):
    def __init__(self, headline, log, hint):
        self.log, self.hint = tuple(log), hint
        lines = ["last log lines:", *(f"    {line}" for line in self.log)] if self.log else []
        super().__init__("\n".join([headline, *lines, *[f"what to do: {hint}"] * bool(hint)]))

    def __reduce__(self):
        """Pickles without calling ``__init__`` again, because an error goes from one process to another."""
        return type(self).__new__, (type(self), *self.args), vars(self)


class ClusterStartError(_Explained):
    """The cluster's tasks did not all come up.

    Attributes: ``ready`` and ``expected`` count tasks, and ``timeout`` is in seconds. ``log`` holds the last lines that
    the cluster's processes wrote, and ``hint`` says what to do.

    Example::

        try:
            Cluster(timeout=0.01).start()
        except ClusterStartError as error:
            print(error.ready, "of", error.expected, "tasks:", error.hint)
    """

    def __init__(self, reason, *, ready, expected, timeout, log=(), hint=""):
        self.ready, self.expected, self.timeout = ready, expected, timeout
        super().__init__(f"{reason}: {ready} of {expected} tasks were ready (limit {timeout:g} s)", log, hint)


class TaskFailed(_Explained):
    """A task of a running cluster ended, or its code raised.

    Attributes: ``task`` (its name, such as ``worker:1``), ``reason``, ``log`` (its last lines) and ``hint``.

    Example::

        def fail(record):
            raise MemoryError("made up")

        try:
            train(cluster, steps=100, on_step=fail)
        except TaskFailed as error:
            print(error.task, error.reason)
    """

    def __init__(self, task, reason, *, log=(), hint=""):
        self.task, self.reason = task, reason
        super().__init__(f"task {task} failed: {reason}", log, hint)
