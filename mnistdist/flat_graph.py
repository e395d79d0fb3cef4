"""The fast design: the updates of ``between_graph.py``, each of one batch, with fewer messages for each.

A step of the listing's design sends each of four variables and four gradients by itself, is fed its images, and is a
run of its own. On a small network most of its time goes into these calls. Here

- all parameters are one flat vector on the ps (with several ps, one shard on each): one pull, one push;
- the worker keeps the training images and is fed row numbers;
- everything that follows from a gradient is placed on the ps, so that no signal crosses back in the middle of a step;
- one run makes several steps, one after the other, each with a pull and a push of its own.

The reader's ``build_graph`` is used as it is: it is built once beside, and copied into each step with its variables
replaced by slices of the vector. The chapter "Where a step goes" measures what each of these brings.
"""

import math
import time

import numpy as np
import tensorflow.compat.v1 as tf

from mnistdist.between_graph import Replica, adam, count_starts, count_update
from mnistdist.limits import timed_run
from mnistdist.model import build_model
from mnistdist.training import LOCAL_STEPS_PER_RUN, STEPS_PER_RUN
from mnistdist.vector import Batches, Forward, Vector, ps_device

ROUNDS_PER_RUN = 8  # of the chief's op that merges gradients; like a worker's steps, each is of its own


def build_flat_replica(
    cluster_spec,
    task_index,
    *,
    train_set=None,
    build_graph=build_model,
    optimizer=adam,
    learning_rate=0.01,
    sync=False,
    replicas_to_aggregate=None,
    local_steps=1,
    steps_per_run=None,
    steps=None,
    device="gpu:0",
    seed=None,
    container="",
):
    """Build one worker's copy of the graph in the fast design; returns a :class:`~mnistdist.between_graph.Replica`.

    Arguments are those of :func:`mnistdist.between_graph.build_replica`, and four more. ``train_set`` is the
    :class:`~mnistdist.DataSet` to train on, which the worker keeps; without one, the replica can only read and evaluate
    the parameters. ``steps_per_run`` is how many steps one run of the session makes, each with its own pull and push;
    near the end of a training, runs are of one step, so that it ends where it should. With ``local_steps`` above 1 (and
    ``sync`` off), a worker makes so many steps on its own copy of the parameters, with an optimizer of its own, and
    pushes the change that they made, divided by the number of workers (after Downpour's n_push and n_fetch, Dean et al.
    2012); a run makes whole pushes, of ``steps_per_run`` steps together or a few more. ``steps`` is how many the whole
    training has, if that is known: a short one makes no use of runs of several steps, and has none built.

    Raises:
        ValueError: for a model with variables other than trainable ones of float32: they can't be one vector.
    """
    ps, workers = len(cluster_spec["ps"]), len(cluster_spec["worker"])
    steps_per_run = steps_per_run or (STEPS_PER_RUN if local_steps == 1 else LOCAL_STEPS_PER_RUN)
    most = math.ceil(steps_per_run / local_steps)
    short = steps is not None and steps <= _margin(most * local_steps, workers)
    counts = [1] if short or most == 1 else [1, most]
    forward = Forward(build_graph, seed)
    worker = f"/job:worker/task:{task_index}/{device}"
    graph = tf.Graph()
    with graph.as_default(), graph.container(container), tf.variable_scope(tf.get_variable_scope(), use_resource=True):
        tf.set_random_seed(seed)
        with tf.device(ps_device(0)):
            global_step = tf.train.get_or_create_global_step()
        vector = Vector(forward, ps)
        with tf.device(worker):
            theta = vector.pull()
            model = forward.model(theta)
            parameters = forward.split(theta)
        local_init = [tf.local_variables_initializer(), tf.tables_initializer()]
        if train_set is None:
            opt = rounds = advance = drop = None
        else:
            with tf.device(worker):
                batches = Batches(train_set)
            opt = optimizer(learning_rate)
            rounds = _Rounds(vector, opt, global_step, replicas_to_aggregate or workers, workers) if sync else None
            if rounds and task_index == 0:
                local_init += rounds.begin
            if local_steps > 1:
                with tf.device(worker):
                    own = tf.get_variable("own", [vector.size], tf.float32, tf.zeros_initializer(), collections=["own"])
                runs = {
                    count: _local_run(forward, vector, batches, opt, own, global_step, local_steps, workers, count)
                    for count in counts
                }
                for variable in opt.variables():
                    tf.add_to_collection("own", variable)
                    graph.get_collection_ref(tf.GraphKeys.GLOBAL_VARIABLES).remove(variable)
                local_init += [tf.variables_initializer(tf.get_collection("own"))]
            else:
                runs = {
                    count: _run(forward, vector, batches, opt, global_step, worker, rounds, count) for count in counts
                }
            advance = _advancing(runs, batches, local_steps, workers, global_step if sync else None)
            with tf.device(worker):
                kept = [tf.raw_ops.DestroyResourceOp(resource=each.handle) for each in tf.get_collection("own")]
                drop = tf.group(batches.drop, *kept)
        starts, count_start = count_starts(global_step, task_index, workers)
        return Replica(
            graph=graph,
            model=model,
            parameters=parameters,
            global_step=global_step,
            uninitialized=tf.report_uninitialized_variables([*tf.global_variables(), starts]),
            local_init=tf.group(*local_init),
            advance=advance,
            reset_starts=starts.initializer,
            count_start=count_start,
            merge=rounds and rounds.merge,
            init_tokens=rounds and rounds.init_tokens,
            close_tokens=rounds and rounds.close_tokens,
            drop=drop,
        )


