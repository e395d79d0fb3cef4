"""The program and its launcher, from the command line: every process in a private network of the test's own."""

import io
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import psutil
import pytest

from mnistdist import distributed
from mnistdist._output import complain
from mnistdist.cluster import pinning as devices
from mnistdist.cluster.network import private_network_available
from mnistdist.flags import FLAGS, MAY_DIFFER, UsageError, check, parse, shared
from mnistdist.launcher import Tasks
from tests.helpers import alive, below, unprivileged, wait_until

PS, WORKERS = "127.0.0.1:2222", "127.0.0.1:2223,127.0.0.1:2224"


def run(*flags, timeout=60):
    """Run the program to its end: (exit status, stdout, stderr, seconds)."""
    begin = time.monotonic()
    command = [sys.executable, "-m", "mnistdist.distributed", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    return done.returncode, done.stdout, done.stderr, time.monotonic() - begin


def test_help_and_version_know_every_flag():
    status, said, _, _ = run("--help")
    assert status == 0
    assert all(f"--{name}" in said for _, name, _, _ in FLAGS)
    assert "These may differ between the tasks of a training: --job_name, --task_index, --data_dir, --num_gpus," in said
    assert run("--version")[1].startswith("mnistdist ")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "Must specify an explicit `job_name`"),
        (["--job_name=worker"], "Must specify an explicit `task_index`"),
        (["--job_name=chief", "--task_index=0"], "--job_name: expected 'ps' or 'worker', got 'chief'"),
        (["--job_name=worker", "--task_index=7"], "--task_index: there is no worker task 7"),
        (["--job_name=worker", "--task_index=0", "--worker_hosts=a,b"], "--worker_hosts: 'a' is not an address"),
        (["--job_name=worker", "--task_index=0", "--worker_hosts=h:1,h:1"], "h:1 is in --worker_hosts already"),
        (
            ["--job_name=worker", "--task_index=0", "--batch_size=0"],
            "--batch_size: expected an int of 1 or more, got 0",
        ),
        (["--job_name=worker", "--task_index=0", "--train_steps=many"], "train_steps"),
        (["--job_name=worker", "--task_index=0", "--model=net.py"], "--model: expected package.module:function, got"),
        (["--no_such_flag=1"], "no_such_flag"),
    ],
)
def test_bad_flags_are_named_in_one_line(flags, message):
    status, said, error, _ = run(*flags)
    assert status == 1
    assert message in error
    assert error.count("\n") == 1
    assert said == ""


def test_a_truncated_file_a_busy_port_and_a_missing_ps_are_named(tmp_path):
    for name in (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ):
        (tmp_path / name).write_bytes(b"\x00\x00\x08\x03\x00\x00")
    worker = ["--job_name=worker", "--task_index=0"]
    status, _, error, _ = run(*worker, f"--data_dir={tmp_path}")
    assert (status, error.count("\n")) == (1, 1)
    assert "--data_dir" in error
    assert "-ubyte" in error

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        status, _, error, _ = run("--job_name=ps", "--task_index=0", f"--ps_hosts={address}")
    assert (status, error.count("\n")) == (1, 1)
    assert f"--ps_hosts: port of {address} is in use" in error


