"""A catalogue of models and optimizers, each with what a design is to make of it, and one oracle for all of them.

Each is trained in one process by plain TensorFlow 1 (:func:`oracle`) and in a design, and compared. There are three
classes. ``equal``: every variable comes out as in one process, within the tolerance of floats, also in synchronous
rounds of two workers (all draw the same batch, and there is no state beyond the variables). ``equal for one worker``:
each worker keeps a state of its own, or the model writes variables itself, so that two workers differ from one.
``property only``: the model draws random numbers, so it trains, and what it draws is another for each step.
"""

from typing import NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

from mnistdist import DataSet, Datasets, Graph
from mnistdist.training.tensorflow_private import begin_layer_names, forget_devices

EQUAL, ONE_WORKER, PROPERTY, REFUSED = "equal", "equal for one worker", "property only", "refused"
ROWS, FEATURES, CLASSES = 8, 6, 3
STEPS = 12
WITH_REFERENCES = ("initialized_value", "reference_style")  # in one process
ZOO = {}


class Kind(NamedTuple):
    """A model with its optimizer, its class, and why it is of that class."""

    build: object
    optimizer: object
    rate: object
    kind: str
    why: str
    listing: bool | str  # whether the listing's design trains it, as the fast one can't, or can't on "several ps"


def animal(kind=EQUAL, why="", *, optimizer=tf.train.GradientDescentOptimizer, rate=0.1, listing=False):
    """Put the model that a function builds into the catalogue, under the function's name."""

    def add(build):
        ZOO[build.__name__] = Kind(build, optimizer, rate, kind, why or "a constant batch, and variables only", listing)
        return build

    return add


def data():
    """One batch, which is the whole set, three times."""
    generator = np.random.default_rng(5)
    images = generator.random((ROWS, FEATURES), dtype=np.float32)
    part = DataSet(images, np.eye(CLASSES, dtype=np.float32)[np.arange(ROWS) % CLASSES])
    return Datasets(part, part, part)


def oracle(name, steps=STEPS, seed=3):
    """All variables after so many steps of plain TensorFlow in one process, by name."""
    entry, batch = ZOO[name], data().train

    def resource(make, **options):
        variable = make(**(options | {"use_resource": name not in WITH_REFERENCES}))  # a value that was read is a copy
        return variable

    with tf.Graph().as_default() as graph, tf.variable_creator_scope(resource):
        tf.set_random_seed(seed)
        begin_layer_names()
        global_step = tf.train.get_or_create_global_step()
        model = entry.build()
        opt = entry.optimizer(entry.rate)
        pairs = list(opt.compute_gradients(model.loss))
        with tf.control_dependencies([model.loss]):  # what else the model does is done before the update
            gradients = [
                g if g is None else tf.nest.map_structure(tf.identity, g, expand_composites=True) for g, _ in pairs
            ]
        update = opt.apply_gradients(list(zip(gradients, [v for _, v in pairs], strict=True)))
        with tf.control_dependencies([getattr(update, "op", update)]):
            train = global_step.assign_add(1).op
        iterators = [op for op in graph.get_operations() if op.type == "MakeIterator"]
        init = [
            tf.global_variables_initializer(),
            tf.local_variables_initializer(),
            tf.tables_initializer(),
            *iterators,
        ]
        forget_devices(graph)
        with tf.Session() as session:
            session.run(init[0])
            session.run(init[1:])
            coordinator = tf.train.Coordinator()
            threads = tf.train.start_queue_runners(session, coordinator)
            for _ in range(steps):
                session.run(train, {model.x: batch.images, model.y_: batch.labels})
            values = session.run({variable.op.name: variable for variable in tf.global_variables()})
            coordinator.request_stop()
            session.close()
            coordinator.join(threads, stop_grace_period_secs=5, ignore_live_threads=True)
    return values


# ---- small parts


def inputs(rows=None):
    return tf.placeholder(tf.float32, [rows, FEATURES]), tf.placeholder(tf.float32, [rows, CLASSES])


def start(*shape, seed=1):
    return np.random.default_rng(seed).normal(0, 0.5, shape).astype(np.float32)


def weights(name, *shape, seed=1, **options):
    return tf.get_variable(name, initializer=start(*shape, seed=seed), **options)


def classifier(x, y_, logits, extra=0.0):
    loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits_v2(labels=y_, logits=logits)) + extra
    right = tf.equal(tf.argmax(logits, 1), tf.argmax(y_, 1))
    return Graph(x, y_, tf.nn.softmax(logits), loss, tf.reduce_mean(tf.cast(right, tf.float32)))


def plain(x, y_, loss):
    """A model that is nothing but a loss."""
    y = tf.fill([tf.shape(x)[0], CLASSES], 1 / CLASSES)
    return Graph(x, y_, y, loss, tf.reduce_mean(y_[:, 0]))


def linear():
    x, y_ = inputs()
    w, b = weights("w", FEATURES, CLASSES), tf.get_variable("b", [CLASSES], initializer=tf.zeros_initializer())
    return classifier(x, y_, tf.matmul(x, w) + b)


def layers():
    x, y_ = inputs()
    w, b = weights("w", FEATURES, 5), weights("b", 5, seed=2)
    return classifier(x, y_, tf.matmul(tf.nn.tanh(tf.matmul(x, w) + b), weights("v", 5, CLASSES, seed=3)))


def two_scalars():
    x, y_ = inputs()
    a, b = tf.Variable(0.0, name="a"), tf.Variable(0.0, name="b")
    return plain(x, y_, 3 * a + 4 * b)


def one_scalar(loss):
    """Make a model of one variable ``w``, whose loss is a function of it and of the batch."""
    x, y_ = inputs()
    return plain(x, y_, loss(tf.get_variable("w", [], initializer=tf.ones_initializer()), x))


# ---- optimizers of TensorFlow

OPTIMIZERS = {
    "sgd": tf.train.GradientDescentOptimizer,
    "momentum": lambda rate: tf.train.MomentumOptimizer(rate, 0.9),
    "nesterov": lambda rate: tf.train.MomentumOptimizer(rate, 0.9, use_nesterov=True),
    "adam": tf.train.AdamOptimizer,
    "adam_with_a_lock": lambda rate: tf.train.AdamOptimizer(rate, use_locking=True),
    "adagrad": tf.train.AdagradOptimizer,
    "adadelta": tf.train.AdadeltaOptimizer,
    "rmsprop": tf.train.RMSPropOptimizer,
    "rmsprop_centered": lambda rate: tf.train.RMSPropOptimizer(rate, centered=True),
    "ftrl": tf.train.FtrlOptimizer,
    "adagrad_da": lambda rate: tf.train.AdagradDAOptimizer(rate, tf.train.get_global_step()),
    "proximal_adagrad": lambda rate: tf.train.ProximalAdagradOptimizer(rate, l1_regularization_strength=0.01),
    "proximal_sgd": lambda rate: tf.train.ProximalGradientDescentOptimizer(rate, l2_regularization_strength=0.01),
}
for _name, _optimizer in OPTIMIZERS.items():
    ZOO[f"optimizer_{_name}"] = Kind(layers, _optimizer, 0.1, EQUAL, "a constant batch, and variables only", False)