class _Rounds:
    """Synchronous rounds: an accumulator a shard, a queue of tokens, and the chief's op that merges and applies.

    As in ``tf.train.SyncReplicasOptimizer``, whose ops can't be had for several steps in one run.
    """

    def __init__(self, vector, opt, global_step, aggregate, workers):
        self._accumulators = []
        for index, shard in enumerate(vector.shards):
            with tf.device(ps_device(index)):
                name = f"gradients_{index}"
                self._accumulators.append(tf.ConditionalAccumulator(tf.float32, shard.shape, name, name))
        with tf.device(ps_device(0)):
            self._tokens = tf.FIFOQueue(-1, [tf.int64], [()], name="sync_token_q", shared_name="sync_token_q")
        many, done = max(aggregate, workers), []
        for _ in range(ROUNDS_PER_RUN):
            merged = []
            with tf.control_dependencies(done):
                for index, (accumulator, shard) in enumerate(zip(self._accumulators, vector.shards, strict=True)):
                    with tf.device(ps_device(index)):
                        merged.append((accumulator.take_grad(aggregate), shard))
                with tf.device(ps_device(0)):
                    round_ = count_update(global_step, opt.apply_gradients(merged))
                    done = [self._tokens.enqueue_many([tf.fill([many], round_)])]
        with tf.device(ps_device(0)):
            (self.merge,) = done
            self.init_tokens = self._tokens.enqueue_many([tf.fill([many], global_step.read_value())])
            self.close_tokens = self._tokens.close()
        # Gradients that come for an older round than the variables are at are dropped: after a restart too.
        self.begin = [accumulator.set_global_step(global_step) for accumulator in self._accumulators]

    def hand_in(self, gradients, round_):
        """Give the gradients of a round, and draw a token: the number of rounds so far."""
        given = []
        for index, (accumulator, gradient) in enumerate(zip(self._accumulators, gradients, strict=True)):
            with tf.device(ps_device(index)):
                given.append(accumulator.apply_grad(gradient, round_))
        with tf.control_dependencies(given), tf.device(ps_device(0)):
            return self._tokens.dequeue()


class _Run:
    """What one run of the session takes and gives: ``rows`` and ``round_`` are fed, ``fetches`` fetched."""

    def __init__(self, rows, round_, before, after, losses, ends):
        with tf.device(ps_device(0)):
            before, after = tf.stack(before), tf.stack(after)
        self.rows, self.round_ = rows, round_
        self.fetches = [before, after, tf.stack(losses), tf.stack(ends) if ends else tf.zeros([0], tf.float64)]


def _run(forward, vector, batches, opt, global_step, worker, rounds, count):
    """``count`` steps, one after the other."""
    with tf.device(worker):
        rows = tf.placeholder(tf.int32, [count, None])
    with tf.device(ps_device(0)):
        round_ = first_round = tf.placeholder(tf.int64, [])
    before, after, losses, ends, done = [], [], [], [], []
    for step in range(count):
        with tf.control_dependencies(done):
            with tf.device(ps_device(0)):
                before.append(tf.identity(global_step.read_value()))
            with tf.control_dependencies(before[-1:]), tf.device(worker):
                theta = vector.pull()
        with tf.device(worker):
            if step:
                theta = _timed(theta, ends)
            loss, gradient = forward.loss_and_gradient(theta, *batches.batch(rows[step]))
            losses.append(loss)
            gradients = vector.push(gradient)
        if rounds:
            round_ = rounds.hand_in(gradients, round_)
            after.append(round_)
        else:
            # Adam reads its powers of beta for each update: after the one before has changed them.
            with tf.control_dependencies(done), tf.device(ps_device(0)):
                update = opt.apply_gradients(list(zip(gradients, vector.shards, strict=True)))
            after.append(count_update(global_step, update))
        done = [after[-1].op]
    with tf.device(worker):
        return _Run(rows, first_round, before, after, losses, ends)


