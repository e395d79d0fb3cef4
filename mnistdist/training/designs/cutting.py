"""Cuts ops out of a graph, as a function that one run of a session can call several times on given values.

A function takes every tensor that its ops take from elsewhere, including the handles of variables. So a call is told
which variables it works on, and the ops that the reader wrote for a variable on a ps work on a copy on the worker.
"""

import tensorflow.compat.v1 as tf
from tensorflow.core.framework import attr_value_pb2, function_pb2

from mnistdist.training.tensorflow_private import add_functions, functions


class CannotCut(ValueError):
    """Says why a graph can't be cut; the listing's design trains it as it is."""


class Function:
    """Ops of the default graph as a function on one device, from all tensors that they need to ``outputs``."""

    def __init__(self, name, ops, outputs, device):
        self.ops, self.outputs, self.device = ops, outputs, device
        self._name, self._made, self._random, inside = name, {}, True, set(ops)
        self.inputs = list({t.ref(): t for op in ops for t in op.inputs if t.op not in inside}.values())
        for tensor in self.inputs:
            if tensor.dtype != tensor.dtype.base_dtype:
                raise CannotCut(f"{tensor.op.name!r} is a reference, which no function takes")

    def call(self, given, salt=0):
        """Calls it on ``given``, values by the ``ref()`` of the tensors that they replace. Returns the op, and the
        outputs' values in the same form.

        Random ops keep their state for each function and run, so two with the same seed would draw the same numbers.
        Functions for different runs get different ``salt`` for this reason.
        """
        salt *= self._random
        if salt not in self._made:
            self._made[salt * self._random] = self._define(salt)
        inputs = [given.get(tensor.ref(), tensor) for tensor in self.inputs]
        types = [tensor.dtype.base_dtype for tensor in self.outputs]
        name = self._made[salt * self._random]
        with tf.device(self.device):
            if "/job:ps" in self.device:
                op = tf.get_default_graph().create_op(name, inputs, types, name="call")
            else:  # called by its name, a function runs on one device: its handles and all its ops have to be there
                f = attr_value_pb2.NameAttrList(name=name)
                made = tf.raw_ops.StatefulPartitionedCall(args=inputs, Tout=types, f=f, name="call")
                op = made[0].op if types else made
        for tensor, value in zip(self.outputs, op.outputs, strict=True):
            value.set_shape(tensor.shape)
        return op, {tensor.ref(): value for tensor, value in zip(self.outputs, op.outputs, strict=True)}

    def _define(self, salt):
        function, names, inside = function_pb2.FunctionDef(), {}, {op.name for op in self.ops}
        self._known, self._copies, self._random = functions(tf.get_default_graph()), {}, False
        function.signature.name = f"mnistdist_{self._name}_{salt}"
        function.signature.is_stateful = function.attr["_noinline"].b = True
        for index, tensor in enumerate(self.inputs):
            names[tensor.name] = f"mnistdist_{index}"  # no op of the reader's has this name
            function.signature.input_arg.add(name=names[tensor.name], type=tensor.dtype.as_datatype_enum)
        for op in self.ops:
            names |= _outputs_in_function(op)
        for op in self.ops:
            node = function.node_def.add()
            node.CopyFrom(op.node_def)
            self._free(node, salt)
            controls = [each for each in node.input if each.startswith("^") and each[1:] in inside]
            del node.input[:]
            node.input.extend([names[tensor.name] for tensor in op.inputs] + controls)
        for index, tensor in enumerate(self.outputs):
            function.signature.output_arg.add(name=f"out_{index}", type=tensor.dtype.base_dtype.as_datatype_enum)
            function.ret[f"out_{index}"] = names[tensor.name]
        taken = {each for op in self.ops for each in (*(tensor.op for tensor in op.inputs), *op.control_inputs)}
        for op in self.ops:
            if op not in taken:  # or what leads to no output would not be run
                function.signature.control_output.append(op.name)
                function.control_ret[op.name] = op.name
        add_functions([function, *self._copies.values()])
        del self._known, self._copies  # or they would live as long as the graph does
        return function.signature.name

    def _free(self, node, salt):
        """Lets a node, and copies of the functions that it calls, run where they are called, with their own seeds."""
        node.device, node.op = "", self._copy(node.op, salt)
        node.attr.pop("_class", None)
        if "seed2" in node.attr and (node.attr["seed"].i or node.attr["seed2"].i):  # without one, each draws its own
            node.attr["seed2"].i += salt * 1_000_003  # far from the seeds of other ops
            self._random = True
        for attr in node.attr.values():
            for each in [attr.func] * attr.HasField("func") + list(attr.list.func):
                each.name = self._copy(each.name, salt)

    def _copy(self, name, salt):
        if name not in self._known:
            return name
        if name not in self._copies:
            self._copies[name] = copy = function_pb2.FunctionDef()
            copy.CopyFrom(self._known[name])
            copy.signature.name = f"mnistdist_{self._name}_{salt}_{name}"
            for node in copy.node_def:
                self._free(node, salt)
        return self._copies[name].signature.name


def _outputs_in_function(op):
    """The names of an op's outputs in a function, by their names in the graph."""
    outputs, attr, names = iter(op.outputs), op.node_def.attr, {}
    for arg in op.op_def.output_arg:
        many = attr[arg.number_attr].i if arg.number_attr else len(attr[arg.type_list_attr].list.type)
        for index in range(many if arg.number_attr or arg.type_list_attr else 1):
            names[next(outputs).name] = f"{op.name}:{arg.name}:{index}"
    return names
