"""What travels between a worker and the ps: one joined tensor each way, and copies of variables to work on."""

import tensorflow.compat.v1 as tf

ROW = 16  # elements; a tensor cut at multiples of 64 bytes shares its memory with the parts


def ps_device(index):
    """The device of a ps task, as TensorFlow writes it; the first ps also keeps the global step."""
    return f"/job:ps/task:{index}/device:CPU:0"


class Pack:
    """Tensors that travel together: those of one type that come from, or go to, one device.

    Tensors whose ``ref()`` is in ``alone``, or whose shape is not fixed, travel alone.
    """

    def __init__(self, tensors, devices, alone=()):
        self.shapes, groups, lonely, self._constants = [tensor.shape for tensor in tensors], {}, set(alone), {}
        for index, (tensor, device) in enumerate(zip(tensors, devices, strict=True)):
            alone = tensor.ref() in lonely or not tensor.shape.is_fully_defined()
            groups.setdefault((device, tensor.dtype.base_dtype, index if alone else None), []).append(index)
        self.groups = [(device, dtype, members) for (device, dtype, _), members in groups.items()]

    def rows(self, index):
        """How many rows of ``ROW`` elements a tensor takes."""
        return -(-self.shapes[index].num_elements() // ROW)

    def joined_shape(self, members):
        """The shape of these tensors when they are joined."""
        return [sum(map(self.rows, members)), ROW] if len(members) > 1 else self.shapes[members[0]]

    def join(self, tensors, at=None):
        """One tensor for each group, made on its device or ``at`` another."""
        joined = []
        for device, dtype, members in self.groups:
            with tf.device(at or device):
                if len(members) == 1:
                    joined.append(tf.identity(tensors[members[0]]))
                    continue
                parts = []
                for each in members:
                    parts.append(tf.reshape(tensors[each], self._constant(at or device, [-1])))
                    if pad := -self.shapes[each].num_elements() % ROW:
                        parts.append(self._constant(at or device, [0] * pad, dtype))
                joined.append(tf.reshape(tf.concat(parts, 0), [-1, ROW]))
        return joined

    def split(self, joined, at=None):
        """Splits them into the tensors again."""
        tensors = [None] * len(self.shapes)
        for (device, _, members), whole in zip(self.groups, joined, strict=True):
            with tf.device(at or device):
                if len(members) == 1:
                    tensors[members[0]] = tf.identity(whole)
                    continue
                for each, part in zip(members, tf.split(whole, [self.rows(each) for each in members]), strict=True):
                    size = self.shapes[each].num_elements()
                    if size % ROW:
                        part = tf.reshape(part, self._constant(at or device, [-1]))
                        part = tf.slice(part, self._constant(at or device, [0]), self._constant(at or device, [size]))
                    tensors[each] = tf.reshape(part, self._constant(at or device, self.shapes[each].as_list()))
        return tensors

    def _constant(self, device, value, dtype=tf.int32):
        """One op for all calls, because with constants for each call a graph would have twice as many ops."""
        key = device, dtype, tuple(value)
        if key not in self._constants:
            with tf.control_dependencies(None), tf.device(device):
                self._constants[key] = tf.zeros([len(value)], dtype) if dtype != tf.int32 else tf.constant(value, dtype)
        return self._constants[key]


class Twins:
    """A worker's own copies of variables on the ps, for functions that take the place of ops on these variables.

    ``handles`` and ``variables`` are dicts by the ``ref()`` of a variable's handle.
    """

    def __init__(self, name, variables, worker):
        self.worker, self.handles = worker, {}
        self.variables = {variable.handle.ref(): variable for variable in variables}
        self._pack = Pack(variables, [variable.device for variable in variables])
        with tf.device(worker):
            for key, variable in self.variables.items():
                options = {"dtype": variable.dtype.base_dtype, "shape": variable.shape}
                options["shared_name"] = f"mnistdist/{name}/{variable.op.name}"
                self.handles[key] = tf.raw_ops.VarHandleOp(**options)

    def pull(self):
        """The values of the ps' variables as they travel: a tensor from each ps and of each type."""
        values = []
        for variable in self.variables.values():
            with tf.device(variable.device):
                values.append(variable.read_value())
        joined = self._pack.join(values)
        with tf.device(self.worker):
            return [tf.identity(each) for each in joined]

    def fill(self, pulled):
        """Gives the copies these values; returns the values, by the key of their variable, and the ops that do so."""
        values = dict(zip(self.variables, self._pack.split(pulled, self.worker), strict=True))
        with tf.device(self.worker):
            return values, [tf.raw_ops.AssignVariableOp(resource=self.handles[k], value=v) for k, v in values.items()]

    def read(self, key):
        """The value of a copy."""
        with tf.device(self.worker):
            return tf.raw_ops.ReadVariableOp(resource=self.handles[key], dtype=self.variables[key].dtype.base_dtype)
