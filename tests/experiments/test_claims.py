"""The scorecard: training with gradients of a known age against NumPy; the committed results."""

import json
import math
import re
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from book._ext.environment import environment
from book.experiments import claims, known_ages
from book.experiments.claims import Sizes
from book.experiments.comparisons import column
from book.experiments.known_ages import tuned
from book.experiments.scorecard import CLAIMS, load_all, scorecard
from mnistdist.datasets import DataSet, read_data_sets
from tests.book.book_rules import ROOT

# ------------------------------------------------------------------------------------------ gradients of a known age


def gradients(values, images, labels):
    """Of the mean cross entropy of the text's network, written out."""
    hid_w, hid_b, sm_w, sm_b = values
    hid = np.maximum(images @ hid_w + hid_b, 0)
    powers = np.exp(hid @ sm_w + sm_b)
    wrong = (powers / powers.sum(axis=1, keepdims=True) - labels) / len(images)
    back = (wrong @ sm_w.T) * (hid > 0)
    return [images.T @ back, back.sum(axis=0), hid.T @ wrong, wrong.sum(axis=0)]


@pytest.mark.parametrize(("staleness", "warm_up"), [(0, 0), (1, 0), (4, 0), (4, 6), (16, 3)])
def test_gradients_are_exactly_as_old_as_asked_for(staleness, warm_up):
    from book.experiments.delayed import delayed, initial_values

    updates, rates = 40, np.linspace(0.05, 0.1, 40)
    sgd = delayed("sgd")
    sgd.train(3, rates, staleness=staleness, warm_up=warm_up, batch_size=50)
    order = DataSet(*read_data_sets(one_hot=True).train.stored, seed=[3, 0])
    path = [[value.astype(np.float64) for value in initial_values(3)]]
    for number in range(updates):
        pulled = number if number < warm_up else max(number - staleness, warm_up)
        steps = gradients(path[pulled], *order.next_batch(50))
        path.append([value - rates[number] * step for value, step in zip(path[-1], steps, strict=True)])
    for ours, expected in zip(sgd.values(), path[-1], strict=True):
        np.testing.assert_allclose(ours, expected, atol=2e-5)


def test_what_comes_of_a_training_is_plain_and_repeatable():
    from book.experiments.delayed import delayed

    sgd = delayed("sgd")
    first = sgd.train(5, [0.4] * 100)
    assert first == sgd.train(5, [0.4] * 100)
    assert first != sgd.train(6, [0.4] * 100)
    assert json.loads(json.dumps(first)) == first
    assert not first["diverged"]
    assert 0 < first["error"] < 0.3
    assert first["updates_to_95"] is None


def test_a_training_that_diverges_says_so():
    from book.experiments.delayed import delayed

    outcome = delayed("sgd").train(5, [50.0] * 50)
    assert outcome["diverged"]
    assert outcome["error"] > 0.5
    assert outcome["updates_to_90"] is None


def test_staleness_is_bounded():
    from book.experiments.delayed import OLDEST, delayed

    with pytest.raises(ValueError, match=f"expected 0 to {OLDEST} updates, got {OLDEST + 1}"):
        delayed("sgd").train(5, [0.1], staleness=OLDEST + 1)


@pytest.mark.parametrize("optimizer", ["momentum", "adagrad", "adam"])
def test_every_optimizer_learns(optimizer):
    from book.experiments.delayed import delayed

    rate = {"momentum": 0.05, "adagrad": 0.1, "adam": 0.005}[optimizer]
    assert delayed(optimizer).train(7, [rate] * 150)["error"] < 0.2


# ------------------------------------------------------------------------------------------ experiments, tiny

TINY = Sizes(blocks=2, pilots=1, delayed=16, warm_up_delayed=4, locking=80, live=60, sum=20, bounded=45, pause=0.005)


def test_one_process_experiments_have_every_arm(monkeypatch):
    monkeypatch.setattr(known_ages, "GRIDS", {name: rates[1:3] for name, rates in known_ages.GRIDS.items()})
    results = {}
    for name in "pilot", "staleness", "adagrad_warm_up", "scaling":
        results[name] = [{"block": 0, **row} for row in claims.EXPERIMENTS[name].run([], 0, TINY, results)]
    assert len(results["pilot"]) == 8
    assert set(tuned(results["pilot"])) == set(known_ages.GRIDS)
    for name in "staleness", "adagrad_warm_up", "scaling":
        assert sorted(row["arm"] for row in results[name]) == sorted(ARMS[name])
    low = next(row["rate"] for row in results["scaling"] if row["arm"].startswith("low"))
    assert low == tuned(results["pilot"])["sgd"] / 8


def test_tuned_is_the_rate_with_the_lowest_median_loss():
    rows = [
        {"optimizer": "sgd", "rate": rate, "loss": loss} for rate, loss in ((1, 0.3), (2, 0.2), (2, 0.4), (2, None))
    ]
    assert tuned(rows) == {"sgd": 1}
    assert tuned([*rows, {"optimizer": "sgd", "rate": 4, "loss": 0.25}]) == {"sgd": 4}


def test_steps_are_counted(cluster):
    rows = {row["arm"]: row for row in claims.count_steps([cluster], 0, TINY, {})}
    assert sum(rows["async"]["worker_steps"]) == rows["async"]["global_step"] >= 20
    assert rows["sync"]["global_step"] == 10
    assert len(rows["sync"]["worker_steps"]) == len(cluster.workers)


