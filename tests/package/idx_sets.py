"""Data directories for tests: a small set that is not MNIST, written as the four files of MNIST."""

import gzip
import struct
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from mnistdist.datasets import DataError

DATA = Path(__file__).parents[2] / "mnistdist" / "data"
NAMES = [f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
ZIPPED = sorted(f"{name}.gz" for name in NAMES)


def idx(array):
    array = np.asarray(array, np.uint8)
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def small_set(train=12, test=5):
    """The content of the four files of a set that is not MNIST, by name."""
    random = np.random.default_rng(0)
    contents = {}
    for split, count in (("train", train), ("t10k", test)):
        contents[f"{split}-images-idx3-ubyte"] = idx(random.integers(0, 256, (count, 28, 28)))
        contents[f"{split}-labels-idx1-ubyte"] = idx(np.arange(count) % 10)
    return contents


def write(directory, contents, zipped=False):
    directory.mkdir(exist_ok=True)
    for name, content in contents.items():
        if zipped:
            (directory / f"{name}.gz").write_bytes(gzip.compress(content, 1))
        else:
            (directory / name).write_bytes(content)
    return directory


def names_in(directory):
    return sorted(path.name for path in directory.iterdir())


@contextmanager
def refused(*parts, error=DataError):
    """Expect an error whose message, in one line, has all the parts."""
    with pytest.raises(error) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message
