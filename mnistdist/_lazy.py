"""Names of a package that are loaded when they are first used."""

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
