"""What the ops of a graph need, and what they do with its variables."""

import tensorflow.compat.v1 as tf

from mnistdist.training.tensorflow_private import functions

LOOKUPS = {"ResourceGather", "ResourceGatherNd", "VariableShape"}
READS = {"ReadVariableOp", "VarIsInitializedOp", *LOOKUPS}
ADDS = {"AssignAddVariableOp", "AssignSubVariableOp", "ResourceScatterAdd", "ResourceScatterSub"}
ADDS |= {"ResourceScatterNdAdd", "ResourceScatterNdSub"}
ASSIGN, AT_TIMES = "AssignVariableOp", "AssignVariableOp in a branch or loop"
WRITES_SOME = {"ResourceScatterUpdate", "ResourceScatterNdUpdate", "ResourceStridedSliceAssign", AT_TIMES}
HANDS_ON = {"Enter", "Exit", "Identity", "Merge", "NextIteration", "Switch"}
CALLS = {"PartitionedCall", "StatefulPartitionedCall"}
BRANCHES = {"If", "StatelessIf", "Case", "StatelessCase"}  # their first input is the choice, not an argument
PYTHON = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}  # they run in the worker, where their function is
LARGE = 1 << 16  # elements from which on a constant is an argument, or each function would hold a copy


def is_handle(op):
    """Whether an op only identifies a variable, table, iterator or queue."""
    return not op.inputs and len(op.outputs) == 1 and op.outputs[0].dtype == tf.resource


def behind(ends, stops=()):
    """All ops that the ops ``ends`` need, in the order of their making, but no handles and nothing behind ``stops``."""
    seen, pending = set(), list(ends)
    while pending:
        op = pending.pop()
        if op not in seen and op not in stops and not is_handle(op):
            seen.add(op)
            pending += [tensor.op for tensor in op.inputs] + list(op.control_inputs)
    return [op for op in tf.get_default_graph().get_operations() if op in seen]


def large_constants(ops):
    """The constants that are too large to be copied into each function."""
    return {op for op in ops if op.type == "Const" and (op.outputs[0].shape.num_elements() or 0) > LARGE}


def variables_of(ops):
    """The global variables that these ops use."""
    used = {tensor.ref() for op in ops for tensor in op.inputs}
    return [variable for variable in tf.global_variables() if variable.handle.ref() in used]


def written_by(ops):
    """How these ops write variables: a dict by the ``ref()`` of the variable's handle.

    ``"add"`` means that they add to it, and ``"assign"`` that they give it a new value. ``"some"`` means that they do
    so for some elements, or not in every step. ``"mix"`` is anything else.
    """
    written = {}
    for variable, types in _used_by(ops):
        if types := types - READS:
            how = "add" if types <= ADDS else "assign" if types == {ASSIGN} else "some"
            written[variable.handle.ref()] = how if how != "some" or types <= WRITES_SOME | {ASSIGN} else "mix"
    return written


def looked_up_by(ops):
    """The variables of which these ops read only some rows, and never the whole."""
    return [variable for variable, types in _used_by(ops) if types & LOOKUPS and types <= LOOKUPS]


def _used_by(ops):
    """The variables that these ops use, each with the types of the ops that take its handle."""
    known, consumers = functions(tf.get_default_graph()), _consumers([op.node_def for op in ops])
    return [(variable, _uses(consumers, variable.handle.op.name, known)) for variable in variables_of(ops)]


def _consumers(nodes):
    """The consumers of each node's outputs: pairs of node and input position, by the name of the producer."""
    consumers = {}
    for node in nodes:
        for position, name in enumerate(each for each in node.input if not each.startswith("^")):
            consumers.setdefault(name.partition(":")[0], []).append((node, position))
    return consumers


def _uses(consumers, name, known, always=True):
    """The types of the ops that take a handle, also in functions, branches and loops that the handle is passed to.

    An assignment in a branch or loop is ``AT_TIMES``, because it may not be made.
    """
    types, seen, pending = set(), set(), [(name, always)]
    while pending:
        name, always = pending.pop()
        for node, position in consumers.get(name, ()) if name not in seen else ():
            called = called_by(node, known)
            if node.op in HANDS_ON:
                pending.append((node.name, always and node.op == "Identity"))
            elif not called:
                types.add(AT_TIMES if node.op == ASSIGN and not always else node.op)
            for each in called:
                argument = known[each].signature.input_arg[position - (node.op in BRANCHES)].name
                inside = always and node.op in (each, *CALLS)
                types |= _uses(_consumers(known[each].node_def), argument, known, inside)
        seen.add(name)
    return types


def called_by(node, known):
    """The names of those ``known`` functions that a node calls."""
    attrs = [each for attr in node.attr.values() for each in (attr.func, *attr.list.func)]
    return {name for name in (node.op, *(each.name for each in attrs)) if name in known}
