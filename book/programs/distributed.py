"""The classic program, corrected: a task that trains on MNIST."""

import atexit
import contextlib
import os
import signal
import socket
import sys
import time

import tensorflow.compat.v1 as tf
from mnistdist import read_data_sets

flags, FLAGS = tf.app.flags, tf.app.flags.FLAGS
flags.DEFINE_string("data_dir", "/tmp/mnist-data", "Folder of the data")
flags.DEFINE_integer("hidden_units", 100, "Units of the hidden layer")
flags.DEFINE_integer("train_steps", 1000000, "Global steps to make")
flags.DEFINE_integer("batch_size", 100, "Examples in a batch")
flags.DEFINE_float("learning_rate", 0.01, "Learning rate")
flags.DEFINE_boolean("sync_replicas", False, "Train in rounds?")
flags.DEFINE_integer("replicas_to_aggregate", None, "Gradients in a round")
flags.DEFINE_list("ps_hosts", "192.168.233.201:2222", "host:port,...")
WORKERS = "192.168.233.202:2223,192.168.233.203:2224"
flags.DEFINE_list("worker_hosts", WORKERS, "host:port,...")
flags.DEFINE_enum("job_name", None, ["ps", "worker"], "Job", required=True)
flags.DEFINE_integer("task_index", None, "Task of the job", required=True)
flags.DEFINE_string("train_dir", None, "Folder for checkpoints, if any")
flags.DEFINE_integer("save_steps", 1000, "Global steps between checkpoints")
flags.DEFINE_integer("timeout", 60, "Seconds that a task waits for another")


def main(words):
    if words[1:]:
        raise ValueError(f"expected --name=value only; got {words[1:]}")
    job, index = FLAGS.job_name, FLAGS.task_index
    print(f"job name = {job}\ntask index = {index}")
    spec = {"ps": FLAGS.ps_hosts, "worker": FLAGS.worker_hosts}
    server = tf.train.Server(spec, job, index)
    filters = [f"/job:{job}/task:{index}"] + ["/job:ps"] * (job == "worker")
    config = tf.ConfigProto(allow_soft_placement=True, device_filters=filters)
    try:
        (serve if job == "ps" else work)(server, config)
    except (tf.errors.UnavailableError, tf.errors.AbortedError):
        print("lost a ps: this task starts again", flush=True)
        os.execv(sys.executable, sys.orig_argv)
    os._exit(0)


def done_queue(ps):
    """The queue on a ps into which each worker puts an entry at its end."""
    with tf.device(f"/job:ps/task:{ps}/cpu:0"):
        return tf.FIFOQueue(-1, tf.int32, shapes=[()], shared_name="done")


def serve(server, config):
    """Holds variables until all workers are done, or one has long been."""
    done, limit, seen = done_queue(FLAGS.task_index).dequeue(), None, set()
    session = tf.Session(server.target, config=config)
    while len(seen) < len(FLAGS.worker_hosts):
        seen.add(session.run(done, options=limit))
        limit = tf.RunOptions(timeout_in_ms=1000 * FLAGS.timeout)


def wait_for(address):
    """Waits until a ps accepts connections; a session waits for ever."""
    end = time.time() + FLAGS.timeout
    while time.time() < end:
        with contextlib.suppress(OSError):
            return socket.create_connection(address.rsplit(":", 1), 1).close()
        time.sleep(0.1)
    raise TimeoutError(f"no ps at {address}")


def model(units, pixels=28 * 28):
    """The network of the classic program: its placeholders and loss."""
    first = tf.truncated_normal([pixels, units], stddev=pixels**-0.5)
    second = tf.truncated_normal([units, 10], stddev=units**-0.5)
    hid_w = tf.Variable(first, name="hid_w")
    hid_b = tf.Variable(tf.zeros([units]), name="hid_b")
    sm_w = tf.Variable(second, name="sm_w")
    sm_b = tf.Variable(tf.zeros([10]), name="sm_b")
    x, y_ = (tf.placeholder(tf.float32, [None, n]) for n in (pixels, 10))
    hid = tf.nn.relu(tf.nn.xw_plus_b(x, hid_w, hid_b))
    y = tf.nn.softmax(tf.nn.xw_plus_b(hid, sm_w, sm_b))
    return x, y_, -tf.reduce_sum(y_ * tf.log(tf.clip_by_value(y, 1e-10, 1)))


