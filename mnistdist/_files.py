"""Files that exist whole or not at all, even if others write the same file or something goes wrong."""

import contextlib
import errno
import os
import stat
import uuid
from pathlib import Path


@contextlib.contextmanager
def whole(path):
    """A path beside ``path`` to write to; at the end of the block that file replaces it, unless there was an error.

    A link is followed, and the file's permissions stay. Raises ``OSError`` for a device, a pipe or a socket.
    """
    path, mode = Path(os.path.realpath(path)), None
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise OSError(errno.EINVAL, "it is a device, a pipe or a socket", str(path))
    partial = path.with_name(f".{uuid.uuid4().hex}.tmp")  # not by tempfile, whose files others can't read
    try:
        yield partial
        if mode is not None and stat.S_ISREG(mode):
            partial.chmod(stat.S_IMODE(mode))
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):  # a disk that is read-only says so again
            partial.unlink()
