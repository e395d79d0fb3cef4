"""The classic program's network: 784 inputs, one hidden layer of rectified linear units, 10 probabilities.

It has the same ops as the program that the book studies, and the same weaknesses, which the chapter "Data and model"
measures: a loss that is summed over the batch, and a clip that keeps the logarithm from zero.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
import tensorflow.compat.v1 as tf

from mnistdist._wait import within
from mnistdist.results import Evaluation

IMAGE_PIXELS = 28  # the side of an image
CLASSES = 10
SMALLEST_PROBABILITY = 1e-10
EVALUATED_AT_ONCE = 500


@dataclass(frozen=True)
class Graph:
    """The tensors of a model that a training loop needs. A ``build_graph()`` of your own returns them.

    Attributes:
        x: The placeholder for the images, float32 of shape (batch, pixels).
        y_: The placeholder for the labels, float32 of shape (batch, classes), one-hot.
        y: The predicted probabilities, float32 of shape (batch, classes).
        loss: The float32 scalar that training minimises.
        accuracy: The share of the batch whose most probable class is the labelled one, a float32 scalar.

    Example::

        def softmax_regression():
            import tensorflow.compat.v1 as tf
            from mnistdist import Graph

            weights = tf.get_variable("weights", [784, 10], initializer=tf.zeros_initializer())
            x = tf.placeholder(tf.float32, [None, 784])
            y_ = tf.placeholder(tf.float32, [None, 10])
            logits = tf.matmul(x, weights)
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits_v2(labels=y_, logits=logits))
            right = tf.equal(tf.argmax(logits, 1), tf.argmax(y_, 1))
            return Graph(x, y_, tf.nn.softmax(logits), loss, tf.reduce_mean(tf.cast(right, tf.float32)))

        train(cluster, steps=100, build_graph=softmax_regression)
    """

    x: tf.Tensor
    y_: tf.Tensor
    y: tf.Tensor
    loss: tf.Tensor
    accuracy: tf.Tensor


def build_model(hidden_units=100):
    """Add the network to the default graph, on the devices in force; returns its :class:`Graph`.

    Four trainable variables: ``hid_w`` (784, hidden_units), ``hid_b``, ``sm_w`` (hidden_units, 10), ``sm_b``.

    Raises:
        ValueError: if ``hidden_units`` is less than 1.
    """
    if hidden_units < 1:
        raise ValueError(f"hidden_units: expected 1 or more, got {hidden_units}")
    pixels = IMAGE_PIXELS * IMAGE_PIXELS
    # A standard deviation of one over the root of a layer's inputs keeps the sums that it computes near 1.
    first_weights = tf.truncated_normal([pixels, hidden_units], stddev=1.0 / IMAGE_PIXELS)
    hid_w = tf.Variable(first_weights, name="hid_w")
    hid_b = tf.Variable(tf.zeros([hidden_units]), name="hid_b")
    second_weights = tf.truncated_normal([hidden_units, CLASSES], stddev=1.0 / math.sqrt(hidden_units))
    sm_w = tf.Variable(second_weights, name="sm_w")
    sm_b = tf.Variable(tf.zeros([CLASSES]), name="sm_b")

    x = tf.placeholder(tf.float32, [None, pixels], name="x")
    y_ = tf.placeholder(tf.float32, [None, CLASSES], name="y_")
    hid = tf.nn.relu(tf.nn.xw_plus_b(x, hid_w, hid_b))
    y = tf.nn.softmax(tf.nn.xw_plus_b(hid, sm_w, sm_b))
    return Graph(x, y_, y, cross_entropy(y_, y), accuracy(y_, y))


def cross_entropy(y_, y):
    """Cross entropy of probabilities ``y`` against one-hot labels ``y_``, summed over the batch.

    It is a scalar, in nats, the unit of the natural logarithm.
    """
    return -tf.reduce_sum(y_ * tf.log(tf.clip_by_value(y, SMALLEST_PROBABILITY, 1.0)))


def accuracy(y_, y):
    """Share of the rows in which ``y`` and ``y_`` have their largest value in the same column: a float32 scalar."""
    return tf.reduce_mean(tf.cast(tf.equal(tf.argmax(y, 1), tf.argmax(y_, 1)), tf.float32))


def evaluate(session, model, dataset, timeout=None):
    """The model's :class:`Evaluation` on a data set with ``images`` and ``labels``, in batches of a few hundred.

    Raises ``TimeoutError`` if a batch takes more than ``timeout`` seconds; None for any.
    """
    return evaluate_and_predict(session, model, dataset, timeout)[0]


def evaluate_and_predict(session, model, dataset, timeout=None):
    """The model's :class:`Evaluation` on a data set, and its ``y`` for each example; see :func:`evaluate`.

    The loss is that of the whole set in one batch, whether it is a sum or a mean over the examples, plus a constant.
    """
    count, parts, late = len(dataset.images), [], f"no evaluation within {timeout} s: a ps does not answer"
    fixed = model.x.shape.as_list()[0] if model.x.shape.rank else None

    def run(rows):
        feed = {model.x: dataset.images[rows], model.y_: dataset.labels[rows]}
        ask = functools.partial(session.run, [model.loss, model.accuracy, model.y], feed)
        loss, accuracy, y = within(timeout, ask, late) if timeout else ask()
        return np.array([loss, accuracy], np.float64), y

    size = fixed or min(count, EVALUATED_AT_ONCE)
    for begin in range(0, count, size):
        rows = np.arange(begin, min(begin + size, count))
        if len(rows) == size or not fixed:
            values, y = run(rows)
        else:  # fill it up with one example, and take that out again
            filled, y = run(np.resize(np.append(rows, np.zeros(size, int)), size))
            values = (size * filled - (size - len(rows)) * run(np.zeros(size, int))[0]) / len(rows)
        parts.append((len(rows), values, y[: len(rows)]))
    lengths, values, predictions = zip(*parts, strict=True)
    loss, accuracy = np.average(values, axis=0, weights=lengths)
    if len(parts) > 1 and not fixed:
        *draws, twice = (run(np.tile(np.arange(size // 2), times))[0][0] for times in (1, 1, 1, 1, 2))
        once, noise = np.mean(draws), 5 * np.ptp(draws)  # of dropout, say
        if abs(twice - once) > 1e-4 * abs(once) + noise:  # a sum
            constant = 2 * once - twice if abs(2 * once - twice) > noise else 0
            loss = sum(each[0] - constant for each in values) + constant
    return Evaluation(float(loss), float(accuracy)), np.concatenate(predictions)
