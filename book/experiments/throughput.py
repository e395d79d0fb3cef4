"""Updates a second and seconds to 97% validation accuracy, design by design, as ratios to the listing's in one run.

``python -m book.experiments.throughput [--repeats 3] [--json FILE]``: in each repeat, with a seed of its own, every
design trains the classic program's network in turn, on one ps and two workers (one worker with all cores where it says
one process). The parameters are noted every 250 updates and evaluated afterwards, so that evaluation costs no time; the
accuracy is reached at the first of two evaluations in a row at 97% or above.
"""

import time

from ipyparallel.error import RemoteError
from tqdm import tqdm

from book._ext.environment import write_stamped
from book.experiments.report import accuracy_of, benchmark_options, by_design, seconds_to_goal, training_lines
from mnistdist import Cluster, read_data_sets

EVERY, BATCH, WARM_UP = 250, 100, 200
MOST_FAILURES = 2  # of one training: a step without a second try may fail though nothing is wrong

# name: (workers, what to run, options, updates or rounds)
DESIGNS = {
    "listing, async": (2, "listing", {}, 8000),
    "ours, async": (2, "fast", {}, 8000),
    "ours, async, 10 local steps": (2, "fast", {"local_steps": 10}, 8000),
    "listing, sync (rounds)": (2, "listing", {"sync": True}, 3000),
    "ours, sync (rounds)": (2, "fast", {"sync": True}, 3000),
    "one process, fed": (1, "alone", {}, 4000),
    "two processes of one core, each alone (both)": (2, "limit", {}, 3000),
}


def run_design(design, options, steps, seed, container):
    """In a worker: train; returns the number and the end of each update, and the parameters every 250 updates."""
    import time

    import tensorflow.compat.v1 as tf
    from IPython import get_ipython

    from book.experiments.listing import build_listing
    from mnistdist import read_data_sets
    from mnistdist.training import build_fast_replica, train_loop, worker_session

    here = get_ipython().user_ns
    spec, index, target = here["cluster_spec"], here["task_index"], here["server"].target
    data = read_data_sets(one_hot=True, seed=[seed, index]).train
    common = {"seed": seed, "container": container}
    alone = design in ("alone", "limit")
    if design == "fast":
        replica = build_fast_replica(spec, index, train_set=data, **common, **options)
    else:
        replica = build_listing(spec, index, alone=alone, **common, **options)
    notes, noted = [], 0

    def note(record):
        nonlocal noted
        if index == 0 and noted // 250 != record.global_step_after // 250:
            begin = time.monotonic()
            parameters = session.run(replica.parameters)
            notes.append((record.global_step_after, begin, time.monotonic() - begin, parameters))
        noted = record.global_step_after

    if alone:
        session = tf.Session(graph=replica.graph)
        with replica.graph.as_default():
            session.run(tf.global_variables_initializer())
        within = session
    else:
        within = worker_session(replica, target, spec, index)
    with within as session:
        records = train_loop(session, replica, data, task_index=index, steps=steps, timeout=60, on_step=note)
    return [record.global_step_after for record in records], [record.end for record in records], notes


def measure(cluster, name, repeat, validation):
    """One design, once: updates a second after the first ones, seconds to the goal (None: not reached), accuracy."""
    _, design, options, steps = DESIGNS[name]
    container = f"bench-{repeat}-{list(DESIGNS).index(name)}"
    results, failures = _results(cluster, (design, options, steps, repeat + 1), container)
    rates = []
    if design == "limit":
        for made, ends, _ in results:
            rates.append((made[-1] - made[WARM_UP]) / (ends[-1] - ends[WARM_UP]))
        rate = sum(rates)
    else:
        points = sorted((end, after) for made, ends, _ in results for after, end in zip(made, ends, strict=True))
        first = next(i for i, (_, after) in enumerate(points) if after >= WARM_UP)
        rate = (points[-1][1] - points[first][1]) / (points[-1][0] - points[first][0])
    start = min(ends[0] for _, ends, _ in results)
    notes, spent, scores = results[0][2], 0.0, []
    for _, at, cost, parameters in notes:
        scores.append((at - start - spent, accuracy_of(parameters, validation)))
        spent += cost
    outcome = {"rate": rate, "seconds": seconds_to_goal(scores), "accuracy": scores[-1][1], "steps": notes[-1][0]}
    return outcome | ({"failures": failures} if failures else {})


def _results(cluster, arguments, container):
    """What every worker returns of a training, and the errors of those before it that failed and were made again."""
    failures = []
    while True:
        try:
            return cluster.workers.apply_sync(run_design, *arguments, f"{container}-{len(failures)}"), failures
        except RemoteError as error:
            if len(failures) == MOST_FAILURES:
                raise
            failures.append(str(error))
            cluster.restart()


def benchmark(repeats, names=tuple(DESIGNS)):
    """Measure every design ``repeats`` times, in turn; returns a list of dicts."""
    validation, rows = read_data_sets(one_hot=True).validation, []
    with tqdm(total=repeats * len(names), desc="throughput") as bar:
        for repeat in range(repeats):
            for workers in (2, 1):
                with Cluster(ps=1, workers=workers, timeout=120) as cluster:
                    for name in (name for name in names if DESIGNS[name][0] == workers):
                        began = time.monotonic()
                        row = measure(cluster, name, repeat, validation)
                        rows.append(row | {"design": name, "repeat": repeat, "took": time.monotonic() - began})
                        cluster.restart()
                        bar.update()
    return rows


def summary(rows):
    """A line a design: medians, and the ratios of each repeat to the listing's of the same repeat."""
    measured, designs = by_design(rows), []
    for name, mine in measured.items():
        base = measured.get("listing, sync (rounds)" if "rounds" in name else "listing, async", mine)
        ratios = [mine[repeat]["rate"] / base[repeat]["rate"] for repeat in mine if repeat in base]
        designs.append((name, list(mine.values()), ratios))
    failures = [f"{row['design']}: failed, made again: {why}" for row in rows for why in row.get("failures", ())]
    return "\n".join([*training_lines(46, {"rate": f"{'a second':>8}"}, designs), *failures])


def main(arguments=None):
    """Measure, print a table, perhaps write JSON; returns the exit status."""
    options = benchmark_options("throughput", __doc__, arguments, only=DESIGNS)
    rows = benchmark(options.repeats, options.only)
    print(summary(rows))
    if options.json:
        write_stamped(options.json, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
