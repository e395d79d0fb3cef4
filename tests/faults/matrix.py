"""Faults in trainings that run, one by one, and kills of the client: what `make faults` provokes.

Each cell of the matrix (``cells.py``) is one fault in one training.
"""

import argparse
import random
import statistics
import sys
import time
from pathlib import Path

from tqdm import tqdm

from book._ext.environment import write_stamped
from tests.faults.cells import SAVE_STEPS, cells, run_cell
from tests.faults.clients import ENDED, PHASES, client_seconds, kill_client
from tests.faults.contained import tried


def matrix(chosen, kills, say=print):
    """Run cells, and kills of a notebook's client in its phases in turn; returns rows of :func:`fault` and `kill`."""
    rows = []
    for cell in tqdm(chosen, desc="faults", disable=not sys.stderr.isatty()):
        rows.append(fault(*cell))
        say(line(rows[-1]))
    whole = client_seconds("cluster") if kills else {}
    for number in tqdm(range(kills), desc="kills", disable=not sys.stderr.isatty()):
        rows.append(kill("cluster", PHASES[number % len(PHASES)], whole))
        say(line(rows[-1]))
    return rows


def fault(*cell):
    """The outcome of :func:`run_cell` as a row: with the cell's names, and in "failed" why it is not as expected."""
    return dict(zip(("form", "role", "fault", "mode"), cell, strict=True)) | tried(run_cell, *cell)


def kill(form, phase, seconds):
    """The outcome of :func:`kill_client` at a random moment of a phase as such a row.

    ``seconds`` is what :func:`client_seconds` gave. A client that has ended before is none that was killed: once more.
    """
    while True:
        outcome = tried(kill_client, form, phase, random.uniform(0, seconds[phase]))
        if outcome["failed"] or outcome["phase"] != ENDED:
            return {"form": form, "role": "client", "fault": "kill", "mode": ""} | outcome


def line(row):
    """A row in one line of text."""
    where = f"{row['form']:<8}{row['role']:<7}{row['fault']:<8}{row['mode']:<6}"
    if row["failed"]:
        return f"{where} FAILED: {row['failed']}"
    what = f"killed: {row['phase']}" if "phase" in row else row["error"] or "training went on"
    return f"{where}{row['seconds']:6.1f} s  {what}"


def table(rows):
    """A line a fault, mode and form: seconds to recovery or error (median, worst), steps lost, and what happened."""
    groups = {}
    for row in rows:
        groups.setdefault((row["fault"], row["role"], row["mode"], row["form"]), []).append(row)
    lines = [f"{'fault':<9}{'of the':<8}{'mode':<7}{'form':<9}{'median s':>9}{'worst s':>9}{'lost':>6}  ends with"]
    for (fault, role, mode, form), group in sorted(groups.items()):
        good = [row for row in group if not row["failed"]]
        failed = f"  {len(group) - len(good)} FAILED" if len(good) < len(group) else ""
        seconds = [row["seconds"] for row in good] or [float("nan")]
        known = [row["lost"] for row in good if row.get("lost") is not None]
        lost = max(known) if known else "all" if role == "ps" else "-"
        ends = " / ".join(sorted({"error" if row.get("error") else "training" for row in good}))
        ends = "no process left" if role == "client" else ends
        lines.append(
            f"{fault:<9}{role:<8}{mode:<7}{form:<9}{statistics.median(seconds):9.1f}{max(seconds):9.1f}{lost:>6}  "
            f"{ends}{failed}"
        )
    return "\n".join(lines)


def main(arguments=None):
    """Run from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.matrix", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=1, help="times to run all of it")
    parser.add_argument("--only", default="", help="cells with all of these words, separated by commas")
    parser.add_argument("--json", type=Path, help="file for the outcomes")
    options = parser.parse_args(arguments)
    begin, rows, words = time.monotonic(), [], set(options.only.split(",")) - {""}
    for _ in range(options.repeats):
        rows += matrix([cell for cell in cells() if words <= set(cell)], options.kills)
        if options.json:
            write_stamped(options.json, rows)
    print(table(rows))
    failed = sum(bool(row["failed"]) for row in rows)
    minutes = (time.monotonic() - begin) / 60
    print(
        f"{len(rows)} faults in {minutes:.1f} minutes, {failed} failed, {beyond(rows)} steps lost beyond a checkpoint"
    )
    return 1 if failed else 0


def beyond(rows):
    """Global steps that were lost beyond the interval between checkpoints, in all."""
    return sum(max((row.get("lost") or 0) - SAVE_STEPS, 0) for row in rows)


if __name__ == "__main__":
    sys.exit(main())
