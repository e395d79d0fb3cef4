"""Start, train and stop, again and again, with faults and kills at random: what `make soak` does for an hour.

Three things take turns by chance. A client starts a cluster of random shape, trains and stops: always the same process,
so that what a notebook would pile up in a day is seen. A task of another training meets one of the faults of
`tests/faults/matrix.py`. A client, or the launcher of the program, is killed at any moment of its life.
"""

import argparse
import multiprocessing
import os
import random
import statistics
import sys
import time
from pathlib import Path

import psutil
from tqdm import tqdm

from book._ext.environment import write_stamped
from tests.faults import matrix
from tests.faults.cells import FORMS, MODES, SAVE_STEPS, cells
from tests.faults.clients import PHASES, client_seconds
from tests.faults.contained import Hang, Orphans, tried

CYCLE_LIMIT = 180  # seconds for one start, training and stop, under load too
STEPS = 300  # of a cycle's training
SETTLED = 3  # cycles after which a client has loaded all that it needs
HELD = ("processes", "descriptors", "threads", "megabytes")


class Client:
    """A process that starts a cluster, trains and stops, as often as :meth:`cycle` is called."""

    def __init__(self):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,))
        self._process.start()
        theirs.close()

    def cycle(self, ps, workers, sync):
        """One start, training and stop; returns {"seconds": all of it, "held": what the process has afterwards}.

        Raises:
            Hang: it took longer than CYCLE_LIMIT.
            Orphans: processes of the cluster were left.
            AssertionError: anything else went wrong, the process's end included.
        """
        try:
            self._pipe.send((ps, workers, sync))
            if not self._pipe.poll(CYCLE_LIMIT):
                raise Hang(f"expected that the cycle ends within {CYCLE_LIMIT} s")
            done = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise AssertionError(f"expected that the client lives on, got {error!r}") from None
        if isinstance(done, str):
            raise Orphans(done) if done.startswith(Orphans.__name__) else AssertionError(done)
        return done

    def close(self):
        """End the process, whatever it does."""
        self._pipe.close()
        self._process.join(10)
        self._process.kill()
        self._process.join()


def _serve(pipe):
    os.environ["MNISTDIST_PROGRESS"] = "0"
    while True:
        try:
            pipe.send(_cycle(*pipe.recv()))
        except EOFError:
            return
        except Exception as error:
            pipe.send(f"{type(error).__name__}: {error}")


def _cycle(ps, workers, sync):
    from mnistdist import Cluster, train

    begin = time.monotonic()
    with Cluster(ps=ps, workers=workers) as cluster:
        tasks = [psutil.Process(task.pid) for task in cluster.tasks]
        reached = train(cluster, steps=STEPS, sync=sync).global_step
    seconds = time.monotonic() - begin
    assert reached >= STEPS, f"expected {STEPS} steps, got {reached}"
    if left := [task.pid for task in tasks if task.is_running()]:
        raise Orphans(f"expected no task after the cluster's end, got processes {left}")
    ours = psutil.Process()
    held = (len(ours.children(recursive=True)), ours.num_fds(), ours.num_threads(), ours.memory_info().rss / 2**20)
    return {"seconds": seconds, "held": dict(zip(HELD, held, strict=True))}


def soak(minutes, say=print):
    """Yield the outcome of each turn, as rows like those of `tests.faults.matrix.matrix`, for so many minutes."""
    deadline = time.monotonic() + 60 * minutes
    whole = {form: client_seconds(form) for form in FORMS}
    client = Client()
    try:
        while time.monotonic() < deadline:
            turn = random.choices(("cycle", "fault", "kill"), (3, 4, 3))[0]
            if turn == "fault":
                row = matrix.fault(*random.choice(cells()))
            elif turn == "kill":
                form = random.choice(FORMS)
                row = matrix.kill(form, random.choice(PHASES), whole[form])
            else:
                shape = random.randint(1, 2), random.randint(1, 3), random.choice((False, True))
                row = {"form": "cluster", "role": "", "fault": "", "mode": MODES[shape[2]], "shape": shape}
                row |= tried(client.cycle, *shape) | {"lost": 0, "error": ""}
                if row["failed"]:
                    client.close()
                    client = Client()
            say(matrix.line(row))
            yield row
    finally:
        client.close()


def summary(rows):
    """What came of it, in a few lines: cycles, faults, hangs, orphans, steps lost, and what a client piled up."""
    cycles = [row for row in rows if not row["fault"]]
    kills = [row for row in rows if row["role"] == "client"]
    failed = [row["failed"] for row in rows if row["failed"]]
    hangs, orphans = (sum(each.startswith(f"{kind.__name__}:") for each in failed) for kind in (Hang, Orphans))
    lines = [
        f"{len(cycles)} cycles of start, training and stop; {len(rows) - len(cycles) - len(kills)} faults in tasks; "
        f"{len(kills)} kills of a client",
        f"{hangs} hangs, {orphans} with processes left, {len(failed) - hangs - orphans} failed in other ways",
        f"{matrix.beyond(rows)} steps lost beyond the {SAVE_STEPS} between checkpoints",
    ]
    held = [row["held"] for row in cycles if not row["failed"]]
    if len(held) >= 3 * SETTLED:
        early, late = held[SETTLED : 2 * SETTLED], held[-SETTLED:]
        medians = {name: [statistics.median(each[name] for each in part) for part in (early, late)] for name in HELD}
        grown = ", ".join(f"{name} {first:.0f} -> {last:.0f}" for name, (first, last) in medians.items())
        lines.append(
            f"held by the client of the cycles, cycles {SETTLED + 1} to {2 * SETTLED} -> the last {SETTLED}: {grown}"
        )
    return "\n".join(lines)


def main(arguments=None):
    """Run from the command line; returns the exit status. Ctrl-C ends it early, with what there is until then."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--json", type=Path, help="file for the outcomes, written anew after each")
    options = parser.parse_args(arguments)
    rows = []
    try:
        for row in tqdm(soak(options.minutes), desc="soak", unit=" turns", disable=not sys.stderr.isatty()):
            rows.append(row)
            if options.json:
                write_stamped(options.json, rows)
    except KeyboardInterrupt:
        print(f"stopped before {options.minutes:g} minutes were over")
    print(matrix.table([row for row in rows if row["fault"]]))
    print(summary(rows))
    return 1 if any(row["failed"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
