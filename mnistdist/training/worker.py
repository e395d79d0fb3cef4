"""What a worker does: the training loop, and everything around it.

A worker goes through these parts in order: a design builds the :class:`~mnistdist.training.Replica`,
:func:`mnistdist.training.worker_session` opens a session, and :func:`train_loop` trains. :func:`run_worker` does all of
it. The notebooks, the command line, the benchmarks and the tests train with this loop.
"""

import contextlib
import time

import tensorflow.compat.v1 as tf

from mnistdist.errors import TaskLost
from mnistdist.model import evaluate
from mnistdist.results import WorkerResult
from mnistdist.steps import StepRecord
from mnistdist.training import designs
from mnistdist.training.checkpoints import Checkpoints
from mnistdist.training.logdir import held
from mnistdist.training.runs import LOST_OR_SLOW, gist, timed_run
from mnistdist.training.session import variables_live, worker_session
from mnistdist.training.spec import TrainSpec

FRUITLESS_ATTEMPTS = 3  # how often, in a row, a worker goes on after a loss without having seen an update


def train_loop(
    session, replica, dataset, *, task_index, steps, batch_size=100, timeout=None, on_step=None, records=None
):
    """Trains until the global step is ``steps``; returns the :class:`StepRecord` list of this worker's own steps.

    Args:
        session: From :func:`mnistdist.training.worker_session`.
        replica: A replica of either design, such as :func:`build_replica` makes.
        dataset: Has ``next_batch(batch_size)``, which returns images and one-hot labels; in the fast design, the very
            set that the replica was built with.
        task_index: Which worker this is.
        steps: Updates of all workers together (asynchronous), or rounds (synchronous). A worker that is in a step when
            the last one is counted finishes it, so asynchronous training may make up to ``workers - 1`` more. In
            the fast design, a worker that was held up while others went on may add a run of ``steps_per_run``.
        batch_size: How many examples each step uses.
        timeout: Seconds that one step may take before ``tf.errors.DeadlineExceededError``; None for any.
        on_step: Called with each record.
        records: The records of this worker's earlier steps, to which the new ones are added.
    """
    records = [] if records is None else records
    after = timed_run(session, replica.global_step, timeout)
    while after < steps:
        try:
            made = replica.advance(session, dataset, batch_size, steps - after, timeout)
        except tf.errors.OutOfRangeError as error:
            if replica.rounds is None or "sync_token_q" not in error.message:
                raise
            # The chief has ended, and closed the queue of tokens.
            after = timed_run(session, replica.global_step, timeout)
            if after < steps:
                raise TaskLost(f"worker:0, the chief, ended in round {after} of {steps}", for_good=True) from None
            break
        new = [
            StepRecord(task_index, number, int(step.before), int(step.after), step.start, step.end, float(step.loss))
            for number, step in enumerate(made, len(records) + 1)
        ]
        records += new  # all of them, even if a call of on_step fails
        for record in new if on_step is not None else ():
            on_step(record)
        after = new[-1].global_step_after
        if after >= steps:  # otherwise a token from before a checkpoint was restored would end the training too early
            after = timed_run(session, replica.global_step, timeout)
    return records


