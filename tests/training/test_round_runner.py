"""The chief's thread that merges gradients: what ends it, what does not, and who is told."""

import threading

import pytest
import tensorflow.compat.v1 as tf

from mnistdist import Cluster, TaskFailed, train
from mnistdist.training.replica import Replica, Rounds
from mnistdist.training.round_runner import Merging


class Chief:
    """A session whose runs of ``merge`` end as told, one after the other; the last of them is to end merging."""

    def __init__(self, *ends, closes=True):
        self.ends, self.closes, self.ran = list(ends), closes, []

    def make_callable(self, op):
        assert op == "merge"
        return lambda: self.run(op)

    def run(self, op, feed=None, options=None):
        self.ran.append(op)
        if op == "merge":
            end = self.ends.pop(0)
            if end is not None:
                raise end(None, None, "why") if issubclass(end, tf.errors.OpError) else end("why")
        if op == "close_tokens" and not self.closes:
            raise tf.errors.DeadlineExceededError(None, None, "no answer")

    def close(self):
        self.ran.append("close")


PARTS = ("graph", "model", "parameters", "global_step", "uninitialized", "local_init", "advance", "reset_starts")
PARTS = dict.fromkeys((*PARTS, "count_start"))
REPLICA = Replica(**PARTS, rounds=Rounds(*Rounds._fields))


def merge(*ends, **options):
    chief = Chief(*ends, **options)
    merging = Merging(chief, REPLICA)
    merging._thread.join(10)
    assert not merging._thread.is_alive()
    return chief, merging


OF_THE_RUNTIME = ("Aborted", "Unavailable", "Cancelled", "FailedPrecondition", "NotFound", "Internal", "Unknown")


@pytest.mark.parametrize("end", OF_THE_RUNTIME)
def test_a_run_that_the_runtime_has_ended_closes_the_session_under_the_step_of_the_chief(end):
    chief, merging = merge(None, getattr(tf.errors, f"{end}Error"))
    assert chief.ran == ["merge", "merge", "close"]
    assert merging.interrupted
    merging.join()


@pytest.mark.parametrize("end", [tf.errors.InvalidArgumentError, tf.errors.ResourceExhaustedError, ZeroDivisionError])
def test_an_error_of_the_model_or_of_ours_closes_the_queue_and_is_kept(end):
    chief, merging = merge(None, end)
    assert chief.ran == ["merge", "merge", "close_tokens"]
    assert not merging.interrupted
    with pytest.raises(end, match="why"):
        merging.join()


def test_where_the_queue_can_not_be_closed_the_chief_still_hears_of_it():
    chief, merging = merge(None, tf.errors.ResourceExhaustedError, closes=False)
    assert chief.ran == ["merge", "merge", "close_tokens", "close"]
    assert isinstance(merging.blame(tf.errors.CancelledError(None, None, "")), tf.errors.ResourceExhaustedError)


def test_only_what_may_follow_from_the_end_of_merging_is_blamed_on_it():
    _, merging = merge(tf.errors.AbortedError)
    for error in (tf.errors.CancelledError(None, None, ""), RuntimeError("Attempted to use a closed Session.")):
        assert merging.blame(error) is merging.error
    for error in (RuntimeError("the reader's own"), ValueError("closed")):
        assert merging.blame(error) is error


@pytest.mark.parametrize("end", [tf.errors.CancelledError, tf.errors.InvalidArgumentError, RuntimeError])
def test_how_a_run_ends_whose_session_is_being_closed_is_no_error(end):
    begun, go_on = threading.Event(), threading.Event()

    class Waiting(Chief):
        def run(self, op, feed=None, options=None):
            begun.set()
            assert go_on.wait(10)
            super().run(op)

    chief = Waiting(end)
    merging = Merging(chief, REPLICA)
    assert begun.wait(10)
    merging.stop()
    go_on.set()
    merging.join()
    assert not merging._thread.is_alive()
    assert merging.error is None
    assert chief.ran == ["merge"]


def lose_gradients(every, error):
    """In the chief: the last of so many runs of a session's merge op takes gradients, but fails before the update."""
    import itertools

    import tensorflow.compat.v1 as tf

    from mnistdist.training import round_runner as merging
    from mnistdist.training import session as sessions

    class Losing(merging.Merging):
        made = 0

        def __init__(self, session, replica):
            takes = [op for op in replica.graph.get_operations() if op.type.endswith("AccumulatorTakeGradient")]
            make_callable, numbers = session.make_callable, itertools.count(1)

            def making(fetches):
                run = make_callable(fetches)

                def merge():
                    if next(numbers) % every:
                        return run()
                    session.run(takes[0].outputs[0])
                    raise getattr(tf.errors, error)(None, None, f"Cleanup {Losing.made}")

                return merge

            session.make_callable = making
            Losing.made += 1
            super().__init__(session, replica)

    sessions.Merging = Losing


def sessions_made():
    from mnistdist.training import session as sessions

    return sessions.Merging.made


@pytest.fixture(scope="module")
def cluster():
    with Cluster(ps=1, workers=2) as cluster:
        yield cluster


@pytest.mark.parametrize(
    ("design", "every", "error"), [("fast", 8, "AbortedError"), ("listing", 60, "FailedPreconditionError")]
)
def test_training_goes_on_when_a_run_of_the_merge_op_is_ended(cluster, design, every, error):
    cluster["worker", 0].apply_sync(lose_gradients, every, error)
    run = train(cluster, steps=200, sync=True, design=design, step_timeout=20)
    assert cluster["worker", 0].apply_sync(sessions_made) > 2
    assert run.global_step == 200
    assert run.test.accuracy > 0.8


def test_training_ends_after_three_sessions_in_which_no_run_of_the_merge_op_comes_to_its_end(cluster):
    cluster["worker", 0].apply_sync(lose_gradients, 1, "AbortedError")
    with pytest.raises(TaskFailed, match=r"TaskLost: .*Cleanup 3") as caught:
        train(cluster, steps=200, sync=True, step_timeout=None)
    assert caught.value.task == "worker:0"


def test_an_error_of_the_readers_own_is_told_as_it_is(cluster):
    def on_step(record):
        if record.worker == 0 and record.local_step > 20:
            raise RuntimeError("mine")

    with pytest.raises(TaskFailed, match="RuntimeError: mine"):
        train(cluster, steps=200, sync=True, on_step=on_step, step_timeout=None)


def lose_a_step():
    """In the chief: a session is lost while a run of the merge op stands; returns the error, and what stands."""
    import threading

    import tensorflow.compat.v1 as tf
    from IPython import get_ipython

    from mnistdist.training import build_replica, worker_session

    here = get_ipython().user_ns
    spec, target = here["cluster_spec"], here["server"].target
    replica = build_replica(spec, 0, container="standing", seed=1, sync=True)
    try:
        with worker_session(replica, target, spec, 0):
            raise tf.errors.AbortedError(None, None, "lost on the way")
    except ConnectionError as error:
        said = str(error)
    for thread in threading.enumerate():
        if thread.name == "merging":
            thread.join(5)
    return said, [thread.name for thread in threading.enumerate() if thread.name == "merging"]


def test_a_session_that_is_lost_leaves_no_run_that_would_take_gradients_of_the_next(cluster):
    said, standing = cluster["worker", 0].apply_sync(lose_a_step)
    assert said == "a task of the cluster was lost or restarted: lost on the way"
    assert standing == []
