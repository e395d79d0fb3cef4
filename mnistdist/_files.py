"""Files that exist whole or not at all, even if others write the same file or something goes wrong."""

import contextlib
import os
import uuid


@contextlib.contextmanager
def whole(path):
    """A path beside ``path`` to write to; at the end of the block that file replaces it, unless there was an error."""
    partial = path.with_name(f".{uuid.uuid4().hex}.tmp")  # not by tempfile, whose files others can't read
    try:
        yield partial
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):  # a disk that is read-only says so again
            partial.unlink()
