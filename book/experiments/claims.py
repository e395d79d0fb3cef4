"""Put published claims about parameter-server training to the test, as far as one machine can.

The scorecard's experiments, many times over, in blocks. ``scorecard.py`` says what came out.
"""

import contextlib
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from book.experiments import blocks, known_ages
from book.experiments.async_or_sync import few, rates, together, warm_steps
from book.experiments.blocks import Experiment, rotated
from book.experiments.scorecard import FILES, load_all, scorecard
from mnistdist import train
from mnistdist._wait import poll
from mnistdist.training.spec import STEPS_PER_RUN

FILE = FILES[1]


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


# As they are without an ``on_step``.
DESIGNS = {"listing": {"design": "listing"}, "fast": {"design": "fast", "steps_per_run": STEPS_PER_RUN}}


def train_together(cluster, **options):
    """Train with workers that wait for each other once, when they have begun."""
    with together(cluster) as on_step:
        return train(cluster, on_step=on_step, step_timeout=300, **options)


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
    return round(float(warm_steps(run, sizes)[0]["staleness"].mean()), 4)


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

            def slowest():
                return min(Path(folder, f"{worker}").stat().st_size for worker in range(workers))

            def may_go_on():
                return Path(folder, "end").exists() or record.local_step <= slowest() + allowed

            if not poll(60, may_go_on, 0.0005):
                raise TimeoutError(f"the slowest worker has made only {slowest()} steps within 60 s")

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
    parts = []
    for _, own in warm_steps(run, sizes)[0].groupby("worker"):
        busy = (own["end"] - own["start"]).sum()
        parts.append(1 - busy / (own["end"].max() - own["start"].min()))
    return round(float(np.mean(parts)), 4)


EXPERIMENTS = {
    "pilot": Experiment(known_ages.pilot, repeats="pilots"),
    "staleness": Experiment(known_ages.staleness),
    "adagrad_warm_up": Experiment(known_ages.adagrad_warm_up),
    "scaling": Experiment(known_ages.scaling),
    "sum": Experiment(count_steps, [(1, 3)]),
    "bounded_delay": Experiment(bounded_delay, [(1, 3)]),
    "locking": Experiment(locking, [(1, 2)]),
    "staleness_live": Experiment(staleness_live, [(1, 2), (1, 3), (1, 4)]),
    "sharding": Experiment(sharding, [(1, 2), (2, 2), (4, 2)]),
}


def report(path):
    """The scorecard in plain text, with the results of this file for this module's own."""
    return "\n".join(
        f"{row['verdict']}: {row['claim']} [{row['source']}]\n"
        f"  theirs: {row['theirs']}\n  ours: {row['ours']}\n  {row['why']}"
        for row in scorecard(load_all(FILES[0], path))
    )


def main(arguments=None):
    """Measure from the command line; return the exit status."""
    return blocks.main(arguments, __doc__, file=FILE, sizes=Sizes(), experiments=EXPERIMENTS, report=report)


if __name__ == "__main__":
    sys.exit(main())
