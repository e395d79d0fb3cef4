"""A checked cell notices when its claim is false: given wrong values, it no longer prints what is stored.

Each case is a cell of the book, found by a piece of its source, and what it computes from, once as it should be and
once wrong. With the first it must print its stored output, line for line; with the second it must not.
"""

import ast
import contextlib
import io
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest

from book._ext.outputs import compared
from tests.book.book_rules import ROOT, code_cells, syntax


def steps(staleness, losses=(2.0,) * 10 + (0.1,) * 200, stored=None):
    """A frame of updates, alternately of two workers; its staleness is as it should be, or what is ``stored``."""
    numbers = np.arange(len(losses))
    stale = np.resize(staleness, len(losses))
    return pd.DataFrame(
        {
            "worker": numbers % 2,
            "loss": losses,
            "global_step_before": numbers - stale,
            "global_step_after": numbers + 1,
            "staleness": stale if stored is None else stored,
        }
    )


def run(accuracy, global_step=800, **more):
    result = SimpleNamespace(loss=1.0, accuracy=accuracy)
    return SimpleNamespace(test=result, validation=result, global_step=global_step, **more)


def evaluated(accuracy):
    return {"result": SimpleNamespace(accuracy=accuracy)}


def averages(*values):
    return {"means": dict(enumerate(values))}


def costs(*values):
    ops = [187, 257, 323, 389] if values[0] < values[-1] else [187] * 4
    return {"costs": {"ops": ops, "graph": ops, "first": values, "later": values}}


def validation(cross_entropy):
    images = SimpleNamespace(validation=SimpleNamespace(images=range(5000)))
    return {"val_xent": cross_entropy, "mnist": images}


def measured(one_float):
    sizes = {10**power: 4 * 10**power + 10_000 for power in range(7)}
    return {"measured": sizes | {1: one_float}, "private": True}


def wire(calls):
    return {"measured": {10**power: 4 * 10**power + calls for power in range(7)}}


def drawn(common):
    return {"rows": [set(range(10_000)), set(range(10_000 - common, 20_000 - common))]}


def numbers(first, second):
    return {"cluster": {("worker", 0): {"steps": list(first)}, ("worker", 1): {"steps": list(second)}}}


def torn(*counts):
    return {"names": "abc", "torn": dict(zip("abc", counts, strict=True)), "pulls": {"a": range(99)}}


def reached(good, bad):
    cured = "one worker", "four, a quarter of it", "four, in rounds"
    return {"reached": dict.fromkeys(cured, good) | dict.fromkeys(("four workers", "four, a warm-up"), bad)}


def rates(servers):
    return {"servers": dict(zip((1, 2, 4), servers, strict=True)), "workers": {1: servers[0], 4: 3 * servers[2]}}


def sgd(found):
    return {"found": {"mean, SGD": found}, "moved": {"mean, SGD": 1}}


CASES = [
    ("quickstart", "2,000 updates", *({"STEPS_PER_RUN": 16, "run": run(0.97, n)} for n in (2003, 1990))),
    ("quickstart", "the loss has fallen", {"steps": steps(1)}, {"steps": steps(1, (2.0,) * 210)}),
    ("quickstart", "more than 94 of 100", {"run": run(0.97)}, {"run": run(0.1)}),
    ("quickstart", "recorded as staleness", {"steps": steps([0, 1])}, {"steps": steps([0, 1], stored=0)}),
    ("clusters", "one float costs more than 100", measured(150), measured(4)),
    ("clusters", "floats on", wire(900), wire(90)),
    ("in_graph", 'print("above 0.95:', evaluated(0.96), evaluated(0.1)),
    ("in_graph", "a further tower adds", costs(1.0, 2.0, 3.0, 4.0), costs(1.0, 1.0, 1.0, 1.0)),
    ("between_graph", 'print("above 0.9:", result', evaluated(0.95), evaluated(0.1)),
    ("between_graph", "within 1% of it", drawn(1802), drawn(0)),
    ("asynchronous", "some updates are stale", {"steps": steps([0, 1])}, {"steps": steps(0)}),
    ("asynchronous", "staleness is what came", {"steps": steps([0, 1])}, {"steps": steps([0, 1], stored=0)}),
    ("asynchronous", "alone, nothing is stale", averages(0, 0.5, 1.0, 1.4), averages(0, 0, 0, 3.2)),
    ("asynchronous", "even speeds:", *({"even": run(a), "held": run(a)} for a in (0.95, 0.1))),
    ("asynchronous", "some pulls are half old", torn(9, 9, 0), torn(0, 0, 3)),
    ("asynchronous", "one worker learns", reached(0.94, 0.2), reached(0.2, 0.94)),
    ("synchronous", "and they have moved", sgd(1e-7), sgd(0.1)),
    ("synchronous", "nearly all weights", *({"gaps": np.array([[0.0] * 999 + [0.1]]) + g} for g in (0, 0.5))),
    ("async_or_sync", "more than 2.3 batches", *({"cured": run(0.9, 100, steps=range(n))} for n in (250, 200))),
    ("where_a_step_goes", "16 a run brings", *({"spent": [4, 3.5, 3, 3, last]} for last in (1.5, 2.9))),
    ("where_a_step_goes", "two ps are slower", rates([3, 2, 1]), rates([1, 2, 3])),
    ("your_own_loop", "list(range(1, made[-1] + 1))", numbers(range(1, 1001, 2), range(2, 1002, 2)),
     numbers(range(1, 1001, 2), range(1, 1001, 2))),
    ("recovery", "by 100 steps or more", {"fallen": [150]}, {"fallen": [50]}),
    ("when_it_goes_wrong", "hangs before its 20th step", *({"cluster": SimpleNamespace(workers={"made": made})}
     for made in ([10, 12], [10, 20]))),
    ("data_and_model", "printed / mean of an image", *({"mean_loss": 0.12, "val_xent": sums} for sums in (600, 0.12))),
    ("program", "below 0.3 an image", validation(600.0), validation(11_000.0)),
    ("program", "test accuracy above 0.93", *({"hits": np.array([right])} for right in (True, False))),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["MatMul", "_FusedMatMul", "_MklMatMul", "_MklNativeFusedMatMul"])
def test_in_graph_knows_a_product_of_matrices_by_any_name(kind):
    (function,) = [node for node in syntax(the_cell("in_graph", "def work(name, kind)")).body if hasattr(node, "args")]
    exec(compile(ast.Module([function], []), "cell", "exec"), known := {})
    assert known["work"]("hid", kind) == "forward"
    assert known["work"]("gradients_1/xw_plus_b/MatMul_grad/MatMul_1", kind) == "backward"
    assert known["work"]("gradients/Softmax_grad/mul", "Mul") is None


def the_cell(chapter, piece):
    notebook = nbformat.read(ROOT / "book" / f"{chapter}.ipynb", as_version=4)
    (cell,) = [cell for _, cell in code_cells(notebook) if piece in cell.source]
    return cell


def lines_with(cell, values):
    """What the cell prints, line by line, run here on these values."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(syntax(cell), "cell", "exec"), dict(values))
    return said.getvalue().split("\n")


@pytest.mark.parametrize("chapter, piece, right, wrong", CASES, ids=[f"{case[0]}: {case[1][-30:]}" for case in CASES])
def test_a_checked_cell_fails_on_wrong_values(chapter, piece, right, wrong):
    cell = the_cell(chapter, piece)
    stored = [line for line in compared(cell).split("\n") if not line.startswith("[stdout:")]
    assert set(lines_with(cell, right)) == set(stored)
    assert set(lines_with(cell, wrong)) != set(stored)
