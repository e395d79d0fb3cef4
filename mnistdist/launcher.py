"""``mnistdist run``: the program of ``distributed.py`` as local processes, one a task, from one terminal."""

import argparse
import contextlib
import functools
import os
import signal
import subprocess
import sys
import threading

from mnistdist import __version__
from mnistdist._output import OutputLost, complain, guarded, say
from mnistdist.cluster import nursery
from mnistdist.cluster import pinning as devices
from mnistdist.cluster.child import command, environment
from mnistdist.cluster.network import (
    enter_private_network,
    listing_addresses,
    loopback_addresses,
    parse_address,
    private_network_available,
)
from mnistdist.cluster.recovery import StoppedTasks
from mnistdist.errors import describe_exit
from mnistdist.flags import UsageError, check, parse
from mnistdist.training.logdir import prepare

_OURS = ("job_name", "task_index", "ps_hosts", "worker_hosts")


def main(argv=None, inside=False):
    """Run the command line ``argv`` (default: the process's); returns the exit status.

    Where the tasks get a private network, the program is run anew, with ``inside`` true: in this very process if the
    command line is its own, or else in a child process, which writes to file descriptors 1 and 2.
    """
    return guarded("mnistdist run", lambda: _main(argv, inside))


class _Parser(argparse.ArgumentParser):
    def _print_message(self, message, file=None):
        """Write what it says, or fail: argparse ignores what can't be written."""
        (complain if file is sys.stderr else say)(message, end="")


def _main(argv, inside):
    parser = _Parser(
        prog="mnistdist", description="Train on MNIST with a cluster of local processes.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"mnistdist {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="run")
    run = commands.add_parser(
        "run",
        help="start ps and workers on this machine and train",
        description="Start one process for each task, and end when training ends. Further flags, --train_steps=2000 "
        "say, go to every task: python -m mnistdist.distributed --help lists them.",
        allow_abbrev=False,
    )
    run.add_argument("--ps", type=_count, default=1, help="number of ps tasks (default 1)")
    run.add_argument("--workers", type=_count, default=2, help="number of workers (default 2)")
    run.add_argument(
        "--network",
        choices=("auto", "private", "host"),
        default="auto",
        help="private: a network of their own; host: 127.0.0.1 and free ports; auto: private where possible",
    )
    run.add_argument(
        "--restarts",
        type=lambda text: _count(text, least=0),
        default=0,
        help="how many times, in all, a task that fails is started again (default 0); a lost ps needs --logdir",
    )
    options, flags = parser.parse_known_args(argv)  # None: the process's own
    try:
        return _run(options, flags, argv, inside)
    except (UsageError, OSError) as error:
        complain(f"mnistdist run: error: {error}")
        return 1


def _count(text, least=1):
    number = int(text)
    if number > devices.MOST_TASKS:
        raise argparse.ArgumentTypeError(f"expected {devices.MOST_TASKS} or less, got {number}")
    if number < least:
        raise argparse.ArgumentTypeError(f"expected {least} or more, got {number}")
    return number


def _run(options, flags, argv, inside):
    private = inside or (options.network != "host" and private_network_available())
    if private and not inside:
        return _go_inside(argv)
    if options.network == "private" and not private:
        raise UsageError("--network=private: this system allows no private network; use --network=host")
    spec = (listing_addresses if private else loopback_addresses)(options.ps, options.workers)
    if private:
        enter_private_network([parse_address(address)[0] for job in spec.values() for address in job])
    given = parse(flags)  # what is wrong with them is said once, here, and not by every task
    for name in _OURS:
        if given[name].present:
            raise UsageError(f"--{name} is what `mnistdist run` gives each task: use --ps, --workers and --network")
    hosts = [f"--{job}_hosts={','.join(addresses)}" for job, addresses in spec.items()]
    check(checked := parse([*hosts, *flags, "--job_name=worker", "--task_index=0"]))
    if not private and options.network == "auto":
        complain("No private network on this system: the tasks listen on every interface.")
    if checked.logdir is not None:
        prepare(checked.logdir, "--logdir")
    try:
        pins = devices.assign(options.ps, options.workers, num_gpus=given.num_gpus)
    except ValueError as error:
        raise UsageError(f"--num_gpus: {error}") from None
    # A task finds the GPU that its environment shows it and no other, so it is not told how many there are.
    passed_on = [name for name in given if given[name].present and name != "num_gpus"]
    flags = [*hosts, *(f"--{name}={given[name].value}" for name in passed_on)]
    with _heard_exits():
        return _Tasks(pins, flags, options.restarts, given.wait_timeout, restores=given.logdir is not None).wait()


def _go_inside(argv):
    """Run the program anew, with one thread: no other process may enter, and a caller may have imported NumPy."""
    again = "from mnistdist.launcher import main; sys.exit(main(inside=True))"
    if argv is None:
        os.execve(sys.executable, command(again, *sys.argv[1:]), environment(os.environ))
    end_with_caller = functools.partial(nursery._die_with, os.getpid(), signal.SIGTERM)
    options = {"start_new_session": True, "preexec_fn": end_with_caller, "env": environment(os.environ)}
    with _heard_exits():
        child = subprocess.Popen(command(again, *argv), **options)
        while True:
            try:
                status = child.wait()
                return status if status >= 0 else 128 - status
            except KeyboardInterrupt:
                child.send_signal(signal.SIGINT)


@contextlib.contextmanager
def _heard_exits():
    """Where this process ignores SIGCHLD, every status of a child reads 0: not in this ``with`` block."""
    ignored = signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
    if ignored:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        if ignored:
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)


