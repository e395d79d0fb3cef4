"""The tool that gives the book's checks wrong data: what it finds in a notebook made for it."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from book._ext import forked, mutants

CELLS = [
    "import subprocess\n\nimport pandas as pd",
    # What a run would give: the tool doesn't look into what a process prints.
    "words = subprocess.getoutput('echo 3 2 1').split()",
    "losses = pd.Series([float(word) for word in words])\nnumber = len(losses)",
    "falls = losses.iloc[-1] < losses.iloc[0]",
    "print('it falls:', bool(falls))",
    "print('steps:', number)",
    "print('positive:', all(losses > 0))",
    "print('never below itself:', (losses >= losses).sum() == len(losses))",
    "print('numbers:', 2 + 2)",
    "%%bash\necho elsewhere",
]


@pytest.fixture(scope="module")
def examined(tmp_path_factory):
    path = tmp_path_factory.mktemp("mutants") / "a.ipynb"
    cells = [new_code_cell(source) for source in CELLS]
    cells.append(new_code_cell("print('unstable:', 1)", metadata={"tags": ["nbval-ignore-output"]}))
    nbformat.write(new_notebook(cells=cells), path)
    return mutants.examine(path)


def test_a_check_that_notices_wrong_data_passes(examined):
    assert not [found for found in examined.found if "it falls" in found or "steps:" in found]


def test_a_check_of_an_empty_selection_is_found(examined):
    assert "cell 6: 'positive: True' holds of nothing: losses may be empty" in examined.found


def test_a_check_that_never_fails_is_found(examined):
    found = [found for found in examined.found if "never below itself" in found]
    assert found == ["cell 7: 'never below itself: True' is said whatever is wrong with losses, words"]


def test_lines_that_are_not_reached_are_counted_with_their_reason(examined):
    assert examined.counts == {"reached": 4, mutants.NO_DATA: 1, mutants.IN_TASKS: 1}
    assert len(examined.found) == 2


def test_wrong_values_are_wrong():
    for right in ([], [1, 2], (1, 2), "ab", {"a": 1, "b": 2}, {1, 2}, 3, 0, 0.5, True, False):
        wrong = forked.wrong_values(right)
        assert wrong and all(value != right for value in wrong.values()), right
    assert forked.wrong_values(len) == forked.wrong_values(()) == forked.wrong_values(None) == {}
