"""The three sets and their batches."""

import doctest
import json
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnistdist import DataSet, Datasets, datasets, read_data_sets


@pytest.fixture(scope="module")
def mnist():
    return read_data_sets()


def numbered(count, seed=None):
    """A set whose labels and single pixels are the row numbers."""
    rows = np.arange(count)
    return DataSet(rows.astype(np.float32).reshape(-1, 1), rows, seed)


def test_sizes_dtypes_and_ranges(mnist):
    assert isinstance(mnist, Datasets)
    for part, count in zip(mnist, (55_000, 5_000, 10_000), strict=True):
        assert part.num_examples == count
        assert part.images.shape == (count, 784)
        assert part.images.dtype == np.float32
        assert (part.images.min(), part.images.max()) == (0, 1)
        assert part.labels.shape == (count,)
        assert part.labels.dtype == np.uint8
        assert sorted(set(part.labels)) == list(range(10))


def test_the_digits_are_mnists_in_the_order_of_the_files(mnist):
    assert mnist.validation.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert mnist.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    both = np.bincount(mnist.train.labels) + np.bincount(mnist.validation.labels)
    assert both.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    means = np.stack([mnist.train.images[mnist.train.labels == digit].mean(axis=0) for digit in range(10)])
    guesses = ((mnist.test.images[:1000, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (guesses == mnist.test.labels[:1000]).mean() > 0.75  # so the labels go with the images


def test_one_hot():
    bytes_, rows = read_data_sets(), read_data_sets(one_hot=True)
    for plain, one_hot in zip(bytes_, rows, strict=True):
        assert one_hot.labels.dtype == np.float32
        assert one_hot.labels.shape == (plain.num_examples, 10)
        assert (one_hot.labels.sum(axis=1) == 1).all()
        assert (one_hot.labels.argmax(axis=1) == plain.labels).all()


def test_bytes_are_scaled_as_the_tutorials_did_whether_in_a_batch_or_all_at_once():
    pixels = np.arange(256, dtype=np.uint8).reshape(-1, 1)
    theirs = np.multiply(pixels.astype(np.float32), 1.0 / 255.0)
    data = DataSet(pixels, np.arange(256))
    batch, rows = data.next_batch(256)
    assert batch.dtype == np.float32
    assert (batch == theirs[rows]).all()
    assert (data.images == theirs).all()
    assert data.images is data.images
    again, rows = data.next_batch(256)
    assert (again == theirs[rows]).all()


def test_what_a_reader_changes_is_what_batches_hand_out(mnist):
    data = DataSet(mnist.test.images[:50], mnist.test.labels[:50].copy())
    data.images[:] = 0.5
    data.labels[:] = 3
    images, labels = data.next_batch(20)
    assert (images == 0.5).all()
    assert (labels == 3).all()
    fresh = read_data_sets(validation_size=0)
    fresh.train.labels[:] = 3  # label noise, say: the arrays are the reader's own


@pytest.mark.parametrize("size", [0, 60_000])
def test_validation_size_may_leave_a_set_empty(size):
    data = read_data_sets(validation_size=size)
    assert (data.train.num_examples, data.validation.num_examples) == (60_000 - size, size)
    empty = data.train if size else data.validation
    assert empty.images.shape == (0, 784)
    assert empty.epochs_completed == 0
    with pytest.raises(ValueError, match="no examples"):
        empty.next_batch(1)


@pytest.mark.parametrize("size", [-1, 60_001])
def test_validation_size_out_of_range(size):
    with pytest.raises(ValueError, match=f"validation_size: expected 0 to 60000, got {size}"):
        read_data_sets(validation_size=size)


@given(
    count=st.integers(1, 40),
    calls=st.lists(st.tuples(st.integers(1, 100), st.booleans()), min_size=1, max_size=12),
    seed=st.none() | st.integers(0, 2**64),
)
def test_every_epoch_hands_out_each_example_once(count, calls, seed):
    data = numbered(count, seed)
    stream = []
    for size, shuffle in calls:
        images, labels = data.next_batch(size, shuffle=shuffle)
        assert images.shape == (size, 1)
        assert (images[:, 0] == labels).all()
        stream.extend(labels)
        assert data.epochs_completed == len(stream) // count
    for start in range(0, len(stream) - count + 1, count):
        assert sorted(stream[start : start + count]) == list(range(count))
    rest = stream[len(stream) // count * count :]
    assert len(set(rest)) == len(rest)


def test_each_epoch_is_shuffled_anew():
    data = numbered(100)
    epochs = [data.next_batch(100)[1].tolist() for _ in range(5)]
    assert all(one != other for one, other in pairwise([list(range(100)), *epochs]))


def test_a_batch_across_the_end_of_an_epoch_is_filled_from_the_next():
    data = numbered(10, seed=1)
    first, second, third = (data.next_batch(7)[1] for _ in range(3))
    assert sorted([*first, *second[:3]]) == list(range(10))
    assert sorted([*second[3:], *third[:6]]) == list(range(10))
    assert data.epochs_completed == 2


def test_a_batch_may_be_larger_than_the_set():
    data = numbered(10)
    labels = data.next_batch(35)[1]
    assert np.bincount(labels).min() == 3
    assert data.epochs_completed == 3


def test_without_shuffling_the_order_is_the_files(mnist):
    data = numbered(10)
    assert data.next_batch(25, shuffle=False)[1].tolist() == [*range(10), *range(10), *range(5)]
    assert (mnist.test.next_batch(100, shuffle=False)[1] == mnist.test.labels[:100]).all()


def test_a_seed_repeats_the_order():
    one, other, third = (read_data_sets(seed=seed, validation_size=100) for seed in (7, 7, 8))
    for part, same, different in zip(one, other, third, strict=True):
        size = part.num_examples - 1
        for _ in range(3):
            labels = part.next_batch(size)[1]
            assert (same.next_batch(size)[1] == labels).all()
            assert (different.next_batch(size)[1] != labels).any()
    workers = [numbered(100, seed=[7, task_index]).next_batch(100)[1].tolist() for task_index in range(3)]
    assert workers[0] != workers[1] != workers[2] != workers[0]


def test_orders_without_a_seed_differ_and_leave_numpys_global_state_alone():
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    orders = {tuple(numbered(100).next_batch(100)[1]) for _ in range(5)}
    assert len(orders) == 5
    assert (np.random.get_state()[1] == before).all()


def test_a_forked_or_unpickled_set_has_an_order_of_its_own():
    """Three forks and an unpickling, in the middle of an epoch: each hands out just what is left of it."""
    code = """
import json, os, pickle, subprocess, sys
import numpy as np
from mnistdist import DataSet

data = DataSet(np.zeros((500, 1), np.float32), np.arange(500))
def rest():
    return data.next_batch(300)[1].tolist() + data.next_batch(500)[1].tolist()
head = data.next_batch(200)[1].tolist()
for _ in range(3):
    if os.fork() == 0:
        print(json.dumps(head + rest()), flush=True)
        os._exit(0)
    os.wait()
child = "import sys, pickle; data = pickle.load(sys.stdin.buffer);"
child += "print(data.next_batch(300)[1].tolist() + data.next_batch(500)[1].tolist())"
child = [sys.executable, "-c", child]
there = subprocess.run(child, input=pickle.dumps(data), stdout=subprocess.PIPE, check=True)
print(json.dumps(head + json.loads(there.stdout)), flush=True)
print(json.dumps(head + rest()), flush=True)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    orders = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(orders) == 5
    for order in orders:
        assert order[:200] == orders[0][:200]
        assert sorted(order[:500]) == sorted(order[500:]) == list(range(500))
    for part in (slice(200, 500), slice(500, 1000)):
        assert len({tuple(order[part]) for order in orders}) == 5


@pytest.mark.parametrize("size", [0, -3])
def test_a_batch_has_at_least_one_example(size):
    with pytest.raises(ValueError, match=f"batch_size: expected an int of 1 or more, got {size}"):
        numbered(3).next_batch(size)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((3, 4)), np.zeros(3, np.uint8), "images: expected .* got float64 of shape"),
        (np.zeros(3, np.uint8), np.zeros(3, np.uint8), "images: expected .* got uint8 of shape"),
        (np.zeros((3, 4), np.uint8), np.zeros(3), "labels: expected .* got float64 of shape"),
        (np.zeros((3, 4), np.uint8), np.zeros((3, 1), np.uint8), "labels: expected .* got uint8 of shape"),
        (np.zeros((3, 4), np.uint8), np.zeros((3, 10)), "labels: expected .* got float64 of shape"),
        (np.zeros((3, 4), np.uint8), np.zeros(4, np.uint8), "got 3 images, 4 labels"),
    ],
)
def test_arrays_of_other_shapes_or_dtypes_are_refused(images, labels, message):
    with pytest.raises(ValueError, match=message):
        DataSet(images, labels)


def test_a_readers_own_arrays():
    pictures = np.full((6, 5, 4, 3), 255, np.uint8)
    data = DataSet(pictures, np.eye(6, dtype=np.float32))
    assert data.images.shape == (6, 60)
    assert data.images.max() == 1
    assert data.next_batch(2)[1].shape == (2, 6)
    raw = np.full((6, 4), 7, np.float32)
    assert np.shares_memory(DataSet(raw, np.arange(6)).images, raw)  # as is, and not copied
    assert repr(data) == "DataSet(6 examples: images of 60 float32, labels of 6 float32)"


def test_each_number_gives_an_order_of_its_own_and_0_that_of_the_seed():
    def order(number=None, seed=1):
        part = DataSet(np.zeros((50, 4), np.uint8), np.zeros(50, np.uint8), seed)
        if number is not None:
            part.reseed(number)
        return tuple(part.next_rows(100).tolist())

    assert order(0) == order()
    assert order(60) == order(60) == order(np.int64(60))
    assert len({order(0), order(1), order(60), order(60, seed=[1, 1]), order(60, seed=None), order(60, seed=None)}) == 6
    assert sorted(order(60)[:50]) == list(range(50))
    with pytest.raises(TypeError, match="number: expected an int"):
        order("60")


def test_examples_in_the_docstrings():
    assert doctest.testmod(datasets).attempted == 3
    assert doctest.testmod(datasets).failed == 0
