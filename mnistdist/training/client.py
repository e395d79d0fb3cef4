"""Trains on a running cluster: calls ``run_worker`` in every worker at once, and collects the results."""

import contextlib
import itertools
import os
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np

from mnistdist import _check
from mnistdist._interrupts import HeldInterrupts
from mnistdist.cluster.task import own_task
from mnistdist.datasets import DataError, DataSet, Datasets, read_data_sets, read_for_training
from mnistdist.errors import TaskLost
from mnistdist.results import Run
from mnistdist.training.calls import idle_workers, on_workers
from mnistdist.training.logdir import prepare
from mnistdist.training.spec import TrainSpec

_runs = itertools.count(1)
BOOKS_WIDTHS = 784, 10  # pixels and classes of the built-in model: of mnistdist.model, which imports TensorFlow


def train(
    cluster,
    *,
    steps,
    sync=TrainSpec.sync,
    replicas_to_aggregate=TrainSpec.replicas_to_aggregate,
    batch_size=TrainSpec.batch_size,
    learning_rate=TrainSpec.learning_rate,
    optimizer=TrainSpec.optimizer,
    build_graph=TrainSpec.build_graph,
    data=None,
    seed=TrainSpec.seed,
    on_step=TrainSpec.on_step,
    step_timeout=TrainSpec.step_timeout,
    design=TrainSpec.design,
    local_steps=TrainSpec.local_steps,
    steps_per_run=TrainSpec.steps_per_run,
    logdir=TrainSpec.logdir,
    save_steps=TrainSpec.save_steps,
    restarts=TrainSpec.restarts,
):
    """Trains a model on a cluster with one client for each worker (between-graph replication), and evaluates it.

    Args:
        cluster: A running :class:`~mnistdist.Cluster`.
        steps: The global step at which to end, counted from the very beginning: updates of all workers, or rounds.
        sync: Whether to average gradients of several workers for each update of the variables.
        replicas_to_aggregate: How many gradients a round averages; None for as many as there are workers.
        batch_size: How many examples a worker uses in each step.
        learning_rate: The number that is passed to the optimizer.
        optimizer: Makes a ``tf.train.Optimizer`` from the learning rate; None for Adam, as in the classic program.
        build_graph: Makes the model in the default graph and returns a :class:`~mnistdist.Graph`; None for the classic
            program's network. It runs in every worker, so import what it needs inside it. Nothing runs the collection
            ``UPDATE_OPS`` by itself. Let the loss wait for it: ``with tf.control_dependencies(
            tf.get_collection(tf.GraphKeys.UPDATE_OPS)): loss = tf.identity(loss)``. Evaluation changes no variable.
        data: None for MNIST, a folder with idx files, or a :class:`~mnistdist.Datasets` with one-hot labels, which is
            sent to every worker. A validation or test set that is None or empty is left out.
        seed: Makes the initial weights and every worker's batches repeatable, but not the order in which the updates
            of several workers arrive.
        on_step: Called in the worker with each :class:`~mnistdist.StepRecord`, between steps.
        step_timeout: Seconds that one step may take before the training fails; None for any. A run of several
            steps may take this long for one step, plus the slowest step time seen so far for each of the others. A task
            that somebody has stopped (SIGSTOP) counts as ended after twice as long.
        design: ``"listing"`` uses the graph as it is, with a fed batch and one run for each step. ``"fast"`` cuts this
            graph into a part for the worker and a part for the ps, makes batches on the worker, and makes several steps
            in one run (the chapter "Where a step goes"). Both compute the same, and each batch is one update. A model
            that can't be cut is trained in the listing's design, and a line on stderr says why.
        local_steps: How many steps a worker makes on its own parameters before it pushes the change, divided by the
            number of workers; fast design and asynchronous only. More than 1 changes what is computed, and trades far
            fewer messages for more staleness. A record is then one push, and the global step still counts batches.
        steps_per_run: How many steps, each with its own pull and push, one run of the session makes; fast design only.
            None for 16, or for 1 if there is an ``on_step``, which is called between runs. With ``local_steps``, a run
            makes enough pushes for this many steps; None for 40.
        logdir: Folder in which worker 0 keeps checkpoints, on its own host if the cluster is on several; training goes
            on from the last whole one. None for no checkpoints. The appendix "Checkpoints" says what you may do with
            such a folder, and what is refused.
        save_steps: About how many global steps lie between two checkpoints. With a ps you lose what was done after the
            last complete checkpoint began. As a rule that is no more than this, but it is more on a busy machine if the
            other workers make many steps while worker 0 is writing a checkpoint.
        restarts: How many ended tasks to start again, in all, before the training fails. A worker that has ended takes
            the records of its steps with it. A ps takes the variables with it, so going on needs a ``logdir``.

    Returns:
        A :class:`Run`.

    Raises:
        ValueError, TypeError: An argument is out of range or of another type; nothing has been started.
        OSError: The ``logdir`` can't keep checkpoints, or another training uses it; nothing has been started.
        RuntimeError: After ``step_timeout`` seconds, but at least 2 and at most 10, a worker is still stopped or busy
            with an earlier call, or another training is running on this cluster. Nothing has been started, and what is
            running goes on.
        TaskFailed: A task ends or raises, or has ended before. After this error, and after an interrupt, the cluster
            has been restarted and can be used.

    Example::

        with Cluster(ps=1, workers=2) as cluster:
            run = train(cluster, steps=200, sync=True, seed=1)
            print(run.test.accuracy)
    """
    given = locals()
    if not hasattr(type(cluster), "workers"):
        raise TypeError(f"cluster: expected a running Cluster, got {cluster!r}")
    workers = [task.job for task in cluster.tasks].count("worker")
    spec = TrainSpec(**{field.name: given[field.name] for field in fields(TrainSpec)})
    data = _check_data(data, build_graph is None)
    if spec.logdir is not None:
        spec.logdir = str(Path(spec.logdir).resolve())  # because the tasks have a working folder of their own
        if getattr(cluster, "_hosts", None) is None:  # otherwise it is a folder of another machine's
            prepare(spec.logdir)
    sent = data, spec, f"train-{os.getpid()}-{next(_runs)}"
    outlived = {"steps": spec.steps, "restarts": spec.restarts, "restores": spec.logdir is not None}
    with HeldInterrupts() as held, idle_workers(cluster, spec.step_timeout, held):
        refusal, watched = None, {"step_timeout": spec.step_timeout, "held": held}
        try:
            if build_graph is not None or optimizer is not None:
                ((refusal, why),) = on_workers(cluster, _try, [0], sent, **watched)
                if why and (spec.local_steps != 1 or spec.steps_per_run is not None):
                    refusal = f"{why}: that needs design='listing', without local_steps or steps_per_run"
                elif why:
                    print(f"{why}: trained in the listing's design", file=sys.stderr)
                    spec.design = "listing"
            if refusal is not None:
                raise ValueError(refusal)
            results = on_workers(cluster, _train, range(workers), sent, **watched, **outlived)
            results, warned = zip(*results, strict=True)
            (shared,) = on_workers(cluster, _finish, [0], sent, **watched)
        except BaseException:
            if refusal is None and cluster.alive:
                cluster.restart()  # because the other workers may be in a step, which nothing interrupts
            raise
    for line in itertools.chain(*warned):
        print(line, file=sys.stderr)  # and not as a warning, which could be turned into an error and lose the run
    return Run(sync=spec.sync, results=list(results), model=shared, local_steps=spec.local_steps)


