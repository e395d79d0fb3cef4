"""Faults in trainings that run, one by one: what `make faults` provokes, and `make soak` at random.

Each cell of the matrix is a training of one ps and two workers, in which one task is killed for good, paused for ten
seconds, or killed and started again; as three processes of the program or on a `Cluster`; asynchronous or synchronous.
It has to go on, or to end with an error that says why, within a limit of time, and to leave no process behind. Each
cell is a process of its own in a private network, so that nothing of one reaches the next.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

import psutil
from tqdm import tqdm

from book._ext.environment import write_stamped
from mnistdist.errors import PLAIN

FORMS = ("program", "cluster")
ROLES = {"worker": ("worker", 1), "chief": ("worker", 0), "ps": ("ps", 0)}
FAULTS = ("kill", "pause", "restart")
MODES = ("async", "sync")
PAUSE = 10  # seconds
SAVE_STEPS = 200
FAULT_AT = 550  # global step: in the middle between two checkpoints, which are begun every 160 or so
WAIT = {"kill": 30, "pause": 60, "restart": 60}  # seconds that the tasks may wait, for each other at start-up too
CELL_LIMIT = 240  # seconds for one cell, under load too: everything in it has a limit of its own
MARK = "MNISTDIST_FAULT"
STEP_LINE = re.compile(r"(\d+\.\d+): Worker (\d): training step \d+ done \(global step: (\d+)\)")


class Hang(AssertionError):
    """Something did not end in its time."""


class Orphans(AssertionError):
    """A process was left behind."""


def cells():
    """All of the matrix, as (form, role, fault, mode)."""
    return list(itertools.product(FORMS, ROLES, FAULTS, MODES))


# ------------------------------------------------------------------------------------- one cell, from outside


def run_cell(form, role, fault, mode):
    """Provoke one fault in a process of its own; returns its outcome as a dict.

    ``seconds``: the longest time without a step of anybody after the fault, or the time to the error; ``error``: its
    message, or "" when training went on to its end; ``lost``: global steps that the parameters went back, None where
    the training ended with an error.

    Raises:
        AssertionError: what happened is not what has to happen; the message says both.
    """
    return _contained([sys.executable, "-m", "tests.faults.matrix", "cell", form, role, fault, mode], CELL_LIMIT)


def _contained(command, limit):
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
            left = _end_rest(mark)
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


def _end_rest(mark):
    """End the processes with this mark that are still there 10 s later; returns them."""
    left = _await_none(mark, 10)
    for each in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    return left


def _await_none(mark, seconds):
    """The processes with this mark that are there after so many seconds."""
    deadline = time.monotonic() + seconds
    while (left := _marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def _marked(mark):
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        with contextlib.suppress(psutil.Error):
            if process.info["status"] != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                found.append(process)
    return found


# ------------------------------------------------------------------------------------- one cell, from inside


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
            deadline = time.monotonic() + 90
            while not _under_way(program.steps()):
                ended = [each for each, process in program.processes.items() if process.poll() is not None]
                assert not ended, f"expected a training, but {ended} ended before the fault:\n{program.everything()}"
                if time.monotonic() > deadline:
                    raise Hang(
                        f"expected steps of both workers, and {FAULT_AT} in all, within 90 s:\n{program.everything()}"
                    )
                time.sleep(0.05)
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


def _under_way(steps):
    return {0, 1} == {worker for _, worker, _ in steps} and max(step for *_, step in steps) >= FAULT_AT


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
    from mnistdist.training.client import STEPS_PER_RUN

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


# ------------------------------------------------------------------------------------- the client is killed

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
        order, deadline = [*PHASES, ENDED], time.monotonic() + limit
        while order.index(self.phase) < order.index(phase):
            if time.monotonic() > deadline:
                raise Hang(f"expected that the client gets from {self.phase} to {phase} within {limit} s:\n{self.said}")
            time.sleep(0.01)

    def end(self):
        """Kill the client; returns how many of its processes are there 10 s later, which are then killed too."""
        self.process.kill()
        self.process.wait()
        left = _end_rest(self.mark)
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


# ------------------------------------------------------------------------------------- all of them


def matrix(chosen, kills, say=print):
    """Run cells, and kills of a notebook's client in its phases in turn; returns rows of :func:`fault` and `kill`."""
    rows = []
    for cell in tqdm(chosen, desc="faults", disable=not sys.stderr.isatty()):
        rows.append(fault(*cell))
        say(line(rows[-1]))
    whole = client_seconds("cluster") if kills else {}
    for number in tqdm(range(kills), desc="kills", disable=not sys.stderr.isatty()):
        rows.append(kill("cluster", PHASES[number % len(PHASES)], whole))
        say(line(rows[-1]))
    return rows


