"""How a Python child process is started: with this interpreter and the caller's import path."""

import os
import sys

# What would change how a child runs, or fill its output with what is not its own; its logs are quoted in messages.
_NOT_INHERITED = ("PYTHONINSPECT", "PYTHONSTARTUP", "PYTHONVERBOSE", "PYTHONWARNINGS")


def command(code, *arguments):
    """The command line that runs ``code`` in a new process, with this one's import path and ``arguments`` after it.

    Raises:
        OSError: this Python doesn't know its own interpreter, as one that is embedded in another program; or the
            working folder, in which a child would begin, has been deleted.
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
    """These variables but for those that Python reads and that are meant for the caller alone."""
    return {name: value for name, value in variables.items() if name not in _NOT_INHERITED}


def spare_descriptors(wanted):
    """How many more files this process may open, up to ``wanted``."""
    opened = []
    try:
        while len(opened) < wanted:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    for descriptor in opened:
        os.close(descriptor)
    return len(opened)


def fill_first_descriptors():
    """Open what is closed of the three standard streams: a child's pipes, or its log, would get these numbers."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
