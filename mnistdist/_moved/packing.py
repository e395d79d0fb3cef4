from mnistdist._lazy import moved

__getattr__ = moved(__name__, "training.designs.packing")
