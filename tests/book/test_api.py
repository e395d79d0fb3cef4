"""The public names: all of them documented on the API page, each with an example that runs."""

import ast
import dataclasses
import inspect
import pkgutil
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import nbformat
import pytest
import yaml

import mnistdist
from mnistdist import read_data_sets, train
from mnistdist.training import Replica, build_fast_replica, build_replica
from tests.book.book_rules import code_cells, syntax

PAGE = Path(__file__).parents[2] / "book" / "api.md"


def test_the_api_page_has_every_public_name_and_no_other():
    documented = re.findall(r"^\.\. auto(?:function|class|exception):: mnistdist\.(\w+)$", PAGE.read_text(), re.M)
    assert sorted(documented) == sorted(mnistdist.__all__)


def test_the_api_page_lists_each_attribute_once_and_by_its_name(tmp_path):
    """The page as Sphinx renders it, with the settings of the book: a trailing underscore is RST for a reference."""
    settings = yaml.safe_load((PAGE.parents[1] / "_config.yml").read_text())["sphinx"]
    config = {"extensions": ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]} | {
        name: value for name, value in settings["config"].items() if re.match("autodoc|napoleon|strip|python", name)
    }
    (tmp_path / "conf.py").write_text("\n".join(f"{name} = {value!r}" for name, value in config.items()))
    directives = re.findall(r"^(?:\.\. auto| {3}:|$).*", PAGE.read_text(), re.M)
    (tmp_path / "index.rst").write_text("\n".join(["Page", "====", "", *directives]))
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "text", str(tmp_path), str(tmp_path / "out")]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    said = (tmp_path / "out" / "index.txt").read_text()
    listed = {}
    for entry in re.split(r"^(?:class |exception )?mnistdist\.", said, flags=re.M)[1:]:
        listed[re.match(r"[\w.]+", entry)[0].split(".")[-1]] = re.findall(r"^ +\* \*\*(\w+)\*\*", entry, re.M)
    results = mnistdist.results.WorkerResult, mnistdist.results.SharedModel
    for each in (mnistdist.Graph, mnistdist.StepRecord, Replica, *results):
        names = getattr(each, "_fields", None) or [field.name for field in dataclasses.fields(each)]
        assert listed[each.__name__] == list(names)
    assert "**,*" not in said  # "a, b:" is one argument b of the type "a,"


def imported(path):
    """Names of modules of the package, with the module, that the cells of a notebook import."""
    trees = [syntax(cell) for _, cell in code_cells(nbformat.read(path, as_version=4))]
    found = [node for tree in trees if tree for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {f"{node.module}.{name.name}" for node in found if "mnistdist." in node.module for name in node.names}


def test_the_parts_of_a_training_are_on_the_api_page_with_each_of_their_arguments():
    parts = re.findall(r"^\.\. auto(?:function|class|exception):: (mnistdist(?:\.\w+){2,})$", PAGE.read_text(), re.M)
    assert len(parts) == len(set(parts))
    named = "Checkpoints MadeStep Replica Rounds build_fast_replica build_replica run_worker train_loop worker_session"
    named = {f"training.{each}" for each in named.split()}
    assert {f"mnistdist.{each}" for each in named} | imported(PAGE.parent / "your_own_loop.ipynb") <= set(parts)
    for part in sorted({f"mnistdist.{each}" for each in named}):
        made = pkgutil.resolve_name(part)
        said = made.__doc__ + build_replica.__doc__ * (made is build_fast_replica)  # which refers to it
        for argument in inspect.signature(made).parameters:
            assert re.search(rf"\b{argument}(:|``)", said), (part, argument)


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
