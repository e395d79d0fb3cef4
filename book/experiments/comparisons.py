"""What each claim of the scorecard compares, as a ratio for each block, and text that says what was found."""

import numpy as np

from book.experiments.significance import Comparison, spread


def column(rows, arm, what):
    """One value for each block of one arm, in the order of the blocks; ``what`` is a key or a function of the row."""
    found = {row["block"]: what(row) if callable(what) else row[what] for row in rows if row["arm"] == arm}
    if not found or sorted(found) != list(range(len(found))):
        raise ValueError(f"{arm}: expected blocks from 0 on, got {sorted(found)}: measure the missing ones")
    return np.array([found[block] for block in range(len(found))], float)


def ratio(rows, what, arm, other):
    """One ratio for each block: one arm's value over the other's."""
    return column(rows, arm, what) / column(rows, other, what)


# ---- of book/experiments/async_or_sync.json


def heights(results, against):
    """The mean height of the synchronous loss over the asynchronous one, at equal updates, images or seconds.

    It is the geometric mean of their ratio at 20 points of the stretch where both are known, as in the chapter.
    """
    marks = {(row["arm"], row["block"]): row["marks"] for row in results["learning"]}
    means = []
    for block in sorted({block for _, block in marks}):
        pair = [
            {key: np.array([mark[key] for mark in marks[arm, block]]) for key in (against, "loss")}
            for arm in ("sync", "async")
        ]
        end = min(curve[against][-1] for curve in pair)
        grid = np.linspace(end / 20, end, 20)
        sync, other = (np.interp(grid, curve[against], np.log(curve["loss"])) for curve in pair)
        means.append(np.exp(np.mean(sync - other)))
    return means


def falls_faster(results):
    return [
        Comparison(f"loss of sync / async at equal {against}", heights(results, against), "below")
        for against in ("updates", "images", "seconds")
    ]


def fewest_mistakes(row):
    return 1 - max(mark["accuracy"] for mark in row["marks"])


def higher_top(results):
    ratios = ratio(results["learning"], fewest_mistakes, "sync", "async")
    return [Comparison("mistakes of sync / async, each at its best", ratios, "below")]


def set_by_the_slowest(results):
    rows = results["speed"]
    own_pace = column(rows, "one slow, async", lambda row: row["worker_batches_per_second"][-1])
    rounds = column(rows, "one slow, sync", "updates_per_second")
    return [
        Comparison("rounds a second / steps of the slow worker when nobody waits", rounds / own_pace, "at", 0.1),
        Comparison("rounds, one slow / equal", rounds / column(rows, "equal, sync", "updates_per_second"), "below"),
    ]


def efficiency(results, kind):
    return ratio(results["speed"], "batches_per_second", f"{kind}, sync", f"{kind}, async")


def efficient_when_equal(results):
    equal = efficiency(results, "equal")
    return [
        Comparison("part of the asynchronous speed, equal / varying", equal / efficiency(results, "varying"), "above"),
        Comparison("equal / one slow", equal / efficiency(results, "one slow"), "above"),
    ]


def efficiencies(results):
    kinds = "equal", "varying", "one slow"
    said = ", ".join(f"{kind} {spread(efficiency(results, kind))}" for kind in kinds)
    return f"batches a second, sync / async: {said}"


def straggler_dominates(results):
    ratios = ratio(results["backup"], "updates_per_second", "sync, 3 of 3", "sync, 3 of 3, nobody slow")
    return [Comparison("rounds a second, one of three slow / none", ratios, "below")]


def backup_workers(results):
    ratios = ratio(results["backup"], "updates_per_second", "sync, 2 of 3", "sync, 3 of 3")
    return [Comparison("rounds a second, 2 of 3 / 3 of 3, one worker slow", ratios, "above")]


# ---- of book/experiments/claims.json


def counted(results):
    def steps_per_update(row):
        return sum(row["worker_steps"]) / row["global_step"]

    rows = results["sum"]
    return [
        Comparison("async: steps of three workers / global step", column(rows, "async", steps_per_update), "at", 0.01),
        Comparison("sync: the same / 3", column(rows, "sync", steps_per_update) / 3, "at", 0.1),
    ]


def stale_by_n_minus_1(results):
    return [
        Comparison(
            f"{design}, {n} workers: mean staleness / {n - 1}",
            column(results["staleness_live"], f"{design}, {n} workers", "staleness") / (n - 1),
            "at",
            0.1,
        )
        for design in ("listing", "fast")
        for n in (2, 3, 4)
    ]


def errors(results, arm):
    """The values of staleness that were tried, and the errors as an array of (staleness, block)."""
    ages = sorted({row["staleness"] for row in results["staleness"]})
    return ages, np.array([column(results["staleness"], f"{arm}, {age}", "error") for age in ages])


def growth(results, arm):
    """The factor of the mistakes each time staleness + 1 doubles: the slope of a line through all."""
    ages, found = errors(results, arm)
    return np.exp2(np.polyfit(np.log2(np.array(ages) + 1), np.log2(found), 1)[0])


