"""The model that a training leaves on the ps tasks: read, evaluated, and dropped."""

import tensorflow.compat.v1 as tf

from mnistdist.between_graph import build_replica
from mnistdist.flat_graph import build_flat_replica
from mnistdist.limits import CLOSE_SECONDS, within
from mnistdist.model import evaluate
from mnistdist.results import SharedModel
from mnistdist.sessions import session_config

TIMEOUT = 180  # seconds


def read_shared_model(target, cluster_spec, task_index, *, data, design="listing", **replica_options):
    """Read and evaluate the variables that a training has left on the ps tasks, without changing them.

    Takes arguments of :func:`mnistdist.between_graph.run_worker`; ``build_graph`` and ``container`` are those of the
    training. Returns a :class:`SharedModel`; raises ``TimeoutError`` when a ps does not answer.
    """
    build = build_flat_replica if design == "fast" else build_replica
    replica = build(cluster_spec, task_index, **replica_options)

    def read():
        with tf.Session(target, graph=replica.graph, config=session_config(task_index)) as session:
            step, variables = session.run([replica.global_step, replica.parameters])
            evaluations = [part and evaluate(session, replica.model, part) for part in (data.validation, data.test)]
            feed = None if data.test is None else {replica.model.x: data.test.images}
            y = session.run(replica.model.y, feed) if feed else None
            return SharedModel(int(step), variables, *evaluations, y)

    return within(TIMEOUT, read, f"the trained model could not be read within {TIMEOUT} s: a ps does not answer")


def forget(target, task_index, container):
    """Drop what the ps tasks keep under ``container``, and close the sessions of this worker's server."""
    config = session_config(task_index)
    within(CLOSE_SECONDS, lambda: tf.Session.reset(target, [container], config), "a ps does not answer")
