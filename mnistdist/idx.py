"""The four idx files of a data set: finding them, writing MNIST into a directory without them, and reading them.

A file is checked as it is read, and no more of it is read than its header announces. Whatever it holds, the
outcome is an array or one error that names the file.

Source: the idx format from the MNIST page (LeCun, Cortes, Burges): two zero bytes, a type code, the number
of dimensions, each dimension as a big-endian uint32, then the values.
"""

import contextlib
import gzip
import math
import os
import re
import shutil
import struct
import zlib
from importlib import resources
from pathlib import Path

import numpy as np

from mnistdist import _check
from mnistdist._files import whole

_NAMES = {  # and how many dimensions each has
    "train-images-idx3-ubyte": 3,
    "train-labels-idx1-ubyte": 1,
    "t10k-images-idx3-ubyte": 3,
    "t10k-labels-idx1-ubyte": 1,
}
_SIDE = 28
_UNSIGNED_BYTE = 8
MOST_EXAMPLES = 1_000_000  # a header may ask for terabytes; the largest set in use, EMNIST's, has 814,255
_AT_ONCE = 2**20  # bytes
_INSTEAD = "name an empty or new directory to have MNIST written there"
_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar")


class DataError(ValueError):
    """A data file or directory is not what it should be. The message names it, what was expected and what was found.

    Example::

        Path("damaged").mkdir()
        Path("damaged", "train-images-idx3-ubyte").write_bytes(b"too short")
        try:
            read_data_sets("damaged")
        except DataError as error:
            print(error)
    """


def embedded_files():
    """The package's own copy of MNIST: a dict from the name to the file."""
    folder = resources.files("mnistdist") / "data"
    return {name: folder / f"{name}.gz" for name in _NAMES}


def files_in(data_dir):
    """The four files in a directory. MNIST is first written there if it holds nothing else or does not exist.

    Returns a dict from name to path. Raises :class:`DataError` if ``data_dir`` is not a directory, or if files are
    missing and it holds something that is not MNIST's, ``OSError`` if it can't be read, made or written, and
    ``TypeError`` if it is not a path.
    """
    try:
        directory = Path(_check.path("data_dir", data_dir))
    except ValueError as error:
        raise DataError(str(error)) from None
    if os.path.lexists(directory) and not directory.is_dir():
        what = "a file" if directory.exists() else f"a link to {os.readlink(directory)}, which is not there"
        raise DataError(f"{directory}: expected a directory, found {what}; {_INSTEAD}")
    # In this order: what another process puts beside the four files when it has written them is no stranger to them.
    entries = sorted(entry.name for entry in directory.iterdir()) if directory.exists() else []
    both = [(name, directory / f"{name}{ending}") for name in _NAMES for ending in (".gz", "")]
    found = {name: path for name, path in both if path.exists()}  # the last that exists
    missing = [name for name in _NAMES if name not in found]
    if missing:
        _check_only_mnist(directory, entries, found, missing)
        directory.mkdir(parents=True, exist_ok=True)
    for name in missing:
        found[name] = directory / f"{name}.gz"
        _copy(embedded_files()[name], found[name])
    return found


