"""Which published claims hold here: the claims, and a rule that judges them by the measured rows, never by hand."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from book.experiments import comparisons as compare
from book.experiments.blocks import FOLDER
from book.experiments.significance import OUT_OF_REACH, holm, judge, probability, spread

FILES = (FOLDER / "async_or_sync.json", FOLDER / "claims.json")


@dataclass(frozen=True)
class Claim:
    """A row of the scorecard.

    Attributes:
        source: The heading of the source on the references page.
        claim: One sentence.
        theirs: Their number and its condition, as text.
        compare: Makes a list of :class:`Comparison` from the results; None if the claim can't be tried here.
        remark: What to know about our conditions, or why the claim can't be tried.
        shown: Makes the text of what was measured from the results; None shows the ratios of the comparisons.
    """

    source: str
    claim: str
    theirs: str
    compare: Callable | None
    remark: str
    shown: Callable | None = None


def load_all(*paths):
    """The rows of these files, by default of both committed ones: a dict from experiment to rows."""
    results = {}
    for path in paths or FILES:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        results |= {name: rows for name, rows in found.items() if name not in ("environment", "sizes")}
    return results


def scorecard(results, claims=None):
    """All rows as text: dicts with source, claim, theirs, ours, verdict and why.

    ``results`` holds rows by experiment, as :func:`load_all` reads them; None for ``claims`` means ``CLAIMS``.
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


