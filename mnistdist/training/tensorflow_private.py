"""All of TensorFlow's private names that the package uses: test_tensorflow_private.py says when one changes."""

import sys

import tensorflow.compat.v1 as tf
from tensorflow.core.framework import graph_pb2


def control_flow(op):
    """The ``tf.cond`` or loop that an op is in; None if it is in none."""
    return op._get_control_flow_context()


def wait_for(op, earlier):
    """Makes ``op``, which is in the graph already, wait for another op."""
    op._add_control_input(earlier)


def forget_devices(graph):
    """Lets the ops of a graph run where its session is, whatever devices they ask for."""
    for op in graph.get_operations():
        op._set_device("")


def functions(graph):
    """The functions of a graph, such as those of a ``tf.function``: a dict from the name to the ``FunctionDef``.

    ``graph.as_graph_def()`` has them, too, with a copy of every constant.
    """
    graph_def = graph_pb2.GraphDef()
    graph._copy_functions_to_graph_def(graph_def, 0)
    return {each.signature.name: each for each in graph_def.library.function}


def add_functions(functions):
    """Adds functions to the default graph."""
    tf.import_graph_def(graph_pb2.GraphDef(library={"function": functions}))


def whole_of(variable):
    """A variable's name and shape in a checkpoint: those of the whole, if a partitioner has cut it into parts."""
    part = variable._get_save_slice_info()
    return (part.full_name, part.full_shape) if part else (variable.op.name, variable.shape)


def accept_resource_variables(opt):
    """Lets an optimizer from the time of reference variables update resource variables in the same way."""
    if getattr(type(opt), "_resource_apply_dense", None) is tf.train.Optimizer._resource_apply_dense:
        opt._resource_apply_dense = opt._apply_dense


def begin_layer_names():
    """Lets Keras, if it is there, name layers afresh, as in a process that builds its first model."""
    if "keras.src.utils.naming" in sys.modules:
        sys.modules["keras.src.utils.naming"].reset_uids()
