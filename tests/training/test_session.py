"""A worker's session: what it waits for, how long, and what it says when that does not come."""

import signal
import socket
import threading
import time
from types import SimpleNamespace

import pytest
import tensorflow.compat.v1 as tf

from mnistdist import Cluster
from mnistdist._wait import within
from mnistdist.training.runs import gist, timed_run
from mnistdist.training.session import open_session, wait_for_ps


def test_within_gives_back_what_comes_in_time():
    assert within(5, lambda: 3, "late") == 3
    with pytest.raises(KeyError, match="missing"):
        within(5, lambda: {}["missing"], "late")


def test_within_goes_on_without_what_does_not():
    release = threading.Event()
    begin = time.monotonic()
    with pytest.raises(TimeoutError, match="no answer"):
        within(0.2, lambda: release.wait(30), "no answer")
    assert time.monotonic() - begin < 10
    release.set()


def test_calls_one_after_the_other_share_a_thread_which_one_that_hangs_keeps():
    release, before = threading.Event(), threading.active_count()
    with pytest.raises(TimeoutError, match="late"):
        within(0.1, lambda: release.wait(30), "late")
    threads = {within(5, threading.get_ident, "") for _ in range(100)}
    assert len(threads) <= 2
    assert threading.active_count() <= before + 2
    release.set()


def test_an_error_of_the_call_is_its_own_even_if_it_is_a_timeout():
    def fail():
        raise TimeoutError("of the call")

    with pytest.raises(TimeoutError, match="of the call"):
        within(5, fail, "late")


def test_a_run_that_does_not_end_when_tensorflow_cancels_it_is_left():
    release = threading.Event()
    session = SimpleNamespace(run=lambda fetches, feed, options: release.wait(30))
    with pytest.raises(tf.errors.DeadlineExceededError, match=r"no answer within 0\.2 s"):
        timed_run(session, "op", 0.2)
    release.set()


def test_a_ps_that_ends_while_a_session_is_opened_is_lost_and_does_not_just_keep_silent():
    release = threading.Event()
    manager = SimpleNamespace(wait_for_session=lambda *_, **__: release.wait(30))
    with socket.socket() as down:
        down.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{down.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=f"^ps:0 at {address} has gone, and its variables with it$"):
            supervisor = SimpleNamespace(session_manager=manager)
            open_session(supervisor, None, "", {"ps": [address]}, 1, wait_timeout=0.1, say=print)
    release.set()


def test_a_ps_is_waited_for_and_named():
    with socket.socket() as up, socket.socket() as down:
        for each in (up, down):
            each.bind(("127.0.0.1", 0))
        up.listen()
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in (up, down)]
        waits = []
        wait_for_ps({"ps": addresses[:1]}, 5, lambda *told: waits.append(told))
        assert waits == []
        with pytest.raises(TimeoutError, match=f"ps:1 at {addresses[1]}"):
            wait_for_ps({"ps": addresses}, 1.5, lambda *told: waits.append(told))
    assert waits
    assert {told[:2] for told in waits} == {("ps:1", addresses[1])}


def test_the_gist_of_an_error_is_its_first_line_that_says_something():
    message = "From /job:ps/replica:0/task:0:\n"
    assert gist(tf.errors.AbortedError(None, None, "=====\nGraph execution error:\n\n" + message)) == message.strip()
    assert gist(tf.errors.AbortedError(None, None, message + "The handle is gone.\nMore.")) == (
        "From /job:ps/replica:0/task:0: The handle is gone."
    )
    assert gist(tf.errors.AbortedError(None, None, "")) == "AbortedError"


