"""Distributed TensorFlow training on real local processes, driven from notebooks.

``import mnistdist`` imports neither TensorFlow nor ipyparallel; each name is loaded when it is first used.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "Cluster": "cluster",
    "ClusterStartError": "errors",
    "DataError": "datasets",
    "DataSet": "datasets",
    "Datasets": "datasets",
    "Graph": "model",
    "Run": "results",
    "StepRecord": "steps",
    "Task": "cluster",
    "TaskFailed": "errors",
    "read_data_sets": "datasets",
    "restore": "results",
    "show": "source",
    "train": "training",
}

__all__ = sorted(_HOME)


def __getattr__(name):
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
