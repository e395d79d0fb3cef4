"""What labels.py finds in cells whose label says another thing than they compute, and that it leaves others alone."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tests.book.labels import contradictions, unexplained
from tests.book.test_book import NOTEBOOKS

RUNS = """even = train(cluster, steps=800)
uneven = train(cluster, steps=400, on_step=slow)
late = len(uneven.missed)
ends = {arm: seconds(arm) for arm in ("sync", "async")}
later = [ends["sync"] > ends["async"] for block in blocks]
earlier = [ends["async"] > ends["sync"] for block in blocks]"""
# a print call: what is found in it, or nothing
SAID = {
    'print("at most 3 late:", late <= 3)': "",
    'print("at most 3 late:", late <= 2030)': "to 3",
    'print("at most 3 late:", late >= 3)': "'at most'",
    'print("no more than 3 late:", late <= 3)': "",
    'print("no more than 3 late:", late > 3)': "'no more'",
    'print("above 0.93:", even.accuracy > 0.93)': "",
    'print("above 0.93:", 0.93 < even.accuracy)': "",
    'print("above 0.93:", even.accuracy < 0.93)': "'above'",
    'print("more than 93 of 100:", even.accuracy > 0.93)': "",
    'print("within 5%:", abs(even.ratio - 1) < 0.05, "and within a tenth:", even.ratio < 1.1)': "",
    'print("within 5%:", abs(even.ratio - 1) < 0.5)': "to 5%",
    'print("800, or up to 2 more:", 800 <= even.steps <= 802)': "",
    'print("800, or up to 2 more:", 800 <= even.steps <= 900)': "to 2",
    'print("more than twice the steps:", a > 2 * b)': "",
    'print("more than twice the steps:", a > 0.2 * b)': "says 2",
    'print("800, or up to 2 more:", 80 <= even.steps <= 802)': "says 800",
    'print("about 800:", 790 <= even.steps <= 802)': "",
    'print("between 1 and 2:", 1 < a < 2)': "",
    'print("between 1 and 2:", 1 < a > 2)': "turns around",
    'print("fails before its 20th step:", made < 20)': "",
    'print("fails before its 20th step:", made < 2000)': "says 20",
    'print("the run stays below that:", rate > limit)': "'below'",
    'print("two gradients a round:", made == 3 * rounds)': "says 2",
    'print("sync ends later in", sum(later), "of", len(later))': "",
    'print("sync ends later in", sum(earlier), "of", len(later))': "'later'",
    'print("even: it has learnt:", even.accuracy > limit)': "",
    'print("even: it has learnt:", uneven.accuracy > limit)': "says 'even', and uses 'uneven'",
    'print("it has learnt:", f(a) > limit)\nprint("one slow worker, it has learnt:", f(a) > limit)': "is computed as",
    'print("the same:", end=" ")\nprint(first == second)': "",
}


def found(source):
    notebook = new_notebook(cells=[new_code_cell(RUNS), new_code_cell(source)])
    return [complaint for _, complaint in contradictions(notebook)]


@pytest.mark.parametrize("source", SAID)
def test_a_label_that_says_another_thing_is_found(source):
    complaints = found(source)
    assert (SAID[source] in "".join(complaints)) if SAID[source] else complaints == []
    assert bool(SAID[source]) == bool(complaints)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_labels_say_what_the_cells_compute(path):
    assert unexplained(path.stem, nbformat.read(path, as_version=4)) == []


def test_an_exception_that_nothing_needs_is_found():
    assert "labels.py lists 'better than the ten digits:', which needs no reason" in unexplained(
        "quickstart", new_notebook()
    )