@pytest.fixture
def start(tmp_path):
    """Start the program in a network namespace; ``start`` shares the first process's with the later ones."""
    if not private_network_available():
        pytest.skip("this system allows no network namespaces, and servers would be open to all")
    script = tmp_path / "together.py"
    script.write_text(
        "import subprocess, sys\n"
        "from mnistdist.cluster.network import enter_private_network\n"
        "enter_private_network()\n"
        "commands = [line.split() for line in sys.stdin.read().splitlines()]\n"
        "program = [sys.executable, '-u', '-m', 'mnistdist.distributed']\n"
        "running = [subprocess.Popen(program + c, stdout=open(f'{i}.out', 'w'), stderr=open(f'{i}.err', 'w'))"
        " for i, c in enumerate(commands)]\n"
        "print([p.wait() for p in running])\n"
    )

    def go(*commands, timeout=120):
        done = subprocess.run(
            [sys.executable, str(script)],
            input="\n".join(" ".join(command) for command in commands),
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        outputs = [(tmp_path / f"{i}.out").read_text() for i in range(len(commands))]
        errors = [(tmp_path / f"{i}.err").read_text() for i in range(len(commands))]
        return eval(done.stdout), outputs, errors

    return go


def task(job, index, *more):
    return [f"--job_name={job}", f"--task_index={index}", f"--ps_hosts={PS}", f"--worker_hosts={WORKERS}", *more]


@pytest.mark.parametrize(("sync", "design"), [(False, "fast"), (True, "fast"), (False, "listing")])
def test_three_processes_train_and_end_by_themselves(start, tmp_path, sync, design):
    more = ["--train_steps=300", f"--sync_replicas={sync}", f"--data_dir={tmp_path}/data", "--log_every=50"]
    more += [f"--design={design}"]
    statuses, outputs, errors = start(task("ps", 0), task("worker", 0, *more), task("worker", 1, *more))
    assert statuses == [0, 0, 0], errors
    for index, said in enumerate(outputs[1:]):
        lines = said.splitlines()
        assert lines[:2] == ["job name = worker", f"task index = {index}"]
        assert re.fullmatch(r"Training elapsed time: \d+\.\d+ s", lines[-3])
        match = re.fullmatch(r"After (\d+) training step\(s\), validation cross entropy = (\S+)", lines[-2])
        assert int(match[1]) == 300 if sync else 300 <= int(match[1]) < (302 if design == "listing" else 316)
        assert float(re.fullmatch(r"validation accuracy = (\S+)", lines[-1])[1]) > 0.8
    assert ("Starting chief queue runner and running init_tokens_op" in outputs[1]) == sync


def test_a_ps_that_never_comes_is_named_within_the_wait(start):
    begin = time.monotonic()
    statuses, _, errors = start(task("worker", 0, "--wait_timeout=3"))
    assert statuses == [1]
    assert f"ps:0 at {PS}" in errors[0]
    assert "Traceback" not in errors[0]
    assert time.monotonic() - begin < 60


def test_a_ps_to_which_no_worker_comes_says_so_and_ends(start):
    statuses, _, errors = start(task("ps", 0, "--wait_timeout=0.2"))
    assert statuses == [1]
    assert "no worker has come within 2 s" in errors[0]
    assert "Traceback" not in errors[0]


OTHER = {  # a flag of worker 1, and what is said of it beside worker 0's
    "--sync_replicas": "--sync_replicas is True here and False there, --replicas_to_aggregate is 2 here and not given",
    "--design=listing": "--design is listing here and fast there",
    "--batch_size=50": "--batch_size is 50 here and 100 there",
    "--hidden_units=7": "--hidden_units is 7 here and 100 there",
    "--learning_rate=0.1": "--learning_rate is 0.1 here and 0.01 there",
    "--train_steps=7": "--train_steps is 7 here and 200 there",
    "--seed=1": "--seed is 1 here and not given there",
    "--save_steps=7": "--save_steps is 7 here and 1000 there",
    "--model=mine:net": "--model is mine:net here and not given there",
    "--logdir=nowhere": "--logdir is nowhere here and not given there",
    "--ps_hosts=127.0.0.1:2222,127.0.0.1:2230": f"--ps_hosts is {PS},127.0.0.1:2230 here and {PS} there",
    "--worker_hosts=127.0.0.1:2223,127.0.0.1:2224,127.0.0.1:2225": f"2224,127.0.0.1:2225 here and {WORKERS} there",
}


@pytest.mark.parametrize("flag", ["--sync_replicas", "--batch_size=50", "--ps_hosts=127.0.0.1:2222,127.0.0.1:2230"])
def test_a_worker_with_another_flag_is_refused_and_the_others_train(start, tmp_path, flag):
    """At once, and before it waits for a ps that worker 0 has not heard of."""
    common = ["--train_steps=200", f"--data_dir={tmp_path}/data", "--ps_linger=10"]
    statuses, outputs, errors = start(
        task("ps", 0, "--ps_linger=10"),
        task("worker", 0, *common),
        task("worker", 1, *common, "--log_every=7", "--wait_timeout=50", flag),
    )
    assert statuses == [0, 0, 1], errors
    assert errors[2].count("\n") == 1
    assert f"worker 0 has other flags: {OTHER[flag]}" in errors[2]
    said = outputs[2].splitlines()
    assert said[:2] == ["job name = worker", "task index = 1"]
    late = f"waiting for worker:0 at|waiting for ps:0 at {PS} "  # which may have come later
    assert not [line for line in said[2:] if not re.search(late, line)]


def test_a_ps_with_other_workers_is_refused(start, tmp_path):
    """It would end when its own two have finished, in the middle of the third one's training."""
    more = f"--worker_hosts={WORKERS},127.0.0.1:2225"
    flags = [more, f"--data_dir={tmp_path}/data", "--wait_timeout=8"]
    statuses, _, errors = start(task("ps", 0), task("worker", 0, *flags))
    assert statuses == [1, 1]
    assert errors[0].count("\n") == 1
    assert f"worker 0 has other flags: --worker_hosts is {WORKERS} here and {WORKERS},127.0.0.1:2225 there" in errors[0]
    assert "ps:0 at 127.0.0.1:2222" in errors[1]


def test_worker_0_that_does_not_come_is_named(start):
    statuses, outputs, errors = start(task("ps", 0, "--ps_linger=1"), task("worker", 1, "--wait_timeout=12"))
    assert statuses == [1, 1]
    assert "worker 0 did not come within 12 s: is it running, with the same addresses?" in errors[1]
    assert "Worker 1: waiting for worker:0 at 127.0.0.1:2223" in outputs[1]
    assert "every worker has been silent for 1 s (--ps_linger), and none has finished" in errors[0]


def flags_of(*more, job="worker", index=1):
    flags = parse([f"--job_name={job}", f"--task_index={index}", *more])
    hosts = flags["ps_hosts"].present and flags["worker_hosts"].present
    return flags, check(flags if hosts else parse([*task(job, index), *more]))


def compared(here, there=("--train_steps=200",), **options):
    """What a task that was started with the flags ``here`` says of worker 0's."""
    chief = shared(*flags_of(*there, index=0))
    with pytest.raises(UsageError) as caught:
        distributed._compare(*_own(here, **options), json.loads(json.dumps(chief)))
    return str(caught.value)


@pytest.mark.parametrize("flag", OTHER)
def test_another_flag_is_named_with_both_values(flag):
    assert OTHER[flag] in compared(["--train_steps=200", flag])


def test_every_flag_that_may_not_differ_is_compared():
    named = re.findall(r"--(\w+)", " ".join(OTHER))
    unseen = {"version", "help", "download_only", "replicas_to_aggregate"}  # the last is in the line of sync_replicas
    assert {name for _, name, _, _ in FLAGS} - set(MAY_DIFFER) - unseen == set(named)


def test_flags_that_may_differ_do():
    here = ["--data_dir=a", "--num_gpus=0", "--existing_servers", "--log_every=1", "--wait_timeout=9", "--ps_linger=9"]
    here += ["--sync_replicas", "--replicas_to_aggregate=2", "--logdir=b", *HOSTS]
    there = ["--sync_replicas", "--logdir=c", "--worker_hosts=A:1,10.0.0.2:2", "--ps_hosts=[::1]:3"]
    assert distributed._compare(*_own(here), shared(*flags_of(*there, index=0))) is None


HOSTS = ["--worker_hosts=a.example.org:1, b:2", "--ps_hosts=localhost:3"]


def _own(argv, **options):
    flags, spec = flags_of(*argv, **options)
    return flags, shared(flags, spec)


def test_a_host_may_have_several_names_and_the_tasks_have_one_number_and_order():
    there = shared(*flags_of("--worker_hosts=a:1,B:2", "--ps_hosts=127.0.0.1:3", index=0))
    assert distributed._compare(*_own(HOSTS, job="ps", index=0), there) is None
    for hosts in ("a:1,b:2,c:4", "b:2,a:1", "a:1,b:4"):
        said = compared([f"--worker_hosts={hosts}", HOSTS[1]], [*HOSTS, "--ps_hosts=127.0.0.1:3"], job="ps", index=0)
        assert f": --worker_hosts is {hosts} here and a.example.org:1,b:2 there; start all" in said


def test_a_flag_that_worker_0s_version_does_not_have_is_named():
    flags, own = _own(["--seed=3"])
    with pytest.raises(UsageError, match="--seed is 3 here and not given there"):
        distributed._compare(flags, own, {name: own[name] for name in own if name != "seed"})


def test_worker_0_that_comes_back_with_other_flags_is_refused_but_on_servers_that_were_there_before(capsys):
    said = compared(["--batch_size=7"], ["--batch_size=8"], index=0)
    assert said.startswith("the training that the ps tasks hold has other flags: --batch_size is 7 here and 8 there; ")
    flags, spec = flags_of("--batch_size=7", "--existing_servers", index=0)
    distributed._compare(flags, shared(flags, spec), shared(*flags_of("--batch_size=8", index=0)))
    assert capsys.readouterr().out.startswith("Worker 0: the last training on these servers had other flags: --batch_")


def launch(*flags, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "mnistdist", "run", *flags], stdout=-1, stderr=-1, text=True, **options
    )


