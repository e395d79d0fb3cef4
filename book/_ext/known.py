"""What ``mutants.py`` finds and may stay, each with its reason: ``{page: {what the complaint says: why}}``."""

WORD = "an English word here, not the variable"

KNOWN = {
    "asynchronous": {
        "a label says 'own'": WORD,
        "a label says 'records'": WORD,
        "mean[1] > 2 * mean[0]: 2 ten times tighter": "no number is claimed: how much staler depends on the machine",
        "ends[:, 0, 0] != ends[:, 1, 0]: turned": "feeds a column that is shown and not checked",
    },
    "between_graph": {"<= 5: 5 ten times tighter": "a bound by the program: as many as steps may be under way"},
    "quickstart": {
        "steps.worker == 0: turned to": "the groups are as large of the other worker's steps",
        "difference < 0.001: 0.001 ten times tighter": "the two are equal on most machines, not on all",
    },
    "recovery": {
        "nothing is selected by b < a": "that no step leads back is the claim; where some do, no copy can run",
        "killed_sync.role != 'ps': another text": "a killed ps takes no longer, but is another case",
    },
}


def unexplained(page, complaints):
    """The complaints about a page that aren't known."""
    return [complaint for complaint in complaints if not any(said in complaint for said in KNOWN.get(page, ()))]


def unused(page, complaints):
    """What is known of a page and was not found this time: a bound may be slack on some machines only."""
    return [said for said in KNOWN.get(page, ()) if not any(said in complaint for complaint in complaints)]
