"""The results of a training. A notebook can receive them without importing TensorFlow."""

import zipfile
import zlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnistdist import _check
from mnistdist._files import whole


class Evaluation(NamedTuple):
    """Loss and accuracy on a whole data set. The classic program's loss is the cross entropy, summed over examples."""

    loss: float
    accuracy: float


class WorkerResult(NamedTuple):
    """The results of one worker.

    Attributes:
        task_index: Which worker this is.
        steps: A list with the :class:`StepRecord` of each of its steps.
        seconds: The time from its first step to its last.
        validation: The :class:`Evaluation` at its end, when others may still be finishing a step; None if there is no
            validation set, or if the model fails on it.
        global_step: The global step after its last step. If the training was already complete, the one that it found.
    """

    task_index: int
    steps: list
    seconds: float
    validation: Evaluation | None
    global_step: int


class SharedModel(NamedTuple):
    """A trained model, read from the ps tasks when nobody changes it any more.

    Attributes:
        global_step: How many updates or rounds it has had.
        variables: The variables that the model consists of, a dict from name to NumPy array.
        validation: The :class:`Evaluation` on the validation set; None if there is no such set.
        test: The :class:`Evaluation` on the test set; None if there is no such set.
        probabilities: The predictions for the test set, float32 of shape (examples, classes); None if there is no set.
        error: Why the model could not be evaluated, in which case the three above are None; otherwise None.
    """

    global_step: int
    variables: dict
    validation: Evaluation | None
    test: Evaluation | None
    probabilities: np.ndarray | None
    error: str | None = None


@dataclass(frozen=True)
class Run:
    """The results of a training.

    Attributes:
        sync: Whether the training was synchronous.
        results: A :class:`~mnistdist.results.WorkerResult` for each worker, in the order of their index.
        model: The :class:`~mnistdist.results.SharedModel` that was on the ps tasks when all workers had ended.
        local_steps: How many batches each push stands for.

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
        """Every step of every worker, a table from :func:`mnistdist.steps.to_frame`.

        If the checkpoints of the ``logdir`` already had the last step, the table has no rows, and figures are empty.
        """
        from mnistdist.steps import to_frame

        records = [record for result in self.results for record in result.steps]
        return to_frame(records, sync=self.sync, local_steps=self.local_steps)

    @property
    def global_step(self):
        """How many updates (asynchronous) or rounds (synchronous) the variables have had."""
        return self.model.global_step

    @property
    def validation(self):
        """The ``Evaluation`` on the validation set after all workers had ended; None if there is no such set."""
        return self.model.validation

    @property
    def test(self):
        """The ``Evaluation`` on the test set after all workers had ended; None if there is no such set."""
        return self.model.test

    @property
    def error(self):
        """Why the trained model could not be evaluated; None if it could."""
        return self.model.error

    @property
    def predictions(self):
        """The class that the model predicts for each test example, int64 of shape (examples,).

        Raises ``ValueError`` if the training had no test set or the evaluation failed.
        """
        if self.model.probabilities is None:
            why = self.error or "the training had no test set; give train() data with one"
            raise ValueError(f"no predictions: {why}")
        return self.model.probabilities.argmax(axis=1)

    def plot_loss(self):
        """Draws the loss against steps and against seconds."""
        from mnistdist.plots import loss_curves

        return loss_curves({"": self.steps})

    def plot_timeline(self, **options):
        """Draws when each worker was in a step; :func:`mnistdist.plots.timeline` describes the options."""
        from mnistdist.plots import timeline

        return timeline(self.steps, **options)

    def plot_staleness(self):
        """Draws how many updates by others each update has missed."""
        from mnistdist.plots import staleness_histogram

        return staleness_histogram({f"{len(self.results)} workers": self.steps})

    def save(self, path):
        """Writes the model's variables to ``path`` as a NumPy archive, which :func:`restore` reads. Returns the path.

        It is written whole or not at all. Raises ``OSError`` if that fails, and ``ValueError`` if ``path`` is no file.
        """
        path = Path(_check.path("path", path, "file"))
        if not path.name:
            raise ValueError(f"path: expected the name of a file, got {str(path)!r}")
        try:
            with whole(path) as partial, open(partial, "wb") as file:
                # Strings as bytes: NumPy would pickle objects, which restore() doesn't read.
                values = {name: np.asarray(value) for name, value in self.model.variables.items()}
                np.savez(file, **{name: v.astype("S") if v.dtype == object else v for name, v in values.items()})
        except OSError as error:
            raise OSError(error.errno, f"can't save the model: {error.strerror}", str(path)) from None
        return path


def restore(session, path):
    """Gives the variables of a session's graph the values that :meth:`Run.save` wrote, by name.

    ``session`` is a ``tf.Session``, in one process or on a cluster, whose graph has the same variables. Raises
    ``ValueError`` if names or shapes differ, which it names, or if ``path`` is not such a file, and ``OSError`` if the
    file can't be read.

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
    path = _check.path("path", path, "file")
    with open(path, "rb") as file:
        try:
            with np.load(file) as archive:
                saved = {name: archive[name] for name in archive.files}
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: expected a model that Run.save() wrote; it can't be read: {error}") from None
    import tensorflow.compat.v1 as tf

    with session.graph.as_default():
        there = {variable.op.name: variable for variable in tf.global_variables()}
        needed = {variable.op.name for variable in tf.trainable_variables()}
        if not needed <= set(saved) <= set(there):
            raise ValueError(f"{path} has variables {sorted(saved)}; the graph has {sorted(needed)}")
        for name, variable in ((name, there[name]) for name in saved):
            if saved[name].dtype.kind == "V":  # of a type that NumPy doesn't know, such as bfloat16
                saved[name] = saved[name].view(variable.dtype.as_numpy_dtype)
            if not variable.shape.is_compatible_with(saved[name].shape):
                raise ValueError(f"{path} has {name} of shape {saved[name].shape}; the graph's is {variable.shape}")
            session.run(variable.initializer, {variable.initializer.inputs[1]: saved[name]})


class Placement(NamedTuple):
    """An op's name and type, the device that was ``requested`` (it may be empty or partial), and the ``actual`` device.

    ``requested`` is None for an op that TensorFlow added by itself, such as a ``_Send``. ``actual`` is None for an op
    that was not run.
    """

    name: str
    op: str
    requested: str | None
    actual: str | None
