"""What a training is asked to do: the defaults of its arguments, and the checks of each and of all together."""

from collections.abc import Callable
from dataclasses import dataclass, fields

from mnistdist import _check

# How many steps a run of the session makes in the fast design, and with local steps; see train().
STEPS_PER_RUN, LOCAL_STEPS_PER_RUN = 16, 40


@dataclass(kw_only=True)
class TrainSpec:
    """The arguments of :func:`~mnistdist.train`, which says what they mean, except for the cluster and the data.

    Raises ``TypeError`` or ``ValueError`` for values that can't be used.
    """

    steps: int
    sync: bool = False
    replicas_to_aggregate: int | None = None
    batch_size: int = 100
    learning_rate: float = 0.01
    optimizer: Callable | None = None
    build_graph: Callable | None = None
    seed: int | None = None
    on_step: Callable | None = None
    step_timeout: float | None = 60.0
    design: str = "fast"
    local_steps: int = 1
    steps_per_run: int | None = None
    logdir: str | None = None
    save_steps: int = 1000
    restarts: int = 0

    def __post_init__(self):
        """Checks the arguments, and turns NumPy's numbers into Python's."""
        for field in fields(self):
            optional = field.default is None or field.name == "step_timeout"
            if field.name == "learning_rate" and self.optimizer is not None:
                continue  # an optimizer of the reader's own may take any value
            setattr(self, field.name, _check.argument(field.name, getattr(self, field.name), optional=optional))
        for name in "optimizer", "build_graph", "on_step", "learning_rate":
            _check_sent(name, getattr(self, name))
        check_rounds(self.sync, self.replicas_to_aggregate)
        for name, without in ("local_steps", 1), ("steps_per_run", None):
            if self.design != "fast" and getattr(self, name) != without:
                _check.needs(name, getattr(self, name), "design='fast'", "the listing's makes one step a run")
        if self.sync and self.local_steps != 1:
            _check.needs("local_steps", self.local_steps, "sync=False", "a round takes one gradient of each batch")
        if self.local_steps > self.steps:
            wanted = f"expected at most steps={self.steps}: a push stands for as many"
            raise ValueError(f"local_steps={self.local_steps}: {wanted}")

    def of_run(self):
        """The arguments of :func:`~mnistdist.training.run_worker` that don't concern the graph, without ``on_step``."""
        names = "steps", "batch_size", "step_timeout", "logdir", "save_steps"
        return {name: getattr(self, name) for name in names}

    def of_replica(self):
        """The arguments of the design's function that builds the graph."""
        names = "learning_rate", "sync", "replicas_to_aggregate", "seed", "design", "local_steps"
        given = {name: getattr(self, name) for name in names}
        given["steps_per_run"] = self.steps_per_run or (1 if self.on_step else None)
        own = {"build_graph": self.build_graph, "optimizer": self.optimizer}
        return given | {name: value for name, value in own.items() if value is not None}


def check_rounds(sync, replicas, name="replicas_to_aggregate", needed="sync=True"):
    """Refuses a number of gradients for each round if there are no rounds; the message has ``name`` and ``needed``."""
    if replicas is not None and not sync:
        _check.needs(name, replicas, needed, "asynchronous training has no rounds")


def _check_sent(name, value):
    """Checks that what goes to the workers can be sent and, unless it is the learning rate, is a function."""
    import cloudpickle

    if not callable(value) and value is not None and name != "learning_rate":
        raise TypeError(f"{name}: expected a function or None, got {_check.got(value)}")
    try:
        cloudpickle.dumps(value)
    except Exception as error:  # anything that an object's own pickling raises
        raise TypeError(f"{name}: it can't be sent to the workers: {error}") from None
