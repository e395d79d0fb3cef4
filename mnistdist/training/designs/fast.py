"""The fast design: the graph that the listing's design builds, cut where the wire is.

The reader's ``build_graph`` and optimizer make one ordinary graph, with the variables on the ps. Two parts are cut out
of it as functions: what leads from a batch to the gradients, for the worker, and what leads from the gradients to the
update, for the ps. A step pulls the variables in one message, calls the first on the worker's copies of them, pushes
what it gives in one message and calls the second. One run of the session makes several steps.
"""

import inspect
import math
import time

import numpy as np
import tensorflow.compat.v1 as tf

from mnistdist.model import Graph, build_model
from mnistdist.placement import worker_device
from mnistdist.steps import LOCAL_STEPS_PER_RUN, STEPS_PER_RUN
from mnistdist.training.deadlines import timed_run
from mnistdist.training.designs.batches import Batches
from mnistdist.training.designs.cutting import (
    PYTHON,
    CannotCut,
    Function,
    behind,
    is_handle,
    large_constants,
    looked_up_by,
    variables_of,
    written_by,
)
from mnistdist.training.designs.packing import Pack, Twins, ps_device
from mnistdist.training.replica import (
    Replica,
    adam,
    count_starts,
    count_update,
    gradients_of,
    graph_seed,
    local_initializer,
    needed_variables,
    refuse_placeholders,
    resource_variables,
    update_of,
    usable,
)
from mnistdist.training.tensorflow_private import control_flow

ACCUMULATED = (tf.float16, tf.float32, tf.float64)
TABLE = 1 << 20  # elements; to pull so many takes longer than a whole step of the listing's, which pulls rows
ROUNDS_PER_RUN = 8  # of the chief's op that merges gradients; like a worker's steps, each is of its own


class Forward:
    """Ops that run on the worker, as a function of a batch and of the worker's copies of the variables they use."""

    def __init__(self, name, ops, outputs, model, worker):
        refuse_placeholders(model, ops)
        self.ops, self._inputs = ops, (model.x, model.y_)
        self._function = Function(name, ops, outputs, worker)
        self.variables = variables_of(ops)
        known = {variable.handle.ref() for variable in self.variables}
        for tensor in self._function.inputs:
            if is_handle(tensor.op) and tensor.ref() not in known and "/job:ps" in tensor.op.device:
                raise CannotCut(f"{tensor.op.name!r} of the model is on a ps")

    def call(self, handles, batch, salt=0):
        """Returns the op, and what tensors come to on this batch: a dict by ``ref()``."""
        given = {t.ref(): value for t, value in zip(self._inputs, batch, strict=True)}
        op, made = self._function.call(given | handles, salt)
        return op, given | made


