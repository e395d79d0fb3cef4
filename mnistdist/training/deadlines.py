"""Runs and sessions that end: TensorFlow's own calls have no limit of time, or one that does not always hold."""

import functools

import tensorflow.compat.v1 as tf

from mnistdist._wait import within

CLOSE_SECONDS = 5
_abandoned = []


def run_options(timeout):
    """Options of a run that may take ``timeout`` seconds; None, which is any time, for None."""
    return tf.RunOptions(timeout_in_ms=max(1, int(1000 * timeout))) if timeout else None


def timed_run(session, fetches, timeout, feed=None):
    """``session.run`` that may take ``timeout`` seconds (None: any); ``tf.errors.DeadlineExceededError`` after that.

    TensorFlow's own limit does not count while the tasks are given their parts of a graph that the session has not run
    before, and a task that is stopped never takes its part. And a run that exceeds it is cancelled and then waited for:
    for ever, if it does not heed that.
    """
    run = functools.partial(session.run, fetches, feed, run_options(timeout))
    if not timeout:
        return run()
    try:
        return within(timeout + 1, run, f"no answer within {timeout:g} s")
    except TimeoutError as error:
        raise tf.errors.DeadlineExceededError(None, None, str(error)) from None


def abandon(session):
    """Leave a session open whose other side has gone: Python would close it by itself, and wait for ever."""
    _abandoned.append(session)


def close_session(session, seconds=CLOSE_SECONDS):
    """Close a session, if it is one and not None; if that takes more than so many seconds, it is abandoned.

    Its runs are cancelled before anything is waited for.
    """
    if session is None:
        return
    try:
        within(seconds, session.close, "")
    except TimeoutError:
        abandon(session)
    except tf.errors.OpError:
        pass  # what it was connected to has gone, which is what closing is for
