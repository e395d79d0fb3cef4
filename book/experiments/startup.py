"""Start-up, restart and stop of a cluster, as ratios to plain imports of TensorFlow taken in the same run.

``python -m book.experiments.startup [--repeats 5] [--json FILE]``: in turn, three plain ``import tensorflow`` started
at once, then one ``Cluster(ps=1, workers=2)`` entered, restarted and stopped by a fresh Python process, all held to the
same two cores; prints medians and spread.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time

from tqdm import tqdm

from book._ext.environment import write_stamped
from book.experiments.report import benchmark_options, hold_to_cores, noisy

TASKS = 3
CLIENT = """
import json, time
from mnistdist import Cluster
times = [time.monotonic()]
cluster = Cluster(ps=1, workers=2)
cluster.start()
times.append(time.monotonic())
cluster.restart()
times.append(time.monotonic())
cluster.stop()
times.append(time.monotonic())
print(json.dumps([b - a for a, b in zip(times, times[1:])]))
"""


def plain_imports():
    """Seconds until three plain imports of TensorFlow, started at once, have all ended."""
    begin = time.monotonic()
    command = [sys.executable, "-c", "import tensorflow"]
    processes = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(TASKS)]
    if any([process.wait() for process in processes]):
        raise RuntimeError("a plain `import tensorflow` failed")
    return time.monotonic() - begin


def cluster_times():
    """Seconds of start, restart and stop of one cluster."""
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.run([sys.executable, "-c", CLIENT], stdout=subprocess.PIPE, check=True, cwd=folder)
    return json.loads(run.stdout)


def main(arguments=None):
    """Run the benchmark and print its table."""
    options = benchmark_options("startup", __doc__, arguments, repeats=5)
    hold_to_cores(2)
    plain_imports()  # once uncounted: files into memory, byte code written
    rows = []
    for _ in tqdm(range(options.repeats), desc="start-up", disable=not sys.stderr.isatty()):
        plain = plain_imports()
        start, restart, stop = cluster_times()
        rows.append({"three imports": plain, "start": start, "restart": restart, "stop": stop})
    print(f"{'':20}{'median s':>10}{'ratio to three imports: median':>34}{'min':>8}{'max':>8}")
    for name in rows[0]:
        ratios = [row[name] / row["three imports"] for row in rows]
        seconds = statistics.median(row[name] for row in rows)
        spread = f"{statistics.median(ratios):34.2f}{min(ratios):8.2f}{max(ratios):8.2f}{noisy(ratios)}"
        print(f"{name:20}{seconds:10.2f}{spread}")
    if options.json:
        write_stamped(options.json, rows)


if __name__ == "__main__":
    main()