def _check_data(data, books_model):
    """What to send to the workers, from ``data`` that can be trained on; None for a set that is empty or not there.

    Refuses what would otherwise fail in each worker, in the middle of something else, or give a loss of nan.
    """
    if isinstance(data, (str, os.PathLike)):
        data = str(Path(_check.path("data", data)).resolve())
        try:
            read_for_training(data)  # complains about what is wrong with it, and fills it if it is empty
        except DataError as error:
            raise DataError(f"data: {error}") from None
        except ValueError as error:
            raise ValueError(f"data: {error}; pass read_data_sets(..., validation_size=...) instead") from None
        return data
    if data is None:
        return None
    if not isinstance(data, Datasets):
        raise TypeError(f"data: expected None, a folder's path or Datasets, got {_check.got(data)}")
    widths = {"train": BOOKS_WIDTHS} if books_model else {}
    for name, part in data._asdict().items():
        if part is None and name != "train":
            continue
        if not isinstance(part, DataSet):
            raise TypeError(f"data.{name}: expected a DataSet, got {_check.got(part)}")
        images, labels = part.stored
        if labels.ndim != 2:
            raise ValueError(f"data.{name}: expected one-hot labels (one_hot=True), got labels of shape {labels.shape}")
        if not len(images) and name == "train":
            raise ValueError("data.train: expected at least one example, got none")
        found = images.shape[1], labels.shape[1]
        pixels, classes = widths.setdefault("train", found)
        if found != (pixels, classes):
            whose = "the built-in model takes" if books_model else "data.train has"
            wanted = f"images of {pixels} pixels and {classes} classes, as {whose} them"
            raise ValueError(f"data.{name}: expected {wanted}; got {found[0]} and {found[1]}")
        for what, values in (("images", images), ("labels", labels)):
            if values.size and not np.isfinite([values.min(), values.max()]).all():
                raise ValueError(f"data.{name}: expected finite {what}, got nan or inf among them")
    return Datasets(*(part if part is not None and part.num_examples else None for part in data))


