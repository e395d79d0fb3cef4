"""What the measurements have in common: scoring in NumPy, when figures are noisy, tables, and a command line."""

import argparse
import itertools
import os
import statistics

import numpy as np

GOAL = 0.97  # validation accuracy
SMALLEST_PROBABILITY = 1e-10  # as in the text's loss
PARAMETERS = ("hid_w", "hid_b", "sm_w", "sm_b")


def evaluated(values, dataset):
    """Mean cross entropy of an image and accuracy of the text's network with these four values, without TensorFlow."""
    hid_w, hid_b, sm_w, sm_b = values
    logits = np.maximum(dataset.images @ hid_w + hid_b, 0) @ sm_w + sm_b
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    y = powers / powers.sum(axis=1, keepdims=True)
    right = np.maximum(y[dataset.labels == 1], SMALLEST_PROBABILITY)
    return float(-np.log(right).mean()), float((y.argmax(1) == dataset.labels.argmax(1)).mean())


def accuracy_of(parameters, dataset):
    """The share of a data set that these parameters, by name, get right."""
    return evaluated([parameters[name] for name in PARAMETERS], dataset)[1]


def seconds_to_goal(scores):
    """When the goal is reached, of ``(seconds, accuracy)``: at the first of two in a row; None for never."""
    return next((now for (now, one), (_, then) in itertools.pairwise(scores) if min(one, then) >= GOAL), None)


def noisy(ratios):
    """What to put behind ratios that differ by more than a quarter from one repeat to the next."""
    return " noisy" if max(ratios) > 1.25 * min(ratios) else ""


def by_design(rows):
    """Rows by design, in the order in which they come, and by repeat."""
    found = {}
    for row in rows:
        found.setdefault(row["design"], {})[row["repeat"]] = row
    return found


def training_lines(width, rates, designs):
    """A table of trainings: medians, and the ratios of each repeat to those of another design in the same repeat.

    Args: the width of the names; heading by key of the columns with medians; ``(name, rows, ratios)`` of each design.
    """
    yield f"{'':<{width}}{''.join(rates.values())}{'ratio':>8} {'(spread)':<15}{'s to 97%':<20}accuracy"
    for name, rows, ratios in designs:
        middle = {key: statistics.median(row[key] for row in rows) for key in (*rates, "accuracy")}
        columns = "".join(f"{middle[key]:{len(head)}.0f}" for key, head in rates.items())
        seconds = [row["seconds"] for row in rows if row["seconds"] is not None]
        reached = f"{statistics.median(seconds):7.1f} ({len(seconds)} of {len(rows)})" if seconds else "    not reached"
        spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
        yield (
            f"{name:<{width}}{columns}{statistics.median(ratios):8.2f} {spread:<15}{reached:<20}"
            f"{middle['accuracy']:.4f}{noisy(ratios)}"
        )


def benchmark_options(name, about, arguments, *, repeats=3, only=()):
    """What the command line of a benchmark says: how often, where its figures go, which of them."""
    parser = argparse.ArgumentParser(prog=f"python -m book.experiments.{name}", description=about.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--json", help="file for all figures")
    if only:
        parser.add_argument("--only", nargs="*", default=list(only), choices=list(only), metavar="DESIGN")
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error("--repeats: expected 1 or more")
    return options


def hold_to_cores(number):
    """Hold this process, and those that it starts, to so many cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:number])
