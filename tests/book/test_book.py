"""The book's rules, applied to every page, and each tried on a small bad notebook that it must not let pass."""

import copy
import re
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mnistdist.training import train
from mnistdist.training.spec import LOCAL_STEPS_PER_RUN, STEPS_PER_RUN
from tests.book import in_words
from tests.book.book_rules import CELL_RULES, ROOT, code_cells, printed
from tests.book.numbers import in_no_cell, unexplained
from tests.book.page_rules import CHAPTER_RULES, TEXT_RULES, book_pages, read_page

NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
PAGES = book_pages(ROOT)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("rule", CELL_RULES + CHAPTER_RULES, ids=lambda rule: rule.__name__)
def test_a_chapter_keeps_the_rules(path, rule):
    assert rule(nbformat.read(path, as_version=4)) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
@pytest.mark.parametrize("rule", TEXT_RULES, ids=lambda rule: rule.__name__)
def test_a_page_keeps_the_rules(path, rule):
    assert rule(read_page(path)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_prose_repeats_no_measured_number(path):
    assert unexplained(path.stem, read_page(path)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_ratios_in_words_are_printed_or_explained(path):
    cells = [cell for _, cell in code_cells(nbformat.read(path, as_version=4))]
    lines = "\n".join(printed(output) for cell in cells for output in cell.outputs)
    assert in_words.unexplained(path.stem, read_page(path), lines) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_large_numbers_of_the_prose_are_those_of_the_cells(path):
    notebook = nbformat.read(path, as_version=4)
    cells = "\n".join(
        "\n".join([cell.source, *map(printed, cell.outputs), str(cell.metadata)]) for _, cell in code_cells(notebook)
    )
    assert in_no_cell(path.stem, read_page(path), cells) == []


def test_every_page_is_in_the_table_of_contents():
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = {contents["root"]} | {chapter["file"] for part in contents["parts"] for chapter in part["chapters"]}
    assert listed == {f"book/{path.stem}" for path in PAGES}


# ------------------------------------------------------------------------------------ the rules themselves

OPENING = "# Title\n\n- **You learn**: a\n- **You need**: b\n- **Minutes**: 5"
REFERENCES = "## References\n\n- [A (2020)](references.md#a-2020): why you should read this one."
FOLDED = {"tags": ["hide-cell"], "jupyter": {"source_hidden": True, "outputs_hidden": True}}


def stream(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def value(text):
    return new_output("execute_result", data={"text/plain": text}, execution_count=8)


def picture():
    return new_output("display_data", data={"image/png": "iVBORw0KGgo=", "text/plain": "<Figure size 1x1>"})


def questions():
    yield new_markdown_cell("## Questions\n\n### Question 1\n\nHow many?")
    for number in range(2, 7):
        yield new_code_cell(f"print('steps:', len(steps) + {number})", outputs=[stream("steps: 9\n")], metadata=FOLDED)
        if number < 6:
            yield new_markdown_cell(f"### Question {number}\n\nHow many?")


def good():
    """A notebook that keeps every rule."""
    told = {"mystnb": {"image": {"alt": "Bars of two workers that overlap freely"}}}
    told["mystnb"]["figure"] = {"caption": "Steps.", "name": "fig-steps"}
    cells = [
        new_markdown_cell(OPENING),
        new_code_cell("from mnistdist import Cluster\n\ncluster = Cluster().start()"),
        new_code_cell("print(cluster)", outputs=[stream("Cluster(ps=1)\n")]),
        new_code_cell("print(accuracy)", outputs=[stream("0.97\n")], metadata={"tags": ["nbval-ignore-output"]}),
        new_code_cell("print(accuracy > 0.9)", outputs=[stream("True\n")]),
        new_code_cell("draw()", outputs=[picture()], metadata={"tags": ["hide-input"], **told}),
        new_code_cell("print('a', len(steps))", outputs=[stream("a 4\n")]),
        new_code_cell("print('b', len(steps))", outputs=[stream("b 4\n")]),
        new_markdown_cell("## Summary\n\nDone."),
        *questions(),
        new_markdown_cell("## Exercises\n\n### Exercise 1\n\nWhy?"),
        new_code_cell("1 + 1", outputs=[value("2")], metadata=FOLDED),
        new_markdown_cell("### Exercise 2\n\nHow?"),
        new_code_cell("cluster.stop()\nprint(cluster)", outputs=[stream("stopped\n")], metadata=FOLDED),
        new_markdown_cell(REFERENCES),
    ]
    notebook = new_notebook(cells=cells)
    count = 0
    for cell in notebook.cells:
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
    return notebook


def complaints(notebook):
    return [complaint for rule in CELL_RULES + CHAPTER_RULES for complaint in rule(notebook)]


def test_a_good_notebook_passes():
    assert complaints(good()) == []


def no_outputs(cells):
    for cell in cells:
        if cell.cell_type == "code":
            cell.outputs = []


def set_cell(index, source=None, outputs=None, **metadata):
    def change(cells):
        if source is not None:
            cells[index].source = source
        if outputs is not None:
            cells[index].outputs = outputs
        cells[index].metadata.update(metadata)

    return change


ERROR = new_output("error", ename="ValueError", evalue="bad", traceback=["ValueError: bad"])
TRACEBACK = new_output("error", ename="ValueError", evalue="bad", traceback=["line", "line", "ValueError: bad"])
BAD = {
    "no cell has stored outputs": no_outputs,
    "expected 1 to": lambda cells: cells[2].update(execution_count=7),
    "prints, but has no stored output": set_cell(2, outputs=[]),
    "without the tag raises-exception": set_cell(2, outputs=[ERROR]),
    "raised nothing": set_cell(2, tags=["raises-exception"]),
    "noise on stderr": set_cell(2, outputs=[stream("a\n"), stream("warning\n", "stderr")]),
    "a whole traceback": set_cell(2, outputs=[TRACEBACK], tags=["raises-exception"]),
    "belongs to a machine": set_cell(2, outputs=[stream("/home/someone/book\n")]),
    "belongs to a machine or a moment": set_cell(2, outputs=[stream("listening at host:43210\n")]),
    "say what is so, and print True": set_cell(2, outputs=[stream("a: True\nboth: True False\n")]),
    "every cell is to run": set_cell(2, tags=["nbval-skip"]),
    "tell nbval by a tag": set_cell(2, "print(1)  # NBVAL_IGNORE_OUTPUT"),
    "no checked cell before the next ignored one": set_cell(2, tags=["nbval-ignore-output"]),
    "are unchecked (at most a third)": lambda cells: [
        cells[i].metadata.update(tags=["nbval-ignore-output"]) for i in (2, 6, 20, 14, 16)
    ],
    "holds of nothing": set_cell(2, "print(all(step > 0 for step in steps))"),
    "the empty set is within": set_cell(2, "print(set(after) <= {800, 801})"),
    "empty": set_cell(2, "  ", []),
    "lines, at most": set_cell(2, "\n".join(["print(1)"] * 21)),
    "columns, at most": set_cell(2, f"print({'1' * 90})"),
    "one is to import everything": set_cell(2, "import os\nprint(1)"),
    "expected 'import tensorflow.compat.v1 as tf'": set_cell(2, "%%px\nimport tensorflow as tf\nprint(1)"),
    "lacks the tag hide-input": set_cell(5, tags=[]),
    "hides TensorFlow calls": set_cell(6, "print(tf.constant(1))", tags=["hide-input"]),
    "no alt text": set_cell(5, mystnb={"figure": {"caption": "a", "name": "b"}}),
    "says that it is a picture": set_cell(
        5, mystnb={"image": {"alt": "Figure of bars, two rows of them"}, "figure": {"caption": "a", "name": "b"}}
    ),
    "fewer than 6 words": set_cell(5, mystnb={"image": {"alt": "bars"}, "figure": {"caption": "a", "name": "b"}}),
    "needs a caption and a name": set_cell(5, mystnb={"image": {"alt": "Bars of two workers that overlap freely"}}),
    "is to be its cell's only one": set_cell(5, outputs=[picture(), stream("a\n")]),
    "isn't stopped by a later cell": set_cell(22, "print(cluster)"),
    "expected ['You learn'": set_cell(0, "# Title\n\nYou learn a lot. You need: time. Minutes: 5"),
    "the opening list's Minutes is no number": set_cell(0, OPENING.replace("5", "a few")),
    "is raw text in JupyterLab": set_cell(8, "## Summary\n\nSee {doc}`clusters`."),
    "'```{note}' is raw text": set_cell(8, "## Summary\n\n```{note}\nLook.\n```"),
    "'(here)=' is raw text": set_cell(8, "(here)=\n\n## Summary\n\nDone."),
    "expected ['Summary', 'Questions', 'Exercises', 'References']": set_cell(8, "Done."),
    "no list of what to read": set_cell(23, "## References\n\nMany."),
    "no word on why to read": set_cell(23, "## References\n\n- [A (2020)](references.md#a-2020)"),
    "expected 2 to 4, numbered": set_cell(21, "### Exercise 3\n\nHow?"),
    "Question: ['Question 1', 'Question 2', 'Question 4'": set_cell(13, "And?"),
    "Question 3: no folded cell that is checked": lambda cells: cells.pop(14),
    "Exercise: ['Exercise 1'], expected 2 to 4": set_cell(21, "Next."),
    "folded in the book, and not in JupyterLab": set_cell(20, jupyter={}),
    "no folded cell that is checked": lambda cells: cells.pop(20),
}


@pytest.mark.parametrize("complaint", BAD)
def test_a_rule_catches_what_it_is_for(complaint):
    notebook = copy.deepcopy(good())
    BAD[complaint](notebook.cells)
    assert any(complaint in said for said in complaints(notebook)), complaints(notebook)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("## Two\n\n# One\n", "headings of level 1"),
        ("# A\n\n# B\n", "2 headings of level 1"),
        ("# A\n\nTODO\n", "forbidden: 'TODO'"),
        ("# A\n\n![](a.png)\n", "no alt text"),
        ("# A\n\n```{figure} a.png\n:alt: picture of a\n```\n", "says that it is a picture"),
        ('# A\n\n<img src="a.png">\n', "no alt text"),
    ],
)
def test_a_text_rule_catches_what_it_is_for(text, complaint):
    said = [found for rule in TEXT_RULES for found in rule(text)]
    assert any(complaint in found for found in said), said


def test_pages_say_how_many_steps_a_run_of_the_fast_design_makes():
    assert STEPS_PER_RUN == 16 and LOCAL_STEPS_PER_RUN == 40
    assert "groups of sixteen" in read_page(ROOT / "book" / "quickstart.ipynb")
    assert "fast, 16 steps a run" in (ROOT / "book" / "where_a_step_goes.ipynb").read_text(encoding="utf-8")
    assert re.search(r"None for 16, .* None for 40", " ".join(train.__doc__.split()))


def test_pages_are_found():
    assert Path(ROOT, "book", "quickstart.ipynb") in NOTEBOOKS
    assert Path(ROOT, "book", "index.md") in PAGES


@pytest.mark.parametrize(
    "text",
    [
        "It takes 3 ms.",
        "12% are lost.",
        "2.5 times as fast",
        "a 3-second pause",
        "300 updates a second",
        "from 20 to 40 s",
    ],
)
def test_a_measured_number_is_found(text):
    assert len(unexplained("no page", text)) == 1


def test_numbers_without_a_unit_and_in_code_are_no_measurements():
    assert unexplained("no page", "2 workers make 800 steps; `sleep(3)` 3 `s`; $20 ms$; the 3 sets; port 2222") == []
    assert unexplained("in_graph", "a limit of 30 seconds") == ["numbers.py lists '100 times', which isn't there"]


@pytest.mark.parametrize(
    "text",
    [
        "It takes more than five times as long.",
        "twice as fast",
        "half as many",
        "after ten seconds",
        "half a minute",
        "three quarters of the time",
        "a tenth of it",
        "Two thirds are lost.",
        "less than a third apart",
        "A hundred times.",
        "tenfold",
    ],
)
def test_a_ratio_in_words_is_found(text):
    assert len(in_words.unexplained("no page", text, "")) == 1


def test_other_words_are_no_ratios_and_a_ratio_that_the_page_prints_needs_no_reason():
    text = (
        "A third worker, the second half, the two times, updates a second, one of two, half old, read twice: `2` times."
    )
    assert in_words.unexplained("no page", text, "") == []
    text, line = "half as long as the step, ", "length of its first step over one process's: 0.500"
    assert not any("doesn't print" in found for found in in_words.unexplained("synchronous", text, line))
    assert any("doesn't print" in found for found in in_words.unexplained("synchronous", text, "0.6"))


def test_a_large_number_that_no_cell_holds_is_found():
    assert in_no_cell("no page", "all but 484 of 79,510", "print(79_510)") == [
        "484 is in no cell: which of the two is right?"
    ]
    assert in_no_cell("no page", "2 workers, 99 steps, [A (2016)](references.md#a-2016), `500`", "") == []
