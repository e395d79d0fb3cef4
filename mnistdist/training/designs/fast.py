"""The fast design: the graph that the listing's design builds, cut where the wire is.

The reader's ``build_graph`` and optimizer make one ordinary graph, with the variables on the ps. Two parts are cut out
of it as functions. The first leads from a batch to the gradients and runs on the worker. The second leads from the
gradients to the update and runs on the ps. A step pulls the variables in one message, calls the first function on the
worker's copies, pushes the result in one message and calls the second. One run of the session makes several steps.
"""

import functools
import inspect
import math
import time

import numpy as np
import tensorflow.compat.v1 as tf

from mnistdist.model import build_model
from mnistdist.placement import worker_device
from mnistdist.training import replica
from mnistdist.training.designs.packing import Twins, ps_device
from mnistdist.training.designs.step import Step, evaluation
from mnistdist.training.designs.unrolling import Aggregation, Unrolled, local_run, plain_run
from mnistdist.training.graph import is_handle, variables_of
from mnistdist.training.runs import timed_run
from mnistdist.training.spec import LOCAL_STEPS_PER_RUN, STEPS_PER_RUN, TrainSpec


def build_fast_replica(
    cluster_spec,
    task_index,
    *,
    train_set=None,
    build_graph=build_model,
    optimizer=replica.adam,
    learning_rate=TrainSpec.learning_rate,
    sync=False,
    replicas_to_aggregate=None,
    local_steps=1,
    steps_per_run=None,
    steps=None,
    device="gpu:0",
    seed=None,
    container="",
):
    """Builds one worker's copy of the graph in the fast design; returns a :class:`~mnistdist.training.Replica`.

    There are the arguments of :func:`mnistdist.training.build_replica` and four more. ``train_set`` is the
    :class:`~mnistdist.DataSet` to train on, which the worker keeps. Without one, the replica can only read and evaluate
    the variables. ``steps_per_run`` is how many steps one run of the session makes, each with its own pull and push.
    Near the end of a training each run makes one step, so that the training ends where it should. If ``local_steps`` is
    above 1 and ``sync`` is off, a worker makes this many steps on its own copies of the variables, with an optimizer of
    its own. It then pushes the change divided by the number of workers, after Downpour's n_push and n_fetch (Dean et
    al. 2012). A run makes whole pushes, of ``steps_per_run`` steps in all or a few more. ``steps`` is how many the
    whole training has, if that is known. If there are few, no runs of several steps are built.

    Raises:
        ValueError: The model or optimizer can't be trained. It is a :class:`~mnistdist.training.CannotCut` if the
            listing's design can train it.
    """
    workers, local = len(cluster_spec["worker"]), local_steps > 1
    most = math.ceil((steps_per_run or (LOCAL_STEPS_PER_RUN if local else STEPS_PER_RUN)) / local_steps)
    short = steps is not None and steps <= _margin(most * local_steps, workers)
    worker = worker_device(task_index, device)
    place, options = _devices(cluster_spec, worker), {"build_graph": build_graph, "task_index": task_index}
    with replica.replica_graph(place, worker, seed=seed, container=container, **options) as (global_step, model):
        with tf.device(place):
            with tf.device(ps_device(0)):
                opt = replica.usable(optimizer(learning_rate))
            # A gated gradient waits for its siblings, so the gradient of the images would be computed for nobody.
            names = inspect.signature(opt.compute_gradients).parameters
            gate = {"gate_gradients": tf.train.Optimizer.GATE_NONE} if "gate_gradients" in names else {}
            pairs = replica.gradients_of(opt, model.loss, **gate)
            with tf.device(ps_device(0)):
                update = replica.update_of(opt, pairs)
        advance = aggregation = None
        local_init = [replica.local_initializer()]
        step = Step(model, pairs, update, worker, local)
        parts = replica.common_parts(global_step, task_index, workers)
        if train_set is not None:
            with tf.device(worker):
                batches = Batches(train_set, model)
            twins, own = _copies(step, opt if local else None)
            local_init += own.fill(own.pull())[1]
            if sync and not local:
                aggregation = Aggregation(step, global_step, replicas_to_aggregate or workers, workers)
                local_init += aggregation.begin if task_index == 0 else []
            runs = {}
            for count in sorted({1, 1 if short else most}):
                run = Unrolled(step, twins, batches, global_step, count=count, local_steps=local_steps)
                runs[count] = local_run(run, own, workers) if local else plain_run(run, aggregation)
            advance = _advancing(runs, batches, local_steps, workers, aggregation and global_step)
        evaluated = evaluation(model, worker)
        parts |= {"parameters": replica.needed_variables(model), "local_init": tf.group(*local_init)}
        parts |= {"rounds": aggregation and aggregation.rounds, "drop": replica.dropping()}
        return replica.Replica(model=evaluated, advance=advance, **parts)


