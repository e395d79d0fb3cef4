"""Train on a running cluster: the loop of ``between_graph.py``, in every worker at once, and what comes of it."""

import contextlib
import itertools
import os
import warnings
from pathlib import Path

import numpy as np

from mnistdist.datasets import DataSet, Datasets, read_data_sets
from mnistdist.errors import TaskLost
from mnistdist.idx import can_name_a_file
from mnistdist.logdir import prepare
from mnistdist.on_workers import on_workers
from mnistdist.results import Run

_runs = itertools.count(1)
STEPS_PER_RUN = 16
LOCAL_STEPS_PER_RUN = 40


def train(
    cluster,
    *,
    steps,
    sync=False,
    replicas_to_aggregate=None,
    batch_size=100,
    learning_rate=0.01,
    optimizer=None,
    build_graph=None,
    data=None,
    seed=None,
    on_step=None,
    step_timeout=60,
    design="fast",
    local_steps=1,
    steps_per_run=None,
    logdir=None,
    save_steps=1000,
    restarts=0,
):
    """Train a model on a cluster, one client a worker (between-graph replication), and evaluate what it has learned.

    Args:
        cluster: A running :class:`~mnistdist.Cluster`.
        steps: Global step to end at: updates of all workers together, or rounds where ``sync``.
        sync: Average gradients of several workers for each update of the variables.
        replicas_to_aggregate: How many gradients a round averages; None for as many as there are workers.
        batch_size: Examples that a worker uses a step.
        learning_rate: What the optimizer gets.
        optimizer: Makes a ``tf.train.Optimizer`` of the learning rate; None for Adam, as in the text.
        build_graph: Makes the model in the default graph and returns a :class:`~mnistdist.Graph`; None for the
            text's network. Runs in every worker: import what it needs inside it.
        data: What to train on: None for MNIST, a folder with idx files, or a :class:`~mnistdist.Datasets` with
            one-hot labels, which is sent to every worker.
        seed: Makes initial weights and every worker's batches repeatable. How the updates of several workers
            interleave is not.
        on_step: Called in the worker with each :class:`~mnistdist.StepRecord`, between steps.
        step_timeout: Seconds that one step may take before the training fails; None for any. In a run of several steps,
            one of them may take so long, and the others what runs have taken until then. A task that somebody has
            stopped (SIGSTOP) counts as ended after twice as long.
        design: ``"fast"``: all parameters as one vector, batches made on the worker, several steps in one run of the
            session (the chapter "Where a step goes"); ``"listing"``: a variable each, a fed batch and a run a step.
            What is computed is the same: every batch is one update.
        local_steps: Fast design, asynchronous: so many steps on a worker's own parameters before it pushes the change
            that they made, divided by the number of workers. More than 1 changes what is computed: far fewer messages
            for more staleness. A record is then one push; the global step still counts batches.
        steps_per_run: Fast design: how many steps, each with its own pull and push, one run of the session makes.
            None for 16, or 1 if there is an ``on_step``, which is called between runs. With local steps, a run makes as
            many pushes as come to so many steps; None for 40.
        logdir: Folder in which worker 0 keeps checkpoints, and from the last whole one of which training goes on; None
            for none. The appendix "Checkpoints" says what may be done with such a folder, and what is refused.
        save_steps: About how many global steps there are from one checkpoint to the next. What is lost with a ps is
            what was done after the last complete checkpoint began: as a rule at most so many steps, and more where the
            others make many while worker 0 is writing one, as on a busy machine.
        restarts: How many times, in all, a task that has ended is started again and the training goes on. Steps that a
            worker had recorded end with it. A ps takes the variables with it: that needs a ``logdir``.

    Returns:
        A :class:`Run`.

    Raises:
        ValueError, TypeError: for an argument out of range or of another type; nothing has been started then.
        OSError: if no checkpoints can be kept in the ``logdir``, or another training is using it; likewise.
        TaskFailed: if a task ends or raises. It, and an interrupt, leave the cluster restarted: fresh and usable.

    Example::

        with Cluster(ps=1, workers=2) as cluster:
            run = train(cluster, steps=200, sync=True, seed=1)
            print(run.test.accuracy)
    """
    if not hasattr(type(cluster), "workers"):
        raise TypeError(f"cluster: expected a running Cluster, got {cluster!r}")
    workers = len(cluster.workers)
    _check_options(sync, learning_rate, optimizer, build_graph, data, seed, on_step, step_timeout)
    counts = {"steps": steps, "batch_size": batch_size, "local_steps": local_steps, "save_steps": save_steps}
    optional = {"replicas_to_aggregate": replicas_to_aggregate, "steps_per_run": steps_per_run}
    for name, value in (counts | {name: value for name, value in optional.items() if value is not None}).items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"{name}: expected an int of 1 or more, got {value!r}")
    if design not in ("fast", "listing"):
        raise ValueError(f"design: expected 'fast' or 'listing', got {design!r}")
    if design == "listing" and (local_steps != 1 or steps_per_run is not None):
        raise ValueError("local_steps and steps_per_run need design='fast': the listing's makes one step a run")
    if sync and local_steps != 1:
        raise ValueError(f"local_steps={local_steps} needs sync=False: a round takes one gradient of each batch")
    if replicas_to_aggregate is not None and not sync:
        raise ValueError(f"replicas_to_aggregate={replicas_to_aggregate} needs sync=True: there are no rounds without")
    if isinstance(restarts, bool) or not isinstance(restarts, (int, np.integer)) or restarts < 0:
        raise ValueError(f"restarts: expected an int of 0 or more, got {restarts!r}")
    if logdir is not None:
        if not isinstance(logdir, (str, os.PathLike)) or not (str(logdir) and can_name_a_file(str(logdir))):
            raise ValueError(f"logdir: expected a folder's path or None, got {logdir!r}")
        logdir = str(Path(logdir).resolve())
        prepare(logdir)
    if isinstance(data, (str, os.PathLike)):
        read_data_sets(data, one_hot=True)  # complains here of what is wrong with it, and fills it when it is empty
        data = str(Path(os.path.expanduser(data)).resolve())

    replica_options = {"learning_rate": learning_rate, "sync": sync, "replicas_to_aggregate": replicas_to_aggregate}
    replica_options |= {"seed": seed, "container": f"train-{os.getpid()}-{next(_runs)}", "design": design}
    if design == "fast":
        replica_options["local_steps"] = local_steps
        replica_options["steps_per_run"] = steps_per_run or (1 if on_step else None)
    replica_options |= {k: v for k, v in (("build_graph", build_graph), ("optimizer", optimizer)) if v is not None}
    run_options = {"steps": int(steps), "batch_size": int(batch_size), "on_step": on_step, "step_timeout": step_timeout}
    run_options |= {"logdir": logdir, "save_steps": int(save_steps)}
    arguments = data, seed, run_options, replica_options
    try:
        watch = {"steps": int(steps), "restarts": restarts, "restores": logdir is not None}
        results = on_workers(cluster, _train, range(workers), arguments, step_timeout, **watch)
        results, warned = zip(*results, strict=True)
        (shared,) = on_workers(cluster, _finish, [0], (data, seed, replica_options), step_timeout)
    except BaseException:
        if cluster.alive and cluster.status in ("running", "failed"):
            cluster.restart()  # the other workers may be in the middle of a step, which nothing interrupts
        raise
    for line in itertools.chain(*warned):
        warnings.warn(line, stacklevel=2)
    return Run(sync=sync, results=list(results), model=shared, local_steps=local_steps)


