"""A cluster of real ps and worker processes on this machine, driven from a notebook by ipyparallel engines."""

import contextlib
import html
import json
import os
import signal as signals
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from mnistdist import devices as device_rules
from mnistdist.errors import ClusterStartError, TaskFailed, describe_exit
from mnistdist.network import listing_addresses, loopback_addresses, private_network_available

_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")


@dataclass(frozen=True)
class Task:
    """One process of a cluster: its job (``ps`` or ``worker``) and index, where it listens and runs, pid and engine.

    ``address`` is host:port, ``device`` a name such as ``core 1`` or ``GPU 0``, ``engine`` the ipyparallel engine id:
    a worker's is its index; the ps follow.
    """

    job: str
    index: int
    address: str
    device: str
    pid: int
    engine: int

    @property
    def name(self):
        """``worker:0``"""
        return f"{self.job}:{self.index}"


class Cluster:
    """One ipyparallel engine a task, each pinned to its GPU or cores, each with a TensorFlow server.

    >>> with Cluster(ps=1, workers=2) as cluster:
    ...     cluster.workers.apply_sync(os.getpid)

    Args:
        ps, workers: numbers of tasks, 1 or more.
        devices: ``"auto"`` (a GPU a worker where there are any, else distinct cores), ``"cpu"``, or GPU ids.
        num_gpus: how many of the GPUs to use; fewer than workers is the ``ValueError`` of the classic listing.
        network: ``"private"``: a network namespace of the cluster's own with the listing's addresses;
            ``"host"``: 127.0.0.1 and free ports, open to whoever reaches this machine; ``"auto"``: private where the
            system allows it, else host, said once.
        servers: start ``tf.train.Server`` in every task, named ``server`` there.
        timeout: seconds that starting may take.

    Every engine's namespace has ``job_name``, ``task_index``, ``cluster_spec`` and ``server``. Ends with the ``with``
    block, with :meth:`stop`, and with this process, however it ends. Raises ``ValueError`` for bad arguments,
    :class:`~mnistdist.ClusterStartError` from :meth:`start`. Chapter "Clusters and servers" walks through it.
    """

    def __init__(
        self, ps=1, workers=2, *, devices="auto", num_gpus=None, network="auto", servers=True, timeout=60
    ):
        for name, value in (("ps", ps), ("workers", workers)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"{name} is the number of {name} tasks: expected an int of 1 or more, got {value!r}"
                )
        if network not in ("auto", "private", "host"):
            raise ValueError(f"network: expected 'auto', 'private' or 'host', got {network!r}")
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
            raise ValueError(f"timeout: expected a number of seconds above 0, got {timeout!r}")
        self._pins = device_rules.assign(ps, workers, devices=devices, num_gpus=num_gpus)
        self._names = [("ps", i) for i in range(ps)] + [("worker", i) for i in range(workers)]
        self._engines = {("worker", i): i for i in range(workers)} | {
            ("ps", i): workers + i for i in range(ps)
        }
        self._network, self._servers, self.timeout = network, bool(servers), timeout
        self._keeper = None
        self._reset()

    def _reset(self):
        self.client = None  # ipyparallel.Client, while the cluster runs
        self.spec = None  # {"ps": [...], "worker": [...]}, for tf.train.ClusterSpec
        self._folder = None
        self._pids, self._exits, self._killed = {}, {}, set()
        self._imported, self._failure = False, None
        self._news = threading.Condition()

    # ---------------------------------------------------------------------------------------- state

    @property
    def status(self):
        """``new``, ``running``, ``failed`` (a task has ended that nobody killed) or ``stopped``."""
        if self._keeper is None:
            return "new" if self._folder is None else "stopped"
        if self._failure or self._keeper.poll() is not None or set(self._exits) - self._killed:
            return "failed"
        return "running"

    @property
    def tasks(self):
        """All tasks as a tuple of :class:`Task`, ps first."""
        self._require_running()
        return tuple(
            Task(
                job,
                i,
                self.spec[job][i],
                self._pins[job, i].device,
                self._pids[job, i],
                self._engines[job, i],
            )
            for job, i in self._names
        )

    @property
    def ps(self):
        """ipyparallel view of the ps tasks."""
        return self._view([name for name in self._names if name[0] == "ps"])

    @property
    def workers(self):
        """ipyparallel view of the worker tasks, in the order of their index."""
        return self._view([name for name in self._names if name[0] == "worker"])

    @property
    def all(self):
        """ipyparallel view of all tasks: workers first, as their engine ids go."""
        return self._view(sorted(self._names, key=self._engines.get))

    def __getitem__(self, name):
        """View of one task: ``cluster["worker", 0]`` or ``cluster["worker:0"]``."""
        return self._view([self._find(name)], single=True)

    def _view(self, names, single=False):
        self._require_running()
        targets = [self._engines[name] for name in names]
        view = self.client.direct_view(targets[0] if single else targets)
        view.block = True
        return view

    def _find(self, name):
        if isinstance(name, Task):
            name = name.job, name.index
        elif isinstance(name, str) and name.rpartition(":")[2].isdigit():
            name = name.rpartition(":")[0], int(name.rpartition(":")[2])
        if name not in self._engines:
            known = ", ".join(f"{job}:{i}" for job, i in self._names)
            raise KeyError(f"no task {name!r} in this cluster: expected one of {known}")
        return name

    def _require_running(self):
        if self.client is None:
            raise RuntimeError(
                f"the cluster is {self.status}: use `with Cluster(...) as cluster:` or cluster.start()"
            )

    def __repr__(self):
        jobs = [job for job, _ in self._names]
        return f"Cluster(ps={jobs.count('ps')}, workers={jobs.count('worker')}, status={self.status!r})"

    def _repr_html_(self):
        if self.client is None:
            return f"<pre>{html.escape(repr(self))}</pre>"
        rows = "".join(
            f"<tr><td>{task.name}</td><td>{task.address}</td><td>{html.escape(task.device)}</td>"
            f"<td>{task.pid}</td><td>{task.engine}</td><td>{self._state_of((task.job, task.index))}</td></tr>"
            for task in self.tasks
        )
        head = "".join(f"<th>{name}</th>" for name in ("task", "address", "device", "pid", "engine", "state"))
        return f"<table><caption>{html.escape(repr(self))}</caption><tr>{head}</tr>{rows}</table>"

    def _state_of(self, name):
        return describe_exit(self._exits[name]) if name in self._exits else "running"

    # ---------------------------------------------------------------------------------------- start

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def start(self):
        """Start every task and wait until all can be used; returns the cluster. Does nothing while it runs."""
        if self._keeper is not None:
            if self.status == "running":
                return self
            raise RuntimeError(f"{self!r}: restart() brings back the tasks that ended; stop() ends the rest")
        self._reset()
        try:
            self._launch()
            self._connect()
            self._fork(self._names)
        except BaseException:
            self.stop()
            raise
        self._activate_magics()
        return self

    def _launch(self):
        deadline = self._deadline = time.monotonic() + self.timeout
        private = self._choose_network()
        counts = [sum(name[0] == job for name in self._names) for job in ("ps", "worker")]
        self.spec = (listing_addresses if private else loopback_addresses)(*counts)
        self._folder = Path(tempfile.mkdtemp(prefix="mnistdist-", dir=_short_temp()))
        profile = self._folder / "profile"
        for name in ("security", "log", "pid", "startup"):
            (profile / name).mkdir(parents=True)
        ours, theirs = socket.socketpair()
        path = f"import sys; sys.path[:] = {[str(entry) for entry in sys.path]!r}; "
        settings = {
            "folder": str(self._folder),
            "socket": theirs.fileno(),
            "spec": self.spec,
            "servers": self._servers,
            "private_hosts": [a.rpartition(":")[0] for job in self.spec.values() for a in job]
            if private
            else None,
            "controller": [
                sys.executable,
                "-c",
                path + "from ipyparallel.controller.app import main; main()",
                f"--profile-dir={profile}",
                "--IPController.use_threads=True",
                "--IPController.engine_transport=ipc",
                f"--IPController.engine_ip={self._folder}/e",
                "--HeartMonitor.period=100",
                f"--HeartMonitor.max_heartmonitor_misses={10**9}",  # who has ended, the nursery knows
            ],
        }
        environment = {k: v for k, v in os.environ.items() if k.lower() not in _PROXIES}
        environment["IPYTHONDIR"] = str(self._folder / "ipython")
        with open(self._folder / "keeper.log", "wb") as log, theirs:
            self._keeper = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    path + "from mnistdist.nursery import main; main()",
                    json.dumps(settings),
                ],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._socket = ours
        # Garbage collection and interpreter exit end the cluster as stop() does: by closing the keeper's stdin.
        self._finalizer = weakref.finalize(self, _hang_up, self._keeper, ours)
        threading.Thread(target=_listen, args=(weakref.ref(self), ours), daemon=True).start()
        return deadline

    def _choose_network(self):
        if self._network == "host":
            return False
        if private_network_available():
            return True
        if self._network == "private":
            raise ClusterStartError(
                "this system allows no private network",
                ready=0,
                expected=len(self._names),
                timeout=self.timeout,
                hint="use network='host' (127.0.0.1, free ports), or allow user namespaces: see the security notes",
            )
        _say_once(
            "No private network on this system: TensorFlow's servers listen on every interface of this machine, "
            "without authentication. Use a firewall where others can reach it."
        )
        return False

    def _connect(self):
        import ipyparallel

        path = self._folder / "profile" / "security" / "ipcontroller-client.json"
        info = None
        while info is None:
            self._check_start("the controller did not come up")
            with contextlib.suppress(OSError, json.JSONDecodeError):  # not there yet, or half written
                info = json.loads(path.read_text())
            time.sleep(0.02)
        self.client = ipyparallel.Client(info, timeout=max(1.0, self._deadline - time.monotonic()))
        self._info = info

    def _fork(self, names):
        """Start the named tasks, and return when each has registered and has said that it is who it should be."""
        for job, index in names:
            self._exits.pop((job, index), None)
            self._killed.discard((job, index))
            self._pids.pop((job, index), None)
            pin = self._pins[job, index]
            self._ask(
                do="start",
                job=job,
                index=index,
                env=dict(pin.env),
                cores=list(pin.cores),
                engine=self._engines[job, index],
            )
        engines = {self._engines[name] for name in names}
        while not engines <= set(self.client.ids) or not set(names) <= set(self._pids):
            self._check_start("not every task came up", names)
            time.sleep(0.01)
        from mnistdist.nursery import identity

        answers = self.client[sorted(engines)].apply_async(identity)
        while not answers.done():
            self._check_start("not every task answered", names)
            answers.wait(0.05)
        for engine, (job, index, pid) in zip(sorted(engines), answers.get(), strict=True):
            if engine != self._engines[job, index] or pid != self._pids[job, index]:
                raise ClusterStartError(
                    f"engine {engine} answered as {job}:{index} with pid {pid}",
                    ready=0,
                    expected=len(names),
                    timeout=self.timeout,
                    hint="stop() and start() the cluster",
                )

    def _check_start(self, reason, names=()):
        """Raise a :class:`ClusterStartError` when a process has ended early or time is up."""
        names = names or self._names
        ended = [name for name in names if name in self._exits]
        problem = None
        if self._failure:
            problem, log, hint = self._failure, "nursery", "read the log lines above"
        elif ended:
            job, index = ended[0]
            problem = f"{job}:{index} ended with {describe_exit(self._exits[ended[0]])} while starting"
            log, hint = (
                f"{job}-{index}",
                "the log lines say why; a port in use goes away with another start()",
            )
        elif self._keeper.poll() is not None:
            problem, log, hint = "the cluster's keeper ended early", "keeper", "read the log lines above"
        elif time.monotonic() > self._deadline:
            late = next((n for n in names if n in self._pids and self._engines[n] not in self._ready()), None)
            log = f"{late[0]}-{late[1]}" if late else ("controller" if self._imported else "nursery")
            problem, hint = (
                reason,
                f"a busy or slow machine needs more: Cluster(timeout={2 * self.timeout:g})",
            )
        if problem:
            raise ClusterStartError(
                problem,
                ready=len(self._ready() & {self._engines[n] for n in names}),
                expected=len(names),
                timeout=self.timeout,
                log=self._tail(log, 8),
                hint=hint,
            )

    def _ready(self):
        return set(self.client.ids) if self.client else set()

    # ------------------------------------------------------------------------- what tasks tell and are told

    def _ask(self, **request):
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise RuntimeError(
                f"the cluster's processes have gone ({error}): stop() and start() it again"
            ) from None

    def _hear(self, event):
        with self._news:
            name = event.get("job"), event.get("index")
            if event["event"] == "imported":
                self._imported = True
            elif event["event"] == "failed":
                self._failure = event["reason"]
            elif event["event"] == "started":
                self._pids[name] = event["pid"]
            elif event["event"] == "exited" and self._pids.get(name) == event["pid"]:
                self._exits[name] = event["returncode"]
                self._unregister(self._engines[name])
            self._news.notify_all()

    def _unregister(self, engine):
        """Tell the hub that an engine has ended, so that whoever waits for its answer hears of it at once."""
        if self.client is None:
            return
        import zmq
        from jupyter_client.session import Session

        session = Session(
            key=self._info["key"].encode(),
            signature_scheme=self._info["signature_scheme"],
            packer=self._info["pack"],
            unpacker=self._info["unpack"],
        )
        with zmq.Context.instance().socket(zmq.DEALER) as hub:
            hub.linger = 1000
            hub.connect(f"{self._info['interface']}:{self._info['registration']}")
            session.send(hub, "unregistration_request", content={"id": engine})

    # ------------------------------------------------------------------------- kill, restart, logs, stop

    def kill(self, task, signal=signals.SIGKILL):
        """Send ``signal`` to a task (``"worker:1"``, ``("worker", 1)`` or a :class:`Task`); SIGKILL is waited for."""
        self._require_running()
        name = self._find(task)
        if name in self._exits:
            raise ValueError(f"{name[0]}:{name[1]} has already ended: {self._state_of(name)}")
        number = signals.Signals[signal] if isinstance(signal, str) else signals.Signals(signal)
        if number in (signals.SIGKILL, signals.SIGTERM):
            self._killed.add(name)
        self._ask(do="kill", pid=self._pids[name], signal=int(number))
        if number == signals.SIGKILL:
            self._await_exit([name])

    def _await_exit(self, names):
        with self._news:
            if not self._news.wait_for(lambda: set(names) <= set(self._exits) or self._failure, timeout=10):
                late = ", ".join(f"{job}:{i}" for job, i in names if (job, i) not in self._exits)
                raise TaskFailed(late, "it is still alive 10 s after SIGKILL", hint="stop() the cluster")
        gone = {self._engines[name] for name in names}
        deadline = time.monotonic() + 10
        while gone & set(self.client.ids) and time.monotonic() < deadline:
            time.sleep(0.005)

    def restart(self, task=None):
        """Fresh processes with fresh servers at the same addresses: of one task, or of all. Returns the cluster.

        A TensorFlow server can't be stopped or remade within its process; this is how one notebook runs many
        experiments. What the old processes knew is gone, variables on a ps included.
        """
        self._require_running()
        names = self._names if task is None else [self._find(task)]
        for job, index in names:
            if (job, index) not in self._exits:
                self._killed.add((job, index))
                self._ask(do="kill", pid=self._pids[job, index], signal=int(signals.SIGKILL))
        self._await_exit(names)
        self._deadline = time.monotonic() + self.timeout
        self._fork(names)
        return self

    def logs(self, task, lines=20):
        """The last ``lines`` lines that a task's process wrote, TensorFlow's own included, as one string.

        After :meth:`stop`, the last 200 lines are still there.
        """
        job, index = self._find(task)
        return "\n".join(self._tail(f"{job}-{index}", lines))

    def _tail(self, name, lines):
        if self._folder is None:
            return []
        kept = self.__dict__.get("_kept_logs", {})
        if name in kept:
            return kept[name][-lines:]
        try:
            with open(self._folder / f"{name}.log", errors="replace") as file:
                return [line.rstrip("\n") for line in deque(file, lines)]
        except FileNotFoundError:
            return []

    def stop(self):
        """End every process of the cluster and remove its files. Does nothing when there is none."""
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        self._kept_logs = {path.stem: self._tail(path.stem, 200) for path in self._folder.glob("*.log")}
        if self.client is not None:
            self.client.close(linger=0)
            self.client = None
        self._finalizer()
        try:
            keeper.wait(timeout=10)
        except subprocess.TimeoutExpired:
            keeper.kill()  # the kernel then ends what it kept (PR_SET_PDEATHSIG)
            keeper.wait()

    # --------------------------------------------------------------------------------------- magics

    def _activate_magics(self):
        """``%%px``, ``%%px_ps``, ``%%px_worker`` and one such as ``%%px_worker0`` a task, where this is IPython."""
        from IPython import get_ipython

        shell = get_ipython()
        if shell is None:
            return
        from ipyparallel.client.magics import ParallelMagics

        views = {"": self.all, "_ps": self.ps, "_worker": self.workers}
        views |= {f"_{job}{index}": self[job, index] for job, index in self._names}
        for suffix, view in views.items():
            magics = ParallelMagics(shell, view, suffix)
            magics.progress_after_seconds = -1  # no progress bar in a page
            magics.signal_on_interrupt = (
                None  # an engine inside TensorFlow does not hear SIGINT: see restart()
            )
            magics.stream_output = False  # all output at the cell's end, in the order of the tasks
            shell.register_magics(magics)


def _hang_up(keeper, channel):
    for end in (keeper.stdin, channel):
        with contextlib.suppress(OSError):
            end.close()


def _listen(cluster_ref, channel):
    """Hand the nursery's events to the cluster, as long as there is one."""
    with contextlib.suppress(OSError, ValueError):
        for line in channel.makefile("r"):
            cluster = cluster_ref()
            if cluster is None:
                return
            cluster._hear(json.loads(line))
            del cluster


def _short_temp():
    """A folder whose Unix sockets' paths stay below the system's limit of about 104 characters."""
    return None if len(tempfile.gettempdir()) < 60 else "/tmp"


_said = set()


def _say_once(text):
    if text not in _said:
        _said.add(text)
        print(text, file=sys.stderr)
