"""The fast design computes what the reader wrote: the right values for what a copy of the model would get wrong."""

import functools
import re

import cloudpickle
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from mnistdist import Cluster, DataSet, Datasets, Graph, read_data_sets, restore, train
from mnistdist.model import evaluate
from tests.training import zoo
from tests.training.test_zoo import compare, run

cloudpickle.register_pickle_by_value(zoo)


@pytest.fixture(params=["async", "sync"])
def cluster_and_mode(request, alone, two_ps):
    """One worker's steps, or rounds of two workers with the same batch: both are to come out as one process does."""
    return (alone, {}) if request.param == "async" else (two_ps, {"sync": True})


def scalars(cluster_and_mode, optimizer, steps=10, rate=1.0):
    cluster, mode = cluster_and_mode
    options = {"data": zoo.data(), "batch_size": zoo.ROWS, "learning_rate": rate, "steps": steps}
    made = train(cluster, build_graph=zoo.two_scalars, optimizer=optimizer, steps_per_run=4, **options, **mode)
    return made.model.variables["a"], made.model.variables["b"]


class RateOfB(tf.train.GradientDescentOptimizer):
    def apply_gradients(self, pairs, *args, **options):
        return super().apply_gradients([(g * (0.5 if v.op.name == "b" else 1), v) for g, v in pairs], *args, **options)


class DecaysA(tf.train.GradientDescentOptimizer):
    """Halves ``a`` before each update, and leaves ``b``."""

    def apply_gradients(self, pairs, *args, **options):
        pairs = list(pairs)
        with tf.control_dependencies([g for g, _ in pairs]):
            halved = [v.assign(0.5 * v.read_value()) for _, v in pairs if v.op.name == "a"]
        with tf.control_dependencies(halved):
            return super().apply_gradients(pairs, *args, **options)


class TwoOptimizers(zoo.Two):
    def __init__(self, rate):
        self._first = tf.train.GradientDescentOptimizer(rate)
        self._second = tf.train.GradientDescentOptimizer(rate / 2)


@pytest.mark.parametrize(
    ("optimizer", "a", "b"),
    [
        (zoo.ClipsEach, -10, -10),
        (zoo.ClipsNorms, -10, -10),
        (zoo.Freezes, 0, -40),
        (RateOfB, -30, -20),
        (DecaysA, -3 * sum(0.5**n for n in range(10)), -40),
        (TwoOptimizers, -30, -20),
    ],
)
def test_an_optimizer_of_the_readers_does_its_own_arithmetic(cluster_and_mode, optimizer, a, b):
    assert scalars(cluster_and_mode, optimizer) == pytest.approx((a, b))


def until_fifty(rate):
    return tf.train.GradientDescentOptimizer(tf.where(tf.train.get_global_step() < 50, rate, 0.0))


def test_a_schedule_sees_each_step_once(cluster_and_mode):
    assert scalars(cluster_and_mode, until_fifty, steps=200) == pytest.approx((-150, -200))


def rate_in_a_variable(rate):
    return tf.train.GradientDescentOptimizer(tf.Variable(rate, trainable=False))


def test_a_rate_in_a_variable(cluster_and_mode, two_ps):
    assert scalars(cluster_and_mode, rate_in_a_variable) == pytest.approx((-30, -40))
    made = train(two_ps, build_graph=zoo.two_scalars, optimizer=rate_in_a_variable, learning_rate=1.0, steps=50,
                 data=zoo.data(), batch_size=8)  # fmt: skip
    assert made.model.variables["a"] == pytest.approx(-3 * made.global_step)


@pytest.mark.parametrize("design", ["fast", "listing"])
@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("name", ["random_with_a_seed", "dropout", "random_in_a_function"])
def test_each_step_draws_other_numbers_and_other_ones_on_each_worker(two_ps, name, sync, design):
    losses = run(two_ps, name, steps=200, sync=sync, design=design).steps.loss.tolist()
    assert len(losses) >= 200
    assert len(set(losses)) == len(losses)