def test_the_launcher_starts_prefixes_and_ends(tmp_path):
    process = launch("--ps", "1", "--workers", "2", "--train_steps=100", f"--data_dir={tmp_path}/data")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    prefixes = {line.split("]")[0] + "]" for line in out.splitlines()}
    assert prefixes == {"[ps:0]", "[worker:0]", "[worker:1]"}
    assert len(re.findall(r"^\[worker:\d\] validation accuracy = ", out, re.M)) == 2


@pytest.mark.parametrize("network", ["auto", "private"])
def test_the_launcher_needs_no_privilege(tmp_path, network):
    """The flags are checked with NumPy imported, and its threads must not keep the tasks out of a private network."""
    if not private_network_available():
        pytest.skip("this system allows no network namespaces")
    flags = ["--train_steps=20", f"--data_dir={tmp_path}/data", f"--network={network}"]
    command = [sys.executable, "-m", "mnistdist", "run", *flags]
    done = subprocess.run(unprivileged(command), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "No private network" not in done.stderr
    assert len(re.findall(r"^\[worker:\d\] validation accuracy = ", done.stdout, re.M)) == 2


IN_A_CALLER = """
import sys
from mnistdist import cli
try:
    print("ended with", cli.main(sys.argv[1:]), "and goes on", flush=True)
finally:
    print("lives", flush=True)
"""


def in_a_caller(*flags):
    """A program that calls the launcher as a function, as a notebook might."""
    command = [sys.executable, "-c", IN_A_CALLER, "run", "--workers=1", *flags]
    return subprocess.Popen(command, stdout=-1, stderr=-1, text=True)


def test_a_caller_of_the_launcher_gets_its_status_and_goes_on(tmp_path):
    for flags, status in ((["--train_steps=20", f"--data_dir={tmp_path}/data"], 0), (["--nonsense=1"], 1)):
        out, err = in_a_caller(*flags).communicate(timeout=120)
        assert out.endswith(f"ended with {status} and goes on\nlives\n"), err
        assert ("[worker:0] validation accuracy = " in out) == (status == 0)


@pytest.mark.parametrize("fatal", ["SIGINT", "SIGTERM"])
def test_a_caller_of_the_launcher_that_is_interrupted_or_ended_leaves_no_task(tmp_path, fatal):
    process = in_a_caller("--train_steps=1000000", f"--data_dir={tmp_path}/data")
    assert any("Training begins" in line for line in iter(process.stdout.readline, ""))
    tree = below(process.pid)
    assert len(tree) >= 2
    process.send_signal(signal.Signals[fatal])
    out, _ = process.communicate(timeout=30)
    assert out.endswith("ended with 130 and goes on\nlives\n") == (fatal == "SIGINT")
    wait_until(lambda: not alive(tree), 10, "the end of every task")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workers", "0"], "--workers: expected an int of 1 or more, got 0"),
        (["--batch_size=0"], "--batch_size: expected an int of 1 or more"),
        (["--job_name=ps"], "use --ps, --workers and --network"),
        (["--nonsense=1"], "nonsense"),
    ],
)
def test_the_launcher_refuses_bad_flags_before_it_starts_anything(flags, message):
    process = launch(*flags)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, "")
    assert message in err


