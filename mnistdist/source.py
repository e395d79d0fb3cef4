"""Show the package's own source as the output of a notebook cell."""

import ast
import inspect
import textwrap
from importlib.machinery import PathFinder
from importlib.util import find_spec


class Source:
    """Python source: itself as plain text, and a block of code in Markdown, which every front end highlights."""

    def __init__(self, text):
        self.data = text

    def __repr__(self):
        return self.data

    def _repr_markdown_(self):
        return f"````python\n{self.data}\n````"


def show(obj) -> Source:
    """Shows the source of a function, class or module, highlighted where the front end can.

    ``obj`` may also be the full name of a function or class, ``"mnistdist.model.build_model"``: its module is then
    read, not imported, so that a notebook can show what it leaves to its tasks without importing TensorFlow itself.

    The plain text of the output is the source itself, so a notebook that stores it stops matching, and its check
    fails, as soon as the package's code changes.

    >>> from mnistdist.source import show
    >>> print(repr(show(show)).splitlines()[0])
    def show(obj) -> Source:

    Raises:
        TypeError: if ``obj`` has no Python source: a value, a built-in, a function of a compiled module.
        ValueError: if a name leads to no function or class.
    """
    if isinstance(obj, str):
        return Source(_named_source(obj))
    try:
        source = inspect.getsource(obj)
    except (TypeError, OSError):
        found = f"{obj!r}, a {type(obj).__name__}, for which no source is found"
        raise TypeError(f"show() needs a function, class or module with Python source; got {found}") from None
    return Source(textwrap.dedent(source).rstrip("\n"))


def _named_source(name):
    parts = name.split(".")
    spec = find_spec(parts[0]) if parts[0] else None
    found = 1
    while spec is not None and spec.submodule_search_locations and found < len(parts):  # find_spec() would import it
        inner = PathFinder.find_spec(".".join(parts[: found + 1]), spec.submodule_search_locations)
        if inner is None:
            break
        spec, found = inner, found + 1
    if spec is None or not spec.origin or found == len(parts):
        raise ValueError(f"show({name!r}): expected the full name of a function or class, package and module first")
    if not spec.origin.endswith(".py"):
        raise ValueError(f"show({name!r}): {spec.name} is compiled or frozen: no source is read")
    text = spec.loader.get_source(spec.name)  # which knows what is in a zip file, too
    node = ast.parse(text)
    for part in parts[found:]:
        named = [child for child in node.body if getattr(child, "name", None) == part]
        if not named:
            raise ValueError(f"show({name!r}): {spec.name} has no function or class {'.'.join(parts[found:])}")
        node = named[0]
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return textwrap.dedent("\n".join(text.splitlines()[first - 1 : node.end_lineno]))