def fault(*cell):
    """The outcome of :func:`run_cell` as a row: with the cell's names, and in "failed" why it is not as expected."""
    return dict(zip(("form", "role", "fault", "mode"), cell, strict=True)) | tried(run_cell, *cell)


def kill(form, phase, seconds):
    """The outcome of :func:`kill_client` at a random moment of a phase as such a row.

    ``seconds`` is what :func:`client_seconds` gave. A client that has ended before is none that was killed: once more.
    """
    while True:
        outcome = tried(kill_client, form, phase, random.uniform(0, seconds[phase]))
        if outcome["failed"] or outcome["phase"] != ENDED:
            return {"form": form, "role": "client", "fault": "kill", "mode": ""} | outcome


def tried(function, *arguments):
    """What a function returns, with "failed": "", or why it raised AssertionError, beginning with the error's name."""
    try:
        return function(*arguments) | {"failed": ""}
    except AssertionError as problem:
        return {"seconds": None, "lost": None, "error": "", "failed": f"{type(problem).__name__}: {problem}"}


def line(row):
    """A row in one line of text."""
    where = f"{row['form']:<8}{row['role']:<7}{row['fault']:<8}{row['mode']:<6}"
    if row["failed"]:
        return f"{where} FAILED: {row['failed']}"
    what = f"killed: {row['phase']}" if "phase" in row else row["error"] or "training went on"
    return f"{where}{row['seconds']:6.1f} s  {what}"


def table(rows):
    """A line a fault, mode and form: seconds to recovery or error (median, worst), steps lost, and what happened."""
    groups = {}
    for row in rows:
        groups.setdefault((row["fault"], row["role"], row["mode"], row["form"]), []).append(row)
    lines = [f"{'fault':<9}{'of the':<8}{'mode':<7}{'form':<9}{'median s':>9}{'worst s':>9}{'lost':>6}  ends with"]
    for (fault, role, mode, form), group in sorted(groups.items()):
        good = [row for row in group if not row["failed"]]
        failed = f"  {len(group) - len(good)} FAILED" if len(good) < len(group) else ""
        seconds = [row["seconds"] for row in good] or [float("nan")]
        known = [row["lost"] for row in good if row.get("lost") is not None]
        lost = max(known) if known else "all" if role == "ps" else "-"
        ends = " / ".join(sorted({"error" if row.get("error") else "training" for row in good}))
        ends = "no process left" if role == "client" else ends
        lines.append(
            f"{fault:<9}{role:<8}{mode:<7}{form:<9}{statistics.median(seconds):9.1f}{max(seconds):9.1f}{lost:>6}  "
            f"{ends}{failed}"
        )
    return "\n".join(lines)


def main(arguments=None):
    """Run from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.matrix", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    whole = commands.add_parser("matrix", help="every cell, and kills of the client")
    whole.add_argument("--kills", type=int, default=20)
    whole.add_argument("--repeats", type=int, default=1, help="times to run all of it")
    whole.add_argument("--only", default="", help="cells with all of these words, separated by commas")
    whole.add_argument("--json", type=Path, help="file for the outcomes")
    whole.set_defaults(run=_run_matrix)
    cell = commands.add_parser("cell", help="one fault, in this process")
    for name, choices in (("form", FORMS), ("role", list(ROLES)), ("fault", FAULTS), ("mode", MODES)):
        cell.add_argument(name, choices=choices)
    cell.set_defaults(run=_run_cell)
    options = parser.parse_args(arguments)
    return options.run(options)


def _run_cell(options):
    run = program_cell if options.form == "program" else cluster_cell
    print(json.dumps(run(options.role, options.fault, options.mode)), flush=True)
    os._exit(0)  # its pipes' readers, and sessions whose other side has gone, are not waited for


def _run_matrix(options):
    begin, rows = time.monotonic(), []
    words = set(options.only.split(",")) - {""}
    for _ in range(options.repeats):
        rows += matrix([cell for cell in cells() if words <= set(cell)], options.kills)
        if options.json:
            write_stamped(options.json, rows)
    print(table(rows))
    failed = sum(bool(row["failed"]) for row in rows)
    minutes = (time.monotonic() - begin) / 60
    print(
        f"{len(rows)} faults in {minutes:.1f} minutes, {failed} failed, {beyond(rows)} steps lost beyond a checkpoint"
    )
    return 1 if failed else 0


def beyond(rows):
    """Global steps that were lost beyond the interval between checkpoints, in all."""
    return sum(max((row.get("lost") or 0) - SAVE_STEPS, 0) for row in rows)


if __name__ == "__main__":
    sys.exit(main())
