"""Show the package's own source as the output of a notebook cell."""

import inspect
import textwrap

from IPython.display import Code


def show(obj) -> Code:
    """Shows the source of a function, class or module, highlighted where the front end can.

    The plain text of the output is the source itself, so a notebook that stores it stops matching, and its check
    fails, as soon as the package's code changes.

    >>> from mnistdist.source import show
    >>> print(repr(show(show)).splitlines()[0])
    def show(obj) -> Code:

    Raises:
        TypeError: if ``obj`` has no Python source: a value, a built-in, a function of a compiled module.
    """
    try:
        source = inspect.getsource(obj)
    except (TypeError, OSError):
        raise TypeError(
            f"show() needs a function, class or module with Python source; got {obj!r}, "
            f"a {type(obj).__name__}, for which no source is found"
        ) from None
    return Code(textwrap.dedent(source).rstrip("\n"), language="python")
