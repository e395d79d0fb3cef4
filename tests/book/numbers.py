"""Numbers with a unit of time, rate, share or ratio in the notebooks' prose: none is a measurement.

A measured number is printed by a checked cell, and the prose doesn't repeat it. What is left are settings and
definitions. Each is listed here with its reason; `test_book.py` refuses a number that isn't, and an entry without one.
"""

import re

NUMBER = r"(?<![\w.#/-])\d[\d,]*(?:\.\d+)?(?:(?: to | and | or )\d[\d,]*(?:\.\d+)?)?"
UNITS = "[mµn]?s|(?:milli|micro)?seconds?|minutes?|hours?|percent|points?|times|fold|[kMG]?(?:B|bit)/s"
UNIT = rf"(?:{UNITS}|(?:\w+ )?(?:a|per) (?:second|minute|hour))\b|%"
MEASURED = re.compile(rf"{NUMBER}[ -]?(?:{UNIT})")
CODE = re.compile(r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$\n]+\$", re.S)

GOAL = "the goal that was set"
SETTING = "a setting of the cell below or above"
DEFAULT = "a default of TensorFlow or of the package"

# page: {what the prose says: why it may}
ALLOWED = {
    "async_or_sync": {
        "0.8 times": "explains the unit of a table",
        "sleeps for 0.1 seconds": SETTING,
        "sleeps for 0.15 seconds": SETTING,
        "20 ms in the mean": SETTING,
        "a mean of 20 ms": SETTING,
        "10, 10, 10 and 100 ms": "given by a question",
    },
    "asynchronous": {
        "200 times each": SETTING,
        "40,000 times each": SETTING,
        "sleep 20 milliseconds": SETTING,
        "hold them back for 20 milliseconds": SETTING,
        "60% of each step": "given by a question",
        "takes 4 ms for each step": "given by a question",
        "one takes 24 ms": "given by a question",
    },
    "backup_workers": {
        "40 milliseconds on average": SETTING,
        "within 3 points": "the margin of the check below",
        "5 milliseconds on average": SETTING,
        "with a mean of 60 milliseconds": "given by a question",
        "exactly 50 ms": "given by a question",
    },
    "between_graph": {"20 steps a second": "the setting of a question"},
    "data_and_model": {
        "100 times as large": "the batch size: a sum against a mean",
        "0 times minus infinity": "arithmetic",
        "5,000 times the mean": "the size of the validation set: a sum against a mean",
    },
    "in_graph": {"a limit of 30 seconds": SETTING, "100 times": SETTING},
    "from_listing_to_program": {
        "every 30 seconds": DEFAULT,
        "default is 120 seconds": DEFAULT,
        "pause for 30 seconds": DEFAULT,
        "500 times as many": "arithmetic: a million against the 2,000 of the quickstart",
    },
    "program": {
        "a limit of 20 seconds": SETTING,
        "default of 30 seconds": DEFAULT,
        "here 1 second": SETTING,
    },
    "recovery": {
        "after 30 seconds": SETTING,
        "their 30 seconds": SETTING,
        "of 30 seconds": SETTING,
        "60 seconds": DEFAULT,
        "for 4 seconds": SETTING,
    },
    "synchronous": {"sleeps for 40 milliseconds": SETTING},
    "three_machines": {
        "100 steps a second": "given by a question",
        "million bits a second": "given by a question",
    },
    "when_it_goes_wrong": {
        "every 30 seconds": DEFAULT,
        "at 0 s": SETTING,
        "at 1 s": SETTING,
        "for 5 s": SETTING,
        "at 2 s": SETTING,
        "after 3 s": SETTING,
        "is 30 seconds": DEFAULT,
        "first time at 4 s": SETTING,
        "finishes at 10 s": SETTING,
        "gone 3 seconds after": "arithmetic: the linger of the question",
        "word, at 7 s": "arithmetic: the linger of the question",
        "linger is 30 s": DEFAULT,
        "from 0 s on": SETTING,
        "sign at 20 s": SETTING,
        "finishes at 40 s": SETTING,
        "killed at 5 s": SETTING,
        "just after 50 s": "arithmetic: the linger of the question",
        "just after 35 s": "arithmetic: the linger of the question",
    },
    "where_a_step_goes": {
        "each 300 times": SETTING,
        "when 97% of": GOAL,
        "reaches 97% first": GOAL,
        "reaches 97% far": GOAL,
        "Computing is 30% of a step": "given by a question",
        "costs 1.0 ms by itself": "given by a question",
        "in it costs 1.3 ms": "given by a question",
        "to a ps takes 0.4 ms": "given by a question",
        "take 0.0014 ms": "given by a question",
        "those to 97%": GOAL,
    },
    "your_own_loop": {"every 30 seconds": DEFAULT},
}


