"""Execute notebooks from a clean kernel and store their outputs in place: what `make record` runs.

A notebook is replaced only once all of it has run; if a cell fails, or says False where the same cell said True, the
file stays as it was and the command says which cell, why, and ends with status 1. What says something about the machine
or the moment is left out.
"""

import argparse
import copy
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from book._ext.environment import write_whole
from book._ext.kernels import ENVIRONMENT, TIMEOUT, encrypt_connections

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {
        "codemirror_mode": {"name": "ipython", "version": 3},
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "pygments_lexer": "ipython3",
    },
}
KEPT_CELL_METADATA = ("jupyter", "mystnb", "tags")
KEPT_OUTPUT_METADATA = ("image/png", "image/svg+xml", "needs_background")
ANSI_CODE = re.compile(r"\x1b\[[0-9;]*m")


def normalise(notebook):
    """Strip from a notebook, in place, what differs between machines and runs, and return it.

    Ids that cells have stay; tracebacks are cut to their last line (a page shows the message, not our frames).
    """
    notebook.metadata = nbformat.from_dict(NOTEBOOK_METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict(
            {key: cell.metadata[key] for key in KEPT_CELL_METADATA if cell.metadata.get(key)}
        )
        for output in cell.get("outputs", []):
            if "metadata" in output:
                kept = {key: output.metadata[key] for key in KEPT_OUTPUT_METADATA if key in output.metadata}
                output.metadata = nbformat.from_dict(kept)
            if output.output_type == "error":
                last = ANSI_CODE.sub("", output.evalue).strip().splitlines() or [""]
                output.traceback = [f"{output.ename}: {last[0]}"]
    nbformat.validate(notebook)
    return notebook


def clear(notebook):
    """Empty every code cell's outputs and count, in place, so that nothing of an earlier run is left."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None


class Refuted(Exception):
    """A claim of a page was true when it was recorded, and is not now."""


def refuted(before, after):
    """``(index, line)`` of what cells say is False of which the very same cells said that it is True."""

    def lines(cell):
        return "".join(output.get("text", "") for output in cell.outputs).splitlines()

    said = {(cell.id, cell.source): lines(cell) for cell in before.cells if cell.cell_type == "code"}
    for index, cell in enumerate(after.cells):
        earlier = said.get((cell.id, cell.source), ())
        for line in lines(cell) if earlier else ():
            # Of several tasks, one may have said that it is False all along.
            if line.endswith("False") and line not in earlier and f"{line.removesuffix('False')}True" in earlier:
                yield index, line


class Recorder(NotebookClient):
    """A client that remembers which cell it runs and shows it where a person watches."""

    running = 0

    async def async_execute_cell(self, cell, cell_index, *args, **kwargs):
        self.running = cell_index
        if sys.stdout.isatty():
            sys.stdout.write(f"\r\x1b[Kcell {cell_index + 1} of {len(self.nb.cells)}")
            sys.stdout.flush()
        return await super().async_execute_cell(cell, cell_index, *args, **kwargs)


def record(path, timeout=TIMEOUT):
    """Execute one notebook in its folder and replace it by what it printed.

    Raises:
        CellExecutionError: a cell failed that isn't tagged raises-exception.
        CellTimeoutError: a cell took longer than `timeout` seconds.
        DeadKernelError: the kernel died.
        Refuted: a claim is not true any more.
    """
    notebook = nbformat.read(path, as_version=4)
    before = copy.deepcopy(notebook)
    clear(notebook)
    recorder = Recorder(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    try:
        recorder.execute(env={**os.environ, **ENVIRONMENT})
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        error.cell = recorder.running
        raise
    finally:
        if sys.stdout.isatty():
            sys.stdout.write("\r\x1b[K")
    for index, line in refuted(before, notebook):
        error = Refuted(f"It says {line!r}, and said True: record it again, or change the cell.")
        error.cell = index
        raise error
    write_whole(path, nbformat.writes(normalise(notebook)).rstrip("\n") + "\n")


def main(arguments=None):
    """Record the notebooks named, or all of the book; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m book._ext.record", description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: book/*.ipynb")
    options = parser.parse_args(arguments)
    encrypt_connections()
    for path in options.notebooks or sorted((ROOT / "book").glob("*.ipynb")):
        started = time.monotonic()
        try:
            record(path.resolve())
        except FileNotFoundError:
            print(f"{path}: no such notebook", file=sys.stderr)
            return 1
        except (CellExecutionError, CellTimeoutError, DeadKernelError, Refuted) as error:
            print(f"{path}: cell {error.cell} failed; the file is unchanged.\n{error}", file=sys.stderr)
            return 1
        print(f"{path}: recorded in {time.monotonic() - started:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
