"""A task of a cluster: what the client knows about it, and how a forked process becomes it."""

import copy
import os
import signal
from collections import namedtuple
from dataclasses import dataclass

from mnistdist.cluster import linux
from mnistdist.cluster._ipyparallel import run_engine

OwnTask = namedtuple("OwnTask", "job index spec server")

# What a task knows about itself; set in a forked task only. Its engine's namespace has a copy for the reader.
_own_task = None


@dataclass(frozen=True)
class Task:
    """One process of a cluster. Its ``job`` is ``ps`` or ``worker``, and its ``index`` counts from 0.

    ``address`` is host:port, and ``device`` is a name such as ``core 1`` or ``GPU 0``. ``engine`` is the ipyparallel
    engine id: a worker's is its index, and the ps follow. ``pid`` is None for a task that has not come up.

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
        """The job and the index, such as ``worker:0``."""
        return f"{self.job}:{self.index}"


def own_task():
    """The task that this process is: its job and index, the addresses of all by job, and its server or None."""
    return _own_task


def identity():
    """``(job, index, pid)`` of the task that this process is; the client asks each engine for it."""
    return _own_task.job, _own_task.index, os.getpid()


def server_config():
    """The config of a task's server on a shared machine: a thread with nothing to do sleeps.

    By default it would first look for work for a while, on a core that another task could use. The task's environment
    gives the sizes of pools (:mod:`mnistdist.cluster.pinning`).
    """
    import tensorflow.compat.v1 as tf

    return tf.ConfigProto(experimental=tf.ConfigProto.Experimental(disable_thread_spinning=True))


def become_task(settings, request, parent):
    """Turns a forked copy of the fork server into a task with its server and engine; returns when the task ends."""
    global _own_task
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    linux.die_with(parent)
    job, index = request["job"], request["index"]
    redirect_output(os.path.join(settings["folder"], f"{job}-{index}.log"))
    os.environ.update(request["env"])
    linux.keep_to(request["cores"])

    import numpy as np
    import tensorflow.compat.v1 as tf

    np.random.seed()  # or all tasks would draw the same numbers, because the generator's state was forked too
    tf.disable_v2_behavior()
    namespace = {"job_name": job, "task_index": index, "cluster_spec": copy.deepcopy(settings["spec"])}
    server = None
    if settings["servers"]:
        spec = tf.train.ClusterSpec(settings["spec"])
        namespace["server"] = server = tf.train.Server(spec, job, index, config=server_config())
    _own_task = OwnTask(job, index, settings["spec"], server)
    run_engine(settings["folder"], request["engine"], namespace)


def redirect_output(path):
    """Point this process's stdout and stderr, C++ included, to the file ``path`` (appended)."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
