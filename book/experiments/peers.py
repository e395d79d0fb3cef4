"""Other runtimes of several processes beside ours: batches a second and seconds to 97%, as ratios taken in one run.

``python -m book.experiments.peers [--repeats 3] [--json FILE]``: in each repeat, with a seed of its own, the text's
network is trained in turn by the listing and by our designs (``throughput.py``), by TensorFlow 2's two strategies for
several processes and, where ``torch`` can be imported, by PyTorch's DistributedDataParallel. All are held to the same
two cores, each worker to one of them. One round of two workers is two batches, so that rounds and updates compare. Our
designs make up to 16 updates a call of the runtime; so do the rows that say it, and the others one. The parameters are
noted every 250 updates or rounds and evaluated afterwards: neither costs time.
"""

import os
import subprocess
import sys
import time

from tqdm import tqdm

from book._ext.environment import write_stamped
from book.experiments.peer_processes import run_tasks
from book.experiments.report import (
    accuracy_of,
    benchmark_options,
    by_design,
    hold_to_cores,
    seconds_to_goal,
    training_lines,
)
from book.experiments.throughput import DESIGNS, EVERY, WARM_UP, measure
from mnistdist import Cluster, read_data_sets
from mnistdist.cluster.network import private_network_available
from mnistdist.errors import PLAIN

BASE = "listing, async"
OURS = (BASE, "ours, async", "ours, sync (rounds)")
DDP = "PyTorch DDP, gloo (rounds)"
# name: (what to run, ps tasks, whether there is a coordinator, updates or rounds a call)
PEERS = {
    "TF2 ParameterServerStrategy": ("parameter_server", 1, True, 1),
    "TF2 ParameterServerStrategy, 16 a schedule": ("parameter_server", 1, True, 16),
    "TF2 MultiWorkerMirroredStrategy (rounds)": ("multi_worker_mirrored", 0, False, 1),
    "TF2 MultiWorkerMirroredStrategy, 16 a call (rounds)": ("multi_worker_mirrored", 0, False, 16),
    DDP: ("distributed_data_parallel", 0, False, 1),
}
WORKERS = 2
TIMEOUT = 240  # seconds for one peer, once


def batches_of(design, rate):
    """Batches a second of a design that makes ``rate`` updates or rounds a second."""
    return WORKERS * rate if "(rounds)" in design else rate


def score(record, validation, warm_up=WARM_UP):
    """Rate after the first ``warm_up`` steps, seconds to the goal (None: not reached), accuracy, from one's record."""
    made, ends, notes = record["made"], record["ends"], record["notes"]
    first = next(i for i, after in enumerate(made) if after >= warm_up)
    scores = [(at - ends[0], accuracy_of(parameters, validation)) for _, at, parameters in notes]
    return {
        "rate": (made[-1] - made[first]) / (ends[-1] - ends[first]),
        "seconds": seconds_to_goal(scores),
        "accuracy": scores[-1][1],
        "steps": made[-1],
    }


def measure_peer(name, repeat, validation, *, private, steps=None, every=EVERY, warm_up=WARM_UP, timeout=TIMEOUT):
    """One peer, once, with fresh processes: the same dict as ``book.experiments.throughput.measure`` has of a design.

    Without ``steps`` it trains as long as our design of its kind does.
    """
    peer, ps, coordinator, at_once = PEERS[name]
    steps = steps or DESIGNS["ours, sync (rounds)" if "(rounds)" in name else BASE][3]
    options = {"ps": ps, "coordinator": coordinator, "private": private, "timeout": timeout}
    records = run_tasks(peer, steps=steps, steps_per_call=at_once, every=every, seed=repeat + 1, **options)
    return score(next(iter(records.values())), validation, warm_up)


def why_not_torch():
    """Why PyTorch's row is left out, in a few words; None when ``torch`` can be imported here."""
    command, environment = [sys.executable, "-c", "import torch"], os.environ | PLAIN
    tried = subprocess.run(command, env=environment, capture_output=True, text=True)
    return None if tried.returncode == 0 else tried.stderr.strip().rpartition("\n")[2]


def benchmark(repeats):
    """Measure every row ``repeats`` times, in turn; returns a list of dicts."""
    validation, private = read_data_sets(one_hot=True).validation, private_network_available()
    missing = why_not_torch()
    peers = [name for name in PEERS if name != DDP or not missing]
    rows = []
    with tqdm(total=repeats * (len(OURS) + len(peers)), desc="peers", disable=not sys.stderr.isatty()) as bar:

        def add(name, repeat, measured, began):
            row = measured | {"batches": batches_of(name, measured["rate"])}
            rows.append(row | {"design": name, "repeat": repeat, "took": time.monotonic() - began})
            bar.update()

        for repeat in range(repeats):
            with Cluster(ps=1, workers=WORKERS, devices="cpu", timeout=120) as cluster:
                for name in OURS:
                    began = time.monotonic()
                    add(name, repeat, measure(cluster, name, repeat, validation), began)
                    if name != OURS[-1]:
                        cluster.restart()
            for name in peers:
                began = time.monotonic()
                add(name, repeat, measure_peer(name, repeat, validation, private=private), began)
    if missing:
        rows.append({"design": DDP, "left_out": missing})
    return rows


def summary(rows):
    """A line a row of the table: medians, and the ratios of each repeat to the listing's of the same repeat."""
    measured = by_design(row for row in rows if "left_out" not in row)
    designs = []
    for name, mine in measured.items():
        ratios = [row["batches"] / measured[BASE][repeat]["batches"] for repeat, row in mine.items()]
        designs.append((name, list(mine.values()), ratios))
    left_out = [f"{row['design']} is left out: {row['left_out']}" for row in rows if "left_out" in row]
    rates = {"rate": f"{'a second':>8}", "batches": f"{'batches':>9}"}
    return "\n".join([*training_lines(52, rates, designs), *left_out])


def main(arguments=None):
    """Measure, print a table, perhaps write JSON; returns the exit status."""
    options = benchmark_options("peers", __doc__, arguments)
    hold_to_cores(WORKERS)
    rows = benchmark(options.repeats)
    print(summary(rows))
    if options.json:
        write_stamped(options.json, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
