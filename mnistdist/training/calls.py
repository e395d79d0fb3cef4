"""Run a function in the workers of a cluster, and watch all of its tasks until they have answered."""

import contextlib
import time
from types import SimpleNamespace

from mnistdist.cluster.recovery import StoppedTasks, to_begin_again
from mnistdist.cluster.task import identity
from mnistdist.errors import TaskFailed
from mnistdist.training.progress import shown

_RESTARTED = "the cluster has been restarted with fresh tasks: train again"
_PATIENCE = 10  # seconds


@contextlib.contextmanager
def idle_workers(cluster, step_timeout, held):
    """Waits until the workers have nothing to do; keeps other trainings away while the ``with`` block runs.

    A worker runs one call after the other, so a call to a busy one would wait without a word and without an end.

    It waits ``step_timeout`` seconds, but at least 2 and at most 10, and calls ``held()`` of the
    :class:`~mnistdist._interrupts.HeldInterrupts` around it. Workers that can't be used are left to :func:`on_workers`.

    Raises:
        RuntimeError: Some workers are still busy or stopped, or another training is running on the cluster. Nothing has
            been started, and what they are doing goes on.
    """
    patience = min(max(step_timeout or _PATIENCE, 2), _PATIENCE)
    deadline = time.monotonic() + patience
    while not cluster._training.acquire(timeout=0.1):
        held()
        if time.monotonic() > deadline:
            what = f"another training is still running on this cluster after {patience:g} s"
            raise RuntimeError(f"{what}: wait until it ends, or end it with cluster.restart()")
    try:
        answers = {}
        for task in cluster.tasks:
            with contextlib.suppress(TaskFailed):
                if task.job == "worker":
                    answers[task] = cluster[task].apply_async(identity)
        while pending := [task for task, answer in answers.items() if not answer.ready()]:
            held()
            cluster._engines.require_alive()
            if time.monotonic() > deadline:
                raise _busy(pending, _stopped(cluster, pending), patience)
            answers[pending[0]].wait(0.05)
        yield
    finally:
        cluster._training.release()


def _stopped(cluster, tasks):
    return [task for task in tasks if cluster._engines.processes.is_stopped(task)]


def _busy(tasks, stopped, seconds):
    names = [task.name for task in stopped or tasks]
    are, it, calls, end = ("is", "it", "the call", "ends") if len(names) == 1 else ("are", "them", "the calls", "end")
    state, do = "busy with an earlier call", f"wait until {calls} {end}"
    if stopped:
        go_on = " and ".join(f'cluster.kill("{name}", "SIGCONT")' for name in names)
        state, do = "stopped, as SIGSTOP does it,", f"let {it} go on with {go_on}"
    restart = f'cluster.restart("{names[0]}")' if len(names) == 1 else "cluster.restart()"
    what = f"{' and '.join(names)} {are} still {state} after {seconds:g} s"
    return RuntimeError(f"{what}: {do}, or end {it} with {restart}")


def on_workers(cluster, function, indices, arguments, *, step_timeout, held, steps=None, restarts=0, restores=False):
    """Runs ``function`` in some workers at once; returns their answers, in that order.

    Args:
        cluster: A running :class:`~mnistdist.Cluster`.
        function: A function of a module.
        indices: Which workers to call it in.
        arguments: The function's arguments, which may hold functions and classes that were typed in a notebook.
        step_timeout: Seconds. A task that somebody has stopped (SIGSTOP) counts as ended after twice as long, because a
            task that waits for it reports first, and reports more. None to let it be.
        held: As for :func:`idle_workers`.
        steps: The global step at which a progress bar ends, which the function publishes; None for no bar.
        restarts: How many ended tasks to restart before failing; a restarted worker calls the function again.
        restores: Whether worker 0 restores what a ps has lost; it then begins again even if it had answered.

    Raises:
        TaskFailed: The cause of the first failure, which may be a task that had ended before anything was sent.
    """
    calls, stopped = None, StoppedTasks(step_timeout and 2 * step_timeout, cluster._engines.processes.is_stopped)
    with shown(steps) as show:
        while True:
            held()
            lost = _find_lost(cluster, stopped, "before" if steps and calls is None else "during")
            if lost and not restarts:
                task, reason = lost
                raise TaskFailed(task, reason, log=cluster.logs(task, 5).splitlines(), hint=_RESTARTED)
            if lost:
                restarts -= 1
                cluster.restart(lost[0])
                if calls:
                    calls.replaced(lost[0], restores)
                continue
            calls = calls or _Calls(cluster, function, indices, arguments)
            if failed := calls.failed():
                time.sleep(0.5)  # if a task has ended, that is the cause, and its news may be on the way
                if cluster.alive and not cluster._engines.lost():
                    raise calls.cause(*failed[0])
            elif calls.wait(0.1):
                return calls.answers()
            show(calls.global_step())


