"""Where an op is asked to run, and where it does run.

An op's ``device`` is a request, and often a partial one. TensorFlow's placer decides the rest when a session first runs
the op. Only then do the ops appear that carry a tensor from one task to another.
"""

import tensorflow.compat.v1 as tf

from mnistdist.results import Placement


def worker_device(task_index, device="cpu:0"):
    """The device of a worker task: ``worker_device(1, "gpu:0")`` is ``/job:worker/task:1/gpu:0``."""
    return f"/job:worker/task:{task_index}/{device}"


def replica_devices(cluster_spec, task_index, device="cpu:0"):
    """Device function for one worker's copy of the graph, for ``tf.device``.

    Variables go to the ps tasks in turn, in the order in which they are made; everything else to the worker's device.

    Args:
        cluster_spec: ``{"ps": [...], "worker": [...]}``, or a ``tf.train.ClusterSpec``.
        task_index: Which worker.
        device: The worker's device within its task.
    """
    return tf.train.replica_device_setter(
        cluster=tf.train.ClusterSpec(cluster_spec),
        ps_device="/job:ps/cpu:0",
        worker_device=worker_device(task_index, device),
    )


def traced_run(session, fetches, feed_dict=None):
    """``session.run`` that also records where the ops ran: ``(values, run_metadata)``, for :func:`placements`."""
    run_metadata = tf.RunMetadata()
    options = tf.RunOptions(output_partition_graphs=True)
    return session.run(fetches, feed_dict, options, run_metadata), run_metadata


def placements(graph, run_metadata=None):
    """Where each op was asked to run and where it ran, as a list of :class:`Placement`.

    Without ``run_metadata``, these are the requests of all ops of the graph. With the metadata from :func:`traced_run`,
    they are the ops of that run alone, pruned and optimised as TensorFlow ran them.
    """
    if run_metadata is None:
        return [Placement(op.name, op.type, op.device, None) for op in graph.get_operations()]
    requested = {op.name: op.device for op in graph.get_operations()}
    return [
        Placement(node.name, node.op, requested.get(node.name), node.device)
        for partition in run_metadata.partition_graphs
        for node in partition.node
    ]
