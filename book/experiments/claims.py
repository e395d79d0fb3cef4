"""Put published claims about parameter-server training to the test, as far as one machine can.

The scorecard's experiments, many times over. They are made in blocks as those of
``book.experiments.async_or_sync`` are, which this adds to: what is compared is measured within one block, each block is
saved as soon as it is complete, and a later call goes on where an earlier one has stopped. ``scorecard.py`` says what
came out.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from book._ext.environment import environment
from book.experiments import async_or_sync as experiments
from book.experiments.async_or_sync import ROOT, rates, rotated, save, together
from book.experiments.scorecard import CLAIMS, scorecard
from mnistdist import Cluster, DataSet, Datasets, read_data_sets, train
from mnistdist.training.spec import STEPS_PER_RUN

__all__ = ["CLAIMS", "EXPERIMENTS", "FILE", "Sizes", "load", "load_all", "measure", "scorecard"]

FILE = ROOT / "book" / "experiments" / "claims.json"

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


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        blocks: Repeats of each experiment.
        pilots: Repeats of the search for learning rates.
        delayed: Updates of a training in one process, of 100 images each or as many images in larger batches.
        warm_up_delayed: Updates of those before staleness sets in, or while the learning rate rises.
        locking: Updates of a training with or without a lock.
        live: Updates of a training whose staleness is measured; twice as many in the fast design.
        sum: Updates of a training whose steps are counted; half as many rounds.
        small: Updates with 100 hidden units on one or more ps.
        large: Updates with 1,000.
        bounded: Updates with pauses; a third as many rounds.
        pause: Mean seconds of those pauses, exponentially distributed, between each pull and its push.
        bound: How many steps a worker may be ahead of the slowest.
        warm_up: Steps of each worker that do not count where speed or staleness is measured.
    """

    blocks: int = 10
    pilots: int = 2
    delayed: int = 1000
    warm_up_delayed: int = 100
    locking: int = 500
    live: int = 300
    sum: int = 100
    small: int = 240
    large: int = 120
    bounded: int = 180
    pause: float = 0.02
    bound: int = 4
    warm_up: int = 5


# ------------------------------------------------------------------------------------- in one process, by itself


def pilot(clusters, block, sizes, results):
    """Train with each learning rate of the grids, at staleness 0."""
    from book.experiments.delayed import delayed

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
    from book.experiments.delayed import delayed

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
    from book.experiments.delayed import delayed

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
    from book.experiments.delayed import delayed

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


# ------------------------------------------------------------------------------------- on clusters


# As they are without an ``on_step``.
DESIGNS = {"listing": {"design": "listing"}, "fast": {"design": "fast", "steps_per_run": STEPS_PER_RUN}}


def train_together(cluster, **options):
    """Train with workers that wait for each other once, when they have begun."""
    with together(cluster) as on_step:
        return train(cluster, on_step=on_step, step_timeout=300, **options)


def few():
    """A small training set, for experiments that do not ask what is learned."""
    return Datasets(DataSet(*read_data_sets(one_hot=True).train.next_batch(1000)), None, None)


def locking(clusters, block, sizes, results):
    """Train asynchronously with and without a lock on each variable, in both designs."""
    arms = {f"{design}, {lock}": (design, lock) for design in ("listing", "fast") for lock in ("lock", "no lock")}
    for arm in rotated(arms, block):
        design, lock = arms[arm]
        options = DESIGNS[design] | {"optimizer": adam(use_locking=lock == "lock")}
        run = train_together(clusters[0], steps=sizes.locking, seed=block, **options)
        yield {"arm": arm, **rates(run, sizes), "error": round(1 - run.validation.accuracy, 4)}


def adam(use_locking):
    """A function that makes the text's optimizer of a learning rate, in a task."""

    def make(rate):
        import tensorflow.compat.v1 as tf

        return tf.train.AdamOptimizer(rate, use_locking=use_locking)

    return make


def sharding(clusters, block, sizes, results):
    """Train two workers on a small and a large model whose parameters are on 1, 2 or 4 ps."""
    arms = {(units, len(c.ps)): (units, c) for units in (100, 1000) for c in clusters}
    data = few()
    for arm in rotated(arms, block):
        units, cluster = arms[arm]
        steps = sizes.small if units == 100 else sizes.large
        options = DESIGNS["fast"] | {"build_graph": network(units)}
        run = train_together(cluster, steps=steps, seed=block, data=data, **options)
        yield {"arm": f"{units} hidden units, {arm[1]} ps", **rates(run, sizes)}


