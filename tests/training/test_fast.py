"""The fast design computes what the listing's does: the same updates of the same parameters, in fewer messages."""

import dataclasses
import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from mnistdist import Cluster, DataSet, Datasets, Graph, read_data_sets, train
from mnistdist.training import build_fast_replica, build_replica
from mnistdist.training import client as training
from mnistdist.training.replica import adam
from mnistdist.training.spec import LOCAL_STEPS_PER_RUN, STEPS_PER_RUN

MNIST = read_data_sets(one_hot=True)
SPEC = {"ps": ["a:1"], "worker": ["b:1"]}


def two_layers():
    """A model of the reader's own, with variables made in both ways and a mean loss."""
    x, y_ = tf.placeholder(tf.float32, [None, 784]), tf.placeholder(tf.float32, [None, 10])
    first = tf.get_variable("first", [784, 5], initializer=tf.glorot_uniform_initializer())
    second = tf.Variable(tf.random_normal([5, 10]), name="second")
    logits = tf.matmul(tf.nn.tanh(tf.matmul(x, first)), second)
    loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits_v2(labels=y_, logits=logits))
    right = tf.equal(tf.argmax(logits, 1), tf.argmax(y_, 1))
    return Graph(x, y_, tf.nn.softmax(logits), loss, tf.reduce_mean(tf.cast(right, tf.float32)))


@pytest.mark.parametrize("steps_per_run", [1, 4])
@pytest.mark.parametrize(("model", "optimizer"), [(None, adam), (two_layers, tf.train.GradientDescentOptimizer)])
def test_one_worker_makes_the_same_steps_in_both_designs(steps_per_run, model, optimizer):
    options = {"seed": 3, "steps": 12, "optimizer": optimizer, "learning_rate": 0.01}
    if model:
        options["build_graph"] = model
    with Cluster(ps=1, workers=1) as cluster:
        listing = train(cluster, design="listing", **options)
        fast = train(cluster, design="fast", steps_per_run=steps_per_run, **options)
    assert fast.global_step == listing.global_step == 12
    assert sorted(fast.model.variables) == sorted(listing.model.variables)
    np.testing.assert_allclose(fast.steps.loss, listing.steps.loss, rtol=1e-3)
    for name, value in listing.model.variables.items():
        assert fast.model.variables[name].shape == value.shape
        np.testing.assert_allclose(fast.model.variables[name], value, rtol=1e-2, atol=1e-3)
    assert fast.test.accuracy == pytest.approx(listing.test.accuracy, abs=5e-3)


@pytest.mark.parametrize("sync", [False, True])
def test_on_several_ps_every_update_counts_once(two_ps, sync):
    run = train(two_ps, steps=150, sync=sync, seed=1)
    assert run.global_step == 150 if sync else 150 <= run.global_step <= 150 + STEPS_PER_RUN
    steps = run.steps
    if sync:
        assert len(steps) >= 300
        assert steps.global_step_after.max() == 150
    else:
        assert sorted(steps.global_step_after) == list(range(1, run.global_step + 1))
    assert (steps.end >= steps.start).all()
    assert run.test.accuracy > 0.8


def test_variables_are_where_the_listing_has_them_under_the_same_names():
    for ps in 1, 2, 3:
        spec, places = {"ps": [f"a:{i + 1}" for i in range(ps)], "worker": ["b:1"]}, []
        for build in build_replica, build_fast_replica:
            with build(spec, 0).graph.as_default():
                places.append({v.op.name: (v.device, v.shape.as_list()) for v in tf.global_variables()})
        assert places[0] == places[1]
        assert len({device for device, _ in places[0].values()}) == ps


