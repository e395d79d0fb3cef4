"""A worker's session: it opens when its cluster is ready, closes when it ends, and never waits for ever.

TensorFlow's own calls have no time limit. Creating a session never ends if a ps is missing, a step waits for ever if a
round can't be completed, and closing a session whose ps has gone does not return. Here each of them has a limit.
"""

import contextlib
import functools
import time

import tensorflow.compat.v1 as tf

from mnistdist._wait import within
from mnistdist.cluster.network import wait_for_address
from mnistdist.training import runs
from mnistdist.training.round_runner import Merging
from mnistdist.training.runs import ANSWERS_NOW, CLOSE_SECONDS, abandon, close_session, gone, silence, timed_run
from mnistdist.training.spec import TrainSpec as Spec


@contextlib.contextmanager
def worker_session(
    replica,
    target,
    cluster_spec,
    task_index,
    *,
    checkpoints=None,
    wait_timeout=Spec.step_timeout,
    say=lambda line: None,
):
    """A session on a replica whose variables are initialised; the ``with`` block trains in it.

    Worker 0, the chief, initialises the variables or restores the last of the ``checkpoints``. It leaves variables
    alone that live on the ps already because worker 0 was restarted in the middle of a training. The others wait for
    it. In synchronous training it also runs the queue that turns gradients into updates.

    Args:
        replica: A replica of either design; its graph can't be changed afterwards.
        target: The session's target: ``server.target``, or a gRPC URL.
        cluster_spec: ``{"ps": [...], "worker": [...]}``.
        task_index: Which worker this is.
        checkpoints: The chief's :class:`mnistdist.training.Checkpoints`; None to keep none.
        wait_timeout: Seconds to wait for all ps tasks, and again for the chief.
        say: Called with the lines that the classic program prints meanwhile.

    Raises:
        TimeoutError: A ps or the chief was not ready in time, or a run with a limit of its own exceeded it.
        TaskLost: A ps, or the chief of a synchronous training, has gone; this is a ``ConnectionError``.
        OSError: There are checkpoints, but none can be restored.
    """
    wait_for_ps(cluster_spec, wait_timeout)
    # By itself the Supervisor would take a folder's path as a pattern, and trust what the folder's files say.
    without = dict.fromkeys(("logdir", "saver", "init_op", "summary_op", "summary_writer"))
    with replica.graph.as_default():
        supervisor = tf.train.Supervisor(
            is_chief=task_index == 0,
            init_fn=functools.partial(_initialise, replica, tf.global_variables_initializer(), checkpoints, say),
            local_init_op=replica.local_init,
            ready_for_local_init_op=replica.uninitialized,
            recovery_wait_secs=0.2,
            global_step=replica.global_step,
            **without,
        )
    session = merging = None
    try:
        options = {"checkpoints": checkpoints, "wait_timeout": wait_timeout, "say": say}
        session = open_session(supervisor, replica, target, cluster_spec, task_index, **options)
        if task_index == 0 and replica.rounds is not None:
            say("Starting chief queue runner and running init_tokens_op")
            with contextlib.suppress(tf.errors.CancelledError):  # closed: a chief has ended this training before
                timed_run(session, replica.rounds.init_tokens, wait_timeout)
                merging = Merging(session, replica)
        with queue_runners(session, replica.graph):
            yield session
        if merging is not None:
            merging.close(wait_timeout)
    except BaseException as error:
        cause = error if merging is None else merging.blame(error)
        explanation = None
        if isinstance(cause, tf.errors.OpError):
            silent = functools.partial(silence, target, cluster_spec, task_index)
            ended = merging is not None and merging.interrupted
            explanation = runs.explain(cause, cluster_spec, silent, sync=replica.rounds is not None, merging=ended)
        if explanation is None:
            close_session(session)
            if cause is error:
                raise
            raise cause from None
        if merging is not None:
            close_session(session, 1)  # or a run still waiting in it would merge gradients of the next session
        else:
            abandon(session)
        raise explanation from cause
    close_session(session)
    if merging is not None:
        merging.join()