# ---- optimizers of the reader's


class ClipsEach(tf.train.GradientDescentOptimizer):
    def compute_gradients(self, *args, **options):
        return [(tf.clip_by_value(g, -1.0, 1.0), v) for g, v in super().compute_gradients(*args, **options)]


class ClipsNorms(tf.train.GradientDescentOptimizer):
    def apply_gradients(self, pairs, *args, **options):
        return super().apply_gradients([(tf.clip_by_norm(g, 1.0), v) for g, v in pairs], *args, **options)


class ClipsGlobalNorm(tf.train.AdamOptimizer):
    def apply_gradients(self, pairs, *args, **options):
        gradients, variables = zip(*pairs, strict=True)
        clipped, _ = tf.clip_by_global_norm(gradients, 0.1)
        return super().apply_gradients(zip(clipped, variables, strict=True), *args, **options)


class Freezes(tf.train.GradientDescentOptimizer):
    def compute_gradients(self, loss, **options):
        kept = [v for v in tf.trainable_variables() if v.op.name != "a"]
        return super().compute_gradients(loss, var_list=kept)


class RateOfALayer(tf.train.GradientDescentOptimizer):
    def apply_gradients(self, pairs, *args, **options):
        rates = {"w": 0.5, "v": 2.0}
        return super().apply_gradients([(rates.get(v.op.name, 1.0) * g, v) for g, v in pairs], *args, **options)


class DecaysWeights(tf.train.MomentumOptimizer):
    def __init__(self, rate):
        super().__init__(rate, 0.9)

    def apply_gradients(self, pairs, *args, **options):
        pairs = list(pairs)
        with tf.control_dependencies([g for g, _ in pairs]):
            decays = [v.assign_sub(0.01 * v.read_value()) for _, v in pairs if v.shape.rank > 1]
        with tf.control_dependencies(decays):
            return super().apply_gradients(pairs, *args, **options)


class Two:
    """One optimizer for the first half of the variables, another for the rest."""

    def __init__(self, rate):
        self._first, self._second = tf.train.AdamOptimizer(rate), tf.train.GradientDescentOptimizer(rate)

    def compute_gradients(self, loss, **options):
        return self._first.compute_gradients(loss, **options)

    def apply_gradients(self, pairs, global_step=None, name=None):
        pairs = list(pairs)
        half = len(pairs) // 2
        updates = [self._first.apply_gradients(pairs[:half]), self._second.apply_gradients(pairs[half:])]
        return tf.group(*updates)

    def variables(self):
        return self._first.variables() + self._second.variables()


class GradientsOfTwoLosses(Two):
    """As in a GAN: each half of the variables has a loss of its own."""

    def compute_gradients(self, loss, **options):
        variables = tf.trainable_variables()
        half = len(variables) // 2
        other = tf.add_n([tf.reduce_sum(v * v) for v in variables]) - loss
        one, two = tf.gradients(loss, variables[:half]), tf.gradients(other, variables[half:])
        return list(zip([*one, *two], variables, strict=True))


class Accumulates(tf.train.GradientDescentOptimizer):
    """Applies the sum of two gradients, every second step."""

    def apply_gradients(self, pairs, *args, **options):
        pairs = list(pairs)
        count = tf.get_variable("accumulated", [], tf.int32, tf.zeros_initializer(), trainable=False)
        sums = [tf.Variable(tf.zeros_like(v.initial_value), trainable=False, name=f"{v.op.name}_sum") for _, v in pairs]
        with tf.control_dependencies([s.assign_add(g) for s, (g, _) in zip(sums, pairs, strict=True)]):
            step = count.assign_add(1)

        def apply():
            made = super(Accumulates, self).apply_gradients([(s, v) for s, (_, v) in zip(sums, pairs, strict=True)])
            with tf.control_dependencies([made]):
                return tf.group(*[s.assign(tf.zeros_like(s)) for s in sums])

        return tf.cond(tf.equal(step % 2, 0), apply, tf.no_op)


class ScalesLoss(tf.train.GradientDescentOptimizer):
    """A dynamic scale of the loss: doubled every third step, and no update where a gradient is not finite."""

    def __init__(self, rate):
        super().__init__(rate)
        self.scale = tf.Variable(8.0, trainable=False, name="scale")

    def compute_gradients(self, loss, **options):
        return super().compute_gradients(loss * self.scale, **options)

    def apply_gradients(self, pairs, *args, **options):
        pairs = [(g / self.scale, v) for g, v in pairs]
        finite = tf.reduce_all([tf.reduce_all(tf.is_finite(g)) for g, _ in pairs])
        update = super().apply_gradients
        with tf.control_dependencies([tf.cond(finite, lambda: update(pairs), tf.no_op)]):
            third = tf.equal(tf.train.get_global_step() % 3, 2)
            return self.scale.assign(tf.where(third, self.scale * 2, self.scale)).op


class LooksAhead(tf.train.GradientDescentOptimizer):
    """Every fourth step, the slow weights go half the way to the fast ones."""

    def apply_gradients(self, pairs, *args, **options):
        pairs = list(pairs)
        slow = [tf.Variable(v.initial_value, trainable=False, name=f"{v.op.name}_slow") for _, v in pairs]
        update = super().apply_gradients(pairs)

        def move():
            moved = []
            for s, (_, v) in zip(slow, pairs, strict=True):
                new = s + 0.5 * (v.read_value() - s)
                moved += [s.assign(new).op, v.assign(new).op]
            return tf.group(*moved)

        with tf.control_dependencies([update]):
            return tf.cond(tf.equal(tf.train.get_global_step() % 4, 3), move, tf.no_op)


class TrustRatio(tf.train.MomentumOptimizer):
    def __init__(self, rate):
        super().__init__(rate, 0.9)

    def apply_gradients(self, pairs, *args, **options):
        scaled = [(g * tf.norm(v) / (tf.norm(g) + 1e-6), v) for g, v in pairs]
        return super().apply_gradients(scaled, *args, **options)


class AveragesWeights(tf.train.AdamOptimizer):
    """Keeps a moving average of what it has trained."""

    def apply_gradients(self, pairs, *args, **options):
        pairs = list(pairs)
        average = tf.train.ExponentialMovingAverage(0.9)
        with tf.control_dependencies([super().apply_gradients(pairs, *args, **options)]):
            return average.apply([v for _, v in pairs])


class RateDecays(tf.train.GradientDescentOptimizer):
    """Has its rate in a variable, which each update makes smaller."""

    def __init__(self, rate):
        self.rate = tf.Variable(rate, trainable=False, name="rate")
        super().__init__(self.rate)

    def apply_gradients(self, pairs, *args, **options):
        with tf.control_dependencies([super().apply_gradients(pairs, *args, **options)]):
            return self.rate.assign(self.rate * 0.9).op


class ReturnsATensor(tf.train.GradientDescentOptimizer):
    def apply_gradients(self, pairs, *args, **options):
        with tf.control_dependencies([super().apply_gradients(pairs, *args, **options)]):
            return tf.constant(1.0)


