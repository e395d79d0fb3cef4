"""The project's own files agree with each other."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import mnistdist

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.M)


def test_the_conda_environment_delegates_to_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (pip,) = [part["pip"] for part in environment["dependencies"] if isinstance(part, dict)]
    assert pip == ["-e .[book,test]"]
    assert {"book", "test"} <= set(PROJECT["optional-dependencies"])


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == mnistdist.__version__
    assert f"## {mnistdist.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert citation["authors"] == PROJECT["authors"] == [{"name": "the mnistdist developers"}]


def test_the_readme_names_real_targets():
    named = set(
        re.findall(r"(?:^|`)make (?:PYTHON=\S+ )?([a-z-]+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    )
    assert {"book", "test", "lab", "bench", "help"} <= named
    assert named <= set(TARGETS)


def test_make_help_lists_every_target():
    said = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^make ([\w-]+) +\S", said, re.M) == TARGETS
    phony = re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.M)[1].split()
    assert phony == TARGETS


def locked():
    """(name, version) of each line of the lock file, for every environment."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            (pin,) = requirement.specifier
            assert pin.operator == "==", line
            yield requirement.name.lower().replace("_", "-"), pin.version


def test_the_lock_file_has_what_pyproject_asks_for():
    versions = {}
    for name, version in locked():
        versions.setdefault(name, set()).add(version)
    asked = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["book"]]
    asked += PROJECT["optional-dependencies"]["test"]
    for requirement in map(Requirement, asked):
        found = versions[requirement.name.lower()]
        assert all(requirement.specifier.contains(version) for version in found), (requirement, found)


def test_no_file_names_a_registry_or_another_machine():
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout: there is no list of the project's files")
    for name in filter(None, tracked.stdout.split("\0")):
        path = ROOT / name
        if path.suffix not in (".gz", ".png") and path.is_file():
            assert "--index-url" not in path.read_text(encoding="utf-8", errors="replace") or name.startswith("tests/")


def test_public_names_can_be_imported_and_have_docstrings():
    for name in mnistdist.__all__:
        assert getattr(mnistdist, name).__doc__, name
    assert set(mnistdist.__all__) <= set(dir(mnistdist))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = mnistdist.nothing


def test_make_test_runs_every_notebook_once():
    said = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    named = re.findall(r"book/(\w+)\.ipynb", said)
    assert sorted(named) == sorted(path.stem for path in (ROOT / "book").glob("*.ipynb"))
