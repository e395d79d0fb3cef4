"""Which published claims hold here: turn measured rows into a scorecard, by a rule and never by hand.

The rule is that of the chapter "Async or sync". A claim says that some ratio is above 1, or below, in one comparison or
in several. Each comparison is made within a block; how often chance alone would be as far from 1 is counted exactly
(a sign-flip test). A claim of several comparisons is only as good as its worst one, so that one's p is the claim's; and
the claims' p are corrected for their number (Holm). A claim is reproduced if all of its comparisons come out on its
side and its corrected p is below 0.05. It is not if the opposite is shown by the same measure, or nothing.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

ALPHA = 0.05
REPRODUCED, NOT_REPRODUCED, OUT_OF_REACH = "reproduced", "not reproduced", "out of reach"


@dataclass(frozen=True)
class Comparison:
    """One ratio a block, and on which side of 1 the claim has it.

    Attributes:
        what: What is divided by what.
        ratios: One a block, above 0.
        side: ``"above"`` or ``"below"`` 1; ``"at"`` for within ``tolerance`` of it.
        tolerance: How far from 1 still counts as equal: 0.1 for 1/1.1 to 1.1.
    """

    what: str
    ratios: tuple
    side: str
    tolerance: float = 0.0

    @property
    def logs(self):
        """What the claim has above 0, a list for each test: equality is two, above the one bound, below the other."""
        logs, bound = np.log(np.asarray(self.ratios, float)), np.log1p(self.tolerance)
        return {"above": [logs], "below": [-logs], "at": [logs + bound, bound - logs]}[self.side]

    @property
    def holds(self):
        """Whether the geometric mean, which is what the test tests, is on the claim's side."""
        return all(np.mean(logs) > 0 for logs in self.logs)

    @property
    def p(self):
        """How often chance alone would be as far from 1, or from the worse bound, on the claim's side."""
        return max(sign_flip(logs) for logs in self.logs)

    @property
    def p_against(self):
        """The same on the other side."""
        return min(sign_flip(logs) for logs in self.logs if not np.mean(logs) > 0)


@dataclass(frozen=True)
class Claim:
    """A row of the scorecard.

    Attributes:
        source: Key in ``references.bib``.
        claim: One sentence.
        theirs: Their number and its condition, as text.
        compare: Makes a list of :class:`Comparison` of the results; None where it can't be tried here.
        remark: What to know of our conditions; why it can't be tried.
        shown: Makes the text of what was measured from the results; None for the comparisons' ratios.
    """

    source: str
    claim: str
    theirs: str
    compare: Callable | None
    remark: str
    shown: Callable | None = None


def sign_flip(differences):
    """Share of all choices of signs whose sum is as far from 0 as the sum of these differences."""
    signs = np.array(list(itertools.product([1, -1], repeat=len(differences))))
    sums = abs(signs @ np.asarray(differences, float))
    return float((sums >= abs(np.sum(differences)) * (1 - 1e-9)).mean())


def holm(tested):
    """Corrects p values, given by name, for their number (Holm's step-down method)."""
    corrected, largest = {}, 0.0
    for rank, name in enumerate(sorted(tested, key=tested.get)):
        largest = max(largest, min(1.0, (len(tested) - rank) * tested[name]))
        corrected[name] = largest
    return corrected


def probability(comparisons):
    """The p of what the comparisons of a claim speak for: for it if all are on its side, else against it.

    Where all are on one side the worst of them counts, for the claim or against it. Else a single one is enough against
    it, and has to make up for their number.
    """
    failed = [c for c in comparisons if not c.holds]
    if not failed:
        return max(c.p for c in comparisons)
    if len(failed) == len(comparisons):
        return max(c.p_against for c in failed)
    return min(1.0, len(comparisons) * min(c.p_against for c in failed))


def judge(comparisons, p):
    """Verdict and reason for a claim's comparisons, whose corrected p is given: two strings."""
    failed = [c for c in comparisons if not c.holds]
    if p >= ALPHA:
        weakest = min(failed, key=lambda c: c.p_against) if failed else max(comparisons, key=lambda c: c.p)
        return NOT_REPRODUCED, f"nothing is shown either way (p = {p:.3f}): {weakest.what}"
    if failed:
        worst = min(failed, key=lambda c: c.p_against)
        return NOT_REPRODUCED, f"the opposite is shown (p = {p:.3f}): {worst.what} is {_instead(worst)}"
    return REPRODUCED, f"all of it comes out as claimed (p = {p:.3f})"


