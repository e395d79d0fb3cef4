"""A run of the session that makes several steps, each with a pull and a push, or several local steps."""

import tensorflow.compat.v1 as tf

from mnistdist.training.designs.packing import Pack, ps_device
from mnistdist.training.graph import written_by
from mnistdist.training.replica import Rounds, count_update

ACCUMULATED = (tf.float16, tf.float32, tf.float64)
ROUNDS_PER_RUN = 8  # of the chief's op that merges gradients; like a worker's steps, each is of its own


class Unrolled:
    """A run of the session that makes ``count`` steps; ``rows`` and ``round_`` are fed, and ``fetches`` fetched.

    Each step has a pull and a push of its own, and stands for ``local_steps`` steps.
    """

    def __init__(self, step, twins, batches, global_step, *, count, local_steps=1):
        self.step, self.twins, self._batches, self.global_step = step, twins, batches, global_step
        self.count, self.local_steps = count, local_steps
        with tf.device(step.worker):
            self.rows = tf.placeholder(tf.int32, [count * local_steps, None])
        with tf.device(ps_device(0)):
            self.round_ = tf.placeholder(tf.int64, [])
        self._before, self.after, self.losses, self._ends, self.fetches = [], [], [], [], None

    def pull(self):
        """Fills the worker's copies after the step before; returns what :meth:`Twins.fill` returns."""
        with tf.control_dependencies([each.op for each in self.after[-1:]]), tf.device(ps_device(0)):
            self._before.append(tf.identity(self.global_step.read_value()))
        with tf.control_dependencies(self._before[-1:]):
            pulled = self.twins.pull()
        if self.after:
            with tf.device(self.step.worker):
                first = _timed(pulled[0] if pulled else self._before[-1], self._ends)  # a loss may read no variable
                pulled = [first, *pulled[1:]] if pulled else []
        return self.twins.fill(pulled)

    def compute(self, number, handles):
        """The first part of a step on a batch, by its number: the op, the loss and what crosses."""
        return self.step.compute(handles, self._batches.batch(self.rows[number]), self.count)

    def complete(self):
        """Fetches global steps before and after, losses, and times between the steps. Returns itself."""
        with tf.device(ps_device(0)):
            steps = [tf.stack(self._before), tf.stack(self.after)]
        with tf.device(self.step.worker):
            ends = tf.stack(self._ends) if self._ends else tf.zeros([0], tf.float64)
            self.fetches = [*steps, tf.stack(self.losses), ends]
        return self


def plain_run(run, rounds=None):
    """Makes the steps of a run, one after the other."""
    step, twins, round_ = run.step, run.twins, run.round_
    for number in range(run.count):
        values, copied = run.pull()
        with tf.device(step.worker), tf.control_dependencies(copied):
            call, loss, crossed = run.compute(number, twins.handles)
        run.losses.append(loss)
        changes = push_changes(twins, values, step.written, call)
        if rounds:
            round_ = rounds.hand_in(crossed, changes, round_)
            run.after.append(round_)
            continue
        crossed = step.pushes.split(step.pushes.join(crossed, step.worker))
        # Adam reads its powers of beta for each update, after the update before has changed them.
        with tf.control_dependencies([*changes, *(each.op for each in run.after[-1:])]):
            run.after.append(count_update(run.global_step, step.apply(crossed, run.count)))
    return run.complete()


def local_run(run, own, workers):
    """Makes ``local_steps`` steps on the worker's own copies of the variables, then pushes its share of the change;
    does so ``count`` times.

    If each worker pushed the whole change, the variables would go the same way several times.
    """
    step, worker, steps, counter = run.step, run.step.worker, run.local_steps, run.global_step.handle.ref()
    handles = run.twins.handles | own.handles
    written = {}
    for key, how in written_by(step.updated).items():
        variable = run.twins.variables.get(key)
        # For a state, such as the best loss so far, a change is of no use.
        if variable is not None and (how in ("add", "mix") or variable.trainable):
            how = "share" if variable.dtype.is_floating else "add" if variable.dtype.is_integer else "assign"
        written[key] = how
    written |= step.written
    written = {key: how for key, how in written.items() if key in run.twins.variables and key != counter}

    def one(number, total):
        _, loss, crossed = run.compute(number, handles)
        with tf.control_dependencies([loss]):
            done = [step.apply(crossed, run.count, handles)]
        if counter in handles:
            with tf.control_dependencies(done):
                done = [tf.raw_ops.AssignAddVariableOp(resource=handles[counter], value=tf.constant(1, tf.int64))]
        with tf.control_dependencies(done):
            return number + 1, total + tf.cast(loss, tf.float32)

    for push in range(run.count):
        values, copied = run.pull()
        with tf.device(worker):
            with tf.control_dependencies(copied):
                first = tf.constant(push * steps)
            end, total = tf.while_loop(
                lambda number, _, end=(push + 1) * steps: number < end, one, [first, 0.0], parallel_iterations=1
            )
            run.losses.append(total / steps)
        pushed = tf.group(*push_changes(run.twins, values, written, end.op, workers))
        run.after.append(count_update(run.global_step, pushed, steps))
    return run.complete()


