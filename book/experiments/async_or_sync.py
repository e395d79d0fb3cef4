"""Measure what the chapter "Async or sync" is about, many times over: what `make experiments` runs.

Trainings that are to be compared run one after the other in one block, so that what else the machine does meets all of
them; the chapter compares within blocks only. Each block is added to the file as soon as it is complete, and a later
call goes on where an earlier one has stopped.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from book._ext.environment import environment
from mnistdist import Cluster, read_data_sets, train
from mnistdist.datasets import DataSet, Datasets

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "book" / "experiments" / "async_or_sync.json"
SMALLEST_PROBABILITY = 1e-10  # as in the text's loss


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


def learning(cluster, block, sizes):
    """Train asynchronously, synchronously, and asynchronously with batches twice as large, on as many images."""
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
                deadline = time.monotonic() + 60
                while len(os.listdir(folder)) < workers:
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"only {os.listdir(folder)} of {workers} workers within 60 s")
                    time.sleep(0.001)

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


def evaluated(values, dataset):
    """Mean cross entropy of an image and accuracy of the text's network with these four values, without TensorFlow."""
    hid_w, hid_b, sm_w, sm_b = values
    logits = np.maximum(dataset.images @ hid_w + hid_b, 0) @ sm_w + sm_b
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    y = powers / powers.sum(axis=1, keepdims=True)
    right = np.maximum(y[dataset.labels == 1], SMALLEST_PROBABILITY)
    return float(-np.log(right).mean()), float((y.argmax(1) == dataset.labels.argmax(1)).mean())


# ------------------------------------------------------------------------------------- how many steps a second


def speed(cluster, block, sizes):
    """Train with workers that are equally fast, that vary from step to step, and of which the last is slow."""
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


def backup(cluster, block, sizes):
    """Train three workers, the last of them slow, with rounds that wait for all, for two, for one, for nobody."""
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
    few = Datasets(DataSet(*read_data_sets(one_hot=True).train.next_batch(1000)), None, None)
    for arm in rotated(arms, block):
        delay, options = arms[arm]
        with together(cluster, delay) as on_step:
            run = train(cluster, data=few, seed=block, on_step=on_step, design="listing", step_timeout=300, **options)
        yield {"arm": arm, **rates(run, sizes)}


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


def rates(run, sizes):
    """Updates and batches a second, each worker's batches too, and the batches of an update.

    All of them from when the last worker is warm to when the first one ends.
    """
    steps = run.steps
    warm = steps[steps["local_step"] > sizes.warm_up].groupby("worker")["start"].min()
    if len(warm) < steps["worker"].nunique():
        raise RuntimeError(f"a worker made no more than {sizes.warm_up} steps: measure longer")
    begin, end = warm.max(), steps.groupby("worker")["end"].max().min()
    within = steps[(steps["end"] > begin) & (steps["end"] <= end)]
    counts = within.groupby("worker").size().reindex(warm.index, fill_value=0)
    updates = within["global_step_after"].max() - within["global_step_after"].min() + (0 if run.sync else 1)
    return {
        "seconds": round(end - begin, 3),
        "updates_per_second": round(updates / (end - begin), 2),
        "batches_per_second": round(len(within) / (end - begin), 2),
        "worker_batches_per_second": [round(count / (end - begin), 2) for count in counts],
        "batches_per_update": round(len(within) / updates, 3),
    }


def rotated(arms, block):
    """The arms in an order that begins with another one in each block."""
    names = list(arms)
    start = block % len(names)
    return names[start:] + names[:start]


# ------------------------------------------------------------------------------------- the file

EXPERIMENTS = {"learning": (2, learning), "speed": (2, speed), "backup": (3, backup)}  # workers, and what they do


def load(path, sizes):
    """What has been measured so far; nothing yet where there is no file.

    Raises:
        ValueError: it was measured with other sizes, or elsewhere.
    """
    fresh = {"environment": dict(environment()), "sizes": asdict(sizes), **{name: [] for name in EXPERIMENTS}}
    if not path.exists():
        return fresh
    found = json.loads(path.read_text(encoding="utf-8"))
    for key in "environment", "sizes":
        changed = [name for name in fresh[key] if fresh[key][name] != found.get(key, {}).get(name)]
        if changed:
            raise ValueError(f"{path} was measured with another {', '.join(changed)}: move it away to measure anew")
    return found


def save(results, path):
    """Write the results, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def measure(path=FILE, sizes=None, *, seconds=None, say=print):
    """Run the blocks that the file lacks and add them; begin none after ``seconds``. True when none is lacking."""
    sizes = sizes or Sizes()
    results, begun = load(path, sizes), time.monotonic()
    for name, (workers, experiment) in EXPERIMENTS.items():
        missing = sorted(set(range(sizes.blocks)) - {row["block"] for row in results[name]})
        if not missing:
            continue
        with Cluster(ps=1, workers=workers) as cluster:
            for block in missing:
                if seconds is not None and time.monotonic() - begun > seconds:
                    return False
                results[name] += [{"block": block, **row} for row in experiment(cluster, block, sizes)]
                save(results, path)
                say(f"{name}: block {block + 1} of {sizes.blocks}, {time.monotonic() - begun:.0f} s")
                cluster.restart()
    return True


def main(arguments=None):
    """Measure from the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m book.experiments.async_or_sync", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--file", type=Path, default=FILE, help="where the results are and go")
    parser.add_argument("--seconds", type=float, help="begin no block after so many seconds; call again to go on")
    options = parser.parse_args(arguments)
    try:
        complete = measure(options.file, seconds=options.seconds)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    print("complete" if complete else "not complete: call again to go on")
    return 0


if __name__ == "__main__":
    sys.exit(main())
