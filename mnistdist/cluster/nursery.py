"""The process tree of a cluster: a keeper, the controller, and a nursery that forks the tasks.

    client (your notebook or script)
      keeper            waits for the client's end, then ends everything below and removes the folder
        controller      ipyparallel's, with its sockets towards the client on 127.0.0.1
        nursery         goes to the private network, imports TensorFlow once, forks
          ps:0, worker:0, ...   each an ipyparallel engine with a TensorFlow server

TensorFlow takes seconds to import and a forked task has it at once. Forking is safe as long as the nursery itself
makes no session, server or device: TensorFlow's worker threads start with those, and threads do not survive a fork.

Everything here runs in the child processes; ``processes.py`` is the client's side. They talk in lines of JSON over a
socket pair: requests ``start`` and ``kill``; events ``started``, ``exited`` and ``failed``.
"""

import contextlib
import copy
import ctypes
import gc
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import namedtuple
from importlib import import_module
from importlib.util import find_spec

from mnistdist.cluster._ipyparallel import run_engine
from mnistdist.cluster.network import enter_private_network

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36

OwnTask = namedtuple("OwnTask", "job index spec server")

# What a task knows of itself; set in a forked task only. Its engine's namespace has a copy, which is the reader's.
_own_task = None


def own_task():
    """The task that this process is: its job and index, the addresses of all by job, and its server or None."""
    return _own_task


def identity():
    """``(job, index, pid)`` of the task that this process is; the client asks each engine who it is."""
    return _own_task.job, _own_task.index, os.getpid()


def _prctl(option, value):
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _die_with(parent, fatal=signal.SIGKILL):
    """Have the kernel end this process with its parent. Where it can't (macOS), the keeper's group kill serves."""
    _prctl(_PR_SET_PDEATHSIG, fatal)
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)


@contextlib.contextmanager
def _child_exits():
    """A file descriptor that becomes readable when a child has ended."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield read
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(read)
        os.close(write)


def _drain(fd):
    with contextlib.suppress(BlockingIOError):
        while os.read(fd, 4096):
            pass


def _reap():
    """``(pid, returncode)`` of every child that has ended and was not yet waited for."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, os.waitstatus_to_exitcode(status)


# ------------------------------------------------------------------------------------------------ keeper