@pytest.mark.parametrize("fatal", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_an_ended_launcher_leaves_no_task(tmp_path, fatal):
    process = launch("--train_steps=1000000", f"--data_dir={tmp_path}/data")
    lines = iter(process.stdout.readline, "")
    assert any("Training begins" in line for line in lines)
    tree = below(process.pid)
    assert len(tree) >= 3
    process.send_signal(signal.Signals[fatal])
    process.communicate(timeout=30)
    assert process.returncode == (-signal.SIGKILL if fatal == "SIGKILL" else 128 + signal.Signals[fatal])
    wait_until(lambda: not alive(tree), 10, "the end of every task")


def test_the_launcher_starts_a_killed_ps_again(tmp_path):
    flags = [f"--data_dir={tmp_path}/data", f"--logdir={tmp_path}/log", "--save_steps=200", "--train_steps=4000"]
    process = launch("--restarts=1", *flags)
    lines = iter(process.stdout.readline, "")
    assert any("training step 400 done" in line for line in lines)
    below(process.pid, lambda each: "--job_name=ps" in each.cmdline())[0].kill()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert re.search(r"^mnistdist run: ps:0 ended with SIGKILL: started again$", err, re.M), err
    assert len(re.findall(r"^\[worker:\d\] validation accuracy = ", out, re.M)) == 2
    # What the chief itself knew to have been made may all be in a checkpoint that was written just before.
    lost = re.search(r"^\[worker:0\] .* goes on from global step \d+: (?:(\d+) steps are|no step is) lost$", out, re.M)
    assert int(lost[1] or 0) <= 200


class Task:
    """A process of the launcher's that is none: it ends with ``status`` after so many ``waits``, or by a signal."""

    pid = 2**22 + 1  # nobody's: the system gives none so high

    def __init__(self, status=None, waits=0):
        self.status, self.signals, self.stdout = status, [], io.StringIO("a line\n")
        self._waits = waits

    def send_signal(self, number):
        self.signals.append(number)
        self.status = -number if self.status is None else self.status

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def poll(self):
        return None if self._waits else self.status

    def wait(self, timeout):
        if self.poll() is None:
            self._waits = max(0, self._waits - 1)
            raise subprocess.TimeoutExpired("task", timeout)
        return self.status


@pytest.fixture
def tasks(monkeypatch):
    """``tasks(statuses, ...)``: the exit status of a launcher whose tasks end so, and all tasks that it has started.

    The tasks are ps:0, worker:0, worker:1, and then those that are started again. A function is called for its status.
    """
    kept = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def run(*statuses, restarts=0, restores=False):
        started, left = [], list(statuses)

        def popen(command, **_):
            status = left.pop(0)
            status = status() if callable(status) else status
            started.append(status if isinstance(status, Task) else Task(status))
            return started[-1]

        monkeypatch.setattr(subprocess, "Popen", popen)
        pins = devices.assign(ps=1, workers=2, gpus=[], cores=[0])
        tasks = Tasks(dict(sorted(pins.items())), [], restarts, 60, restores=restores)
        return tasks.wait(), started

    yield run
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), kept, strict=True):
        signal.signal(number, handler)