def test_a_step_has_one_pull_and_one_push(cluster):
    def crossings(design):
        from IPython import get_ipython

        from mnistdist import read_data_sets
        from mnistdist.training import build_fast_replica, build_replica, worker_session

        here, data = get_ipython().user_ns, read_data_sets(one_hot=True).train
        spec, options = here["cluster_spec"], {"container": f"crossings-{design}"}
        if design == "fast":
            replica = build_fast_replica(spec, 0, train_set=data, steps_per_run=4, **options)
        else:
            replica = build_replica(spec, 0, **options)

        class Traced:
            """The session, with every run traced."""

            def __init__(self, session):
                self.session = session

            def run(self, fetches, feed=None, options=None):
                import tensorflow.compat.v1 as tf

                self.seen = tf.RunMetadata()
                return self.session.run(fetches, feed, tf.RunOptions(output_partition_graphs=True), self.seen)

        with worker_session(replica, here["server"].target, spec, 0) as session:
            traced = Traced(session)
            for _ in range(2):  # the first run is of one step in any design
                made = len(replica.advance(traced, data, 100, 1000, None))
        names = [
            node.attr["tensor_name"].s.decode()
            for part in traced.seen.partition_graphs
            for node in part.node
            if node.op == "_Recv" and not node.attr["client_terminated"].b
        ]
        return made, len(names)

    made, listing = cluster["worker", 0].apply_sync(crossings, "listing")
    assert made == 1
    made, fast = cluster["worker", 0].apply_sync(crossings, "fast")
    assert made == 4
    assert fast <= 2 * made + 2  # a pull and a push each; losses and times stay where they are
    assert listing >= 8


def test_local_steps_count_every_batch_and_learn(cluster):
    run = train(cluster, steps=600, local_steps=10, seed=2)
    # A worker that was held up in its run, while the other went on to the end, finishes it.
    assert 600 <= run.global_step <= 600 + LOCAL_STEPS_PER_RUN
    assert len(run.steps) == run.global_step / 10
    assert (run.steps.staleness >= 0).all()
    assert run.test.accuracy > 0.9
    last = run.steps.groupby("worker").local_step.max()
    assert last.sum() == len(run.steps)


@pytest.mark.parametrize("pushes", [1, 3])
def test_local_steps_of_one_worker_are_plain_steps(pushes):
    options = {"seed": 3, "steps": 120, "design": "fast"}
    options |= {"build_graph": two_layers, "optimizer": tf.train.GradientDescentOptimizer}
    with Cluster(ps=1, workers=1) as cluster:
        plain = train(cluster, learning_rate=0.1, **options)
        local = train(cluster, learning_rate=0.1, local_steps=4, steps_per_run=4 * pushes, **options)
    assert local.global_step == 120
    assert local.steps.global_step_after.tolist() == list(range(4, 124, 4))
    assert (local.steps.end >= local.steps.start).all()
    assert (local.steps.start.to_numpy()[1:] >= local.steps.end.to_numpy()[:-1]).all()
    np.testing.assert_allclose(local.steps.loss, plain.steps.loss.to_numpy().reshape(-1, 4).mean(1), rtol=1e-3)
    for name, value in plain.model.variables.items():
        np.testing.assert_allclose(local.model.variables[name], value, rtol=1e-3, atol=1e-4)


def test_rows_are_drawn_as_batches_are():
    """The fast design takes the rows that next_batch would: each once an epoch, none dropped."""
    images = np.arange(100, dtype=np.uint8)[:, None].repeat(784, 1)
    few = DataSet(images, np.eye(10, dtype=np.float32)[np.arange(100) % 10])
    seen = np.concatenate([few.next_rows(8) for _ in range(25)])
    assert (np.bincount(seen, minlength=100) == 2).all()


def test_a_set_of_floats_serves_as_well(cluster):
    def floats(part):
        return DataSet(part.images[:2000], part.labels[:2000])

    run = train(cluster, steps=100, data=Datasets(*map(floats, read_data_sets(one_hot=True))), seed=1)
    assert run.validation.accuracy > 0.7


