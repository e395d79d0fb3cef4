"""What a printed line says against what its cell computes, read from the syntax trees alone.

``print("at most 3 late:", late <= 3)`` has a label and an expression. A number of the label is in the expression or in
what its names were assigned; a bound is the one of the comparison; a comparison goes the way that the label says; a
name of the label is not that of another value of the same kind; and two labels don't say the same thing.
"""

import ast
import builtins
import re

from book._ext.outputs import DIGITS, NUMBER, WORDS, same, stated, syntax

# Which way a word compares, with a number after it or, for the first of each pair, without one too.
LESS = r"less|fewer|lower|smaller|shorter|sooner", r"at most|below|under|within|up to"
MORE = r"more|greater|larger|longer|higher|later|older|staler", r"at least|above|over"
NOT = r"not? (?:\w+ ){0,3}?|none |never "
WAYS = rf"\b({NOT})?(?:({LESS[0]})|({MORE[0]})|(?:({LESS[1]})|({MORE[1]}))(?= an? | that\b| {NUMBER.pattern}))\b"
RATIO = rf"\btwice|\bhalf\b|\btenfold|(?:{DIGITS}|{'|'.join(WORDS)}) times"
GREATER, SMALLER = (ast.Gt, ast.GtE), (ast.Lt, ast.LtE)

ORDINAL = "a name, not a number of the cell"

# page: {label: why it may say what the cell doesn't}
ALLOWED = {
    "clusters": {"it has gone for worker 1, too:": "asked by the cell, in worker 1"},
    "data_and_model": {
        "in two different orders:": "two are compared: not equal",
        "ten times the batch, about ten times the sum:": "a bound on each side of 10",
        "near 230:": "100 * math.log(10), which is 230.26",
    },
    "from_listing_to_program": {"more than five minutes, less than five hours:": "five hours are 300 minutes"},
    "quickstart": {"better than the ten digits:": ORDINAL},
    "your_own_loop": {"it has learnt:": "one number is above two others"},
    "when_it_goes_wrong": {"in one wait, not in two:": "3.5 seconds are less than two waits of 2 seconds"},
    "where_a_step_goes": {
        "sooner by the median, 97% in every run:": "the goal that was set, in the cell above",
        "more floats than the answer to question 6:": ORDINAL,
    },
}


def assigned(tree):
    """``(name, value)`` of what a cell's names are assigned, looped over or defined as."""
    for node in ast.walk(tree):
        pairs = []
        if isinstance(node, ast.Assign):
            pairs = [(target, node.value) for target in node.targets]
        elif isinstance(node, (ast.For, ast.comprehension)):
            pairs = [(node.target, node.iter)]
        elif isinstance(node, (ast.AugAssign, ast.NamedExpr)):
            pairs = [(node.target, node.value)]
        elif isinstance(node, ast.FunctionDef):
            pairs = [(ast.Name(node.name), node)]
        for target, value in pairs:
            yield from ((name.id, value) for name in ast.walk(target) if isinstance(name, ast.Name))


def printed(tree):
    """``(label, expression)`` of each value that a cell's print calls show, in order."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"]
    label = ""
    for call in sorted(calls, key=lambda call: (call.lineno, call.col_offset)):
        for part in call.args:
            for piece in part.values if isinstance(part, ast.JoinedStr) else [part]:
                if isinstance(piece, ast.Constant) and isinstance(piece.value, str):
                    label += " " + piece.value
                else:
                    yield " ".join(label.split()), piece
                    label = ""
        if not any(keyword.arg == "end" for keyword in call.keywords):
            label = ""


def reach(expression, known):
    """The expression, what its names were assigned, what that rests on, and so on."""
    found, names = [expression], set()
    for node in found:
        for name in named(node) - names:
            names.add(name)
            found += known.get(name, [])
    return found


def named(*nodes):
    """The names that these use."""
    return {name.id for node in nodes for name in ast.walk(node) if isinstance(name, ast.Name)}


def compares(*nodes):
    """Whether any of these holds a comparison."""
    return any(isinstance(part, ast.Compare) for node in nodes for part in ast.walk(node))


def constants(*nodes):
    """Numbers in these expressions, in strings too, and what arithmetic of numbers alone gives."""
    found = set()
    for node in (part for root in nodes for part in ast.walk(root)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {number for numbers in stated(node.value) for number in numbers}
        elif isinstance(node, (ast.BinOp, ast.UnaryOp, ast.Constant)) and not named(node):
            try:
                found.add(float(eval(compile(ast.Expression(node), "", "eval"), {"__builtins__": {}})))
            except (TypeError, ValueError, ArithmeticError):
                continue
    return found


def comparisons(nodes, subject):
    """``(way, bounds)`` of each comparison that orders: 1 if what the label's ``subject`` names is the greater one."""
    for node in (part for root in nodes for part in ast.walk(root) if isinstance(part, ast.Compare)):
        sides = [node.left, *node.comparators]
        for left, op, right in zip(sides, node.ops, sides[1:], strict=False):
            if isinstance(op, GREATER + SMALLER):
                way = 1 if isinstance(op, GREATER) else -1
                here, there = (set(re.findall(r"[a-z]\w*", ast.unparse(side))) for side in (left, right))
                turned = not named(left) or (subject & (there - here) and not subject & (here - there))
                yield -way if turned and named(right) else way, constants(left, right)


