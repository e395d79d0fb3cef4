"""The folder of a training's checkpoints: tried before anything starts, and held by one training at a time."""

import contextlib
import errno
import fcntl
import functools
import os
import socket
import tempfile

from mnistdist._wait import poll

LOCK = "training.lock"
_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)  # a file system that has none


class InUse(OSError):
    """Another training holds the folder."""


def prepare(folder, name="logdir"):
    """Make the folder if need be, and see whether a training can keep checkpoints in it.

    Raises:
        OSError: it can't be made or written, or another training holds it. ``name`` is what the message calls it.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
        with held(folder):
            pass
    except InUse:
        raise
    except OSError as error:
        why = "it is not a folder" if isinstance(error, FileExistsError) else error.strerror
        raise OSError(f"{name}: no checkpoints can be kept in {folder}: {why}") from None


@contextlib.contextmanager
def held(folder):
    """Make the folder if need be, and hold it while the ``with`` block runs: no other training can.

    The system lets go of it when the process ends, however it ends. The lock file stays, because on a network file
    system one that was removed might still be another machine's. On a file system without locks, nobody is refused.

    Raises:
        OSError: another training holds the folder (:class:`InUse`, which names its process), or it can't be made.
    """
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, LOCK)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:  # the file is another user's, in a folder that both may write to
        descriptor = os.open(path, os.O_RDONLY)
    try:
        # Others hold it for a moment when they only try it, or while they are dying.
        if not poll(1, functools.partial(_locked, descriptor)):
            holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "a process that is not known"
            raise InUse(f"{folder} is in use by another training ({holder}): wait for its end, or take another folder")
        try:
            _note(descriptor, f"process {os.getpid()} on {socket.gethostname()}")
            yield
        finally:  # of a training that has failed too
            _note(descriptor, "")
    finally:
        os.close(descriptor)


def _locked(descriptor):
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise
    return True


def _note(descriptor, text):
    with contextlib.suppress(OSError):  # what may not be written names nobody
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
