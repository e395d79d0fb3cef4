"""MNIST, or another set kept in MNIST's four files, as the old TensorFlow tutorials read it.

Most programs need one call, ``read_data_sets(data_dir)``. Images stay bytes until they are handed out, so a
worker that only draws batches holds 55 MB, not the 220 MB of the same pixels as float32, and starts sooner.

Source: the names and behaviour of ``tensorflow.examples.tutorials.mnist.input_data``, which TensorFlow 2 dropped.
"""

import math
import os
from typing import NamedTuple

import numpy as np

from mnistdist import _check
from mnistdist.idx import MOST_EXAMPLES, DataError, embedded_files, files_in, read_idx

_CLASSES = 10
VALIDATION_SIZE = 5000


class DataSet:
    """Images with their labels, handed out in batches.

    Args:
        images: An array with one image in each row, of shape (N, pixels), or (N, height, width, ...), which is
            flattened. uint8 (0 to 255) is scaled to float32 in [0, 1] when it is handed out; float32 stays as it is.
        labels: Integers of shape (N,), or float32 of shape (N, classes), one-hot or soft. Neither array is copied.
        seed: Anything that ``numpy.random.default_rng`` takes; makes the order of the batches repeatable. Workers
            that should draw different batches need different seeds, such as ``[seed, task_index]``. Without a seed,
            every process has an order of its own, even after a fork or an unpickling.

    Raises:
        ValueError: A shape or dtype is wrong, the numbers of images and labels differ, or ``seed`` is below 0.
        TypeError: ``seed`` is not a number.

    >>> pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    >>> DataSet(pixels, np.array([0, 1, 2], np.uint8))
    DataSet(3 examples: images of 4 uint8, labels uint8)
    """

    def __init__(self, images, labels, seed=None):
        images, labels = _array("images", images), _array("labels", labels)
        if images.ndim < 2 or images.dtype not in (np.uint8, np.float32):
            wanted = "images: expected one image a row, uint8 (0 to 255) or float32 (0 to 1)"
            raise ValueError(f"{wanted}; got {images.dtype} of shape {images.shape}")
        whole_numbers = labels.ndim == 1 and labels.dtype.kind in "iu"
        if not whole_numbers and (labels.ndim != 2 or labels.dtype != np.float32):
            wanted = "labels: expected integers of shape (N,) or float32 of shape (N, classes)"
            raise ValueError(f"{wanted}; got {labels.dtype} of shape {labels.shape}")
        if len(images) != len(labels):
            raise ValueError(f"expected one label an image; got {len(images)} images, {len(labels)} labels")
        self._images = images.reshape(len(images), math.prod(images.shape[1:]))
        self._labels = labels
        self._generator = None if seed is None else _generator(seed)
        self._drawn = 0  # examples handed out so far, in all epochs
        self._order = None  # of the rows in the present epoch
        self._shuffled_by = None  # the process that shuffled them without a seed

    def __repr__(self):
        images, labels = self._images, self._labels
        kind = f"of {labels.shape[1]} {labels.dtype}" if labels.ndim == 2 else f"{labels.dtype}"
        return f"DataSet({len(images)} examples: images of {images.shape[1]} {images.dtype}, labels {kind})"

    @property
    def images(self):
        """All images, float32 of shape (N, pixels), in the given order, which drawing batches does not change.

        At the first access, floats replace the bytes.
        """
        self._images = _scaled(self._images)
        return self._images

    @property
    def labels(self):
        """All labels, in the order of ``images``."""
        return self._labels

    @property
    def stored(self):
        """``(images, labels)`` as they are stored: images may be uint8, 0 to 255, of shape (N, pixels)."""
        return self._images, self._labels

    @property
    def num_examples(self):
        """How many images there are."""
        return len(self._images)

    @property
    def epochs_completed(self):
        """How many times the whole set has been handed out.

        The tutorials' reader counted an epoch when the next one began. If batches fill an epoch exactly, its
        count came one batch later.
        """
        return self._drawn // max(self.num_examples, 1)

    def reseed(self, number):
        """Shuffles further epochs by the seed and this number; each number gives an order of its own.

        0 keeps the seed's own order. Without a seed, orders differ anyway. A number below 0 raises ``ValueError``.
        """
        number = _check.count("number", number, (0, None))
        if self._generator is not None and number:
            self._generator = np.random.default_rng([int(self._generator.integers(2**63)), number])

    def next_batch(self, batch_size, *, shuffle=True):
        """Returns the next ``batch_size`` examples.

        Every epoch hands out each example once, newly shuffled, and drops nothing. A batch that crosses the end
        of an epoch takes what is left and is filled from the next one. It may be larger than the set.

        Args:
            batch_size: How many examples: at least 1, and at most 1,000,000 or as many as there are.
            shuffle: Whether epochs that begin in this call are shuffled, or keep the order of ``images``.

        Returns:
            ``(images, labels)``, new arrays: float32 of shape (batch_size, pixels), and labels like ``labels``.

        Raises:
            ValueError: ``batch_size`` is out of range, or the set is empty.
            TypeError: ``batch_size`` is not an int.
        """
        rows = self.next_rows(batch_size, shuffle=shuffle)
        return _scaled(self._images[rows]), self._labels[rows]

    def next_rows(self, batch_size, *, shuffle=True):
        """The row numbers of the next ``batch_size`` examples, int64, as :meth:`next_batch` draws them."""
        count = _check.count("batch_size", batch_size, (1, max(MOST_EXAMPLES, self.num_examples)))
        if not self.num_examples:
            raise ValueError("next_batch: this set has no examples (see validation_size of read_data_sets)")
        if self._shuffled_by not in (None, os.getpid()):
            # Forked or unpickled since the last shuffle, so the rest of this epoch gets an order of its own.
            self._shuffle(self._order[self._drawn % self.num_examples :])
        parts = []
        while count:
            start = self._drawn % self.num_examples
            if start == 0:
                self._order, self._shuffled_by = np.arange(self.num_examples), None
                if shuffle:
                    self._shuffle(self._order)
            parts.append(self._order[start : start + count])
            self._drawn += len(parts[-1])
            count -= len(parts[-1])
        return np.concatenate(parts)

    def _shuffle(self, rows):
        """Shuffles in place; without a seed, by new entropy of the system, which no two processes share."""
        if self._generator is None:
            self._shuffled_by = os.getpid()
        (self._generator or np.random.default_rng()).shuffle(rows)


