"""Distributed TensorFlow training on real local processes, driven from notebooks.

``import mnistdist`` imports neither TensorFlow nor ipyparallel; each name is loaded when it is first used.
"""

from mnistdist._lazy import lazy

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "Cluster": "cluster.cluster",
        "ClusterStartError": "errors",
        "DataError": "idx",
        "DataSet": "datasets",
        "Datasets": "datasets",
        "Graph": "model",
        "Run": "results",
        "StepRecord": "steps",
        "Task": "cluster.task",
        "TaskFailed": "errors",
        "read_data_sets": "datasets",
        "restore": "results",
        "show": "source",
        "train": "training.client",
    },
)
