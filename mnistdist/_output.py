"""What a program writes to its standard output, and how it ends if that can no longer be written."""

import contextlib
import io
import os
import sys

_READER_GONE = 141  # what a shell reports of a program that SIGPIPE has ended


class OutputLost(Exception):
    """Standard output can't be written; ``status`` is the exit status for it."""

    def __init__(self, error):
        reason = getattr(error, "strerror", None) or error
        super().__init__(f"can't write to standard output: {reason}")
        self.status = _READER_GONE if isinstance(error, BrokenPipeError) else 1


@contextlib.contextmanager
def _writing():
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: somebody has closed it
        raise OutputLost(error) from None


def say(line, end="\n"):
    """Prints a line at once; raises :class:`OutputLost` if that is not possible."""
    with _writing():
        print(line, end=end, flush=True)


def complain(line, end="\n"):
    """Prints a line to standard error, if that is possible."""
    try:
        print(line, end=end, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        _drop(sys.stderr)


def _drop(stream):
    """Discards the rest, which Python would otherwise write once more at its end, and complain."""
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def guarded(name, main, refusal):
    """The exit status of the program ``main()``, or 1 with a line on standard error if its output was lost.

    An error of the class ``refusal``, or an ``OSError``, is reported in such a line too. If the reader of the output
    has gone, as after ``| head``, nothing is reported, and the status is 141.
    """
    # The next file that is opened would otherwise take the number of a stream that was closed, and get its output.
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115 (for the rest of the process)
    try:
        if sys.stdout is None:
            raise OutputLost("it is closed")
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a path may be no UTF-8
        try:
            return main()
        except (refusal, OSError) as error:
            complain(f"{name}: error: {error}")
            return 1
        finally:
            with _writing():
                sys.stdout.flush()
    except OutputLost as error:
        if sys.stdout is not None:
            _drop(sys.stdout)
        if error.status != _READER_GONE:
            complain(f"{name}: error: {error}")
        return error.status


def end_now(status):
    """Ends the process without waiting for anything; says first which error is on its way, if there is one."""
    with contextlib.suppress(OSError):
        if sys.exc_info()[0] is not None:
            sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
    os._exit(status)
