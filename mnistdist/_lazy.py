"""Names that are loaded when they are first used."""

import warnings
from importlib import import_module


def lazy(package, home):
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package, for names by the module that each is in.

    A package's own ``__init__`` then imports nothing: whoever needs one of its modules gets that module alone, and
    what a keeper, a launcher or a task may not import (NumPy, which starts threads; TensorFlow) stays out.
    """

    def getattr_(name):
        if name in home:
            return getattr(import_module(f"{package}.{home[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return getattr_, lambda: sorted({*vars(import_module(package)), *home}), sorted(home)


def moved(old, *homes):
    """``__getattr__`` of a module that is no more, for names that are in these modules of the package now."""

    def getattr_(name):
        for home in () if name.startswith("_") else homes:
            if hasattr(module := import_module(f"mnistdist.{home}"), name):
                warnings.warn(f"{old}.{name} is mnistdist.{home}.{name} now", DeprecationWarning, stacklevel=2)
                return getattr(module, name)
        raise AttributeError(f"module {old!r} has no attribute {name!r}")

    return getattr_
