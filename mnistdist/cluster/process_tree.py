"""The processes of a cluster, as the client sees them: the seam between what a task does and where it runs.

    client (your notebook or script)
      keeper            waits for the client's end, then ends everything below and removes the folder
        controller      ipyparallel's, with its sockets towards the client on 127.0.0.1
        nursery         the fork server: goes to the private network, imports TensorFlow once, forks
          ps:0, worker:0, ...   each an ipyparallel engine with a TensorFlow server

On several hosts, a relay takes the nursery's place, and each host has a keeper and a nursery of its own, below an agent
at the other end of a pipe (``relay.py``, ``agent.py``).

Code above this seam knows engines and views, and asks :class:`Processes` for five things only: to ``start`` a task, to
``signal`` it, to report its end (``on_exit``), to show the ``tail`` of its log, and to ``close`` everything. It also
reads the state: ``alive``, ``pids``, ``exits``, ``devices``, ``is_stopped``, ``trouble`` and the file with which a
client connects. Requests (``start``, ``signal``) and events (``started``, ``exited``, ``failed``, and from hosts
``reached`` and ``halted``) are lines of JSON between this process and the fork server or the relay.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections import deque
from pathlib import Path

import psutil

from mnistdist.cluster.linux import command, environment, fill_first_descriptors
from mnistdist.cluster.network import hosts_of, without_proxies
from mnistdist.cluster.recovery import is_stopped
from mnistdist.errors import PLAIN, TaskFailed, describe_exit


class Processes:
    """A keeper, a controller, a nursery and the tasks it forks, in a temporary folder that goes with them.

    ``spec`` has the addresses of all tasks by job, and ``private`` says whether they get a network of their own.
    ``servers`` says whether each starts a TensorFlow server, and ``preload`` names modules that each finds imported. A
    thread calls ``on_exit`` with the name ``(job, index)`` of a task that has ended, and with None when all have ended
    and the tree with them. They all end when :meth:`close` is called, or with this object or process.
    """

    def __init__(self, spec, *, private, servers, on_exit, preload=(), hosts=None):
        self.pids, self.exits = {}, {}  # of each task, the latest process and how it ended
        self.devices, self._halted = {}, set()  # what hosts say of their tasks
        self.unanswered = (
            {host: each["log"] for host, each in hosts["each"].items()} if hosts else {}
        )  # with their logs
        self.failure = None  # why the nursery could not start or a host is lost, whose log tells more, what to do
        self._on_exit, self._changed = on_exit, threading.Condition()
        self._kept_logs = None
        self._on_hosts = hosts is not None
        self.folder = new_folder()
        # With this an ``ipyparallel.Client`` connects; the controller writes it as it comes up.
        self.connection_file = self.folder / "profile" / "security" / "ipcontroller-client.json"
        options = {"spec": spec, "servers": servers, "preload": preload, "hosts": hosts}
        options["private_hosts"] = hosts_of(spec) if private else None
        try:
            self._launch(options)
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _launch(self, options):
        options["controller"] = [
            *command("from mnistdist.cluster._ipyparallel import main; main()"),
            f"--profile-dir={self.folder / 'profile'}",
            *(f"--IPController.{side}_ip=127.0.0.1" for side in ("client", "monitor")),
            *(f"--IPController.{side}_transport=tcp" for side in ("client", "monitor")),
            "--IPController.location=127.0.0.1",  # the client is on this machine, whatever its name resolves to
            "--IPController.enable_curve=False",
            "--IPController.use_threads=True",  # 2 processes instead of 9
            "--IPController.engine_transport=ipc",  # Unix sockets reach into a private network
            f"--IPController.engine_ip={self.folder}/e",
            "--HeartMonitor.period=100",  # registration waits for a heartbeat or two
            f"--HeartMonitor.max_heartmonitor_misses={10**9}",  # the nursery knows better who has ended
        ]
        self._keeper, self._channel = start_keeper(self.folder, options)
        # Garbage collection and the interpreter's exit end the tree as close() does, by closing the keeper's stdin.
        self._hang_up = weakref.finalize(self, _hang_up, self._keeper, self._channel, self.folder)
        threading.Thread(target=_listen, args=(weakref.ref(self), self._channel), daemon=True).start()

    @property
    def alive(self):
        """Whether the keeper is still running, and nothing has happened that ends the rest of the tree."""
        return self._keeper.poll() is None and self.failure is None

    def count(self):
        """How many processes there are, including the keeper."""
        with contextlib.suppress(psutil.Error):
            return 1 + len(psutil.Process(self._keeper.pid).children(recursive=True))
        return 0

    def start(self, name, pin, *, engine):
        """Asks for a task with its share of the machine, a :class:`Pin`, and engine id. ``pids`` soon has it."""
        self.exits.pop(name, None)
        self.pids.pop(name, None)
        self.devices[name] = pin.device
        self._ask(do="start", job=name[0], index=name[1], env=dict(pin.env), cores=list(pin.cores), engine=engine)

    def signal(self, name, number):
        """Sends a signal to a task; nothing happens if it has ended meanwhile."""
        with self._changed:  # one that has been asked for just now has no pid yet
            self._changed.wait_for(lambda: name in self.pids or not self.alive, 10)
        if pid := self.pids.get(name):
            self._ask(do="signal", job=name[0], index=name[1], pid=pid, signal=int(number))

    def is_stopped(self, task):
        """Whether the process of a :class:`~mnistdist.Task` is stopped, as SIGSTOP does it."""
        return (task.job, task.index) in self._halted if self._on_hosts else is_stopped(task.pid)

    def wait_for_exits(self, names, timeout):
        """Waits until the named tasks have ended; returns the names of those that have not within ``timeout`` s."""
        with self._changed:
            self._changed.wait_for(lambda: set(names) <= set(self.exits) or not self.alive, timeout)
        return [name for name in names if name not in self.exits]

    def _ask(self, **request):
        try:
            self._channel.sendall(json.dumps(request).encode() + b"\n")
        except OSError:
            raise self.lost() from None

    def hear(self, event):
        """Takes note of one event of the fork server's."""
        name = event.get("job"), event.get("index")
        with self._changed:
            if event["event"] == "failed":
                told = event["reason"], event.get("log", "nursery"), event.get("hint", "the log lines say why")
                self.failure = self.failure or told  # what comes after the first is its consequence
            elif event["event"] == "reached":
                self.unanswered.pop(event["host"])
            elif event["event"] == "notice":
                print(f"host {event['host']}: {event['text']}", file=sys.stderr)
            elif event["event"] == "halted":
                (self._halted.add if event["halted"] else self._halted.discard)(name)
            elif event["event"] == "started":
                self.pids[name] = event["pid"]
                self.devices[name] = event.get("device", self.devices[name])
                self._halted.discard(name)
            elif event["event"] == "exited" and self.pids.get(name) == event["pid"]:
                self.exits[name] = event["returncode"]
                self._on_exit(name)
            self._changed.notify_all()

    def trouble(self, names):
        """What has ended too early for these tasks to come up, whose log tells more, what to do; None if nothing."""
        read, again = "the log lines say why", "stop() the cluster and start() it again"
        if not self.folder.is_dir() and self.alive:
            return f"its folder {self.folder} has been removed", "keeper", again
        if self.failure:
            return self.failure
        for name in names:
            if name in self.exits:
                return f"{name[0]}:{name[1]} ended with {describe_exit(self.exits[name])} while starting", name, read
        if not self.alive:
            log = next((each for each in ("controller", "nursery") if self.tail(each, 1)), "keeper")
            return "the cluster's keeper ended early", log, read
        return None

    def tail(self, name, lines):
        """The last ``lines`` lines of the log of a task, or of the ``nursery``, ``controller`` or ``keeper``."""
        log = name if isinstance(name, str) else f"{name[0]}-{name[1]}"
        if self._kept_logs is not None:
            return self._kept_logs.get(log, [])[-lines:]
        with contextlib.suppress(FileNotFoundError), open(self.folder / f"{log}.log", errors="replace") as file:
            return [line.rstrip("\n") for line in deque(file, lines)]
        return []

    def close(self):
        """Ends every process and removes the folder; the last 200 lines of each log stay in memory."""
        if self._kept_logs is None:
            self._kept_logs = {path.stem: self.tail(path.stem, 200) for path in self.folder.glob("*.log")}
        self._hang_up()
        end_keeper(self._keeper)
        shutil.rmtree(self.folder, ignore_errors=True)  # if a killed keeper could not

    def lost(self):
        """The error of using a cluster whose processes have gone."""
        if self.failure:
            reason, log, hint = self.failure
            return TaskFailed("cluster", reason, log=self.tail(log, 5), hint=hint)
        hint = "stop() the cluster and start() it again; a process that the system ended was often out of memory"
        return TaskFailed("cluster", "its keeper, controller or nursery has ended", hint=hint)


