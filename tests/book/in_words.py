"""Ratios, shares and times in words in the notebooks' prose: "more than five times as long", "half a minute".

What a cell measures, a cell prints; so each of these is a line that the page prints, or has its reason here.
"""

import re

from tests.book.numbers import CODE, LINKS

CARDINAL = "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|sixteen|twenty|thirty|forty|fifty|sixty"
CARDINAL += "|(?:an? |one )?(?:hundred|thousand|million)"
PART = "half|third|quarter|fifth|sixth|seventh|eighth|ninth|tenth|twentieth|hundredth|thousandth"
UNIT = "(?:milli|micro)?seconds?|minutes?|hours?|percent"
IN_WORDS = re.compile(
    rf"\b(?<!the )(?:(?:{CARDINAL})[ -](?:times|{UNIT}|points)|(?:an?|one)[ -](?:milli|micro)second|one (?:{UNIT})"
    rf"|one and a half|half an? (?:{UNIT})|half as|twice(?= (?:as|the|that|its|their)\b)|(?:{CARDINAL})fold"
    rf"|(?:two|three|four|five|nine)[ -](?:{PART})s|(?:an?|one) (?:{PART})(?= (?:of|as|less|more|to)\b|[.,;:)])"
    rf"|(?:more|less) than (?:(?:an?|one) )?(?:{PART}))(?!\w)",
    re.IGNORECASE,
)

COUNT = "how often something is done, by a cell or by the reader"
SETTING = "a setting of a cell or of a question"
DEFAULT = "a default of TensorFlow"
EXACT = "follows from the program or from arithmetic; nothing is measured"
PRINTS = "the page prints: "

# page: {why the prose may say it: what it says}
ALLOWED = {
    "async_or_sync": {
        COUNT: ["run three times", "right three times", "run a comparison five times"],
        EXACT: [
            "makes three times as many updates",
            "uses twice the images",
            "half as many updates",
            "is a third of the machine",
            "make four times 100",
        ],
        PRINTS + "mean 0.020, later of two 0.030": ["is one and a half times the mean"],
        "the harmonic sum of the sentence: 2.93 and 5.19": ["nearly three times with ten", "more than five times with"],
    },
    "asynchronous": {
        SETTING: ["half the rate, a quarter of it"],
        COUNT: ["Try it three times"],
        EXACT: ["up to twice as many half-old"],
    },
    "backup_workers": {
        PRINTS + "4 of 4: as the last gradient, to a third: True": ["less than a third"],
        PRINTS + "3 of 4: less than 3/4 of the time: True": ["saves more than a quarter of the time"],
        PRINTS + "thrown away, 3 of 4: between 15% and 35%: True": ["about a quarter of all gradients"],
        PRINTS + "5 workers, replicas_to_aggregate=4: 51 of 83": ["save more than a third"],
    },
    "between_graph": {DEFAULT: ["begins half a minute late"], COUNT: ["The same graph, twice"]},
    "clusters": {
        COUNT: ["six times each"],
        SETTING: ["ready two seconds after", "are more than half of the bytes"],
        DEFAULT: ["every ten seconds"],
    },
    "data_and_model": {
        SETTING: ["a hundred times as wide", "a thousand times smaller", "is also a hundredth"],
        PRINTS + "the fixed scale grows tenfold: True": ["ten times as widely"],
        EXACT: ["twice as many numbers as the model", "a hundredth of the rate must", "shrink to a hundredth"],
        PRINTS + "ten times the batch, about ten times the sum: True": ["It is 0.0005, a tenth"],
    },
    "from_listing_to_program": {
        DEFAULT: ["after two hours", "half a minute late", "with two minutes in which", "after two minutes"],
        COUNT: ["start it three times"],
        SETTING: ["needs four seconds to initialise"],
        DEFAULT + ", said again": ["wait for two hours"],
    },
    "in_graph": {EXACT: ["a quarter of that sum", "four times as many examples"], COUNT: ["is measured six times"]},
    "placement": {EXACT: ["three times as many bytes"]},
    "quickstart": {
        "what the page's title promises": ["three processes, one minute", "One minute from now"],
        SETTING: ["At least four times?"],
    },
    "recovery": {SETTING: ["for ten seconds"], "asked by a question": ["about half a minute after"]},
    "synchronous": {
        SETTING: ["a limit of two seconds", "twice the rate, for one round"],
        PRINTS + "length of its first step over one process's: 0.500": ["half as long as the step"],
        EXACT: ["twice the gradient", "three times the weight", "needs twice the"],
    },
    "when_it_goes_wrong": {DEFAULT: ["Every ten seconds"], SETTING: ["three seconds of silence", "one and a half sec"]},
    "where_a_step_goes": {
        PRINTS + "the worker receives 4 tensors, the ps 8": ["receives twice as many as expected"],
        SETTING: ["of ten times as many", "on its own copies, ten times", "one of ten times the parameters"],
        "79,510 floats against one": ["eighty thousand times the bytes"],
        PRINTS + "79,510 floats take less than 4 times one float: True": ["less than four times the time"],
        PRINTS + "sleep does not cost a fifth of them: True": ["less than a fifth of the updates"],
        PRINTS + "at most half of a step is computing: True": ["less than half of a step"],
        EXACT: ["ten times the bytes of the small", "is ten times as much"],
        PRINTS + "its pull costs more, but not ten times as much: True": ["in less than ten times its time"],
    },
}


def unexplained(page, text, printed):
    """Ratios in words that neither a line ``printed`` by the page nor a reason explains, and entries without use."""
    prose = " ".join(CODE.sub(" ", LINKS.sub(" ", text)).split())
    allowed = {fragment: why for why, fragments in ALLOWED.get(page, {}).items() for fragment in fragments}
    spans = {fragment: [m.span() for m in re.finditer(re.escape(fragment), prose)] for fragment in allowed}
    complaints = [f"in_words.py lists {fragment!r}, which isn't there" for fragment in allowed if not spans[fragment]]
    for fragment, why in allowed.items():
        if why.startswith(PRINTS) and why.removeprefix(PRINTS) not in printed:
            complaints.append(f"{fragment!r}: the page doesn't print {why.removeprefix(PRINTS)!r}")
    for found in IN_WORDS.finditer(prose):
        covered = any(a < found.end() and found.start() < b for places in spans.values() for a, b in places)
        if not covered:
            around = prose[max(0, found.start() - 40) : found.end() + 30]
            complaints.append(f"{found[0]!r} in {around!r}: print it in a checked cell, or list it in in_words.py")
    return complaints
