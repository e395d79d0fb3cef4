"""The processes of a cluster, with its network, cores and GPUs, and what starts, watches and ends them."""

from mnistdist._lazy import lazy

__getattr__, __dir__, __all__ = lazy(__name__, {"Cluster": "cluster", "Task": "task"})
