"""The replica that every design makes from a model for a worker, and what all designs need for that."""

import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

from mnistdist.model import Graph
from mnistdist.training.graph import behind, is_handle, variables_of, written_by
from mnistdist.training.tensorflow_private import accept_resource_variables, begin_layer_names


class MadeStep(NamedTuple):
    """A step that a replica has made.

    Attributes: ``before`` is the global step that was read before the parameters, and ``after`` the one that the update
    made. ``start`` and ``end`` are times of ``time.monotonic()``, and ``loss`` is the loss of the batch.
    """

    before: int
    after: int
    start: float
    end: float
    loss: float


class Rounds(NamedTuple):
    """The ops of a synchronous training that only worker 0 runs.

    Attributes:
        merge: Merges gradients into updates, and puts the tokens into a queue for which all workers wait. It is run
            again and again.
        init_tokens: Puts the first tokens of a session into the queue.
        close_tokens: Closes the queue when the training is over, which a worker that waits for a token then sees.
    """

    merge: tf.Operation
    init_tokens: tf.Operation
    close_tokens: tf.Operation


@dataclass(frozen=True)
class Replica:
    """One worker's copy of the graph.

    Attributes:
        graph: The ``tf.Graph``.
        model: Its :class:`~mnistdist.Graph`, which evaluates the variables on the ps.
        parameters: The variables that a trained model consists of, by name: those it trains and those it reads.
        global_step: The shared counter of updates (asynchronous) or rounds (synchronous), int64, on the first ps.
        uninitialized: Names of the shared variables that have no value yet.
        local_init: Op that initialises what each worker keeps for itself.
        advance: ``advance(session, dataset, batch_size, left, timeout)`` makes one step, or several of the steps that
            are ``left`` in a single run, of at most ``timeout`` seconds each (None for any). It returns a list with a
            :class:`~mnistdist.training.MadeStep` for each step.
        reset_starts: The chief's op, for when the other shared variables have values: no worker has started yet.
        count_start: Counts a start of this worker. Its value is the global step from which the training goes on, plus
            the number of the worker's earlier starts since then.
        rounds: The :class:`~mnistdist.training.Rounds` of a synchronous training, otherwise None.
        drop: Op that frees what this worker keeps; None if it keeps nothing.
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
    """While it lasts, a new graph is the default one; yields its global step and the reader's model, at ``place``.

    Each worker draws random numbers of its own, but the initial values are worker 0's.
    """
    if task_index:
        seed = random.randrange(1 << 31) if seed is None else (seed + task_index * 1_000_003) % (1 << 31)
    with tf.Graph().as_default(), tf.container(container), resource_variables(worker):
        tf.set_random_seed(seed)
        with tf.device(place):
            global_step, model = tf.train.get_or_create_global_step(), build_graph()
        _require_graph(model)
        yield global_step, model


def _require_graph(model):
    missing = [field.name for field in fields(Graph) if not isinstance(getattr(model, field.name, None), tf.Tensor)]
    if missing:
        got = f"a {type(model).__name__} without a tensor as {', '.join(missing)}"
        raise ValueError(f"build_graph: expected a Graph of tensors, got {got}")


def common_parts(global_step, task_index, workers):
    """The fields of a :class:`Replica` that are the same in every design; call it when all shared variables exist.

    The count of each worker's starts begins with the global step from which a training goes on, so the parts of a
    training have different numbers. No checkpoint holds it, because that would bring back the numbers of earlier parts.
    """
    room = max(workers, 1000)  # because on servers that outlive a training, the next one may have more workers
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
    """Op that frees what this worker keeps, except for queues, because runs may be waiting in them."""
    kept = [op for op in tf.get_default_graph().get_operations() if is_handle(op) and "/job:worker" in op.device]
    dropped = []
    for op in kept:
        if "Queue" not in op.type:
            with tf.device(op.device):
                dropped.append(tf.raw_ops.DestroyResourceOp(resource=op.outputs[0], ignore_lookup_error=True))
    return tf.group(*dropped)


def adam(learning_rate):
    """The classic program's optimizer, with a lock: updates of a variable are applied one after the other."""
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
    """A context in which reading a variable gives a copy of its value, not a view that later updates change.

    What each worker keeps for itself is placed on the device ``worker``. Keras starts naming layers afresh.
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

    begin_layer_names()  # or layers without a name would get another one in each graph
    return tf.variable_creator_scope(create)


def usable(opt):
    """The reader's optimizer, if ``compute_gradients`` and ``apply_gradients`` are all that has to be called."""
    kind = type(opt)
    if not (hasattr(opt, "compute_gradients") and hasattr(opt, "apply_gradients")):
        raise ValueError(f"optimizer: expected a tf.train.Optimizer, got a {kind.__module__}.{kind.__qualname__}")
    if getattr(kind, "minimize", tf.train.Optimizer.minimize) is not tf.train.Optimizer.minimize:
        wanted = "one of which compute_gradients() and apply_gradients() are all that is called"
        raise ValueError(f"optimizer: expected {wanted}, got {kind.__qualname__} with a minimize() of its own")
    accept_resource_variables(opt)
    return opt


def update_of(opt, pairs):
    """The op that applies gradients. It must not count the global step, because the training does that."""
    made = opt.apply_gradients(pairs)
    ops = [getattr(each, "op", each) for each in tf.nest.flatten(made)]
    if tf.train.get_global_step().handle.ref() in written_by(behind(ops)):
        raise ValueError("optimizer: expected one that leaves the global step alone, got one that changes it")
    return ops[0] if len(ops) == 1 else tf.group(*ops)


def gradients_of(opt, loss, **options):
    """The gradients of a loss as the optimizer computes them, with their variables.

    Raises:
        ValueError: There is no gradient, or the loss is not a scalar.
    """
    if loss.shape.rank:
        raise ValueError(f"build_graph: expected a loss that is a scalar, got one of shape {loss.shape}")
    if not (loss.dtype.is_floating or loss.dtype.is_complex):
        raise ValueError(f"build_graph: expected a loss of floating point, got one of {loss.dtype.name}")
    pairs = list(opt.compute_gradients(loss, **options)) if tf.trainable_variables() else []
    if all(gradient is None for gradient, _ in pairs):
        raise ValueError("build_graph: expected a loss with a gradient, got one that depends on no variable")
    return pairs


def needed_variables(model):
    """The variables that a trained model consists of, which it trains or reads: a dict by name."""
    used = variables_of(behind([tensor.op for tensor in (model.y, model.loss, model.accuracy)]))
    return {variable.op.name: variable for variable in {v.op: v for v in (*tf.trainable_variables(), *used)}.values()}


def local_initializer():
    """Op that initialises everything that a worker keeps for itself: local variables, tables, iterators."""
    iterators = {}
    for op in tf.get_default_graph().get_operations():
        if op.type == "MakeIterator" and iterators.setdefault(op.inputs[1].ref(), op) is not op:
            raise ValueError(f"build_graph: expected one initializer of each iterator, got {op.name!r} besides")
    return tf.group(tf.local_variables_initializer(), tf.tables_initializer(), *iterators.values())


def refuse_placeholders(model, ops):
    """Refuses placeholders among these ops other than ``x`` and ``y_`` of the model, because nothing feeds them."""
    for op in ops:
        if op.type == "Placeholder" and op not in (model.x.op, model.y_.op):
            raise ValueError(f"build_graph: expected x and y_ to be all that is fed, got {op.name!r} besides")
