"""The processes of a cluster: its network, its cores and GPUs, who starts and watches them, and ends them."""

from mnistdist._lazy import lazy

__getattr__, __dir__, __all__ = lazy(__name__, {"Cluster": "cluster", "Task": "task"})