class RateByLoss(tf.train.GradientDescentOptimizer):
    """The rate depends on the loss: the update needs more of the model than its gradients."""

    def compute_gradients(self, loss, **options):
        self.loss = loss
        return super().compute_gradients(loss, **options)

    def apply_gradients(self, pairs, *args, **options):
        return super().apply_gradients([(g * tf.tanh(self.loss), v) for g, v in pairs], *args, **options)


class Signs(tf.train.Optimizer):
    """Written from nothing: the signs of the gradients, and a slot."""

    def __init__(self, rate):
        super().__init__(False, "Signs")
        self.rate = rate

    def _create_slots(self, variables):
        for v in variables:
            self._zeros_slot(v, "sum", self._name)

    def _resource_apply_dense(self, gradient, v):
        slot = self.get_slot(v, "sum")
        with tf.control_dependencies([slot.assign_add(tf.sign(gradient))]):
            return v.assign_sub(self.rate * tf.sign(slot.read_value()))

    _apply_dense = _resource_apply_dense


class Noisy(tf.train.GradientDescentOptimizer):
    def apply_gradients(self, pairs, *args, **options):
        noisy = [(g + tf.random_normal(tf.shape(g), stddev=0.01), v) for g, v in pairs]
        return super().apply_gradients(noisy, *args, **options)


class MakesDense(tf.train.AdamOptimizer):
    def apply_gradients(self, pairs, *args, **options):
        return super().apply_gradients([(tf.convert_to_tensor(g), v) for g, v in pairs], *args, **options)


def by_step(schedule, optimizer=tf.train.GradientDescentOptimizer):
    return lambda rate: optimizer(schedule(rate, tf.train.get_or_create_global_step()))


class OldStyle(tf.train.Optimizer):
    """Written when there were only reference variables."""

    def __init__(self, rate):
        super().__init__(False, "PowerSign")
        self.rate = rate

    def _create_slots(self, variables):
        for v in variables:
            self._zeros_slot(v, "m", self._name)

    def _apply_dense(self, gradient, v):
        slot = self.get_slot(v, "m")
        m = slot.assign(tf.maximum(0.9 * slot, tf.abs(gradient)))
        return tf.assign_sub(v, self.rate * gradient * tf.exp(0.1 * tf.sign(gradient) * tf.sign(m)))


class OwnSlots(tf.train.Optimizer):
    """As the optimizer of BERT: slots by ``get_variable``, and values assigned, all in ``apply_gradients``."""

    def __init__(self, rate):
        super().__init__(False, "OwnSlots")
        self.rate = rate

    def apply_gradients(self, pairs, global_step=None, name=None):
        updates = []
        for g, v in pairs:
            m = tf.get_variable(f"{v.op.name}/adam_m", v.shape, initializer=tf.zeros_initializer(), trainable=False)
            new = 0.9 * m + 0.1 * g
            updates += [v.assign(v - self.rate * (new / (tf.abs(new) + 1e-3) + 0.01 * v)), m.assign(new)]
        return tf.group(*updates, name=name)


class WithUpdateOps(tf.train.AdamOptimizer):
    def apply_gradients(self, pairs, *args, **options):
        with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)):
            return super().apply_gradients(pairs, *args, **options)


class SharpnessAware(tf.train.GradientDescentOptimizer):
    """Moves the weight on, takes the gradient of ``again`` there, and moves it back."""

    def compute_gradients(self, loss, **options):
        ((again, w),) = tf.get_collection("again")
        (step,) = tf.gradients(loss, w)
        with tf.control_dependencies([w.assign_add(0.05 * step, read_value=False)]):
            there = w.read_value()
            (gradient,) = tf.gradients(again(there), there)
        with tf.control_dependencies([gradient]), tf.control_dependencies([w.assign_sub(0.05 * step)]):
            return [(tf.identity(gradient), w)]


class OneFunction(tf.train.GradientDescentOptimizer):
    def apply_gradients(self, pairs, *args, **options):
        pairs = list(pairs)

        @tf.function
        def update(*gradients):
            for g, (_, v) in zip(gradients, pairs, strict=True):
                v.assign_sub(0.1 * g)
            return tf.constant(0)

        return update(*[g for g, _ in pairs])


class ClipsInMinimize(tf.train.GradientDescentOptimizer):
    def minimize(self, loss, global_step=None, **options):
        pairs = [(tf.clip_by_value(g, -1.0, 1.0), v) for g, v in self.compute_gradients(loss, **options)]
        return self.apply_gradients(pairs, global_step)


class CountsItself(tf.train.GradientDescentOptimizer):
    def apply_gradients(self, pairs, *args, **options):
        return super().apply_gradients(pairs, tf.train.get_global_step())


def _rate_in_a_variable(rate):
    return tf.train.GradientDescentOptimizer(tf.Variable(rate, trainable=False, name="rate"))


def _scales_loss(rate):
    return tf.train.experimental.MixedPrecisionLossScaleOptimizer(tf.train.AdamOptimizer(rate), 128.0)


def _cosine(rate, step):
    return tf.train.cosine_decay(rate, step, 10)


def _warm_up(rate, step):
    return tf.cond(step < 5, lambda: rate * tf.cast(step + 1, tf.float32) / 5, lambda: tf.constant(rate))


def _until_five(rate, step):
    return tf.where(step < 5, rate, 0.0)


OWN = {
    "clips_each": (two_scalars, ClipsEach, 1.0),
    "clips_norms": (layers, ClipsNorms, 1.0),
    "clips_global_norm": (layers, ClipsGlobalNorm, 0.1),
    "freezes_a": (two_scalars, Freezes, 1.0),
    "rate_of_a_layer": (layers, RateOfALayer, 0.1),
    "decays_weights": (layers, DecaysWeights, 0.1),
    "two_optimizers": (layers, Two, 0.1),
    "gan": (layers, GradientsOfTwoLosses, 0.05),
    "accumulates": (layers, Accumulates, 0.1),
    "scales_loss": (layers, ScalesLoss, 0.1),
    "looks_ahead": (layers, LooksAhead, 0.3),
    "trust_ratio": (layers, TrustRatio, 0.1),
    "averages_weights": (layers, AveragesWeights, 0.1),
    "rate_decays": (layers, RateDecays, 0.1),
    "returns_a_tensor": (layers, ReturnsATensor, 0.1),
    "rate_by_loss": (layers, RateByLoss, 0.1),
    "signs": (layers, Signs, 0.1),
    "reference_style": (layers, OldStyle, 0.1),
    "own_slots": (layers, OwnSlots, 0.1),
    "scales_by_tensorflow": (layers, _scales_loss, 0.1),
    "rate_in_a_variable": (layers, _rate_in_a_variable, 0.1),
    "piecewise": (two_scalars, by_step(_until_five), 1.0),
    "cosine": (layers, by_step(_cosine, tf.train.AdamOptimizer), 0.1),
    "warm_up": (layers, by_step(_warm_up), 0.1),
    "exponential": (layers, by_step(lambda rate, step: tf.train.exponential_decay(rate, step, 3, 0.5)), 0.5),
}
for _name, (_build, _optimizer, _rate) in OWN.items():
    _listing = _name in ("accumulates", "looks_ahead", "scales_loss") and "several ps"  # all is in one tf.cond
    ZOO[_name] = Kind(_build, _optimizer, _rate, EQUAL, "a constant batch, and variables only", _listing)
