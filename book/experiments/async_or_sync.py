"""Measure what the chapter "Async or sync" is about, many times over: what `make experiments` runs."""

import contextlib
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from book.experiments import blocks
from book.experiments.blocks import Experiment, rotated
from book.experiments.report import evaluated
from mnistdist import read_data_sets, train
from mnistdist._wait import poll
from mnistdist.datasets import DataSet, Datasets

FILE = blocks.FOLDER / "async_or_sync.json"


@dataclass(frozen=True)
class Sizes:
    """How much is measured. All steps are global ones: updates, or rounds where synchronous.

    Attributes:
        blocks: Repeats of each experiment.
        marks: How often a training's parameters are looked at in "learning".
        batches: What each training of "learning" uses, in batches of 100.
        warm_up: Steps of each worker that do not count when speed is measured.
        equal_rounds: Length of the synchronous trainings of "speed" whose workers are equally fast.
        rounds: Length of the others, in "backup" too, when nobody waits for a slow worker.
        slow_rounds: and when everybody does. Asynchronous trainings use two batches for each of these rounds.
        delay: Seconds that the slow worker sleeps after each step.
        jitter: Mean seconds that every worker sleeps after each step where speeds vary, exponentially distributed.
    """

    blocks: int = 10
    marks: int = 20
    batches: int = 3000
    warm_up: int = 5
    equal_rounds: int = 300
    rounds: int = 150
    slow_rounds: int = 40
    delay: float = 0.1
    jitter: float = 0.02


# ------------------------------------------------------------------------------------- what is learned, and how fast


