"""The listing's design: the graph as TensorFlow 1 builds it, with a fed batch and one run for each step."""

import time

import tensorflow.compat.v1 as tf

from mnistdist.model import build_model
from mnistdist.placement import replica_devices, worker_device
from mnistdist.training import replica
from mnistdist.training.designs.step import evaluation
from mnistdist.training.graph import PYTHON, behind, called_by, written_by
from mnistdist.training.runs import timed_run
from mnistdist.training.spec import TrainSpec
from mnistdist.training.tensorflow_private import functions, wait_for


def build_replica(
    cluster_spec,
    task_index,
    *,
    build_graph=build_model,
    optimizer=replica.adam,
    learning_rate=TrainSpec.learning_rate,
    sync=False,
    replicas_to_aggregate=None,
    device="gpu:0",
    seed=None,
    container="",
):
    """Builds one worker's copy of the graph, with the variables on the ps tasks and everything else on the worker.

    ``cluster_spec`` is ``{"ps": [...], "worker": [...]}``, and ``task_index`` says which worker this is.
    ``build_graph``, ``optimizer``, ``learning_rate``, ``sync``, ``replicas_to_aggregate`` and ``seed`` are those of
    :func:`mnistdist.train`. Every worker must make the same variables with the same names in the same order, because
    that is how workers share them. The ps tasks keep the variables under the name ``container``; another name is a
    fresh start. ``device`` is the worker's device within its task. If the task has no such device, TensorFlow uses the
    CPU, because the session has ``allow_soft_placement``.
    """
    place, worker = replica_devices(cluster_spec, task_index, device), worker_device(task_index, device)
    workers = len(cluster_spec["worker"])
    options = {"build_graph": build_graph, "task_index": task_index, "seed": seed, "container": container}
    with replica.replica_graph(place, worker, **options) as (global_step, model), tf.device(place):
        parameters = replica.needed_variables(model)
        before = read_before_pull(global_step, model.loss)
        opt, rounds, local_init = replica.usable(optimizer(learning_rate)), None, replica.local_initializer()
        if sync:
            many = {"replicas_to_aggregate": replicas_to_aggregate or workers, "total_num_replicas": workers}
            opt = tf.train.SyncReplicasOptimizer(Counting(opt), **many)
            # Running this pushes the gradients and waits for a token, which carries the number of rounds.
            token = opt.apply_gradients(replica.gradients_of(opt, model.loss), global_step)
            after = tf.identity(token, name="global_step_after")
        else:
            update = replica.update_of(opt, replica.gradients_of(opt, model.loss))
            after = replica.count_update(global_step, update)
            local_init = replica.local_initializer()  # again, to include what the update needs
        needed = behind([model.loss.op, after.op], {model.x.op, model.y_.op})
        replica.refuse_placeholders(model, needed)
        refuse_functions(needed)
        parts = replica.common_parts(global_step, task_index, workers)
        if sync:
            local_init = tf.group(local_init, opt.chief_init_op if task_index == 0 else opt.local_step_init_op)
            rounds = chief_ops(opt)
            merging = behind([rounds.merge])
            if any(op.type in PYTHON and "/job:ps" in op.device for op in merging):
                raise ValueError("sync=True: the optimizer calls a Python function, which is in the workers only")
            if fed := [op.name for op in merging if op.type == "Placeholder"]:
                raise ValueError(f"optimizer: expected one whose rounds need nothing that is fed, got {fed[0]!r}")
        # Evaluation must not change what the model itself writes.
        writes = written_by(behind([tensor.op for tensor in (model.y, model.loss, model.accuracy)]))
        evaluated = evaluation(model, worker) if writes else model
        parts |= {"parameters": parameters, "local_init": local_init, "rounds": rounds, "drop": replica.dropping()}
        return replica.Replica(model=evaluated, advance=one_step(model, before, after), **parts)


def chief_ops(opt):
    """The rounds of a ``tf.train.SyncReplicasOptimizer`` that has applied gradients."""
    runner = opt.get_chief_queue_runner()
    (merge,) = runner.enqueue_ops
    return replica.Rounds(merge, opt.get_init_tokens_op(), runner.queue.close())


def one_step(model, before, after):
    """The ``advance`` of a replica that is fed one batch in each run."""

    def advance(session, dataset, batch_size, left, timeout):
        images, labels = dataset.next_batch(batch_size)
        start, feed = time.monotonic(), {model.x: images, model.y_: labels}
        values = timed_run(session, [before, after, model.loss], timeout, feed)
        return [replica.MadeStep(*values[:2], start, time.monotonic(), values[2])]

    return advance


def read_before_pull(global_step, loss):
    """Reads the global step before any variable that ``loss`` depends on is read, within the same run."""
    with tf.device(global_step.device):
        before = tf.identity(global_step.read_value(), name="global_step_before")
    for op in behind([loss.op], {before.op}):
        # An op that takes a variable reads it, or leads into a loop that reads it, where nothing from outside reaches.
        # tf.control_dependencies() around build_graph() would also hold up the initial values, for which the global
        # step itself has to wait.
        if any(tensor.op.type == "VarHandleOp" for tensor in op.inputs):
            wait_for(op, before.op)
    return before


class Counting:
    """An optimizer that counts its updates as ``tf.train.SyncReplicasOptimizer`` expects; the reader's may not."""

    def __init__(self, opt):
        self._opt = opt

    def __getattr__(self, name):
        return getattr(self._opt, name)

    def apply_gradients(self, pairs, global_step, name=None):
        """Applies the gradients, then adds one to the global step."""
        with tf.control_dependencies([replica.update_of(self._opt, pairs)]), tf.device(global_step.device):
            return global_step.assign_add(1, read_value=False)


def refuse_functions(ops):
    """Refuses a function that takes variables, because they are on a ps, and the function is not."""
    known = functions(tf.get_default_graph())
    for op in ops:
        if any(tensor.op.type == "VarHandleOp" for tensor in op.inputs) and called_by(op.node_def, known):
            raise ValueError(f"build_graph: {op.name!r} takes variables into a tf.function: that needs design='fast'")
