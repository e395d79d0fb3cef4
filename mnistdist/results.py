"""What a training brings home. Free of TensorFlow, so that a notebook can receive it without importing that."""

from typing import NamedTuple

import numpy as np


class Evaluation(NamedTuple):
    """Loss (for the text's model, cross entropy summed over the examples) and accuracy on a whole data set."""

    loss: float
    accuracy: float


class WorkerResult(NamedTuple):
    """What one worker brings home.

    Attributes:
        task_index: Which worker.
        steps: Its :class:`StepRecord` list.
        seconds: Time from its first step to its last.
        validation: :class:`Evaluation` at its end, when others may still be finishing a step; None without a set.
    """

    task_index: int
    steps: list
    seconds: float
    validation: Evaluation | None


class SharedModel(NamedTuple):
    """A trained model, read from the ps tasks when nobody changes it any more.

    Attributes:
        global_step: Updates or rounds it has seen.
        variables: Trainable variables: a dict from the name to a NumPy array.
        validation, test: :class:`Evaluation` on these sets; None without a set.
        probabilities: Predicted for the test set, float32 of shape (examples, classes); None without a set.
    """

    global_step: int
    variables: dict
    validation: Evaluation | None
    test: Evaluation | None
    probabilities: np.ndarray | None


class Placement(NamedTuple):
    """One op: its name and type, the device that was ``requested`` (may be empty or partial), and the ``actual`` one.

    ``requested`` is None for an op that TensorFlow added by itself, such as a ``_Send``; ``actual`` is None for one
    that was not run.
    """

    name: str
    op: str
    requested: str | None
    actual: str | None