class Aggregation:
    """Synchronous rounds: an accumulator for what is pushed together, a queue of tokens, and the chief's merging op.

    They work as in ``tf.train.SyncReplicasOptimizer``, whose own ops can't make several steps in one run.
    """

    def __init__(self, step, global_step, aggregate, workers):
        self._step, many, done = step, max(aggregate, workers), []
        self._groups = []  # of what is pushed together: the first tensor's ref(), the accumulator or None, its device
        sparse = [each for g, _ in step.sparse.values() for each in (g.indices, g.dense_shape)]
        beside = {each.ref() for each in sparse if each is not None}
        for number, (device, dtype, members) in enumerate(step.pushes.groups):
            first, name, accumulator = step.crossing[members[0]], f"gradients_{number}", None
            key = first.ref()
            with tf.device(device):
                if key in step.sparse:
                    shape = step.sparse[key][1].shape
                    accumulator = tf.SparseConditionalAccumulator(dtype, shape, shared_name=name, name=name)
                elif dtype in ACCUMULATED:
                    shape = step.pushes.joined_shape(members)
                    accumulator = tf.ConditionalAccumulator(dtype, shape, shared_name=name, name=name)
                elif key not in beside:
                    needs = f"needs {first.op.name!r}, of {dtype.name}"
                    wanted = "an optimizer that needs only gradients, of 16, 32 or 64 bits"
                    raise ValueError(f"sync=True: expected {wanted}, got one that {needs}")
            self._groups.append((key, accumulator, device))
        with tf.device(ps_device(0)):
            self._tokens = tf.FIFOQueue(-1, [tf.int64], [()], name="sync_token_q", shared_name="sync_token_q")
        for _ in range(ROUNDS_PER_RUN):
            with tf.control_dependencies(done):
                round_ = count_update(global_step, step.apply(self._take(aggregate)))
                with tf.device(ps_device(0)):
                    done = [self._tokens.enqueue_many([tf.fill([many], round_)])]
        with tf.device(ps_device(0)):
            first_tokens = self._tokens.enqueue_many([tf.fill([many], global_step.read_value())])
            self.rounds = Rounds(*done, first_tokens, self._tokens.close())
        # Gradients for an older round than that of the variables are dropped, also after a restart.
        self.begin = [each.set_global_step(global_step) for _, each, _ in self._groups if each]

    def _take(self, aggregate):
        """The means of a round, in the form that the second part of a step takes."""
        taken, beside = [], {}
        for first, accumulator, _ in self._groups:
            if first in self._step.sparse:
                merged = accumulator.take_indexed_slices_grad(aggregate)
                gradient, _ = self._step.sparse[first]
                for old, new in (gradient.indices, merged.indices), (gradient.dense_shape, merged.dense_shape):
                    if old is not None:
                        beside[old.ref()] = tf.cast(new, old.dtype)
                merged = merged.values
            else:
                merged = accumulator and accumulator.take_grad(aggregate)
            taken.append((first, merged))
        return self._step.pushes.split([beside.get(first) if each is None else each for first, each in taken])

    def hand_in(self, crossed, changes, round_):
        """Pushes the gradients of a round and draws a token, the number of rounds so far."""
        step, given = self._step, list(changes)
        value_of = {tensor.ref(): value for tensor, value in zip(step.crossing, crossed, strict=True)}
        joined = step.pushes.join(crossed, step.worker)
        for (first, accumulator, device), value in zip(self._groups, joined, strict=True):
            with tf.device(device):
                if first in step.sparse:
                    rows, places = tf.unique(tf.cast(value_of[step.sparse[first][0].indices.ref()], tf.int64))
                    order = tf.argsort(rows)  # the accumulator wants each row once, in order
                    value = tf.gather(tf.math.unsorted_segment_sum(value, places, tf.size(rows)), order)
                    given.append(accumulator.apply_grad(tf.gather(rows, order), value, local_step=round_))
                elif accumulator:
                    given.append(accumulator.apply_grad(value, round_))
        with tf.control_dependencies(given), tf.device(ps_device(0)):
            return self._tokens.dequeue()


def push_changes(twins, values, written, call, share=1):
    """Brings what a call has written on the worker to the ps. ``how`` says, by variable, whether to ``"add"`` a change
    or its ``"share"``, or to ``"assign"`` a value, of which only ``"some"`` elements may have changed.
    """
    changes = [push_some(twins, key, values[key], call) for key, how in written.items() if how == "some"]
    written = {key: how for key, how in written.items() if how != "some"}
    news, variables = [], [twins.variables[key] for key in written]
    for key, how in written.items():
        with tf.control_dependencies([call]), tf.device(twins.worker):
            new = twins.read(key)
            new = new if how == "assign" else new - values[key]
            news.append(new / tf.cast(share, new.dtype) if how == "share" else new)
    pack = Pack(variables, [variable.device for variable in variables])
    for variable, how, new in zip(variables, written.values(), pack.split(pack.join(news, twins.worker)), strict=True):
        with tf.device(variable.device):
            changes.append((variable.assign if how == "assign" else variable.assign_add)(new, read_value=False))
    return changes


def push_some(twins, key, old, call):
    """Brings only the elements that a call has changed to the ps; another worker may have written the others."""
    variable = twins.variables[key]
    with tf.control_dependencies([call]), tf.device(twins.worker):
        new = twins.read(key)
        changed = tf.not_equal(new, old)
        places = tf.where(changed)
        elements = tf.gather_nd(new, places) if new.shape.rank else new
    with tf.device(variable.device):
        if new.shape.rank:
            return tf.raw_ops.ResourceScatterNdUpdate(ref=variable.handle, indices=places, updates=elements)
        return tf.cond(changed, lambda: variable.assign(new, read_value=False), tf.no_op)


def _timed(pulled, ends):
    """The same tensor, available once the time at which it came has been noted in ``ends``."""
    with tf.control_dependencies([pulled]):
        ends.append(tf.timestamp())
    with tf.control_dependencies(ends[-1:]):  # or times would be taken late, and in any order
        return tf.identity(pulled)
