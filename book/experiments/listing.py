"""The classic listing's design, ported as it is to today's TensorFlow: what everything else is compared with.

Four variables and a fed batch a step, ``session.run([train_step, global_step])``, ``SyncReplicasOptimizer``. Own code,
the listing's calls.
"""

import math
import time

import tensorflow.compat.v1 as tf

from mnistdist.model import Graph, accuracy
from mnistdist.training.designs.listing import chief_ops
from mnistdist.training.replica import MadeStep, Replica
from mnistdist.training.runs import run_options


def build_listing(cluster_spec, task_index, *, sync=False, seed=None, container="", device="cpu:0", alone=False):
    """A worker's replica in the listing's design; ``alone`` leaves the cluster out: one process for everything."""
    graph, workers = tf.Graph(), len(cluster_spec["worker"])
    place = tf.train.replica_device_setter(
        cluster=tf.train.ClusterSpec(cluster_spec),
        ps_device="/job:ps/cpu:0",
        worker_device=f"/job:worker/task:{task_index}/{device}",
    )
    with graph.as_default(), graph.container(container), tf.device(None if alone else place):
        tf.set_random_seed(seed)
        global_step = tf.Variable(0, name="global_step", trainable=False)
        hid_w = tf.Variable(tf.truncated_normal([784, 100], stddev=1.0 / 28), name="hid_w")
        hid_b = tf.Variable(tf.zeros([100]), name="hid_b")
        sm_w = tf.Variable(tf.truncated_normal([100, 10], stddev=1.0 / math.sqrt(100)), name="sm_w")
        sm_b = tf.Variable(tf.zeros([10]), name="sm_b")
        x, y_ = tf.placeholder(tf.float32, [None, 784]), tf.placeholder(tf.float32, [None, 10])
        hid = tf.nn.relu(tf.nn.xw_plus_b(x, hid_w, hid_b))
        y = tf.nn.softmax(tf.nn.xw_plus_b(hid, sm_w, sm_b))
        loss = -tf.reduce_sum(y_ * tf.log(tf.clip_by_value(y, 1e-10, 1.0)))
        opt, rounds, local_init = tf.train.AdamOptimizer(0.01), None, tf.no_op()
        if sync:
            opt = tf.train.SyncReplicasOptimizer(opt, workers, total_num_replicas=workers)
        train_step = opt.minimize(loss, global_step=global_step)
        if sync:
            rounds = chief_ops(opt)
            local_init = opt.chief_init_op if task_index == 0 else opt.local_step_init_op
        uninitialized = tf.report_uninitialized_variables(tf.global_variables())

        def advance(session, dataset, batch_size, left, timeout):
            images, labels = dataset.next_batch(batch_size)
            start = time.monotonic()
            _, step = session.run([train_step, global_step], {x: images, y_: labels}, run_options(timeout))
            return [MadeStep(step, step, start, time.monotonic(), 0.0)]

        parameters = {v.op.name: v for v in tf.trainable_variables()}
        model = Graph(x, y_, y, loss, accuracy(y_, y))
        parts = {"advance": advance, "reset_starts": tf.no_op(), "count_start": global_step, "rounds": rounds}
        return Replica(graph, model, parameters, global_step, uninitialized, local_init, **parts)
