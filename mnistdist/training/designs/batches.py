"""A training set that the worker keeps, so that a run takes the numbers of its rows only."""

import functools

import numpy as np
import tensorflow.compat.v1 as tf

from mnistdist.training.deadlines import timed_run


class Batches:
    """The training set, kept on the worker; batches are made of row numbers, as the model's placeholders take them."""

    def __init__(self, train_set, model):
        self.train_set, self._model = train_set, model
        self._variables, self._fill = [], []
        for name, value in zip(("images", "labels"), train_set.stored, strict=True):
            given = tf.placeholder(value.dtype, value.shape)
            zeros = functools.partial(tf.zeros, value.shape, value.dtype)
            variable = tf.Variable(zeros, name=f"mnistdist/{name}", trainable=False, collections=["data"])
            self._variables.append(variable)
            self._fill.append((variable.assign(given, read_value=False), given))

    def fill(self, session, timeout):
        """Bring the data to the worker."""
        for (assign, given), value in zip(self._fill, self.train_set.stored, strict=True):
            timed_run(session, assign, timeout, {given: value})

    def batch(self, rows):
        """Images and one-hot labels of these rows, as ``DataSet.next_batch`` has them."""
        images, labels = (tf.gather(variable, rows) for variable in self._variables)
        if images.dtype == tf.uint8:
            images = tf.cast(images, tf.float32) * np.float32(1 / 255)
        return tf.cast(images, self._model.x.dtype), tf.cast(labels, self._model.y_.dtype)
