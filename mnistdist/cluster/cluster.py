"""A cluster of real ps and worker processes on this machine, each an ipyparallel engine, driven from a notebook."""

import contextlib
import html
import json
import signal as signals
import sys
import threading
import time
import weakref
from collections.abc import Hashable
from dataclasses import dataclass

from mnistdist import _check
from mnistdist._interrupts import HeldInterrupts
from mnistdist.cluster import pinning as device_rules
from mnistdist.cluster._ipyparallel import activate_magics, connect, forget_engines, unregister
from mnistdist.cluster.child import spare_descriptors
from mnistdist.cluster.network import listing_addresses, loopback_addresses, private_network_available
from mnistdist.cluster.nursery import identity
from mnistdist.cluster.process_tree import Processes, keeper_lost
from mnistdist.errors import ClusterStartError, TaskFailed, describe_exit

DESCRIPTORS = 128  # files that a cluster opens in the client, and each of its own processes at the most
_started = []  # weak references to the clusters that run, the one with the magics last


@dataclass(frozen=True)
class Task:
    """One process of a cluster: its job (``ps`` or ``worker``) and index, where it listens and runs, pid and engine.

    ``address`` is host:port, ``device`` a name such as ``core 1`` or ``GPU 0``, ``engine`` the ipyparallel engine id:
    a worker's is its index; the ps follow. ``pid`` is None for a task that has not come up.

    Example::

        for task in cluster.tasks:
            print(task.name, task.address, task.device)
    """

    job: str
    index: int
    address: str
    device: str
    pid: int
    engine: int

    @property
    def name(self):
        """``worker:0``, say."""
        return f"{self.job}:{self.index}"