@contextlib.contextmanager
def queue_runners(session, graph):
    """While it lasts, threads fill the model's own queues for which it has a ``tf.train.QueueRunner``."""
    coordinator = tf.train.Coordinator()
    with graph.as_default():
        tf.train.start_queue_runners(session, coordinator)
    try:
        yield
    finally:
        coordinator.request_stop()


def session_config(task_index):
    """Returns the ``tf.ConfigProto`` of a worker's session, which sees only the ps and its own task."""
    config = tf.ConfigProto(allow_soft_placement=True, device_filters=["/job:ps", f"/job:worker/task:{task_index}"])
    # On CPUs, rewriting a graph takes most of the time of its first run, and makes no later run shorter.
    config.graph_options.rewrite_options.disable_meta_optimizer = not tf.config.list_physical_devices("GPU")
    return config


def wait_for_ps(cluster_spec, timeout, on_wait=None, *, limit=None):
    """Waits until every ps accepts connections; ``TimeoutError`` names the first that does not within ``timeout`` s.

    ``on_wait(what, address, seconds_left)`` is called about once a second for the ps that it is waiting for.
    The error gives ``limit`` as the time, for callers whose ``timeout`` is what is left of it (default: ``timeout``).
    """
    deadline = time.monotonic() + timeout
    for index, address in enumerate(cluster_spec["ps"]):
        what, left = f"ps:{index}", max(deadline - time.monotonic(), 0.1)
        tell = on_wait and functools.partial(on_wait, what, address)
        wait_for_address(address, left, what=what, on_wait=tell, limit=limit or timeout)


def variables_live(replica, target, cluster_spec, task_index, timeout):
    """Whether all ps are there within ``timeout`` seconds with values for all variables, so training can go on."""
    try:
        wait_for_ps(cluster_spec, 1)
        return within(timeout, lambda: _initialised(replica, target, session_config(task_index), timeout), "")
    except (OSError, tf.errors.OpError):
        return False


def _initialised(replica, target, config, timeout=CLOSE_SECONDS):
    with tf.Session(target, graph=replica.graph, config=config) as session:
        return not len(session.run(replica.uninitialized, options=runs.run_options(timeout)))


def _initialise(replica, init, checkpoints, say, session):
    """Gives the shared variables either their first values or those of the last checkpoint, and never both."""
    if path := checkpoints and checkpoints.restore(session):
        say(f"Worker 0: restored {path}")
    else:
        session.run(init)
    session.run(replica.reset_starts)


def open_session(supervisor, replica, target, cluster_spec, task_index, *, checkpoints=None, wait_timeout, say):
    """The session of a supervisor once all variables have values; the chief gives them and the others wait."""
    chief, config = task_index == 0, session_config(task_index)
    deadline = time.monotonic() + wait_timeout

    def prepare():
        if not chief:
            return supervisor.session_manager.wait_for_session(target, config, max_wait_secs=wait_timeout)
        while True:
            try:
                if _initialised(replica, target, config):
                    return supervisor.session_manager.wait_for_session(target, config, max_wait_secs=CLOSE_SECONDS)
                return supervisor.prepare_or_wait_for_session(target, config, start_standard_services=False)
            except tf.errors.DeadlineExceededError:  # a ps that is slow, or was started again meanwhile
                if time.monotonic() > deadline:
                    raise TimeoutError from None

    say(f"Worker {task_index}: " + ("Initializing session..." if chief else "Waiting for session to be initialized..."))
    try:
        session = within(wait_timeout + 1, prepare, "")
    except TimeoutError:
        if lost := gone(cluster_spec):
            raise lost from None
        why = silence(target, cluster_spec, task_index) or ANSWERS_NOW
        raise TimeoutError(f"no session within {wait_timeout:g} s. {why}") from None
    except tf.errors.DeadlineExceededError:
        raise TimeoutError(
            f"worker:0, the chief, did not initialise the variables within {wait_timeout:g} s: is it running?"
        ) from None
    say(f"Worker {task_index}: Session initialization complete.")
    if checkpoints is not None:
        checkpoints.begin(session, int(timed_run(session, replica.global_step, wait_timeout)))
    return session
