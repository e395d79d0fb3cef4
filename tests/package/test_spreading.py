"""Notebooks and tests in several processes: the cells of one notebook stay together."""

import subprocess
import sys

import nbformat
import pytest

from tests.book.book_rules import ROOT

CELLS = 12


@pytest.fixture
def notebook(tmp_path):
    """A folder with the project's conftest.py and a notebook, each cell of which needs the one before."""
    (tmp_path / "conftest.py").write_text((ROOT / "conftest.py").read_text(encoding="utf-8"), encoding="utf-8")
    sources = ["n = 0\nprint(n)", *["n += 1\nprint(n)"] * (CELLS - 1)]
    cells = [
        nbformat.v4.new_code_cell(
            source, execution_count=number + 1, outputs=[nbformat.v4.new_output("stream", text=f"{number}\n")]
        )
        for number, source in enumerate(sources)
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "counting.ipynb")
    (tmp_path / "test_numbers.py").write_text(
        "import os, pytest\n"
        "@pytest.fixture(scope='module')\ndef process():\n    return os.getpid()\n"
        "@pytest.mark.parametrize('n', range(12))\n"
        "def test_number(process, n, seen=set()):\n    seen.add(n)\n    assert len(seen) == n + 1\n"
    )
    return tmp_path


def pytest_in(folder, *options):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--nbval",
        "--nbval-current-env",
        "-c",
        "/dev/null",
        "--rootdir",
        ".",
    ]
    done = subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True, timeout=300)
    return done.stdout.splitlines()[-1] if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize("spread", [[], ["--dist", "worksteal"]])
def test_cells_of_a_notebook_stay_together(notebook, spread):
    assert pytest_in(notebook, "-n", "2", *spread).startswith(f"{2 * CELLS} passed")


def test_the_hook_does_no_harm_where_there_is_nothing_to_spread(notebook):
    assert pytest_in(notebook, "-p", "no:xdist").startswith(f"{2 * CELLS} passed")