def test_a_signal_while_the_launcher_starts_reaches_what_it_starts(tasks):
    """It comes while the first of three tasks is being started: that one is ended, and the others never begin."""
    status, started = tasks(lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert status == 128 + signal.SIGTERM
    assert [task.signals for task in started] == [[signal.SIGTERM]]


def test_a_task_that_cannot_be_started_ends_the_others(monkeypatch):
    started = []

    def popen(*_, **__):
        if len(started) == 2:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        started.append(Task())
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(BlockingIOError):
        Tasks(devices.assign(ps=1, workers=2, gpus=[], cores=[0]), [], 0, 60, restores=False)
    assert [task.status for task in started] == [-signal.SIGKILL] * 2


def test_a_ps_that_fails_when_the_workers_have_finished_is_not_started_again(tasks):
    status, started = tasks(1, 0, 0, restarts=3)
    assert (status, len(started)) == (0, 3)


def test_a_ps_that_was_started_again_too_late_for_its_workers_is_ended(tasks):
    """Worker 1 fails as well, and has ended before it could speak to the new ps."""
    status, started = tasks(-9, 0, -9, None, 0, restarts=2)
    assert (status, len(started)) == (0, 5)
    assert started[3].status == -signal.SIGTERM


def test_a_worker_that_fails_after_the_ps_has_ended_well_is_not_started_again(tasks, capsys):
    status, started = tasks(0, 0, -9, restarts=3)
    assert (status, len(started)) == (128 + 9, 3)
    assert "worker:1 ended with SIGKILL, and the ps before it: the training is over" in capsys.readouterr().err


@pytest.fixture
def sleepers(monkeypatch):
    """Tasks that are real processes and sleep; ``sleepers(wait_timeout)`` is their launcher."""
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: popen(["sleep", "60"], **options))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    pins = devices.assign(ps=1, workers=2, gpus=[], cores=[0])
    return lambda wait_timeout: Tasks(pins, [], 0, wait_timeout, restores=False)


