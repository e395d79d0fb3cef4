"""The processes of one peer: started together, in a network of their own, and ended together, however a run ends.

:func:`run_tasks` starts a keeper. The keeper enters the private network and starts the peer's tasks, each a Python
process of its own (``peer_tasks.py``), which writes what it measured to a file and then waits. Once all that are to
report have done so, the keeper ends them. Nobody ends by himself before, so no task loses another one in its
last round. On Linux, the kernel ends the keeper with the caller, and the tasks with the keeper.
"""

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mnistdist.cluster import linux
from mnistdist.cluster.network import enter_private_network, hosts_of, task_addresses, without_proxies
from mnistdist.cluster.pinning import assign, available_cores
from mnistdist.errors import PLAIN, describe_exit

ROOT = Path(__file__).resolve().parents[2]


def run_tasks(peer, *, ps, coordinator, private, timeout, **settings):
    """Run one peer with two workers from start to end.

    Args:
        peer: A name that ``book.experiments.peer_tasks`` knows.
        ps: Number of ps tasks, each with an address.
        coordinator: Whether there is a process that drives the others. It reports then; otherwise all workers do.
        private: Whether the tasks get a network of their own (``mnistdist.cluster.network.private_network_available``).
        timeout: Seconds that all of it may take.
        settings: What else the tasks are to know; JSON.

    Returns:
        What was reported, by ``(job, index)``.

    Raises:
        RuntimeError: A task has ended before time; with its last log lines.
        TimeoutError: The same of all tasks.
    """
    spec = {job: names for job, names in task_addresses(ps, 2, private=private).items() if names}
    tasks = [(job, index) for job, names in spec.items() for index in range(len(names))]
    if coordinator:
        tasks.append(("coordinator", 0))
    reporting = [task for task in tasks if task[0] == ("coordinator" if coordinator else "worker")]
    settings |= {"peer": peer, "spec": spec, "private": private, "tasks": tasks, "reporting": reporting}
    environment = {"TF_CPP_MIN_LOG_LEVEL": "1"} | without_proxies(os.environ) | PLAIN
    with tempfile.TemporaryDirectory(prefix="mnistdist-peer-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "settings.json").write_text(json.dumps(settings))
        with open(folder / "keeper.log", "wb") as log:
            keeper = linux.start(
                [sys.executable, "-m", "book.experiments.peer_processes", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=environment,
                start_new_session=True,  # a Ctrl-C in the terminal is for the caller alone
            )
        try:
            status = keeper.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{peer}: not done within {timeout:g} s\n{_tails(folder)}") from None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says EPERM of a group of zombies
                os.killpg(keeper.pid, signal.SIGKILL)  # and what a peer's runtime has forked
            keeper.wait()
        if status:
            raise RuntimeError(f"{peer}: {(folder / 'keeper.log').read_text(errors='replace').strip()}")
        return {task: pickle.loads(_report(folder, *task).read_bytes()) for task in reporting}


def report(folder, job, index, result):
    """Hand over, in a task, what it measured: anything that can be pickled."""
    path = _report(Path(folder), job, index)
    path.with_suffix(".part").write_bytes(pickle.dumps(result))
    path.with_suffix(".part").replace(path)  # the keeper sees all of it or nothing


def _report(folder, job, index):
    return folder / f"{job}-{index}.pickle"


def _tails(folder, lines=12):
    """The last lines of every log, each under its task's name."""
    parts = []
    for path in sorted(folder.glob("*.log")):
        text = path.read_text(errors="replace").splitlines()[-lines:]
        parts += [f"{path.stem}:", *(f"    {line}" for line in text)] if text else []
    return "\n".join(parts)


def main():
    """Entry of the keeper: its argument is the folder, with ``settings.json``, that it shares with its tasks."""
    folder = Path(sys.argv[1])
    settings = json.loads((folder / "settings.json").read_text())
    spec = settings["spec"]
    if settings["private"]:  # first: a process with a second thread may not
        enter_private_network(hosts_of(spec))
    workers = len(spec["worker"])
    pins = assign(ps=1, workers=workers, devices="cpu", gpus=[], cores=available_cores())
    processes = {}
    try:
        for job, index in settings["tasks"]:
            pin = pins[job, index] if job == "worker" else pins["ps", 0]
            with open(folder / f"{job}-{index}.log", "wb") as log:
                processes[job, index] = linux.start(
                    [sys.executable, "-m", "book.experiments.peer_tasks", str(folder), job, str(index)],
                    cores=pin.cores,
                    stdout=log,
                    stderr=log,
                    env=os.environ | dict(pin.env),
                )
        waiting = [_report(folder, *task) for task in settings["reporting"]]
        while not all(path.exists() for path in waiting):
            for (job, index), process in processes.items():
                if process.poll() is not None:
                    ended = f"{job}:{index} ended with {describe_exit(process.returncode)} before it was done"
                    raise SystemExit(f"{ended}\n{_tails(folder)}")
            time.sleep(0.05)
    finally:
        for process in processes.values():
            process.kill()
        for process in processes.values():
            process.wait()


if __name__ == "__main__":
    main()
