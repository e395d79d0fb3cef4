"""What a page's checks look at: a cell's Python, its outputs as nbval sees them, and the claims among them."""

import ast
import math
import re
from functools import cache
from pathlib import Path

from nbval.plugin import get_sanitize_patterns

SANITIZERS = Path(__file__).resolve().parents[2] / "tests" / "book" / "nbval.cfg"
NOT_COMPARED = re.compile(r"image/|text/html|application/vnd\.jupyter\.widget")
DRAWN = re.compile(r"<(?:Figure|IPython\.core\.display\.\w+ object|Axes)[^>]*>")
ANSI_CODE = re.compile(r"\x1b\[[0-9;]*m")
WORDS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
WORDS |= {
    "eleven": 11,
    "twelve": 12,
    "fifteen": 15,
    "sixteen": 16,
    "twenty": 20,
    "thirty": 30,
    "forty": 40,
    "fifty": 50,
    "tenfold": 10,
}
WORDS |= {"half": 0.5, "third": 1 / 3, "quarter": 0.25, "fifth": 0.2, "tenth": 0.1, "hundredth": 0.01}
WORDS |= {"twice": 2, "thousandth": 0.001, "hundred": 100}
DIGITS = r"\d[\d,]*(?:\.\d+)?"
PARTS = rf"({DIGITS})(?: (?:of|in) ({DIGITS})|/({DIGITS})|(%)|th)?"
NUMBER = re.compile(rf"(?<![\w.])(?:{PARTS}|({'|'.join(WORDS)}))(?!\w)")


@cache
def sanitizers():
    """``(pattern, replacement)`` of what nbval replaces on both sides before it compares."""
    return tuple(get_sanitize_patterns(SANITIZERS.read_text(encoding="utf-8")))


def syntax(source):
    """A cell's Python as a syntax tree, magics left out; an empty tree for another language."""
    lines = source.splitlines()
    if lines and re.match(r"%%(?!px|time|capture|timeit)", lines[0]):
        return ast.parse("")
    return ast.parse("\n".join("" if re.match(r"\s*[%!]", line) else line for line in lines))


def compared(cell):
    """The text that nbval compares, sanitized as nbval does; drawings' placeholders are left out."""
    texts = []
    for output in cell.outputs:
        if output.output_type == "stream":
            texts += [output.text] if output.name == "stdout" else []
        elif output.output_type == "error":
            texts.append(output.evalue)
        else:
            texts += [str(data) for kind, data in sorted(output.data.items()) if not NOT_COMPARED.match(kind)]
    text = DRAWN.sub("", ANSI_CODE.sub("", "\n".join(texts)))
    for pattern, replacement in sanitizers():
        text = re.sub(pattern, replacement, text)
    return text


def is_ignored(cell):
    """Whether nbval is told not to compare the cell's outputs."""
    return "nbval-ignore-output" in cell.metadata.get("tags", [])


def false_claims(cell):
    """The checked lines that say ``something: False``: a page states what is so, and a check that it is."""
    streams = [output.text for output in cell.outputs if output.output_type == "stream"]
    lines = [] if is_ignored(cell) else "".join(streams).splitlines()
    return [line for line in lines if re.search(r": +(True +)*False\b", line)]


def changes(before, after):
    """``(index, old, new)`` of each checked cell of ``after`` that had outputs in ``before``, and prints others now."""
    stored = {cell.id: compared(cell) for cell in before.cells if cell.cell_type == "code" and cell.execution_count}
    for index, cell in enumerate(after.cells):
        if cell.cell_type == "code" and cell.id in stored and not is_ignored(cell):
            new = compared(cell)
            if new != stored[cell.id]:
                yield index, stored[cell.id], new


def prose_around(notebook, index):
    """The last paragraph before a cell and the first one after it."""
    cells = notebook.cells
    before = next((cell.source for cell in reversed(cells[:index]) if cell.cell_type == "markdown"), "")
    after = next((cell.source for cell in cells[index + 1 :] if cell.cell_type == "markdown"), "")
    return before.rstrip().rpartition("\n\n")[2], after.lstrip().partition("\n\n")[0]


def stated(text):
    """The numbers that a text names: of "3 of 4" the part and the 3."""
    found = set()
    for digits, of, by, percent, word in NUMBER.findall(text):
        value = WORDS[word] if word else float(digits.replace(",", ""))
        whole = float((of or by or ("100" if percent else "1")).replace(",", ""))
        found.add((value,) if whole == 1 else (value / whole, *([value] if of else [])))
    return found


def same(numbers, others, more=()):
    """Whether one of the numbers, alone or with one ``more`` added, is one of the others, said in a usual way."""
    for number in numbers:
        ways = [number, number and 1 / number, number / 100]
        ways += [number + another for another in more if another > number / 10]
        ways += [1 - number, 1 + number] if number < 1 else []
        if any(math.isclose(way, other, rel_tol=1e-6, abs_tol=1e-12) for way in ways for other in others):
            return True
    return False
