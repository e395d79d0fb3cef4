"""A cluster of real ps and worker processes on this machine, each an ipyparallel engine, driven from a notebook."""

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
from mnistdist.cluster.engines import Engines, Limit, start_error
from mnistdist.cluster.linux import spare_descriptors
from mnistdist.cluster.network import choose_network, task_addresses, wanted_network
from mnistdist.cluster.task import Task
from mnistdist.errors import describe_exit

DESCRIPTORS = 128  # files that a cluster opens in the client, and each of its own processes at the most
PRELOAD = ["mnistdist.training.client"]  # by name: what a training imports is above this package
_started = weakref.WeakValueDictionary()  # the clusters that run by their id(), the one with the magics last


class Cluster:
    """One ipyparallel engine for each task, each pinned to its GPU or cores, each with a TensorFlow server.

    Args:
        ps: number of parameter servers, 1 or more.
        workers: number of workers, 1 or more.
        devices: ``"auto"`` (one GPU for each worker if there are any, else distinct cores), ``"cpu"``, or GPU ids.
        num_gpus: how many of the GPUs to use; fewer than workers is the ``ValueError`` of the classic listing.
        network: ``"private"``: a network namespace of the cluster's own, with the listing's addresses;
            ``"host"``: 127.0.0.1 and free ports, open to whoever reaches this machine; ``"auto"``: private where the
            system allows it, else host, said once. The variable ``MNISTDIST_NETWORK`` says what "auto" is.
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
        network, servers = wanted_network(network), _check.argument("servers", servers)
        timeout = _check.argument("timeout", timeout)
        self._counts = {"ps": ps, "worker": workers}
        self._pins = pinning.assign(ps, workers, devices=devices, num_gpus=num_gpus)
        # Workers first, so that the [stdout:1] of an engine's output is worker 1's.
        self._ids = {("worker", i): i for i in range(workers)} | {("ps", i): workers + i for i in range(ps)}
        self._network, self._servers, self.timeout = network, servers, timeout
        self._engines = None
        self.spec = None  #: ``{"ps": [...], "worker": [...]}`` for ``tf.train.ClusterSpec``, once it has started
        self._changing = threading.RLock()  # held while tasks are replaced
        self._training = threading.Lock()  # held by a training: one at a time

    @property
    def client(self):
        """The ``ipyparallel.Client``, while the cluster runs; else None."""
        return self._engines and self._engines.client

    @property
    def status(self):
        """``new``, ``running`` (every task is there), ``failed`` (one has ended or not come up) or ``stopped``."""
        if self.client is None:
            return "new" if self._engines is None else "stopped"
        return "failed" if self._engines.missing() else "running"

    @property
    def alive(self):
        """Whether the processes that keep the tasks are there; without them no task is either."""
        return self._engines is not None and self._engines.processes.alive

    @property
    def tasks(self):
        """All tasks as a tuple of :class:`Task`, ps first."""
        self._require_started()
        pids = self._engines.processes.pids
        return tuple(
            Task(job, i, address, self._pins[job, i].device, pids.get((job, i)), self._ids[job, i])
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
            limit = Limit(self.timeout, time.monotonic() + self.timeout, held)
            if notice := pinning.sharing_notice(self._pins):
                _say_once(notice)
            if (spare := spare_descriptors(DESCRIPTORS)) < DESCRIPTORS:
                raise start_error(
                    f"this process may open {spare} more files, and a cluster needs {DESCRIPTORS}",
                    self._ids,
                    self.timeout,
                    hint="close some, or raise the limit (ulimit -n)",
                )
            private = self._choose_network()
            self.spec = task_addresses(*self._counts.values(), private=private)
            options = {"private": private, "servers": self._servers, "preload": PRELOAD}
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
        """Give this cluster the ``%%px`` magics, until another one starts, or again when that one has stopped."""
        _started.pop(id(self), None)
        _started[id(self)] = self
        wanted = {"": ("worker", "ps"), "_ps": ("ps",), "_worker": ("worker",)}
        wanted |= {f"_{job}{index}": ((job, index),) for job, index in self._ids}
        activate_magics({suffix: self._view(*names, usable=False) for suffix, names in wanted.items()})

    def stop(self):
        """End every process of the cluster and remove its files. Does nothing when it does not run."""
        with HeldInterrupts():
            if self.client is not None:
                *before, last = [None, None, *_started.values()]
                _started.pop(id(self), None)
                if last is self and before[-1] is not None and before[-1].alive:
                    before[-1]._activate()
            if self._engines is not None:
                self._engines.close()

    def _choose_network(self):
        """Whether the tasks get a private network; says once that they do not, where nobody has chosen that."""
        hint = "use network='host' (127.0.0.1 and free ports), or allow user namespaces on this system"
        refusal = start_error("this system allows no private network", self._ids, self.timeout, hint=hint)
        private = choose_network(self._network, refusal)
        if not private and self._network == "auto":
            open_to_all = "TensorFlow's servers listen on every interface of this machine, without authentication"
            _say_once(f"No private network on this system: {open_to_all}. Have a firewall where others can reach it.")
        return private

    def exit_of(self, task):
        """How a task ended: its exit code, or minus the number of the signal; None while it runs."""
        self._require_started()
        return self._engines.processes.exits.get(self._find(task))

    def kill(self, task, signal=signals.SIGKILL):
        """Send ``signal`` to a task (``"worker:1"``, ``("worker", 1)`` or a :class:`Task`); SIGKILL is waited for.

        Raises ``KeyError`` for a task that the cluster doesn't have, ``ValueError`` for one that has ended already.
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
        """Fresh processes with fresh servers at the same addresses, of one task or of all. Returns the cluster.

        A TensorFlow server can't be stopped or remade within its process: this is how one notebook runs many
        experiments. What the old processes knew is gone, the variables on a ps included. An interrupt is heard when it
        is done; a second one at once, which leaves a cluster that can be restarted.
        """
        self._require_started()
        names = list(self._ids) if task is None else [self._find(task)]
        self._engines.require_alive()
        with self._changing, HeldInterrupts(patience=2) as held:
            self._engines.restart(names, self.timeout, held)
        return self

    def logs(self, task, lines=20):
        """The last ``lines`` lines that a task wrote, TensorFlow's own included, as one string.

        After :meth:`stop`, the last 200 lines of each task are still there.
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
