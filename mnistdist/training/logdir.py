"""The folder of a training's checkpoints: it is tried before anything starts, and one training at a time holds it."""

import contextlib
import errno
import fcntl
import functools
import os
import socket
import tempfile

from mnistdist._wait import poll

LOCK = "training.lock"
_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)  # a file system without locks


class InUse(OSError):
    """Another training holds the folder."""


def prepare(folder, name="logdir"):
    """Makes the folder if necessary, and checks whether a training can keep checkpoints in it.

    Raises:
        OSError: It can't be made or written, or another training holds it. The message calls it ``name``.
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
    """Makes the folder if necessary, and holds it while the ``with`` block runs, so that no other training can.

    The system releases it when the process ends, however it ends. The lock file stays, because on a network file system
    another machine might still have one that was removed. On a file system without locks, nobody is refused.

    Raises:
        OSError: Another training holds the folder (:class:`InUse` names its process), or it can't be made.
    """
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, LOCK)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:  # the file is another user's, in a folder that both may write to
        descriptor = os.open(path, os.O_RDONLY)
    try:
        # Others hold it for a moment while they only try it, or while they are dying.
        if not poll(1, functools.partial(_locked, descriptor)):
            holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "a process that is not known"
            raise InUse(f"{folder} is in use by another training ({holder}): wait for its end, or take another folder")
        try:
            _note(descriptor, f"process {os.getpid()} on {socket.gethostname()}")
            yield
        finally:  # also if the training has failed
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
    with contextlib.suppress(OSError):  # a file that may not be written names nobody
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
