"""What arguments of functions, flags and `mnistdist run` may be, with one sentence for each that is refused.

A wrong type raises ``TypeError`` and a wrong value ``ValueError``, with a message of one line. NumPy's scalars, and its
arrays without dimensions, are accepted like Python's numbers. The functions return Python's values.
"""

import decimal
import numbers
import operator
import os
import re

# The least and the most that each may be. At the most, the first layer's weights still fit into one message of gRPC
# (2 GB), a batch into memory, a count into TensorFlow's int64, and a graph with that many steps into minutes.
COUNTS = {
    "ps": (1, 1000),  # each is a process with threads and a port of its own
    "workers": (1, 1000),
    **dict.fromkeys(("task_index", "seed"), (0, None)),
    **dict.fromkeys(("steps", "train_steps", "save_steps", "log_every"), (1, 2**62)),
    "restarts": (0, 2**62),
    "hidden_units": (1, 500_000),
    **dict.fromkeys(("batch_size", "replicas_to_aggregate"), (1, 1_000_000)),
    "num_gpus": (0, 1_000_000),
    **dict.fromkeys(("local_steps", "steps_per_run"), (1, 1000)),
}
_SECONDS = (1e-3, 1e7)  # TensorFlow counts them in thousandths, the system's calls in 32 bits
NUMBERS = dict.fromkeys(("timeout", "step_timeout", "wait_timeout", "ps_linger"), _SECONDS)
NUMBERS["learning_rate"] = (1e-30, 1e30)  # a float32
TRUTHS = ("sync", "servers", "sync_replicas", "existing_servers", "download_only", "version", "help")
CHOICES = {
    "design": ("fast", "listing"),
    "network": ("auto", "private", "host"),  # see mnistdist.cluster.network
    "job_name": ("ps", "worker"),
}
PATHS = ("data_dir", "logdir")

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # pathlib makes one stroke of two


def argument(name, value, shown=None, *, optional=False):
    """The value of an argument of this name, checked by the tables above if they have the name.

    The message calls it ``shown``, which may be a flag with its dashes. If the value is ``optional``, None is returned
    as it is.
    """
    shown = shown or name
    if optional and value is None:
        return None
    for table, rule in (COUNTS, count), (NUMBERS, number), (CHOICES, choice):
        if name in table:
            return rule(shown, value, table[name])
    if name in TRUTHS:
        return truth(shown, value)
    return path(shown, value) if name in PATHS else value


def integer(name, value, wanted="an int"):
    """An integer, as an int."""
    try:
        return operator.index(None if isinstance(value, bool) else value)
    except TypeError:
        raise TypeError(f"{name}: expected {wanted}, got {got(value)}") from None


def count(name, value, bounds):
    """An integer within ``bounds``, which are ``(least, most)`` or ``(least, None)``, as an int."""
    least, most = bounds
    number = integer(name, value, f"an int of {least} or more")
    if number < least:
        raise ValueError(f"{name}: expected an int of {least} or more, got {got(value)}")
    if most is not None and number > most:
        raise ValueError(f"{name}: expected an int of {most} or less, got {got(value)}")
    return number


def number(name, value, bounds):
    """A real number within ``bounds``, which are ``(least, most)``, as a float."""
    least, most = bounds
    wanted = f"{name}: expected a number from {least:g} to {most:g}, got {got(value)}"
    scalar = value[()] if getattr(value, "ndim", None) == 0 else value
    if isinstance(scalar, bool) or not isinstance(scalar, (numbers.Real, decimal.Decimal)):
        raise TypeError(wanted)
    try:
        if least <= (converted := float(scalar)) <= most:
            return converted
    except (OverflowError, ValueError):  # an int of 400 digits, a Decimal that is no number
        pass
    raise ValueError(wanted)


def truth(name, value):
    """Python's True or False, or NumPy's, as Python's."""
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        raise TypeError(f"{name}: expected True or False, got {got(value)}")
    return bool(value)


def choice(name, value, options):
    """One of these strings."""
    if value not in options:
        *others, last = map(repr, options)
        kind = ValueError if isinstance(value, str) else TypeError
        raise kind(f"{name}: expected {', '.join(others)} or {last}, got {got(value)}")
    return value


def needs(name, value, what, why):
    """Refuses a value that makes no sense without another argument; ``what`` it needs, and ``why``."""
    raise ValueError(f"{name}={value} needs {what}: {why}")


def path(name, value, what="directory"):
    """The path of a file or directory on this machine, as a str; ``~`` at its beginning is the home folder."""
    if not isinstance(value, (str, os.PathLike)) or isinstance(os.fspath(value), bytes):
        raise TypeError(f"{name}: expected the path of a {what}, a str or pathlib.Path; got {got(value)}")
    text = os.fspath(value)
    try:
        nameable = text and b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        nameable = False
    if not nameable:
        raise ValueError(f"{name}: expected the name of a {what}, got {got(text)}")
    if _ADDRESS.match(text):
        raise ValueError(f"{name}: expected a {what} on this machine, got the address {got(text)}")
    return os.path.expanduser(text)


def got(value):
    """A value as a message shows it: on one line, and not too long."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # an int of 5000 digits, say
        return f"something of the type {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:200]}..."
