"""A training: what each worker does, how its graph is built in each design, and what :func:`train` makes of it.

The pieces can be put together by hand, as the chapter "Your own loop" does.
"""

from mnistdist._lazy import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "CannotCut": "designs.cutting",
        "Checkpoints": "checkpoints",
        "Replica": "replica",
        "Rounds": "replica",
        "STEPS_PER_RUN": "spec",
        "build_fast_replica": "designs.fast",
        "build_replica": "designs.listing",
        "count_update": "replica",
        "one_step": "designs.listing",
        "resource_variables": "replica",
        "run_worker": "worker",
        "session_config": "session",
        "train": "client",
        "train_loop": "worker",
        "worker_session": "session",
    },
)
