"""Three tasks of one of the book's programs at the classic text's addresses, in a network of this process's own.

    python -m tests.book.program_runs FOLDER PROGRAM [--flag=value ...] -- [STEP:TASK ...]

When worker 0's global step has passed STEP, TASK (ps:0, worker:0, worker:1) is killed and started again; -TASK is not
started again, and is not there from the beginning if STEP is 0. Prints the exit status of each task as JSON; its lines
are in FOLDER/TASK.
"""

import contextlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path

from mnistdist.cluster.network import enter_private_network

ADDRESSES = ["192.168.233.201", "192.168.233.202", "192.168.233.203"]
TASKS = ["ps:0", "worker:0", "worker:1"]


def main(folder, program, *words):
    enter_private_network(ADDRESSES)
    flags, faults = words[: words.index("--")], [word.split(":", 1) for word in words[words.index("--") + 1 :]]
    running = {}

    def start(task):
        job, index = task.split(":")
        command = [sys.executable, program, f"--job_name={job}", f"--task_index={index}", *flags]
        with open(Path(folder, task), "a") as log:
            running[task] = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    absent = [task[1:] for step, task in faults if step == "0"]
    for task in TASKS:
        if task not in absent:
            start(task)
    for step, task in faults:
        if step == "0":
            continue
        wait_for_step(folder, running, int(step))
        end = running.pop(task.lstrip("-"))
        end.kill()
        end.wait()
        if not task.startswith("-"):
            time.sleep(1)
            start(task)
    for task in sorted(running, reverse=True):  # the workers first, because a ps ends after them
        with contextlib.suppress(subprocess.TimeoutExpired):
            running[task].wait(120 if task.startswith("worker") else 10)
    print(json.dumps({task: process.poll() for task, process in running.items()}))
    for process in running.values():
        process.kill()
        process.wait()


def wait_for_step(folder, running, step):
    """Returns when the newest checkpoint of the chief is of this step or a later one."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        found = [
            int(match[1]) for name in Path(folder).glob("train/*.index") if (match := re.search(r"-(\d+)\.", name.name))
        ]
        if max(found, default=0) >= step:
            return
        if any(process.poll() is not None for process in running.values()):
            sys.exit(
                "a task has ended by itself before it was killed: " + str({t: p.poll() for t, p in running.items()})
            )
        time.sleep(0.1)
    sys.exit(f"no checkpoint of step {step} within 90 s")


if __name__ == "__main__":
    main(*sys.argv[1:])