ZOO["noisy"] = Kind(layers, Noisy, 0.1, PROPERTY, "the optimizer draws noise", False)


# ---- loops and branches


@animal()
def while_loop():
    x, y_ = inputs()
    w = weights("w", FEATURES, FEATURES)
    _, h = tf.while_loop(lambda i, _: i < 3, lambda i, h: (i + 1, tf.nn.tanh(tf.matmul(h, w))), [0, x])
    return classifier(x, y_, tf.matmul(h, weights("v", FEATURES, CLASSES, seed=2)))


@animal()
def nested_while():
    x, y_ = inputs()
    w = weights("w", FEATURES, FEATURES)

    def inner(h):
        return tf.while_loop(lambda i, _: i < 2, lambda i, h: (i + 1, tf.nn.tanh(tf.matmul(h, w))), [0, h])[1]

    _, h = tf.while_loop(lambda i, _: i < 2, lambda i, h: (i + 1, inner(h)), [0, x])
    return classifier(x, y_, tf.matmul(h, weights("v", FEATURES, CLASSES, seed=2)))


@animal()
def rnn_by_scan():
    x, y_ = inputs()
    w, u = weights("w", 1, 4), weights("u", 4, 4, seed=2)
    sequence = tf.transpose(x)[:, :, None]
    states = tf.scan(
        lambda h, part: tf.nn.tanh(tf.matmul(part, w) + tf.matmul(h, u)), sequence, tf.zeros([tf.shape(x)[0], 4])
    )
    return classifier(x, y_, tf.matmul(states[-1], weights("v", 4, CLASSES, seed=3)))


@animal()
def lstm():
    x, y_ = inputs()
    w, b = weights("w", 5, 16), weights("b", 16, seed=2)
    zeros = tf.zeros([tf.shape(x)[0], 4])

    def cell(state, part):
        i, f, o, g = tf.split(tf.matmul(tf.concat([part, state[0]], 1), w) + b, 4, 1)
        c = tf.sigmoid(f) * state[1] + tf.sigmoid(i) * tf.tanh(g)
        return tf.sigmoid(o) * tf.tanh(c), c

    h, _ = tf.scan(cell, tf.transpose(x)[:, :, None], (zeros, zeros))
    return classifier(x, y_, tf.matmul(h[-1], weights("v", 4, CLASSES, seed=3)))


@animal()
def map_fn():
    x, y_ = inputs()
    w = weights("w", FEATURES, CLASSES)
    return classifier(x, y_, tf.map_fn(lambda row: tf.tensordot(row, w, 1), x))


@animal()
def foldl():
    x, y_ = inputs()
    w = weights("w", FEATURES, CLASSES)
    total = tf.foldl(lambda sum_, row: sum_ + tf.tensordot(row, w, 1), x, tf.zeros([CLASSES]))
    return classifier(x, y_, tf.matmul(x, w) + total)


@animal()
def tensor_array():
    x, y_ = inputs()
    w = weights("w", FEATURES, CLASSES)
    array = tf.TensorArray(tf.float32, 2, element_shape=[None, CLASSES])
    _, array = tf.while_loop(lambda i, _: i < 2, lambda i, a: (i + 1, a.write(i, tf.matmul(x, w))), [0, array])
    return classifier(x, y_, tf.reduce_sum(array.stack(), 0))


@animal()
def cond():
    x, y_ = inputs()
    w, v = weights("w", FEATURES, CLASSES), weights("v", FEATURES, CLASSES, seed=2)
    even = tf.equal(tf.train.get_global_step() % 2, 0)
    return classifier(x, y_, tf.cond(even, lambda: tf.matmul(x, w), lambda: tf.matmul(x, v)))


@animal()
def case():
    x, y_ = inputs()
    step, w = tf.train.get_global_step(), weights("w", FEATURES, CLASSES)
    pairs = [(tf.equal(step, n), lambda n=n: tf.matmul(x, w) * float(n)) for n in range(3)]
    return classifier(x, y_, tf.case(pairs, default=lambda: tf.matmul(x, w)))


@animal()
def tf_function():
    x, y_ = inputs()
    w = weights("w", FEATURES, CLASSES)

    @tf.function
    def f(values):
        return tf.matmul(values, w)

    return classifier(x, y_, f(x))


@animal()
def tf_function_with_a_loop():
    x, y_ = inputs()
    w = weights("w", FEATURES, FEATURES)

    @tf.function
    def f(h):
        for _ in tf.range(3):
            h = tf.nn.tanh(tf.matmul(h, w))
        return h

    return classifier(x, y_, tf.matmul(f(x), weights("v", FEATURES, CLASSES, seed=2)))


# ---- gradients


@animal()
def swish():
    x, y_ = inputs()
    return classifier(x, y_, tf.matmul(tf.nn.swish(tf.matmul(x, weights("w", FEATURES, 5))), weights("v", 5, CLASSES)))


@animal()
def custom_gradient():
    x, y_ = inputs()

    @tf.custom_gradient
    def reverse(values):
        return tf.identity(values), lambda d: -0.5 * d

    return classifier(x, y_, reverse(tf.matmul(x, weights("w", FEATURES, CLASSES))))


@animal()
def custom_gradient_with_a_variable():
    x, y_ = inputs()
    w = weights("w", FEATURES, CLASSES, use_resource=True)

    @tf.custom_gradient
    def times(values):
        result = tf.matmul(values, w)

        def gradient(d, variables=None):
            return tf.matmul(d, w, transpose_b=True), [
                tf.clip_by_value(tf.matmul(values, d, transpose_a=True), -0.1, 0.1)
            ]

        return result, gradient

    return classifier(x, y_, times(x))


@animal()
def stop_gradient():
    x, y_ = inputs()
    w = weights("w", FEATURES, CLASSES)
    return classifier(x, y_, tf.matmul(x, w) + tf.stop_gradient(tf.matmul(x, w)))


@animal()
def gradient_penalty():
    model = layers()
    (gradient,) = tf.gradients(model.loss, model.x)
    return Graph(model.x, model.y_, model.y, model.loss + tf.reduce_sum(gradient**2), model.accuracy)


@animal()
def variable_without_a_gradient():
    weights("unused", 3)
    return linear()


@animal()
def second_order():
    return one_scalar(lambda w, x: tf.gradients(w**4, w)[0] * tf.reduce_mean(x))


# ---- rows, parts, sparse gradients


def token_rows(x):
    return tf.cast(x[:, :3] * 10, tf.int32)


@animal()
def embedding():
    x, y_ = inputs()
    table = weights("table", 10, 4)
    rows = tf.reduce_mean(tf.nn.embedding_lookup(table, token_rows(x)), 1)
    return classifier(x, y_, tf.matmul(rows, weights("v", 4, CLASSES)))


@animal(optimizer=tf.train.AdamOptimizer)
def embedding_by_adam():
    return embedding()


