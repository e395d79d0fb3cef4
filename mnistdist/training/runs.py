"""Runs and sessions that end, and what an error of theirs means: which task has gone or does not answer."""

import functools
import re
import time

import tensorflow.compat.v1 as tf

from mnistdist._wait import within
from mnistdist.cluster.network import wait_for_address
from mnistdist.errors import TaskLost

CLOSE_SECONDS = 5
ANSWER_SECONDS = 2
OF_THE_MODEL = (tf.errors.InvalidArgumentError, tf.errors.ResourceExhaustedError, tf.errors.UnimplementedError)
OF_A_LOST_TASK = (tf.errors.UnavailableError, tf.errors.AbortedError)
# These mean that a task has gone or is slow, not that something is wrong with a model or a folder.
LOST_OR_SLOW = (*OF_A_LOST_TASK, tf.errors.CancelledError, tf.errors.DeadlineExceededError, TimeoutError)
ANSWERS_NOW = "Every ps answers now: was one stopped, or overloaded, for a while?"
_abandoned = []


def run_options(timeout):
    """Options of a run that may take ``timeout`` seconds; None, for any time, if that is None."""
    return tf.RunOptions(timeout_in_ms=max(1, int(1000 * timeout))) if timeout else None


def timed_run(session, fetches, timeout, feed=None):
    """``session.run`` that raises ``tf.errors.DeadlineExceededError`` after ``timeout`` seconds; None for any time.

    TensorFlow's own limit does not apply while the tasks get their parts of a graph that the session has not run
    before, and a task that is stopped never takes its part. Besides, TensorFlow cancels a run that exceeds its limit
    and then waits for it, for ever if the run does not react.
    """
    run = functools.partial(session.run, fetches, feed, run_options(timeout))
    if not timeout:
        return run()
    try:
        return within(timeout + 1, run, f"no answer within {timeout:g} s")
    except TimeoutError as error:
        raise tf.errors.DeadlineExceededError(None, None, str(error)) from None


def abandon(session):
    """Leaves a session open whose other side has gone, because Python would close it and wait for ever."""
    _abandoned.append(session)


def close_session(session, seconds=CLOSE_SECONDS):
    """Closes a session, unless it is None; abandons it if that takes more than this many seconds.

    Its runs are cancelled before the wait begins.
    """
    if session is None:
        return
    try:
        within(seconds, session.close, "")
    except TimeoutError:
        abandon(session)
    except tf.errors.OpError:
        pass  # what it was connected to has gone, as closing it would achieve


def gist(error):
    """An error in one line; from TensorFlow's messages, the line that says something."""
    if not isinstance(error, tf.errors.OpError):
        return " ".join(str(error).split()) or type(error).__name__
    message = re.split(r"\nNode: .*\n", error.message)[-1]  # before it stands where in Python the op was made
    lines = [line for line in message.splitlines() if line.strip("= ") and line != "Graph execution error:"]
    whose = [line for line in lines[:1] if line.startswith("From ") and line.endswith(":")]
    return " ".join([*whose, *lines[len(whose) :][:1]]) or type(error).__name__


def silence(target, cluster_spec, task_index):
    """In words, which ps tasks accept connections but do not answer; None if all answer."""

    def ask(index):
        filters = [f"/job:ps/task:{index}", f"/job:worker/task:{task_index}"]
        with tf.Graph().as_default(), tf.device(filters[0]):
            number = tf.random.uniform([])
            with tf.Session(target, config=tf.ConfigProto(device_filters=filters)) as session:
                session.run(number)

    silent = []
    for index, address in enumerate(cluster_spec["ps"]):
        try:
            within(ANSWER_SECONDS, functools.partial(ask, index), "")
        except TimeoutError:
            silent.append(f"ps:{index} at {address}")
        except tf.errors.OpError:
            pass  # an answer
    if not silent:
        return None
    return f"{' and '.join(silent)} accepts connections, but does not answer: is it stopped, or overloaded?"


def gone(cluster_spec):
    """The error that says which ps tasks accept no connections; None if all do."""
    found = []
    time.sleep(0.5)  # a process that is ending accepts connections to its last moment
    for index, address in enumerate(cluster_spec["ps"]):
        try:
            wait_for_address(address, 1, what=f"ps:{index}")
        except TimeoutError:
            found.append(f"ps:{index} at {address}")
    return TaskLost(f"{' and '.join(found)} has gone, and its variables with it") if found else None


def explain(error, cluster_spec, silence, sync, merging=False):
    """The error that says what TensorFlow's error means for the cluster; None if it is about something else.

    ``sync`` says that the training is synchronous, and ``merging`` that the error ended a run that merges gradients.
    """
    if lost := gone(cluster_spec):
        return lost
    if isinstance(error, tf.errors.DeadlineExceededError):
        round_ = (
            "A synchronous round waits for as many gradients as it aggregates: has another worker ended in the midst "
            "of one, or does it hang? Start it again, or aggregate fewer gradients than there are workers"
        )
        return TimeoutError(f"a step was not done in time. {silence() or (round_ if sync else ANSWERS_NOW)}")
    if isinstance(error, OF_A_LOST_TASK):
        return TaskLost(f"a task of the cluster was lost or restarted: {gist(error)}")
    if merging:
        return TaskLost(f"a run that merges gradients was ended: {gist(error)}")
    return None
