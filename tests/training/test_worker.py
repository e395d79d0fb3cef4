"""The training loop of a worker, against a session that plays the rest of the cluster."""

import dataclasses

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from book.experiments.listing import build_listing
from mnistdist import read_data_sets
from mnistdist.training import build_replica, train_loop
from mnistdist.training.replica import MadeStep, Rounds

ROUNDS = Rounds(None, None, None)
SPEC = {"ps": ["a:1", "b:1"], "worker": ["c:1", "d:1", "e:1"]}


class Rest:
    """A session whose global step goes up by ``stride`` a step (this worker's and the others'); ``fails`` at one."""

    message = "FIFOQueue '_3_sync_token_q' is closed and has insufficient elements"

    def __init__(self, replica, first=0, stride=1, fails=None, ends_at=None):
        self.replica, self.now, self.stride, self.fails, self.ends_at = replica, first, stride, fails, ends_at
        self.options = []

    def run(self, fetches, feed=None, options=None):
        if fetches is self.replica.global_step:
            return self.now
        assert [fetch.op.name for fetch in fetches[:2]] == ["global_step_before", "global_step_after"]
        assert set(feed) == {self.replica.model.x, self.replica.model.y_}
        self.options.append(options)
        if self.fails is not None and self.now >= self.fails:
            self.now = self.ends_at
            raise tf.errors.OutOfRangeError(None, None, self.message)
        before, self.now = self.now, self.now + self.stride
        return np.int64(before), np.int64(self.now), np.float32(230.0)


class Batches:
    """A data set that counts what it is asked for."""

    asked = ()

    def next_batch(self, size):
        self.asked += (size,)
        return np.zeros([size, 784], np.float32), np.zeros([size, 10], np.float32)


@pytest.fixture
def replica():
    return build_replica(SPEC, 1)


def test_a_worker_stops_when_the_global_step_is_reached(replica):
    data = Batches()
    steps = train_loop(Rest(replica, stride=3), replica, data, task_index=1, steps=10, batch_size=7)
    assert [(s.worker, s.local_step, s.global_step_before, s.global_step_after) for s in steps] == [
        (1, 1, 0, 3),
        (1, 2, 3, 6),
        (1, 3, 6, 9),
        (1, 4, 9, 12),
    ]
    assert data.asked == (7, 7, 7, 7)
    assert all(s.end >= s.start and s.loss == 230 for s in steps)


def test_a_worker_that_comes_late_does_nothing(replica):
    assert train_loop(Rest(replica, first=10), replica, Batches(), task_index=1, steps=10) == []


def test_every_step_has_the_limit_of_time_that_was_asked_for(replica):
    rest, seen = Rest(replica), []
    train_loop(rest, replica, Batches(), task_index=1, steps=2, timeout=1.5, on_step=seen.append)
    assert [options.timeout_in_ms for options in rest.options] == [1500, 1500]
    assert [record.local_step for record in seen] == [1, 2]
    rest = Rest(replica)
    train_loop(rest, replica, Batches(), task_index=1, steps=1)
    assert rest.options == [None]


def test_all_steps_of_a_run_are_recorded_though_a_checkpoint_can_not_be_written_after_the_first(replica):
    """They have been made: how many are lost is counted from the last of them."""
    made = [MadeStep(step, step + 1, 0.0, 0.0, 230.0) for step in range(16)]
    replica, records = dataclasses.replace(replica, advance=lambda *_: made), []

    def on_step(record):
        raise tf.errors.UnavailableError(None, None, "the ps has gone")

    with pytest.raises(tf.errors.UnavailableError):
        train_loop(Rest(replica), replica, None, task_index=1, steps=20, on_step=on_step, records=records)
    assert [record.global_step_after for record in records] == list(range(1, 17))


@pytest.mark.parametrize(
    ("index", "ends_at", "error"), [(0, 10, None), (1, 10, None), (0, 5, ConnectionError), (1, 5, ConnectionError)]
)
def test_a_closed_queue_of_tokens_is_the_end_or_the_loss_of_the_chief(index, ends_at, error):
    replica = dataclasses.replace(build_replica(SPEC, index), rounds=ROUNDS)
    rest = Rest(replica, fails=5, ends_at=ends_at)
    if error:
        with pytest.raises(error, match="worker:0, the chief, ended in round 5 of 10") as caught:
            train_loop(rest, replica, Batches(), task_index=index, steps=10)
        assert caught.value.for_good
    else:
        assert len(train_loop(rest, replica, Batches(), task_index=index, steps=10)) == 5


