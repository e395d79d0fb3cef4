"""The rooms of the package: imports point one way, every file has its layer, and none has grown too large."""

import ast
import re
import textwrap
from pathlib import Path

import mnistdist

PACKAGE = Path(mnistdist.__file__).parent
CONTRIBUTING = PACKAGE.parent / "CONTRIBUTING.md"
# A module may import, within functions too, what stands in a line above its own, or before it in its line.
LAYERS = """
    _lazy __init__ errors
    _check _wait _files style idx _interrupts _output steps datasets diagrams plots source results placement model
    cluster.__init__ cluster.linux cluster.network cluster.pinning cluster.recovery
    cluster.hosts
    cluster._ipyparallel cluster.task cluster.forkserver cluster.link cluster.relay cluster.keeper
    cluster.process_tree cluster.agent cluster.engines cluster.cluster
    training.__init__ training.spec training.tensorflow_private training.runs training.heartbeat
    training.graph training.replica training.designs.cutting training.designs.packing
    training.designs.step training.designs.unrolling training.designs.listing training.designs.fast
    training.designs.__init__
    training.logdir training.checkpoints training.round_runner training.session
    training.shared_model training.worker training.progress training.calls training.client
    flags resolver distributed launcher cli __main__
"""


def modules():
    """Each module's name below the package, with its file."""
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}


def imported(path):
    """The modules of the package that a module imports, within functions too."""
    known, found = modules(), set()

    def add(name):
        name = name.removeprefix("mnistdist").removeprefix(".")
        inner = ""
        while name and name not in known and f"{name}.__init__" not in known:
            name, _, inner = name.rpartition(".")  # what stands behind is a name of that module's
        package = f"{name}.__init__".removeprefix(".")
        found.add(name if name in known else package if inner in ("", "__version__") else f"{inner} of {package}")

    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: an import that is relative"
            names = [f"{node.module}.{each.name}" for each in node.names]
        else:
            continue
        for name in names:
            if name.partition(".")[0] == "mnistdist":
                add(name)
    return found


def test_imports_go_one_way_and_every_file_has_a_layer():
    order = {name: at for at, name in enumerate(LAYERS.split())}
    assert sorted(order) == sorted(modules())
    against = [
        f"{name} imports {other}"
        for name, path in modules().items()
        for other in imported(path)
        if order.get(other, len(order)) >= order[name]  # names that a package loads lazily are for its users
    ]
    assert against == []


def test_the_imports_are_found():
    """Those that stand in functions, lazy names of a package, and names of a module."""
    assert "plots" in imported(PACKAGE / "results.py")
    assert {"training.runs", "training.tensorflow_private"} <= imported(PACKAGE / "training" / "checkpoints.py")


def test_the_map_of_the_rooms_names_each_of_them_in_order():
    """In the package's docstring; those that only support a room of the same line are left out."""
    rooms = mnistdist.__doc__.partition("in its line:\n")[2].rstrip()
    named = [each for line in rooms.splitlines() for each in re.split(r"\s{2,}", line.strip())[:-1]]
    at = {name: number for number, name in enumerate(named)}
    small = {"_lazy", "_interrupts", "_output", "_ipyparallel", "tensorflow_private", "__init__", "__main__", "cluster"}
    last = {name: name.rpartition(".")[2] for name in modules() if not name.startswith("training.designs")}
    assert set(last.values()) - set(at) <= small
    for name in set(last) & {each for each in last if last[each] in at}:
        after = [other for other in imported(modules()[name]) if at.get(last.get(other), -1) >= at[last[name]]]
        assert after == [], name
    assert textwrap.dedent(rooms).strip() in CONTRIBUTING.read_text(encoding="utf-8")


# Reasons for what may be larger, by module and function.
EXCEPTIONS = {}


def functions(path):
    """Each function's name and node."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def lines_of(function):
    """How many lines a function's statements have, without its docstring and signature."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def test_no_module_and_no_function_is_larger_than_one_reading():
    large = []
    for name, path in modules().items():
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 300:
            large.append(f"{name}: {lines} lines")
        for function in functions(path):
            positional = [each.arg for each in function.args.posonlyargs + function.args.args]
            taken = len([each for each in positional if each not in ("self", "cls")])
            if lines_of(function) > 60 or taken > 5:
                large.append(f"{name}.{function.name}: {lines_of(function)} lines, {taken} positional parameters")
    assert sorted(each for each in large if each.partition(":")[0] not in EXCEPTIONS) == []
