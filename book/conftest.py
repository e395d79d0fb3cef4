"""How `pytest --nbval` runs and compares the notebooks of this folder, from whatever folder it is typed."""

import os
from pathlib import Path
from unittest import mock

import pytest
from book._ext.kernels import ENVIRONMENT, TIMEOUT
from nbval.plugin import IPyNbCell, IPyNbFile

# What a reader sees but what may differ between two runs: warnings, tables' HTML, drawings.
NOT_COMPARED = ("stderr", "text/html", "image/svg+xml")


def pytest_configure(config):
    """Use this environment's Python and the book's sanitizers, unless the command line says otherwise."""
    config.option.nbval_current_env = not config.option.nbval_kernel_name
    config.option.nbval_cell_timeout = min(
        config.option.nbval_cell_timeout, TIMEOUT
    )
    if config.option.nbval_sanitize_with is None:
        config.option.nbval_sanitize_with = str(
            Path(__file__).parent.parent / "tests/book/nbval.cfg"
        )


def pytest_collectstart(collector):
    """Leave out of the comparison what isn't text that a cell computes."""
    if isinstance(collector, IPyNbFile):
        collector.skip_compare += NOT_COMPARED


def pytest_itemcollected(item):
    """Wait longer than nbval's 5 seconds for the last message of a cell: a busy machine is no failure."""
    if isinstance(item, IPyNbCell):
        item.output_timeout = 60


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item):
    """Give the kernels, which start with a notebook's first cell, the book's environment variables."""
    with mock.patch.dict(os.environ, ENVIRONMENT):
        return (yield)
