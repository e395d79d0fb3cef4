"""One fault in a training that runs: ``python -m tests.faults.cells FORM ROLE FAULT MODE`` prints what came of it.

The training is one of a ps and two workers, in which one task is killed for good, paused for ten seconds, or killed and
started again; as three processes of the program or on a `Cluster`; asynchronous or synchronous. It has to go on, or to
end with an error that says why, within a limit of time, and to leave no process behind. Each cell is a process of its
own in a private network, so that nothing of one reaches the next.
"""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from mnistdist._wait import poll
from tests.faults.contained import Hang, contained

FORMS = ("program", "cluster")
ROLES = {"worker": ("worker", 1), "chief": ("worker", 0), "ps": ("ps", 0)}
FAULTS = ("kill", "pause", "restart")
MODES = ("async", "sync")
PAUSE = 10  # seconds
SAVE_STEPS = 200
FAULT_AT = 550  # global step: in the middle between two checkpoints, which are begun every 160 or so
WAIT = {"kill": 30, "pause": 60, "restart": 60}  # seconds that the tasks may wait, for each other at start-up too
CELL_LIMIT = 240  # seconds for one cell, under load too: everything in it has a limit of its own
STEP_LINE = re.compile(r"(\d+\.\d+): Worker (\d): training step \d+ done \(global step: (\d+)\)")


def cells():
    """All of the matrix, as (form, role, fault, mode)."""
    return list(itertools.product(FORMS, ROLES, FAULTS, MODES))


def run_cell(form, role, fault, mode):
    """Provoke one fault in a process of its own; returns its outcome as a dict.

    ``seconds``: the longest time without a step of anybody after the fault, or the time to the error; ``error``: its
    message, or "" when training went on to its end; ``lost``: global steps that the parameters went back, None where
    the training ended with an error.

    Raises:
        AssertionError: what happened is not what has to happen; the message says both.
    """
    return contained([sys.executable, "-m", "tests.faults.cells", form, role, fault, mode], CELL_LIMIT)


def longest_stall(begin, times):
    """The longest time without a step, in seconds, from ``begin`` on."""
    later = sorted(when for when in times if when > begin)
    return max((b - a for a, b in itertools.pairwise([begin, *later])), default=0.0)


def steps_lost(steps, begin):
    """How far the global step went back at ``begin``, of (time, worker, global step) in the order of each worker's.

    It went back if it did so for any worker: between workers, the later of two steps may be noted first.
    """
    own = {}
    for _, worker, step in steps:
        own.setdefault(worker, []).append(step)
    if not any(later < earlier for each in own.values() for earlier, later in itertools.pairwise(each)):
        return 0
    before = max((step for when, _, step in steps if when <= begin), default=0)
    return max(before - min((step - 1 for when, _, step in steps if when > begin), default=before), 0)


