"""Commands whose processes are all known, and what goes wrong with them: they do not end, or leave one behind."""

import contextlib
import json
import os
import subprocess
import tempfile
import uuid
from pathlib import Path

import psutil

from mnistdist._wait import poll
from mnistdist.errors import PLAIN

MARK = "MNISTDIST_FAULT"


class Hang(AssertionError):
    """Something did not end in its time."""


class Orphans(AssertionError):
    """A process was left behind."""


def contained(command, limit):
    """Run a command that prints JSON in its last line, with a mark by which every process it leaves is found."""
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory(prefix="mnistdist-fault-") as folder, open(f"{folder}/out", "w+") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | PLAIN | {MARK: mark},
            cwd=Path(__file__).resolve().parents[2],
        )
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            process.kill()
            status = None
        finally:
            left = end_rest(mark)
        out.seek(0)
        said = out.read()
    name = " ".join(command[3:])
    if status is None or f"{Hang.__name__}: " in said:
        ended = f"got none within {limit} s" if status is None else f"got {status}"
        raise Hang(f"{name}: expected exit status 0, {ended}:\n{said[-3000:]}")
    if left:
        orphans = [" ".join(each.info["cmdline"] or [])[:80] for each in left]
        raise Orphans(f"{name}: expected no process left, got {orphans}")
    assert status == 0, f"{name}: expected exit status 0, got {status}:\n{said[-3000:]}"
    return json.loads(said.splitlines()[-1])


def end_rest(mark, seconds=10):
    """End the processes with this mark that are still there after so many seconds; returns them."""
    poll(seconds, lambda: not _marked(mark), 0.1)
    left = _marked(mark)
    for each in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    return left


def _marked(mark):
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        with contextlib.suppress(psutil.Error):
            if process.info["status"] != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                found.append(process)
    return found


def tried(function, *arguments):
    """What a function returns, with "failed": "", or why it raised AssertionError, beginning with the error's name."""
    try:
        return function(*arguments) | {"failed": ""}
    except AssertionError as problem:
        return {"seconds": None, "lost": None, "error": "", "failed": f"{type(problem).__name__}: {problem}"}
