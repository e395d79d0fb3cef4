"""Execute notebooks from a clean kernel and store their outputs in place: what `make record` runs.

A notebook is replaced only once all of it has run. If a cell fails, or if a checked line says that something is False,
the file stays as it was; the command says which cell and why, and its status is 1. If a checked cell prints something
new, the command shows the old lines and the new ones with the prose around them, and stores them only if the variable
ACCEPT is 1. Beside them, and also where the lines are the same, it shows how the cell's code has changed since the last
commit: a claim that is still True may be another claim. What says something about the machine or the moment is left
out.
"""

import argparse
import copy
import difflib
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from book._ext.environment import write_whole
from book._ext.kernels import ENVIRONMENT, TIMEOUT, encrypt_connections
from book._ext.outputs import ANSI_CODE, changes, compared, false_claims, is_ignored, prose_around

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


class Refused(Exception):
    """What a cell printed now is not stored: it says that a claim is False, or isn't what it printed before."""


def committed(path):
    """``{id: source}`` of the notebook's cells as they were committed last; empty if there is nothing to compare."""
    command = ["git", "-C", path.parent, "show", f"HEAD:./{path.name}"]
    shown = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    return {cell.id: cell.source for cell in nbformat.reads(shown.stdout, 4).cells} if shown.returncode == 0 else {}


def differences(old, new):
    """Two texts' lines, those that only one has marked, indented."""
    lines = difflib.ndiff(old.splitlines(), new.splitlines())
    return "".join(f"    {line}\n" for line in lines if not line.startswith("?"))


def report(path, before, after):
    """Print what checked cells printed before and print now, with the prose around; return how many there are.

    And how their code has changed since the last commit.
    """
    found = {index: (old, new) for index, old, new in changes(before, after)}
    sources = committed(path)
    for index, cell in enumerate(after.cells):
        source = sources.get(cell.id, cell.source)
        edited = cell.cell_type == "code" and not is_ignored(cell) and source != cell.source
        if not edited and index not in found:
            continue
        said, says = prose_around(after, index)
        what = "prints something else" if index in found else f"prints what it did: {compared(cell)!r}"
        print(f"\n{path}: cell {index} {what}.\n{textwrap.indent(said, '    | ')}")
        print(f"    code changed:\n{differences(source, cell.source)}" if edited else "", end="")
        print(differences(*found[index]) if index in found else "", end="")
        print(textwrap.indent(says, "    | "), flush=True)
    return len(found)


class Recorder(NotebookClient):
    """A client that remembers which cell it runs and shows it where a person watches."""

    running = 0

    async def async_execute_cell(self, cell, cell_index, *args, **kwargs):
        self.running = cell_index
        if sys.stdout.isatty():
            sys.stdout.write(f"\r\x1b[Kcell {cell_index + 1} of {len(self.nb.cells)}")
            sys.stdout.flush()
        return await super().async_execute_cell(cell, cell_index, *args, **kwargs)


def record(path, timeout=TIMEOUT, accept=False):
    """Execute one notebook in its folder and replace it by what it printed, if that is what it printed before.

    Args:
        path: the notebook.
        timeout: seconds a cell.
        accept: store what checked cells print also where it differs from what is stored.

    Raises:
        CellExecutionError: a cell failed that isn't tagged raises-exception.
        CellTimeoutError: a cell took longer than `timeout` seconds.
        DeadKernelError: the kernel died.
        Refused: a claim is False, or a checked output differs and isn't accepted.
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
    normalise(notebook)
    for index, cell in enumerate(notebook.cells):
        for line in false_claims(cell) if cell.cell_type == "code" else ():
            raise Refused(f"cell {index} says {line!r}: say what is so, and print True")
    changed = report(path, before, notebook)
    if changed and not accept:
        raise Refused(f"{changed} checked outputs differ: read them with the prose around, then make record ACCEPT=1")
    write_whole(path, nbformat.writes(notebook).rstrip("\n") + "\n")


def main(arguments=None):
    """Record the notebooks named, or all of the book; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m book._ext.record", description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: book/*.ipynb")
    options = parser.parse_args(arguments)
    encrypt_connections()
    status = 0
    for path in options.notebooks or sorted((ROOT / "book").glob("*.ipynb")):
        started = time.monotonic()
        try:
            record(path.resolve(), accept=os.environ.get("ACCEPT") == "1")
        except FileNotFoundError:
            print(f"{path}: no such notebook", file=sys.stderr)
            return 1
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            print(f"{path}: cell {error.cell} failed; the file is unchanged.\n{error}", file=sys.stderr)
            return 1
        except Refused as error:
            print(f"{path}: the file is unchanged: {error}", file=sys.stderr)
            status = 1
            continue
        print(f"{path}: recorded in {time.monotonic() - started:.0f} s", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