def test_a_loss_without_a_gradient_is_refused():
    def counting():
        model = two_layers()
        return dataclasses.replace(model, loss=1 - model.accuracy)

    with pytest.raises(ValueError, match="expected a loss with a gradient"):
        build_fast_replica(SPEC, 0, build_graph=counting, train_set=MNIST.train)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"design": "quick"}, "expected 'fast' or 'listing', got 'quick'"),
        ({"design": "listing", "local_steps": 2}, "local_steps=2 needs design='fast'"),
        ({"design": "listing", "steps_per_run": 2}, "steps_per_run=2 needs design='fast'"),
        ({"sync": True, "local_steps": 2}, "needs sync=False"),
        ({"local_steps": 0}, "local_steps: expected an int of 1 or more, got 0"),
        ({"steps_per_run": 0}, "steps_per_run: expected an int of 1 or more, got 0"),
    ],
)
def test_options_that_make_no_sense_together_are_refused(cluster, options, message):
    with pytest.raises(ValueError, match=message):
        train(cluster, steps=1, **options)


def test_a_first_run_is_one_step_so_that_its_limit_is_that_of_one(cluster):
    """Of a run of many, nobody knows yet how long it may take: 16 times the limit would be a silence."""
    run = train(cluster, steps=2000, seed=1)
    for result in run.results:
        first, second, third = result.steps[:3]
        assert second.start > first.end  # another run: between two steps of one there is no time at all
        assert third.start == second.end


@pytest.mark.parametrize(
    ("what", "dtype", "options"),
    [
        ("mnistdist/images", "uint8", {}),
        ("mnistdist/forward/hid_w", "float", {}),
        ("mnistdist/own/hid_w/Adam", "float", {"local_steps": 2}),
    ],
)
def test_no_worker_keeps_the_images_or_the_parameters_of_a_training_that_is_over(
    cluster, monkeypatch, what, dtype, options
):
    """The images are 43 MB each."""
    name = f"train-{os.getpid()}-{len(what)}"

    def keeps(container=name):
        import tensorflow.compat.v1 as tf
        from IPython import get_ipython

        namespace = get_ipython().user_ns
        with tf.Graph().as_default(), tf.device(f"/job:worker/task:{namespace['task_index']}/cpu:0"):
            kept = tf.raw_ops.VarHandleOp(dtype=dtype, shape=[], shared_name=what, container=container)
            with tf.Session(namespace["server"].target) as session:
                return bool(session.run(tf.raw_ops.VarIsInitializedOp(resource=kept)))

    def on_step(record):
        if record.local_step == 1 and not keeps():
            raise AssertionError("keeps looks for something else")

    monkeypatch.setattr(training, "_runs", iter([len(what)]))
    train(cluster, steps=50, on_step=on_step, **options)
    assert cluster.workers.apply_sync(keeps) == [False, False]


class Clipped(tf.train.GradientDescentOptimizer):
    """Each gradient within [-1, 1]."""

    def compute_gradients(self, *args, **kwargs):
        pairs = super().compute_gradients(*args, **kwargs)
        return [(tf.clip_by_value(gradient, -1, 1), variable) for gradient, variable in pairs]


def line():
    """The loss 3 a + 4 b, whatever the images."""
    a, b = (tf.get_variable(name, [], initializer=tf.zeros_initializer()) for name in "ab")
    x, y_ = tf.placeholder(tf.float32, [None, 784]), tf.placeholder(tf.float32, [None, 10])
    return Graph(x, y_, tf.nn.softmax(x[:, :10]), 3 * a + 4 * b, tf.reduce_mean(y_))


@pytest.mark.parametrize("sync", [False, True])
def test_a_model_and_an_optimizer_of_ones_own_are_trained_as_they_are_written(sync):
    with Cluster(ps=1, workers=1) as single:
        options = {"steps": 10, "learning_rate": 1, "sync": sync}
        own = train(single, build_graph=line, optimizer=Clipped, **options)
        plain = train(single, build_graph=line, optimizer=tf.train.GradientDescentOptimizer, **options)
    assert own.model.variables == {"a": -10, "b": -10}
    assert plain.model.variables == {"a": -30, "b": -40}
