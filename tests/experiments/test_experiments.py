"""The experiments behind "Async or sync": each of them once, tiny; the committed results; the statistics."""

import ast
import json
import math
from collections import Counter
from pathlib import Path

import nbformat
import numpy as np
import pytest

from book._ext.environment import environment
from book.experiments.async_or_sync import FILE, Sizes, backup, learning, speed
from book.experiments.report import evaluated
from mnistdist import read_data_sets, train
from tests.book.book_rules import ROOT

TINY = Sizes(
    blocks=2, marks=2, batches=40, warm_up=1, equal_rounds=20, rounds=20, slow_rounds=5, delay=0.05, jitter=0.001
)
ARMS = {
    "learning": ["async", "async, batches of 200", "sync"],
    "speed": [f"{kind}, {mode}" for kind in ("equal", "one slow", "varying") for mode in ("async", "sync")],
    "backup": ["async", "sync, 1 of 3", "sync, 2 of 3", "sync, 3 of 3", "sync, 3 of 3, nobody slow"],
}


# ------------------------------------------------------------------------------------------ measuring, in real


def test_learning_looks_at_the_parameters_again_and_again(cluster):
    row = next(learning([cluster], 1, TINY, {}))
    assert row["arm"] == "sync"
    updates = [mark["updates"] for mark in row["marks"]]
    assert updates[0] <= 2
    assert updates[1:] == [10, 20]
    assert [mark["images"] >= 200 * mark["updates"] for mark in row["marks"]] == [True] * 3
    assert row["marks"][0]["seconds"] == 0
    assert row["marks"][2]["loss"] < row["marks"][0]["loss"]
    json.dumps(row)


def test_a_snapshot_is_worth_what_tensorflow_says(cluster):
    run = train(cluster, steps=30, seed=1)
    values = [run.model.variables[name] for name in ("hid_w", "hid_b", "sm_w", "sm_b")]
    loss, accuracy = evaluated(values, read_data_sets(one_hot=True).validation)
    assert loss == pytest.approx(run.validation.loss / 5000, rel=1e-3)
    assert accuracy == pytest.approx(run.validation.accuracy, abs=1e-3)


def test_the_slow_worker_slows_rounds_and_not_the_others(cluster):
    rows = {row["arm"]: row for row in speed([cluster], 0, TINY, {})}
    assert sorted(rows) == ARMS["speed"]
    assert rows["one slow, sync"]["updates_per_second"] < 1.3 / TINY.delay
    fast, slow = rows["one slow, async"]["worker_batches_per_second"]
    assert slow < 1.3 / TINY.delay
    assert fast > slow
    for row in rows.values():
        assert row["batches_per_second"] == pytest.approx(sum(row["worker_batches_per_second"]), abs=0.1)


def test_backup_names_what_a_round_waits_for(cluster):
    row = next(backup([cluster], 3, TINY, {}))
    assert row["arm"] == "sync, 1 of 3"
    assert row["batches_per_update"] >= 1


# ------------------------------------------------------------------------------------------ the committed results


def test_the_committed_results_are_complete():
    results = json.loads(FILE.read_text(encoding="utf-8"))
    sizes = Sizes(**results["sizes"])
    assert sizes.blocks >= 5
    assert set(results) == {"environment", "sizes", *ARMS}
    assert set(results["environment"]) == set(dict(environment()))
    for name, arms in ARMS.items():
        counts = Counter((row["block"], row["arm"]) for row in results[name])
        assert counts == Counter((block, arm) for block in range(sizes.blocks) for arm in arms)
    for row in results["learning"]:
        assert len(row["marks"]) == sizes.marks + 1
        assert row["marks"][-1]["images"] >= 100 * sizes.batches
        for mark in row["marks"]:
            assert set(mark) == {"updates", "images", "seconds", "loss", "accuracy"}
            assert all(math.isfinite(value) and value >= 0 for value in mark.values())
        for key in "updates", "images", "seconds":
            assert (np.diff([mark[key] for mark in row["marks"]]) > 0).all()
    for row in results["speed"] + results["backup"]:
        rates = [value for key, value in row.items() if key.endswith("_per_second") and not isinstance(value, list)]
        rates += [row["seconds"], row["batches_per_update"], *row["worker_batches_per_second"]]
        assert all(math.isfinite(rate) and rate > 0 for rate in rates)


# ------------------------------------------------------------------------------------------ the page's statistics


@pytest.fixture(scope="module")
def page():
    """The functions that the chapter types for its statistics, by name."""
    notebook = nbformat.read(Path(ROOT, "book", "async_or_sync.ipynb"), as_version=4)
    names = {"np": np}
    exec("import itertools", names)
    for cell in notebook.cells:
        if cell.cell_type == "code" and not cell.source.startswith("%%"):
            for node in ast.parse(cell.source).body:
                if isinstance(node, ast.FunctionDef) and node.name in ("sign_flip", "holm"):
                    exec(ast.unparse(node), names)
    return names


def test_sign_flip_is_exact(page):
    # Darwin's maize: Fisher (1935) counts 863 of 32,768 sums in the one tail as large as the one observed.
    maize = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    assert page["sign_flip"](maize) == pytest.approx(2 * 863 / 2**15)
    assert page["sign_flip"]([1.0] * 10) == pytest.approx(2 / 2**10)
    assert page["sign_flip"]([0.1, 0.2, 0.3]) == pytest.approx(2 / 2**3)
    assert page["sign_flip"]([1.0, -1.0]) == 1


def test_holm_corrects_for_many_tests(page):
    adjusted = page["holm"]({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert page["holm"]({"a": 0.9, "b": 0.8}) == {"b": 1, "a": 1}
