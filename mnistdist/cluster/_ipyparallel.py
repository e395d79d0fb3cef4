"""What a cluster's tasks need of ipyparallel beyond its defaults: engines in a forked process, their end, magics.

Its launchers are not used: an engine of theirs is a program of its own, which imports TensorFlow anew, is in no network
but the machine's, and outlives a client that is killed.
"""

import contextlib
import json
import logging
import os
import sys

from mnistdist._wait import poll


def main():
    """Entry of the controller's process: ipyparallel's own, set up by its command line alone."""
    _ignore_configuration()
    from ipyparallel.controller.app import IPController

    IPController.launch_instance()


def _ignore_configuration():
    """Hide the machine's IPython configuration and start-up files from this process: they could open every door.

    The user's own are out of sight already, because ``Processes`` gives IPython a folder of the cluster's.
    """
    from IPython.core import application

    application.SYSTEM_CONFIG_DIRS.clear()
    application.ENV_CONFIG_DIRS.clear()


def run_engine(folder, engine_id, namespace):
    """Make this process an ipyparallel engine with the given id and namespace; returns when the engine ends."""
    from ipykernel.iostream import OutStream
    from ipyparallel.engine.app import IPEngine
    from traitlets.config import Config

    class PythonOutput(OutStream):
        """What Python prints is the cell's; what TensorFlow's C++ writes stays in the task's log."""

        def __init__(self, *args, **settings):
            super().__init__(*args, **settings, watchfd=False)

    _ignore_configuration()
    config = Config()
    config.IPKernelApp.exec_PYTHONSTARTUP = False
    config.IPEngine.out_stream_factory = PythonOutput
    config.IPEngine.enable_nanny = False  # the nursery watches the task, and says when it has ended
    config.IPEngine.max_heartbeat_misses = 0  # the keeper watches the controller
    config.IPEngine.url_file = link_engine_sockets(folder)
    config.IPEngine.timeout = 30
    config.ProfileDir.location = os.path.join(folder, "profile")
    config.HistoryManager.enabled = False
    config.IPEngine.log_level = logging.ERROR  # the log is the task's, not the engine's
    engine = IPEngine.instance(config=config, id=engine_id, user_ns=namespace)
    engine.initialize([])
    engine.start()


def link_engine_sockets(folder):
    """Path of the engines' connection file, with the Unix sockets it names made reachable.

    ipyparallel 9.2 binds them as ``PATH-PORT`` and connects to ``PATH:PORT``; a link from one to the other serves.
    """
    path = engines_file(folder)
    info = poll(60, lambda: read_connection_file(path), 0.02)  # the controller starts beside the import
    if info is None:
        raise TimeoutError("the controller wrote no connection file within 60 s")
    base = info["interface"].removeprefix("ipc://")
    for port in engine_ports(info):
        with contextlib.suppress(FileExistsError):
            os.symlink(f"{base}-{port}", f"{base}:{port}")
    return path


def engines_file(folder):
    """Path of the file with which engines connect, which the controller writes."""
    return os.path.join(folder, "profile", "security", "ipcontroller-engine.json")


def engine_ports(info):
    """The numbers of the sockets in the content of that file."""
    values = [port for value in info.values() for port in (value if isinstance(value, list) else [value])]
    return [port for port in values if isinstance(port, int)]


def read_connection_file(path):
    """What the controller has written there; None if it has not come so far, or is half-way through."""
    with contextlib.suppress(OSError, json.JSONDecodeError), open(path) as file:
        return json.load(file)


def unregister(info, engine):
    """Tell the hub that an engine has ended, so that whoever waits for its answer hears of it at once.

    ``info`` is the content of the client's connection file. An engine's nanny would say so, at the cost of a process a
    task and half of the time that a restart takes; heartbeats would tell later, and take a paused task for a dead one.
    """
    import zmq
    from jupyter_client.session import Session

    key, scheme = info["key"].encode(), info["signature_scheme"]
    session = Session(key=key, signature_scheme=scheme, packer=info["pack"], unpacker=info["unpack"])
    # If the hub can't be told (no file descriptor is left, say), news of other tasks are to be heard all the same.
    with contextlib.suppress(zmq.ZMQError), zmq.Context.instance().socket(zmq.DEALER) as hub:
        hub.linger = 1000
        hub.connect(f"{info['interface']}:{info['registration']}")
        session.send(hub, "unregistration_request", content={"id": engine})


def connect(info, check, **options):
    """An ``ipyparallel.Client`` that has ``check(engines)`` raise what is wrong with them before it sends anything.

    ipyparallel itself says ``KeyError: '0'`` of an engine that has gone. All views, magics and maps, however old, have
    their targets translated by the one method that is wrapped here. ``check(None)`` is about every engine.
    """
    import ipyparallel

    elsewhere = os.environ.pop("IPP_CURVE_SERVERKEY", None)  # the key of another controller's
    try:
        client = ipyparallel.Client(info, **options)
    finally:
        if elsewhere is not None:
            os.environ["IPP_CURVE_SERVERKEY"] = elsewhere
    translate = client._build_targets

    def translate_checked(targets):
        if not isinstance(targets, slice):  # which is one of the engines that are there
            check({int: [targets], str: None}.get(type(targets), targets))
        return translate(targets)

    client._build_targets = translate_checked
    return client


def forget_engines(client):
    """Take it that all engines have ended, where no hub is left to say so: whoever waits for an answer hears of it."""
    with contextlib.suppress(RuntimeError):  # its loop has ended
        for engine in client.ids:
            client._io_loop.add_callback(client._unregister_engine, {"content": {"id": engine}})


def activate_magics(views):
    """Define ``%%px`` magics for views, by suffix, where this is IPython: ``{"_ps": view}`` makes ``%%px_ps``."""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None or sys.flags.optimize > 1:  # IPython's magics are made of docstrings, which -OO takes away
        return
    from ipyparallel.client.magics import ParallelMagics

    for suffix, view in views.items():
        magics = ParallelMagics(shell, view, suffix)
        magics.progress_after_seconds = -1  # no progress bar in a page
        magics.signal_on_interrupt = None  # TensorFlow does not hear SIGINT: Cluster.restart() is the way out
        magics.stream_output = False  # all output at the cell's end, in the order of the tasks
        shell.register_magics(magics)
        shell.configurables.remove(magics)  # where it would be kept, and with it a cluster that has stopped