class Step:
    """A step of the listing's graph in two parts.

    ``crossing`` are the tensors that the second needs of the first, ``pushes`` how they travel, ``written`` the
    variables that the model itself writes, and how, and ``sparse`` the sparse gradients with their variables, by the
    ``ref()`` of their values.
    """

    def __init__(self, model, pairs, update, worker, local):
        self._loss, self.worker = model.loss, worker
        flat = [(g, v, tf.nest.flatten(g, expand_composites=True)) for g, v in pairs if g is not None]
        stops = {model.x.op, model.y_.op}
        needed = behind([model.loss.op, update], stops)
        refuse_placeholders(model, needed)
        stops |= large_constants(needed)
        wanted = set(needed) - stops
        ends = [model.loss.op, *(tensor.op for _, _, parts in flat for tensor in parts)]
        forward = [op for op in behind(ends, stops) if op in wanted]
        inside, self.backward = set(forward) | stops, []
        for number, (stage, device, ops) in enumerate(_by_device([op for op in needed if op not in inside], local)):
            mine = set(ops)
            outputs = {t.ref(): t for op in needed if op not in mine for t in op.inputs if t.op in mine}
            part = Function(f"backward_{number}", ops, list(outputs.values()), device or worker)
            self.backward.append((stage, part))
            if any(op.type in PYTHON for op in ops) and not local:
                raise CannotCut("the optimizer calls a Python function, which is in the worker")
        crossing = {t.ref(): (t, part.device) for _, part in self.backward for t in part.inputs if t.op in inside}
        self.crossing = [tensor for tensor, _ in crossing.values()]
        self.forward = Forward("forward", forward, [model.loss, *_made_by(forward, self.crossing)], model, worker)
        self.sparse = {g.values.ref(): (g, v) for g, v, _ in flat if isinstance(g, tf.IndexedSlices)}
        alone = [part.ref() for g, _, parts in flat if isinstance(g, tf.IndexedSlices) for part in parts]
        self.pushes = Pack(self.crossing, [device for _, device in crossing.values()], alone)
        self.written = written_by(forward)
        tables = {each.op.name: each.shape.num_elements() or 0 for each in looked_up_by(forward)}
        if sum(tables.values()) > TABLE and not local:
            raise CannotCut(f"{', '.join(tables)} would be pulled as a whole, and the model looks rows up in it")
        if mixed := [variable.op.name for variable, how in self.written if how == "mix"]:
            raise CannotCut(f"the model changes {', '.join(mixed)} otherwise than by adding or by assigning")

    @property
    def updated(self):
        """All ops of the second part."""
        return [op for _, part in self.backward for op in part.ops]

    def compute(self, handles, batch, salt):
        """The first part, on the worker: the op, the loss and what crosses."""
        op, made = self.forward.call(handles, batch, salt)
        return op, made[self._loss.ref()], [made.get(tensor.ref(), tensor) for tensor in self.crossing]

    def apply(self, crossed, salt=0, handles=None):
        """The second part, on the ps (or on the worker, for these ``handles``): the reader's optimizer."""
        given, calls = {t.ref(): value for t, value in zip(self.crossing, crossed, strict=True)} | (handles or {}), []
        for stage, part in self.backward:
            # Also what takes none of it is done after the first part, as the reader may have ordered.
            with tf.control_dependencies([*crossed, *(call for earlier, call in calls if earlier < stage)]):
                call, made = part.call(given, salt)
            given |= made
            calls.append((stage, call))
        return tf.group(*(call for _, call in calls))


def _made_by(ops, tensors):
    inside = set(ops)
    return [tensor for tensor in tensors if tensor.op in inside]


def _by_device(ops, local):
    """The ops in parts, each of one stage and device: what a part needs is of an earlier stage. Triples of them.

    ``local``: one part, for the worker.
    """
    if local:
        return [(0, None, ops)]
    stages, homes, parts = {}, {}, {}
    for op in ops:
        handles = [tensor.op.device for tensor in op.inputs if is_handle(tensor.op)]
        home = [*handles, op.device or ps_device(0)][0] or ps_device(0)
        homes[op] = home = tf.DeviceSpec.from_string(home).to_string()  # "/cpu:0" is "/device:CPU:0"
        if len(set(handles)) > 1:
            raise CannotCut(f"{op.name!r} of the optimizer takes variables on several ps")
        if "/job:ps" not in home:
            raise CannotCut(f"{op.name!r} of the optimizer is not on a ps, but on {home}")
        before = [each for each in (*(tensor.op for tensor in op.inputs), *op.control_inputs) if each in stages]
        stages[op] = max((stages[each] + (homes[each] != home) for each in before), default=0)
        parts.setdefault((stages[op], home), []).append(op)
    contexts = [{control_flow(op) for op in each} - {None} for each in parts.values()]
    if len(set().union(*contexts)) < sum(map(len, contexts)):
        raise CannotCut("a tf.cond or loop of the optimizer is on several ps")
    return [(*key, parts[key]) for key in sorted(parts)]


def evaluation(model, worker):
    """The model on the variables as they are on the ps, without changing them: by functions like a step's."""
    inputs, made = [model.x, model.y_], {}
    stops = {each.op for each in inputs} | large_constants(tf.get_default_graph().get_operations())
    for name, outputs in (("prediction", [model.y]), ("evaluation", [model.loss, model.accuracy])):  # y needs no y_
        ops = behind([each.op for each in outputs], stops)
        forward = Forward(name, ops, _made_by(ops, outputs), model, worker)
        twins = Twins(name, forward.variables, worker)
        with tf.control_dependencies(twins.fill(twins.pull())[1]):
            made |= forward.call(twins.handles, inputs)[1]
    return Graph(*inputs, *(made.get(each.ref(), each) for each in (model.y, model.loss, model.accuracy)))


