"""How the graph of one worker is built and run, in one of two designs."""

from mnistdist.training.designs.fast import build_fast_replica
from mnistdist.training.designs.listing import build_replica


def build(name, cluster_spec, task_index, **options):
    """The replica of a design, ``"fast"`` or ``"listing"``, which doesn't use some options of the fast one."""
    if name == "fast":
        return build_fast_replica(cluster_spec, task_index, **options)
    unused = ("train_set", "steps", "local_steps", "steps_per_run")
    return build_replica(cluster_spec, task_index, **{k: v for k, v in options.items() if k not in unused})
