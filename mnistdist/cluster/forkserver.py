"""The fork server of a cluster (its nursery, in messages and logs): it imports TensorFlow once, and forks the tasks.

TensorFlow takes seconds to import, and a forked task has it at once. Forking is safe as long as the fork server itself
makes no session, server or device, because these start TensorFlow's worker threads, and threads do not survive a fork.
``multiprocessing.forkserver`` can't be used, because a process has only one, and each cluster needs its own, with its
network and its environment.

Requests and events are lines of JSON in the socket whose other end is in ``process_tree.py``.
"""

import contextlib
import functools
import gc
import json
import os
import signal
import socket
from importlib import import_module
from importlib.util import find_spec

from mnistdist.cluster import linux
from mnistdist.cluster.network import enter_private_network
from mnistdist.cluster.task import become_task, redirect_output


def serve(settings):
    """Imports what every task needs, then forks and reaps tasks as the client asks, until its socket closes."""
    # A killed keeper takes the controller along, but not what that has started: the whole group does.
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    channel = socket.socket(fileno=settings["socket"])

    def tell(event, **content):
        with contextlib.suppress(BrokenPipeError):
            channel.sendall(json.dumps({"event": event, **content}).encode() + b"\n")

    redirect_output(os.path.join(settings["folder"], "nursery.log"))
    try:
        if settings["private_hosts"] is not None:
            enter_private_network(settings["private_hosts"])
        _preload(settings["preload"])
    except BaseException as error:
        tell("failed", reason=f"{type(error).__name__}: {error}")
        raise

    forkserver, tasks, received = os.getpid(), {}, b""  # pid -> (job, index); what is there of the next line
    with linux.child_exits(channel) as wait:
        while True:
            asked, ended = wait()
            for pid, code in ended:
                if pid in tasks:
                    job, index = tasks.pop(pid)
                    tell("exited", job=job, index=index, pid=pid, returncode=code)
            if not asked:
                continue
            chunk = channel.recv(65536)
            if not chunk:
                return
            *lines, received = (received + chunk).split(b"\n")
            for request in map(json.loads, lines):
                if request["do"] == "start":
                    pid = os.fork()
                    if pid == 0:
                        channel.close()
                        linux.run_forked(functools.partial(become_task, settings, request, forkserver))
                    tasks[pid] = request["job"], request["index"]
                    tell("started", job=request["job"], index=request["index"], pid=pid)
                elif request["pid"] in tasks:  # not reaped yet, so the pid is still the task's
                    os.kill(request["pid"], request["signal"])


def _preload(modules):
    """Imports what every task needs. Nothing here may make a device, a session, a server or a socket."""
    gc.disable()  # there is nothing to collect yet, and looking for it takes time
    # TensorFlow imports Keras early, which takes time, unless Keras is to be the separate tf_keras. It chooses again
    # when Keras is first used, so a task that uses Keras has it all the same.
    early = "TF_USE_LEGACY_KERAS" not in os.environ and find_spec("tf_keras") is None
    if early:
        os.environ["TF_USE_LEGACY_KERAS"] = "1"
    for name in ("ipykernel.kernelapp", "ipyparallel.engine.app", "tensorflow.compat.v1", *modules):
        import_module(name)
    if early:
        del os.environ["TF_USE_LEGACY_KERAS"]
    gc.freeze()  # keeps the collector from touching, and so copying, the pages that tasks share
    gc.enable()
