"""What ``mutants.py`` finds and may stay, each with its reason: ``{page: {what the complaint says: why}}``."""

NO_NUMBER = "no number is claimed: how much depends on the machine"
ARITHMETIC = "arithmetic: no run is behind it"
WORD = "an English word here, not the variable"

KNOWN = {
    "asynchronous": {
        "a label says 'own'": WORD,
        "a label says 'records'": WORD,
        "mean[1] > 2 * mean[0]: 2 ten times tighter": NO_NUMBER,
        "ends[:, 0, 0] != ends[:, 1, 0]: turned": "feeds a column that is shown and not checked",
    },
    "async_or_sync": {"missed > 1: 1 ten times tighter": NO_NUMBER, "a label says 'two'": WORD},
    "backup_workers": {"'6 of 8: 25%' is said": ARITHMETIC, "of 83' is said whatever is wrong with took": ARITHMETIC},
    "between_graph": {"<= 5: 5 ten times tighter": NO_NUMBER},
    "clusters": {"outside == len(ports): turned": "looked at only where the system allows no private network"},
    "quickstart": {
        "missed > 0: turned to missed <= 0": "some steps missed others and some did not: both are so",
        "difference < 0.001: 0.001 ten times tighter": "the two are equal on most machines, not on all",
    },
    "recovery": {
        "a label says 'table'": WORD,
        "nothing is selected by b < a": "that no step leads back is the claim; where some do, no copy can run",
    },
    "where_a_step_goes": {
        "'60,000 rows are within 2**20 elements: True' is said whatever": ARITHMETIC,
        "'more floats than the answer to question 6: True' is said whatever": ARITHMETIC,
    },
}


def unexplained(page, complaints):
    """The complaints about a page that aren't known."""
    return [complaint for complaint in complaints if not any(said in complaint for said in KNOWN.get(page, ()))]


def unused(page, complaints):
    """What is known of a page and was not found this time: a bound may be slack on some machines only."""
    return [said for said in KNOWN.get(page, ()) if not any(said in complaint for complaint in complaints)]
