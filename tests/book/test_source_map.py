"""The source map: every paragraph of the text has its place, and every statement of its program runs where it says."""

import re

import nbformat
import pytest
from mdit_py_plugins.anchors.index import slugify

from tests.book.book_rules import ROOT, code_cells
from tests.book.page_rules import headings, section

PAGE = (ROOT / "book" / "source_map.md").read_text(encoding="utf-8")
LINK = r"\[([^\]]+)\]\((\w+)\.ipynb#([\w-]+)\)"
STATEMENTS = re.findall(rf"^\| `+(.+?) ?`+ \| {LINK} \|$", section(PAGE, "The statements"), re.M)


def cells_by_section(notebook):
    """The sources of the executed cells under each heading, by the heading's anchor."""
    sources, current = {}, None
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            current = ([current] + [slugify(title) for _, title in headings(cell.source)])[-1]
        elif cell.execution_count is not None:
            sources.setdefault(current, []).append(cell.source)
    return sources


def test_the_paragraphs_are_numbered_from_1_to_23_and_each_leads_somewhere():
    rows = re.findall(r"^\| *(\d*) *\| (.+) \| (.+) \|$", section(PAGE, "The paragraphs"), re.M)
    assert rows.pop(0) == ("", "what it says", "where")
    assert [int(number) for number, _, _ in rows if number] == list(range(1, 24))
    assert all(re.search(LINK, where) for _, _, where in rows)


def test_every_row_of_the_statements_is_read():
    rows = [line for line in section(PAGE, "The statements").splitlines() if line.startswith("| `")]
    assert len(rows) == len(STATEMENTS) > 90


@pytest.mark.parametrize("page", sorted({page for _, _, page, _ in STATEMENTS}))
def test_every_statement_runs_in_the_section_that_it_names(page):
    sources = cells_by_section(nbformat.read(ROOT / "book" / f"{page}.ipynb", as_version=4))
    assert sum(map(len, sources.values())) == len(code_cells(nbformat.read(ROOT / "book" / f"{page}.ipynb", 4)))
    missing = [
        (statement, anchor)
        for statement, _, where, anchor in STATEMENTS
        if where == page and not any(statement in source for source in sources.get(anchor, ()))
    ]
    assert missing == []
