"""The text's network against NumPy, and which op of it may read what, when."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from mnistdist.model import build_model
from mnistdist.placement import placements, traced_run, worker_device
from mnistdist.training import build_replica

SPEC = {"ps": ["a:1", "b:1"], "worker": ["c:1", "d:1"]}


def test_the_network_computes_what_numpy_computes():
    generator = np.random.default_rng(0)
    x = generator.random((7, 784), dtype=np.float32)
    labels = np.eye(10, dtype=np.float32)[generator.integers(10, size=7)]
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(1)
        model = build_model(30)
        session.run(tf.global_variables_initializer())
        hid_w, hid_b, sm_w, sm_b = session.run(tf.trainable_variables())
        y, loss, accuracy = session.run([model.y, model.loss, model.accuracy], {model.x: x, model.y_: labels})
    logits = np.maximum(x @ hid_w + hid_b, 0) @ sm_w + sm_b
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(y, expected, rtol=1e-4)
    np.testing.assert_allclose(loss, -(labels * np.log(expected)).sum(), rtol=1e-4)
    assert accuracy == pytest.approx((expected.argmax(1) == labels.argmax(1)).mean())
    # Truncated at two standard deviations, which are 1 / 28 and 1 / sqrt(30).
    assert 1.5 / 28 < abs(hid_w).max() <= 2 / 28
    assert 1.5 / 30**0.5 < abs(sm_w).max() <= 2 / 30**0.5
    assert not hid_b.any()
    assert not sm_b.any()


def test_a_probability_of_zero_costs_a_finite_loss():
    with tf.Graph().as_default(), tf.Session() as session:
        model = build_model(1)
        session.run(tf.global_variables_initializer())
        hid_w, _, sm_w, _ = tf.trainable_variables()
        session.run([hid_w.assign(tf.ones([784, 1])), sm_w.assign([[1e6] + [0.0] * 9])])
        feed = {model.x: np.ones((1, 784)), model.y_: np.eye(10)[[9]]}
        assert session.run(model.loss, feed) == pytest.approx(-np.log(1e-10), rel=1e-4)


def test_hidden_units_below_one_are_refused():
    with pytest.raises(ValueError, match="hidden_units: expected 1 or more, got 0"):
        build_model(0)


@pytest.mark.parametrize("sync", [False, True])
def test_a_replica_keeps_variables_on_the_ps_and_the_rest_on_its_worker(sync):
    replica = build_replica(SPEC, 1, sync=sync, device="cpu:0")
    asked = {each.name: each.requested for each in placements(replica.graph)}
    ps = [asked[name] for name in ("global_step", "hid_w", "hid_b", "sm_w", "sm_b")]
    assert ps == [f"/job:ps/task:{i % 2}/device:CPU:0" for i in range(5)]
    assert asked["Softmax"] == "/job:worker/task:1/device:CPU:0"
    assert worker_device(1) == "/job:worker/task:1/cpu:0"
    # The sync optimizer's own counter is the worker's; only worker 0 has tokens to give out.
    local = [name for name, device in asked.items() if name.endswith("sync_rep_local_step") and "worker" in device]
    assert len(local) == (1 if sync else 0)


@pytest.mark.parametrize("sync", [False, True])
def test_every_parameter_is_read_after_the_global_step(sync):
    replica = build_replica(SPEC, 0, sync=sync)
    before = replica.graph.get_operation_by_name("global_step_before")
    after = {op for op in replica.graph.get_operations() if before in op.control_inputs}
    assert sorted(op.inputs[0].op.name for op in after) == ["hid_b", "hid_w", "sm_b", "sm_w"]
    assert {op.type for op in after} == {"ReadVariableOp"}


def test_a_traced_run_says_where_each_op_went():
    with tf.Graph().as_default() as graph, tf.Session() as session:
        with tf.device("/cpu:0"):
            value = tf.placeholder(tf.float32, name="value")
            double = tf.multiply(value, 2.0, name="double")
        result, metadata = traced_run(session, double, {value: 3.0})
        placed = {each.name: each for each in placements(graph, metadata)}
    assert result == 6.0
    assert placed["double"].op == "Mul"
    assert placed["double"].requested == "/device:CPU:0"
    assert placed["double"].actual.endswith("/device:CPU:0")
