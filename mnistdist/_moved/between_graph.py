from mnistdist._lazy import moved

__getattr__ = moved(__name__, "training.designs.listing", "training.worker", "training.replica")
