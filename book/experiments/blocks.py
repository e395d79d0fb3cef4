"""Measure in blocks, store each of them, and go on later where an earlier call has stopped.

What is to be compared is measured one after the other in one block, so that what else the machine does meets all of it;
comparisons are made within blocks only. A block is added to the file as soon as it is complete.
"""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from book._ext.environment import environment, write_whole
from mnistdist import Cluster

FOLDER = Path(__file__).resolve().parent  # of the results, beside the code that makes them


@dataclass(frozen=True)
class Experiment:
    """What is measured in a block.

    Attributes:
        run: Yields the rows of a block, plain JSON; called with the clusters, the block's number, the sizes, and the
            results so far, by experiment.
        clusters: ``(ps, workers)`` of each cluster that it needs.
        repeats: Which of the sizes says how many blocks there are.
    """

    run: Callable
    clusters: tuple = ()
    repeats: str = "blocks"


def rotated(arms, block):
    """The arms in an order that begins with another one in each block."""
    names = list(arms)
    start = block % len(names)
    return names[start:] + names[:start]


def load(path, sizes, experiments):
    """What has been measured so far; nothing yet where there is no file.

    Raises:
        ValueError: it was measured with other sizes, or elsewhere.
    """
    fresh = {"environment": dict(environment()), "sizes": asdict(sizes), **{name: [] for name in experiments}}
    if not path.exists():
        return fresh
    found = json.loads(path.read_text(encoding="utf-8"))
    for key in "environment", "sizes":
        changed = [name for name in fresh[key] if fresh[key][name] != found.get(key, {}).get(name)]
        if changed:
            raise ValueError(f"{path} was measured with another {', '.join(changed)}: move it away to measure anew")
    return found


def measure(path, sizes, experiments, *, seconds=None, say=print):
    """Run the blocks that the file lacks and add them; begin none after ``seconds``. True when none is lacking."""
    results, begun = load(path, sizes, experiments), time.monotonic()
    for name, experiment in experiments.items():
        blocks = getattr(sizes, experiment.repeats)
        missing = sorted(set(range(blocks)) - {row["block"] for row in results[name]})
        with contextlib.ExitStack() as stack:
            clusters = None
            for block in missing:
                if seconds is not None and time.monotonic() - begun > seconds:
                    return False
                if clusters is None:
                    clusters = [stack.enter_context(Cluster(ps=ps, workers=n)) for ps, n in experiment.clusters]
                else:
                    for cluster in clusters:  # fresh processes: blocks have nothing in common
                        cluster.restart()
                results[name] += [{"block": block, **row} for row in experiment.run(clusters, block, sizes, results)]
                write_whole(path, json.dumps(results, indent=1) + "\n")
                say(f"{name}: block {block + 1} of {blocks}, {time.monotonic() - begun:.0f} s")
    return True


def main(arguments, about, *, file, sizes, experiments, report=None):
    """Measure from the command line; return the exit status.

    Args: the command line's arguments; the docstring of the module that is run; where the results go by default; what
    is measured; a function of the file's path that returns what to say of its results once they are complete.
    """
    parser = argparse.ArgumentParser(prog=f"python -m book.experiments.{file.stem}", description=about.splitlines()[0])
    parser.add_argument("--file", type=Path, default=file, help="where the results are and go")
    parser.add_argument("--seconds", type=float, help="begin no block after so many seconds; call again to go on")
    options = parser.parse_args(arguments)
    try:
        complete = measure(options.file, sizes, experiments, seconds=options.seconds)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    if not complete:
        print("not complete: call again to go on")
    else:
        print("complete" if report is None else report(options.file))
    return 0