class Rounds:
    """Synchronous rounds: an accumulator for what is pushed together, a queue of tokens, and the chief's merging op.

    As in ``tf.train.SyncReplicasOptimizer``, whose ops can't be had for several steps in one run.
    """

    def __init__(self, step, global_step, aggregate, workers):
        self._step, self._accumulators, many, done = step, [], max(aggregate, workers), []
        beside = {
            each.ref() for g, _ in step.sparse.values() for each in (g.indices, g.dense_shape) if each is not None
        }
        for number, (device, dtype, members) in enumerate(step.pushes.groups):
            first, name, accumulator = step.crossing[members[0]].ref(), f"gradients_{number}", None
            with tf.device(device):
                if first in step.sparse:
                    shape = step.sparse[first][1].shape
                    accumulator = tf.SparseConditionalAccumulator(dtype, shape, shared_name=name, name=name)
                elif dtype in ACCUMULATED:
                    shape = step.pushes.joined_shape(members)
                    accumulator = tf.ConditionalAccumulator(dtype, shape, shared_name=name, name=name)
                elif first not in beside:
                    raise ValueError(
                        "sync=True: expected an optimizer that needs only gradients, of 16, 32 or 64 bits, got one "
                        f"that needs {step.crossing[members[0]].op.name!r}, of {dtype.name}"
                    )
                self._accumulators.append(accumulator)
        with tf.device(ps_device(0)):
            self._tokens = tf.FIFOQueue(-1, [tf.int64], [()], name="sync_token_q", shared_name="sync_token_q")
        for _ in range(ROUNDS_PER_RUN):
            with tf.control_dependencies(done):
                round_ = count_update(global_step, step.apply(self._take(aggregate)))
                with tf.device(ps_device(0)):
                    done = [self._tokens.enqueue_many([tf.fill([many], round_)])]
        with tf.device(ps_device(0)):
            (self.merge,) = done
            self.init_tokens = self._tokens.enqueue_many([tf.fill([many], global_step.read_value())])
            self.close_tokens = self._tokens.close()
        # Gradients that come for an older round than the variables are at are dropped: after a restart too.
        self.begin = [each.set_global_step(global_step) for each in self._accumulators if each]

    def _take(self, aggregate):
        """The means of a round, as the second part of a step takes them."""
        taken, beside = [], {}
        for accumulator, (_, _, members) in zip(self._accumulators, self._step.pushes.groups, strict=True):
            first = self._step.crossing[members[0]].ref()
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
        for accumulator, value, (device, _, members) in zip(
            self._accumulators, joined, step.pushes.groups, strict=True
        ):
            first = step.crossing[members[0]].ref()
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


class Unrolled:
    """What one run of the session takes and gives: ``rows`` and ``round_`` are fed, ``fetches`` fetched."""

    def __init__(self, worker, batches):
        with tf.device(worker):
            self.rows = tf.placeholder(tf.int32, [batches, None])
        with tf.device(ps_device(0)):
            self.round_ = tf.placeholder(tf.int64, [])
        self._worker, self.before, self.after, self.losses, self.ends, self.fetches = worker, [], [], [], [], None

    def pull(self, twins, global_step):
        """Fill the worker's copies, after the step before; returns as :meth:`Twins.fill` does."""
        with tf.control_dependencies([each.op for each in self.after[-1:]]), tf.device(ps_device(0)):
            self.before.append(tf.identity(global_step.read_value()))
        with tf.control_dependencies(self.before[-1:]):
            pulled = twins.pull()
        if self.after:
            with tf.device(self._worker):
                first = _timed(pulled[0] if pulled else self.before[-1], self.ends)  # a loss may read no variable
                pulled = [first, *pulled[1:]] if pulled else []
        return twins.fill(pulled)

    def complete(self):
        """To fetch: global steps before and after, losses, and times between the steps. Returns itself."""
        with tf.device(ps_device(0)):
            steps = [tf.stack(self.before), tf.stack(self.after)]
        with tf.device(self._worker):
            ends = tf.stack(self.ends) if self.ends else tf.zeros([0], tf.float64)
            self.fetches = [*steps, tf.stack(self.losses), ends]
        return self