def _load(data, seed, index):
    own_seed = None if seed is None else [seed, index]
    if isinstance(data, Datasets):
        return Datasets(*(part and DataSet(*part.stored, own_seed) for part in data))
    return read_data_sets(data, one_hot=True, seed=own_seed)


def _try(data, spec, container):
    """In worker 0, before anything starts: why no design can train the model and why the fast one can't, or None."""
    from mnistdist.training.shared_model import try_model

    options = {"batch_size": spec.batch_size, "timeout": spec.step_timeout, "container": container}
    try:
        return None, try_model(_here()[1], data=_load(data, 0, 0), **options, **spec.of_replica())
    except ValueError as error:
        return " ".join(str(error).split()), None


def _train(data, spec, container):
    """In a worker: trains, and tells the client twice a second how far it has come."""
    from ipyparallel.datapub import publish_data

    from mnistdist.training.worker import run_worker

    (target, cluster_spec, index), said = _here(), 0.0

    def on_step(record):
        nonlocal said
        if record.end - said > 0.5:
            said = record.end
            publish_data({"global_step": record.global_step_after})
        if spec.on_step is not None:
            spec.on_step(record)

    data, warned = _load(data, spec.seed, index), []
    options = {"data": data, "on_step": on_step, "warn": warned.append, "container": container}
    try:
        return run_worker(target, cluster_spec, index, **options, **spec.of_run(), **spec.of_replica()), warned
    except (TimeoutError, TaskLost) as error:
        # The message says everything. IPython would take a second, or several on a busy machine, to format the
        # traceback through TensorFlow, and the client would wait for that.
        raise error.with_traceback(None) from None


def _finish(data, spec, container):
    """In a worker, when all have ended: reads and evaluates the shared variables, then drops them from the ps."""
    from mnistdist.training.shared_model import forget, read_shared_model

    target, cluster_spec, index = _here()
    options = spec.of_replica() | {"data": _load(data, spec.seed, index), "container": container}
    shared = read_shared_model(target, cluster_spec, index, **options)
    with contextlib.suppress(Exception):  # tidying up must not lose the result
        forget(target, index, container)
    return shared


def _here():
    """The task's server target, the cluster's spec and the task's own index, whatever the namespace says."""
    task = own_task()
    return (task.server or _server_made_by_hand(task)).target, task.spec, task.index


def _server_made_by_hand(task):
    """The object called ``server`` in the engine's namespace, if it is the server of this task."""
    import tensorflow.compat.v1 as tf
    from IPython import get_ipython

    server = get_ipython().user_ns.get("server")
    if server is None:
        raise RuntimeError("this task has no `server`: start the cluster with servers=True, or make one in every task")
    got = f"what is of type {type(server).__name__}"
    if isinstance(server, tf.train.Server):
        made = server.server_def
        if (made.job_name, made.task_index) == (task.job, task.index):
            return server
        got = f"one of {made.job_name}:{made.task_index}"
    raise ValueError(f"the `server` in this task: expected a tf.train.Server of {task.job}:{task.index}, got {got}")
