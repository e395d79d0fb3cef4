"""The model of a training: it is tried before the training, and then read, evaluated and dropped."""

from types import SimpleNamespace

import tensorflow.compat.v1 as tf

from mnistdist._wait import within
from mnistdist.model import build_model, evaluate, evaluate_and_predict
from mnistdist.results import SharedModel
from mnistdist.training import designs
from mnistdist.training.designs.cutting import CannotCut
from mnistdist.training.replica import local_initializer, resource_variables
from mnistdist.training.runs import CLOSE_SECONDS, LOST_OR_SLOW, gist, timed_run
from mnistdist.training.session import queue_runners, session_config
from mnistdist.training.spec import TrainSpec
from mnistdist.training.tensorflow_private import forget_devices

TIMEOUT = 180  # seconds
LEAST_TO_INITIALISE = 60  # seconds, however soon a step has to be made


def try_model(cluster_spec, *, data, batch_size, timeout, design, build_graph=build_model, **replica_options):
    """Builds a model and evaluates a batch in this process alone; returns why the fast design can't train it, or None.

    Raises:
        ValueError: No design can train it.
    """
    why, options = None, {"build_graph": build_graph, "train_set": data.train, "steps": 1} | replica_options
    try:
        designs.build(design, cluster_spec, 0, **options)
    except CannotCut as error:
        why = str(error)
        designs.build("listing", cluster_spec, 0, **options)
    with tf.Graph().as_default() as graph, resource_variables("/cpu:0"):
        tf.train.get_or_create_global_step()
        model, init = build_graph(), tf.global_variables_initializer()
        local_init = local_initializer()
        images, labels = data.train.next_batch(batch_size)
        forget_devices(graph)
        with tf.Session() as session:
            what = "its variables can't be initialised"
            try:
                for op in init, local_init:
                    timed_run(session, op, timeout and max(timeout, LEAST_TO_INITIALISE))
                what = f"the model fails on a batch of {batch_size}"
                with queue_runners(session, graph):
                    evaluate_and_predict(session, model, SimpleNamespace(images=images, labels=labels), timeout)
            except (tf.errors.OpError, IndexError, TypeError, TimeoutError) as error:
                raise ValueError(f"build_graph: {what}: {gist(error)}") from None
    return why


def read_shared_model(target, cluster_spec, task_index, *, data, design=TrainSpec.design, **replica_options):
    """Reads and evaluates the variables that a training has left on the ps tasks, without changing them.

    It takes arguments of :func:`mnistdist.training.run_worker`; ``build_graph`` and ``container`` must be those of the
    training. Returns a :class:`SharedModel`, which has the error if the evaluation fails. Raises ``TimeoutError`` if a
    ps does not answer.
    """
    replica = designs.build(design, cluster_spec, task_index, **replica_options)

    def read():
        with tf.Session(target, graph=replica.graph, config=session_config(task_index)) as session:
            step, variables = session.run([replica.global_step, replica.parameters])
            try:
                session.run(replica.local_init)
                with queue_runners(session, replica.graph):
                    validation = data.validation and evaluate(session, replica.model, data.validation)
                    test = data.test and evaluate_and_predict(session, replica.model, data.test)
            except LOST_OR_SLOW:
                raise
            except Exception as error:  # the training is complete, and must not be lost with it
                return SharedModel(int(step), variables, None, None, None, gist(error))
            return SharedModel(int(step), variables, validation, *(test or (None, None)))

    return within(TIMEOUT, read, f"the trained model could not be read within {TIMEOUT} s: a ps does not answer")


def forget(target, task_index, container):
    """Drops what the ps tasks keep under ``container``, and closes the sessions of this worker's server."""
    config = session_config(task_index)
    within(CLOSE_SECONDS, lambda: tf.Session.reset(target, [container], config), "a ps does not answer")