class Batches:
    """The training set, kept on the worker, which makes batches for the model's placeholders from row numbers."""

    def __init__(self, train_set, model):
        self.train_set, self._model = train_set, model
        self._variables, self._fill = [], []
        for name, value in zip(("images", "labels"), train_set.stored, strict=True):
            given = tf.placeholder(value.dtype, value.shape)
            zeros = functools.partial(tf.zeros, value.shape, value.dtype)
            variable = tf.Variable(zeros, name=f"mnistdist/{name}", trainable=False, collections=["data"])
            self._variables.append(variable)
            self._fill.append((variable.assign(given, read_value=False), given))

    def fill(self, session, timeout):
        """Brings the data to the worker."""
        for (assign, given), value in zip(self._fill, self.train_set.stored, strict=True):
            timed_run(session, assign, timeout, {given: value})

    def batch(self, rows):
        """The images and one-hot labels of these rows, as from ``DataSet.next_batch``."""
        images, labels = (tf.gather(variable, rows) for variable in self._variables)
        if images.dtype == tf.uint8:
            images = tf.cast(images, tf.float32) * np.float32(1 / 255)
        return tf.cast(images, self._model.x.dtype), tf.cast(labels, self._model.y_.dtype)


def _devices(cluster_spec, worker):
    """Places variables on the ps, as in the listing's design, and all other handles on the worker."""
    on_ps = tf.train.replica_device_setter(
        cluster=tf.train.ClusterSpec(cluster_spec), ps_device="/job:ps/cpu:0", worker_device=""
    )
    return lambda op: on_ps(op) or (worker if is_handle(op) else "")


def _copies(step, opt):
    """A worker's copies of the variables of a step: those that it pulls, and those of its own optimizer."""
    used, kept = step.forward.variables, set()
    if opt is not None:
        state = getattr(opt, "variables", ())
        used = variables_of({*step.forward.ops, *step.updated})
        kept = {variable.handle.ref() for variable in (state() if callable(state) else state)}
    own = Twins("own", [each for each in used if each.handle.ref() in kept], step.worker)
    return Twins("forward", [each for each in used if each.handle.ref() not in kept], step.worker), own


def _advancing(runs, batches, local_steps, workers, sync_from):
    """The function that makes the next steps: see ``Replica.advance``."""
    longest, round_, slowest = max(runs), None, 0.0

    def advance(session, dataset, batch_size, left, timeout):
        nonlocal round_, slowest
        if dataset is not batches.train_set:
            raise ValueError("expected the data set that this replica was built with")
        if not slowest:
            batches.fill(session, timeout)
        # The first run makes one step, and shows how long the others may take.
        count = longest if slowest and left > _margin(longest * local_steps, workers) else 1
        run = runs[count]
        rows = np.stack([dataset.next_rows(batch_size) for _ in range(count * local_steps)])
        feed = {run.rows: rows}
        if sync_from is not None:
            round_ = timed_run(session, sync_from, timeout) if round_ is None else round_
            feed[run.round_] = round_
        # One step of a run may take the whole time, and the others may take what steps have taken so far.
        limit = timeout and timeout + slowest * (count - 1)
        start = time.monotonic()
        before, after, losses, ends = timed_run(session, run.fetches, limit, feed)
        last = time.monotonic()
        slowest = max(slowest, (last - start) / count)
        between = np.maximum.accumulate(np.clip(ends + _monotonic_offset(), start, last))
        times = [start, *between, last]
        round_ = after[-1]
        made = zip(before, after, times[:-1], times[1:], losses, strict=True)
        return [replica.MadeStep(*each) for each in made]

    return advance


def _margin(steps, workers):
    """How many steps must be left for a run of ``steps``, since others go on and no run can be stopped."""
    return 4 * workers * steps


def _monotonic_offset():
    """What to add to TensorFlow's timestamps, which are times of day, to get ``time.monotonic()``."""
    readings = []
    for _ in range(3):  # the quickest of them was least disturbed
        begin, now, end = time.monotonic(), time.time(), time.monotonic()
        readings.append((end - begin, (begin + end) / 2 - now))
    return min(readings)[1]