def two_draws():
    return zoo.one_scalar(lambda w, x: 0 * w + tf.random_uniform([]) - tf.random_uniform([]))


@pytest.mark.parametrize("design", ["fast", "listing"])
def test_without_a_seed_each_op_and_each_training_draws_other_numbers(alone, design):
    options = {"steps": 20, "design": design, "data": zoo.data(), "batch_size": 8}
    losses = [loss for _ in range(2) for loss in train(alone, build_graph=two_draws, **options).steps.loss]
    assert len(set(losses)) == 40


def counts():
    element = tf.data.make_one_shot_iterator(tf.data.Dataset.range(10**6)).get_next()
    x, y_ = zoo.inputs()
    return zoo.plain(x, y_, 0 * tf.get_variable("w", []) + tf.cast(element, tf.float32))


@pytest.mark.parametrize("sync", [False, True])
def test_each_worker_takes_each_element_of_its_iterator_once(two_ps, sync):
    steps = train(two_ps, build_graph=counts, steps=200, sync=sync, data=zoo.data(), batch_size=8).steps
    for _, own in steps.sort_values("local_step").groupby("worker"):
        assert own.loss.tolist() == list(range(len(own)))


def one_from_another():
    a = tf.Variable(tf.random_uniform([]), name="a")
    b = tf.Variable(a.initial_value, name="b")
    x, y_ = zoo.inputs()
    return zoo.plain(x, y_, a + b)


@pytest.mark.parametrize("sync", [False, True])
def test_a_variable_that_begins_as_another(two_ps, sync):
    made = train(two_ps, build_graph=one_from_another, steps=5, sync=sync, data=zoo.data(), batch_size=8,
                 optimizer=tf.train.GradientDescentOptimizer)  # fmt: skip
    assert made.model.variables["a"] == made.model.variables["b"]


@pytest.mark.parametrize("name", ["two_optimizers", "accumulates", "own_slots", "reference_style"])
def test_rounds_of_the_listings_design_are_counted_whatever_the_optimizer_does(two_ps, name):
    compare(two_ps, name, run(two_ps, name, sync=True, design="listing"))


def test_a_function_of_the_optimizers_that_takes_variables_on_two_ps_is_refused(two_ps):
    with pytest.raises(ValueError, match=r"takes variables into a tf\.function: that needs design='fast'$"):
        train(two_ps, build_graph=zoo.layers, optimizer=zoo.OneFunction, steps=2, data=zoo.data(), batch_size=8)


def in_bfloat16():
    x, y_ = zoo.inputs()
    w = tf.get_variable("w", initializer=tf.cast(zoo.start(zoo.FEATURES, zoo.CLASSES), tf.bfloat16))
    return zoo.classifier(x, y_, tf.matmul(tf.cast(x, tf.bfloat16), w))


@pytest.mark.parametrize(
    ("name", "design", "sync", "message"),
    [
        (
            "optimizer_of_keras",
            "fast",
            False,
            "optimizer: expected a tf.train.Optimizer, got a keras.src.optimizers.sgd.SGD",
        ),
        ("clips_in_minimize", "listing", True, "got ClipsInMinimize with a minimize() of its own"),
        (
            "counts_itself",
            "listing",
            True,
            "optimizer: expected one that leaves the global step alone, got one that changes it",
        ),
        (
            "rate_by_loss",
            "listing",
            True,
            "optimizer: expected one whose rounds need nothing that is fed, got 'Placeholder'",
        ),
        (
            "losses_of_all_examples",
            "fast",
            False,
            "build_graph: expected a loss that is a scalar, got one of shape (?,)",
        ),
        (
            "nothing_returned",
            "fast",
            False,
            "build_graph: expected a Graph of tensors, got a NoneType without a tensor as x, y_, y, loss, accuracy",
        ),
        (
            "loss_is_a_variable",
            "fast",
            True,
            "build_graph: expected a Graph of tensors, got a Graph without a tensor as loss",
        ),
        ("integer_loss", "fast", False, "build_graph: expected a loss of floating point, got one of int32"),
    ],
)
def test_a_refusal_says_what_is_wrong(two_ps, name, design, sync, message):
    with pytest.raises(ValueError, match=re.escape(message) + "$"):
        run(two_ps, name, design=design, sync=sync)