def main():
    """Entry of the keeper: its argument is a JSON object (see ``Processes._launch``), its stdin the client's life."""
    settings = json.loads(sys.argv[1])
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    over, group = [], 0  # it is over when the client says so; by SIGTERM, too
    signal.signal(signal.SIGTERM, lambda *_: over.append(True))
    client, keeper = os.getppid(), os.getpid()

    def join_group(fatal=signal.SIGKILL):
        os.setpgid(0, group)
        _die_with(keeper, fatal)

    try:
        with _child_exits() as exits:
            with open(os.path.join(settings["folder"], "controller.log"), "wb") as log:
                controller = subprocess.Popen(
                    settings["controller"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    preexec_fn=join_group,
                )
            group = controller.pid
            nursery = os.fork()
            if nursery == 0:
                _run_forked(lambda: (join_group(signal.SIGTERM), _nursery(settings)))
            os.close(settings["socket"])
            selector = selectors.DefaultSelector()
            selector.register(0, selectors.EVENT_READ)
            selector.register(exits, selectors.EVENT_READ)
            # The client is gone when its end of stdin is closed, or when this process has got another parent (a copy
            # of that end may live on in a process that the client forked). Losing the controller or the nursery ends
            # the cluster too; other children are what tasks have left behind, and may end when they like.
            while os.getppid() == client and not over:
                ready = {key.fd for key, _ in selector.select(timeout=1)}
                _drain(exits)
                if 0 in ready:
                    over.append(True)
                elif exits in ready and {controller.pid, nursery} & {pid for pid, _ in _reap()}:
                    break
    finally:
        _end_group(group)
        if over or os.getppid() != client:  # else the client has to read why, and removes the folder itself
            shutil.rmtree(settings["folder"], ignore_errors=True)


def _end_group(group):
    """SIGKILL the group until nothing of it is left: what its members started meanwhile included."""
    while group:
        try:
            os.killpg(group, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # macOS says EPERM of a group of zombies
            break
        list(_reap())
        time.sleep(0.005)


def _run_forked(body):
    """Run the body of a forked child and never return into the parent's code."""
    signal.set_wakeup_fd(-1)  # the pipe is the parent's: news of this process's own children are not for it
    status = 1
    try:
        body()
        status = 0
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else 1
    except BaseException as error:  # its only way out is the log
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


# ----------------------------------------------------------------------------------------------- nursery


def _nursery(settings):
    """Import TensorFlow once; then fork and reap tasks as the client asks, until the client's socket closes."""
    # A killed keeper takes the controller along, but not what that has started: the whole group does.
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    channel = socket.socket(fileno=settings["socket"])
    nursery = os.getpid()

    def tell(event, **content):
        with contextlib.suppress(BrokenPipeError):
            channel.sendall(json.dumps({"event": event, **content}).encode() + b"\n")

    redirect_output(os.path.join(settings["folder"], "nursery.log"))
    try:
        if settings["private_hosts"] is not None:
            enter_private_network(settings["private_hosts"])
        _preload()
    except BaseException as error:
        tell("failed", reason=f"{type(error).__name__}: {error}")
        raise

    tasks = {}  # pid -> (job, index)
    with _child_exits() as exits:
        selector = selectors.DefaultSelector()
        selector.register(channel, selectors.EVENT_READ)
        selector.register(exits, selectors.EVENT_READ)
        received = b""
        while True:
            ready = {key.fd for key, _ in selector.select()}
            if exits in ready:
                _drain(exits)
                for pid, code in _reap():
                    if pid in tasks:
                        job, index = tasks.pop(pid)
                        tell("exited", job=job, index=index, pid=pid, returncode=code)
            if channel.fileno() in ready:
                chunk = channel.recv(65536)
                if not chunk:
                    return
                *lines, received = (received + chunk).split(b"\n")
                for line in lines:
                    request = json.loads(line)
                    if request["do"] == "start":
                        pid = os.fork()
                        if pid == 0:
                            selector.close()
                            channel.close()
                            _run_forked(lambda request=request: _become_task(settings, request, nursery))
                        tasks[pid] = request["job"], request["index"]
                        tell("started", job=request["job"], index=request["index"], pid=pid)
                    elif request["pid"] in tasks:  # not reaped yet, so the pid is still the task's
                        os.kill(request["pid"], request["signal"])


def _preload():
    """Import what every task needs. Nothing here may make a device, a session, a server or a socket."""
    gc.disable()  # nothing to collect yet, and a tenth of the time to look for it
    # TensorFlow imports Keras early, a quarter of its time, unless Keras is to be the separate tf_keras; the choice
    # is made again when Keras is first used. So a task that uses Keras has it all the same.
    early = "TF_USE_LEGACY_KERAS" not in os.environ and find_spec("tf_keras") is None
    if early:
        os.environ["TF_USE_LEGACY_KERAS"] = "1"
    for name in ("ipykernel.kernelapp", "ipyparallel.engine.app", "tensorflow.compat.v1", "mnistdist.training.client"):
        import_module(name)
    if early:
        del os.environ["TF_USE_LEGACY_KERAS"]
    gc.freeze()  # keeps the collector from touching, and so copying, the pages that tasks share
    gc.enable()


def redirect_output(path):
    """Point this process's stdout and stderr, C++ included, to the file ``path`` (appended)."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


# -------------------------------------------------------------------------------------------------- task


def _become_task(settings, request, nursery):
    """Turn a forked copy of the nursery into one task: environment, cores, server, engine. Never returns."""
    global _own_task
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _die_with(nursery)
    job, index = request["job"], request["index"]
    redirect_output(os.path.join(settings["folder"], f"{job}-{index}.log"))
    os.environ.update(request["env"])
    if request["cores"] and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, request["cores"])

    import numpy as np
    import tensorflow.compat.v1 as tf

    np.random.seed()  # or all tasks would draw the same numbers: the generator's state was forked too
    tf.disable_v2_behavior()
    namespace = {"job_name": job, "task_index": index, "cluster_spec": copy.deepcopy(settings["spec"])}
    server = None
    if settings["servers"]:
        from mnistdist.training.session import server_config

        spec = tf.train.ClusterSpec(settings["spec"])
        namespace["server"] = server = tf.train.Server(spec, job, index, config=server_config())
    _own_task = OwnTask(job, index, settings["spec"], server)
    run_engine(settings["folder"], request["engine"], namespace)