def network(hidden_units):
    """A ``build_graph`` for the text's network with so many hidden units."""

    def build_graph():
        from mnistdist.model import build_model

        return build_model(hidden_units)

    return build_graph


def staleness_live(clusters, block, sizes, results):
    """Train 2, 3 and 4 workers asynchronously and note how stale their updates are, in both designs."""
    arms = {(design, len(c.workers)): (design, c) for design in ("listing", "fast") for c in clusters}
    data = few()
    for arm in rotated(arms, block):
        design, cluster = arms[arm]
        steps = sizes.live if design == "listing" else 2 * sizes.live
        run = train_together(cluster, steps=steps, seed=block, data=data, **DESIGNS[design])
        yield {"arm": f"{design}, {arm[1]} workers", "staleness": mean_staleness(run, sizes)}


def mean_staleness(run, sizes):
    """Mean over the updates that are made while all workers are at it and warm."""
    steps = run.steps
    warm = steps[steps["local_step"] > sizes.warm_up]
    begin, end = warm.groupby("worker")["start"].min().max(), warm.groupby("worker")["end"].max().min()
    return round(float(warm[(warm["start"] >= begin) & (warm["end"] <= end)]["staleness"].mean()), 4)


def count_steps(clusters, block, sizes, results):
    """Train three workers asynchronously and synchronously and count their steps beside the global step."""
    (cluster,), data = clusters, few()
    arms = {"async": {"steps": sizes.sum}, "sync": {"steps": sizes.sum // 2, "sync": True}}
    for arm in rotated(arms, block):
        run = train_together(cluster, seed=block, data=data, design="listing", **arms[arm])
        own = run.steps.groupby("worker").size()
        yield {"arm": arm, "global_step": run.global_step, "worker_steps": [int(count) for count in own]}


def bounded_delay(clusters, block, sizes, results):
    """Train three workers that pause between pull and push, with bounds on how far each may be ahead of the slowest.

    The steps that a worker has made are counted in a folder, where all workers of this machine look, by the size of a
    file for each. Synchronous rounds are not the same as a bound of 0, where each worker's gradient is an update.
    """
    (cluster,), data = clusters, few()
    arms = {f"bound {sizes.bound}": sizes.bound, "bound 0": 0, "no bound": None, "sync": None}
    for arm in rotated(arms, block):
        sync = arm == "sync"
        steps = sizes.bounded // 3 if sync else sizes.bounded
        with together(cluster) if sync else ahead_at_most(arms[arm], len(cluster.workers), steps) as on_step:
            run = train(
                cluster,
                steps=steps,
                sync=sync,
                seed=block,
                data=data,
                design="listing",
                optimizer=pausing_adam(sizes.pause, block),
                on_step=on_step,
                step_timeout=300,
            )
        row = {"arm": arm, **rates(run, sizes)}
        if not sync:
            row |= {"waiting": waiting(run, sizes), "staleness": mean_staleness(run, sizes)}
        yield row


@contextlib.contextmanager
def ahead_at_most(bound, workers, steps):
    """An ``on_step`` that holds a worker while it is more than ``bound`` steps ahead of the slowest; None for never."""
    with tempfile.TemporaryDirectory() as folder:
        for worker in range(workers):
            Path(folder, f"{worker}").touch()

        def on_step(record):
            with open(Path(folder, f"{record.worker}"), "ab") as own:
                own.write(b".")
            if record.global_step_after >= steps:
                Path(folder, "end").touch()
            if record.local_step > 1 and bound is None:
                return
            allowed = bound if record.local_step > 1 else 0  # all begin together in any case
            deadline = time.monotonic() + 60
            while not Path(folder, "end").exists():
                slowest = min(Path(folder, f"{worker}").stat().st_size for worker in range(workers))
                if record.local_step <= slowest + allowed:
                    return
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the slowest worker has made only {slowest} steps within 60 s")
                time.sleep(0.0005)

        yield on_step


def pausing_adam(mean, block):
    """A function that makes the text's optimizer, with a pause between pull and push, in a task."""

    def make(rate):
        import time

        import numpy as np
        import tensorflow.compat.v1 as tf
        from IPython import get_ipython

        generator = np.random.default_rng([block, get_ipython().user_ns["task_index"]])

        class PausingAdam(tf.train.AdamOptimizer):
            def compute_gradients(self, *args, **options):
                pairs = super().compute_gradients(*args, **options)
                with tf.control_dependencies([gradient for gradient, _ in pairs]):
                    pause = tf.py_func(lambda: time.sleep(generator.exponential(mean)), [], [])
                with tf.control_dependencies([pause]):
                    return [(tf.identity(gradient), variable) for gradient, variable in pairs]

        return PausingAdam(rate, use_locking=True)

    return make


def waiting(run, sizes):
    """The part of the workers' time that lies between their steps, once all are warm and until the first one ends."""
    steps = run.steps[run.steps["local_step"] > sizes.warm_up]
    begin, end = steps.groupby("worker")["start"].min().max(), steps.groupby("worker")["end"].max().min()
    within = steps[(steps["start"] >= begin) & (steps["end"] <= end)]
    parts = []
    for _, own in within.groupby("worker"):
        busy = (own["end"] - own["start"]).sum()
        parts.append(1 - busy / (own["end"].max() - own["start"].min()))
    return round(float(np.mean(parts)), 4)


# ------------------------------------------------------------------------------------- the file

# What they need, as (ps, workers) of each cluster, and what they do.
EXPERIMENTS = {
    "pilot": ([], pilot),
    "staleness": ([], staleness),
    "adagrad_warm_up": ([], adagrad_warm_up),
    "scaling": ([], scaling),
    "sum": ([(1, 3)], count_steps),
    "bounded_delay": ([(1, 3)], bounded_delay),
    "locking": ([(1, 2)], locking),
    "staleness_live": ([(1, 2), (1, 3), (1, 4)], staleness_live),
    "sharding": ([(1, 2), (2, 2), (4, 2)], sharding),
}


def load(path, sizes):
    """What has been measured so far; nothing yet where there is no file.

    Raises:
        ValueError: it was measured with other sizes, or elsewhere.
    """
    if path.exists():
        return experiments.load(path, sizes)
    return {"environment": dict(environment()), "sizes": asdict(sizes), **{name: [] for name in EXPERIMENTS}}


def load_all(*paths):
    """The rows of both committed files, or of others, as ``scorecard`` takes them: a dict from experiment to rows."""
    results = {}
    for path in paths or (experiments.FILE, FILE):
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        results |= {name: rows for name, rows in found.items() if name not in ("environment", "sizes")}
    return results


def measure(path=FILE, sizes=None, *, seconds=None, say=print):
    """Run the blocks that the file lacks and add them; begin none after ``seconds``. True when none is lacking."""
    sizes = sizes or Sizes()
    results, begun = load(path, sizes), time.monotonic()
    for name, (needed, experiment) in EXPERIMENTS.items():
        blocks = sizes.pilots if name == "pilot" else sizes.blocks
        missing = sorted(set(range(blocks)) - {row["block"] for row in results[name]})
        with contextlib.ExitStack() as stack:
            clusters = None
            for block in missing:
                if seconds is not None and time.monotonic() - begun > seconds:
                    return False
                if clusters is None:
                    clusters = [stack.enter_context(Cluster(ps=ps, workers=workers)) for ps, workers in needed]
                else:
                    for cluster in clusters:  # fresh processes: blocks have nothing in common
                        cluster.restart()
                results[name] += [{"block": block, **row} for row in experiment(clusters, block, sizes, results)]
                save(results, path)
                say(f"{name}: block {block + 1} of {blocks}, {time.monotonic() - begun:.0f} s")
    return True


def main(arguments=None):
    """Measure from the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m book.experiments.claims", description=__doc__.splitlines()[0])
    parser.add_argument("--file", type=Path, default=FILE, help="where the results are and go")
    parser.add_argument("--seconds", type=float, help="begin no block after so many seconds; call again to go on")
    options = parser.parse_args(arguments)
    try:
        complete = measure(options.file, seconds=options.seconds)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    if not complete:
        print("not complete: call again to go on")
        return 0
    for row in scorecard(load_all(experiments.FILE, options.file)):
        print(f"{row['verdict']}: {row['claim']} [{row['source']}]\n  theirs: {row['theirs']}\n  ours: {row['ours']}")
        print(f"  {row['why']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
