"""The processes of one peer: started together, in a network of their own, and ended together, however a run ends.

:func:`run_tasks` starts a keeper. The keeper enters the private network and starts the peer's tasks, each a Python
process of its own (``peer_tasks.py``), which writes what it measured to a file and then waits. Once all that are to
report have done so, the keeper ends them. Nobody ends by himself before, so no task loses another one in its
last round. All of them read a pipe whose other end is held by the caller alone: if he ends, however, they end.
"""

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from mnistdist.cluster.network import enter_private_network, listing_addresses, loopback_addresses, parse_address
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
    addresses = listing_addresses if private else loopback_addresses
    spec = {job: names for job, names in addresses(ps, 2).items() if names}
    tasks = [(job, index) for job, names in spec.items() for index in range(len(names))]
    if coordinator:
        tasks.append(("coordinator", 0))
    reporting = [task for task in tasks if task[0] == ("coordinator" if coordinator else "worker")]
    settings |= {"peer": peer, "spec": spec, "private": private, "tasks": tasks, "reporting": reporting}
    # A proxy that is set for the web would catch the tasks' gRPC connections too, and hang them.
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= PLAIN | {"TF_CPP_MIN_LOG_LEVEL": environment.get("TF_CPP_MIN_LOG_LEVEL", "1")}
    with tempfile.TemporaryDirectory(prefix="mnistdist-peer-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "settings.json").write_text(json.dumps(settings))
        with open(folder / "keeper.log", "wb") as log:
            keeper = subprocess.Popen(
                [sys.executable, "-m", "book.experiments.peer_processes", str(folder)],
                stdin=subprocess.PIPE,
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
            if keeper.poll() is None:  # time is up, or the caller is interrupted
                os.killpg(keeper.pid, signal.SIGKILL)
            keeper.stdin.close()
            keeper.wait()
        if status:
            raise RuntimeError(f"{peer}: {(folder / 'keeper.log').read_text(errors='replace').strip()}")
        return {task: pickle.loads(_report(folder, *task).read_bytes()) for task in reporting}


def report(folder, job, index, result):
    """Hand over, in a task, what it measured: anything that can be pickled."""
    path = _report(Path(folder), job, index)
    path.with_suffix(".part").write_bytes(pickle.dumps(result))
    path.with_suffix(".part").replace(path)  # the keeper sees all of it or nothing


def end_with_caller():
    """End this process as soon as the pipe that is its stdin has no other end."""

    def watch():
        with contextlib.suppress(OSError):
            os.read(0, 1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


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
        enter_private_network([parse_address(address)[0] for names in spec.values() for address in names])
    end_with_caller()
    workers = len(spec["worker"])
    pins = assign(ps=1, workers=workers, devices="cpu", gpus=[], cores=available_cores())
    processes = {}
    try:
        for job, index in settings["tasks"]:
            pin = pins[job, index] if job == "worker" else pins["ps", 0]
            with open(folder / f"{job}-{index}.log", "wb") as log:
                processes[job, index] = subprocess.Popen(
                    [sys.executable, "-m", "book.experiments.peer_tasks", str(folder), job, str(index)],
                    stdout=log,
                    stderr=log,
                    env=os.environ | dict(pin.env),
                )
            if hasattr(os, "sched_setaffinity"):
                with contextlib.suppress(ProcessLookupError):  # it has ended already, and says why
                    os.sched_setaffinity(processes[job, index].pid, pin.cores)
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