def harm(results, arm):
    """Geometric mean of the mistakes at staleness 1, 4 and 16 over those at 0; no line, as guessing is the ceiling."""
    _, (fresh, *stale) = errors(results, arm)
    return np.exp(np.mean(np.log(stale), axis=0)) / fresh


OPTIMIZERS = (*(f"{name}, best rate" for name in ("sgd", "momentum", "adagrad", "adam")), "adam, the text's rate")


def error_grows(results):
    return [
        Comparison(f"{arm}: mistakes each time staleness + 1 doubles", growth(results, arm), "above")
        for arm in OPTIMIZERS
    ]


def errors_by_age(results, arms, measure=harm):
    """Median error at each staleness, and harm, or growth."""
    said = []
    for arm in arms:
        ages, found = errors(results, arm)
        medians = ", ".join(f"{error:.1%}" for error in np.median(found, axis=1))
        name = arm.replace("the text's", "the classic program's")
        said.append(f"{name}: {medians}, {measure.__name__} {spread(measure(results, arm))}")
    return f"median error at staleness {', '.join(map(str, ages))}, and {measure.__name__}: {'; '.join(said)}"


HARM = "harm (geometric mean of the mistakes at staleness 1, 4 and 16, over those at 0)"


def suffers(results, optimizer, rate, side):
    ratios = harm(results, f"{optimizer}, {rate}") / harm(results, f"sgd, {rate}")
    return [Comparison(f"{HARM}, {optimizer.capitalize()} / SGD", ratios, side)]


def warmed(results, optimizer, age):
    """Mistakes with a warm start over those without."""
    arm = f"{optimizer}, best rate, {age}"
    return column(results["adagrad_warm_up"], arm, "error") / column(results["staleness"], arm, "error")


def warm_start_steadies(results):
    return [
        Comparison(f"{name}: mistakes at staleness {age} with / without", warmed(results, name, age), "below")
        for name in ("adagrad", "sgd")
        for age in (4, 16)
    ]


def without_locks(results, what, key, *side):
    return [
        Comparison(
            f"{design} design: {what} without / with a lock",
            ratio(results["locking"], key, f"{design}, no lock", f"{design}, lock"),
            *side,
        )
        for design in ("listing", "fast")
    ]


def rate_scales(results, name):
    def over_small(arm):
        return ratio(results["scaling"], "error", f"{name}, {arm}", f"{name}, small")

    return [
        Comparison(
            "mistakes, batches 8 times as large, rate scaled after a warm-up / small ones",
            over_small(SCALED),
            "at",
            0.1,
        ),
        Comparison("mistakes, batches 8 times as large, rate as before / small ones", over_small("large"), "above"),
    ]


SCALED = "large, scaled, warm-up"


def scaling_errors(results, name):
    """Error of each arm."""
    labels = {
        "small": "batches of 100",
        "large": "of 800 with the same rate",
        "large, scaled": "with 8 times the rate",
        SCALED: "and after a warm-up",
    }
    errors = {arm: 100 * column(results["scaling"], f"{name}, {arm}", "error") for arm in labels}
    return "error: " + "; ".join(f"{label} {spread(errors[arm])}%" for arm, label in labels.items())


def warm_up_helps(results):
    rows = results["scaling"]
    return [
        Comparison(
            f"mistakes with / without a warm-up, from the {name}",
            ratio(rows, "error", f"{name}, {SCALED}", f"{name}, large, scaled"),
            "below",
        )
        for name in ("best rate", "low rate")
    ]


def of_one_ps(results, units, ps):
    """Updates a second with several ps over those with one ps."""
    arms = (f"{units} hidden units, {number} ps" for number in (ps, 1))
    return ratio(results["sharding"], "updates_per_second", *arms)


def shards_speed_up(results):
    return [
        Comparison(f"1000 hidden units: updates a second, {ps} ps / 1", of_one_ps(results, 1000, ps), "above")
        for ps in (2, 4)
    ]


def sharding_speeds(results):
    said = (
        f"{units} hidden units, {ps} ps / 1: {spread(of_one_ps(results, units, ps))}"
        for units in (1000, 100)
        for ps in (2, 4)
    )
    return f"updates a second: {'; '.join(said)}"


def middle_bound(results):
    return next(row["arm"] for row in results["bounded_delay"] if row["arm"] not in ("bound 0", "no bound", "sync"))


def bound_trades(results):
    rows, middle = results["bounded_delay"], middle_bound(results)
    pairs = ("bound 0", middle), (middle, "no bound")
    return [
        Comparison(f"{what}, {tight} / {loose}", ratio(rows, what, tight, loose), side)
        for what, side in (("waiting", "above"), ("staleness", "below"))
        for tight, loose in pairs
    ]


def bound_table(results):
    rows = results["bounded_delay"]
    said = (
        f"{arm}: {spread(100 * column(rows, arm, 'waiting'))}% between steps, "
        f"staleness {spread(column(rows, arm, 'staleness'))}, "
        f"{spread(column(rows, arm, 'batches_per_second'))} batches a second"
        for arm in ("bound 0", middle_bound(results), "no bound")
    )
    return "; ".join(said) + f"; sync: {spread(column(rows, 'sync', 'batches_per_second'))} batches a second"