def test_rounds_of_bfloat16_are_refused(two_ps):
    options = {"steps": 2, "sync": True, "data": zoo.data(), "batch_size": 8, "optimizer": zoo.OPTIMIZERS["sgd"]}
    with pytest.raises(
        ValueError,
        match="sync=True: expected an optimizer that needs only gradients, of 16, 32 or 64 bits, got one that",
    ):
        train(two_ps, build_graph=in_bfloat16, **options)


READ_ANYWHERE = ["embedding", "gather_with_duplicates", "partitioned", "partitioned_embedding", "while_loop", "cond"]
READ_ANYWHERE += ["tf_function", "tf_function_with_a_loop", "swish", "custom_gradient", "not_resource"]
READ_ANYWHERE += ["waits_for_placeholders", "rnn_by_scan"]


@pytest.mark.parametrize("name", READ_ANYWHERE)
def test_a_variable_may_be_read_anywhere(cluster_and_mode, name):
    cluster, mode = cluster_and_mode
    compare(cluster, name, run(cluster, name, **mode))


@pytest.mark.parametrize("name", ["nce"])
def test_sampled_losses_train(cluster_and_mode, name):
    cluster, mode = cluster_and_mode
    losses = run(cluster, name, steps=100, **mode).steps.loss
    assert losses.tail(20).mean() < losses.head(20).mean()


def test_an_rnn_by_scan_in_the_design_of_the_listing(alone, two_ps):
    compare(alone, "rnn_by_scan", run(alone, "rnn_by_scan", design="listing"))
    compare(two_ps, "rnn_by_scan", run(two_ps, "rnn_by_scan", design="listing", sync=True))


@pytest.mark.parametrize("design", ["fast", "listing"])
@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("assign", [False, True])
def test_batch_normalisation_is_saved_and_restored(two_ps, tmp_path, assign, sync, design):
    build = functools.partial(zoo.batch_normalisation, assign)
    options = {"data": zoo.data(), "batch_size": zoo.ROWS, "seed": 3, "learning_rate": 0.5}
    made = train(two_ps, build_graph=build, steps=100, sync=sync, design=design, **options)
    made.save(tmp_path / "model.npz")
    with tf.Graph().as_default(), tf.Session() as session:
        model = build()
        session.run(tf.global_variables_initializer())
        restore(session, tmp_path / "model.npz")
        again = evaluate(session, model, zoo.data().test)
        moving = session.run(tf.global_variables("moving_mean")[0])
    assert again.accuracy == made.test.accuracy
    assert abs(moving).max() > 0.01
    assert again.loss == pytest.approx(made.test.loss, rel=1e-4)


def of_odd_types():
    x, y_ = zoo.inputs()
    words = tf.Variable(tf.constant(["a", "bcd"]), trainable=False, name="words")
    w = tf.get_variable("w", initializer=tf.cast(zoo.start(zoo.FEATURES, zoo.CLASSES), tf.bfloat16))
    value = tf.placeholder_with_default(zoo.start(zoo.FEATURES, zoo.CLASSES), None)
    v = tf.Variable(value, validate_shape=False, name="v")
    logits = tf.matmul(x, tf.cast(w, tf.float32)) + tf.reshape(tf.matmul(x, v), [-1, zoo.CLASSES])
    return zoo.classifier(x, y_, logits * tf.cast(tf.reduce_sum(tf.strings.length(words)), tf.float32))


