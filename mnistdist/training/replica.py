"""What every design makes of a model for a worker, and what all of them need for it."""

import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

from mnistdist.model import Graph
from mnistdist.training.graph import behind, is_handle, variables_of, written_by
from mnistdist.training.tensorflow_private import accept_resource_variables, begin_layer_names


class MadeStep(NamedTuple):
    """A step that a replica has made.

    Attributes: ``before``, the global step read before the parameters were; ``after``, the one that the update made;
    ``start`` and ``end``, by ``time.monotonic()``; ``loss``, of the batch.
    """

    before: int
    after: int
    start: float
    end: float
    loss: float


class Rounds(NamedTuple):
    """The ops of a synchronous training that only worker 0 runs.

    Attributes:
        merge: Merges gradients into updates, and puts tokens into a queue, for which all workers wait. It is run again
            and again.
        init_tokens: Puts the first tokens of a session into the queue.
        close_tokens: Closes the queue when the training is over: a worker that waits for a token is told so.
    """

    merge: tf.Operation
    init_tokens: tf.Operation
    close_tokens: tf.Operation


@dataclass(frozen=True)
class Replica:
    """One worker's copy of the graph.

    Attributes:
        graph: The ``tf.Graph``.
        model: Its :class:`~mnistdist.Graph`, with which the variables on the ps are evaluated.
        parameters: The variables that a trained model consists of, by name: those trained, and those it reads.
        global_step: The shared counter of updates (asynchronous) or rounds (synchronous), int64, on the first ps.
        uninitialized: Names of the shared variables that have no value yet.
        local_init: Op that initialises what each worker keeps for itself.
        advance: ``advance(session, dataset, batch_size, left, timeout)`` makes one step, or several of those ``left``
            in a single run, of at most ``timeout`` seconds each (None for any). It returns a list with a
            :class:`~mnistdist.training.MadeStep` for each step.
        reset_starts: Op for the chief, once the other shared variables have values: no worker has started yet.
        count_start: Counts a start of this worker, and gives the global step from which the training goes on plus the
            number of its earlier starts since then.
        rounds: The :class:`~mnistdist.training.Rounds` of a synchronous training; else None.
        drop: Op that frees what this worker keeps; None if that is nothing.
    """

    graph: tf.Graph
    model: Graph
    parameters: dict
    global_step: tf.Variable
    uninitialized: tf.Tensor
    local_init: tf.Operation
    advance: Callable
    reset_starts: tf.Operation
    count_start: tf.Tensor
    rounds: Rounds | None = None
    drop: tf.Operation | None = None


@contextlib.contextmanager
def replica_graph(place, worker, *, build_graph, task_index, seed, container):
    """While it lasts, a new graph is the default one; gives its global step and the reader's model, put at ``place``.

    Each worker draws random numbers of its own; initial values are worker 0's.
    """
    if task_index:
        seed = random.randrange(1 << 31) if seed is None else (seed + task_index * 1_000_003) % (1 << 31)
    with tf.Graph().as_default(), tf.container(container), resource_variables(worker):
        tf.set_random_seed(seed)
        with tf.device(place):
            global_step, model = tf.train.get_or_create_global_step(), build_graph()
        yield global_step, model


def common_parts(global_step, task_index, workers):
    """Those fields of a :class:`Replica` that are the same in every design, when all shared variables are there.

    The count of each worker's starts begins with the global step that a training goes on from, so that the parts of a
    training have different numbers. It is in no checkpoint, which would bring back the numbers of an earlier part.
    """
    room = max(workers, 1000)  # on servers that outlive a training, the next one may have more workers
    with tf.device(global_step.device):
        none_yet = tf.fill([room], global_step.read_value())
        # By tf.get_variable(), it would follow what build_graph() has set for the outermost variable_scope.
        starts = tf.Variable(none_yet, name="mnistdist_starts", trainable=False, collections=[])
        before = tf.identity(starts.read_value()[task_index])
        with tf.control_dependencies([before]):
            one_more = starts.scatter_add(tf.IndexedSlices(tf.constant(1, tf.int64), task_index))
        with tf.control_dependencies([one_more]):
            count_start = tf.identity(before)
    return {
        "graph": tf.get_default_graph(),
        "global_step": global_step,
        "uninitialized": tf.report_uninitialized_variables([*tf.global_variables(), starts]),
        "reset_starts": starts.initializer,
        "count_start": count_start,
    }


def dropping():
    """Op that frees what this worker keeps, but for queues, of which runs may be waiting."""
    kept = [op for op in tf.get_default_graph().get_operations() if is_handle(op) and "/job:worker" in op.device]
    dropped = []
    for op in kept:
        if "Queue" not in op.type:
            with tf.device(op.device):
                dropped.append(tf.raw_ops.DestroyResourceOp(resource=op.outputs[0], ignore_lookup_error=True))
    return tf.group(*dropped)