def test_a_task_that_is_stopped_for_good_is_ended_and_named(sleepers, capsys):
    """Its connections stay open, so that in asynchronous training nobody else notices."""
    begin, tasks = time.monotonic(), sleepers(wait_timeout=0.5)
    tasks._processes["worker", 1].send_signal(signal.SIGSTOP)
    assert tasks.wait() == 128 + signal.SIGKILL
    assert "worker:1 has been stopped for 1 s, as SIGSTOP does it: it is ended" in capsys.readouterr().err
    assert [each.returncode for each in tasks._processes.values()].count(-signal.SIGTERM) == 2
    assert time.monotonic() - begin < 20


def test_a_task_that_fails_is_named_and_ends_the_others_a_stopped_one_too(sleepers, capsys):
    begin, tasks = time.monotonic(), sleepers(wait_timeout=60)
    tasks._processes["ps", 0].send_signal(signal.SIGSTOP)
    tasks._processes["worker", 0].kill()
    assert tasks.wait() == 128 + signal.SIGKILL
    assert tasks._processes["ps", 0].returncode == -signal.SIGTERM
    assert "mnistdist run: worker:0 ended with SIGKILL: the other tasks are ended" in capsys.readouterr().err
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize("restores", [True, False])
def test_a_chief_that_has_finished_is_started_again_to_restore(tasks, restores):
    """The ps is lost while worker 1 trains: it comes back empty, and only worker 0 reads checkpoints."""
    status, started = tasks(-9, 0, Task(0, waits=3), 0, 0, restarts=1, restores=restores)
    assert (status, len(started)) == (0, 5 if restores else 4)


def test_a_chief_that_is_started_again_to_restore_and_fails_is_noticed(tasks):
    """It had ended in the very moment in which the ps was found lost."""
    status, started = tasks(-9, 0, Task(0, waits=3), 0, 3, restarts=1, restores=True)
    assert (status, len(started)) == (3, 5)


PROGRAMS = {
    "mnistdist.distributed": ["--help", "--version", "--download_only --data_dir={data}"],
    "mnistdist": ["--help", "--version", "run --help", "run --train_steps=1000000 --data_dir={data}"],
}
COMMANDS = [(module, command) for module, commands in PROGRAMS.items() for command in commands]