@animal(optimizer=MakesDense)
def embedding_made_dense():
    return embedding()


@animal(optimizer=lambda rate: tf.train.MomentumOptimizer(rate, 0.9))
def gather_with_duplicates():
    x, y_ = inputs()
    table = weights("table", 10, CLASSES)
    return classifier(
        x, y_, tf.matmul(x, weights("w", FEATURES, CLASSES)) + tf.reduce_sum(tf.gather(table, [1, 1, 7]), 0)
    )


@animal()
def partitioned():
    x, y_ = inputs()
    some, parts = tf.constant_initializer(0.2), tf.fixed_size_partitioner(2)
    w = tf.get_variable("w", [FEATURES, CLASSES], initializer=some, partitioner=parts)
    return classifier(x, y_, tf.matmul(x, tf.convert_to_tensor(w)))


@animal(optimizer=tf.train.AdagradOptimizer)
def partitioned_embedding():
    x, y_ = inputs()
    table = tf.get_variable(
        "table", [10, 4], initializer=tf.constant_initializer(0.3), partitioner=tf.fixed_size_partitioner(3)
    )
    rows = tf.reduce_mean(tf.nn.embedding_lookup(table, token_rows(x)), 1)
    return classifier(x, y_, tf.matmul(rows, weights("v", 4, CLASSES)))


@animal()
def sparse_matmul():
    x, y_ = inputs()
    sparse = tf.sparse.from_dense(tf.nn.relu(x - 0.5))
    return classifier(x, y_, tf.sparse.sparse_dense_matmul(sparse, weights("w", FEATURES, CLASSES)))


@animal()
def boolean_mask():
    x, y_ = inputs()
    w = weights("w", FEATURES, CLASSES)
    kept = tf.boolean_mask(tf.matmul(x, w), x[:, 0] > 0.3)
    return classifier(x, y_, tf.matmul(x, w), tf.reduce_sum(kept**2))


@animal()
def segments():
    x, y_ = inputs()
    w = weights("w", FEATURES, CLASSES)
    sums = tf.math.unsorted_segment_sum(tf.matmul(x, w), tf.argmax(y_, 1), CLASSES)
    return classifier(x, y_, tf.matmul(x, w), 0.01 * tf.reduce_sum(sums**2))


@animal()
def top_k():
    x, y_ = inputs()
    logits = tf.matmul(x, weights("w", FEATURES, CLASSES))
    return classifier(x, y_, logits, tf.reduce_sum(tf.nn.top_k(logits, 2).values))


@animal()
def linear_algebra():
    x, y_ = inputs()
    w = weights("w", FEATURES, FEATURES)
    square = tf.matmul(w, w, transpose_a=True) + tf.eye(FEATURES)
    logits = tf.matmul(x, tf.linalg.inv(square))[:, :CLASSES]
    return classifier(x, y_, logits, tf.linalg.logdet(square))


@animal()
def convolution():
    x, y_ = inputs()
    image = tf.reshape(x, [-1, 3, 2, 1])
    h = tf.nn.max_pool2d(tf.nn.relu(tf.nn.conv2d(image, weights("w", 2, 2, 1, 4), 1, "SAME")), 2, 1, "SAME")
    return classifier(x, y_, tf.matmul(tf.reshape(h, [-1, 24]), weights("v", 24, CLASSES)))


@animal()
def attention():
    x, y_ = inputs()
    tokens = x[:, :, None] * weights("e", 4)
    q, k, v = (tf.tensordot(tokens, weights(n, 4, 4, seed=s), 1) for s, n in enumerate("qkv"))
    h = tf.matmul(tf.nn.softmax(tf.matmul(q, k, transpose_b=True)), v)
    return classifier(x, y_, tf.matmul(tf.reduce_mean(h, 1), weights("o", 4, CLASSES)))


@animal()
def tied_weights():
    x, y_ = inputs()
    w = weights("w", FEATURES, FEATURES)
    h = tf.nn.relu(tf.matmul(x, w))
    return classifier(x, y_, tf.matmul(h, w, transpose_b=True)[:, :CLASSES])


# ---- kinds of variables


@animal()
def not_resource():
    x, y_ = inputs()
    w = weights("w", FEATURES, CLASSES, use_resource=False)
    return classifier(x, y_, tf.matmul(x, w))


@animal()
def float64():
    x, y_ = inputs()
    w = tf.get_variable("w", initializer=start(FEATURES, CLASSES).astype(np.float64))
    return classifier(x, y_, tf.cast(tf.matmul(tf.cast(x, tf.float64), w), tf.float32))


@animal(why="a constant batch, and variables only; 16 bits, which are rounded alike")
def float16():
    x, y_ = inputs()
    w = tf.get_variable("w", initializer=start(FEATURES, CLASSES).astype(np.float16))
    return classifier(x, y_, tf.cast(tf.matmul(tf.cast(x, tf.float16), w), tf.float32))


@animal()
def mixed_types():
    x, y_ = inputs()
    flags = tf.get_variable("flags", initializer=np.array([True, False, True]), trainable=False)
    shift = tf.get_variable("shift", initializer=np.array([1, 2, 3]), trainable=False)
    word = tf.get_variable("word", initializer=tf.constant("abc"), trainable=False)
    logits = tf.matmul(x, weights("w", FEATURES, CLASSES)) * tf.cast(flags, tf.float32) * tf.cast(shift, tf.float32)
    return classifier(x, y_, logits * tf.cast(tf.strings.length(word), tf.float32))


@animal()
def complex64():
    x, y_ = inputs()
    turn = tf.Variable(tf.complex(start(FEATURES, CLASSES), start(FEATURES, CLASSES, seed=2)), trainable=False)
    w = turn * tf.cast(weights("w", FEATURES, CLASSES), tf.complex64)
    return classifier(x, y_, tf.abs(tf.matmul(tf.cast(x, tf.complex64), w)))


@animal()
def unknown_shape():
    x, y_ = inputs()
    w = tf.Variable(tf.placeholder_with_default(start(FEATURES, CLASSES), None), validate_shape=False, name="w")
    return classifier(x, y_, tf.reshape(tf.matmul(x, w), [-1, CLASSES]))


@animal()
def from_another():
    x, y_ = inputs()
    a = tf.Variable(tf.random_uniform([FEATURES, CLASSES]), name="a")
    b = tf.Variable(a.initial_value, name="b")
    return classifier(x, y_, tf.matmul(x, a) + 2 * tf.matmul(x, b))


@animal()
def initialized_value():
    x, y_ = inputs()
    a = tf.Variable(tf.random_normal([FEATURES, CLASSES]), name="a")
    b = tf.Variable(2 * a.initialized_value(), name="b")
    return classifier(x, y_, tf.matmul(x, a) + tf.matmul(x, b))


@animal()
def regularised():
    x, y_ = inputs()
    w = weights("w", FEATURES, CLASSES, regularizer=lambda w: 0.1 * tf.reduce_sum(w**2))
    return classifier(x, y_, tf.matmul(x, w), tf.losses.get_regularization_loss())