def adam(learning_rate):
    """The classic program's optimizer, with a lock: no update of a variable is applied in the middle of another."""
    return tf.train.AdamOptimizer(learning_rate, use_locking=True)


def count_update(global_step, update, times=1):
    """Add one (``times``) to the global step after ``update``; the result is the number that this very update has got.

    ``assign_add`` and a read are two operations, between which another worker may count: two workers would read the
    same number, and none the one between. Counting up and reading in a single op, no two get the same.
    """
    with tf.device(global_step.device):
        limit = np.iinfo(np.int64).max
        for _ in range(times):
            with tf.control_dependencies([update]):
                update = tf.raw_ops.ResourceCountUpTo(resource=global_step.handle, limit=limit, T=tf.int64)
        return tf.add(update, 1, name="global_step_after")


def resource_variables(worker):
    """A context in which the value of a variable that was read is a copy, not a view that later updates change.

    What each worker keeps for itself is put on the device ``worker``. Keras names layers from the beginning.
    """

    def create(make, **options):
        options["use_resource"] = True
        local = tf.GraphKeys.LOCAL_VARIABLES in (options.get("collections") or ())
        with tf.device(worker) if local else contextlib.nullcontext():
            variable = make(**options)
        # TensorFlow has this for other variables only.
        variable.initialized_value = lambda: tf.cond(
            tf.is_variable_initialized(variable), variable.read_value, lambda: variable.initial_value
        )
        return variable

    begin_layer_names()  # or layers without one would have another in each graph
    return tf.variable_creator_scope(create)


def usable(opt):
    """The reader's optimizer, if its ``compute_gradients`` and ``apply_gradients`` are all that there is to call."""
    kind = type(opt)
    if not (hasattr(opt, "compute_gradients") and hasattr(opt, "apply_gradients")):
        raise ValueError(f"optimizer: expected a tf.train.Optimizer, got a {kind.__module__}.{kind.__qualname__}")
    if getattr(kind, "minimize", tf.train.Optimizer.minimize) is not tf.train.Optimizer.minimize:
        wanted = "one of which compute_gradients() and apply_gradients() are all that is called"
        raise ValueError(f"optimizer: expected {wanted}, got {kind.__qualname__} with a minimize() of its own")
    accept_resource_variables(opt)
    return opt


def update_of(opt, pairs):
    """The op that applies gradients, and nothing counts the global step in it: the training does."""
    made = opt.apply_gradients(pairs)
    ops = [getattr(each, "op", each) for each in tf.nest.flatten(made)]
    if tf.train.get_global_step().handle.ref() in written_by(behind(ops)):
        raise ValueError("optimizer: expected one that leaves the global step alone, got one that changes it")
    return ops[0] if len(ops) == 1 else tf.group(*ops)


def gradients_of(opt, loss, **options):
    """The gradients of a loss as the optimizer computes them, with their variables.

    Raises:
        ValueError: there is none, or the loss is no scalar.
    """
    if loss.shape.rank:
        raise ValueError(f"build_graph: expected a loss that is a scalar, got one of shape {loss.shape}")
    pairs = list(opt.compute_gradients(loss, **options)) if tf.trainable_variables() else []
    if all(gradient is None for gradient, _ in pairs):
        raise ValueError("build_graph: expected a loss with a gradient, got one that depends on no variable")
    return pairs


def needed_variables(model):
    """The variables that a trained model consists of: what is trained, and what the model reads. A dict by name."""
    used = variables_of(behind([tensor.op for tensor in (model.y, model.loss, model.accuracy)]))
    return {variable.op.name: variable for variable in {v.op: v for v in (*tf.trainable_variables(), *used)}.values()}


def local_initializer():
    """Op that gives everything that a worker keeps for itself its first state: local variables, tables, iterators."""
    iterators = {}
    for op in tf.get_default_graph().get_operations():
        if op.type == "MakeIterator" and iterators.setdefault(op.inputs[1].ref(), op) is not op:
            raise ValueError(f"build_graph: expected one initializer of each iterator, got {op.name!r} besides")
    return tf.group(tf.local_variables_initializer(), tf.tables_initializer(), *iterators.values())


def refuse_placeholders(model, ops):
    """Complain of what these ops are to be fed, and is neither ``x`` nor ``y_`` of the model: nothing feeds it."""
    for op in ops:
        if op.type == "Placeholder" and op not in (model.x.op, model.y_.op):
            raise ValueError(f"build_graph: expected x and y_ to be all that is fed, got {op.name!r} besides")
