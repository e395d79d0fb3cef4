"""Each model and optimizer of the catalogue is trained as plain TensorFlow trains it in one process, or is refused.

A run takes a sample of them, by the seed that pytest prints at its beginning; ``make zoo`` takes all.
"""

import contextlib
import io
import os
import random

import cloudpickle
import numpy as np
import pytest

from mnistdist import Cluster, train
from tests.training import zoo

SAMPLE = 12  # of each kind of test: three minutes in all
cloudpickle.register_pickle_by_value(zoo)
NOT_IN_ROUNDS = ("python_in_the_optimizer",)
FAST_ONLY = ("tf_function", "tf_function_with_a_loop")
_oracles = {}


def some(*kinds):
    """The names of these kinds, or a sample of them."""
    names = [name for name, entry in zoo.ZOO.items() if entry.kind in kinds]
    if os.environ.get("ZOO") == "all":
        return names
    return random.Random(int(os.environ["ZOO_SEED"])).sample(names, min(SAMPLE, len(names)))


@pytest.fixture(scope="module")
def second_device():
    """A worker whose device is another than that where TensorFlow puts what asks for none: a stand-in for a GPU."""

    def begin():
        import tensorflow.compat.v1 as tf
        from IPython import get_ipython

        from mnistdist.training import build_fast_replica

        build_fast_replica.__kwdefaults__["device"] = "cpu:1"
        here = get_ipython().user_ns
        config = tf.ConfigProto(device_count={"CPU": 2})
        spec, job, index = (here[name] for name in ("cluster_spec", "job_name", "task_index"))
        here["server"] = tf.train.Server(spec, job, index, config=config)

    with Cluster(ps=1, workers=1, servers=False) as running:
        running.all.apply_sync(begin)
        yield running


def run(cluster, name, **options):
    entry = zoo.ZOO[name]
    options = {"steps": zoo.STEPS, "seed": 3, "batch_size": zoo.ROWS, "data": zoo.data()} | options
    with contextlib.redirect_stderr(io.StringIO()) as said:
        made = train(cluster, build_graph=entry.build, optimizer=entry.optimizer, learning_rate=entry.rate, **options)
    several = [task.job for task in cluster.tasks].count("ps") > 1
    falls_back = options.get("design") != "listing" and (several if entry.listing == "several ps" else entry.listing)
    assert said.getvalue().count("trained in the listing's design") == falls_back
    assert made.error is None
    return made


def compare(cluster, name, made):
    if name not in _oracles:
        _oracles[name] = cluster["worker", 0].apply_sync(zoo.oracle, name)
    want, have = _oracles[name], made.model.variables
    assert have
    for variable, value in have.items():
        if np.asarray(value).dtype.kind in "fc":
            np.testing.assert_allclose(value, want[variable], rtol=1e-4, atol=1e-5, err_msg=variable)
        else:
            assert np.array_equal(value, want[variable]), variable


def ask_for_the_device():
    """Where the calls of the model's functions are put."""
    from mnistdist.training import build_fast_replica

    graph = build_fast_replica({"ps": ["a:1"], "worker": ["b:1"]}, 0).graph
    return sorted({op.device for op in graph.get_operations() if op.type == "StatefulPartitionedCall"})


@pytest.mark.parametrize("name", some(zoo.EQUAL, zoo.ONE_WORKER))
def test_one_worker_trains_as_one_process_does(alone, name):
    compare(alone, name, run(alone, name, steps_per_run=None if zoo.ZOO[name].listing else 4))


@pytest.mark.parametrize("name", some(zoo.EQUAL, zoo.ONE_WORKER)[::2])
def test_a_worker_on_a_second_device_trains_as_one_process_does(second_device, name):
    where = second_device["worker", 0].apply_sync(ask_for_the_device)
    assert where == ["/job:worker/task:0/device:CPU:1"]
    compare(second_device, name, run(second_device, name))


@pytest.mark.parametrize("name", some(zoo.EQUAL))
def test_synchronous_rounds_of_the_same_batch_train_as_one_process_does(two_ps, name):
    if name in NOT_IN_ROUNDS:
        with pytest.raises(ValueError, match="the optimizer calls a Python function, which is in the workers only"):
            run(two_ps, name, sync=True)
    else:
        compare(two_ps, name, run(two_ps, name, sync=True))


@pytest.mark.parametrize("name", some(zoo.EQUAL, zoo.ONE_WORKER))
def test_the_design_of_the_listing_trains_as_one_process_does(alone, name):
    if name in FAST_ONLY:
        with pytest.raises(ValueError, match="that needs design='fast'"):
            run(alone, name, design="listing")
    else:
        compare(alone, name, run(alone, name, design="listing"))


@pytest.mark.parametrize("name", some(zoo.PROPERTY))
@pytest.mark.parametrize("design", ["fast", "listing"])
def test_each_step_of_each_worker_draws_anew(two_ps, name, design):
    made = run(two_ps, name, steps=30, design=design)
    assert np.isfinite(made.steps.loss).all()
    # Where only the optimizer draws, two workers that pull the same variables have the same loss.
    for _, steps in made.steps.groupby("worker") if name == "noisy" else [(None, made.steps)]:
        assert steps.loss.is_unique


@pytest.mark.parametrize("name", some(zoo.REFUSED))
@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("design", ["fast", "listing"])
def test_what_nobody_can_train_is_refused_in_one_line_before_anything_starts(alone, name, sync, design):
    pids = [task.pid for task in alone.tasks]
    with pytest.raises(ValueError, match=r"^(build_graph|optimizer): expected [^\n]*$"):
        run(alone, name, sync=sync, design=design)
    assert [task.pid for task in alone.tasks] == pids


def test_the_catalogue_is_large_and_little_of_it_falls_back():
    kinds = [entry.kind for entry in zoo.ZOO.values()]
    assert len(kinds) - kinds.count(zoo.REFUSED) >= 100
    listing = [entry.listing for entry in zoo.ZOO.values()]
    assert listing.count(True) <= 3
    assert listing.count("several ps") <= 3
    assert all(entry.why for entry in zoo.ZOO.values())