def work(server, config):
    """Trains with the other workers up to --train_steps, then evaluates."""
    mnist = read_data_sets(FLAGS.data_dir, one_hot=True)
    ps, n, wait = len(FLAGS.ps_hosts), len(FLAGS.worker_hosts), FLAGS.timeout
    index, sync, folder = FLAGS.task_index, FLAGS.sync_replicas, FLAGS.train_dir
    is_chief, task = index == 0, f"/job:worker/task:{index}"
    with tf.device(tf.train.replica_device_setter(ps, "/job:ps/cpu:0", task)):
        global_step = tf.train.get_or_create_global_step()
        x, y_, cross_entropy = model(FLAGS.hidden_units)
        opt = tf.train.AdamOptimizer(FLAGS.learning_rate)
        if sync:
            many = FLAGS.replicas_to_aggregate or n
            opt = tf.train.SyncReplicasOptimizer(opt, many, n)
        train_step = opt.minimize(cross_entropy, global_step=global_step)
    with tf.control_dependencies([train_step]):
        step_op = global_step.read_value()  # or it might be read too early
    options = {"init_op": None, "recovery_wait_secs": 1, "summary_op": None}
    if sync:
        init_tokens_op = opt.get_init_tokens_op()
        local = opt.chief_init_op if is_chief else opt.local_step_init_op
        options["local_init_op"] = local
        options["ready_for_local_init_op"] = opt.ready_for_local_init_op
    finish = [done_queue(i).enqueue(index) for i in range(ps)]
    init_op, saver = tf.global_variables_initializer(), tf.train.Saver()
    missing = tf.report_uninitialized_variables(tf.global_variables())
    limit = tf.RunOptions(timeout_in_ms=1000 * wait)

    def init_fn(sess):
        """In the chief: gives variables values, unless the ps hold them."""
        if len(sess.run(missing)):
            path = folder and tf.train.latest_checkpoint(folder)
            saver.restore(sess, path) if path else sess.run(init_op)

    list(map(wait_for, FLAGS.ps_hosts))
    sv = tf.train.Supervisor(is_chief=is_chief, init_fn=init_fn, **options)
    sess = sv.prepare_or_wait_for_session(server.target, config, False, wait)
    if sync and is_chief:
        sv.start_queue_runners(sess, [opt.get_chief_queue_runner()])
        sess.run(init_tokens_op)
    step = saved = sess.run(global_step)
    print(f"Worker {index}: begins at global step {step}")
    with contextlib.suppress(tf.errors.OutOfRangeError):  # no more rounds
        while step < FLAGS.train_steps:
            batch = mnist.train.next_batch(FLAGS.batch_size)
            step = sess.run(step_op, dict(zip((x, y_), batch)), limit)
            if is_chief and folder and step >= saved + FLAGS.save_steps:
                saver.save(sess, f"{folder}/model", saved := step)
    sv.request_stop()  # the chief's queue runner closes the queue of tokens
    feed = {x: mnist.validation.images, y_: mnist.validation.labels}
    step, val = sess.run([global_step, cross_entropy], feed, limit)
    print(f"After {step} training step(s), validation cross entropy = {val:g}")
    for each in finish:
        with contextlib.suppress(tf.errors.UnavailableError):  # it has ended
            sess.run(each, options=limit)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # in TensorFlow's calls too
    sys.stdout.reconfigure(line_buffering=True)
    tf.disable_v2_behavior()
    atexit.register(os._exit, 1)  # closing sessions may take for ever
    tf.app.run()
