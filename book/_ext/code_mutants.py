"""Wrong code for a checked cell, found over the syntax tree: comparisons turned, bounds tightened, names swapped.

And the same code with what it selects counted: a filter that lets nothing through proves whatever follows.
"""

import ast
import copy
import re
from collections import Counter

from book._ext.outputs import same, stated, syntax

TURNED = {ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.In: ast.NotIn, ast.Is: ast.IsNot}
TURNED |= {turned: op for op, turned in TURNED.items()}
LESS, MORE = (ast.Lt, ast.LtE), (ast.Gt, ast.GtE)
READING = {"read_text", "read_bytes", "read_csv", "load", "loads", "getoutput", "check_output"}
READING |= {"glob", "iterdir", "exists", "is_file", "stat"}
TIGHTER = "ten times tighter"
TWINS = 3  # other names to try for each
FILTER = "in a filter, "
ROUNDING = 1e-4  # a smaller bound is a tolerance for it


def _named(call):
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def _factor(side, tighter):
    """The number that a side of a comparison is, or has as its factor, in a list with what it is to be; or []."""
    if isinstance(side, ast.BinOp) and isinstance(side.op, (ast.Mult, ast.Div)):
        divided = isinstance(side.op, ast.Div)
        return _factor(side.left, tighter) or _factor(side.right, not tighter if divided else tighter)
    if isinstance(side, ast.Constant) and type(side.value) in (int, float) and side.value > ROUNDING:
        return [(side, side.value / 10 if tighter else side.value * 10)]
    return []


def _bounds(compare):
    sides = [compare.left, *compare.comparators]
    for left, op, right in zip(sides, compare.ops, sides[1:], strict=False):
        if isinstance(op, LESS + MORE):
            yield from _factor(right, isinstance(op, LESS)) + _factor(left, isinstance(op, MORE))


def _changes(node, claim, twins):
    """``(what is wrong, a call that makes it so)`` for a node of a tree; the call returns one that undoes it."""

    def put(holder, field, value):
        old = getattr(holder, field)
        setattr(holder, field, value)
        return lambda: setattr(holder, field, old)

    if isinstance(node, ast.Compare):
        text = ast.unparse(node)
        for number, op in enumerate(node.ops):
            ops = [*node.ops]
            ops[number] = TURNED[type(op)]()
            turned = ast.unparse(ast.Compare(node.left, ops, node.comparators))
            yield f"{text}: {'' if claim else FILTER}turned to {turned}", lambda ops=ops: put(node, "ops", ops)
        for constant, value in _bounds(node) if claim else ():
            yield f"{text}: {constant.value} {TIGHTER}", lambda c=constant, v=value: put(c, "value", v)
        for side in [node.left, *node.comparators]:
            if isinstance(side, ast.Constant) and isinstance(side.value, str):
                yield (
                    f"{text}: {'' if claim else FILTER}another text",
                    lambda side=side: put(side, "value", "no such text"),
                )
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        for other in twins.get(node.id, ())[:TWINS]:
            yield f"{node.id}: {other} in its place", lambda other=other: put(node, "id", other)


def _with_claim(node, claim=True):
    """Each node below, with whether a comparison there may be a claim: it is in no filter and no condition."""
    yield node, claim
    filters = getattr(node, "ifs", [getattr(node, "test", None), getattr(node, "slice", None)])
    for child in ast.iter_child_nodes(node):
        yield from _with_claim(child, claim and not any(child is each for each in filters))


def edits(source, twins=None):
    """``(statement, what is wrong, the whole source with it)`` of each single edit.

    ``twins`` has, for a name, others of the same kind that may take its place.
    """
    tree = ast.parse(source)
    for statement in tree.body:
        text = ast.unparse(statement)
        for node, claim in list(_with_claim(statement)):
            for what, change in _changes(node, claim, twins or {}):
                undo = change()
                yield text, what, ast.unparse(tree)
                undo()