def new_folder():
    """A temporary folder for what the processes of one machine write, closed to other users."""
    short = len(os.fsencode(tempfile.gettempdir())) < 60  # a Unix socket's path may have 104 bytes
    return Path(tempfile.mkdtemp(prefix="mnistdist-", dir=None if short else "/tmp"))


def start_keeper(folder, options):
    """Starts a keeper with what it keeps; returns it, and the socket to the nursery or the relay."""
    for name in ("security", "log", "pid", "startup"):
        (folder / "profile" / name).mkdir(parents=True)
    fill_first_descriptors()
    ours, theirs = socket.socketpair()
    settings = options | {"folder": str(folder), "socket": theirs.fileno()}
    # Nor is what the environment says to ipyparallel (a key, a profile) meant for this cluster: see connect().
    given = {k: v for k, v in without_proxies(environment(os.environ)).items() if not k.startswith("IPP_")}
    given |= PLAIN | {"IPYTHONDIR": str(folder / "ipython")}  # messages quote logs
    keeper = command("from mnistdist.cluster.keeper import main; main()", json.dumps(settings))
    with open(folder / "keeper.log", "wb") as log, theirs:
        files = {"stdin": subprocess.PIPE, "stdout": log, "stderr": log, "pass_fds": [theirs.fileno()]}
        # In a session of its own: a Ctrl-C in the terminal is for the client alone.
        return subprocess.Popen(keeper, env=given, start_new_session=True, **files), ours


def end_keeper(keeper):
    """Ends a keeper, whose stdin is closed, and what it keeps."""
    keeper.terminate()  # a process that the client forked may still hold a copy of its stdin
    try:
        keeper.wait(timeout=10)
    except subprocess.TimeoutExpired:
        keeper.kill()  # the kernel ends its children with it
        keeper.wait()


def _hang_up(keeper, channel, folder):
    for end in (keeper.stdin, channel):
        with contextlib.suppress(OSError):
            end.close()
    if keeper.poll() is not None:  # it has ended early, and has left the reason in the folder
        shutil.rmtree(folder, ignore_errors=True)


def _listen(reference, channel):
    """Passes the fork server's events to the ``Processes`` that waits for them, as long as there is one."""
    with contextlib.suppress(OSError, ValueError):
        for line in channel.makefile("r"):
            processes = reference()
            if processes is None:
                return
            processes.hear(json.loads(line))
            del processes
    if processes := reference():  # the other side has ended: whoever waits for an answer of a task hears of it
        processes._on_exit(None)
