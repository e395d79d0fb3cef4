"""The chief's thread that merges gradients: what ends it, what does not, and who is told."""

import threading

import pytest
import tensorflow.compat.v1 as tf

from mnistdist import Cluster, train
from mnistdist.between_graph import Replica
from mnistdist.merging import Merging


class Chief:
    """A session whose runs of ``merge`` end as told, one after the other; the last of them is to end merging."""

    def __init__(self, *ends, tokens=None):
        self.ends, self.tokens, self.ran = list(ends), tokens, []

    def make_callable(self, op):
        assert op == "merge"
        return lambda: self.run(op)

    def run(self, op, feed=None, options=None):
        self.ran.append(op)
        if op == "merge":
            end = self.ends.pop(0)
            if end is not None:
                raise end(None, None, "why") if issubclass(end, tf.errors.OpError) else end("why")
        if op == "init_tokens" and self.tokens is not None:
            raise self.tokens(None, None, "why")


PARTS = dict.fromkeys(("graph", "model", "parameters", "global_step", "uninitialized", "local_init", "advance"))
REPLICA = Replica(**PARTS, merge="merge", init_tokens="init_tokens", close_tokens="close_tokens")


def merge(*ends, **options):
    chief = Chief(*ends, **options)
    merging = Merging(chief, REPLICA)
    merging._thread.join(10)
    assert not merging._thread.is_alive()
    return chief, merging


@pytest.mark.parametrize("end", [tf.errors.AbortedError, tf.errors.UnavailableError, tf.errors.CancelledError])
def test_a_run_that_the_runtime_has_ended_is_made_again_with_new_tokens(end):
    chief, merging = merge(None, end, None, end, RuntimeError)
    assert chief.ran == ["merge", "merge", "init_tokens", "merge", "merge", "init_tokens", "merge"]
    merging.join()


def test_without_the_ps_merging_ends_and_tells_nobody():
    chief, merging = merge(None, tf.errors.UnavailableError, tokens=tf.errors.UnavailableError)
    assert chief.ran == ["merge", "merge", "init_tokens"]
    merging.join()


def test_a_merging_that_was_stopped_gives_no_tokens_when_its_run_ends():
    """The chief's next session does: two that merge would each take a part of a round."""
    begun, go_on = threading.Event(), threading.Event()

    class Waiting(Chief):
        def run(self, op, feed=None, options=None):
            begun.set()
            assert go_on.wait(10)
            super().run(op)

    chief = Waiting(tf.errors.AbortedError)
    merging = Merging(chief, REPLICA)
    assert begun.wait(10)
    merging.stop()
    go_on.set()
    merging.join()
    assert not merging._thread.is_alive()
    assert chief.ran == ["merge"]


def test_an_error_of_the_model_closes_the_queue_and_is_kept():
    chief, merging = merge(None, tf.errors.InvalidArgumentError)
    assert chief.ran == ["merge", "merge", "close_tokens"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="why"):
        merging.join()


def lose_gradients(every):
    """In the chief: of every so many runs of the merge op, one takes gradients, and is aborted before they are used."""
    import itertools

    import tensorflow.compat.v1 as tf

    from mnistdist import merging

    class Losing(merging.Merging):
        lost = 0

        def __init__(self, session, replica):
            takes = [op for op in replica.graph.get_operations() if op.type.endswith("AccumulatorTakeGradient")]
            make_callable, numbers = session.make_callable, itertools.count(1)

            def making(fetches):
                run = make_callable(fetches)

                def merge():
                    if next(numbers) % every:
                        return run()
                    session.run(takes[0].outputs[0])
                    Losing.lost += 1
                    raise tf.errors.AbortedError(None, None, "Cleanup")

                return merge

            session.make_callable = making
            super().__init__(session, replica)

    from mnistdist import sessions

    sessions.Merging = Losing


def times_lost():
    from mnistdist import sessions

    return sessions.Merging.lost


@pytest.mark.parametrize("design", ["fast", "listing"])
def test_training_goes_on_when_a_run_of_the_merge_op_is_aborted(design):
    with Cluster(ps=1, workers=2) as cluster:
        cluster["worker", 0].apply_sync(lose_gradients, 7)
        run = train(cluster, steps=200, sync=True, design=design, step_timeout=20, steps_per_run=None)
        assert cluster["worker", 0].apply_sync(times_lost) > 1
    assert run.global_step == 200
    assert run.test.accuracy > 0.8