class _Counted(ast.NodeTransformer):
    """Puts a call around what is selected and what is read: they tell the copy of the process, see ``forked.py``."""

    def __init__(self, texts):
        self.texts = texts

    def _call(self, name, node, text):
        self.texts.append(text)
        return ast.Call(ast.Name(name, ast.Load()), [ast.Constant(len(self.texts) - 1), node], [])

    def visit_comprehension(self, node):
        texts = [ast.unparse(test) for test in node.ifs]
        self.generic_visit(node)
        node.ifs = [self._call("_passed", test, text) for test, text in zip(node.ifs, texts, strict=True)]
        return node

    def visit_For(self, node):
        tests = [(part, ast.unparse(part.test)) for part in node.body if isinstance(part, ast.If)]
        self.generic_visit(node)
        for part, text in tests:
            part.test = self._call("_passed", part.test, text)
        return node

    def visit_Subscript(self, node):
        text = ast.unparse(node)
        self.generic_visit(node)
        if not isinstance(node.ctx, ast.Load):
            return node
        if isinstance(node.slice, ast.Slice):
            return self._call("_kept", node, text)
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        parts = [p if isinstance(p, (ast.Slice, ast.Constant)) else self._call("_mask", p, text) for p in parts]
        node.slice = ast.Tuple(parts, ast.Load()) if isinstance(node.slice, ast.Tuple) else parts[0]
        return node

    def visit_Call(self, node):
        text = ast.unparse(node)
        if _named(node) in READING:
            return self._call("_read", node, text)
        self.generic_visit(node)
        return self._call("_kept", node, text) if _named(node) == "query" else node


def counted(source, texts):
    """The source with what it selects and reads reported, each under its place in ``texts``, which grows."""
    return ast.unparse(ast.fix_missing_locations(_Counted(texts).visit(copy.deepcopy(ast.parse(source)))))


class Code:
    """What a notebook's cells so far have noticed of wrong code, and what they select."""

    def __init__(self):
        self._tried, self._noticed, self._selected, self._told, self.like = {}, set(), Counter(), [], []

    def wrong(self, source, lead, program, kinds):
        """``(statement, what is wrong, lead, program)`` of each edit for a cell's source that no cell has noticed yet.

        ``kinds`` has the types of the notebook's names.
        """
        strings = [node.value for node in ast.walk(syntax(source)) if isinstance(node, ast.Constant)]
        self._label = " ".join(string for string in strings if isinstance(string, str))
        self._used = {node.id for node in ast.walk(ast.parse(f"{lead}\n{program}")) if isinstance(node, ast.Name)}
        kinds = dict(sorted(kinds.items(), key=lambda kind: not self._says(kind[0])))
        twins = {name: [other for other in kinds if other != name and kinds[other] == kinds[name]] for name in kinds}
        for statement, what, text in edits(lead):
            if TIGHTER not in what and (statement, what) not in self._noticed:
                yield statement, what, text, program
        for statement, what, text in edits(program, {name: twins[name] for name in self._used & set(twins)}):
            yield statement, what, lead, text

    def _says(self, name):
        return re.search(rf"\b{name}\b", self._label)

    def take(self, index, tried, answer, texts):
        """Note what the cell has said with each edit that was tried, and what it has selected."""
        bounds = {number for numbers in stated(self._label) for number in numbers}
        for (statement, what, *_), said in zip(tried, answer["edits"], strict=True):
            alike = said and said[:2] == answer["right"][:2]
            other = re.match(r"(\w+): (\w+) in its place", what)
            if other and self._says(other[2]) and other[2] not in self._used:
                self._told.append(f"cell {index}: a label says {other[2]!r}, and the cell uses {other[1]!r}")
            elif not alike:
                self._noticed.add((statement, what))
            elif not (TIGHTER in what and same(bounds, [float(what.split()[-4])])):
                self._tried.setdefault((statement, what), f"cell {index}: {what}: no line notices")
        for number, (_, passed) in (answer["counted"] or [0, 0, {}])[2].get("passed", {}).items():
            self._selected[texts[int(number)]] += passed

    def found(self):
        """Complaints about edits that no line noticed and about filters that let nothing through.

        That a claim holds also of what a filter leaves out, or of another run, is no fault: ``like`` has these.
        """
        unnoticed = [(edit[1], said) for edit, said in self._tried.items() if edit not in self._noticed]
        self.like = [complaint for what, complaint in unnoticed if FILTER in what or what.endswith("in its place")]
        yield from (complaint for _, complaint in unnoticed if complaint not in self.like)
        yield from dict.fromkeys(self._told)
        yield from (f"nothing is selected by {text}" for text, passed in self._selected.items() if not passed)
