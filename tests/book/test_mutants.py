"""The tool that gives the book's checks wrong data: what it finds in a notebook made for it."""

import json

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from book._ext import forked, mutants
from book._ext.code_mutants import TIGHTER, counted, edits

CELLS = [
    "import json\nimport subprocess\nfrom pathlib import Path\n\nimport pandas as pd",
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
    # What a file gives, in the cell itself.
    "rows = json.loads(Path('rows.json').read_text())\n"
    "failed = [row for row in rows if row['ok'] == 'no']\n"
    "print('none has failed:', len(failed) == 0)",
    "def slow(rows, least):\n    return [row for row in rows if row['seconds'] > least]",
    "print('two rows took over 1 second:', len(slow(rows, 1)) == 2)",
    "print('far from slow:', max(row['seconds'] for row in rows) < 900)",
    "print('under 900 seconds:', max(row['seconds'] for row in rows) < 900)",
    "other = pd.Series([2 * float(word) for word in words])",
    "print('the losses fall:', bool(other.is_monotonic_decreasing))",
    "print('other, at the end:', other.iloc[-1])",
    "print('late:', sum(loss > 0 for loss in losses if loss >= 1) == len(losses))",
]


@pytest.fixture(scope="module")
def examined(tmp_path_factory):
    path = tmp_path_factory.mktemp("mutants") / "a.ipynb"
    rows = [{"ok": "yes", "seconds": 2.0}, {"ok": "yes", "seconds": 3.0}, {"ok": "yes", "seconds": 0.5}]
    path.with_name("rows.json").write_text(json.dumps(rows), encoding="utf-8")
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
    assert examined.counts == {"reached": 11, mutants.NO_DATA: 1, mutants.IN_TASKS: 1}
    assert len(examined.found) == 9


@pytest.mark.parametrize(
    "complaint",
    [
        "cell 16: 'the losses fall: True' holds of nothing: other may be empty",
        "cell 10: 'none has failed: True' is said whatever is wrong with what is read (place 0)",
        "nothing is selected by row['ok'] == 'no'",
        "cell 13: max((row['seconds'] for row in rows)) < 900: 900 ten times tighter: no line notices",
        "cell 16: a label says 'losses', and the cell uses 'other'",
    ],
)
def test_wrong_code_that_no_line_notices_is_found(examined, complaint):
    assert complaint in examined.found


def test_code_that_a_line_notices_and_a_bound_that_its_label_names_are_not_found(examined):
    found = "\n".join(examined.found)
    assert "least" not in found and "cell 12" not in found  # a filter in a function that another cell defines
    assert "cell 14" not in found
    assert examined.code.like == [
        "cell 10: row['ok'] == 'no': in a filter, another text: no line notices",
        "cell 18: losses: other in its place: no line notices",
    ]


def leading_to(*cells):
    notebook = mutants.Notebook()
    for source in ("import numpy as np\nfrom mnistdist import train", *cells):
        notebook.add(source)
    return notebook.leading_to(cells[-1])


def test_a_helper_that_only_computes_leads_to_a_line_and_one_that_changes_a_dict_makes_data():
    helper = "def double(values):\n    return [2 * value for value in values]"
    assert leading_to("losses = train()", helper, "print(double(losses))")[:2] == (helper, ["losses"])
    helper = "def note(name):\n    found[name] = 1"
    assert leading_to("found = {}", helper, "note('a')", "print(len(found))")[:2] == ("", ["found"])
    assert leading_to("found = {}", helper, "note('a')\nprint(1)")[2] == "note('a')\nprint(1)"
    lead, roots, _, names = leading_to("a = train()", "b = np.sort(a)", "c = 4 * 2\nprint(b[0], c)")
    assert (lead, roots, names) == ("b = np.sort(a)", ["a"], ["b"])


def test_what_is_changed_inside_of_a_value_and_what_a_task_gives_is_data():
    assert leading_to("a = {1: []}", "for _ in range(2):\n    a[1].append(train())", "print(a)")[:2] == ("", ["a"])
    assert leading_to("a = train()", "a.index.name = None\nprint(a)")[2] == "a.index.name = None\nprint(a)"
    task = "cluster = Cluster()\nchief = cluster['worker', 0]"
    assert leading_to("from mnistdist import Cluster", task, "ms = chief['ms']", "print(ms > 1)")[:2] == ("", ["ms"])


def test_each_edit_is_another_program():
    source = "if a < 2 * b:\n    print([c for c in d if c == 'x'], 0 < e <= 9, f(run)[g > 1])"
    made = list(edits(source, {"run": ["other"]}))
    assert len({what for _, what, _ in made}) == len({text for _, _, text in made}) == len(made) == 8
    assert [what for _, what, _ in made if TIGHTER in what] == ["0 < e <= 9: 9 ten times tighter"]
    assert source.replace("'", '"') not in [text.replace("'", '"') for _, _, text in made]


def test_what_is_selected_and_read_is_counted_and_nothing_else_changes():
    source = "print([a for a in [1, 2, 3] if a > 9], 'abc'[1:2], {'a': 3}['a'], json.loads('[4]'), x[x > 1])"
    texts = []
    program = counted(source, texts)
    space = {"json": json, "x": np.array([1, 2])}
    plain, said = (forked.said("", text, space, {}) for text in (source, program))
    assert plain[:2] == said[:2] == [["[] b 3 [4] [2]"], ""]
    passed = {texts[int(number)]: counts for number, counts in said[2]["passed"].items()}
    assert passed == {"a > 9": [3, 0], "'abc'[1:2]": [1, 1], "x[x > 1]": [2, 1]}
    (place,) = said[2]["read"]
    wrong = forked.said("", program, space, {}, (int(place), 0))
    assert wrong[0] == ["[] b 3 [] [2]"] and wrong[2]["done"] == ["what is read (place 2)", "empty"]


def test_wrong_values_are_wrong():
    for right in ([], [1, 2], (1, 2), "ab", {"a": 1, "b": 2}, {1, 2}, 3, 0, 0.5, True, False):
        wrong = forked.wrong_values(right)
        assert wrong and all(value != right for value in wrong.values()), right
    assert forked.wrong_values(len) == forked.wrong_values(()) == forked.wrong_values(None) == {}