def _instead(comparison):
    if comparison.side != "at":
        return {"above": "below", "below": "above"}[comparison.side] + " 1"
    side = "above" if np.mean(np.log(comparison.ratios)) > 0 else "below"
    return f"{side} 1 by more than {comparison.tolerance:.0%}"


def scorecard(results, claims=None):
    """All rows as text: dicts with source, claim, theirs, ours, verdict and why.

    Args: rows by experiment, as ``book.experiments.claims.load_all()`` reads them; the claims, None for ``CLAIMS``.
    """
    claims = CLAIMS if claims is None else claims
    compared = {claim.claim: claim.compare(results) for claim in claims if claim.compare}
    corrected = holm({name: probability(comparisons) for name, comparisons in compared.items()})
    rows = []
    for claim in claims:
        row = {"source": claim.source, "claim": claim.claim, "theirs": claim.theirs}
        if claim.compare is None:
            rows.append(row | {"ours": "not measured", "verdict": OUT_OF_REACH, "why": f"{claim.remark}."})
            continue
        comparisons = compared[claim.claim]
        verdict, why = judge(comparisons, corrected[claim.claim])
        ours = claim.shown(results) if claim.shown else "; ".join(f"{c.what}: {spread(c.ratios)}" for c in comparisons)
        why = f"{why}; {claim.remark}." if claim.remark else f"{why}."
        rows.append(row | {"ours": ours, "verdict": verdict, "why": why[0].upper() + why[1:]})
    return rows


def spread(values):
    """Median and range, to three significant digits."""
    low, middle, high = (f"{value:#.3g}".rstrip(".") for value in np.quantile(values, [0, 0.5, 1]))
    return f"{middle} ({low} to {high})"


# ------------------------------------------------------------------------------------- from rows to ratios


def column(rows, arm, what):
    """One value a block of one arm, in the order of the blocks; a function of the row may say which."""
    found = {row["block"]: what(row) if callable(what) else row[what] for row in rows if row["arm"] == arm}
    if not found or sorted(found) != list(range(len(found))):
        raise ValueError(f"{arm}: expected blocks from 0 on, got {sorted(found)}: measure the missing ones")
    return np.array([found[block] for block in range(len(found))], float)


def ratio(rows, what, arm, other):
    """One value a block, one arm's over the other's."""
    return column(rows, arm, what) / column(rows, other, what)


def compare(what, ratios, side, tolerance=0.0):
    """A :class:`Comparison`."""
    return Comparison(what, tuple(float(value) for value in ratios), side, tolerance)


# ---- of book/experiments/async_or_sync.json