def test_a_token_from_before_a_checkpoint_was_restored_does_not_end_the_training(replica):
    """The queue of tokens lives on one ps, and outlives another whose variables are restored."""

    class Restored(Rest):
        def run(self, fetches, feed=None, options=None):
            values = super().run(fetches, feed, options)
            stale = fetches is not replica.global_step and not seen
            return (values[0], np.int64(10), values[2]) if stale else values

    seen = []
    rest = Restored(replica, first=6)
    steps = train_loop(rest, replica, Batches(), task_index=1, steps=10, on_step=seen.append)
    assert [step.global_step_after for step in steps] == [10, 8, 9, 10]


def test_a_closed_queue_in_asynchronous_training_is_an_error_like_any_other(replica):
    with pytest.raises(tf.errors.OutOfRangeError):
        train_loop(Rest(replica, fails=0, ends_at=0), replica, Batches(), task_index=1, steps=10)


def test_the_end_of_the_readers_own_dataset_is_not_taken_for_the_end_of_the_training():
    replica = dataclasses.replace(build_replica(SPEC, 0), rounds=ROUNDS)
    rest = Rest(replica, fails=5, ends_at=10)
    rest.message = "End of sequence"
    with pytest.raises(tf.errors.OutOfRangeError, match="End of sequence"):
        train_loop(rest, replica, Batches(), task_index=0, steps=10)


def test_the_listing_that_all_is_compared_with_trains_in_this_loop():
    data = read_data_sets(one_hot=True, seed=1).train
    replica = build_listing(SPEC, 0, alone=True, seed=1)
    with replica.graph.as_default(), tf.Session() as session:
        session.run(tf.global_variables_initializer())
        made = train_loop(session, replica, data, task_index=0, steps=3)
    assert made[-1].global_step_after >= 3


def test_the_listing_that_all_is_compared_with_has_what_a_session_of_the_chief_needs():
    replica = build_listing(SPEC, 0, sync=True)
    ops = [replica.reset_starts, *replica.rounds]
    assert [op.graph for op in ops] == [replica.graph] * 4


def devices(replica):
    return {v.op.name: v.device for v in replica.graph.get_collection(tf.GraphKeys.GLOBAL_VARIABLES)}


def test_every_worker_makes_the_same_variables_in_the_same_places():
    first, second = (devices(build_replica(SPEC, index, seed=index)) for index in (0, 2))
    assert first == second
    assert {name: place.split("/")[2] for name, place in first.items() if "/" not in name} == {
        "global_step": "task:0",
        "hid_w": "task:1",
        "hid_b": "task:0",
        "sm_w": "task:1",
        "sm_b": "task:0",
        "beta1_power": "task:0",
        "beta2_power": "task:0",
    }


def test_what_is_not_a_variable_is_the_workers():
    replica = build_replica(SPEC, 2, device="cpu:0")
    # TensorFlow writes no task of a variable's reads: they go where the variable is.
    places = {op.device for op in replica.graph.get_operations() if op.type == "MatMul"}
    assert places == {"/job:worker/task:2/device:CPU:0"}


def test_the_graph_of_a_worker_has_the_same_size_in_any_cluster():
    def size(workers):
        spec = {"ps": ["a:1"], "worker": [f"w:{i + 1}" for i in range(workers)]}
        return len(build_replica(spec, 0).graph.get_operations())

    assert size(1) == size(2) == size(100)


@pytest.mark.parametrize("aggregate", [None, 1, 2])
def test_a_synchronous_replica_aggregates_as_many_as_asked(aggregate):
    replica = build_replica(SPEC, 0, sync=True, replicas_to_aggregate=aggregate)
    takes = [op for op in replica.graph.get_operations() if op.type.endswith("AccumulatorTakeGradient")]
    assert len(takes) == 4
    counts = {int(tf.get_static_value(op.inputs[1])) for op in takes}
    assert counts == {aggregate or 3}