def plain_run(step, twins, batches, global_step, rounds, count):
    """``count`` steps, one after the other."""
    run = Unrolled(step.worker, count)
    round_ = run.round_
    for number in range(count):
        values, copied = run.pull(twins, global_step)
        with tf.device(step.worker), tf.control_dependencies(copied):
            call, loss, crossed = step.compute(twins.handles, batches.batch(run.rows[number]), count)
        run.losses.append(loss)
        written = {variable.handle.ref(): how for variable, how in step.written}
        changes = push_changes(twins, values, written, call)
        if rounds:
            round_ = rounds.hand_in(crossed, changes, round_)
            run.after.append(round_)
            continue
        crossed = step.pushes.split(step.pushes.join(crossed, step.worker))
        # Adam reads its powers of beta for each update: after the one before has changed them.
        with tf.control_dependencies([*changes, *(each.op for each in run.after[-1:])]):
            run.after.append(count_update(global_step, step.apply(crossed, count)))
    return run.complete()


def push_changes(twins, values, written, call, share=1):
    """Bring what a call has written on the worker to the ps: how, by variable, is a change to ``"add"``, its ``share``
    where that is ``"share"``, or a value to ``"assign"``, of which ``"some"`` elements may have changed.
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
    """Bring those elements to the ps that a call has changed: all others may be what another worker has written."""
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


def local_run(step, twins, own, batches, global_step, steps, workers, count):
    """``steps`` steps on the worker's own copies of the variables, then a push of its share of the way that they went;
    ``count`` times.

    Its share: workers that pushed all of it would go the same way several times.
    """
    run, worker, counter = Unrolled(step.worker, count * steps), step.worker, global_step.handle.ref()
    handles = twins.handles | own.handles
    written = {}
    for variable, how in written_by(step.updated):
        if (
            how in ("add", "mix") or variable.trainable
        ):  # of a state, such as the best loss until now, a change is no use
            how = "share" if variable.dtype.is_floating else "add" if variable.dtype.is_integer else "assign"
        written[variable.handle.ref()] = how
    written |= {variable.handle.ref(): how for variable, how in step.written}
    written = {key: how for key, how in written.items() if key in twins.variables and key != counter}

    def one(number, total):
        _, loss, crossed = step.compute(handles, batches.batch(run.rows[number]), count)
        with tf.control_dependencies([loss]):
            done = [step.apply(crossed, count, handles)]
        if counter in handles:
            with tf.control_dependencies(done):
                done = [tf.raw_ops.AssignAddVariableOp(resource=handles[counter], value=tf.constant(1, tf.int64))]
        with tf.control_dependencies(done):
            return number + 1, total + tf.cast(loss, tf.float32)

    for push in range(count):
        values, copied = run.pull(twins, global_step)
        with tf.device(worker):
            with tf.control_dependencies(copied):
                first = tf.constant(push * steps)
            end, total = tf.while_loop(
                lambda number, _, end=(push + 1) * steps: number < end, one, [first, 0.0], parallel_iterations=1
            )
            run.losses.append(total / steps)
        pushed = tf.group(*push_changes(twins, values, written, end.op, workers))
        run.after.append(count_update(global_step, pushed, steps))
    return run.complete()


def build_fast_replica(
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
    """Build one worker's copy of the graph in the fast design; returns a :class:`~mnistdist.training.Replica`.

    Arguments are those of :func:`mnistdist.training.build_replica`, and four more. ``train_set`` is the
    :class:`~mnistdist.DataSet` to train on, which the worker keeps; without one, the replica can only read and evaluate
    the variables. ``steps_per_run`` is how many steps one run of the session makes, each with its own pull and push;
    near the end of a training, runs are of one step, so that it ends where it should. With ``local_steps`` above 1 (and
    ``sync`` off), a worker makes so many steps on its own copies of the variables, with an optimizer of its own, and
    pushes the change that they made, divided by the number of workers (after Downpour's n_push and n_fetch, Dean et al.
    2012); a run makes whole pushes, of ``steps_per_run`` steps together or a few more. ``steps`` is how many the whole
    training has, if that is known: a short one makes no use of runs of several steps, and has none built.

    Raises:
        ValueError: for a model or an optimizer that can't be trained;
            :class:`~mnistdist.training.CannotCut` for one that the listing's design can train.
    """
    workers, graph = len(cluster_spec["worker"]), tf.Graph()
    steps_per_run = steps_per_run or (STEPS_PER_RUN if local_steps == 1 else LOCAL_STEPS_PER_RUN)
    most = math.ceil(steps_per_run / local_steps)
    short = steps is not None and steps <= _margin(most * local_steps, workers)
    counts = [1] if short or most == 1 else [1, most]
    worker = worker_device(task_index, device)
    with graph.as_default(), graph.container(container), resource_variables(worker):
        with tf.device(_devices(cluster_spec, worker)):
            tf.set_random_seed(graph_seed(seed, task_index))
            global_step = tf.train.get_or_create_global_step()
            model = build_graph()
            with tf.device(ps_device(0)):
                opt = usable(optimizer(learning_rate))
            # Gated, a gradient waits for its siblings: that of the images would be computed, which nobody needs.
            names = inspect.signature(opt.compute_gradients).parameters
            gate = {"gate_gradients": tf.train.Optimizer.GATE_NONE} if "gate_gradients" in names else {}
            pairs = gradients_of(opt, model.loss, **gate)
            with tf.device(ps_device(0)):
                update = update_of(opt, pairs)
        advance = rounds = None
        starts, count_start = count_starts(global_step, task_index, workers)
        local_init = [local_initializer()]
        step = Step(model, pairs, update, worker, local_steps > 1)
        uninitialized = tf.report_uninitialized_variables([*tf.global_variables(), starts])
        if train_set is not None:
            with tf.device(worker):
                batches = Batches(train_set, model)
            if local_steps > 1:
                state = getattr(opt, "variables", ())
                kept = {variable.handle.ref() for variable in (state() if callable(state) else state)}
                used = variables_of({*step.forward.ops, *step.updated})
                own = Twins("own", [each for each in used if each.handle.ref() in kept], worker)
                twins = Twins("forward", [each for each in used if each.handle.ref() not in kept], worker)
                local_init += own.fill(own.pull())[1]
                runs = {
                    count: local_run(step, twins, own, batches, global_step, local_steps, workers, count)
                    for count in counts
                }
            else:
                twins, own = Twins("forward", step.forward.variables, worker), Twins("own", [], worker)
                rounds = Rounds(step, global_step, replicas_to_aggregate or workers, workers) if sync else None
                local_init += rounds.begin if rounds and task_index == 0 else []
                runs = {count: plain_run(step, twins, batches, global_step, rounds, count) for count in counts}
            advance = _advancing(runs, batches, local_steps, workers, global_step if sync else None)
        evaluated = evaluation(model, worker)
        return Replica(
            graph=graph,
            model=evaluated,
            parameters=needed_variables(model),
            global_step=global_step,
            uninitialized=uninitialized,
            local_init=tf.group(*local_init),
            advance=advance,
            reset_starts=starts.initializer,
            count_start=count_start,
            merge=rounds and rounds.merge,
            init_tokens=rounds and rounds.init_tokens,
            close_tokens=rounds and rounds.close_tokens,
            drop=dropping(graph),
        )


def _devices(cluster_spec, worker):
    """Variables are on the ps, as in the listing's design; handles of what else there is are on the worker."""
    on_ps = tf.train.replica_device_setter(
        cluster=tf.train.ClusterSpec(cluster_spec), ps_device="/job:ps/cpu:0", worker_device=""
    )
    return lambda op: on_ps(op) or (worker if is_handle(op) else "")


def dropping(graph):
    """Op that frees what this worker keeps, but for queues, of which runs may be waiting."""
    handles, dropped = [op for op in graph.get_operations() if is_handle(op) and "Queue" not in op.type], []
    kept = [op for op in handles if "/job:worker" in op.device]
    for op in kept:
        with tf.device(op.device):
            dropped.append(tf.raw_ops.DestroyResourceOp(resource=op.outputs[0], ignore_lookup_error=True))
    return tf.group(*dropped)


def _timed(pulled, ends):
    """The same tensor, to be used once the time at which it came has been noted in ``ends``."""
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