LARGE = re.compile(r"(?<![\w.])\d[\d,]*\d(?:\.\d+)?(?![\w.]*\.\d)")
LINKS = re.compile(r"\[[^\]]*\]\([^)]*\)")  # with the years of sources

# page: {number of three digits or more that is in no cell of it: why it is right}
KNOWN = {
    "async_or_sync": {"3,000": "1,500 synchronous updates of two gradients each: arithmetic"},
    "asynchronous": {"799": "800 - 1", "40,000": "200 runs of 200 adds"},
    "between_graph": {"1999": "2,000 - 1"},
    "clusters": {"79,510": "the network's parameters, counted in the quickstart"},
    "from_listing_to_program": {"500": "1,000,000 steps against the quickstart's 2,000"},
    "in_graph": {"400": "four towers of 100 examples"},
    "placement": {"444": "the bytes of both biases: (100 + 10) * 4 and the step's 4", "392": "784 / 2"},
    "program": {"299": "300 - 1", "600": "300 rounds of two batches", "5,000": "the size of the validation set"},
    "quickstart": {"70,000": "MNIST's images", "192.168": "an address"},
    "three_machines": {"1,000,000": "the default of the program's train_steps"},
    "synchronous": {"4,000": "20 rounds of two batches of 100"},
    "where_a_step_goes": {"8,000": "set in throughput.py", "3,000": "set in throughput.py"},
}


def numbers(text):
    """``(number with its unit, the words around it)`` of each in a Markdown text; code and formulas are left out."""
    prose = CODE.sub(" ", text)
    for match in MEASURED.finditer(prose):
        yield match[0], " ".join(prose[max(0, match.start() - 40) : match.end() + 20].split())


def in_no_cell(page, text, cells):
    """Numbers of three digits or more of a page's prose that none of its cells holds, in code, output or metadata."""
    held = {number.replace(",", "").replace("_", "") for number in re.findall(r"\d[\d,_]*(?:\.\d+)*", cells)}
    prose, known = CODE.sub(" ", LINKS.sub(" ", text)), KNOWN.get(page, {})
    found = {match[0] for match in LARGE.finditer(prose) if len(match[0].replace(",", "")) > 2}
    lost = sorted(number for number in found if number.replace(",", "") not in held)
    complaints = [f"{number} is in no cell: which of the two is right?" for number in lost if number not in known]
    return complaints + [f"numbers.py knows {number}, which needs no reason" for number in known if number not in lost]


def unexplained(page, text):
    """Numbers of a page's prose that are not listed, and entries of the list that the prose doesn't hold."""
    allowed = ALLOWED.get(page, {})
    found = [
        f"{number!r} in {around!r}: print a measured number in a checked cell, or list a setting in numbers.py"
        for number, around in numbers(text)
        if not any(fragment in around and number in fragment for fragment in allowed)
    ]
    prose = " ".join(CODE.sub(" ", text).split())
    return found + [
        f"numbers.py lists {fragment!r}, which isn't there" for fragment in allowed if fragment not in prose
    ]
