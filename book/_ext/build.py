"""Build the book as `make book` does: execute the chapters, render them, and say where the page is."""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from book._ext.kernels import ENVIRONMENT

ROOT = Path(__file__).resolve().parents[2]

JUPYTER_BOOK = "from jupyter_book.cli.main import main; main()"  # it has no `python -m`


def code_digest(root=ROOT):
    """A digest of what the chapters import: when it changes, every chapter is to run again."""
    digest = hashlib.sha256()
    for path in [root / "requirements.lock", *sorted((root / "mnistdist").rglob("*.py"))]:
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def forget(build, *folders):
    """Remove these folders of the build."""
    for folder in folders:
        shutil.rmtree(build / folder, ignore_errors=True)


def build_book(output, execute="all"):
    """Render the book to `output/_build/html`; return Jupyter Book's exit status.

    A page with a warning is rendered all the same, but the status is not 0.

    Args:
        output: the folder that gets `_build`.
        execute: the chapters to execute: "all", "none" or the name of one.
    """
    build = output / "_build"
    stamp = build / "code-digest.txt"
    if not stamp.exists() or stamp.read_text(encoding="ascii") != code_digest():
        forget(build, ".jupyter_cache", ".doctrees")
    build.mkdir(parents=True, exist_ok=True)
    stamp.write_text(code_digest(), encoding="ascii")
    command = [sys.executable, "-c", JUPYTER_BOOK, "build", str(ROOT), "--path-output", str(output)]
    command += ["--warningiserror", "--nitpick", "--keep-going"]
    environment = {**os.environ, **ENVIRONMENT, "MNISTDIST_BOOK_EXECUTE": execute}
    status = subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL).returncode
    if status:
        forget(build, ".doctrees")  # or Sphinx would take the faulty pages for done
    return status


def main(arguments=None):
    """Build; return the exit status. The last line printed says where the first page is."""
    parser = argparse.ArgumentParser(prog="python -m book._ext.build", description=__doc__)
    parser.add_argument("--execute", default="all", help="all, none, or the name of one chapter")
    parser.add_argument("--output", type=Path, default=ROOT, help="the folder that gets _build")
    options = parser.parse_args(arguments)
    if options.execute == "all":
        print("Executing the chapters that have changed: about a minute each.", flush=True)
    status = build_book(options.output.resolve(), options.execute)
    page = options.output.resolve() / "_build" / "html" / "index.html"
    if status:
        print(f"The book has faults: see the warnings above. What could be rendered: {page}")
    else:
        print(f"The book: {page}")
    return status


if __name__ == "__main__":
    sys.exit(main())
