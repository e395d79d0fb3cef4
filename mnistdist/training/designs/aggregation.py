"""Synchronous training in the fast design: gradients of several workers are aggregated for each update."""

import tensorflow.compat.v1 as tf

from mnistdist.training.designs.packing import ps_device
from mnistdist.training.replica import Rounds, count_update

ACCUMULATED = (tf.float16, tf.float32, tf.float64)
ROUNDS_PER_RUN = 8  # of the chief's op that merges gradients; like a worker's steps, each is of its own


class Aggregation:
    """Synchronous rounds: an accumulator for what is pushed together, a queue of tokens, and the chief's merging op.

    As in ``tf.train.SyncReplicasOptimizer``, whose ops can't be had for several steps in one run.
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
        # Gradients that come for an older round than the variables are at are dropped: after a restart too.
        self.begin = [each.set_global_step(global_step) for _, each, _ in self._groups if each]

    def _take(self, aggregate):
        """The means of a round, as the second part of a step takes them."""
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
        """Give the gradients of a round, and draw a token: the number of rounds so far."""
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