CLAIMS = (
    Claim(
        "Huang and Tang (2017)",
        "In synchronous training the loss falls faster.",
        "no number",
        compare.falls_faster,
        "there are two workers, and a round uses twice the images of an update, so the batch differs too",
    ),
    Claim(
        "Huang and Tang (2017)",
        "Synchronous training reaches a higher top accuracy.",
        "no number",
        compare.higher_top,
        "each training uses 300,000 images, and the best of twenty looks at the validation set counts",
    ),
    Claim(
        "Huang and Tang (2017)",
        "The speed of synchronous training is set by the slowest worker.",
        "no number",
        compare.set_by_the_slowest,
        "one of two workers sleeps for 0.1 s after each step",
    ),
    Claim(
        "Huang and Tang (2017)",
        "When all workers are equally fast, synchronous training is efficient.",
        "no number",
        compare.efficient_when_equal,
        "no number says what efficient is, so the test is whether equal workers make it most efficient",
        compare.efficiencies,
    ),
    Claim(
        "Huang and Tang (2017)",
        "The global step is the sum of the workers' steps if asynchronous, and the number of rounds if synchronous.",
        "exactly",
        compare.counted,
        "because of initial tokens and the last round, a synchronous worker may make a step more or less",
    ),
    Claim(
        "TensorFlow documentation (2024)",
        "In asynchronous training with N workers a gradient is N - 1 steps stale on average.",
        "N - 1",
        compare.stale_by_n_minus_1,
        "between its push and its next pull, a worker holds no parameters that could become stale",
    ),
    Claim(
        "TensorFlow documentation (2024)",
        "A round that needs fewer gradients than there are workers is not held up by a slow one.",
        "example: 50 gradients of 52 workers, 2 of them backups",
        compare.backup_workers,
        "one of three workers is a backup, and the slow one sleeps for 0.1 s after each step",
    ),
    Claim(
        "Chen et al. (2016)",
        "A few stragglers dominate the time of a synchronous round.",
        "100 workers, Inception (as cited)",
        compare.straggler_dominates,
        "the straggler is artificial: one of three workers sleeps for 0.1 s after each step",
    ),
    Claim(
        "Chen et al. (2016)",
        "The error grows with the mean staleness.",
        "CNN on MNIST: 0.36% of test images at staleness 0, 0.47% at 20, 0.79% at 50 (as cited)",
        compare.error_grows,
        "the network has one hidden layer and gets 1,000 updates; all gradients are equally stale, and each optimizer "
        "has the rate that is best at staleness 0; growth multiplies the mistakes each time staleness + 1 doubles",
        lambda results: compare.errors_by_age(results, compare.OPTIMIZERS, compare.growth),
    ),
    Claim(
        "Chen et al. (2016)",
        "Of 100 machines, 96 workers and 4 backups finish first.",
        "N = 96, b = 4, Inception on ImageNet",
        None,
        "It takes a hundred machines with stragglers of their own, because how slow they are decides the best split",
    ),
    Claim(
        "Dai et al. (2019)",
        "Staleness hurts Adam more than SGD.",
        "many models with simulated staleness; no single number (as cited)",
        lambda results: compare.suffers(results, "adam", "best rate", "above"),
        "all gradients are equally stale, and each optimizer has the rate that is best at staleness 0",
        lambda results: compare.errors_by_age(results, ("sgd, best rate", "adam, best rate")),
    ),
    Claim(
        "Dai et al. (2019)",
        "Staleness hurts Adam more than SGD, at cautious rates.",
        "as above",
        lambda results: compare.suffers(results, "adam", "low rate", "above"),
        "as before, but each optimizer has an eighth of that rate",
        lambda results: compare.errors_by_age(results, ("sgd, low rate", "adam, low rate")),
    ),
    Claim(
        "Dean et al. (2012)",
        "Adagrad makes asynchronous training more robust than SGD.",
        "it extends the number of replicas that can work productively; no number",
        lambda results: compare.suffers(results, "adagrad", "best rate", "below"),
        "all gradients are equally stale, and each optimizer has the rate that is best at staleness 0",
        lambda results: compare.errors_by_age(results, ("sgd, best rate", "adagrad, best rate")),
    ),
    Claim(
        "Dean et al. (2012)",
        "A warm start with a single replica steadies asynchronous training.",
        "with Adagrad it has virtually eliminated concerns about stability",
        compare.warm_start_steadies,
        "the first 100 of 1,000 updates have staleness 0, and the others 4 or 16; the rates are those that are best "
        "without a warm start",
    ),
    Claim(
        "Recht et al. (2011)",
        "Updates without locks are faster.",
        "an order of magnitude, on sparse problems and many cores",
        lambda results: compare.without_locks(results, "updates a second", "updates_per_second", "above"),
        "this problem is dense and has two workers, and the lock is held only while an update is applied",
    ),
    Claim(
        "Recht et al. (2011)",
        "Updates that overwrite each other now and then do no harm to what is learned.",
        "nearly optimal convergence, on sparse problems",
        lambda results: compare.without_locks(results, "mistakes", "error", "at", 0.1),
        "two workers make 500 dense updates; no harm means at most 10% more or fewer mistakes",
    ),
    Claim(
        "Goyal et al. (2017)",
        "With batches k times as large, a learning rate k times as large after a warm-up keeps the accuracy.",
        "ImageNet top-1 error 23.74% with batches of 8,192 against 23.60% with 256",
        lambda results: compare.rate_scales(results, "best rate"),
        "k = 8, starting from the best rate for batches of 100; the images are as many, so the updates are an eighth",
        lambda results: compare.scaling_errors(results, "best rate"),
    ),
    Claim(
        "Goyal et al. (2017)",
        "With batches k times as large, k times a cautious learning rate keeps the accuracy after a warm-up.",
        "as above",
        lambda results: compare.rate_scales(results, "low rate"),
        "k = 8, starting from an eighth of that rate, so that k times the rate is known to work",
        lambda results: compare.scaling_errors(results, "low rate"),
    ),
    Claim(
        "Goyal et al. (2017)",
        "The warm-up is what makes the large rate work.",
        "ImageNet top-1 error 23.74% with gradual warm-up, 24.84% without",
        compare.warm_up_helps,
        "k = 8, with a warm-up over a fifth of the updates",
    ),
    Claim(
        "Zhang et al. (2023)",
        "With n servers instead of one the cost of updates falls from O(m) to O(m/n) for m workers.",
        "a count of what each server sends, not a measurement",
        compare.shards_speed_up,
        "there are two workers, and the servers share the cores and the memory of one machine",
        compare.sharding_speeds,
    ),
    Claim(
        "Li et al. (2014)",
        "A bound on the delay trades waiting for staleness.",
        "50% idle with a bound of 0, and 1.7% with 16, but more iterations; 8 is best",
        compare.bound_trades,
        "each of three workers pauses between pull and push",
        compare.bound_table,
    ),
    Claim(
        "Li et al. (2014)",
        "The more machine-hours a job takes, the likelier it fails.",
        "7.8% of jobs of 100 machine-hours, 13.7% of 1,000, 24.7% of 10,000",
        None,
        "It takes the logs of a data centre; the book shows what a single failure does, and not how often one comes",
    ),
)
