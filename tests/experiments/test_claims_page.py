"""The scorecard's page is what its command makes of the stored results."""

import json
import re

from book.experiments.claims_page import MARK, PAGE, from_results, page
from book.experiments.scorecard import FILES


def test_the_page_is_made_from_the_results():
    assert PAGE.read_text(encoding="utf-8") == page(*from_results()), "run `python -m book.experiments.claims_page`"


def test_the_page_says_in_how_many_blocks_its_claims_were_measured():
    for file in FILES:
        assert json.loads(file.read_text(encoding="utf-8"))["sizes"]["blocks"] == 10
    assert "in ten blocks;" in PAGE.read_text(encoding="utf-8")


def test_a_row_is_shown_twice_and_counted_once():
    row = {"source": "chen2016", "claim": "It is so.", "theirs": "1", "ours": "2", "why": "Because."}
    rows = [row | {"verdict": verdict} for verdict in MARK]
    said = page(rows, [{"processor": "a"}, {"processor": "b"}])
    assert said.count("It is so.") == 6
    assert re.search(r"✓ reproduced: 1; ✗ not reproduced: 1; ○ out of reach: 1", said)
    assert "| processor | a / b |" in said
