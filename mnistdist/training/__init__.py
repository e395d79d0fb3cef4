"""A training: what each worker does, how each design builds its graph, and how :func:`train` uses both.

The pieces can be put together by hand, as the chapter "Your own loop" does.
"""

from mnistdist._lazy import lazy

_NAMES = {
    "client": ["train"],
    "spec": ["STEPS_PER_RUN"],
    "worker": ["run_worker", "train_loop"],
    "session": ["session_config", "worker_session"],
    "checkpoints": ["Checkpoints"],
    "replica": ["MadeStep", "Replica", "Rounds", "count_update", "resource_variables"],
    "designs.listing": ["build_replica", "one_step"],
    "designs.fast": ["build_fast_replica"],
    "designs.cutting": ["CannotCut"],
}
__getattr__, __dir__, __all__ = lazy(__name__, {name: home for home, names in _NAMES.items() for name in names})