class Cluster:
    """One ipyparallel engine for each task, each pinned to its GPU or cores, each with a TensorFlow server.

    Args:
        ps: number of parameter servers, 1 or more.
        workers: number of workers, 1 or more.
        devices: ``"auto"`` (one GPU for each worker if there are any, else distinct cores), ``"cpu"``, or GPU ids.
        num_gpus: how many of the GPUs to use; fewer than workers is the ``ValueError`` of the classic listing.
        network: ``"private"``: a network namespace of the cluster's own, with the listing's addresses;
            ``"host"``: 127.0.0.1 and free ports, open to whoever reaches this machine; ``"auto"``: private where the
            system allows it, else host, said once.
        servers: start ``tf.train.Server`` in every task, named ``server`` there.
        timeout: seconds that starting may take.

    Every engine's namespace has ``job_name``, ``task_index``, ``cluster_spec`` and ``server``. The cluster ends with
    its ``with`` block, with :meth:`stop`, and with this process, however that ends. Raises ``ValueError`` or
    ``TypeError`` for bad arguments, and :class:`~mnistdist.ClusterStartError` from :meth:`start`. The chapter "Clusters
    and servers" walks through it.

    Example::

        with Cluster(ps=1, workers=2) as cluster:
            print(cluster.workers.apply_sync(os.getpid))
    """

    def __init__(self, ps=1, workers=2, *, devices="auto", num_gpus=None, network="auto", servers=True, timeout=60):
        ps, workers = _check.argument("ps", ps), _check.argument("workers", workers)
        network, servers = _check.argument("network", network), _check.argument("servers", servers)
        timeout = _check.argument("timeout", timeout)
        self._counts = {"ps": ps, "worker": workers}
        self._pins = device_rules.assign(ps, workers, devices=devices, num_gpus=num_gpus)
        # Workers first, so that the [stdout:1] of an engine's output is worker 1's.
        self._engines = {("worker", i): i for i in range(workers)} | {("ps", i): workers + i for i in range(ps)}
        self._network, self._servers, self.timeout = network, servers, timeout
        self._processes = None
        self.client = None  #: the ``ipyparallel.Client``, while the cluster runs
        self.spec = None  #: ``{"ps": [...], "worker": [...]}`` for ``tf.train.ClusterSpec``, once it has started
        self._changing = threading.RLock()  # held while tasks are replaced
        self._training = threading.Lock()  # held by a training: one at a time

    # ---------------------------------------------------------------------------------------- what it is

    @property
    def status(self):
        """``new``, ``running`` (every task is there), ``failed`` (one has ended or not come up) or ``stopped``."""
        if self.client is None:
            return "new" if self._processes is None else "stopped"
        return "failed" if self._missing() else "running"

    @property
    def alive(self):
        """Whether the processes that keep the tasks are there; without them no task is either."""
        return self._processes is not None and self._processes.alive

    @property
    def tasks(self):
        """All tasks as a tuple of :class:`Task`, ps first."""
        self._require_started()
        return tuple(
            Task(job, i, address, self._pins[job, i].device, self._processes.pids.get((job, i)), self._engines[job, i])
            for job, addresses in self.spec.items()
            for i, address in enumerate(addresses)
        )

    @property
    def ps(self):
        """View of the ps tasks (an ``ipyparallel.DirectView``)."""
        return self._view("ps")

    @property
    def workers(self):
        """View of the worker tasks, in the order of their index."""
        return self._view("worker")

    @property
    def all(self):
        """View of all tasks, first the workers, then the ps."""
        return self._view("worker", "ps")

    def __getitem__(self, task):
        """View of one task: ``cluster["worker", 0]`` or ``cluster["worker:0"]``."""
        return self._view(self._find(task))

    def _view(self, *wanted, usable=True):
        """View of the tasks of some jobs, or of one task; ``usable``: complain of those that can't be used now."""
        self._require_started()
        targets = [engine for name, engine in self._engines.items() if name in wanted or name[0] in wanted]
        if usable:
            self._require_tasks(targets)
        view = self.client.direct_view("all", block=True)
        view.targets = targets[0] if wanted[0] in self._engines else targets
        return view

    def _missing(self):
        """The tasks that can't be used, each with what has become of it."""
        engines, exits = set(self.client.ids), self._processes.exits  # in this order: an end comes before its news
        missing = {}
        for name, engine in self._engines.items():
            if name in exits:
                missing[name] = f"ended with {describe_exit(exits[name])}"
            elif not self.alive:
                missing[name] = "ended with the cluster's keeper"
            elif name not in self._processes.pids or engine not in engines:
                missing[name] = "has not come up"
        return missing

    def _require_tasks(self, engines=None):
        """Raise a :class:`TaskFailed` if one of these engines can't be used; None for all of the cluster's."""
        self._require_alive()
        if lost := self._lost(engines):
            names, reason = lost
            hint = "cluster.restart() brings them back"
            if len(names) == 1:
                hint = f'cluster.restart("{names[0]}") or cluster.restart() brings it back'
            raise TaskFailed(names[0], reason, hint=hint)

    def _lost(self, engines=None):
        """The names of the tasks that can't be used, and what has become of them; None if all of them can be."""
        lost = [(n, how) for n, how in self._missing().items() if engines is None or self._engines[n] in engines]
        names = [f"{job}:{index}" for (job, index), _ in lost]
        told = "; ".join(f"{name} {how}" for name, (_, how) in zip(names, lost, strict=True))
        return (names, f"it{told.removeprefix(names[0])}") if lost else None

    def _require_alive(self):
        """Raise a :class:`TaskFailed` if the processes that keep the tasks have gone."""
        if not self.alive:
            raise keeper_lost()

    def _find(self, task):
        name = (task.job, task.index) if isinstance(task, Task) else task
        if isinstance(name, str):
            job, _, index = name.rpartition(":")
            name = (job, int(index)) if index.isdecimal() else name
        if not isinstance(name, Hashable) or name not in self._engines:
            known = ", ".join(f"{job}:{i}" for job, i in sorted(self._engines))
            raise KeyError(f"no task {task!r} in this cluster: expected one of {known}")
        return name

    def _require_started(self):
        if self.client is None:
            raise RuntimeError(f"the cluster is {self.status}: use `with Cluster(...) as cluster:` or cluster.start()")

    def __repr__(self):
        return f"Cluster(ps={self._counts['ps']}, workers={self._counts['worker']}, status={self.status!r})"

    def _repr_html_(self):
        if self.client is None:
            return f"<code>{html.escape(repr(self))}</code>"
        rows = [("task", "address", "device", "pid", "engine", "state")]
        missing = self._missing()
        for task in self.tasks:
            state = missing.get((task.job, task.index), "running")
            rows.append((task.name, task.address, task.device, task.pid, task.engine, state))
        body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
        return f"<table><caption>{html.escape(repr(self))}</caption>{body}</table>"

    # ---------------------------------------------------------------------------------------- start and stop

    def __enter__(self):
        return self._start()

    def __exit__(self, *_):
        self.stop()

    def start(self):
        """Start every task and wait until all can be used; returns the cluster. Does nothing while it runs.

        Says on stderr how many other clusters of this process are running; in a ``with`` block, they are expected.
        """
        if self.client is None:
            _tell_of_others()
        return self._start()

    def _start(self):
        with self._changing, HeldInterrupts() as held:
            if self.client is not None:
                if self.status == "running":
                    return self
                raise RuntimeError(f"{self!r}: restart() brings ended tasks back; stop() ends the rest")
            deadline = time.monotonic() + self.timeout
            notice = device_rules.sharing_notice(self._pins)
            if notice and "GPU" in notice:
                _say_once(notice)
            if (spare := spare_descriptors(DESCRIPTORS)) < DESCRIPTORS:
                raise ClusterStartError(
                    f"this process may open {spare} more files, and a cluster needs {DESCRIPTORS}",
                    ready=0,
                    expected=len(self._engines),
                    timeout=self.timeout,
                    hint="close some, or raise the limit (ulimit -n)",
                )
            private = self._choose_network()
            addresses = listing_addresses if private else loopback_addresses
            self.spec = addresses(self._counts["ps"], self._counts["worker"])
            told = _weakly(self._unregister)
            self._processes = Processes(self.spec, private=private, servers=self._servers, on_exit=told)
            try:
                self._connect(deadline, held)
                self._fork(list(self._engines), deadline, held)
                self._activate()
                held()
            except BaseException:
                self.stop()
                raise
        return self

    def _activate(self):
        """Give this cluster the ``%%px`` magics, until another one starts, or again when that one has stopped."""
        _started[:] = [*(cluster for cluster in _started if cluster() not in (self, None)), weakref.ref(self)]
        wanted = {"": ("worker", "ps"), "_ps": ("ps",), "_worker": ("worker",)}
        wanted |= {f"_{job}{index}": ((job, index),) for job, index in self._engines}
        activate_magics({suffix: self._view(*names, usable=False) for suffix, names in wanted.items()})

    def stop(self):
        """End every process of the cluster and remove its files. Does nothing when it does not run."""
        with HeldInterrupts():
            if self.client is not None:
                self.client.close(linger=0)
                self.client = None
                last = _started[-1]() if _started else None
                _started[:] = [cluster for cluster in _started if cluster() not in (self, None)]
                before = _started[-1]() if _started else None  # it may be collected at any time
                if last is self and before is not None and before.alive:
                    before._activate()
            if self._processes is not None:
                self._processes.close()

    def _choose_network(self):
        if self._network == "host":
            return False
        if private_network_available():
            return True
        if self._network == "private":
            raise ClusterStartError(
                "this system allows no private network",
                ready=0,
                expected=len(self._engines),
                timeout=self.timeout,
                hint="use network='host' (127.0.0.1 and free ports), or allow user namespaces on this system",
            )
        _say_once(
            "No private network on this system: TensorFlow's servers listen on every interface of this machine, "
            "without authentication. Have a firewall where others can reach it."
        )
        return False

    def _connect(self, deadline, held):
        info = None
        while info is None:
            held()
            self._check("the controller did not come up", [], deadline)
            with contextlib.suppress(OSError, json.JSONDecodeError):  # not there yet, or half written
                info = json.loads(self._processes.connection_file.read_text())
            time.sleep(0.02)
        self._info = info
        left = max(1.0, deadline - time.monotonic())
        folder = str(self._processes.folder)
        self.client = connect(info, _weakly(self._require_tasks), timeout=left, ipython_dir=folder)

    def _fork(self, names, deadline, held):
        """Start the named tasks; return when each has registered and has said that it is who it should be."""
        from ipyparallel.error import RemoteError

        for name in names:
            pin = self._pins[name]
            self._processes.start(name, env=pin.env, cores=pin.cores, engine=self._engines[name])
        engines = {self._engines[name]: name for name in names}
        while not (set(engines) <= set(self.client.ids) and set(names) <= set(self._processes.pids)):
            held()
            self._check("not every task came up", names, deadline)
            time.sleep(0.01)
        try:
            answers = self.client[list(engines)].apply_async(identity)
            while not answers.done():
                held()
                self._check("not every task answered", names, deadline)
                answers.wait(0.05)
            found = answers.get()
        except (TaskFailed, RemoteError):  # a task has ended since it registered
            self._check("not every task answered", names, 0)
            raise
        expected = [(*name, self._processes.pids[name]) for name in engines.values()]
        if found != expected:
            raise ClusterStartError(
                f"engines {list(engines)} should be {expected}, and answered as {found}",
                ready=0,
                expected=len(names),
                timeout=self.timeout,
                hint="stop() the cluster and start it again",
            )

    def _check(self, reason, names, deadline):
        """Raise a :class:`ClusterStartError` when a process has ended early or time is up."""
        processes = self._processes
        ready = {name for name in names if self._engines[name] in self.client.ids} if self.client else set()
        ended = [name for name in names if name in processes.exits]
        late = [name for name in names if name in processes.pids and name not in ready]
        hint = "the log lines say why"
        if not processes.folder.is_dir() and processes.alive:
            reason, log = f"its folder {processes.folder} has been removed", "keeper"
            hint = "stop() the cluster and start() it again"
        elif processes.failure:
            reason, log = processes.failure, "nursery"
        elif ended:
            job, index = ended[0]
            reason = f"{job}:{index} ended with {describe_exit(processes.exits[ended[0]])} while starting"
            log = f"{job}-{index}"
        elif not processes.alive:
            reason = "the cluster's keeper ended early"
            log = next((each for each in ("controller", "nursery") if processes.tail(each, 1)), "keeper")
        elif time.monotonic() > deadline:
            log = f"{late[0][0]}-{late[0][1]}" if late else "nursery" if self.client else "controller"
            hint = f"a slow or busy machine needs more time: Cluster(timeout={2 * self.timeout:g})"
        else:
            return
        counts = {"ready": len(ready), "expected": len(names) or len(self._engines)}
        raise ClusterStartError(reason, **counts, timeout=self.timeout, log=processes.tail(log, 8), hint=hint)

    def _unregister(self, name):
        """A task has ended, or all have (None), and whoever waits for an answer is to hear of it."""
        if self.client is not None and name is not None:
            unregister(self._info, self._engines[name])
        elif self.client is not None:
            forget_engines(self.client)

    # ---------------------------------------------------------------------------------------- while it runs

    def exit_of(self, task):
        """How a task ended: its exit code, or minus the number of the signal; None while it runs."""
        self._require_started()
        return self._processes.exits.get(self._find(task))

    def kill(self, task, signal=signals.SIGKILL):
        """Send ``signal`` to a task (``"worker:1"``, ``("worker", 1)`` or a :class:`Task`); SIGKILL is waited for.

        Raises ``KeyError`` for a task that the cluster doesn't have, ``ValueError`` for one that has ended already.
        """
        self._require_started()
        name = self._find(task)
        self._require_alive()
        if name in self._processes.exits:
            ended = describe_exit(self._processes.exits[name])
            raise ValueError(f"{name[0]}:{name[1]} has already ended ({ended}): restart() brings it back")
        try:
            number = signals.Signals[signal] if isinstance(signal, str) else signals.Signals(signal)
        except (KeyError, ValueError):
            raise ValueError(f"signal: expected a signal, its number or its name, 'SIGTERM'; got {signal!r}") from None
        with HeldInterrupts():
            self._processes.kill(name, number)
            if number == signals.SIGKILL:
                self._await_exits([name])

    def _await_exits(self, names):
        late = self._processes.wait_for_exits(names, timeout=10)
        if late:
            self._require_alive()
            job, index = late[0]
            raise TaskFailed(f"{job}:{index}", "still alive 10 s after SIGKILL", hint="stop() the cluster")
        gone = {self._engines[name] for name in names}
        deadline = time.monotonic() + 10
        while gone & set(self.client.ids) and time.monotonic() < deadline:
            time.sleep(0.005)

    def restart(self, task=None):
        """Fresh processes with fresh servers at the same addresses, of one task or of all. Returns the cluster.

        A TensorFlow server can't be stopped or remade within its process: this is how one notebook runs many
        experiments. What the old processes knew is gone, the variables on a ps included. An interrupt is heard when it
        is done; a second one at once, which leaves a cluster that can be restarted.
        """
        self._require_started()
        names = list(self._engines) if task is None else [self._find(task)]
        self._require_alive()
        with self._changing, HeldInterrupts(patience=2) as held:
            for name in names:
                if name not in self._processes.exits:
                    self._processes.kill(name, signals.SIGKILL)
            self._await_exits(names)
            self._fork(names, time.monotonic() + self.timeout, held)
        return self

    def logs(self, task, lines=20):
        """The last ``lines`` lines that a task wrote, TensorFlow's own included, as one string.

        After :meth:`stop`, the last 200 lines of each task are still there.
        """
        job, index = self._find(task)
        lines = _check.count("lines", lines, (0, 2**62))
        return "\n".join(self._processes.tail(f"{job}-{index}", lines)) if self._processes else ""


def _weakly(method):
    """A bound method of one argument that keeps nothing alive, and does nothing when its object has gone."""
    weak = weakref.WeakMethod(method)
    return lambda argument: (bound := weak()) and bound(argument)


def _tell_of_others():
    others = [cluster for each in _started if (cluster := each()) is not None and cluster.alive]
    if others:
        print(
            f"Other clusters that are still running in this process: {len(others)}, with "
            f"{sum(cluster._processes.count() for cluster in others)} processes. A notebook's Out keeps what a cell "
            "ends with; Out[N].stop() ends the cluster of cell N.",
            file=sys.stderr,
        )


_said = set()


def _say_once(text):
    if text not in _said:
        _said.add(text)
        print(text, file=sys.stderr)
