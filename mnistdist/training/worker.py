"""Between-graph replication: every worker builds the same graph, with a client of its own, and trains it.

The parts, in the order in which a worker goes through them: :func:`build_replica`, then a session
(:func:`mnistdist.training.worker_session`), then :func:`train_loop`; :func:`run_worker` is all of it. The
notebooks, the command line and the tests train with this loop. ``book/experiments/throughput.py`` has one of its own,
which also notes the parameters on the way.
"""

import contextlib
import time

import tensorflow.compat.v1 as tf

from mnistdist.errors import TaskLost
from mnistdist.model import Graph, build_model, evaluate
from mnistdist.placement import replica_devices, worker_device
from mnistdist.results import WorkerResult
from mnistdist.steps import StepRecord
from mnistdist.training.checkpoints import Checkpoints
from mnistdist.training.deadlines import timed_run
from mnistdist.training.designs.cutting import PYTHON, behind, refuse_functions, written_by
from mnistdist.training.designs.fast import build_fast_replica, dropping, evaluation
from mnistdist.training.diagnosis import LOST_OR_SLOW, gist
from mnistdist.training.logdir import held
from mnistdist.training.replica import (
    Counting,
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
from mnistdist.training.session import variables_live, worker_session
from mnistdist.training.tensorflow_private import wait_for

FRUITLESS_ATTEMPTS = 3  # to go on after a loss, in a row and without an update that the worker has seen
__all__ = ["Graph", "Replica", "WorkerResult", "adam", "build_replica", "count_update", "run_worker", "train_loop"]


def build_replica(
    cluster_spec,
    task_index,
    *,
    build_graph=build_model,
    optimizer=adam,
    learning_rate=0.01,
    sync=False,
    replicas_to_aggregate=None,
    device="gpu:0",
    seed=None,
    container="",
):
    """Build one worker's copy of the graph: variables on the ps tasks, everything else on the worker.

    Args:
        cluster_spec: ``{"ps": [...], "worker": [...]}``.
        task_index: Which worker this is.
        build_graph: Makes variables and ops in the default graph and returns their :class:`Graph`. Every worker must
            make the same variables, with the same names in the same order: that is how they share them.
        optimizer: Makes a ``tf.train.Optimizer`` of the learning rate.
        learning_rate: What the optimizer gets.
        sync: Whether several gradients are averaged for each update of the variables.
        replicas_to_aggregate: How many; None for as many as there are workers.
        device: The worker's device within its task. Where it has no such one, TensorFlow takes the CPU (the session's
            ``allow_soft_placement``).
        seed: Seed of the graph's random ops, and so of the initial weights.
        container: Name under which the ps tasks keep the variables; another name is a fresh start.
    """
    graph = tf.Graph()
    with (
        graph.as_default(),
        graph.container(container),
        tf.device(replica_devices(cluster_spec, task_index, device)),
        resource_variables(worker_device(task_index, device)),
    ):
        tf.set_random_seed(graph_seed(seed, task_index))
        global_step = tf.train.get_or_create_global_step()
        model = build_graph()
        parameters = needed_variables(model)
        before = read_before_pull(global_step, model.loss)
        opt, merge, tokens, close_tokens = usable(optimizer(learning_rate)), None, None, None
        local_init = local_initializer()
        if sync:
            workers = len(cluster_spec["worker"])
            options = {"replicas_to_aggregate": replicas_to_aggregate or workers, "total_num_replicas": workers}
            opt = tf.train.SyncReplicasOptimizer(Counting(opt), **options)
            # Running this hands the gradients in and waits for a token, on which the number of rounds is written.
            after = tf.identity(
                opt.apply_gradients(gradients_of(opt, model.loss), global_step), name="global_step_after"
            )
        else:
            after = count_update(global_step, update_of(opt, gradients_of(opt, model.loss)))
            local_init = local_initializer()  # of what the update needs, too
        needed = behind([model.loss.op, after.op], {model.x.op, model.y_.op})
        refuse_placeholders(model, needed)
        refuse_functions(needed)
        starts, count_start = count_starts(global_step, task_index, len(cluster_spec["worker"]))
        uninitialized = tf.report_uninitialized_variables([*tf.global_variables(), starts])
        if sync:
            local_init = tf.group(local_init, opt.chief_init_op if task_index == 0 else opt.local_step_init_op)
            merge, tokens, close_tokens = chief_ops(opt)
            if any(op.type in PYTHON and "/job:ps" in op.device for op in behind([merge])):
                raise ValueError("sync=True: the optimizer calls a Python function, which is in the workers only")
            if fed := [op.name for op in behind([merge]) if op.type == "Placeholder"]:
                raise ValueError(f"optimizer: expected one whose rounds need nothing that is fed, got {fed[0]!r}")
        # Evaluating is not to change what the model itself writes.
        writes = written_by(behind([tensor.op for tensor in (model.y, model.loss, model.accuracy)]))
        return Replica(
            graph=graph,
            model=evaluation(model, worker_device(task_index, device)) if writes else model,
            parameters=parameters,
            global_step=global_step,
            uninitialized=uninitialized,
            local_init=local_init,
            advance=one_step(model, before, after),
            reset_starts=starts.initializer,
            count_start=count_start,
            merge=merge,
            init_tokens=tokens,
            close_tokens=close_tokens,
            drop=dropping(graph),
        )


def chief_ops(opt):
    """The ops ``merge``, ``init_tokens`` and ``close_tokens`` of a :class:`Replica`, of a SyncReplicasOptimizer."""
    runner = opt.get_chief_queue_runner()
    (merge,) = runner.enqueue_ops
    return merge, opt.get_init_tokens_op(), runner.queue.close()


def one_step(model, before, after):
    """The ``advance`` of a replica that is fed one batch a run."""

    def advance(session, dataset, batch_size, left, timeout):
        images, labels = dataset.next_batch(batch_size)
        start, feed = time.monotonic(), {model.x: images, model.y_: labels}
        values = timed_run(session, [before, after, model.loss], timeout, feed)
        return [(*values[:2], start, time.monotonic(), values[2])]

    return advance


def read_before_pull(global_step, loss):
    """Read the global step before any of the variables that ``loss`` depends on is read, within the same run."""
    with tf.device(global_step.device):
        before = tf.identity(global_step.read_value(), name="global_step_before")
    for op in behind([loss.op], {before.op}):
        # What takes a variable reads it, or leads to where it is read: into a loop, where nothing from outside reaches.
        # tf.control_dependencies() around build_graph() would also hold up the initial values, which the global step
        # itself has to wait for.
        if any(tensor.op.type == "VarHandleOp" for tensor in op.inputs):
            wait_for(op, before.op)
    return before


def train_loop(
    session, replica, dataset, *, task_index, steps, batch_size=100, timeout=None, on_step=None, records=None
):
    """Train until the global step is ``steps``; returns the :class:`StepRecord` list of this worker's own steps.

    Args:
        session: From :func:`mnistdist.training.worker_session`.
        replica: From :func:`build_replica`, or of the fast design.
        dataset: Has ``next_batch(batch_size)``, which gives images and one-hot labels; in the fast design, the very set
            that the replica was built with.
        task_index: Which worker this is.
        steps: Updates of all workers together (asynchronous), or rounds (synchronous). A worker that is in a step when
            the last one is counted finishes it, so in asynchronous training there may be up to ``workers - 1`` more. In
            the fast design, a worker that was held up while others went on may add a run of ``steps_per_run``.
        batch_size: Examples a step.
        timeout: Seconds that one step may take; None for any. ``tf.errors.DeadlineExceededError`` after that.
        on_step: Called with each record.
        records: Those of this worker's earlier steps, to which the new ones are added.
    """
    records = [] if records is None else records
    after = timed_run(session, replica.global_step, timeout)
    while after < steps:
        try:
            made = replica.advance(session, dataset, batch_size, steps - after, timeout)
        except tf.errors.OutOfRangeError as error:
            if replica.merge is None or "sync_token_q" not in error.message:
                raise
            # The chief has ended, and closed the queue of tokens.
            after = timed_run(session, replica.global_step, timeout)
            if after < steps:
                raise TaskLost(f"worker:0, the chief, ended in round {after} of {steps}", for_good=True) from None
            break
        new = [
            StepRecord(task_index, number, int(before), int(after), start, end, float(loss))
            for number, (before, after, start, end, loss) in enumerate(made, len(records) + 1)
        ]
        records += new  # all of them, whatever becomes of a call of on_step
        for record in new if on_step is not None else ():
            on_step(record)
        after = new[-1].global_step_after
        if after >= steps:  # or a token from before a checkpoint was restored would end the training too early
            after = timed_run(session, replica.global_step, timeout)
    return records


def run_worker(
    target,
    cluster_spec,
    task_index,
    *,
    data,
    steps,
    batch_size=100,
    logdir=None,
    save_steps=1000,
    wait_timeout=60,
    step_timeout=60,
    on_step=None,
    say=lambda line: None,
    warn=None,
    design="fast",
    **replica_options,
):
    """Be a worker from start to end: build, wait for the others, train, evaluate. Returns a :class:`WorkerResult`.

    When the connection to a ps is lost, training goes on: with the variables, if these still live; with a ``logdir``,
    from the last checkpoint, once the ps has been started again. What was done after that checkpoint began is lost.

    Args:
        target: The session's target: ``server.target`` of the worker's own server, or its gRPC URL.
        cluster_spec: ``{"ps": [...], "worker": [...]}``.
        task_index: Which worker this is.
        data: ``train`` and ``validation`` sets, as ``mnistdist.read_data_sets(one_hot=True)`` returns; ``validation``
            may be None. If ``train`` has a method ``reseed`` (see :class:`~mnistdist.DataSet`), each start of a worker
            draws batches in an order of its own.
        steps: Global step to end at, see :func:`train_loop`.
        batch_size: Examples a step.
        logdir: Folder in which worker 0 keeps checkpoints, and from which it restores the last whole one; None for
            none. Worker 0 holds the folder until it ends.
        save_steps: About how many global steps there are from one checkpoint to the next.
        wait_timeout: Seconds to wait for the ps tasks, and again for worker 0 to initialise the variables.
        step_timeout: Seconds that one step may take; None for any.
        on_step: Called with each :class:`StepRecord`.
        say: Called with the lines that the text's program prints.
        warn: Called with what the user should hear of; None for ``say``.
        design: ``"fast"``: :func:`~mnistdist.training.build_fast_replica`; or ``"listing"``:
            :func:`build_replica`.
        **replica_options: Further arguments of the function that builds the replica.

    Raises:
        TimeoutError: a ps, worker 0 or the rest of a round did not come in time.
        TaskLost: a ps has gone, or worker 0 of a synchronous training; a ``ConnectionError``.
        OSError: a checkpoint can't be written or read, or another training holds the folder.
        tf.errors.OpError: anything else that is wrong with the graph, as TensorFlow says it.
    """
    records, fruitless, started, chief = [], 0, False, task_index == 0 and logdir is not None
    with held(logdir) if chief else contextlib.nullcontext():
        while True:
            options = {"train_set": data.train, "steps": steps} | replica_options
            replica, made = build_design(design, cluster_spec, task_index, **options), len(records)
            checkpoints = Checkpoints(replica, logdir, save_steps, wait_timeout, warn or say) if chief else None

            def after_step(record, checkpoints=checkpoints):
                if checkpoints is not None:
                    checkpoints.save_when_due(record.global_step_after)
                if on_step is not None:
                    on_step(record)

            loop = {"task_index": task_index, "steps": steps, "batch_size": batch_size, "timeout": step_timeout}
            loop |= {"on_step": after_step, "records": records}
            options = {"checkpoints": checkpoints, "wait_timeout": wait_timeout, "say": say}
            try:
                with worker_session(replica, target, cluster_spec, task_index, **options) as session:
                    if not started:
                        _choose_order(session, replica, data.train, wait_timeout)
                        started = True
                    _tell_begin(session, replica, task_index, records, wait_timeout, say)
                    train_loop(session, replica, data.train, **loop)
                    seconds = _tell_end(records, say)
                    now = int(timed_run(session, replica.global_step, wait_timeout))
                    if checkpoints is not None:
                        checkpoints.save(now)
                    validation = _validate(session, replica, data.validation, wait_timeout, warn or say)
                    if replica.drop is not None:
                        timed_run(session, replica.drop, wait_timeout)
                reached = records[-1].global_step_after if records else now
                return WorkerResult(task_index, records, seconds, validation, reached)
            except TaskLost as error:
                # The first tokens of a session let a worker make a step though no round has come about.
                new = records[made:]
                fruitless = 0 if new and new[-1].global_step_after > new[0].global_step_before else fruitless + 1
                if logdir is None and not variables_live(replica, target, cluster_spec, task_index, wait_timeout):
                    advice = "start the training again (with a logdir, checkpoints would remain)"
                    raise TaskLost(f"{error}: {advice}") from None
                if error.for_good or fruitless == FRUITLESS_ATTEMPTS:
                    raise
                say(f"Worker {task_index}: {error}; waiting up to {wait_timeout:g} s for it to come back")


def _validate(session, replica, dataset, timeout, say):
    """The :class:`Evaluation` on a data set; None without one, or where the model fails on it."""
    if dataset is None:
        return None
    try:
        return evaluate(session, replica.model, dataset, timeout)
    except LOST_OR_SLOW:
        raise
    except Exception as error:  # the training is complete, and not to be lost with it
        say(f"no evaluation: {gist(error)}")
        return None


def build_design(design, cluster_spec, task_index, **options):
    """The replica of a design, ``"fast"`` or ``"listing"``; the second has no use for some options of the first."""
    if design == "fast":
        return build_fast_replica(cluster_spec, task_index, **options)
    unused = ("train_set", "steps", "local_steps", "steps_per_run")
    return build_replica(cluster_spec, task_index, **{k: v for k, v in options.items() if k not in unused})


def _choose_order(session, replica, dataset, timeout):
    """Draw batches in an order of this start's own, or each part of a training would see the same ones."""
    start = int(timed_run(session, replica.count_start, timeout))
    if hasattr(dataset, "reseed"):  # a data set of the reader's own may have none
        dataset.reseed(start)


def _tell_begin(session, replica, task_index, records, timeout, say):
    if not records:
        say(f"Training begins @ {time.time():f}")
        return
    reached = records[-1].global_step_after
    now = timed_run(session, replica.global_step, timeout)
    lost = f"{reached - now} steps are lost" if reached > now else "no step is lost"
    say(f"Worker {task_index}: training goes on from global step {now}: {lost}")


def _tell_end(records, say):
    """Says how long the training took, which it returns in seconds."""
    seconds = time.monotonic() - records[0].start if records else 0.0
    say(f"Training ends @ {time.time():f}")
    say(f"Training elapsed time: {seconds:f} s")
    return seconds