def _local_run(forward, vector, batches, opt, own, global_step, steps, workers, count):
    """``steps`` steps on the worker's own copy of the parameters, then a push of its share of the way that they went;
    ``count`` times.

    Its share: workers that pushed all of it would go the same way several times.
    """
    worker = own.device
    with tf.device(worker):
        rows = tf.placeholder(tf.int32, [count * steps, None])

    def step(number, total):
        theta = own.read_value()
        loss, gradient = forward.loss_and_gradient(theta, *batches.batch(rows[number]))
        with tf.control_dependencies([opt.apply_gradients([(gradient, own)])]):
            return number + 1, total + loss

    before, after, losses, ends, pushed = [], [], [], [], []
    for push in range(count):
        with tf.control_dependencies(pushed), tf.device(ps_device(0)):
            before.append(tf.identity(global_step.read_value()))
        with tf.control_dependencies(before[-1:]), tf.device(worker):
            pulled = vector.pull()
        with tf.device(worker):
            if push:
                pulled = _timed(pulled, ends)
            with tf.control_dependencies([own.assign(pulled, read_value=False)]):
                first = tf.constant(push * steps)
            end, total = tf.while_loop(
                lambda number, _, end=(push + 1) * steps: number < end, step, [first, 0.0], parallel_iterations=1
            )
            losses.append(total / steps)
            with tf.control_dependencies([end]):
                changes = vector.push((own.read_value() - pulled) / workers)
        added = []
        for index, (shard, change) in enumerate(zip(vector.shards, changes, strict=True)):
            with tf.device(ps_device(index)):
                added.append(shard.assign_add(change, use_locking=True, read_value=False))
        with tf.device(ps_device(0)):
            after.append(count_update(global_step, tf.group(*added), steps))
        pushed = [after[-1].op]
    with tf.device(worker):
        return _Run(rows, None, before, after, losses, ends)


def _timed(pulled, ends):
    """The same parameters, to be used once the time at which they came has been noted in ``ends``."""
    with tf.control_dependencies([pulled]):
        ends.append(tf.timestamp())
    with tf.control_dependencies(ends[-1:]):  # or times would be taken late, and in any order
        return tf.identity(pulled)


def _advancing(runs, batches, local_steps, workers, sync_from):
    """The function that makes the next steps: see ``Replica.advance``."""
    longest, round_, filled, slowest = max(runs), None, False, 0.0

    def advance(session, dataset, batch_size, left, timeout):
        nonlocal round_, filled, slowest
        if dataset is not batches.train_set:
            raise ValueError("expected the data set that this replica was built with")
        if not filled:
            batches.fill(session, timeout)
            filled = True
        # The first run is of one step, and tells how long the others may take.
        count = longest if slowest and left > _margin(longest * local_steps, workers) else 1
        run = runs[count]
        rows = np.stack([dataset.next_rows(batch_size) for _ in range(count * local_steps)])
        feed = {run.rows: rows}
        if sync_from is not None:
            round_ = timed_run(session, sync_from, timeout) if round_ is None else round_
            feed[run.round_] = round_
        # One step of a run may take the whole time, all others what steps have taken until now.
        limit = timeout and timeout + slowest * (count - 1)
        start = time.monotonic()
        before, after, losses, ends = timed_run(session, run.fetches, limit, feed)
        last = time.monotonic()
        slowest = max(slowest, (last - start) / count)
        between = np.maximum.accumulate(np.clip(ends + _monotonic_offset(), start, last))
        times = [start, *between, last]
        round_ = after[-1]
        return list(zip(before, after, times[:-1], times[1:], losses, strict=True))

    return advance


def _margin(steps, workers):
    """From so many steps left on, no runs of ``steps`` are made: others go on meanwhile, and no run can be stopped."""
    return 4 * workers * steps


def _monotonic_offset():
    """What to add to the time of day, which TensorFlow's timestamps are, to get ``time.monotonic()``."""
    readings = []
    for _ in range(3):  # the quickest of them was least disturbed
        begin, now, end = time.monotonic(), time.time(), time.monotonic()
        readings.append((end - begin, (begin + end) / 2 - now))
    return min(readings)[1]