def read_idx(path, ndim):
    """Reads an idx file of unsigned bytes, plain or gzipped, as a read-only uint8 array of shape (N, 28, 28) or (N,).

    Takes the path, and 3 for images, which must have 28 x 28 pixels, or 1 for labels. Raises :class:`DataError` if the
    file is damaged or holds less, more or something else, and ``OSError`` if it can't be read.
    """
    magic = bytes([0, 0, _UNSIGNED_BYTE, ndim])
    if path.exists() and not path.is_file():
        raise _bad(path, "a file", "a directory or a device")
    with _naming(path), path.open("rb") as file:
        stream = gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == b"\x1f\x8b" else file
        header = stream.read(4 + 4 * ndim)
        if header[:4] != magic:
            what = f"an idx file of {ndim}-dimensional unsigned bytes, starting with {magic.hex(' ')}"
            raise _bad(path, what, header[:4].hex(" ") or "an empty one")
        if len(header) < 4 + 4 * ndim:
            raise _bad(path, f"a header of {4 + 4 * ndim} bytes", f"{len(header)}: the file is truncated")
        shape = struct.unpack(f">{ndim}I", header[4:])
        if ndim == 3 and shape[1:] != (_SIDE, _SIDE):
            what = f"images of {_SIDE} x {_SIDE} pixels, the {_SIDE * _SIDE} inputs of the network"
            raise _bad(path, what, f"{shape[1]} x {shape[2]}")
        if not 1 <= shape[0] <= MOST_EXAMPLES:
            raise _bad(path, f"1 to {MOST_EXAMPLES:,} examples", f"a header that says {shape[0]:,}")
        size = math.prod(shape)
        body = bytearray()  # grows with what is there: read(size) makes room for what the header claims
        while part := stream.read(min(_AT_ONCE, size + 1 - len(body))):
            body += part  # up to one byte too many: that reaches the end, where gzip checks its sum
    if len(body) != size:
        found = "more" if len(body) > size else f"{len(body):,}: the file is truncated"
        raise _bad(path, f"{size:,} bytes after the header, for {shape[0]:,} examples", found)
    array = np.frombuffer(body, np.uint8).reshape(shape)
    array.flags.writeable = False
    return array


def _check_only_mnist(directory, entries, found, missing):
    """Refuses to write MNIST into a directory that holds anything else, which may be another set."""
    lack = f"{directory}: expected {', '.join(_NAMES)}, with or without .gz; missing: {', '.join(missing)}"
    # A hidden file may be what an interrupted copy has left, and a new file system has lost+found.
    strangers = [name for name in entries if not name.startswith(".") and name != "lost+found"]
    strangers = [name for name in strangers if name.removesuffix(".gz") not in _NAMES]
    links = [name for each in missing for name in (each, f"{each}.gz") if (directory / name).is_symlink()]
    if strangers or links:
        seen = [f"{name}, a link to {os.readlink(directory / name)}, which is not there" for name in links]
        seen += strangers[:5] + [f"{len(strangers) - 5} more"] * (len(strangers) > 5)
        raise DataError(f"{lack}; found {', '.join(seen)}. {_advice(directory, strangers, links)}, or {_INSTEAD}")
    embedded = embedded_files()
    for name, path in found.items():
        if not np.array_equal(read_idx(path, _NAMES[name]), read_idx(embedded[name], _NAMES[name])):
            raise DataError(f"{lack}; found {path.name}, not of MNIST. Add the missing, or {_INSTEAD}")


def _advice(directory, strangers, links):
    """What to do about a directory without the four files, depending on what it holds instead."""
    # As torchvision has it: raw/ beside processed/, both in a directory named for the set.
    for raw in [directory / "raw", *directory.glob("*/raw"), directory.parent / "raw"]:
        if any(os.path.exists(raw / f"{name}{ending}") for name in _NAMES for ending in ("", ".gz")):
            return f"If {raw} is meant, name that as data_dir"
    if links:
        return "Mend the link"
    if any(name.endswith(_ARCHIVES) for name in strangers):
        return "Unpack the archive there"
    if any(re.search("idx[13]", name) for name in strangers):
        return "Rename these"
    return "Name the directory that has the four files"


def _copy(source, target):
    with _naming(target), whole(target) as partial, source.open("rb") as reader, partial.open("xb") as writer:
        shutil.copyfileobj(reader, writer)


def _bad(path, expected, found):
    return DataError(f"{path}: expected {expected}; found {found}. Replace it, or name another data_dir")


@contextlib.contextmanager
def _naming(path):
    """Lets every error of reading or writing a file say which file it is about."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _bad(path, "a whole gzip file", f"a damaged or truncated one ({error})") from error
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