def shell(module, command, redirection, data, unbuffered=""):
    """Run a program in a shell: (its exit status, what is left on stderr, the other processes that it has left)."""
    program = f"{sys.executable} -m {module} {command.format(data=data)}"
    script = f"{program} {redirection}\necho status ${{PIPESTATUS[0]}} >&2"
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=100, env=environment)
    *said, status = done.stderr.splitlines()
    left = alive(psutil.process_iter(), lambda process: str(data) in " ".join(process.cmdline()))
    return int(status.removeprefix("status ")), said, left


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(("module", "command"), COMMANDS)
def test_a_full_disk_at_standard_output_is_status_1_and_a_line(tmp_path, module, command, unbuffered):
    """Tasks that would train for nobody are ended."""
    status, said, left = shell(module, command, "> /dev/full", tmp_path, unbuffered)
    assert (status, len(said), left) == (1, 1, []), said
    assert said[0].endswith("error: can't write to standard output: No space left on device")


@pytest.mark.parametrize(("module", "command"), COMMANDS)
def test_a_closed_standard_output_is_status_1_and_a_line(tmp_path, module, command):
    status, said, left = shell(module, command, ">&-", tmp_path)
    assert (status, len(said), left) == (1, 1, []), said
    assert said[0].endswith("error: can't write to standard output: it is closed")


@pytest.mark.parametrize(("module", "command"), COMMANDS)
def test_a_reader_that_goes_away_ends_a_program_quietly(tmp_path, module, command):
    """As other programs end in `| head`; 141 is what a shell makes of SIGPIPE."""
    reader = "head -1" if "train_steps" in command else "true"
    assert shell(module, command, f"| (sleep 0.1; exec {reader} > /dev/null)", tmp_path) in ((141, [], []), (0, [], []))
    if reader == "head -1":
        assert shell(module, command, "| head -1 > /dev/null", tmp_path)[0] == 141


@pytest.mark.parametrize("redirection", ["2>&-", "2> /dev/full", "2>&- <&-"])
def test_nothing_that_takes_errors_is_no_error(tmp_path, redirection):
    status, _, left = shell("mnistdist.distributed", "--version > /dev/null", redirection, tmp_path)
    assert (status, left) == (0, [])
    assert shell("mnistdist.distributed", "--nonsense", redirection, tmp_path)[0] == 1
    assert shell("mnistdist", "run --nonsense", redirection, tmp_path)[0] == 1


def test_what_takes_no_errors_any_more_costs_no_descriptor(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        before = os.listdir("/proc/self/fd")
        complain("a line")
        full.flush()  # to nowhere
        assert os.listdir("/proc/self/fd") == before


def test_a_worker_whose_reader_goes_away_in_the_training_ends(start, tmp_path):
    """It closes its session on the way; the ps hears nothing more of it and ends too."""
    flags = [f"--data_dir={tmp_path}/data", "--worker_hosts=127.0.0.1:2223", "--train_steps=1000000", "--log_every=1"]
    os.mkfifo(tmp_path / "1.out")

    def read():
        with open(tmp_path / "1.out") as lines:
            said = "".join(itertools.islice(iter(lines.readline, ""), 8))
        (tmp_path / "1.out").unlink()
        (tmp_path / "1.out").write_text(said)

    reader = threading.Thread(target=read)
    reader.start()
    statuses, outputs, errors = start(task("ps", 0, "--ps_linger=5", flags[1]), task("worker", 0, *flags))
    reader.join()
    assert "training step 1 done" in outputs[1]
    assert statuses == [1, 141]
    assert errors[1] == ""


@pytest.mark.parametrize("steps", [60, 30])
def test_a_program_whose_training_is_complete_evaluates_and_ends(tmp_path, steps):
    """And says how many steps the model has seen, not how many were asked for."""
    flags = ["--workers=1", f"--data_dir={tmp_path}/data", f"--logdir={tmp_path}/log"]
    outputs = []
    for number in (60, steps):
        process = launch(*flags, f"--train_steps={number}")
        out, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (0, "")
        outputs.append(re.findall(r"^\[worker:0\] ((?:After|validation) .*)$", out, re.M))
    assert len(outputs[0]) == 2
    assert outputs[0][0].startswith("After 60 training step(s), validation cross entropy = ")
    assert outputs[0] == outputs[1]