@animal()
def custom_getter():
    x, y_ = inputs()

    def halved(getter, *args, **options):
        return 0.5 * getter(*args, **options)

    with tf.variable_scope("scope", custom_getter=halved):
        return classifier(x, y_, tf.matmul(x, weights("w", FEATURES, CLASSES)))


@animal()
def reused():
    x, y_ = inputs()
    with tf.variable_scope("scope", reuse=tf.AUTO_REUSE):
        w, again = weights("w", FEATURES, CLASSES), weights("w", FEATURES, CLASSES)
        return classifier(x, y_, tf.matmul(x, w) + tf.matmul(x**2, again))


@animal()
def reused_at_the_root():
    """Towers that share their variables, as in TensorFlow's own example of several GPUs."""
    x, y_ = inputs()
    losses = []
    for part in (x, 2 * x):
        w = tf.get_variable("w", [FEATURES, CLASSES], initializer=tf.constant_initializer(0.1))
        losses.append(tf.reduce_sum(tf.tanh(tf.matmul(part, w))))
        tf.get_variable_scope().reuse_variables()
    return classifier(x, y_, tf.matmul(x, w), 0.1 * tf.add_n(losses))


@animal(optimizer=tf.train.AdamOptimizer)
def root_scope():
    """What is set for the outermost scope holds for variables of the reader's only."""
    scope = tf.get_variable_scope()
    scope.set_regularizer(lambda w: 0.01 * tf.nn.l2_loss(w))
    scope.set_initializer(tf.constant_initializer(0.1))
    scope.set_partitioner(tf.fixed_size_partitioner(2))
    scope.set_custom_getter(lambda getter, *args, **options: getter(*args, **options))
    x, y_ = inputs()
    w = tf.convert_to_tensor(tf.get_variable("w", [FEATURES, CLASSES]))
    return classifier(x, y_, tf.matmul(x, w), tf.losses.get_regularization_loss())


@animal()
def names_of_the_package():
    """Ops and functions with names that the package could have for its own."""
    x, y_ = inputs()
    h = tf.matmul(x, weights("in_0", FEATURES, CLASSES), name="in_1")
    for name in ("in_2", "in_3", "out_0", "forward", "forward_1", "call"):
        h = tf.identity(h, name=name)
    return classifier(x, y_, h)


@animal()
def on_a_ps_by_hand():
    x, y_ = inputs()
    with tf.device("/job:ps/task:0/cpu:0"):
        h = tf.tanh(tf.matmul(x, weights("w", FEATURES, 5)))
    return classifier(x, y_, tf.matmul(h, weights("v", 5, CLASSES)))


@animal()
def on_a_gpu_by_hand():
    with tf.device("/gpu:0"):
        return layers()


@animal()
def large_constant():
    x, y_ = inputs()
    table = tf.constant(np.linspace(0, 1, 100_000, dtype=np.float32).reshape(-1, 2))
    picked = tf.gather(table, tf.cast(x[:, 0] * 40_000, tf.int32))
    return classifier(
        x, y_, tf.matmul(x, weights("w", FEATURES, CLASSES)) + tf.matmul(picked, weights("v", 2, CLASSES))
    )


@animal()
def reads_the_step():
    return one_scalar(lambda w, x: w * tf.cast(tf.train.get_or_create_global_step(), tf.float32) * tf.reduce_mean(x))


# ---- what the model writes

WRITES = "the model writes variables itself: two workers write twice"


def normalised(x, assign):
    """Batch normalisation by hand, its updates before the loss."""
    mean, variance = tf.nn.moments(x, [0])
    moving = tf.get_variable("moving_mean", [x.shape[1]], initializer=tf.zeros_initializer(), trainable=False)
    moving2 = tf.get_variable("moving_variance", [x.shape[1]], initializer=tf.ones_initializer(), trainable=False)
    for old, new in ((moving, mean), (moving2, variance)):
        update = old.assign(0.9 * old + 0.1 * new) if assign else old.assign_sub(0.1 * (old - new))
        tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, update)
    return (x - mean) / tf.sqrt(variance + 1e-3), (x - moving) / tf.sqrt(moving2 + 1e-3)


def batch_normalisation(assign=False):
    x, y_ = inputs()
    h = tf.matmul(x, weights("w", FEATURES, 5))
    train, infer = normalised(h, assign)
    scale, v = weights("scale", 5, seed=2), weights("v", 5, CLASSES, seed=3)
    with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)):
        loss = tf.nn.softmax_cross_entropy_with_logits_v2(labels=y_, logits=tf.matmul(train * scale, v))
    model = classifier(x, y_, tf.matmul(infer * scale, v))
    return Graph(x, y_, model.y, tf.reduce_mean(loss), model.accuracy)


animal(ONE_WORKER, WRITES)(batch_normalisation)


@animal(ONE_WORKER, WRITES)
def batch_normalisation_by_assign():
    return batch_normalisation(assign=True)


@animal(ONE_WORKER, WRITES, optimizer=WithUpdateOps)
def update_ops_in_the_optimizer():
    """The updates are made with the gradients, and need what the loss does not."""
    x, y_ = inputs()
    h = tf.matmul(x, weights("w", FEATURES, 5))
    train, _ = normalised(h, assign=True)
    seen = tf.get_variable("seen", [FEATURES], initializer=tf.zeros_initializer(), trainable=False)
    tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, seen.assign_add(tf.reduce_sum(x, 0)))
    return classifier(x, y_, tf.matmul(train, weights("v", 5, CLASSES)))


@animal(ONE_WORKER, WRITES)
def clips_its_weights():
    x, y_ = inputs()
    w = weights("w", FEATURES, CLASSES)
    with tf.control_dependencies([w.assign(tf.clip_by_value(w, -0.3, 0.3))]):
        return classifier(x, y_, tf.matmul(x, w.read_value()))


@animal(ONE_WORKER, "the optimizer moves the weights to and fro", optimizer=SharpnessAware)
def sharpness_aware():
    x, y_ = inputs()
    w = weights("w", FEATURES, CLASSES)

    def loss(values):
        return classifier(x, y_, tf.matmul(x, values)).loss

    tf.add_to_collection("again", (loss, w))
    return classifier(x, y_, tf.matmul(x, w))


@animal(ONE_WORKER, WRITES)
def counter():
    x, y_ = inputs()
    seen = tf.get_variable("seen", [], tf.int64, tf.zeros_initializer(), trainable=False)
    with tf.control_dependencies([seen.assign_add(tf.shape(x, out_type=tf.int64)[0])]):
        logits = tf.matmul(x, weights("w", FEATURES, CLASSES))
    return classifier(x, y_, logits)


@animal(ONE_WORKER, WRITES)
def moving_average_of_the_loss():
    model = layers()
    average = tf.train.ExponentialMovingAverage(0.9)
    with tf.control_dependencies([average.apply([model.loss, *tf.trainable_variables()])]):
        loss = model.loss - 0.1 * tf.stop_gradient(average.average(model.loss))
    return Graph(model.x, model.y_, model.y, loss, model.accuracy)