class Datasets(NamedTuple):
    """The three ``DataSet`` objects that ``read_data_sets`` returns.

    Example::

        mnist = read_data_sets(one_hot=True)
        few = Datasets(*(DataSet(part.images[:600], part.labels[:600]) for part in mnist))
        train(cluster, steps=50, data=few)
    """

    train: DataSet
    validation: DataSet
    test: DataSet


def read_data_sets(data_dir=None, one_hot=False, validation_size=VALIDATION_SIZE, seed=None):
    """Reads the training, validation and test sets.

    The four files are ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte``
    and ``t10k-labels-idx1-ubyte``, with or without ``.gz``. If both exist, the one without is read.

    Args:
        data_dir: A directory with the four files, or None for the package's copy. The files may be of any set whose
            images have 28 x 28 pixels, the 784 inputs of the network, such as Fashion-MNIST. If the directory is new
            or empty, or holds only some of MNIST's own files, MNIST is written there; any number of processes may do
            so at once. Hidden files don't count.
        one_hot: Whether labels are float32 rows of 10 numbers instead of uint8.
        validation_size: How many of the first training examples make the validation set.
        seed: The seed of each :class:`DataSet`.

    Returns:
        ``Datasets(train, validation, test)``: 55,000, 5,000 and 10,000 examples of MNIST by default.

    Raises:
        DataError: A file is damaged, truncated or not what its name says, or files don't belong together, or some
            are missing and the directory holds something else.
        OSError: A file or directory can't be read or written.
        ValueError: ``validation_size`` is negative or larger than the training set, or ``seed`` is below 0.
        TypeError: An argument is of another type.

    >>> [part.num_examples for part in read_data_sets()]
    [55000, 5000, 10000]
    """
    validation_size = _check.integer("validation_size", validation_size)
    one_hot = _check.truth("one_hot", one_hot)
    if seed is not None:
        _generator(seed)  # complains now, and not after everything has been read
    files = embedded_files() if data_dir is None else files_in(data_dir)
    images, labels = _read_split(files, "train", one_hot)
    if not 0 <= validation_size <= len(images):
        have = f"{data_dir or 'MNIST'} has {len(images)} training examples"
        raise ValueError(f"validation_size: expected 0 to {len(images)}, got {validation_size}: {have}")
    return Datasets(
        train=DataSet(images[validation_size:], labels[validation_size:], seed),
        validation=DataSet(images[:validation_size], labels[:validation_size], seed),
        test=DataSet(*_read_split(files, "t10k", one_hot), seed),
    )


def read_for_training(data_dir, seed=None):
    """Reads what :func:`read_data_sets` reads by default, one-hot; ``ValueError`` if nothing is left to train on."""
    data = read_data_sets(data_dir, one_hot=True, seed=seed)
    if not data.train.num_examples:
        validation = f"all {data.validation.num_examples} training examples are the validation set"
        raise ValueError(f"{data_dir}: {validation}, and none is left to train on")
    return data


def _array(name, values):
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected an array, got a {type(values).__name__} that makes none: {error}") from None


def _generator(seed):
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"seed: expected an int of 0 or more, several of them, or None; got {seed!r}") from None


def _read_split(files, split, one_hot):
    """Images, uint8 of shape (N, 28, 28), and labels of ``"train"`` or ``"t10k"``."""
    images_file, labels_file = files[f"{split}-images-idx3-ubyte"], files[f"{split}-labels-idx1-ubyte"]
    images, labels = read_idx(images_file, 3), read_idx(labels_file, 1)
    if len(images) != len(labels):
        found = f"{len(images)} images in {images_file} and {len(labels)} labels in {labels_file}"
        raise DataError(f"expected one label an image; found {found}")
    if one_hot and labels.max() >= _CLASSES:
        raise DataError(f"{labels_file}: expected labels from 0 to {_CLASSES - 1}; found {labels.max()}")
    return images, np.eye(_CLASSES, dtype=np.float32)[labels] if one_hot else labels.copy()


def _scaled(images):
    """Bytes as float32 in [0, 1], bit for bit as in the tutorials; float32 stays as it is."""
    if images.dtype == np.uint8:
        images = images.astype(np.float32)
        images *= np.float32(1 / 255)
    return images