def in_a_session(container, wait_timeout, assign=None, sync=False, steps=0, stop=None):
    """In a worker: open a session, perhaps assign the global step or train; returns the global step, or the error.

    ``stop`` is a process that is stopped once there is a session.
    """
    import os
    import signal

    from IPython import get_ipython

    from mnistdist import read_data_sets
    from mnistdist.training import build_replica, train_loop, worker_session

    here = get_ipython().user_ns
    spec, index = here["cluster_spec"], here["task_index"]
    replica = build_replica(spec, index, container=container, seed=1, sync=sync)
    with replica.graph.as_default():
        change = replica.global_step.assign(assign) if assign is not None else None
    try:
        with worker_session(replica, here["server"].target, spec, index, wait_timeout=wait_timeout) as session:
            if stop is not None:
                os.kill(stop, signal.SIGSTOP)
            if change is not None:
                session.run(change)
            if steps:
                data = read_data_sets(one_hot=True, seed=1).train
                train_loop(session, replica, data, task_index=index, steps=steps, timeout=3)
            return int(session.run(replica.global_step))
    except (TimeoutError, ConnectionError) as error:
        return f"{type(error).__name__}: {error}"


def test_a_worker_names_the_chief_that_does_not_come(cluster):
    begin = time.monotonic()
    said = cluster["worker", 1].apply_sync(in_a_session, "alone", 2)
    assert said.startswith("TimeoutError: worker:0, the chief, did not initialise the variables within 2 s")
    assert time.monotonic() - begin < 30


def test_a_chief_that_comes_back_leaves_live_variables_alone(cluster):
    assert cluster["worker", 0].apply_sync(in_a_session, "kept", 20, 7) == 7
    assert cluster["worker", 0].apply_sync(in_a_session, "kept", 20) == 7
    assert cluster["worker", 1].apply_sync(in_a_session, "kept", 20) == 7
    assert cluster["worker", 0].apply_sync(in_a_session, "another", 20) == 0


def test_one_worker_alone_gives_all_gradients_of_a_round(cluster):
    """Tokens bind nobody to one gradient a round: who trains alone goes on, with rounds of its own batches."""
    said = cluster["worker", 0].apply_async(in_a_session, "one-worker", 20, None, True, 5)
    assert said.get(60) == 5


def test_a_chief_that_comes_back_to_a_training_that_has_ended_says_so(cluster):
    """The queue of tokens is closed for good; where nothing is left to do, that is no error."""
    assert cluster["worker", 0].apply_sync(in_a_session, "ended", 20, None, True, 5) == 5
    assert cluster["worker", 0].apply_sync(in_a_session, "ended", 20, None, True, 5) == 5
    said = cluster["worker", 0].apply_sync(in_a_session, "ended", 20, None, True, 9)
    assert said == "TaskLost: worker:0, the chief, ended in round 5 of 9"


def test_a_ps_that_goes_is_named():
    with Cluster(ps=1, workers=1) as cluster:
        address = cluster.spec["ps"][0]
        answer = cluster["worker", 0].apply_async(in_a_session, "", 20, None, False, 10**9)
        time.sleep(2)
        assert not answer.ready(), answer.get()
        cluster.kill("ps:0")
        said = answer.get(40)
    assert said.startswith("TaskLost: ps:0 at "), said
    assert address in said
    assert "has gone, and its variables with it" in said


def test_a_ps_that_accepts_connections_and_answers_nothing_is_named():
    """A limit holds in the opening of a session, in the first run of a graph that is new to it, and in any other."""
    with Cluster(ps=1, workers=1) as cluster:
        (ps,) = [task for task in cluster.tasks if task.job == "ps"]
        begin = time.monotonic()
        said = cluster["worker", 0].apply_sync(in_a_session, "first run", 20, steps=10**9, stop=ps.pid)
        silent = f"ps:0 at {ps.address} accepts connections, but does not answer: is it stopped, or overloaded?"
        assert said == f"TimeoutError: a step was not done in time. {silent}"
        assert "TimeoutError: a step was not done in time. ps:0 at" in said
        cluster.kill(ps, signal.SIGCONT)

        answer = cluster["worker", 0].apply_async(in_a_session, "later", 20, steps=10**9)
        time.sleep(2)
        cluster.kill(ps, signal.SIGSTOP)
        assert answer.get(30) == said
        said = cluster["worker", 0].apply_sync(in_a_session, "no session", 2)
        assert said.startswith("TimeoutError: no session within 2 s. ps:0 at")
        assert silent in said
        assert time.monotonic() - begin < 60
