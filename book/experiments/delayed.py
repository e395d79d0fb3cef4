"""Train in one process with gradients of a known age: asynchronous training with its chance taken out.

What staleness does to learning can't be told from a running cluster, where it varies from update to update and with
what else the machine does. Here each gradient is computed on the parameters as they were exactly so many updates ago.
"""

import functools
import math

import numpy as np
import tensorflow.compat.v1 as tf

from book.experiments.report import evaluated
from mnistdist.datasets import DataSet, read_data_sets
from mnistdist.model import build_model, cross_entropy

MAKERS = {
    "sgd": tf.train.GradientDescentOptimizer,
    "momentum": functools.partial(tf.train.MomentumOptimizer, momentum=0.9),
    "adagrad": tf.train.AdagradOptimizer,
    "adam": tf.train.AdamOptimizer,
}
OLDEST = 16  # updates
GUESSING = math.log(10)  # the loss of an image when all classes are equally probable


@functools.cache
def mnist():
    """The training set, the validation set, and the first 1,000 of the validation set, for many quick looks."""
    sets = read_data_sets(one_hot=True)
    return sets.train, sets.validation, DataSet(sets.validation.images[:1000], sets.validation.labels[:1000])


@functools.cache
def initial_values(seed):
    """The first values of the network's four variables, NumPy arrays in the order of ``build_model``."""
    with tf.Graph().as_default() as graph, tf.Session(graph=graph) as session:
        tf.set_random_seed(seed)
        build_model()
        session.run(tf.global_variables_initializer())
        return session.run(tf.trainable_variables())


def mean_loss(theta, shapes, x, y_):
    """The loss of an image, a mean over the batch, of the text's network whose parameters are one flat vector."""
    sizes = [math.prod(shape) for shape in shapes]
    parts = [tf.reshape(part, shape) for part, shape in zip(tf.split(theta, sizes), shapes, strict=True)]
    hid_w, hid_b, sm_w, sm_b = parts
    hid = tf.nn.relu(tf.nn.xw_plus_b(x, hid_w, hid_b))
    y = tf.nn.softmax(tf.nn.xw_plus_b(hid, sm_w, sm_b))
    return cross_entropy(y_, y) / tf.cast(tf.shape(y_)[0], tf.float32)


class Delayed:
    """The text's network, an optimizer, and as many old copies of the parameters as the oldest gradient needs.

    One graph serves all trainings with an optimizer: parameters, rates and ages are fed.
    """

    def __init__(self, optimizer):
        shapes = [value.shape for value in initial_values(0)]
        size = sum(math.prod(shape) for shape in shapes)
        train_set = mnist()[0]
        pixels, labels = train_set.stored
        self._graph = tf.Graph()
        with self._graph.as_default(), tf.variable_scope("delayed", use_resource=True):
            self._first = tf.placeholder(tf.float32, [size])
            self._pixels = tf.placeholder(pixels.dtype, pixels.shape)
            self._labels = tf.placeholder(labels.dtype, labels.shape)
            pixels_kept = tf.Variable(self._pixels, trainable=False)
            labels_kept = tf.Variable(self._labels, trainable=False)
            self._theta = theta = tf.Variable(self._first)
            copies = tf.Variable(tf.tile(self._first[None], [OLDEST + 1, 1]), trainable=False)
            self._rows = tf.placeholder(tf.int32, [None, None])
            self._pulled, self._made = (tf.placeholder(tf.int32, [None]) for _ in range(2))
            self._rates = tf.placeholder(tf.float32, [None])
            rate = None
            opt = MAKERS[optimizer](lambda: rate)

            def update(step):
                nonlocal rate
                rate, rows = self._rates[step], self._rows[step]
                pulled = tf.gather(copies, self._pulled[step] % (OLDEST + 1))
                x = tf.cast(tf.gather(pixels_kept, rows), tf.float32) * np.float32(1 / 255)
                gradient = tf.gradients(mean_loss(pulled, shapes, x, tf.gather(labels_kept, rows)), pulled)[0]
                with tf.control_dependencies([opt.apply_gradients([(gradient, theta)])]):
                    new = theta.read_value()
                keep = tf.scatter_update(copies, self._made[step] % (OLDEST + 1), new)
                with tf.control_dependencies([keep]):
                    return step + 1

            steps = tf.shape(self._rows)[0]
            self._update = tf.while_loop(lambda step: step < steps, update, [0], parallel_iterations=1)
            # Data once; all else anew for each training.
            data = [pixels_kept, labels_kept]
            self._start = tf.variables_initializer([v for v in tf.global_variables() if v not in data])
            fill = tf.variables_initializer(data)
        self._shapes, self._train_set = shapes, train_set
        self._session = tf.Session(graph=self._graph)
        self._session.run(fill, {self._pixels: pixels, self._labels: labels})

    def train(self, seed, rates, *, staleness=0, warm_up=0, batch_size=100, every=25):
        """Make an update at each of these rates; return what came of it, as plain JSON.

        Args:
            seed: Of the first parameters and of the order of the images.
            rates: The learning rate of each update, for a loss that is a mean over the batch.
            staleness: How many updates old the parameters are that a gradient is computed on. The first ones are as
                old as they can be: all are computed on the first parameters.
            warm_up: Updates at staleness 0 before that.
            batch_size: Images an update.
            every: Updates from one look at the accuracy to the next.

        Returns:
            A dict: ``loss`` of an image (None if it is not finite) and ``error`` on the validation set, whether it has
            ``diverged`` to worse than guessing, and at which look the accuracy was first 90% and 95% (None if never).
        """
        if not 0 <= staleness <= OLDEST:
            raise ValueError(f"staleness: expected 0 to {OLDEST} updates, got {staleness}")
        _, validation, few = mnist()
        values = np.concatenate([value.ravel() for value in initial_values(seed)])
        self._session.run(self._start, {self._first: values})
        order = DataSet(*self._train_set.stored, seed=[seed, 0])
        numbers = np.arange(len(rates))
        pulled = np.where(numbers < warm_up, numbers, np.maximum(numbers - staleness, warm_up))
        reached = {}
        for begin in range(0, len(rates), every):
            part = slice(begin, begin + every)
            rows = order.next_rows(batch_size * len(numbers[part])).reshape(-1, batch_size)
            feed = {self._rows: rows, self._rates: rates[part]}
            self._session.run(self._update, feed | {self._pulled: pulled[part], self._made: numbers[part] + 1})
            _, accuracy = evaluated(self.values(), few)
            for level in 90, 95:
                if accuracy >= level / 100:
                    reached.setdefault(level, int(numbers[part][-1]) + 1)
        loss, accuracy = evaluated(self.values(), validation)
        return {
            "loss": round(loss, 5) if math.isfinite(loss) else None,
            "error": round(1 - accuracy, 4),
            "diverged": not loss < GUESSING,
            "updates_to_90": reached.get(90),
            "updates_to_95": reached.get(95),
        }

    def values(self):
        """The parameters as they are now: four NumPy arrays."""
        ends = np.cumsum([math.prod(shape) for shape in self._shapes])[:-1]
        parts = np.split(self._session.run(self._theta), ends)
        return [part.reshape(shape) for part, shape in zip(parts, self._shapes, strict=True)]


@functools.cache
def delayed(optimizer):
    """The :class:`Delayed` of this optimizer, made once a process."""
    return Delayed(optimizer)
