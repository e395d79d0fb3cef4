"""The public names: all of them documented on the API page, each with an example that runs."""

import inspect
import re
import textwrap
from pathlib import Path

import pytest

import mnistdist
from mnistdist import read_data_sets, train

PAGE = Path(__file__).parent.parent / "book" / "api.md"


def test_the_api_page_has_every_public_name_and_no_other():
    documented = re.findall(r"^\.\. auto(?:function|class|exception):: mnistdist\.(\w+)$", PAGE.read_text(), re.M)
    assert sorted(documented) == sorted(mnistdist.__all__)


def examples(docstring):
    """The code of a docstring's examples: after ``Example::``, or behind ``>>>``."""
    text = inspect.cleandoc(docstring)
    blocks = re.findall(r"^Example::\n\n((?: {4}.*\n|\n)+)", text + "\n", re.M)
    prompted = [line[4:] for line in text.splitlines() if line.startswith((">>> ", "... "))]
    return [textwrap.dedent(block) for block in blocks] + (["\n".join(prompted)] if prompted else [])


@pytest.mark.parametrize("name", mnistdist.__all__)
def test_the_example_of_a_public_name_runs(name, cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = examples(getattr(mnistdist, name).__doc__)
    assert found, f"{name} has no example"
    import os

    import numpy as np

    known = {each: getattr(mnistdist, each) for each in mnistdist.__all__}
    for code in found:
        exec(code, known | {"cluster": cluster, "np": np, "os": os, "Path": Path})
    assert cluster.status == "running"


def test_examples_are_found_in_both_forms():
    assert examples("Does it.\n\n    Example::\n\n        a = 1\n\n        b = 2\n\n    Raises: nothing.") == [
        "a = 1\n\nb = 2\n\n"
    ]
    assert examples("Does it.\n\n    >>> a = 1\n    >>> a\n    1\n    ") == ["a = 1\na"]
    assert examples("Does it.") == []


def test_the_names_are_what_they_say():
    assert mnistdist.train is train
    assert mnistdist.read_data_sets is read_data_sets
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mnistdist.nothing  # noqa: B018 (asking for it is what raises)
