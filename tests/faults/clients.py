"""A client that starts a cluster, trains and stops, and is killed in the midst: no process of its may be left."""

import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
import time
import uuid

from mnistdist._wait import poll
from tests.faults.contained import MARK, Hang, Orphans, end_rest

PHASES = ("start-up", "training", "stop")
ENDED = "after its end"
CLIENT = """
from mnistdist import Cluster, train
with Cluster(ps=1, workers=2) as cluster:
    print("Training begins", flush=True)
    train(cluster, steps=300)
    print("Training ends", flush=True)
"""


def _client(form, folder):
    """The command that starts a cluster, trains and stops: a notebook's client, or the launcher of the program."""
    if form == "cluster":
        return [sys.executable, "-c", CLIENT]
    return [sys.executable, "-m", "mnistdist", "run", "--train_steps=300", f"--data_dir={folder}"]


class _Running:
    """A client that runs; ``phase`` is what it is in the midst of."""

    def __init__(self, form):
        self._folder = tempfile.TemporaryDirectory()
        self._out = tempfile.TemporaryFile("w+")  # noqa: SIM115 (end() closes it)
        self.mark = uuid.uuid4().hex
        pipes = {"stdin": subprocess.DEVNULL, "stdout": self._out, "stderr": self._out}
        self.process = subprocess.Popen(_client(form, self._folder.name), env=os.environ | {MARK: self.mark}, **pipes)

    @property
    def phase(self):
        if self.process.poll() is not None:
            return ENDED
        return "stop" if "Training ends" in self.said else "training" if "Training begins" in self.said else "start-up"

    @property
    def said(self):
        self._out.seek(0)
        return self._out.read()

    def wait_for(self, phase, limit=120):
        """Wait until the client is in this phase, or a later one."""
        order = [*PHASES, ENDED]
        if not poll(limit, lambda: order.index(self.phase) >= order.index(phase), 0.01):
            raise Hang(f"expected that the client gets from {self.phase} to {phase} within {limit} s:\n{self.said}")

    def end(self):
        """Kill the client; returns how many of its processes are there 10 s later, which are then killed too."""
        self.process.kill()
        self.process.wait()
        left = end_rest(self.mark)
        self._folder.cleanup()
        self._out.close()
        return len(left)


def client_seconds(form):
    """How long each of PHASES takes when nobody kills the client."""
    client, begin, seconds = _Running(form), time.monotonic(), {}
    try:
        for phase, following in itertools.pairwise([*PHASES, ENDED]):
            client.wait_for(following)
            begin, seconds[phase] = time.monotonic(), time.monotonic() - begin
        assert client.process.returncode == 0, client.said
        return seconds
    finally:
        client.end()


def kill_client(form, phase, after):
    """Kill a client so many seconds after a phase began; returns {"seconds": until all its processes had ended, ...}.

    Raises:
        Hang: the phase did not begin.
        Orphans: some were there 10 s later.
    """
    client = _Running(form)
    try:
        client.wait_for(phase)
        with contextlib.suppress(subprocess.TimeoutExpired):
            client.process.wait(after)
        phase, killed = client.phase, time.monotonic()
    finally:
        left = client.end()
    if left:
        raise Orphans(f"killed in {phase}, {after:.2f} s after it began: expected no process 10 s later, got {left}")
    return {"after": after, "phase": phase, "seconds": time.monotonic() - killed}
