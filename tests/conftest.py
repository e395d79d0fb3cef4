"""Fixtures that several test modules share."""

import os
import random
import subprocess
import sys
import textwrap

import pytest

from mnistdist import Cluster
from mnistdist.errors import PLAIN

os.environ.setdefault("MNISTDIST_PROGRESS", "0")
os.environ.setdefault("ZOO_SEED", str(random.randrange(10**6)))  # here, so that all processes of a run take the same
os.environ.update(PLAIN)  # tests read what their children say
# A minute or more each: where files run beside each other, these begin first, or one would be left running alone.
LONG = ["test_cluster", "test_distributed", "test_faults", "test_hosts", "test_logdir", "test_peers", "test_train"]
LONG += ["test_environments", "test_one_design", "test_zoo"]
LONG += ["program", "from_listing_to_program", "recovery", "when_it_goes_wrong"]


def pytest_report_header():
    return f"sample of the catalogue of models: ZOO_SEED={os.environ['ZOO_SEED']}"


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(scope="module")
def cluster():
    """A running cluster of 1 ps and 2 workers for the tests of one module."""
    with Cluster(ps=1, workers=2) as running:
        yield running


@pytest.fixture(scope="module")
def alone():
    """A cluster with a single worker, which is the chief."""
    with Cluster(ps=1, workers=1) as running:
        yield running


@pytest.fixture(scope="module")
def two_ps():
    """A cluster with two ps and two workers."""
    with Cluster(ps=2, workers=2) as running:
        yield running


@pytest.fixture
def run_python(tmp_path):
    """Start a Python client in a process of its own: ``run_python(code)`` is a ``Popen`` with pipes."""
    started = []

    def start(code, **options):
        script = tmp_path / f"client{len(started)}.py"
        script.write_text(textwrap.dedent(code))
        process = subprocess.Popen(
            [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