class _Program:
    """Three processes of the program; their lines, with the time at which each was read."""

    def __init__(self, folder, role, fault, mode):
        spec = {"ps": ["127.0.0.1:2222"], "worker": ["127.0.0.1:2223", "127.0.0.1:2224"]}
        self._flags = [f"--{job}_hosts={','.join(addresses)}" for job, addresses in spec.items()]
        self._flags += [
            f"--data_dir={folder}/data",
            f"--train_steps={steps_of(role, fault, mode)}",
            f"--wait_timeout={WAIT[fault]}",
        ]
        self._flags += ["--log_every=1", "--ps_linger=10", f"--sync_replicas={mode == 'sync'}", "--seed=1"]
        if fault == "restart":
            self._flags += [f"--logdir={folder}/log", f"--save_steps={SAVE_STEPS}"]
        self.lines = {task: [] for task in (("ps", 0), ("worker", 0), ("worker", 1))}
        self.processes, self.readers = {}, []
        for task in self.lines:
            self.start(task)

    def start(self, task):
        job, index = task
        command = [sys.executable, "-u", "-m", "mnistdist.distributed", f"--job_name={job}", f"--task_index={index}"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        process = self.processes[task] = subprocess.Popen([*command, *self._flags], **pipes)
        self.readers.append(threading.Thread(target=self._read, args=(task, process.stdout), daemon=True))
        self.readers[-1].start()

    def _read(self, task, pipe):
        for line in pipe:
            self.lines[task].append((time.time(), line.rstrip()))

    def wait(self, tasks):
        """Exit statuses, when these have ended and all that they wrote has been read."""
        statuses = {}
        for task in tasks:
            try:
                statuses[task] = self.processes[task].wait(timeout=150)
            except subprocess.TimeoutExpired:
                raise Hang(f"expected that {task} ends within 150 s:\n{self.everything()}") from None
        if len(tasks) == len(self.processes):
            for reader in self.readers:
                reader.join(10)
        return statuses

    def wait_until_under_way(self, seconds):
        """Wait for steps of both workers, and as many as the fault comes after."""

        def under_way():
            ended = [each for each, process in self.processes.items() if process.poll() is not None]
            assert not ended, f"expected a training, but {ended} ended before the fault:\n{self.everything()}"
            steps = self.steps()
            return {0, 1} == {worker for _, worker, _ in steps} and max(step for *_, step in steps) >= FAULT_AT

        if not poll(seconds, under_way):
            what = f"expected steps of both workers, and {FAULT_AT} in all, within {seconds} s"
            raise Hang(f"{what}:\n{self.everything()}")

    def said(self, task):
        """All lines of a task, as one string."""
        return "\n".join(line for _, line in self.lines[task])

    def steps(self):
        """(time, worker, global step) of every step that was told."""
        found = (STEP_LINE.match(line) for lines in self.lines.values() for _, line in list(lines))
        return [(float(match[1]), int(match[2]), int(match[3])) for match in found if match]

    def everything(self):
        """The last lines of every task."""
        return "\n".join(f"-- {task}\n{self.said(task)[-800:]}" for task in self.lines)


def program_cell(role, fault, mode):
    """A fault in three processes of the program; returns its outcome, see :func:`run_cell`."""
    from mnistdist.cluster.network import enter_private_network

    enter_private_network()
    task = ROLES[role]
    with tempfile.TemporaryDirectory() as folder:
        program = _Program(folder, role, fault, mode)
        try:
            program.wait_until_under_way(90)
            at = time.time()
            _provoke(lambda number: program.processes[task].send_signal(number), fault)
            if fault != "pause":
                program.processes[task].wait()
            if fault == "restart":
                program.start(task)
            return _program_outcome(program, role, fault, mode, at)
        finally:
            for process in program.processes.values():
                process.kill()


def _provoke(send, fault):
    if fault == "pause":
        send(signal.SIGSTOP)
        time.sleep(PAUSE)
        send(signal.SIGCONT)
    else:
        send(signal.SIGKILL)


def _program_outcome(program, role, fault, mode, at):
    task = ROLES[role]
    left = [each for each in program.processes if fault != "kill" or each != task]
    statuses = program.wait(left)
    if fault == "kill" and (role == "ps" or mode == "sync"):
        cause = "ps:0 at 127.0.0.1:2222 has gone" if role == "ps" else "a step was not done in time"
        assert set(statuses.values()) == {1}, f"expected that all end with 1, got {statuses}:\n{program.everything()}"
        workers = [each for each in left if each[0] == "worker"]
        for each in workers:
            last = program.lines[each][-1][1]
            assert f"error: {cause}" in last, f"expected {cause!r} in the last line, got:\n{program.everything()}"
            assert "Traceback" not in program.said(each), program.said(each)
        when, line = max(program.lines[each][-1] for each in workers)
        return {"seconds": when - at, "error": line.partition("error: ")[2], "lost": None}
    assert not any(statuses.values()), f"expected that all end with 0, got {statuses}:\n{program.everything()}"
    if fault == "restart" and role != "ps":
        trained_again = program.said(task).count("Training begins") == 2
        assert trained_again, f"expected that {task} trains again, got:\n{program.everything()}"
        assert STEP_LINE.search(program.said(task), program.said(task).rindex("Training begins")), (
            f"expected steps of {task} after it was started again, got:\n{program.everything()}"
        )
    told = re.findall(r"global step \d+: (\d+) steps are lost", program.said(("worker", 0)))
    steps = program.steps()
    lost = max(steps_lost(steps, at), *map(int, told), 0)
    return _went_on(
        {"seconds": longest_stall(at, [when for when, *_ in steps]), "error": "", "lost": lost},
        steps,
        steps_of(role, fault, mode),
    )


def steps_of(role, fault, mode):
    """How many steps a training has: the fault is over before the last one, even if a worker came seconds late."""
    if mode == "sync":
        return 2500
    if role == "ps" or fault == "kill":
        return 4000
    return {"pause": 15_000, "restart": 8000}[fault]  # meanwhile the other worker goes on


def _went_on(outcome, steps, expected):
    reached = max(step for *_, step in steps)
    assert reached >= expected, f"expected {expected} steps at the end, got {reached}"
    lost = outcome["lost"]
    assert lost <= SAVE_STEPS, f"expected that at most {SAVE_STEPS} steps are lost, got {lost}"
    return outcome


def cluster_cell(role, fault, mode):
    """A fault in a training on a `Cluster`; returns its outcome, see :func:`run_cell`."""
    from mnistdist import Cluster, TaskFailed, train
    from mnistdist.training.spec import STEPS_PER_RUN

    job, index = ROLES[role]
    with tempfile.TemporaryDirectory() as folder, Cluster(ps=1, workers=2) as cluster:
        signs = Path(folder, "signs")
        pid = next(task.pid for task in cluster.tasks if (task.job, task.index) == (job, index))
        done = threading.Event()
        fault_times = []

        def provoke():
            while not all(signs.with_suffix(f".{worker}").exists() for worker in (0, 1)) and not done.wait(0.02):
                pass
            if not done.is_set():
                fault_times.append(time.monotonic())
                _provoke(lambda number: os.kill(pid, number), fault)

        def on_step(record, path=str(signs), at=FAULT_AT):
            if record.global_step_after >= at:
                open(f"{path}.{record.worker}", "a").close()

        thread = threading.Thread(target=provoke)
        thread.start()
        options = {"logdir": Path(folder, "log"), "save_steps": SAVE_STEPS, "restarts": 1} if fault == "restart" else {}
        error, run = None, None
        try:
            run = train(
                cluster,
                steps=steps_of(role, fault, mode),
                sync=mode == "sync",
                seed=1,
                on_step=on_step,
                steps_per_run=STEPS_PER_RUN,
                step_timeout=WAIT[fault],
                **options,
            )
        except TaskFailed as failure:
            error, when = failure, time.monotonic()
        finally:
            done.set()
            thread.join()
        assert fault_times, "expected a fault during the training, got none"
        if fault == "kill":
            assert error is not None, f"expected TaskFailed, got {run}"
            assert (error.task, "SIGKILL" in error.reason) == (f"{job}:{index}", True), str(error)
            assert train(cluster, steps=50, seed=1).global_step >= 50  # the cluster can be used again
            return {"seconds": when - fault_times[0], "error": str(error).splitlines()[0], "lost": None}
        if error is not None:
            raise error
        records = [record for result in run.results for record in result.steps]
        steps = [(record.end, record.worker, record.global_step_after) for record in records]
        lost = steps_lost(steps, fault_times[0])
        stall = longest_stall(fault_times[0], [when for when, *_ in steps])
        if job == "worker":
            own = [when for when, worker, _ in steps if worker == index and when > fault_times[0]]
            assert own, f"expected steps of {job}:{index} after its {fault}, got none"
        return _went_on({"seconds": stall, "error": "", "lost": lost}, steps, steps_of(role, fault, mode))


if __name__ == "__main__":
    form, *cell = sys.argv[1:]
    print(json.dumps({"program": program_cell, "cluster": cluster_cell}[form](*cell)), flush=True)
    os._exit(0)  # its pipes' readers, and sessions whose other side has gone, are not waited for