def _find_lost(cluster, stopped, when):
    """A task that can't be used or was stopped for too long, and the words for it; None if all are well."""
    cluster._engines.require_alive()
    if lost := cluster._engines.lost():
        return lost.task, f"{lost.reason} {when} the training"
    halted = stopped.find({task.name: task for task in cluster.tasks})
    return (halted[0], f"it has been stopped for {stopped.limit:g} s, as SIGSTOP does it") if halted else None


class _Calls:
    """The calls of one function in some workers: who has answered, and what."""

    def __init__(self, cluster, function, indices, arguments):
        import cloudpickle

        self._cluster, self._sent = cluster, cloudpickle.dumps((function, arguments))
        self._latest = {index: self._call(index) for index in indices}
        self._again = []  # of a chief that had answered: its first answer counts

    def _call(self, index):
        try:
            return self._cluster["worker", index].apply_async(_answer, self._sent)
        except TaskFailed as error:  # it has ended just now, so this call fails, and is made again if the task is
            return _failed_call(error)

    def _all(self):
        return [*self._latest.items(), *((0, call) for call in self._again)]

    def replaced(self, task, restores):
        """A task has been started again, so the function begins again where necessary."""
        lost, _, number = task.partition(":")
        workers = [("worker", index) for index in self._latest]
        finished = [("worker", index) for index, call in self._latest.items() if call.ready() and call.successful()]
        for job, index in to_begin_again((lost, int(number)), workers, finished, restores=restores):
            if (job, index) in finished:
                self._again.append(self._call(index))
            elif job == "worker":
                self._latest[index] = self._call(index)

    def failed(self):
        """The calls that have failed, with the workers' indices."""
        return [(index, call) for index, call in self._all() if _failed(call)]

    def wait(self, seconds):
        """Waits this long for one more answer; returns whether all have answered."""
        pending = [call for _, call in self._all() if not call.ready()]
        if pending:
            pending[0].wait(seconds)
        return not pending

    def answers(self):
        return [call.get() for call in self._latest.values()]

    def global_step(self):
        """The highest global step that a worker has published."""
        return max((call.data or {}).get("global_step", 0) for call in self._latest.values())

    def cause(self, index, call):
        """The :class:`TaskFailed` of a worker's failed call, or the chief's if the worker has only lost the chief."""
        failure = self._failure(index, call)
        if index and "TaskLost" in failure.reason and 0 in self._latest:
            self._latest[0].wait(10)  # its own end may take it some seconds
            if _failed(self._latest[0]):
                failure = self._failure(0, self._latest[0])
        return failure

    def _failure(self, index, call):
        from ipyparallel.error import RemoteError

        try:
            call.get()
        except TaskFailed as failure:
            return failure
        except RemoteError as error:
            log, hint = self._cluster.logs(("worker", index), 5).splitlines(), _RESTARTED
            if error.ename in ("OSError", "InUse"):  # such as of a checkpoint; the message says what to do
                log, hint = [], "the cluster has been restarted with fresh tasks; mend this before you train again"
            stopped = " and ".join(task.name for task in _stopped(self._cluster, self._cluster.tasks))
            stopped = f" ({stopped} is stopped, as SIGSTOP does it)" if stopped else ""
            reason = f"{error.ename}: {error.evalue}{stopped}"
            return TaskFailed(f"worker:{index}", reason, log=log, hint=hint)


def _answer(sent):
    """In a worker: what the function that was sent returns for its arguments."""
    import cloudpickle

    function, arguments = cloudpickle.loads(sent)
    return function(*arguments)


def _failed_call(failure):
    """Stands for a call that could not be made."""

    def get():
        raise failure

    return SimpleNamespace(ready=lambda: True, successful=lambda: False, wait=lambda seconds: None, get=get, data=None)


def _failed(call):
    return call.ready() and not call.successful()
