"""The rooms of the package: imports point one way, every file has its layer, and none has grown too large."""

import ast
from pathlib import Path

import mnistdist

PACKAGE = Path(mnistdist.__file__).parent
# A module may import, within functions too, what stands in a line above its own, or before it in its line.
LAYERS = """
    _lazy __init__ errors
    _check _wait style idx _interrupts _output steps datasets diagrams plots source results placement model
    cluster.__init__ cluster.linux cluster.network cluster.pinning cluster.recovery
    cluster._ipyparallel cluster.task cluster.forkserver cluster.keeper cluster.process_tree cluster.engines
    cluster.cluster
    training.__init__ training.tensorflow_private training.deadlines training.diagnosis training.heartbeat
    training.designs.__init__ training.designs.cutting training.replica
    training.designs.batches training.designs.packing training.designs.fast
    training.logdir training.checkpoints training.round_runner training.session
    training.worker training.shared_model training.calls training.client
    flags distributed launcher cli __main__
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
    assert {"training.deadlines", "training.tensorflow_private"} <= imported(PACKAGE / "training" / "checkpoints.py")