class _Tasks:
    """The running tasks: their output goes to ours, line by line, each with the task's name before it."""

    def __init__(self, pins, flags, restarts, wait_timeout, restores):
        self._pins, self._flags, self._restarts, self._restores = pins, flags, restarts, restores
        self._patience = 2 * wait_timeout  # who waits for a stopped task tells first, and tells more
        self._failure, self._interrupts, self._lost = 0, 0, None
        self._lock = threading.Lock()
        self._processes, self._readers, self._again = {}, [], set()
        signal.signal(signal.SIGINT, self._pass_on)
        signal.signal(signal.SIGTERM, self._pass_on)
        with self._supervised():
            for task in pins:
                self._start(task)

    @contextlib.contextmanager
    def _supervised(self):
        """End all tasks if an error ends the block: one that can't be started, say."""
        try:
            yield
        except BaseException:
            self._send(signal.SIGKILL)
            raise

    def _start(self, task):
        if self._failure:  # a signal has come: what is not there needs not be ended
            return
        (job, index), pin = task, self._pins[task]
        program = "from mnistdist.distributed import run; run()"
        process = subprocess.Popen(
            command(program, f"--job_name={job}", f"--task_index={index}", *self._flags),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment(os.environ) | dict(pin.env) | {"PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # Ctrl-C comes to this process alone, which passes it on
            preexec_fn=functools.partial(nursery._die_with, os.getpid()),
        )
        if hasattr(os, "sched_setaffinity"):
            with contextlib.suppress(ProcessLookupError):  # it has ended already, and says why
                os.sched_setaffinity(process.pid, pin.cores)
        self._processes[task] = process
        if self._interrupts:  # it came while this one was being started
            process.send_signal(signal.SIGTERM)
        reader = threading.Thread(target=self._copy, args=(f"{job}:{index}", process.stdout))
        reader.start()
        self._readers.append(reader)

    def _copy(self, name, lines):
        for line in lines:  # to its end, or the task would block
            with self._lock:
                try:
                    if self._lost is None:
                        say(f"[{name}] {line}", end="")
                except OutputLost as error:
                    self._lost = error

    def _pass_on(self, number, frame):
        self._interrupts += 1
        if not self._failure:
            self._failure = 128 + number
        self._send(signal.SIGKILL if self._interrupts > 1 else signal.SIGTERM)

    def _send(self, number):
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(number)
                process.send_signal(signal.SIGCONT)  # one that is stopped would not hear it

    def wait(self):
        """Wait for the end of all; the first task that fails ends the rest. Returns the exit status.

        Raises :class:`OutputLost` if what the tasks said could not be written; that ends them too.
        """
        left, stopped = dict(self._processes), StoppedTasks(self._patience)
        with self._supervised():
            while left:
                if self._lost and not self._failure:  # they would train for nobody
                    self._failure = self._lost.status
                    self._send(signal.SIGTERM)
                for job, index in stopped.find({task: process.pid for task, process in left.items()}):
                    why = f"has been stopped for {self._patience:g} s, as SIGSTOP does it: it is ended"
                    complain(f"mnistdist run: {job}:{index} {why}")
                    left[job, index].kill()
                for task, process in list(left.items()):
                    if left.get(task) is not process:  # started again in this very round
                        continue
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        status = process.wait(timeout=0.1 / len(left))
                        del left[task]
                        if status and not self._failure:
                            self._replace(task, status, left)
                if not any(job == "worker" for job, _ in left):
                    for task in self._again & set(left):  # a ps that no worker will ever speak to
                        left[task].terminate()
        for reader in self._readers:
            reader.join()
        if self._lost:
            raise self._lost
        return self._failure

    def _replace(self, task, status, left):
        """A task has failed: start it again, or end all others, or neither if nobody needs it."""
        ended = f"{task[0]}:{task[1]} ended with {describe_exit(status)}"
        finished = [each for each in self._processes if self._processes[each].poll() == 0]
        workers = {each for each in left if each[0] == "worker"}
        if task[0] == "ps" and workers <= set(finished):
            return
        if task[0] == "worker" and any(job == "ps" for job, _ in finished):
            complain(f"mnistdist run: {ended}, and the ps before it: the training is over")
        elif self._restarts:
            self._restarts -= 1
            complain(f"mnistdist run: {ended}: started again")
            again = [task]
            if task[0] == "ps" and self._restores and ("worker", 0) in finished:
                again.append(("worker", 0))  # nobody else restores what the ps has lost
            for each in again:
                self._start(each)
            if not self._failure:
                self._again.update(again)
                left.update((each, self._processes[each]) for each in again)
            return
        else:
            complain(f"mnistdist run: {ended}: the other tasks are ended")
        self._failure = status if status > 0 else 128 - status
        self._send(signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