def run_worker(
    target,
    cluster_spec,
    task_index,
    *,
    data,
    steps,
    batch_size=TrainSpec.batch_size,
    logdir=None,
    save_steps=TrainSpec.save_steps,
    wait_timeout=TrainSpec.step_timeout,
    step_timeout=TrainSpec.step_timeout,
    on_step=None,
    say=lambda line: None,
    warn=None,
    design=TrainSpec.design,
    **replica_options,
):
    """Is a worker from start to end: builds, waits for the others, trains, evaluates. Returns a :class:`WorkerResult`.

    If the connection to a ps is lost, training goes on with the variables if they still live. Otherwise, with a
    ``logdir``, it goes on from the last checkpoint once the ps runs again, without what was done after that one began.

    ``target``, ``cluster_spec``, ``task_index`` and ``wait_timeout`` are those of :func:`worker_session`. ``steps``,
    ``batch_size`` and ``on_step`` are those of :func:`train_loop`. ``step_timeout``, ``save_steps`` and ``design`` are
    those of :func:`mnistdist.train`. ``replica_options`` are passed to the function that builds the replica.

    ``data`` has ``train`` and ``validation`` sets, as ``mnistdist.read_data_sets(one_hot=True)`` returns them;
    ``validation`` may be None. If ``train`` has a method ``reseed`` (see :class:`~mnistdist.DataSet`), each start of a
    worker draws batches in an order of its own. If ``logdir`` is not None, worker 0 keeps checkpoints in this folder,
    begins with the last whole one, and holds the folder until it ends. ``say`` is called with the lines that the
    classic program prints, and ``warn``, or else ``say``, with what the user should hear about.

    Raises:
        TimeoutError: A ps, worker 0 or the rest of a round did not come in time.
        TaskLost: A ps, or worker 0 of a synchronous training, has gone; this is a ``ConnectionError``.
        OSError: A checkpoint can't be written or read, or another training holds the folder.
        tf.errors.OpError: Anything else is wrong with the graph, in TensorFlow's words.
    """
    records, fruitless, started, chief = [], 0, False, task_index == 0 and logdir is not None
    options = {"train_set": data.train, "steps": steps} | replica_options
    loop = {"task_index": task_index, "steps": steps, "batch_size": batch_size, "timeout": step_timeout}
    with held(logdir) if chief else contextlib.nullcontext():
        while True:
            replica, made = designs.build(design, cluster_spec, task_index, **options), len(records)
            checkpoints = Checkpoints(replica, logdir, save_steps, wait_timeout, warn or say) if chief else None
            waiting = {"checkpoints": checkpoints, "wait_timeout": wait_timeout, "say": say}

            def after_step(record, checkpoints=checkpoints):
                if checkpoints is not None:
                    checkpoints.save_when_due(record.global_step_after)
                if on_step is not None:
                    on_step(record)

            try:
                with worker_session(replica, target, cluster_spec, task_index, **waiting) as session:
                    if not started:
                        _choose_order(session, replica, data.train, wait_timeout)
                        started = True
                    if records:
                        say(_going_on(session, replica, records, wait_timeout))
                    else:
                        began = time.time()
                        say(f"Training begins @ {began:f}")
                    train_loop(session, replica, data.train, on_step=after_step, records=records, **loop)
                    seconds, ended = time.monotonic() - records[0].start if records else 0.0, time.time()
                    say(f"Training ends @ {ended:f}")
                    say(f"Training elapsed time: {ended - began:f} s")
                    now = int(timed_run(session, replica.global_step, wait_timeout))
                    if checkpoints is not None:
                        checkpoints.save(now)
                    validation = _validate(session, replica, data.validation, wait_timeout, warn or say)
                    if replica.drop is not None:
                        timed_run(session, replica.drop, wait_timeout)
                reached = records[-1].global_step_after if records else now
                return WorkerResult(task_index, records, seconds, validation, reached)
            except TaskLost as error:
                # The first tokens of a session let a worker make a step even if no round was completed.
                new = records[made:]
                fruitless = 0 if new and new[-1].global_step_after > new[0].global_step_before else fruitless + 1
                if logdir is None and not variables_live(replica, target, cluster_spec, task_index, wait_timeout):
                    advice = "start the training again (with a logdir, checkpoints would remain)"
                    raise TaskLost(f"{error}: {advice}") from None
                if error.for_good or fruitless == FRUITLESS_ATTEMPTS:
                    raise
                say(f"Worker {task_index}: {error}; waiting up to {wait_timeout:g} s for it to come back")


def _validate(session, replica, dataset, timeout, say):
    """The :class:`Evaluation` on a data set; None if there is none, or if the model fails on it."""
    try:
        return None if dataset is None else evaluate(session, replica.model, dataset, timeout)
    except LOST_OR_SLOW:
        raise
    except Exception as error:  # the training is complete, and must not be lost with it
        say(f"no evaluation: {gist(error)}")
        return None


def _choose_order(session, replica, dataset, timeout):
    """Draws batches in an order of this start's own, or each part of a training would see the same batches."""
    start = int(timed_run(session, replica.count_start, timeout))
    if hasattr(dataset, "reseed"):  # a data set of the reader's own may not have it
        dataset.reseed(start)


def _going_on(session, replica, records, timeout):
    """The line that says that the training goes on after a loss."""
    reached, now = records[-1].global_step_after, timed_run(session, replica.global_step, timeout)
    lost = f"{reached - now} steps are lost" if reached > now else "no step is lost"
    return f"Worker {records[-1].worker}: training goes on from global step {now}: {lost}"