def misdirected(label, direct, local):
    """Where no comparison goes the way that a label says, or to the bound that it names."""
    found = list(re.finditer(WAYS, label))
    ways = [(-1 if way[2] or way[4] else 1) * (-1 if way[1] else 1) for way in found]
    numbers = stated(label)
    for way, match in zip(ways, found, strict=True):
        after = re.match(rf"(?: than)?(?: an?)? ({NUMBER.pattern})", label[match.end() :])
        said = next(iter(stated(after[1])), None) if after else None
        if not said and len(set(ways)) > 1:
            continue  # "fewer needed, more thrown away"
        subject = set(re.findall(r"[a-z]\w*", label[: match.start()]))
        compared = list(comparisons([direct], subject)) or list(comparisons(local, subject))
        more = {number for several in numbers for number in several}
        if compared and not any(w == way and (not said or not b or same(said, b, more)) for w, b in compared):
            yield f"{match[0]!r}: no comparison goes that way" + (f", to {after[1]}" if after else "")


def turning(node):
    """Chains of comparisons that turn around: ``0 < a > 1`` is hardly ever meant."""
    for part in ast.walk(node):
        if isinstance(part, ast.Compare):
            ways = {isinstance(op, GREATER) for op in part.ops if isinstance(op, GREATER + SMALLER)}
            if len(ways) > 1:
                yield ast.unparse(part)


def own_bounds(label, direct):
    """Numbers that a label gives a bound of its own comparison: large ones beside a large bound, ratios beside one."""
    compared = [
        node
        for node in ast.walk(direct)
        if isinstance(node, ast.Compare) and any(isinstance(op, GREATER + SMALLER) for op in node.ops)
    ]
    factors = [node for node in compared for node in ast.walk(node) if isinstance(node, ast.BinOp)]
    if any(number >= 10 for number in constants(*compared)):
        about = r"(?:about|near) (?:every )?\w[\w.,]*"
        yield from (numbers for numbers in stated(re.sub(about, "", label)) if max(numbers) >= 10)
    if any(isinstance(node.op, ast.Mult) and constants(node) for node in factors):
        for ratio in re.findall(RATIO, label):
            yield from stated(ratio)


def maker(value):
    """What made a value, if that tells its kind: a function that is called, or the frame that it is selected from."""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        return None if hasattr(builtins, value.func.id) else value.func.id
    if isinstance(value, ast.Subscript) and compares(value.slice):
        return ast.unparse(value.value)
    return None


def another(label, direct, wide, known):
    """Names in a label that neither the expression nor what it rests on uses, but another one of the same kind."""
    kinds = {name: {maker(value) for value in values} - {None} for name, values in known.items()}
    used = named(*wide) | {word for node in wide for word in re.findall(r"\w+", ast.unparse(node))}
    for word in sorted(set(re.findall(r"\w+", label)) & set(known) - used):
        for name in sorted(named(direct)):
            if kinds.get(name, set()) & kinds[word]:
                yield f"says {word!r}, and uses {name!r}"


def contradictions(notebook):
    """``(label, complaint)`` of each printed line that says another thing than its cell computes."""
    known, said = {}, {}
    for index, cell in enumerate(notebook.cells):
        tree = syntax(cell.source) if cell.cell_type == "code" else ast.parse("")
        here = {}
        for name, value in assigned(tree):
            here.setdefault(name, []).append(value)
            known.setdefault(name, []).append(value)
        for label, direct in printed(tree):
            local, wide = reach(direct, here), reach(direct, known)
            for complaint in another(label, direct, wide, known):
                yield label, f"cell {index}: {label!r} {complaint}"
            if not compares(*local):
                earlier = [value for name in named(direct) for value in known.get(name, [])[-1:]]
                local += [value for value in earlier if not isinstance(value, ast.FunctionDef)]
            if not compares(*local):
                continue
            numbers = stated(label)
            more = {number for several in numbers for number in several}
            for each in () if getattr(direct, "format_spec", None) else numbers:
                if not same(each, constants(*wide), more):
                    yield label, f"cell {index}: {label!r} says {each[0]:g}, which is nowhere in {ast.unparse(direct)}"
            for each in own_bounds(label, direct):
                if not same(each, constants(direct), more):
                    yield label, f"cell {index}: {label!r} says {each[-1]:g}, and not so {ast.unparse(direct)}"
            for chain in turning(direct):
                yield label, f"cell {index}: {label!r}: the comparison turns around in {chain}"
            for complaint in misdirected(label, direct, local):
                yield label, f"cell {index}: {label!r} says {complaint}"
            key = ast.unparse(direct), *sorted((name, len(known.get(name, ()))) for name in named(*local))
            if compares(direct) and said.setdefault(key, label) != label:
                yield label, f"cell {index}: {label!r} is computed as {said[key]!r} is"


def unexplained(page, notebook):
    """The contradictions of a page that aren't listed, and entries of the list that are none."""
    found, allowed = list(contradictions(notebook)), ALLOWED.get(page, {})
    labels = {label for label, _ in found}
    return [complaint for label, complaint in found if label not in allowed] + [
        f"labels.py lists {label!r}, which needs no reason" for label in allowed if label not in labels
    ]
