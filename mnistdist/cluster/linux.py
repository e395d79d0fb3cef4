"""Processes, Python's and others: starting, watching and ending them, and tying them to their parent on Linux."""

import contextlib
import ctypes
import functools
import math
import os
import resource
import selectors
import signal
import subprocess
import sys
import time

from mnistdist._wait import poll

DEATH_SIGNAL, ADOPT_ORPHANS = 1, 36  # PR_SET_PDEATHSIG and PR_SET_CHILD_SUBREAPER of prctl(2)
# Variables that would change how a child runs, or add to its output, which messages quote.
_NOT_INHERITED = ("PYTHONINSPECT", "PYTHONSTARTUP", "PYTHONVERBOSE", "PYTHONWARNINGS")


def prctl(option, value):
    """Sets what the kernel does for this process, if the system is Linux."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def die_with(parent, fatal=signal.SIGKILL):
    """Has the kernel end this process with its parent. On macOS, it ends when somebody ends it."""
    prctl(DEATH_SIGNAL, fatal)
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)


def command(code, *arguments):
    """The command line that runs ``code`` in a new process, with this one's import path and ``arguments`` after it.

    Raises ``OSError`` if Python is embedded in another program and does not know its interpreter, or if the working
    folder, in which a child would begin, has been deleted.
    """
    if not sys.executable:
        raise OSError(f"sys.executable: expected the path of the Python interpreter, got {sys.executable!r}")
    try:
        os.getcwd()
    except FileNotFoundError:
        raise OSError("this process's working folder has been deleted: change to another one first") from None
    path = [str(entry) for entry in sys.path]  # a Path would not be found among the child's names
    code = f"import sys; sys.path[:] = {path!r}; {code}"
    return [sys.executable, *["-B"] * sys.dont_write_bytecode, "-c", code, *arguments]


def environment(variables):
    """These variables without those that Python reads and that are meant for the caller alone."""
    return {name: value for name, value in variables.items() if name not in _NOT_INHERITED}


def spare_descriptors(wanted):
    """How many more files this process may open, up to ``wanted``."""
    opened = []
    with contextlib.suppress(OSError):
        while len(opened) < wanted:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    for descriptor in opened:
        os.close(descriptor)
    return len(opened)


def spare_threads():
    """How many more processes and threads this user may start; infinity if nothing limits that, as for root."""
    import psutil  # here, because no child process needs it

    limit, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if limit == resource.RLIM_INFINITY or os.getuid() == 0:
        return math.inf
    found = [process.info for process in psutil.process_iter(["uids", "num_threads"])]
    return limit - sum(each["num_threads"] or 0 for each in found if each["uids"] and each["uids"].real == os.getuid())


def fill_first_descriptors():
    """Opens closed standard streams, or a child's pipes or its log would get their numbers."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def start(command, *, cores=(), fatal=signal.SIGKILL, **options):
    """A ``subprocess.Popen`` on these cores (all if empty), which the kernel ends with the calling thread."""
    process = subprocess.Popen(command, preexec_fn=functools.partial(die_with, os.getpid(), fatal), **options)
    with contextlib.suppress(ProcessLookupError):  # it has already ended, and says why
        keep_to(cores, process.pid)
    return process


def keep_to(cores, pid=0):
    """Keeps a process, by default this one, to these cores, if any are given and the system can do that."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(pid, cores)


def run_forked(body):
    """Runs the body of a forked child, and never returns into the parent's code."""
    signal.set_wakeup_fd(-1)  # the pipe is the parent's: news of this process's own children are not for it
    status = 1
    try:
        body()
        status = 0
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else 1
    except BaseException as error:  # its only way out is the log
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


@contextlib.contextmanager
def child_exits(descriptor):
    """Gives ``wait(timeout)``, which waits until ``descriptor`` can be read or a child has ended.

    It returns whether the descriptor can be read, and ``(pid, returncode)`` of each child that has ended.
    """
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    selector = selectors.PollSelector()
    for each in (read, descriptor):
        selector.register(each, selectors.EVENT_READ)

    def wait(timeout=None):
        ready = [key.fileobj for key, _ in selector.select(timeout)]
        with contextlib.suppress(BlockingIOError):
            os.read(read, 2**16)  # all that a pipe holds
        return descriptor in ready, list(_reap())  # of one that has ended since, the byte in the pipe is read already

    try:
        yield wait
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(read)
        os.close(write)


def _reap():
    """``(pid, returncode)`` of every child that has ended and was not yet waited for."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            yield ended[0], os.waitstatus_to_exitcode(ended[1])


@contextlib.contextmanager
def heard_exits():
    """If this process ignores SIGCHLD, every status of a child reads 0; this ``with`` block prevents that."""
    with contextlib.ExitStack() as stack:
        if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            stack.callback(signal.signal, signal.SIGCHLD, signal.SIG_IGN)
        yield


def end_gently(child, seconds):
    """Asks a child to end, and waits for that so long."""
    with contextlib.suppress(ChildProcessError):  # it has ended before
        if not os.waitpid(child, os.WNOHANG)[0]:
            os.kill(child, signal.SIGTERM)
            poll(seconds, lambda: os.waitpid(child, os.WNOHANG)[0], 0.01)


def end_group(group):
    """Kills a group of children until nothing of it is left, including what its members start meanwhile."""
    while group:
        try:
            os.killpg(group, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # macOS says EPERM of a group of zombies
            break
        list(_reap())
        time.sleep(0.005)