def test_strings_half_floats_and_what_has_no_shape_are_saved_and_restored(alone, tmp_path):
    made = train(alone, build_graph=of_odd_types, steps=10, data=zoo.data(), batch_size=8,
                 optimizer=tf.train.GradientDescentOptimizer, learning_rate=0.1)  # fmt: skip
    made.save(tmp_path / "model.npz")
    with tf.Graph().as_default(), tf.Session() as session:
        model = of_odd_types()
        session.run(tf.global_variables_initializer())
        restore(session, tmp_path / "model.npz")
        assert evaluate(session, model, zoo.data().test) == pytest.approx(made.test, rel=1e-5)
        assert session.run(tf.global_variables("words")[0]).tolist() == [b"a", b"bcd"]


def counter():
    x, y_ = zoo.inputs()
    seen = tf.get_variable("seen", [], tf.int64, tf.zeros_initializer(), trainable=False)
    w = tf.get_variable("w", [], initializer=tf.zeros_initializer())
    with tf.control_dependencies([seen.assign_add(tf.shape(x, out_type=tf.int64)[0])]):
        return zoo.plain(x, y_, w * 1.0)


@pytest.mark.parametrize("sync", [False, True])
def test_what_a_model_adds_up_is_the_sum_of_all_workers(two_ps, sync):
    made = train(two_ps, build_graph=counter, steps=100, sync=sync, data=zoo.data(), batch_size=8)
    assert made.model.variables["seen"] == 8 * len(made.steps)


@pytest.mark.parametrize("name", ["py_func", "numpy_function"])
def test_python_in_the_model(cluster_and_mode, name):
    cluster, mode = cluster_and_mode
    assert run(cluster, name, steps=300, **mode).global_step >= 300


KEPT = [
    "lookup_table",
    "table_of_words",
    "local_variable",
    "initializable_iterator",
    "queue_runner",
    "batches_by_queue",
]
KEPT += ["fixed_batch", "keras_layers", "metrics"]


@pytest.mark.parametrize("design", ["fast", "listing"])
@pytest.mark.parametrize("name", KEPT)
def test_what_a_worker_keeps_is_there_in_training_and_evaluation(cluster_and_mode, name, design):
    cluster, mode = cluster_and_mode
    made = run(cluster, name, design=design, **mode)
    assert made.global_step >= zoo.STEPS
    assert 0 <= made.validation.accuracy <= 1
    assert made.predictions.shape == (zoo.ROWS,)


def saved(cluster, folder, **mode):
    """A run, and what a Saver of the reader's own graph reads of its last checkpoint: step, variables, momentum."""
    made = train(cluster, steps=40, seed=1, logdir=folder, build_graph=zoo.layers, batch_size=8,
                 data=zoo.data(), optimizer=zoo.OPTIMIZERS["momentum"], **mode)  # fmt: skip
    with tf.Graph().as_default(), tf.Session() as session:
        step = tf.train.get_or_create_global_step()
        zoo.OPTIMIZERS["momentum"](0.1).minimize(zoo.layers().loss)
        tf.train.Saver().restore(session, tf.train.latest_checkpoint(folder))
        variables = {variable.op.name: session.run(variable) for variable in tf.trainable_variables()}
        return made, session.run(step), variables, session.run(tf.global_variables("w/Momentum")[0])


def test_a_saver_of_the_readers_own_graph_reads_the_checkpoint(cluster_and_mode, tmp_path):
    cluster, mode = cluster_and_mode  # where another worker may finish a step after the chief has saved, none is there
    made, step, variables, momentum = saved(cluster, tmp_path, **mode)
    assert step == made.global_step
    for name, value in variables.items():
        np.testing.assert_array_equal(value, made.model.variables[name])
    assert abs(momentum).max() > 0


def test_a_saver_of_the_readers_own_graph_reads_what_two_workers_left_on_two_ps(two_ps, tmp_path):
    made, step, variables, momentum = saved(two_ps, tmp_path)
    assert 40 <= step <= made.global_step
    assert {name: value.shape for name, value in variables.items()} == {
        name: value.shape for name, value in made.model.variables.items()
    }
    assert abs(momentum).max() > 0


