"""The scorecard's experiments in one process: gradients of a known age, and large batches.

They are run and stored by ``book.experiments.claims``.
"""

from collections import defaultdict

import numpy as np

from book.experiments.delayed import delayed

# What "pilot" tries at staleness 0, for a loss that is a mean over the batch. The best of each is used from then on.
GRIDS = {
    "sgd": (0.1, 0.2, 0.4, 0.8, 1.6),
    "momentum": (0.02, 0.05, 0.1, 0.2, 0.4),
    "adagrad": (0.02, 0.05, 0.1, 0.2, 0.4),
    "adam": (0.001, 0.002, 0.005, 0.01, 0.02),
}
TEXTS_RATE = 0.01  # the text's, for Adam
STALENESS = (0, 1, 4, 16)
TIMES = 8  # the larger batch of "scaling", over the smaller
PILOT_SEED = 1000  # and up: no block has it


def pilot(clusters, block, sizes, results):
    """Train with each learning rate of the grids, at staleness 0."""
    for optimizer, grid in GRIDS.items():
        for rate in grid:
            outcome = delayed(optimizer).train(PILOT_SEED + block, [rate] * sizes.delayed)
            yield {"optimizer": optimizer, "rate": rate, **outcome}


def tuned(pilots):
    """The rate of each optimizer with the lowest median loss in the pilot."""
    losses = defaultdict(list)
    for row in pilots:
        losses[row["optimizer"], row["rate"]].append(np.inf if row["loss"] is None else row["loss"])
    best = {}
    for (optimizer, rate), values in losses.items():
        best[optimizer] = min(best.get(optimizer, (np.inf, None)), (np.median(values), rate))
    return {optimizer: rate for optimizer, (_, rate) in best.items()}


def staleness(clusters, block, sizes, results):
    """Train with gradients that are all equally old, by several optimizers.

    Each with its best rate; SGD and Adam also with an eighth of it, and Adam with the text's.
    """
    best = tuned(results["pilot"])
    arms = {f"{name}, best rate": (name, rate) for name, rate in best.items()}
    arms |= {f"{name}, low rate": (name, best[name] / TIMES) for name in ("sgd", "adam")}
    arms["adam, the text's rate"] = "adam", TEXTS_RATE
    for arm, (optimizer, rate) in arms.items():
        for age in STALENESS:
            outcome = delayed(optimizer).train(block, [rate] * sizes.delayed, staleness=age)
            yield {"arm": f"{arm}, {age}", "staleness": age, "rate": rate, **outcome}


def adagrad_warm_up(clusters, block, sizes, results):
    """Train by SGD and Adagrad with staleness that sets in after updates without any.

    What they are to be compared with, in the same block, are the trainings of "staleness".
    """
    best = tuned(results["pilot"])
    for optimizer in "sgd", "adagrad":
        for age in 4, 16:
            schedule = [best[optimizer]] * sizes.delayed
            outcome = delayed(optimizer).train(block, schedule, staleness=age, warm_up=sizes.warm_up_delayed)
            yield {"arm": f"{optimizer}, best rate, {age}", "rate": best[optimizer], **outcome}


def scaling(clusters, block, sizes, results):
    """Train by SGD with batches of 100 and of 800 on as many images, with one learning rate and with 8 times it.

    All of it twice: from the best rate of the smaller batches, and from an eighth of it, whose 8 times is still stable.
    """
    best, few = tuned(results["pilot"])["sgd"], sizes.delayed // TIMES
    rising = min(few, 2 * sizes.warm_up_delayed // TIMES)
    warm_up = np.concatenate([np.linspace(1, TIMES, rising), np.full(few - rising, TIMES)])
    for name, rate in ("best rate", best), ("low rate", best / TIMES):
        arms = {
            "small": (100, np.full(few * TIMES, rate)),
            "large": (100 * TIMES, np.full(few, rate)),
            "large, scaled": (100 * TIMES, np.full(few, rate * TIMES)),
            "large, scaled, warm-up": (100 * TIMES, rate * warm_up),
        }
        for arm, (batch_size, schedule) in arms.items():
            outcome = delayed("sgd").train(block, schedule, batch_size=batch_size)
            yield {"arm": f"{name}, {arm}", "rate": rate, **outcome}
