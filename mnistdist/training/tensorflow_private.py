"""All of TensorFlow's private names that the package uses: test_tensorflow_private.py says when one changes."""

import sys

import tensorflow.compat.v1 as tf
from tensorflow.core.framework import graph_pb2


def control_flow(op):
    """The ``tf.cond`` or loop that an op is in; None for none."""
    return op._get_control_flow_context()


def wait_for(op, earlier):
    """Make ``op``, which is in the graph already, wait for another op."""
    op._add_control_input(earlier)


def forget_devices(graph):
    """Let the ops of a graph run where its session is, whatever devices they ask for."""
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
    """Add functions to the default graph."""
    tf.import_graph_def(graph_pb2.GraphDef(library={"function": functions}))


def whole_of(variable):
    """Name and shape of a variable in a checkpoint: of the whole one, if it is a part that a partitioner has cut."""
    part = variable._get_save_slice_info()
    return (part.full_name, part.full_shape) if part else (variable.op.name, variable.shape)


def accept_resource_variables(opt):
    """Let an optimizer that was written when there were only reference variables update the others likewise."""
    if getattr(type(opt), "_resource_apply_dense", None) is tf.train.Optimizer._resource_apply_dense:
        opt._resource_apply_dense = opt._apply_dense


def begin_layer_names():
    """Let Keras, if it is there, name layers from the beginning, as in a process that builds its first model."""
    if "keras.src.utils.naming" in sys.modules:
        sys.modules["keras.src.utils.naming"].reset_uids()
