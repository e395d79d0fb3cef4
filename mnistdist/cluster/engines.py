"""The engines of a cluster: starts them in its processes, waits for them, and knows each by its task."""

import time
import weakref
from collections import namedtuple
from functools import partial
from signal import SIGKILL

from mnistdist._wait import poll
from mnistdist.cluster import linux
from mnistdist.cluster._ipyparallel import connect, forget_engines, read_connection_file, unregister
from mnistdist.cluster.process_tree import Processes
from mnistdist.cluster.task import identity
from mnistdist.errors import ClusterStartError, TaskFailed, describe_exit

# How long a start may take: the seconds (for messages), when they are over, the HeldInterrupts heard meanwhile.
Limit = namedtuple("Limit", "seconds end held")

DESCRIPTORS = 128  # how many files a cluster opens in the client, and at most in each of its own processes
FEW_THREADS = 200  # if so few are left, a cluster may have ended for want of more, as each task has dozens


class Engines:
    """One ipyparallel engine for each task, in a tree of processes, and the client that drives them.

    ``ids`` has the engine id of each task, by its name ``(job, index)``, and ``pins`` has each task's share of the
    machine. The other arguments are those of :class:`Processes`.
    """

    def __init__(self, ids, pins, spec, **options):
        self.ids, self._pins = ids, pins
        self.client = self.info = None  # the ``ipyparallel.Client``, and the content of its connection file
        self.processes = Processes(spec, on_exit=weakly(self._unregister), **options)

    def connect(self, limit):
        """Waits for the controller, and becomes its client."""
        folder, read = str(self.processes.folder), partial(read_connection_file, self.processes.connection_file)
        self.info = self._wait(read, "the controller did not come up", [], limit, every=0.02)
        left = max(1.0, limit.end - time.monotonic())
        self.client = connect(self.info, weakly(self.require), timeout=left, ipython_dir=folder)

    def start(self, names, limit):
        """Starts the named tasks; returns when each has registered and has said which task it is."""
        from ipyparallel.error import RemoteError

        for name in names:
            pin = self._pins[name]
            self.processes.start(name, pin, engine=self.ids[name])
        engines, pids = {self.ids[name]: name for name in names}, self.processes.pids

        def all_there():
            return set(engines) <= set(self.client.ids) and set(names) <= set(pids)

        self._wait(all_there, "not every task came up", names, limit)
        try:
            answers = self.client[list(engines)].apply_async(identity)
            self._wait(lambda: answers.wait(0.05), "not every task answered", names, limit)
            found = answers.get()
        except (TaskFailed, RemoteError):  # a task has ended since it registered
            self._complain("not every task answered", names, limit, late=True)
        expected = [(*name, pids[name]) for name in engines.values()]
        if found != expected:
            hint, told = "stop() the cluster and start it again", f"should be {expected}, and answered as {found}"
            raise start_error(f"engines {list(engines)} {told}", names, limit.seconds, hint=hint)

    def _wait(self, ask, words, names, limit, every=0.01):
        """Asks until the answer is true and returns it; raises what goes wrong meanwhile, or that it takes too long."""
        while not (answer := ask()):
            limit.held()
            self._complain(words, names, limit)
            time.sleep(every)
        return answer

    def _complain(self, words, names, limit, late=False):
        """Raises a :class:`ClusterStartError` if a process has ended early, or if time is up or said to be."""
        processes = self.processes
        ready = [name for name in names if self.client and self.ids[name] in self.client.ids]
        if trouble := processes.trouble(names):
            words, log, hint = trouble
            if (spare := linux.spare_threads()) < FEW_THREADS:
                words = f"{words}, and this user may start {spare} more processes and threads"
                hint = "end some of this user's, or raise the limit (ulimit -u)"
        elif late or time.monotonic() > limit.end:
            silent = [name for name in names if name in processes.pids and name not in ready]
            log = silent[0] if silent else "nursery" if self.client else "controller"
            hint = f"a slow or busy machine needs more time: Cluster(timeout={2 * limit.seconds:g})"
            for host in list(processes.unanswered)[:1]:
                words, log = f"host {host} has not answered", processes.unanswered[host]
                hint = f"see whether it runs and can be reached as `reach` says; {hint}"
        else:
            return
        log = processes.tail(log, 8)
        raise start_error(words, names or self.ids, limit.seconds, ready=len(ready), log=log, hint=hint)

    def signal(self, name, number):
        """Sends a signal to a task; waits after SIGKILL."""
        self.processes.signal(name, number)
        if number == SIGKILL:
            self._await_exits([name])

    def restart(self, names, seconds, held):
        """Replaces the processes of the named tasks."""
        for name in names:
            if name not in self.processes.exits:
                self.processes.signal(name, SIGKILL)
        self._await_exits(names)
        self.start(names, Limit(seconds, time.monotonic() + seconds, held))

    def _await_exits(self, names):
        if late := self.processes.wait_for_exits(names, timeout=10):
            self.require_alive()
            job, index = late[0]
            raise TaskFailed(f"{job}:{index}", "still alive 10 s after SIGKILL", hint="stop() the cluster")
        gone = {self.ids[name] for name in names}
        poll(10, lambda: not gone & set(self.client.ids), 0.005)

    def _unregister(self, name):
        """A task has ended, or all have (None); tells everyone who waits for an answer."""
        if self.client is not None and name is not None:
            unregister(self.info, self.ids[name])
        elif self.client is not None:
            forget_engines(self.client)

    def close(self):
        """Ends every process and the connection to them."""
        if self.client is not None:
            self.client.close(linger=0)
            self.client = None
        self.processes.close()

    def missing(self, engines=None):
        """What has become of each task that can't be used, by name; only of those with ids in ``engines``, if given."""
        there, exits = set(self.client.ids), self.processes.exits  # in this order: an end comes before its news
        missing = {}
        for name, engine in self.ids.items():
            if name in exits:
                how = f"ended with {describe_exit(exits[name])}"
            elif not self.processes.alive:
                how = "ended with the cluster's keeper"
            elif name not in self.processes.pids or engine not in there:
                how = "has not come up"
            else:
                continue
            if engines is None or engine in engines:
                missing["{}:{}".format(*name)] = how
        return missing

    def lost(self, engines=None):
        """A :class:`TaskFailed` about tasks that can't be used; None if all of them, or of these, can."""
        if not (missing := self.missing(engines)):
            return None
        first, *more = missing
        told = "; ".join(f"{name} {how}" for name, how in missing.items()).removeprefix(first)
        again = "cluster.restart() brings them back"
        alone = f'cluster.restart("{first}") or cluster.restart() brings it back'
        return TaskFailed(first, f"it{told}", hint=again if more else alone)

    def require(self, engines=None):
        """Raises a :class:`TaskFailed` if one of these engines can't be used; None for all of the cluster's."""
        self.require_alive()
        if lost := self.lost(engines):
            raise lost

    def require_alive(self):
        """Raises a :class:`TaskFailed` if the processes that keep the tasks have gone."""
        if not self.processes.alive:
            raise self.processes.lost()


def require_descriptors(tasks, seconds):
    """Raises a :class:`ClusterStartError` if this process may not open enough files for a cluster."""
    if (spare := linux.spare_descriptors(DESCRIPTORS)) < DESCRIPTORS:
        words = f"this process may open {spare} more files, and a cluster needs {DESCRIPTORS}"
        raise start_error(words, tasks, seconds, hint="close some, or raise the limit (ulimit -n)")


def start_error(words, tasks, seconds, *, ready=0, log=(), hint):
    """The error of a start that so many of the tasks have seen the end of."""
    return ClusterStartError(words, ready=ready, expected=len(tasks), timeout=seconds, log=log, hint=hint)


def weakly(method):
    """A bound method of one argument that keeps nothing alive, and does nothing when its object has gone."""
    weak = weakref.WeakMethod(method)
    return lambda argument: (bound := weak()) and bound(argument)
