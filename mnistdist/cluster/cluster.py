"""A cluster of real ps and worker processes, here or on hosts, each an ipyparallel engine, driven from a notebook."""

import functools
import html
import signal as signals
import sys
import threading
import time
import weakref
from collections.abc import Hashable

from mnistdist import _check
from mnistdist._interrupts import HeldInterrupts
from mnistdist.cluster import pinning
from mnistdist.cluster._ipyparallel import activate_magics
from mnistdist.cluster.engines import Engines, Limit, require_descriptors, start_error
from mnistdist.cluster.hosts import Hosts
from mnistdist.cluster.network import choose_network, task_addresses, wanted_network
from mnistdist.cluster.task import Task
from mnistdist.errors import describe_exit

PRELOAD = ["mnistdist.training.client"]  # by name, because what a training imports is above this package
_started = weakref.WeakValueDictionary()  # the running clusters by their id(); the last one has the magics


class Cluster:
    """A process for each task, which is pinned to its GPU or cores and runs a TensorFlow server.

    Args:
        ps: number of parameter servers, 1 or more.
        workers: number of workers, 1 or more.
        devices: ``"auto"`` (one GPU for each worker if there are any, else distinct cores), ``"cpu"``, or GPU ids.
        num_gpus: how many of the GPUs to use; fewer than workers raise the ``ValueError`` of the classic program.
        network: ``"private"`` is a network namespace of the cluster's own, with the classic program's addresses.
            ``"host"`` is 127.0.0.1 with free ports, open to anyone who reaches this machine. ``"auto"`` is private if
            the system allows it, else host, and says so once. The variable ``MNISTDIST_NETWORK`` can replace "auto".
        hosts: names or addresses of other machines; None for this one. Tasks are placed on them in turn, ps first, or
            as ``{"ps": [...], "worker": [...]}`` says. Their ports are 2222, 2223, and so on, and ``devices`` and
            ``num_gpus`` are meant for each host. Each has its own files, with the same version of this package.
        reach: the command that runs another one on a ``{host}``, such as ``"docker exec -i {host}"``, with its stdin.
        python: the interpreter on the hosts, by default the path of this one.
        servers: whether to start a ``tf.train.Server`` in every task, where it is called ``server``.
        timeout: seconds that starting may take.

    Each task is an ipyparallel engine, whose namespace has ``job_name``, ``task_index``, ``cluster_spec`` and
    ``server``. The cluster ends with its ``with`` block, with :meth:`stop`, or with this process, however that ends.
    Bad arguments raise ``ValueError`` or ``TypeError``, and :meth:`start` may raise
    :class:`~mnistdist.ClusterStartError`. The chapter "Clusters and servers" goes through all of this.

    Example::

        with Cluster(ps=1, workers=2) as cluster:
            print(cluster.workers.apply_sync(os.getpid))
    """

    def __init__(
        self,
        ps=1,
        workers=2,
        *,
        devices="auto",
        num_gpus=None,
        network="auto",
        hosts=None,
        reach="ssh {host}",
        python=None,
        servers=True,
        timeout=60,
    ):
        ps, workers = _check.argument("ps", ps), _check.argument("workers", workers)
        network, servers = wanted_network(network), _check.argument("servers", servers)
        timeout = _check.argument("timeout", timeout)
        self._counts = {"ps": ps, "worker": workers}
        wanted = {"devices": devices, "num_gpus": num_gpus}
        self._hosts = None if hosts is None else Hosts(hosts, self._counts, reach, python, network=network, **wanted)
        self._pins = self._hosts.pins if self._hosts else pinning.assign(ps, workers, **wanted)
        # Workers first, so that the [stdout:1] of an engine's output is worker 1's.
        self._ids = {("worker", i): i for i in range(workers)} | {("ps", i): workers + i for i in range(ps)}
        self._network, self._servers, self.timeout = network, servers, timeout
        self._engines = None
        self.spec = None  #: ``{"ps": [...], "worker": [...]}`` for ``tf.train.ClusterSpec``, once it has started
        self._changing = threading.RLock()  # held while tasks are replaced
        self._training = threading.Lock()  # held by a training: one at a time

    @property
    def client(self):
        """The ``ipyparallel.Client`` while the cluster runs, otherwise None."""
        return self._engines and self._engines.client

    @property
    def status(self):
        """``new``, ``running``, ``failed`` (a task has ended or has not come up) or ``stopped``."""
        if self.client is None:
            return "new" if self._engines is None else "stopped"
        return "failed" if self._engines.missing() else "running"

    @property
    def alive(self):
        """Whether the processes that keep the tasks are running; without them there are no tasks."""
        return self._engines is not None and self._engines.processes.alive

    @property
    def tasks(self):
        """A tuple of all tasks, each a :class:`Task`, with the ps tasks first."""
        self._require_started()
        pids, devices = self._engines.processes.pids, self._engines.processes.devices
        return tuple(
            Task(job, i, address, devices.get((job, i)), pids.get((job, i)), self._ids[job, i])
            for job, addresses in self.spec.items()
            for i, address in enumerate(addresses)
        )

    @property
    def ps(self):
        """A view of the ps tasks, which is an ``ipyparallel.DirectView``."""
        return self._view("ps")

    @property
    def workers(self):
        """A view of the worker tasks, in the order of their index."""
        return self._view("worker")

    @property
    def all(self):
        """A view of all tasks, with the workers before the ps tasks."""
        return self._view("worker", "ps")

    def __getitem__(self, task):
        """A view of one task: ``cluster["worker", 0]`` or ``cluster["worker:0"]``."""
        return self._view(self._find(task))

    def _view(self, *wanted, usable=True):
        """A view of the tasks of some jobs, or of one task; ``usable`` refuses tasks that can't be used now."""
        self._require_started()
        targets = [engine for name, engine in self._ids.items() if name in wanted or name[0] in wanted]
        if usable:
            self._engines.require(targets)
        view = self.client.direct_view("all", block=True)
        view.targets = targets[0] if wanted[0] in self._ids else targets
        return view

    def _find(self, task):
        name = (task.job, task.index) if isinstance(task, Task) else task
        if isinstance(name, str):
            job, _, index = name.rpartition(":")
            name = (job, int(index)) if index.isdecimal() else name
        if not isinstance(name, Hashable) or name not in self._ids:
            known = ", ".join(f"{job}:{i}" for job, i in sorted(self._ids))
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
        missing = self._engines.missing()
        for task in self.tasks:
            state = missing.get(task.name, "running")
            rows.append((task.name, task.address, task.device, task.pid, task.engine, state))
        body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
        return f"<table><caption>{html.escape(repr(self))}</caption>{body}</table>"

    def __enter__(self):
        return self._start()

    def __exit__(self, *_):
        self.stop()

    def start(self):
        """Starts every task, waits until all can be used, and returns the cluster. Does nothing if it is running.

        If other clusters of this process are running, a line on stderr says how many, but not in a ``with`` block.
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
            limit = Limit(self.timeout, time.monotonic() + self.timeout, held)
            if notice := pinning.sharing_notice(self._pins):
                _say_once(notice)
            require_descriptors(self._ids, self.timeout)
            options = {"private": self._choose_network(), "servers": self._servers, "preload": PRELOAD}
            self.spec = task_addresses(*self._counts.values(), private=options["private"])
            if self._hosts:
                self.spec, options["hosts"] = self._hosts.spec, self._hosts.settings
            self._engines = Engines(self._ids, self._pins, self.spec, **options)
            try:
                self._engines.connect(limit)
                self._engines.start(list(self._ids), limit)
                self._activate()
                held()
            except BaseException:
                self.stop()
                raise
        return self

    def _activate(self):
        """Gives this cluster the ``%%px`` magics until another one starts, and again when that one has stopped."""
        _started.pop(id(self), None)
        _started[id(self)] = self
        wanted = {"": ("worker", "ps"), "_ps": ("ps",), "_worker": ("worker",)}
        wanted |= {f"_{job}{index}": ((job, index),) for job, index in self._ids}
        activate_magics({suffix: self._view(*names, usable=False) for suffix, names in wanted.items()})

    def stop(self):
        """Ends every process of the cluster and removes its files. Does nothing if it is not running."""
        with HeldInterrupts():
            if self.client is not None:
                *before, last = [None, None, *_started.values()]
                _started.pop(id(self), None)
                if last is self and before[-1] is not None and before[-1].alive:
                    before[-1]._activate()
            if self._engines is not None:
                self._engines.close()

    def _choose_network(self):
        """Whether the tasks get a private network; if "auto" finds none, a line on stderr says so once."""
        hint = "use network='host' (127.0.0.1 and free ports), or allow user namespaces on this system"
        refusal = start_error("this system allows no private network", self._ids, self.timeout, hint=hint)
        private = self._hosts is None and choose_network(self._network, refusal)
        if not private and self._network == "auto":
            where, which = ("several hosts", "each host") if self._hosts else ("this system", "this machine")
            open_to_all = f"TensorFlow's servers listen on every interface of {which}, without authentication"
            _say_once(f"No private network on {where}: {open_to_all}. Have a firewall where others can reach it.")
        return private

    def exit_of(self, task):
        """How a task ended: its exit code, or minus the number of the signal. None while it is running."""
        self._require_started()
        return self._engines.processes.exits.get(self._find(task))

    def kill(self, task, signal=signals.SIGKILL):
        """Sends ``signal`` to a task (``"worker:1"``, ``("worker", 1)`` or a :class:`Task`); waits after SIGKILL.

        Raises ``KeyError`` if the cluster has no such task, and ``ValueError`` if the task has already ended.
        """
        self._require_started()
        name = self._find(task)
        self._engines.require_alive()
        if (status := self.exit_of(name)) is not None:
            ended = describe_exit(status)
            raise ValueError(f"{name[0]}:{name[1]} has already ended ({ended}): restart() brings it back")
        try:
            number = signals.Signals[signal] if isinstance(signal, str) else signals.Signals(signal)
        except (KeyError, ValueError):
            raise ValueError(f"signal: expected a signal, its number or its name, 'SIGTERM'; got {signal!r}") from None
        with HeldInterrupts():
            self._engines.signal(name, number)

    def restart(self, task=None):
        """Replaces one task or all by fresh processes with fresh servers at the same addresses; returns the cluster.

        A process can't stop its TensorFlow server or make it again, so this is how one notebook runs many experiments.
        Everything that the old processes knew is gone, including the variables on a ps. A first interrupt takes effect
        when the restart is done. A second one takes effect at once, and leaves a cluster that can be restarted.
        """
        self._require_started()
        names = list(self._ids) if task is None else [self._find(task)]
        self._engines.require_alive()
        with self._changing, HeldInterrupts(patience=2) as held:
            self._engines.restart(names, self.timeout, held)
        return self

    def logs(self, task, lines=20):
        """The last lines that a task wrote, at most ``lines``, including TensorFlow's own, as one string.

        After :meth:`stop`, the last 200 lines of each task remain.
        """
        name, lines = self._find(task), _check.count("lines", lines, (0, 2**62))
        return "\n".join(self._engines.processes.tail(name, lines)) if self._engines else ""


def _tell_of_others():
    if others := [cluster for cluster in _started.values() if cluster.alive]:
        processes = sum(cluster._engines.processes.count() for cluster in others)
        told = f"Other clusters that are still running in this process: {len(others)}, with {processes} processes."
        out = "A notebook's Out keeps what a cell ends with; Out[N].stop() ends the cluster of cell N."
        print(told, out, file=sys.stderr)


@functools.cache
def _say_once(text):
    print(text, file=sys.stderr)