def held(folder):
    """All that the last checkpoint in a folder holds, by name."""
    reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(folder))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_a_training_in_parts_comes_to_what_one_in_a_piece_does(alone, tmp_path, optimizer):
    """Moving averages and slots go on as well: in the other design, and on other ps."""
    options = {"build_graph": zoo.batch_normalisation, "data": zoo.data(), "batch_size": zoo.ROWS, "learning_rate": 0.1}
    options |= {"optimizer": zoo.OPTIMIZERS[optimizer], "seed": 3}
    train(alone, steps=60, logdir=tmp_path / "whole", **options)
    options["logdir"] = tmp_path / "parts"
    train(alone, steps=20, **options)
    with Cluster(ps=2, workers=1) as other:
        for steps, cluster, design in (40, alone, "listing"), (60, other, "fast"):
            made = train(cluster, steps=steps, design=design, **options)
            assert made.steps.global_step_before.tolist() == list(range(steps - 20, steps))
    whole, parts = held(tmp_path / "whole"), held(tmp_path / "parts")
    assert set(whole) == set(parts)
    assert abs(whole["moving_mean"]).max() > 0.01 and any("/" in name for name in whole)
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


def large():
    x, y_ = zoo.inputs()
    table = tf.constant(np.ones([30_000_000], np.float32))
    return zoo.plain(x, y_, tf.get_variable("w", []) * table[0])


@pytest.mark.parametrize("sync", [False, True])
def test_a_constant_of_120_mb(two_ps, sync):
    assert train(two_ps, build_graph=large, steps=200, sync=sync, data=zoo.data(), batch_size=8).global_step >= 200


class Counted:
    """A session that notes how many rows it is fed at most."""

    def __init__(self, session):
        self.session, self.most = session, 0

    def run(self, fetches, feed):
        self.most = max(self.most, *(len(value) for value in feed.values()))
        return self.session.run(fetches, feed)


@pytest.mark.parametrize("loss", ["sum", "mean", "sum and a constant", "mean and a constant"])
@pytest.mark.parametrize("count", [300, 1000, 1234])
def test_an_evaluation_in_batches_is_that_of_one_batch(loss, count):
    some = read_data_sets(one_hot=True).validation
    some = DataSet(some.images[:count], some.labels[:count])
    with tf.Graph().as_default(), tf.Session() as session:
        x, y_ = tf.placeholder(tf.float32, [None, 784]), tf.placeholder(tf.float32, [None, 10])
        model = zoo.classifier(x, y_, tf.matmul(x, tf.constant(zoo.start(784, 10))))
        each = tf.nn.softmax_cross_entropy_with_logits_v2(labels=y_, logits=tf.log(model.y + 1e-6))
        total = (tf.reduce_sum if "sum" in loss else tf.reduce_mean)(each) + (3.0 if "constant" in loss else 0.0)
        model = Graph(x, y_, model.y, total, model.accuracy)
        counted = Counted(session)
        made = evaluate(counted, model, some)
        whole = session.run([model.loss, model.accuracy], {x: some.images, y_: some.labels})
    assert counted.most <= 500
    assert made == pytest.approx(whole, rel=1e-4)


def test_what_a_model_draws_makes_no_sum_of_a_mean():
    some = read_data_sets(one_hot=True).validation
    with tf.Graph().as_default(), tf.Session() as session:
        x, y_ = tf.placeholder(tf.float32, [None, 784]), tf.placeholder(tf.float32, [None, 10])
        h = tf.nn.dropout(x, rate=0.9)
        model = zoo.classifier(x, y_, 10 * tf.reduce_mean(x) * tf.matmul(h, tf.constant(zoo.start(784, 10))))
        losses = [evaluate(session, model, some).loss for _ in range(10)]
    assert max(losses) < 1.1 * min(losses)


def test_a_fixed_batch_is_evaluated_on_every_example():
    some = read_data_sets(one_hot=True).validation
    some = DataSet(some.images[:130], some.labels[:130])
    with tf.Graph().as_default(), tf.Session() as session:
        made, w = [], tf.constant(zoo.start(784, 10))
        for rows in (None, 50):
            x, y_ = tf.placeholder(tf.float32, [rows, 784]), tf.placeholder(tf.float32, [rows, 10])
            made.append(evaluate(session, zoo.classifier(x, y_, tf.matmul(x, w)), some))
    assert made[1] == pytest.approx(made[0], rel=1e-4)


