"""What the fast design makes of a reader's model and data: parameters as one vector on the ps, images on the worker."""

import functools
import hashlib

import numpy as np
import tensorflow.compat.v1 as tf

from mnistdist.limits import timed_run
from mnistdist.model import Graph


def ps_device(index):
    """The ps that holds this shard; the first one also keeps the global step."""
    return f"/job:ps/task:{index}/cpu:0"


class Forward:
    """The reader's model, built once in a graph of its own, to be copied with its variables replaced."""

    def __init__(self, build_graph, seed):
        scratch = tf.Graph()
        with scratch.as_default(), tf.variable_scope(tf.get_variable_scope(), use_resource=True):
            tf.set_random_seed(seed)
            self._built = build_graph()
            variables = tf.trainable_variables()
            self._initial = [v.initial_value.name for v in variables]
            fitting = {v.op.name for v in variables if v.dtype.base_dtype == tf.float32}
            odd = [v.op.name for v in tf.global_variables() if v.op.name not in fitting]
        if odd or not variables:
            raise ValueError(
                f"the fast design needs trainable float32 variables only; {', '.join(odd) or 'the model'} has others: "
                "use design='listing'"
            )
        self.shapes = {v.op.name: v.shape.as_list() for v in variables}
        self.sizes = [int(np.prod(shape)) for shape in self.shapes.values()]
        self._graph_def = scratch.as_graph_def()
        for node in self._graph_def.node:
            node.attr.pop("_class", None)  # beside its variable, which the copy has not
        self._reads = {
            op.outputs[0].name: op.inputs[0].op.name for op in scratch.get_operations() if op.type == "ReadVariableOp"
        }

    @property
    def layout(self):
        """What tells this vector's name from that of other variables, or of the same in another order, in a checkpoint.

        Empty for the text's network, whose vector has been kept without it.
        """
        shapes, units = list(self.shapes.items()), self.shapes.get("hid_b", [0])[0]
        if shapes == [("hid_w", [784, units]), ("hid_b", [units]), ("sm_w", [units, 10]), ("sm_b", [10])]:
            return ""
        return "_" + hashlib.sha256(repr(shapes).encode()).hexdigest()[:8]

    def initial_vector(self):
        """The variables' initial values, one after the other."""
        values = self._import(self._initial, {})
        return tf.concat([tf.reshape(value, [-1]) for value in values], 0)

    def split(self, theta):
        """The parts of the vector, in the shapes of the variables: a dict by name."""
        parts = tf.split(theta, self.sizes)
        return {name: tf.reshape(part, shape) for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)}

    def model(self, theta):
        """A copy of the model on these parameters, with placeholders of its own."""
        built = self._built
        x, y_ = (tf.placeholder(t.dtype, t.shape, name=t.op.name) for t in (built.x, built.y_))
        return Graph(x, y_, *self._copy(theta, x, y_, [built.y, built.loss, built.accuracy]))

    def loss_and_gradient(self, theta, x, y_):
        """The loss of a batch on these parameters, and the gradient in which they would change it."""
        nodes, outputs, inputs = self._step
        given = dict(zip(inputs, (theta, x, y_), strict=True))
        return tf.import_graph_def(nodes, given, outputs, name="step")

    @functools.cached_property
    def _step(self):
        """A step's nodes, its outputs and its inputs: differentiated once, which takes longer than copying."""
        built = self._built
        with tf.Graph().as_default() as graph:
            theta = tf.placeholder(tf.float32, [sum(self.sizes)])
            x, y_ = (tf.placeholder(t.dtype, t.shape) for t in (built.x, built.y_))
            (loss,) = self._copy(theta, x, y_, [built.loss])
            (gradient,) = tf.gradients(loss, theta)
            if gradient is None:
                raise ValueError("build_graph: expected a loss with a gradient, got one that depends on no variable")
            outputs, inputs = [loss, gradient], [theta, x, y_]
        nodes = tf.graph_util.extract_sub_graph(graph.as_graph_def(), [t.op.name for t in (*outputs, *inputs)])
        return nodes, [t.name for t in outputs], [t.name for t in inputs]

    def _copy(self, theta, x, y_, outputs):
        parts, built = self.split(theta), self._built
        inputs = {built.x.name: x, built.y_.name: y_}
        inputs |= {read: parts[name] for read, name in self._reads.items() if name in parts}
        return self._import([tensor.name for tensor in outputs], inputs)

    def _import(self, outputs, inputs):
        needed = tf.graph_util.extract_sub_graph(self._graph_def, [name.partition(":")[0] for name in outputs])
        names = {node.name for node in needed.node}
        inputs = {name: tensor for name, tensor in inputs.items() if name.partition(":")[0] in names}
        return tf.import_graph_def(needed, inputs, outputs, name="copy")


class Vector:
    """All parameters as one vector, in one shard a ps."""

    def __init__(self, forward, ps):
        self.size = sum(forward.sizes)
        self.cuts = [self.size // ps + (index < self.size % ps) for index in range(ps)]
        self.shards = []
        for index in range(ps):
            with tf.device(ps_device(index)):
                initial = _split(forward.initial_vector(), self.cuts)[index]
                name = f"parameters_{index}{forward.layout}"
                self.shards.append(tf.get_variable(name, initializer=initial, use_resource=True))

    def pull(self):
        """The vector as it is now, where the caller says."""
        values = []
        for index, shard in enumerate(self.shards):
            with tf.device(ps_device(index)):
                values.append(shard.read_value())
        return tf.identity(values[0]) if len(values) == 1 else tf.concat(values, 0)

    def push(self, vector):
        """The parts of a vector of the same size, for each ps its own."""
        return _split(vector, self.cuts)


def _split(vector, cuts):
    return [vector] if len(cuts) == 1 else tf.split(vector, cuts)


class Batches:
    """The training set, kept on the worker; batches are made of row numbers."""

    def __init__(self, train_set):
        self.train_set = train_set
        images, labels = train_set.stored
        self._values, self._variables, self._fill = [images, labels], [], []
        for name, value in (("images", images), ("labels", labels)):
            given = tf.placeholder(value.dtype, value.shape)
            variable = tf.get_variable(
                name, value.shape, value.dtype, tf.zeros_initializer(), trainable=False, collections=["data"]
            )
            self._variables.append(variable)
            self._fill.append((variable.assign(given, read_value=False), given))

        self.drop = tf.group(*[tf.raw_ops.DestroyResourceOp(resource=each.handle) for each in self._variables])

    def fill(self, session, timeout):
        """Bring the data to the worker."""
        for (assign, given), value in zip(self._fill, self._values, strict=True):
            timed_run(session, assign, timeout, {given: value})

    def batch(self, rows):
        """Images and one-hot labels of these rows, as ``DataSet.next_batch`` has them."""
        images, labels = (tf.gather(variable, rows) for variable in self._variables)
        if images.dtype == tf.uint8:
            images = tf.cast(images, tf.float32) * np.float32(1 / 255)
        return images, labels