def _check_options(sync, learning_rate, optimizer, build_graph, data, seed, on_step, step_timeout):
    """Complain in the notebook of what would otherwise fail in every worker, in the middle of something else."""
    for name, value in (("optimizer", optimizer), ("build_graph", build_graph), ("on_step", on_step)):
        if value is not None and not callable(value):
            raise TypeError(f"{name}: expected a function or None, got {value!r}")
    if not isinstance(sync, (bool, np.bool_)):
        raise TypeError(f"sync: expected True or False, got {sync!r}")
    numbers = {"step_timeout": step_timeout} if step_timeout is not None else {}
    if optimizer is None:  # one of the reader's own may take what it likes
        numbers["learning_rate"] = learning_rate
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 < value < 1e30:
            raise ValueError(f"{name}: expected a number above 0, got {value!r}")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0):
        raise ValueError(f"seed: expected an int of 0 or more or None, got {seed!r}")
    if isinstance(data, Datasets):
        for name, part in data._asdict().items():
            if part is None and name != "train":
                continue
            if not isinstance(part, DataSet) or part.labels.ndim != 2:
                got = f"labels of shape {part.labels.shape}" if isinstance(part, DataSet) else repr(part)
                raise ValueError(f"data.{name}: expected a DataSet with one-hot labels (one_hot=True), got {got}")
    elif data is not None and not isinstance(data, (str, os.PathLike)):
        raise TypeError(f"data: expected None, a folder's path or Datasets, got {data!r}")


def _load(data, seed, index):
    own_seed = None if seed is None else [seed, index]
    if isinstance(data, Datasets):
        return Datasets(*(part and DataSet(part.images, part.labels, own_seed) for part in data))
    return read_data_sets(data, one_hot=True, seed=own_seed)


def _train(sent):
    """In a worker: train, and tell the client twice a second how far it is."""
    import cloudpickle
    from ipyparallel.datapub import publish_data

    from mnistdist.between_graph import run_worker

    data, seed, run_options, replica_options = cloudpickle.loads(sent)
    target, spec, index = _here()
    users_on_step, said = run_options.pop("on_step"), 0.0

    def on_step(record):
        nonlocal said
        if record.end - said > 0.5:
            said = record.end
            publish_data({"global_step": record.global_step_after})
        if users_on_step is not None:
            users_on_step(record)

    data, warned = _load(data, seed, index), []
    run_options |= {"on_step": on_step, "warn": warned.append}
    try:
        return run_worker(target, spec, index, data=data, **run_options, **replica_options), warned
    except (TimeoutError, TaskLost) as error:
        # They say all that there is to say; IPython takes a second, and several on a busy machine, to format the way
        # that they have come through TensorFlow, and the client waits for that.
        raise error.with_traceback(None) from None


def _finish(sent):
    """In a worker, when all have ended: read and evaluate the shared variables, then drop them from the ps."""
    import cloudpickle

    from mnistdist.shared_model import forget, read_shared_model

    data, seed, replica_options = cloudpickle.loads(sent)
    target, spec, index = _here()
    shared = read_shared_model(target, spec, index, data=_load(data, seed, index), **replica_options)
    with contextlib.suppress(Exception):  # tidying up must not lose the result
        forget(target, index, replica_options["container"])
    return shared


def _here():
    """The task's server target, the cluster's spec and its own index, from the engine's namespace."""
    from IPython import get_ipython

    namespace = get_ipython().user_ns
    if "server" not in namespace:
        raise RuntimeError("this task has no `server`: start the cluster with servers=True, or make one in every task")
    return namespace["server"].target, namespace["cluster_spec"], namespace["task_index"]