def fails_on_large_batches():
    x, y_ = zoo.inputs()
    with tf.control_dependencies([tf.assert_less(tf.shape(x)[0], 9)]):
        return zoo.classifier(x, y_, tf.matmul(x, zoo.weights("w", zoo.FEATURES, zoo.CLASSES)))


def test_an_evaluation_that_fails_gives_the_run_with_its_error(alone):
    few = zoo.data().train
    many = DataSet(np.tile(few.images, (2, 1)), np.tile(few.labels, (2, 1)))
    made = train(alone, build_graph=fails_on_large_batches, steps=20, batch_size=8, data=Datasets(few, many, many))
    assert made.global_step == 20
    assert "w" in made.model.variables
    assert "assert" in made.error
    assert made.validation is None
    assert made.test is None


def fails_at_once():
    x, y_ = zoo.inputs()
    with tf.control_dependencies([tf.assert_greater(tf.shape(x)[0], 100)]):
        return zoo.classifier(x, y_, tf.matmul(x, zoo.weights("w", zoo.FEATURES, zoo.CLASSES)))


def test_a_model_that_fails_on_a_batch_fails_before_anything_starts(alone):
    with pytest.raises(ValueError, match=r"build_graph: the model fails on a batch of 8: [^\n]*$"):
        train(alone, build_graph=fails_at_once, steps=20, batch_size=8, data=zoo.data())


def counts_its_steps(write):
    """A model in which each worker counts its own steps, in a row of its own, by reading and writing them."""

    def build():
        from mnistdist.cluster.task import own_task

        x, y_ = zoo.inputs()
        w = tf.get_variable("w", [], initializer=tf.zeros_initializer())
        with tf.control_dependencies([write(own_task().index)]):
            return zoo.plain(x, y_, tf.identity(w))

    return build


def by_row(index):
    counts = tf.get_variable("counts", [2], initializer=tf.zeros_initializer(), trainable=False)
    return counts.scatter_update(tf.IndexedSlices(counts[index] + 1, index))


def by_slice(index):
    counts = tf.get_variable("counts", [2], initializer=tf.zeros_initializer(), trainable=False)
    return counts[index].assign(counts[index] + 1)


def in_a_branch(index):
    counts = [tf.get_variable(f"count{i}", [], initializer=tf.zeros_initializer(), trainable=False) for i in (0, 1)]
    mine = [tf.placeholder_with_default(i == index, []) for i in (0, 1)]
    return tf.group(*(tf.cond(m, lambda v=v: v.assign(v + 1).op, tf.no_op) for m, v in zip(mine, counts, strict=True)))


def without_initial_values():
    x, y_ = zoo.inputs()
    w = tf.get_variable("w", initializer=tf.debugging.check_numerics(tf.constant(np.inf), "not a number"))
    return zoo.plain(x, y_, 2 * w)


def counts_epochs():
    """A queue whose thread has to read a variable and a table, which are to be there when it begins."""
    x, y_ = zoo.inputs()
    values = tf.lookup.KeyValueTensorInitializer(tf.range(3, dtype=tf.int64), tf.constant([1.0, 2.0, 3.0]))
    table = tf.lookup.StaticHashTable(values, 0.0)
    number = tf.train.range_input_producer(3, num_epochs=1000, shuffle=False).dequeue()
    found = tf.train.batch([table.lookup(tf.cast(number, tf.int64))], 1)
    return zoo.plain(x, y_, tf.get_variable("w", [], initializer=tf.zeros_initializer()) * found[0])


def test_queues_begin_when_all_is_initialised(alone):
    options = {"optimizer": tf.train.GradientDescentOptimizer, "learning_rate": 1.0, "data": zoo.data()}
    assert train(alone, build_graph=counts_epochs, steps=3, **options).model.variables["w"] == -6