def test_bounds_hold_workers_back(cluster):
    rows = {row["arm"]: row for row in claims.bounded_delay([cluster], 1, TINY, {})}
    assert sorted(rows) == sorted(ARMS["bounded_delay"])
    assert rows["bound 0"]["waiting"] > rows["no bound"]["waiting"]
    for arm in "bound 0", "bound 4", "no bound":
        assert 0 <= rows[arm]["waiting"] < 1
        assert 0 <= rows[arm]["staleness"] <= 5 * len(cluster.workers)


def test_a_bound_is_kept():
    class Record:
        def __init__(self, worker, local_step):
            self.worker, self.local_step, self.global_step_after = worker, local_step, local_step

    with claims.ahead_at_most(1, 2, 100) as on_step:
        first = [threading.Thread(target=on_step, args=[Record(worker, 1)]) for worker in (0, 1)]
        for worker in first:
            worker.start()
        for worker in first:
            worker.join(10)
        on_step(Record(0, 2))  # one ahead of the other: goes on
        ahead = threading.Thread(target=on_step, args=[Record(0, 3)])
        ahead.start()
        ahead.join(0.3)
        assert ahead.is_alive()
        on_step(Record(1, 2))
        ahead.join(10)
        assert not ahead.is_alive()


def test_locks_shards_and_live_staleness_are_measured(cluster):
    rows = {row["arm"]: row for row in claims.locking([cluster], 0, TINY, {})}
    assert sorted(rows) == sorted(ARMS["locking"])
    assert all(0 < row["error"] < 1 and row["updates_per_second"] > 0 for row in rows.values())
    for row in claims.staleness_live([cluster], 0, TINY, {}):
        assert 0 <= row["staleness"] <= 5


# ------------------------------------------------------------------------------------------ the committed results

ARMS = {
    "staleness": [
        f"{arm}, {age}"
        for arm in (
            *(f"{name}, best rate" for name in ("sgd", "momentum", "adagrad", "adam")),
            "sgd, low rate",
            "adam, low rate",
            "adam, the text's rate",
        )
        for age in (0, 1, 4, 16)
    ],
    "adagrad_warm_up": [f"{name}, best rate, {age}" for name in ("sgd", "adagrad") for age in (4, 16)],
    "scaling": [
        f"{rate}, {arm}"
        for rate in ("best rate", "low rate")
        for arm in ("small", "large", "large, scaled", "large, scaled, warm-up")
    ],
    "sum": ["async", "sync"],
    "bounded_delay": ["bound 0", "bound 4", "no bound", "sync"],
    "locking": [f"{design}, {lock}" for design in ("fast", "listing") for lock in ("lock", "no lock")],
    "staleness_live": [f"{design}, {n} workers" for design in ("fast", "listing") for n in (2, 3, 4)],
    "sharding": [f"{units} hidden units, {ps} ps" for units in (100, 1000) for ps in (1, 2, 4)],
}


@pytest.fixture(scope="module")
def committed():
    return load_all()


def test_the_committed_results_are_complete():
    results = json.loads(claims.FILE.read_text(encoding="utf-8"))
    sizes = Sizes(**results["sizes"])
    assert sizes.blocks >= 10
    assert set(results) == {"environment", "sizes", "pilot", *ARMS}
    assert set(results["environment"]) == set(dict(environment()))
    for name, arms in ARMS.items():
        counts = Counter((row["block"], row["arm"]) for row in results[name])
        assert counts == Counter((block, arm) for block in range(sizes.blocks) for arm in arms)
    pilots = Counter((row["optimizer"], row["rate"]) for row in results["pilot"])
    assert pilots == Counter({(name, rate): sizes.pilots for name, grid in known_ages.GRIDS.items() for rate in grid})
    for name in ARMS:
        for row in results[name]:
            numbers = [value for value in row.values() if isinstance(value, float)]
            assert all(math.isfinite(number) for number in numbers)


def test_every_row_of_the_scorecard_says_all_it_has_to(committed):
    rows = scorecard(committed)
    assert len(rows) == len({row["claim"] for row in rows}) == len(CLAIMS)
    keys = set(re.findall(r"^## (.+)$", Path(ROOT, "book", "references.md").read_text(encoding="utf-8"), re.M))
    for row in rows:
        assert list(row) == ["source", "claim", "theirs", "ours", "verdict", "why"]
        assert row["source"] in keys
        assert row["verdict"] in ("reproduced", "not reproduced", "out of reach")
        assert all(row.values())
        assert row["claim"].endswith(".")
        assert row["why"].endswith(".")
        if row["verdict"] != "out of reach":
            assert re.search(r"\d \([\d.]+ to [\d.]+\)", row["ours"]), row["ours"]
            assert re.search(r"p = \d\.\d{3}", row["why"])


def test_a_verdict_follows_the_rows(committed):
    name = "In synchronous training the loss falls faster."
    swap = {"sync": "async", "async": "sync"}
    turned = [row | {"arm": swap.get(row["arm"], row["arm"])} for row in committed["learning"]]
    before, after = (
        next(row for row in scorecard(results) if row["claim"] == name)
        for results in (committed, committed | {"learning": turned})
    )
    assert before["verdict"] == "reproduced"
    assert after["verdict"] == "not reproduced"
    assert "The opposite is shown" in after["why"]


def test_no_small_number_of_blocks_reproduces_anything(committed):
    few = {name: [row for row in rows if row["block"] < 4] for name, rows in committed.items()}
    assert not [row for row in scorecard(few) if row["verdict"] == "reproduced"]


def test_missing_blocks_are_named():
    rows = [{"block": block, "arm": "a", "value": 1.0} for block in (0, 2)]
    with pytest.raises(ValueError, match=re.escape("a: expected blocks from 0 on, got [0, 2]")):
        column(rows, "a", "value")
    with pytest.raises(ValueError, match=re.escape("b: expected blocks from 0 on, got []")):
        column(rows, "b", "value")