@animal(ONE_WORKER, WRITES)
def centres():
    """A centre for each class, moved by scattered additions."""
    x, y_ = inputs()
    centre = tf.get_variable("centre", [CLASSES, CLASSES], initializer=tf.zeros_initializer(), trainable=False)
    logits = tf.matmul(x, weights("w", FEATURES, CLASSES))
    labels = tf.argmax(y_, 1)
    gap = tf.gather(centre, labels) - logits
    with tf.control_dependencies([tf.scatter_sub(centre, labels, 0.1 * gap)]):
        return classifier(x, y_, logits, 0.1 * tf.reduce_sum(gap**2))


@animal(ONE_WORKER, WRITES)
def memory_by_scatter_update():
    x, y_ = inputs()
    memory = tf.get_variable("memory", [CLASSES, CLASSES], initializer=tf.zeros_initializer(), trainable=False)
    logits = tf.matmul(x, weights("w", FEATURES, CLASSES)) + memory[0]
    with tf.control_dependencies([tf.scatter_update(memory, [0], tf.reduce_mean(logits, 0, keepdims=True))]):
        return classifier(x, y_, tf.identity(logits))


@animal(ONE_WORKER, WRITES)
def target_network():
    """A copy of the weights, taken every third step."""
    x, y_ = inputs()
    w = weights("w", FEATURES, CLASSES)
    target = weights("target", FEATURES, CLASSES, trainable=False)
    copy = tf.cond(tf.equal(tf.train.get_global_step() % 3, 0), lambda: target.assign(w).op, lambda: tf.no_op("keeps"))
    with tf.control_dependencies([copy]):
        logits = tf.matmul(x, w)
        return classifier(x, y_, logits, 0.1 * tf.reduce_sum((logits - tf.matmul(x, target.read_value())) ** 2))


@animal(ONE_WORKER, WRITES)
def spectral_norm():
    x, y_ = inputs()
    w, u = weights("w", FEATURES, CLASSES), weights("u", 1, CLASSES, trainable=False)
    v = tf.nn.l2_normalize(tf.matmul(u, w, transpose_b=True))
    new = tf.nn.l2_normalize(tf.matmul(v, w))
    with tf.control_dependencies([u.assign(new)]):
        sigma = tf.matmul(tf.matmul(v, w), new, transpose_b=True)
        return classifier(x, y_, tf.matmul(x, w / tf.reduce_sum(tf.stop_gradient(sigma))))


@animal(ONE_WORKER, "a variable is added to and assigned to: the listing's design trains it", listing=True)
def adds_and_assigns():
    x, y_ = inputs()
    state = tf.get_variable("state", [], initializer=tf.zeros_initializer(), trainable=False)
    with tf.control_dependencies([state.assign_add(1.0)]), tf.control_dependencies([state.assign(state * 0.5)]):
        return classifier(x, y_, tf.matmul(x, weights("w", FEATURES, CLASSES)))


# ---- what the worker keeps

KEPT = "each worker keeps a state of its own"


@animal(ONE_WORKER, KEPT)
def local_variable():
    x, y_ = inputs()
    count = tf.get_variable(
        "count", [], initializer=tf.zeros_initializer(), trainable=False, collections=[tf.GraphKeys.LOCAL_VARIABLES]
    )
    with tf.control_dependencies([count.assign_add(1.0)]):
        return classifier(x, y_, tf.matmul(x, weights("w", FEATURES, CLASSES)) * count.read_value())


@animal(ONE_WORKER, KEPT)
def local_variable_like_a_copy():
    x, y_ = inputs()
    w = weights("w", FEATURES, CLASSES)
    with tf.variable_scope("forward"):
        own = tf.get_local_variable("w", initializer=tf.zeros([FEATURES, CLASSES]))
    with tf.control_dependencies([own.assign_add(tf.ones([FEATURES, CLASSES]))]):
        return classifier(x, y_, tf.matmul(x, w), 0.001 * tf.reduce_sum(own.read_value() * w))


@animal(ONE_WORKER, KEPT)
def one_shot_iterator():
    element = tf.data.make_one_shot_iterator(tf.data.Dataset.range(10**6)).get_next()
    return one_scalar(lambda w, x: w * tf.cast(element, tf.float32))


@animal(ONE_WORKER, KEPT)
def initializable_iterator():
    dataset = tf.data.Dataset.from_tensor_slices(start(50, FEATURES)).repeat()
    element = tf.data.make_initializable_iterator(dataset).get_next()
    x, y_ = inputs()
    w = weights("w", FEATURES, CLASSES)
    return classifier(x, y_, tf.matmul(x, w), tf.reduce_sum(tf.matmul(element[None], w) ** 2))


@animal(ONE_WORKER, KEPT)
def queue_runner():
    number = tf.train.range_input_producer(100, shuffle=False).dequeue()
    return one_scalar(lambda w, x: w * tf.cast(number, tf.float32))


@animal(ONE_WORKER, KEPT)
def batches_by_queue():
    (number,) = tf.train.slice_input_producer([tf.range(100.0)], shuffle=False)
    numbers = tf.train.batch([number], 4)
    return one_scalar(lambda w, x: w * tf.reduce_sum(numbers))


@animal(ONE_WORKER, KEPT)
def queue_of_its_own():
    queue = tf.FIFOQueue(10, [tf.float32], [()])
    x, y_ = inputs()
    w = tf.get_variable("w", [], initializer=tf.ones_initializer())
    with tf.control_dependencies([queue.enqueue(tf.reduce_mean(x))]):
        return plain(x, y_, w * queue.dequeue())


@animal()
def lookup_table():
    x, y_ = inputs()
    initializer = tf.lookup.KeyValueTensorInitializer(tf.constant([0, 1, 2], tf.int64), tf.constant([0.5, 1.0, 2.0]))
    scale = tf.lookup.StaticHashTable(initializer, 1.0).lookup(tf.argmax(x[:, :3], 1))
    return classifier(x, y_, tf.matmul(x, weights("w", FEATURES, CLASSES)) * scale[:, None])


@animal()
def table_of_words():
    x, y_ = inputs()
    initializer = tf.lookup.KeyValueTensorInitializer(["a", "b"], tf.constant([1.0, 2.0]))
    table = tf.lookup.StaticHashTable(initializer, 0.0)
    scale = table.lookup(tf.where(x[:, 0] > 0.5, tf.fill([tf.shape(x)[0]], "a"), tf.fill([tf.shape(x)[0]], "b")))
    return classifier(x, y_, tf.matmul(x, weights("w", FEATURES, CLASSES)) * scale[:, None])


@animal(why="a table that the workers share, on the ps: the listing's design trains it", listing=True)
def mutable_table():
    x, y_ = inputs()
    table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 1.0)
    scale = table.lookup(tf.argmax(x, 1))
    return classifier(x, y_, tf.matmul(x, weights("w", FEATURES, CLASSES)) * scale[:, None])


@animal()
def py_func():
    x, y_ = inputs()
    (doubled,) = tf.py_func(lambda values: [2 * values], [x], [tf.float32])
    doubled.set_shape(x.shape)
    return classifier(x, y_, tf.matmul(doubled, weights("w", FEATURES, CLASSES)))


