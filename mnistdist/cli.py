"""``mnistdist run``: its command line, and the private network that its tasks get."""

import argparse
import os
import signal
import sys

from mnistdist import __version__
from mnistdist._output import complain, guarded, say
from mnistdist.cluster import linux, pinning
from mnistdist.cluster.network import choose_network, enter_private_network, hosts_of, task_addresses, wanted_network
from mnistdist.flags import UsageError, argument, check, parse
from mnistdist.launcher import Tasks
from mnistdist.training.logdir import prepare

_OURS = ("job_name", "task_index", "ps_hosts", "worker_hosts")


def main(argv=None, inside=False):
    """Runs the command line ``argv`` (default: the process's) and returns the exit status.

    If the tasks get a private network, the program runs again with ``inside`` true. It runs in this process if the
    command line is its own, and otherwise in a child process, which writes to file descriptors 1 and 2.
    """
    return guarded("mnistdist run", lambda: _main(argv, inside), UsageError)


class _Parser(argparse.ArgumentParser):
    def _print_message(self, message, file=None):
        """Writes what it says or fails, because argparse ignores what can't be written."""
        (complain if file is sys.stderr else say)(message, end="")


def _main(argv, inside):
    what = "Train on MNIST with a cluster of local processes."
    parser = _Parser(prog="mnistdist", description=what, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"mnistdist {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="run")
    short = "start ps and workers on this machine and train"
    what = """Start one process for each task, and end when training ends. All further flags, such as
        --train_steps=2000, go to every task; python -m mnistdist.distributed --help lists them."""
    run = commands.add_parser("run", help=short, description=what, allow_abbrev=False)
    run.add_argument("--ps", type=_number, default=1, help="how many ps tasks (default 1)")
    run.add_argument("--workers", type=_number, default=2, help="how many workers (default 2)")
    what = "private: a network of their own; host: 127.0.0.1 and free ports; auto: private if possible"
    run.add_argument("--network", default="auto", help=what)
    what = "how many failed tasks to start again in all (default 0); after the loss of a ps it needs --logdir"
    run.add_argument("--restarts", type=_number, default=0, help=what)
    options, flags = parser.parse_known_args(argv)  # None: the process's own
    return _run(options, flags, argv, inside)


def _number(text):
    """An int, or the text itself, which is then refused like any wrong argument of this name."""
    try:
        return int(text)
    except ValueError:
        return text


def _run(options, flags, argv, inside):
    for name in "ps", "workers", "restarts", "network":
        argument(name, getattr(options, name))
    try:
        options.network = wanted_network(options.network)
    except ValueError as error:  # of the variable
        raise UsageError(str(error)) from None
    refusal = UsageError("--network=private: this system allows no private network; use --network=host")
    private = inside or choose_network(options.network, refusal)
    if private and not inside:
        return _go_inside(argv)
    spec = task_addresses(options.ps, options.workers, private=private)
    if private:
        enter_private_network(hosts_of(spec))
    given = parse(flags)  # so that what is wrong with them is said once, here, and not by every task
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
        pins = pinning.assign(options.ps, options.workers, num_gpus=given.num_gpus)
    except ValueError as error:
        raise UsageError(str(error) if given.num_gpus is None else f"--num_gpus: {error}") from None
    # A task finds only the GPU that its environment shows it, so it is not told how many there are.
    passed_on = [name for name in given if given[name].present and name != "num_gpus"]
    flags = [*hosts, *(f"--{name}={given[name].value}" for name in passed_on)]
    with linux.heard_exits():
        return Tasks(pins, flags, options.restarts, given.wait_timeout, restores=given.logdir is not None).wait()


def _go_inside(argv):
    """Runs the program again with one thread. No other process may enter, and a caller may have imported NumPy."""
    again = "from mnistdist.cli import main; sys.exit(main(inside=True))"
    if argv is None:
        os.execve(sys.executable, linux.command(again, *sys.argv[1:]), linux.environment(os.environ))
    options = {"start_new_session": True, "env": linux.environment(os.environ)}
    with linux.heard_exits():
        child = linux.start(linux.command(again, *argv), fatal=signal.SIGTERM, **options)
        while True:
            try:
                status = child.wait()
                return status if status >= 0 else 128 - status
            except KeyboardInterrupt:
                child.send_signal(signal.SIGINT)
