"""Names that are loaded when they are first used."""

import sys
import warnings
from importlib import import_module
from types import ModuleType


def lazy(package, home):
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package, for names by the module that each is in.

    A package's own ``__init__`` then imports nothing, so code that needs one of its modules gets that module alone.
    What a keeper, a launcher or a task may not import stays out: TensorFlow, and NumPy, which starts threads.
    """

    def getattr_(name):
        if name in home:
            return getattr(import_module(f"{package}.{home[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return getattr_, lambda: sorted({*vars(import_module(package)), *home}), sorted(home)


def moved(name, *homes):
    """Keeps the name of a removed module: the names that are now in these modules are found with a warning."""
    module = sys.modules[f"mnistdist.{name}"] = ModuleType(f"mnistdist.{name}")

    def getattr_(name):
        for home in () if name.startswith("_") else homes:
            if hasattr(there := import_module(f"mnistdist.{home}"), name):
                value = getattr(there, name)
                now = getattr(value, "__module__", there.__name__)
                warnings.warn(f"{module.__name__}.{name} is {now}.{name} now", DeprecationWarning, stacklevel=2)
                return value
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

    module.__getattr__ = getattr_
    setattr(sys.modules["mnistdist"], name, module)