@animal()
def numpy_function():
    x, y_ = inputs()
    halved = tf.numpy_function(lambda values: values / np.float32(2), [x], tf.float32)
    halved.set_shape(x.shape)
    return classifier(x, y_, tf.matmul(halved, weights("w", FEATURES, CLASSES)))


class CallsPython(tf.train.GradientDescentOptimizer):
    def apply_gradients(self, pairs, *args, **options):
        called = []
        for g, v in pairs:
            (half,) = tf.py_func(lambda values: [values / np.float32(2)], [g], [tf.float32])
            half.set_shape(g.shape)
            called.append((half, v))
        return super().apply_gradients(called, *args, **options)


@animal(why="Python in the optimizer, which only the worker has: the listing's", optimizer=CallsPython, listing=True)
def python_in_the_optimizer():
    return linear()


@animal()
def prints_and_asserts():
    x, y_ = inputs()
    with tf.control_dependencies([tf.Assert(tf.reduce_all(x >= 0), [x])]):
        return classifier(x, y_, tf.matmul(x, weights("w", FEATURES, CLASSES)))


@animal()
def waits_for_placeholders():
    x, y_ = inputs()
    with tf.control_dependencies([x, y_]):
        w = weights("w", FEATURES, CLASSES)
        return classifier(x, y_, tf.matmul(tf.identity(x), w))


@animal()
def fixed_batch():
    x, y_ = inputs(ROWS)
    return classifier(x, y_, tf.matmul(x, weights("w", FEATURES, CLASSES)))


@animal()
def fed_in_the_middle():
    """What is fed is no placeholder."""
    x, y_ = inputs()
    x = tf.identity(x)
    return classifier(x, y_, tf.matmul(x, weights("w", FEATURES, CLASSES)))


@animal()
def placeholder_with_default():
    x, y_ = inputs()
    factor = tf.placeholder_with_default(2.0, [])
    return classifier(x, y_, factor * tf.matmul(x, weights("w", FEATURES, CLASSES)))


@animal()
def metrics():
    x, y_ = inputs()
    model = classifier(x, y_, tf.matmul(x, weights("w", FEATURES, CLASSES)))
    _, accuracy = tf.metrics.accuracy(tf.argmax(y_, 1), tf.argmax(model.y, 1))
    return Graph(x, y_, model.y, model.loss, accuracy)


@animal(why="Keras draws the initial values from seeds of its own, which are given")
def keras_layers():
    x, y_ = inputs()
    h = tf.keras.layers.Dense(5, "tanh", kernel_initializer=tf.keras.initializers.Constant(start(FEATURES, 5)))(x)
    last = tf.keras.layers.Dense(CLASSES, kernel_initializer=tf.keras.initializers.Constant(start(5, CLASSES)))
    return classifier(x, y_, last(h))


@animal()
def summaries():
    model = layers()
    tf.summary.scalar("loss", model.loss)
    tf.summary.histogram("y", model.y)
    return model


@animal()
def stateless_random():
    x, y_ = inputs()
    noise = tf.random.stateless_normal([CLASSES], [1, tf.train.get_or_create_global_step()])
    return classifier(x, y_, tf.matmul(x, weights("w", FEATURES, CLASSES)) + noise)


# ---- random numbers

DRAWS = "the model draws random numbers"


@animal(PROPERTY, DRAWS, optimizer=tf.train.GradientDescentOptimizer, rate=1.0)
def random_with_a_seed():
    return one_scalar(lambda w, x: w * 0 + tf.random_uniform([], seed=1))


@animal(PROPERTY, DRAWS)
def dropout():
    x, y_ = inputs()
    h = tf.nn.dropout(tf.nn.tanh(tf.matmul(x, weights("w", FEATURES, 50))), rate=0.3, seed=2)
    return classifier(x, y_, tf.matmul(h, weights("v", 50, CLASSES, seed=3)))


@animal(PROPERTY, DRAWS)
def random_in_a_function():
    @tf.function
    def noise(values):
        return values + tf.random.normal(tf.shape(values), stddev=0.1, seed=4)

    x, y_ = inputs()
    return classifier(x, y_, tf.matmul(noise(x), weights("w", FEATURES, CLASSES)))


@animal(PROPERTY, "the model draws classes")
def nce():
    x, y_ = inputs()
    v, b = weights("v", 20, FEATURES), weights("b", 20, seed=2)
    loss = tf.nn.nce_loss(v, b, tf.argmax(y_, 1)[:, None], x, 5, 20)
    model = classifier(x, y_, tf.matmul(x, v[:CLASSES], transpose_b=True))
    return Graph(x, y_, model.y, tf.reduce_mean(loss), model.accuracy)


@animal(PROPERTY, DRAWS)
def vae():
    x, y_ = inputs()
    mean, deviation = tf.split(tf.matmul(x, weights("w", FEATURES, 4)), 2, 1)
    z = mean + tf.exp(deviation) * tf.random_normal(tf.shape(mean))
    return classifier(x, y_, tf.matmul(z, weights("v", 2, CLASSES)), 0.1 * tf.reduce_sum(mean**2))


# ---- what nobody can train


@animal(REFUSED, "a placeholder that nothing feeds")
def unfed_placeholder():
    x, y_ = inputs()
    return classifier(x, y_, tf.placeholder(tf.float32, []) * tf.matmul(x, weights("w", FEATURES, CLASSES)))


@animal(REFUSED, "no variables")
def no_variables():
    x, y_ = inputs()
    return classifier(x, y_, tf.matmul(x, tf.constant(start(FEATURES, CLASSES))))


@animal(REFUSED, "a loss without a gradient")
def no_gradient():
    x, y_ = inputs()
    model = classifier(x, y_, tf.matmul(x, weights("w", FEATURES, CLASSES)))
    return Graph(x, y_, model.y, 1 - model.accuracy, model.accuracy)


@animal(REFUSED, "its gradients are not of a scalar")
def losses_of_all_examples():
    model = linear()
    return Graph(model.x, model.y_, model.y, tf.reduce_sum(model.y**2, 1), model.accuracy)


@animal(REFUSED, "returns nothing")
def nothing_returned():
    linear()


@animal(REFUSED, "the loss is a variable")
def loss_is_a_variable():
    model = linear()
    return Graph(model.x, model.y_, model.y, tf.Variable(1.0), model.accuracy)


@animal(REFUSED, "the loss is an integer")
def integer_loss():
    model = linear()
    return Graph(model.x, model.y_, model.y, tf.cast(model.loss, tf.int32), model.accuracy)


@animal(
    REFUSED, "a rate that nothing feeds", optimizer=lambda _: tf.train.AdamOptimizer(tf.placeholder(tf.float32, []))
)
def unfed_rate():
    return linear()


@animal(REFUSED, "nobody calls minimize", optimizer=ClipsInMinimize)
def clips_in_minimize():
    return linear()


@animal(REFUSED, "each update would count twice", optimizer=CountsItself)
def counts_itself():
    return linear()


@animal(REFUSED, "no optimizer of TensorFlow 1", optimizer=lambda rate: tf.keras.optimizers.SGD(rate))
def optimizer_of_keras():
    return linear()