def learning(clusters, block, sizes, results):
    """Train asynchronously, synchronously, and asynchronously with batches twice as large, on as many images."""
    (cluster,) = clusters
    arms = {
        "async": {"steps": sizes.batches},
        "sync": {"steps": sizes.batches // 2, "sync": True},
        "async, batches of 200": {"steps": sizes.batches // 2, "batch_size": 200},
    }
    for arm in rotated(arms, block):
        options = arms[arm]
        build_graph, keep = snapshots(every=options["steps"] // sizes.marks)
        with together(cluster, keep) as on_step:
            run = train(
                cluster,
                seed=block,
                build_graph=build_graph,
                on_step=on_step,
                design="listing",
                step_timeout=300,
                **options,
            )
        taken = cluster["worker", 0]["snapshots"]
        yield {"arm": arm, "marks": list(marks(taken, run, options.get("batch_size", 100)))}


@contextlib.contextmanager
def together(cluster, on_step=None):
    """An ``on_step`` for ``train()`` which has all workers wait for the last after their first step, once."""
    workers = len(cluster.workers)
    with tempfile.TemporaryDirectory() as folder:

        def wait_first(record):
            if on_step is not None:
                on_step(record)
            if record.local_step == 1:
                Path(folder, f"worker-{record.worker}").touch()
                if not poll(60, lambda: len(os.listdir(folder)) == workers, 0.001):
                    raise TimeoutError(f"only {os.listdir(folder)} of {workers} workers within 60 s")

        yield wait_first


def snapshots(every):
    """A ``build_graph`` and an ``on_step`` that share what they know: worker 0 keeps the parameters again and again.

    It keeps them as ``snapshots`` in its namespace: (time, global step, values), the first after its first step.
    """
    known = {}

    def build_graph():
        import tensorflow.compat.v1 as tf

        from mnistdist.model import build_model

        model = build_model()
        known["graph"], known["variables"] = tf.get_default_graph(), tf.trainable_variables()
        return model

    def on_step(record):
        import tensorflow.compat.v1 as tf
        from IPython import get_ipython

        if record.worker != 0 or record.global_step_after < known.setdefault("due", 0):
            return
        namespace = get_ipython().user_ns
        if "session" not in known:
            config = tf.ConfigProto(allow_soft_placement=True, device_filters=["/job:ps", "/job:worker/task:0"])
            known["session"] = tf.Session(namespace["server"].target, known["graph"], config)
            namespace["snapshots"] = []
        step = tf.train.get_global_step(known["graph"])
        step, values = known["session"].run([step, known["variables"]])
        namespace["snapshots"].append((time.monotonic(), int(step), values))
        known["due"] = (int(step) // every + 1) * every

    return build_graph, on_step


def marks(taken, run, batch_size):
    """What each snapshot is worth: updates, images and seconds so far, and loss and accuracy on the validation set."""
    ends = np.sort([record.end for result in run.results for record in result.steps])
    validation = read_data_sets(one_hot=True).validation
    for moment, updates, values in taken:
        loss, accuracy = evaluated(values, validation)
        images = int(np.searchsorted(ends, moment, side="right")) * batch_size
        yield {
            "updates": updates,
            "images": images,
            "seconds": round(moment - taken[0][0], 3),
            "loss": round(loss, 5),
            "accuracy": round(accuracy, 4),
        }


# ------------------------------------------------------------------------------------- how many steps a second


def speed(clusters, block, sizes, results):
    """Train with workers that are equally fast, that vary from step to step, and of which the last is slow."""
    (cluster,) = clusters
    conditions = {
        "equal": (None, sizes.equal_rounds, sizes.equal_rounds),
        "varying": (varying(sizes.jitter, block), sizes.rounds, sizes.rounds),
        "one slow": (slow(sizes.delay, cluster), sizes.rounds, sizes.slow_rounds),
    }
    arms = {}
    for condition, (delay, rounds, sync_rounds) in conditions.items():
        arms[f"{condition}, async"] = delay, {"steps": 2 * rounds}
        arms[f"{condition}, sync"] = delay, {"steps": sync_rounds, "sync": True}
    return timed(cluster, block, sizes, arms)


def backup(clusters, block, sizes, results):
    """Train three workers, the last of them slow, with rounds that wait for all, for two, for one, for nobody."""
    (cluster,) = clusters
    late = slow(sizes.delay, cluster)
    arms = {
        "sync, 3 of 3, nobody slow": (None, {"steps": sizes.rounds, "sync": True}),
        "sync, 3 of 3": (late, {"steps": sizes.slow_rounds, "sync": True}),
        "sync, 2 of 3": (late, {"steps": sizes.rounds, "sync": True, "replicas_to_aggregate": 2}),
        "sync, 1 of 3": (late, {"steps": 2 * sizes.rounds, "sync": True, "replicas_to_aggregate": 1}),
        "async": (late, {"steps": 2 * sizes.rounds}),
    }
    return timed(cluster, block, sizes, arms)


def timed(cluster, block, sizes, arms):
    """Train as each of the arms says, and note the rates."""
    data = few()
    for arm in rotated(arms, block):
        delay, options = arms[arm]
        with together(cluster, delay) as on_step:
            run = train(cluster, data=data, seed=block, on_step=on_step, design="listing", step_timeout=300, **options)
        yield {"arm": arm, **rates(run, sizes)}


def few():
    """A small training set, for experiments that do not ask what is learned."""
    return Datasets(DataSet(*read_data_sets(one_hot=True).train.next_batch(1000)), None, None)


def slow(seconds, cluster):
    """An ``on_step`` with which the last worker sleeps after each step."""
    last = len(cluster.workers) - 1

    def on_step(record):
        if record.worker == last:
            time.sleep(seconds)

    return on_step


def varying(mean, block):
    """An ``on_step`` with which every worker sleeps after each step, as long as chance will have it."""
    generators = {}

    def on_step(record):
        if record.worker not in generators:
            generators[record.worker] = np.random.default_rng([block, record.worker])
        time.sleep(generators[record.worker].exponential(mean))

    return on_step


def warm_steps(run, sizes):
    """The steps within the time that begins when the last worker is warm and ends with the first one; begin; end."""
    steps = run.steps[run.steps["local_step"] > sizes.warm_up]
    if steps["worker"].nunique() < run.steps["worker"].nunique():
        raise RuntimeError(f"a worker made no more than {sizes.warm_up} steps: measure longer")
    begin, end = steps.groupby("worker")["start"].min().max(), steps.groupby("worker")["end"].max().min()
    return steps[(steps["start"] >= begin) & (steps["end"] <= end)], begin, end


def rates(run, sizes):
    """Updates and batches a second, each worker's batches too, and the batches of an update.

    All of them from when the last worker is warm to when the first one ends.
    """
    _, begin, end = warm_steps(run, sizes)
    within = run.steps[(run.steps["end"] > begin) & (run.steps["end"] <= end)]
    counts = within.groupby("worker").size().reindex(range(len(run.results)), fill_value=0)
    updates = within["global_step_after"].max() - within["global_step_after"].min() + (0 if run.sync else 1)
    return {
        "seconds": round(end - begin, 3),
        "updates_per_second": round(updates / (end - begin), 2),
        "batches_per_second": round(len(within) / (end - begin), 2),
        "worker_batches_per_second": [round(count / (end - begin), 2) for count in counts],
        "batches_per_update": round(len(within) / updates, 3),
    }


EXPERIMENTS = {
    "learning": Experiment(learning, [(1, 2)]),
    "speed": Experiment(speed, [(1, 2)]),
    "backup": Experiment(backup, [(1, 3)]),
}


def main(arguments=None):
    """Measure from the command line; return the exit status."""
    return blocks.main(arguments, __doc__, file=FILE, sizes=Sizes(), experiments=EXPERIMENTS)


if __name__ == "__main__":
    sys.exit(main())