def heights(results, against):
    """Mean height of the synchronous loss over the asynchronous one, at equal updates, images or seconds.

    The geometric mean of their ratio at 20 points of the stretch where both are known, as in the chapter.
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
        compare(f"loss of sync / async at equal {against}", heights(results, against), "below")
        for against in ("updates", "images", "seconds")
    ]


def fewest_mistakes(row):
    return 1 - max(mark["accuracy"] for mark in row["marks"])


def higher_top(results):
    ratios = ratio(results["learning"], fewest_mistakes, "sync", "async")
    return [compare("mistakes of sync / async, each at its best", ratios, "below")]


def set_by_the_slowest(results):
    rows = results["speed"]
    own_pace = column(rows, "one slow, async", lambda row: row["worker_batches_per_second"][-1])
    rounds = column(rows, "one slow, sync", "updates_per_second")
    return [
        compare("rounds a second / steps of the slow worker when nobody waits", rounds / own_pace, "at", 0.1),
        compare("rounds, one slow / equal", rounds / column(rows, "equal, sync", "updates_per_second"), "below"),
    ]


def efficiency(results, kind):
    return ratio(results["speed"], "batches_per_second", f"{kind}, sync", f"{kind}, async")


def efficient_when_equal(results):
    equal = efficiency(results, "equal")
    return [
        compare("part of the asynchronous speed, equal / varying", equal / efficiency(results, "varying"), "above"),
        compare("equal / one slow", equal / efficiency(results, "one slow"), "above"),
    ]


def efficiencies(results):
    kinds = "equal", "varying", "one slow"
    said = ", ".join(f"{kind} {spread(efficiency(results, kind))}" for kind in kinds)
    return f"batches a second, sync / async: {said}"


def straggler_dominates(results):
    ratios = ratio(results["backup"], "updates_per_second", "sync, 3 of 3", "sync, 3 of 3, nobody slow")
    return [compare("rounds a second, one of three slow / none", ratios, "below")]


def backup_workers(results):
    ratios = ratio(results["backup"], "updates_per_second", "sync, 2 of 3", "sync, 3 of 3")
    return [compare("rounds a second, 2 of 3 / 3 of 3, one worker slow", ratios, "above")]


# ---- of book/experiments/claims.json


def counted(results):
    def steps_per_update(row):
        return sum(row["worker_steps"]) / row["global_step"]

    rows = results["sum"]
    return [
        compare("async: steps of three workers / global step", column(rows, "async", steps_per_update), "at", 0.01),
        compare("sync: the same / 3", column(rows, "sync", steps_per_update) / 3, "at", 0.1),
    ]


def stale_by_n_minus_1(results):
    return [
        compare(
            f"{design}, {n} workers: mean staleness / {n - 1}",
            column(results["staleness_live"], f"{design}, {n} workers", "staleness") / (n - 1),
            "at",
            0.1,
        )
        for design in ("listing", "fast")
        for n in (2, 3, 4)
    ]


def errors(results, arm):
    """The staleness that was tried, and the errors: an array of (staleness, block)."""
    ages = sorted({row["staleness"] for row in results["staleness"]})
    return ages, np.array([column(results["staleness"], f"{arm}, {age}", "error") for age in ages])


def growth(results, arm):
    """By what the mistakes are multiplied when the staleness, plus one, is doubled: the slope of a line through all."""
    ages, found = errors(results, arm)
    return np.exp2(np.polyfit(np.log2(np.array(ages) + 1), np.log2(found), 1)[0])


def harm(results, arm):
    """Mistakes at staleness 1, 4 and 16 over those at 0, their geometric mean: no line, as guessing is the ceiling."""
    _, (fresh, *stale) = errors(results, arm)
    return np.exp(np.mean(np.log(stale), axis=0)) / fresh


OPTIMIZERS = (*(f"{name}, best rate" for name in ("sgd", "momentum", "adagrad", "adam")), "adam, the text's rate")


def error_grows(results):
    return [
        compare(f"{arm}: mistakes each time staleness + 1 doubles", growth(results, arm), "above") for arm in OPTIMIZERS
    ]


def errors_by_age(results, arms, measure=harm):
    """Median error at each staleness, and harm, or growth."""
    said = []
    for arm in arms:
        ages, found = errors(results, arm)
        medians = ", ".join(f"{error:.1%}" for error in np.median(found, axis=1))
        said.append(f"{arm}: {medians}, {measure.__name__} {spread(measure(results, arm))}")
    return f"median error at staleness {', '.join(map(str, ages))}, and {measure.__name__}: {'; '.join(said)}"


HARM = "harm (geometric mean of the mistakes at staleness 1, 4 and 16, over those at 0)"


def adam_suffers_more(results, rate):
    ratios = harm(results, f"adam, {rate}") / harm(results, f"sgd, {rate}")
    return [compare(f"{HARM}, Adam / SGD", ratios, "above")]


def adagrad_steadies(results):
    ratios = harm(results, "adagrad, best rate") / harm(results, "sgd, best rate")
    return [compare(f"{HARM}, Adagrad / SGD", ratios, "below")]


def warmed(results, optimizer, age):
    """Mistakes with a warm start over those without."""
    arm = f"{optimizer}, best rate, {age}"
    return column(results["adagrad_warm_up"], arm, "error") / column(results["staleness"], arm, "error")


def warm_start_steadies(results):
    return [
        compare(f"{name}: mistakes at staleness {age} with / without", warmed(results, name, age), "below")
        for name in ("adagrad", "sgd")
        for age in (4, 16)
    ]


def faster_without_locks(results):
    rows = results["locking"]
    return [
        compare(
            f"{design} design: updates a second without / with a lock",
            ratio(rows, "updates_per_second", f"{design}, no lock", f"{design}, lock"),
            "above",
        )
        for design in ("listing", "fast")
    ]


def no_worse_without_locks(results):
    rows = results["locking"]
    return [
        compare(
            f"{design} design: mistakes without / with a lock",
            ratio(rows, "error", f"{design}, no lock", f"{design}, lock"),
            "at",
            0.1,
        )
        for design in ("listing", "fast")
    ]


def rate_scales(results, name):
    def over_small(arm):
        return ratio(results["scaling"], "error", f"{name}, {arm}", f"{name}, small")

    return [
        compare(
            "mistakes, batches 8 times as large, rate scaled after a warm-up / small ones",
            over_small(SCALED),
            "at",
            0.1,
        ),
        compare("mistakes, batches 8 times as large, rate as before / small ones", over_small("large"), "above"),
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
        compare(
            f"mistakes with / without a warm-up, from the {name}",
            ratio(rows, "error", f"{name}, {SCALED}", f"{name}, large, scaled"),
            "below",
        )
        for name in ("best rate", "low rate")
    ]


def shards_speed_up(results):
    def updates(units, ps):
        return column(results["sharding"], f"{units} hidden units, {ps} ps", "updates_per_second")

    return [
        compare(f"{units} hidden units: updates a second, {ps} ps / 1", updates(units, ps) / updates(units, 1), "above")
        for units in (1000,)
        for ps in (2, 4)
    ]


def sharding_speeds(results):
    def updates(units, ps):
        return column(results["sharding"], f"{units} hidden units, {ps} ps", "updates_per_second")

    said = (
        f"{units} hidden units, {ps} ps / 1: {spread(updates(units, ps) / updates(units, 1))}"
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
        compare(f"{what}, {tight} / {loose}", ratio(rows, what, tight, loose), side)
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


# ------------------------------------------------------------------------------------- the claims

CLAIMS = (
    Claim(
        "huang2017",
        "In synchronous training the loss falls faster.",
        "no number",
        falls_faster,
        "two workers; a round uses twice the images of an update, so the batch differs too",
    ),
    Claim(
        "huang2017",
        "Synchronous training reaches a higher top accuracy.",
        "no number",
        higher_top,
        "300,000 images, the best of twenty looks at the validation set",
    ),
    Claim(
        "huang2017",
        "The speed of synchronous training is set by the slowest worker.",
        "no number",
        set_by_the_slowest,
        "one of two workers sleeps for 0.1 s after each step",
    ),
    Claim(
        "huang2017",
        "When all workers are equally fast, synchronous training is efficient.",
        "no number",
        efficient_when_equal,
        "the test is whether it is then at its most efficient, since efficient has no number",
        efficiencies,
    ),
    Claim(
        "huang2017",
        "The global step is the sum of the workers' steps where asynchronous, the number of rounds where synchronous.",
        "exactly",
        counted,
        "initial tokens and the last round let a synchronous worker make a step more or less",
    ),
    Claim(
        "syncreplicas",
        "In asynchronous training with N workers a gradient is N - 1 steps stale on average.",
        "N - 1",
        stale_by_n_minus_1,
        "between its push and its next pull a worker holds no parameters that could become stale",
    ),
    Claim(
        "syncreplicas",
        "A round that needs fewer gradients than there are workers is not held up by a slow one.",
        "example: 50 gradients of 52 workers, 2 of them backups",
        backup_workers,
        "one backup of three workers, the slow one sleeps for 0.1 s after each step",
    ),
    Claim(
        "chen2016",
        "A few stragglers dominate the time of a synchronous round.",
        "100 workers, Inception (as cited)",
        straggler_dominates,
        "the straggler is made, not met: one of three workers sleeps for 0.1 s after each step",
    ),
    Claim(
        "chen2016",
        "The error grows with the mean staleness.",
        "CNN on MNIST: 0.36% of test images at staleness 0, 0.47% at 20, 0.79% at 50 (as cited)",
        error_grows,
        "one hidden layer, 1,000 updates, every gradient of the same age, rates tuned at staleness 0; growth is by "
        "what the mistakes are multiplied when staleness + 1 doubles",
        lambda results: errors_by_age(results, OPTIMIZERS, growth),
    ),
    Claim(
        "chen2016",
        "Of 100 machines, 96 workers and 4 backups finish first.",
        "N = 96, b = 4, Inception on ImageNet",
        None,
        "It takes a hundred machines with stragglers of their own; the best split follows from how those are spread",
    ),
    Claim(
        "dai2019",
        "Staleness hurts Adam more than SGD.",
        "many models, in simulated staleness; no one number (as cited)",
        lambda results: adam_suffers_more(results, "best rate"),
        "every gradient of the same age, each optimizer at the rate that is best at staleness 0",
        lambda results: errors_by_age(results, ("sgd, best rate", "adam, best rate")),
    ),
    Claim(
        "dai2019",
        "Staleness hurts Adam more than SGD, at cautious rates.",
        "as above",
        lambda results: adam_suffers_more(results, "low rate"),
        "as before, each at an eighth of that rate",
        lambda results: errors_by_age(results, ("sgd, low rate", "adam, low rate")),
    ),
    Claim(
        "dean2012",
        "Adagrad makes asynchronous training more robust than SGD.",
        "it extends the number of replicas that can work productively; no number",
        adagrad_steadies,
        "every gradient of the same age, rates tuned at staleness 0",
        lambda results: errors_by_age(results, ("sgd, best rate", "adagrad, best rate")),
    ),
    Claim(
        "dean2012",
        "A warm start with a single replica steadies asynchronous training.",
        "with Adagrad it has virtually eliminated concerns about stability",
        warm_start_steadies,
        "100 of 1,000 updates at staleness 0, then all at 4 or at 16, with the rates that are best without",
    ),
    Claim(
        "recht2011",
        "Updates without locks are faster.",
        "an order of magnitude, on sparse problems and many cores",
        faster_without_locks,
        "this problem is dense, with two workers, and the lock is held only while an update is applied",
    ),
    Claim(
        "recht2011",
        "Updates that overwrite each other now and then do no harm to what is learned.",
        "nearly optimal convergence, on sparse problems",
        no_worse_without_locks,
        "dense updates by two workers, after 500 of them; no harm is taken as within 10% of the mistakes",
    ),
    Claim(
        "goyal2017",
        "With batches k times as large, a learning rate k times as large after a warm-up keeps the accuracy.",
        "ImageNet top-1 error 23.74% with batches of 8,192 against 23.60% with 256",
        lambda results: rate_scales(results, "best rate"),
        "k = 8, from the best rate of batches of 100; as many images, so an eighth of the updates",
        lambda results: scaling_errors(results, "best rate"),
    ),
    Claim(
        "goyal2017",
        "With batches k times as large, k times a cautious learning rate keeps the accuracy after a warm-up.",
        "as above",
        lambda results: rate_scales(results, "low rate"),
        "k = 8, from an eighth of that rate, so that k times it is a rate that is known to work",
        lambda results: scaling_errors(results, "low rate"),
    ),
    Claim(
        "goyal2017",
        "The warm-up is what makes the large rate work.",
        "ImageNet top-1 error 23.74% with gradual warm-up, 24.84% without",
        warm_up_helps,
        "k = 8, over a fifth of the updates",
    ),
    Claim(
        "zhang2023",
        "With n servers instead of one the cost of updates falls from O(m) to O(m/n) for m workers.",
        "a count of what each server sends, no measurement",
        shards_speed_up,
        "two workers; the servers of one machine share its cores and its memory",
        sharding_speeds,
    ),
    Claim(
        "li2014",
        "A bound on the delay trades waiting for staleness.",
        "50% idle with a bound of 0, 1.7% with 16; more iterations instead, so that 8 is best",
        bound_trades,
        "three workers that pause between pull and push",
        bound_table,
    ),
    Claim(
        "li2014",
        "The more machine-hours a job takes, the likelier it fails.",
        "7.8% of jobs of 100 machine-hours, 13.7% of 1,000, 24.7% of 10,000",
        None,
        "It takes the logs of a data centre; the book tries what a single failure does, not how often it comes",
    ),
)
