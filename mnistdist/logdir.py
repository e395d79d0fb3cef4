"""The folder of a training's checkpoints: tried before anything starts, and held by one training at a time."""

import contextlib
import errno
import fcntl
import os
import socket
import tempfile
import time

LOCK = "training.lock"
_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # a file system that has none


def prepare(folder, name="logdir"):
    """Make the folder if need be, and see whether a training can keep checkpoints in it.

    Raises:
        OSError: it can't be made or written, or another training holds it. ``name`` is what the message calls it.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
    except OSError as error:
        raise OSError(f"{name}: no checkpoints can be kept in {folder}: {error.strerror}") from None
    with held(folder):
        pass


@contextlib.contextmanager
def held(folder):
    """Hold the folder while the ``with`` block runs: no other training can, on any machine that shares the folder.

    The system lets go of it when the process ends, however it ends; a lock file that is left is no obstacle.

    Raises:
        OSError: another training holds the folder; the message names its process.
    """
    path = os.path.join(folder, LOCK)
    descriptor = _lock(path, folder)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                os.remove(path)
        os.close(descriptor)


def _lock(path, folder):
    deadline = time.monotonic() + 1  # others hold it for a moment when they only try it, or while they are dying
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                holder = os.read(descriptor, 200).decode(errors="replace") or "a process that is not known"
                os.close(descriptor)
                raise OSError(
                    f"{folder} is in use by another training ({holder}): wait for its end, or take another folder"
                ) from None
            time.sleep(0.05)
        except OSError as error:
            if error.errno not in _NO_LOCKS_HERE:
                raise
            return descriptor
        else:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):  # or its last holder has removed it meanwhile
                    os.truncate(descriptor, 0)
                    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
                    return descriptor
        os.close(descriptor)
