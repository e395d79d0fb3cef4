"""Reading the files of a set: whatever they hold, the outcome is the set or an error that names the file."""

import gzip
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnistdist import read_data_sets
from mnistdist.datasets import DataError
from tests.package.idx_sets import NAMES, idx, names_in, refused, small_set, write


def run(code, *arguments):
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("zipped", [False, True])
def test_another_set_is_read_as_it_is(tmp_path, zipped):
    contents = small_set()
    write(tmp_path, contents, zipped)
    before = names_in(tmp_path)
    data = read_data_sets(tmp_path, validation_size=4)
    assert [part.num_examples for part in data] == [8, 4, 5]
    pixels = np.frombuffer(contents["train-images-idx3-ubyte"], np.uint8, offset=16).reshape(12, 784)
    assert (data.validation.images == pixels[:4].astype(np.float32) * np.float32(1 / 255)).all()
    assert (data.train.images == pixels[4:].astype(np.float32) * np.float32(1 / 255)).all()
    assert data.test.labels.tolist() == [0, 1, 2, 3, 4]
    assert names_in(tmp_path) == before


def test_the_unpacked_file_is_preferred_and_packing_is_seen_by_content(tmp_path):
    write(tmp_path, small_set(train=3), zipped=True)
    write(tmp_path, small_set(train=12))
    assert read_data_sets(tmp_path, validation_size=0).train.num_examples == 12
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (tmp_path / f"{name}.gz").replace(tmp_path / name)  # packed, under the plain name
    assert read_data_sets(tmp_path, validation_size=0).train.num_examples == 3


CHANGES = {
    "empty": (lambda content: b"", "found an empty one"),
    "cut in the header": (lambda content: content[:7], "header of"),
    "cut in the values": (lambda content: content[:-1], "truncated"),
    "trailing garbage": (lambda content: content + b"\0", "found more"),
    "text": (lambda content: b"<html>not found</html>", "found 3c 68 74 6d"),
    "floats": (lambda content: b"\0\0\x0d" + content[3:], "found 00 00 0d"),
    "other dimensions": (lambda content: content[:3] + b"\2" + content[4:], "found 00 00 08 02"),
    "no examples": (lambda content: content[:4] + bytes(4) + content[8:], "says 0"),
    "many examples": (lambda content: content[:4] + b"\xff" * 4 + content[8:], "says 4,294,967,295"),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", CHANGES)
def test_a_wrong_file_is_named_with_what_was_expected_and_found(tmp_path, change, name, zipped):
    alter, found = CHANGES[change]
    contents = small_set()
    contents[name] = alter(contents[name])
    write(tmp_path, contents, zipped)
    with refused(tmp_path / f"{name}{'.gz' * zipped}: expected", found):
        read_data_sets(tmp_path, validation_size=0)


def test_damage_to_the_gzip_container(tmp_path):
    path = write(tmp_path, small_set(), zipped=True) / "t10k-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    checksum = bytearray(whole)
    checksum[-8] ^= 1
    for content in (whole[:-1], whole[:200], whole[:5], whole + b"garbage", bytes(checksum)):
        path.write_bytes(content)
        with refused(f"{path}: expected a whole gzip file"):
            read_data_sets(tmp_path, validation_size=0)


def test_files_that_do_not_belong_together(tmp_path):
    contents = small_set()
    contents["t10k-labels-idx1-ubyte"] = small_set(test=6)["t10k-labels-idx1-ubyte"]
    write(tmp_path, contents)
    with refused(f"5 images in {tmp_path}/t10k-images", f"6 labels in {tmp_path}/t10k-labels"):
        read_data_sets(tmp_path, validation_size=0)


def test_images_of_another_size(tmp_path):
    write(tmp_path, small_set() | {"train-images-idx3-ubyte": idx(np.zeros((12, 32, 32)))})
    with refused("train-images-idx3-ubyte", "28 x 28", "784 inputs of the network", "found 32 x 32"):
        read_data_sets(tmp_path)


def test_labels_above_nine(tmp_path):
    write(tmp_path, small_set() | {"train-labels-idx1-ubyte": idx(range(12))})
    assert read_data_sets(tmp_path, validation_size=0).train.labels.max() == 11
    with refused(tmp_path / "train-labels-idx1-ubyte", "0 to 9", "found 11"):
        read_data_sets(tmp_path, one_hot=True, validation_size=0)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_the_files_hold_the_outcome_is_data_or_an_error_that_names_one(data):
    with tempfile.TemporaryDirectory() as folder:
        zipped = data.draw(st.booleans())
        directory = write(Path(folder), small_set(3, 2), zipped)
        path = directory / f"{data.draw(st.sampled_from(NAMES))}{'.gz' * zipped}"
        content = bytearray(path.read_bytes())
        near = st.integers(0, min(40, len(content) - 1))  # headers matter most
        for place in data.draw(st.lists(near | st.integers(0, len(content) - 1), max_size=4)):
            content[place] = data.draw(st.integers(0, 255))
        cut = data.draw(st.none() | st.integers(0, len(content)))
        path.write_bytes(content[:cut] + data.draw(st.binary(max_size=9)))
        try:
            sets = read_data_sets(directory, one_hot=data.draw(st.booleans()), validation_size=0)
        except (DataError, OSError) as error:
            assert str(path) in str(error)
        else:
            assert [part.num_examples for part in sets] == [3, 0, 2]


def test_no_header_and_no_bomb_takes_much_memory(tmp_path):
    """A header of a million images on a small file, and 2 GB of zeros packed into 2 MB."""
    contents = small_set()
    honest = contents["train-images-idx3-ubyte"]
    forged = write(
        tmp_path / "forged", contents | {"train-images-idx3-ubyte": honest[:5] + b"\x0f\x42\x40" + honest[8:]}
    )
    bomb = write(tmp_path / "bomb", contents, zipped=True)
    with (bomb / "train-images-idx3-ubyte.gz").open("ab") as file:
        file.write(gzip.compress(bytes(2**20)) * 2000)
    code = """
import resource, sys
from mnistdist.datasets import DataError, read_data_sets
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for data_dir in sys.argv[1:]:
    try:
        read_data_sets(data_dir)
    except DataError as error:
        print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / before)
"""
    result = run(code, str(forged), str(bomb))
    first, second, growth = result.stdout.splitlines()
    assert "expected 784,000,000 bytes after the header" in first
    assert "expected 9,408 bytes after the header, for 12 examples; found more" in second
    assert float(growth) < 1.5


def test_a_file_without_permission_to_read_it():
    code = """
import os, sys, mnistdist.datasets
if os.geteuid() == 0:
    os.setgroups([]), os.setegid(65534), os.seteuid(65534)  # root may read everything
try:
    mnistdist.read_data_sets(sys.argv[1], validation_size=0)
except PermissionError as error:
    print(error)
"""
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path, which is closed to other users as a whole
        directory = write(Path(folder), small_set())
        directory.chmod(0o755)
        path = directory / "t10k-images-idx3-ubyte"
        path.chmod(0)
        result = run(code, folder)
    assert result.stdout == f"[Errno 13] Permission denied: '{path}'\n", result.stderr