def test_initial_values_that_fail_are_told_before_anything_starts(alone):
    with pytest.raises(ValueError, match=r"build_graph: its variables can't be initialised: [^\n]*$"):
        train(alone, build_graph=without_initial_values, steps=3, data=zoo.data())


@pytest.mark.parametrize("write", [by_row, by_slice, in_a_branch])
@pytest.mark.parametrize("sync", [False, True])
def test_what_a_worker_has_not_written_is_not_taken_back(two_ps, capsys, write, sync):
    options = {"optimizer": tf.train.GradientDescentOptimizer, "steps": 80, "data": zoo.data(), "sync": sync}
    made = train(two_ps, build_graph=counts_its_steps(write), **options)
    assert capsys.readouterr().err == ""
    values = made.model.variables
    counts = values["counts"] if "counts" in values else [values["count0"], values["count1"]]
    assert list(counts) == [(made.steps.worker == index).sum() for index in (0, 1)]


def looks_up(rows):
    """A model that looks a row up for each example in a table of so many."""

    def build():
        x, y_ = zoo.inputs()
        table = tf.get_variable("table", [rows, 16], initializer=tf.zeros_initializer())
        return zoo.plain(x, y_, tf.reduce_sum(tf.nn.embedding_lookup(table, tf.cast(x[:, 0], tf.int32))))

    return build


@pytest.mark.parametrize("rows", [1000, 100_000])
def test_a_large_table_is_not_pulled_for_a_few_rows(alone, capsys, rows):
    made = train(
        alone, build_graph=looks_up(rows), optimizer=tf.train.GradientDescentOptimizer, steps=6, data=zoo.data()
    )
    said = "table would be pulled as a whole, and the model looks rows up in it: trained in the listing's design\n"
    assert (said in capsys.readouterr().err) == (rows == 100_000)
    assert np.count_nonzero(made.model.variables["table"].any(axis=1)) < 10


@pytest.mark.parametrize("options", [{"local_steps": 2}, {"steps_per_run": 4}], ids=str)
def test_options_of_the_fast_design_are_refused_where_it_falls_back(alone, options):
    with pytest.raises(ValueError, match="that needs design='listing', without local_steps or steps_per_run"):
        run(alone, "adds_and_assigns", **options)


class Remembers(tf.train.GradientDescentOptimizer):
    """Has no step where the loss is above the least until now, which is infinite at first."""

    def __init__(self, rate):
        super().__init__(rate)
        self.least = tf.Variable(np.inf, trainable=False, name="least")

    def compute_gradients(self, loss, **options):
        self.loss = loss
        return super().compute_gradients(loss, **options)

    def apply_gradients(self, pairs, *args, **options):
        better = tf.cast(self.loss <= self.least, tf.float32)
        with tf.control_dependencies([better]), tf.control_dependencies([self.least.assign(self.loss)]):
            return super().apply_gradients([(better * g, v) for g, v in pairs], *args, **options)


def test_local_steps_keep_a_state_of_the_optimizers_that_is_infinite_at_first(alone):
    made = train(alone, build_graph=zoo.two_scalars, optimizer=Remembers, learning_rate=1.0, steps=24, local_steps=4,
                 data=zoo.data(), batch_size=8)  # fmt: skip
    assert made.model.variables["a"] == pytest.approx(-72)


def test_local_steps_follow_a_schedule_and_keep_what_the_model_writes(alone):
    options = {"steps": 24, "local_steps": 4, "data": zoo.data(), "batch_size": 8, "seed": 3}
    made = train(alone, build_graph=zoo.two_scalars, optimizer=lambda rate: tf.train.GradientDescentOptimizer(
        tf.where(tf.train.get_global_step() < 10, rate, 0.0)), learning_rate=1.0, **options)  # fmt: skip
    assert made.model.variables["a"] == pytest.approx(-30)
    made = train(alone, build_graph=counter, **options)
    assert made.model.variables["seen"] == 8 * 24
