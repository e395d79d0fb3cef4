"""Train on a running cluster: the loop of ``between_graph.py``, in every worker at once, and what comes of it."""

import contextlib
import itertools
import os
import sys
import time
import zipfile
import zlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from mnistdist.datasets import DataSet, Datasets, read_data_sets
from mnistdist.errors import TaskFailed, describe_exit
from mnistdist.stopped import StoppedTasks, is_stopped

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
        logdir: Folder in which worker 0 keeps checkpoints, and from the last of which training goes on; None for none.
        save_steps: Global steps from one checkpoint to the next.
        restarts: How many times, in all, a task that has ended is started again and the training goes on. Steps that a
            worker had recorded end with it. A ps takes the variables with it: that needs a ``logdir``.

    Returns:
        A :class:`Run`.

    Raises:
        ValueError, TypeError: for an argument out of range or of another type; nothing has been started then.
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
        if not isinstance(logdir, (str, os.PathLike)):
            raise ValueError(f"logdir: expected a folder's path or None, got {logdir!r}")
        logdir = str(Path(logdir).resolve())
        os.makedirs(logdir, exist_ok=True)
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
        results = _on_workers(
            cluster, _train, range(workers), arguments, step_timeout, int(steps), restarts, restores=logdir is not None
        )
        (shared,) = _on_workers(cluster, _finish, [0], (data, seed, replica_options), step_timeout)
    except BaseException:
        if cluster.alive and cluster.status in ("running", "failed"):
            cluster.restart()  # the other workers may be in the middle of a step, which nothing interrupts
        raise
    return Run(sync=sync, results=results, model=shared, local_steps=local_steps)


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


@dataclass(frozen=True)
class Run:
    """What a training has brought.

    Attributes:
        sync: Whether it was synchronous.
        results: A :class:`~mnistdist.results.WorkerResult` a worker, in the order of their index.
        model: The :class:`~mnistdist.results.SharedModel` that was on the ps tasks when all had ended.
        local_steps: Batches that each push stands for.

    Example::

        run = train(cluster, steps=200)
        print(run.global_step, run.test.accuracy, run.steps.staleness.mean())
        run.save("model.npz")
    """

    sync: bool
    results: list = field(repr=False)
    model: object = field(repr=False)
    local_steps: int = field(default=1, repr=False)

    @cached_property
    def steps(self):
        """Every step of every worker, as :func:`mnistdist.steps.to_frame` has it."""
        from mnistdist.steps import to_frame

        records = [record for result in self.results for record in result.steps]
        return to_frame(records, sync=self.sync, local_steps=self.local_steps)

    @property
    def global_step(self):
        """Updates (asynchronous) or rounds (synchronous) that the variables have seen."""
        return self.model.global_step

    @property
    def validation(self):
        """Loss and accuracy on the validation set, once all workers had ended (an ``Evaluation``)."""
        return self.model.validation

    @property
    def test(self):
        """Loss and accuracy on the test set, likewise."""
        return self.model.test

    @property
    def predictions(self):
        """The class that the model gives each test example, int64 of shape (examples,)."""
        return self.model.probabilities.argmax(axis=1)

    def plot_loss(self):
        """Figure of the loss against steps and against seconds."""
        from mnistdist.plots import loss_curves

        return loss_curves({"": self.steps})

    def plot_timeline(self, **options):
        """Figure of who was in a step when; see :func:`mnistdist.plots.timeline` for the options."""
        from mnistdist.plots import timeline

        return timeline(self.steps, **options)

    def plot_staleness(self):
        """Figure of how many updates of others each update had missed."""
        from mnistdist.plots import staleness_histogram

        return staleness_histogram({f"{len(self.results)} workers": self.steps})

    def save(self, path):
        """Write the trained variables to ``path`` as a NumPy archive, whole or not at all; :func:`restore` reads it.

        Returns the path. Raises ``OSError`` naming it when it can't be written, ``ValueError`` when it names no file.
        """
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"path: expected a file's path, got {path!r}")
        path = Path(path)
        if not path.name or "\0" in str(path):
            raise ValueError(f"path: expected the name of a file, got {str(path)!r}")
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with open(partial, "wb") as file:
                np.savez(file, **self.model.variables)
            os.replace(partial, path)
        except OSError as error:
            raise OSError(error.errno, f"can't save the model: {error.strerror}", str(path)) from None
        finally:
            with contextlib.suppress(OSError):  # a disk that is read-only says so again
                partial.unlink()
        return path


