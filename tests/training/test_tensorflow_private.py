"""TensorFlow's private names: each still does what the package takes it for."""

import ast
import re

import pytest
import tensorflow.compat.v1 as tf

from mnistdist.training import tensorflow_private as private
from tests.book.book_rules import ROOT


def test_a_branch_has_its_context_and_no_other_op_has_one():
    with tf.Graph().as_default():
        outside, inside = tf.constant(True), []
        tf.disable_control_flow_v2()
        tf.cond(outside, lambda: inside.append(tf.constant(1.0)) or inside[0], lambda: tf.constant(2.0))
        tf.enable_control_flow_v2()
    assert private.control_flow(outside.op) is None, "Operation._get_control_flow_context has changed"
    assert private.control_flow(inside[0].op) is not None, "Operation._get_control_flow_context has changed"


def test_an_op_can_be_made_to_wait():
    with tf.Graph().as_default():
        first, second = tf.constant(1), tf.constant(2)
        private.wait_for(second.op, first.op)
    assert first.op in second.op.control_inputs, "Operation._add_control_input has changed"


def test_ops_can_be_made_to_ask_for_no_device():
    with tf.Graph().as_default() as graph, tf.Session() as session:
        with tf.device("/job:ps/task:3"):
            one = tf.constant(1)
        private.forget_devices(graph)
        assert session.run(one) == 1, "Operation._set_device has changed"


def test_functions_come_without_constants_and_can_be_added():
    with tf.Graph().as_default() as graph:
        tf.constant([1.0] * 1000)

        @tf.function
        def double(value):
            return 2 * value

        double(tf.constant(1.0))
        found = private.functions(graph)
    (name,) = [name for name in found if "double" in name]
    assert found[name].node_def, "Graph._copy_functions_to_graph_def has changed"
    with tf.Graph().as_default() as other:
        private.add_functions([found[name]])
        assert name in private.functions(other)


def test_a_part_of_a_variable_tells_of_the_whole():
    with tf.Graph().as_default(), tf.variable_scope("", use_resource=True):
        first, _ = tf.get_variable("cut", [6], partitioner=tf.fixed_size_partitioner(2))
        whole = tf.get_variable("whole", [6])
    assert private.whole_of(first) == ("cut", [6]), "Variable._get_save_slice_info has changed"
    assert private.whole_of(whole) == ("whole", [6])


def test_an_optimizer_for_reference_variables_updates_the_others():
    class Old(tf.train.Optimizer):
        def __init__(self):
            super().__init__(False, "Old")

        def _apply_dense(self, gradient, variable):
            return tf.assign_sub(variable, gradient)

    with tf.Graph().as_default(), tf.Session() as session:
        v, old = tf.Variable(3.0, use_resource=True), Old()
        private.accept_resource_variables(old)
        update = old.apply_gradients([(tf.constant(1.0), v)])
        session.run(tf.global_variables_initializer())
        session.run(update)
        assert session.run(v) == 2, "Optimizer._resource_apply_dense has changed"


def test_layers_without_a_name_are_counted_anew():
    keras = pytest.importorskip("keras")
    names = []
    for _ in range(2):
        private.begin_layer_names()
        names.append(keras.layers.Dense(1).name)
    assert names == ["dense", "dense"], "keras.src.utils.naming.reset_uids has changed"


# With one underscore in front, and meant for everybody.
PUBLIC = {"_asdict", "_exit", "_fields"}


def private_names(tree):
    """The private attributes that a module asks for, and the private modules of TensorFlow that it imports."""
    for node in ast.walk(tree):
        own = isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self", "cls")
        if isinstance(node, ast.Attribute) and re.match("_[a-z]", node.attr) and not own:
            yield node.attr, ast.unparse(node)
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [each.name for each in node.names] + [getattr(node, "module", None) or ""]
            yield from ((each, each) for each in modules if re.match(r"tensorflow\.python|keras\.src", each))


def defined(tree):
    """The private names that a module itself makes: functions, and attributes of its classes."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def test_no_other_module_uses_a_private_name_of_tensorflow():
    """A private attribute that no module of the package makes is somebody else's."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "mnistdist").rglob("*.py")}
    own, used = set().union(*map(defined, trees.values())) | PUBLIC, {}
    for path, tree in trees.items():
        if re.search(r"import tensorflow|from tensorflow", path.read_text(encoding="utf-8")):
            used[path.stem] = {said for name, said in private_names(tree) if name not in own}
    assert "op._add_control_input" in used.pop("tensorflow_private")
    assert {name: names for name, names in used.items() if names} == {}
    assert list(private_names(ast.parse("from tensorflow.python.ops import variables")))
