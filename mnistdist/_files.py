"""Files that are there whole or not at all, whoever writes the same and whatever goes wrong."""

import contextlib
import os
import uuid


@contextlib.contextmanager
def whole(path):
    """A path beside ``path`` to write to; what is there at the end of the block takes its place, unless by an error."""
    partial = path.with_name(f".{uuid.uuid4().hex}.tmp")  # not by tempfile, whose files others can't read
    try:
        yield partial
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):  # a disk that is read-only says so again
            partial.unlink()