def restore(session, path):
    """Give the variables of a session's graph the values that :meth:`Run.save` wrote, by name.

    Args: a ``tf.Session``, in one process or on a cluster, whose graph has the same trainable variables; the path.
    Raises ``ValueError`` when names or shapes differ, naming them, or when the file is none of these; ``OSError`` when
    it can't be read.

    Example::

        import tensorflow.compat.v1 as tf
        from mnistdist.model import build_model, evaluate

        train(cluster, steps=100).save("model.npz")
        with tf.Graph().as_default(), tf.Session() as session:
            model = build_model()
            restore(session, "model.npz")
            print(evaluate(session, model, read_data_sets(one_hot=True).test))
    """
    if not hasattr(session, "graph"):
        raise TypeError(f"session: expected a tf.Session, got {session!r}")
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path: expected a file's path, got {path!r}")
    with open(path, "rb") as file:
        try:
            with np.load(file) as archive:
                saved = {name: archive[name] for name in archive.files}
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: expected a model that Run.save() wrote; it can't be read: {error}") from None
    import tensorflow.compat.v1 as tf

    with session.graph.as_default():
        variables = {variable.op.name: variable for variable in tf.trainable_variables()}
        if set(variables) != set(saved):
            raise ValueError(f"{path} has variables {sorted(saved)}; the graph has {sorted(variables)}")
        for name, variable in variables.items():
            if tuple(variable.shape) != saved[name].shape:
                raise ValueError(f"{path} has {name} of shape {saved[name].shape}; the graph's is {variable.shape}")
            session.run(variable.initializer, {variable.initializer.inputs[1]: saved[name]})


# ------------------------------------------------------------------------------------- in the notebook's process


def _on_workers(cluster, function, indices, arguments, step_timeout, steps=None, restarts=0, restores=False):
    """Run ``function`` in some workers at once; returns their answers, or raises the first failure's cause.

    So many ``restarts`` of tasks that have ended are no failure; in a worker, the function then begins again. Worker 0
    also begins again if it had ended and ``restores`` what a ps has lost: nobody else does.
    """
    import cloudpickle  # carries functions and classes that were typed in a notebook
    from tqdm import tqdm

    sent = cloudpickle.dumps(arguments)
    patience = step_timeout and 2 * step_timeout  # who waits for the stopped task tells first, and tells more
    stopped = StoppedTasks(patience)
    views = {index: cluster["worker", index] for index in indices}
    answers = {index: view.apply_async(function, sent) for index, view in views.items()}
    again = []  # of a chief that had finished
    with tqdm(total=steps, desc="global step", leave=False, disable=steps is None or not _someone_watches()) as bar:
        while True:
            ended = [task for task in cluster.tasks if cluster.exit_of(task) is not None]
            halted = stopped.find({task: task.pid for task in cluster.tasks})
            if not cluster.alive:
                raise TaskFailed("cluster", "its keeper, controller or nursery has ended", hint=_GONE)
            running = [*answers.items(), *((0, answer) for answer in again)]
            failed = [(index, answer) for index, answer in running if answer.ready() and not answer.successful()]
            lost = [*ended, *halted]
            if lost and restarts:
                restarts -= 1
                cluster.restart(lost[0])
                index = lost[0].index
                if lost[0].job == "worker":
                    if not (answers[index].ready() and answers[index].successful()):
                        answers[index] = cluster["worker", index].apply_async(function, sent)
                elif restores and answers[0].ready() and not all(answer.ready() for answer in answers.values()):
                    again.append(cluster["worker", 0].apply_async(function, sent))
                continue
            if lost:
                task = lost[0]
                if ended:
                    reason = f"it ended with {describe_exit(cluster.exit_of(task))} during the training"
                else:
                    reason = f"it has been stopped for {patience:g} s, as SIGSTOP does it"
                raise TaskFailed(task.name, reason, log=cluster.logs(task, 5).splitlines(), hint=_RESTARTED)
            if failed:
                time.sleep(0.5)  # when a task has ended, that is the cause: its news may be on the way
                if any(cluster.exit_of(task) is not None for task in cluster.tasks):
                    continue
                first = _failure(cluster, *failed[0])
                if "TaskLost" in first.reason and failed[0][0] and 0 in answers:
                    answers[0].wait(10)  # what the chief has to say is the cause, and may take it some seconds
                    if answers[0].ready() and not answers[0].successful():
                        first = _failure(cluster, 0, answers[0])
                raise first
            pending = [answer for _, answer in running if not answer.ready()]
            if not pending:
                return [answer.get() for answer in answers.values()]
            pending[0].wait(0.1)
            if steps is not None:
                reached = max((answer.data or {}).get("global_step", 0) for answer in answers.values())
                if reached > bar.n:
                    bar.update(reached - bar.n)


_RESTARTED = "the cluster has been restarted with fresh tasks: train again"
_GONE = "stop() the cluster and start() it again; a process that the system ended was often out of memory"


def _failure(cluster, index, answer):
    from ipyparallel.error import RemoteError

    try:
        answer.get()
    except RemoteError as error:
        log = cluster.logs(("worker", index), 5).splitlines()
        stopped = " and ".join(task.name for task in cluster.tasks if is_stopped(task.pid))
        reason = f"{error.ename}: {error.evalue}" + (f" ({stopped} is stopped, as SIGSTOP does it)" if stopped else "")
        return TaskFailed(f"worker:{index}", reason, log=log, hint=_RESTARTED)


def _someone_watches():
    if os.environ.get("MNISTDIST_PROGRESS") == "0":
        return False
    from IPython import get_ipython

    return sys.stderr.isatty() or hasattr(get_ipython(), "kernel")  # a terminal, or a notebook


# ------------------------------------------------------------------------------------- in the tasks


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

    data = _load(data, seed, index)
    return run_worker(target, spec, index, data=data, on_step=on_step, **run_options, **replica_options)


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
