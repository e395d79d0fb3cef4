"""Give every check of the book wrong data, and see that it notices: ``python -m book._ext.mutants [notebook ...]``.

A notebook is executed. After each cell that is checked, what its lines rest on is found in the cells' syntax trees: the
statements that lead to it, back to the *roots*, which are what a run, a cluster or a file has given. Then the cell runs
again, each time in a copy of the kernel's process, with one root emptied, shuffled, swapped or otherwise wrong. A line
that says the same whatever is wrong checks nothing. A line that notices a wrong root, but not that it is empty, holds
of nothing. Then its code is made wrong, see ``code_mutants.py``: a comparison that may be turned without a line of the
notebook noticing, a bound that its label doesn't name and that may be ten times tighter, and a filter that lets nothing
through are reported, too.
"""

import argparse
import ast
import builtins
import json
import os
import re
import sys
from collections import Counter
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from book._ext.code_mutants import Code, counted
from book._ext.kernels import ENVIRONMENT, TIMEOUT, encrypt_connections
from book._ext.known import unexplained, unused
from book._ext.outputs import compared, is_ignored, syntax

ROOT = Path(__file__).resolve().parents[2]
PURE = {"numpy", "pandas", "math", "collections", "itertools", "statistics", "re", "json", "functools", "fractions"}
PURE |= {"pathlib", "csv"}  # reading a file again does no harm
WRITING = {"write_text", "write_bytes", "mkdir", "unlink", "rename", "touch", "rmdir", "dump", "save", "savefig"}
CHANGING = {"append", "extend", "update", "add", "pop", "sort", "setdefault", "insert", "remove"}
IN_TASKS, SOURCE = "printed in the tasks", "source of the package"
NO_DATA, NOT_ALONE = "no data of a run behind it", "can't run in a copy of the process"
CALCULATED = "arithmetic, of what no run has given"


def statements(source):
    """The statements of a cell that runs in the notebook; none of one that runs elsewhere."""
    return [] if source.lstrip().startswith("%%") else syntax(source).body


def changed_and_used(statement):
    """The names that a statement binds or changes, and those that it uses; those of a loop of its own are neither."""
    changed, used, own = set(), set(), set()
    alone = {id(node.value) for node in ast.walk(statement) if isinstance(node, ast.Expr)}
    for node in ast.walk(statement):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else changed).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            changed.add(node.name)
        elif isinstance(node, ast.alias):
            changed.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.arg):
            own.add(node.arg)
        target = None
        if isinstance(node, (ast.comprehension, ast.For)):
            own |= {name.id for name in ast.walk(node.target) if isinstance(name, ast.Name)}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGING:
            # numbers.sort() changes the numbers; np.sort(numbers) changes nothing
            target = node.func.value if id(node) in alone or node.func.attr in ("pop", "setdefault") else None
        elif isinstance(node, (ast.Subscript, ast.Attribute)) and not isinstance(node.ctx, ast.Load):
            target = node.value
        if _head(target):
            changed.add(_head(target))
    if isinstance(statement, ast.FunctionDef):  # it may change what is not its own: a dict of the notebook's
        names = [node for node in ast.walk(statement) if isinstance(node, ast.Name)]
        mine = {name.id for name in names if isinstance(name.ctx, ast.Store)}
        return changed - own - mine, used - own - mine
    return changed - own, used - own


BUILTIN = set(dir(builtins))
DEFINING = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)


class Notebook:
    """What the statements of a notebook's cells so far bind and use, and which of them only compute."""

    def __init__(self):
        self._known = []  # (statement, changed, used, whether it only computes)
        self._opaque = {"open", "input", "show", "display", "get_ipython"}  # names that do more than compute

    def add(self, source):
        """Take the next cell's statements; returns how many they are."""
        for statement in statements(source):
            changed, used = changed_and_used(statement)
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                module = getattr(statement, "module", None) or statement.names[0].name
                pure = module.partition(".")[0] in PURE
            else:
                heads = {_head(node.func) for node in ast.walk(statement) if isinstance(node, ast.Call)}
                heads |= {_head(node) for node in ast.walk(statement) if isinstance(node, ast.Subscript)}
                heads |= {"open" for node in ast.walk(statement) if getattr(node, "attr", "") in WRITING}
                pure = not heads & self._opaque and not isinstance(statement, (ast.With, ast.Try, ast.ClassDef))
                pure = pure and not getattr(statement, "decorator_list", ())
            if not pure and (isinstance(statement, DEFINING) or _makes_cluster(statement) or self._is_task(statement)):
                self._opaque |= changed
            if isinstance(statement, ast.FunctionDef) and changed != {statement.name}:
                pure = False  # what it changes is data; to call it in a copy of the process does no harm
            self._known.append((statement, changed, used, pure))
        return len(statements(source))

    def _is_task(self, statement):
        """Whether it gives a task a name: ``chief = cluster["worker", 0]``."""
        value = getattr(statement, "value", None) if isinstance(statement, ast.Assign) else None
        return isinstance(value, ast.Subscript) and getattr(value.value, "id", "") in self._opaque

    def leading_to(self, source):
        """``(lead, roots, program, names)`` for the cell that was taken last.

        The lead is what its lines rest on, of earlier cells, with the names of the data that this starts from; the
        program is the cell's own part that only computes, with the names of what it uses.
        """
        own = len(self._known) - len(statements(source))
        needed, taken, roots = set(), [], set()
        for number, (statement, changed, used, pure) in reversed(list(enumerate(self._known))):
            if not ((number >= own and isinstance(statement, (ast.Expr, ast.For, ast.If))) or changed & needed):
                continue
            if isinstance(statement, DEFINING) and not (pure and isinstance(statement, ast.FunctionDef)):
                if isinstance(statement, ast.FunctionDef):
                    roots |= (changed & needed) - {statement.name}
                needed -= changed  # it is there, and no data
            elif pure and not changed & roots:
                taken.append(statement)
                if isinstance(statement, (ast.Assign, ast.FunctionDef)):
                    needed -= changed
                needed |= used
            else:
                roots |= changed & needed
                needed -= changed
        inner = [statement for statement in taken if any(statement is known[0] for known in self._known[own:])]
        bound, names = set(), set()
        for statement in reversed(inner):
            changed, used = changed_and_used(statement)
            names |= used - bound  # what the cell binds itself isn't what it uses
            bound |= changed if isinstance(statement, (ast.Assign, ast.FunctionDef)) else set()
            needed -= changed
        lead = [statement for statement in taken if statement not in inner]
        lead, program = (ast.unparse(ast.Module(part[::-1], [])) for part in (lead, inner))
        return lead, sorted((roots | needed) - BUILTIN), program, sorted(names - BUILTIN)


def _head(function):
    while isinstance(function, (ast.Attribute, ast.Subscript, ast.Call)):
        function = function.func if isinstance(function, ast.Call) else function.value
    return getattr(function, "id", "")


def _makes_cluster(statement):
    called = [_head(node.func) for node in ast.walk(statement) if isinstance(node, ast.Call)]
    return isinstance(statement, (ast.Assign, ast.With)) and "Cluster" in called


def judge(answer, printed):
    """``(counts of lines, complaints)`` from what a cell ``printed`` and said with right and with wrong data."""
    if not answer["right"] or answer["right"][:2] != [printed, ""]:
        return {NOT_ALONE: None}, []
    if not answer["roots"] and not answer["names"]:
        return {NO_DATA: None}, []
    counts, complaints = Counter(), []
    for number, line in enumerate(answer["right"][0]):

        def noticed(kind, number=number, line=line):
            tried = answer[kind]
            return {(name, done): not said or said[0][number : number + 1] != [line] for name, done, said in tried}

        roots, names = noticed("roots"), noticed("names")
        if not any(roots.values()) and not any(names.values()):
            if not re.search(r"True|\bof \d", line):
                counts[CALCULATED] += 1
                continue
            wrong = ", ".join(sorted({name for name, _ in [*roots, *names]}))
            complaints.append(f"{line!r} is said whatever is wrong with {wrong}")
        counts["reached"] += 1
        empty = _not_noticed_empty(roots)
        if not any(notices for (_, done), notices in roots.items() if done == "empty"):
            empty |= _not_noticed_empty(names)
        complaints += [f"{line!r} holds of nothing: {name} may be empty" for name in sorted(empty)]
    return counts, complaints


def _not_noticed_empty(noticed):
    """Names that a line notices to be wrong in one way, but not to be empty."""
    return {name for (name, _), notices in noticed.items() if notices and noticed.get((name, "empty")) is False}


class Examiner(NotebookClient):
    """Executes a notebook, and examines each checked cell after it has run."""

    def __init__(self, notebook, **options):
        super().__init__(notebook, **options)
        self.seen, self.code, self.found, self.left, self.counts = Notebook(), Code(), [], [], Counter()

    async def async_execute_cell(self, cell, cell_index, *args, **kwargs):
        await super().async_execute_cell(cell, cell_index, *args, **kwargs)
        if cell.cell_type != "code":
            return cell
        lines = 0 if is_ignored(cell) else len(compared(cell).splitlines())
        any_here = self.seen.add(cell.source)
        if lines and not any_here:
            self.counts[IN_TASKS] += lines
        elif lines and cell.source.lstrip().startswith("show("):
            self.counts[SOURCE] += lines
        elif lines:
            await self._examine(cell, cell_index, lines)
        return cell

    async def _ask(self, function, *arguments):
        """What a function of ``forked.py`` returns in the kernel."""
        load = f"import runpy as _r; _f = _r.run_path({str(Path(__file__).with_name('forked.py'))!r})"
        reply = await self.kc.execute_interactive(
            load,
            store_history=False,
            silent=True,
            user_expressions={"answer": f"_f[{function!r}]({', '.join([*map(repr, arguments), 'globals()'])})"},
            timeout=900,
            output_hook=lambda message: None,
        )
        said = reply["content"].get("user_expressions", {}).get("answer", {})
        if "data" not in said:
            return {"right": [[], said.get("evalue", "no answer")]}
        return json.loads(ast.literal_eval(said["data"]["text/plain"]))

    async def _examine(self, cell, index, lines):
        lead, roots, program, names = self.seen.leading_to(cell.source)
        texts = []
        watched = counted(lead, texts), counted(program, texts)
        tried = list(self.code.wrong(cell.source, lead, program, await self._ask("kinds")))
        edits = [edit[2:] for edit in tried]
        answer = await self._ask("examine", lead, roots, program, names, watched, edits)
        printed = "".join(output.text for output in cell.outputs if output.get("name") == "stdout")
        counts, complaints = judge(answer, printed.splitlines())
        if NOT_ALONE not in counts:
            self.code.take(index, tried, answer, texts)
        for why, number in counts.items():
            self.counts[why] += lines if number is None else number
            if why != "reached":
                problem = f" ({(answer['right'] or ['', 'no end'])[1]})" if why == NOT_ALONE else ""
                self.left.append(f"cell {index}: {why}{problem}: {lines if number is None else number} lines")
        self.found += [f"cell {index}: {complaint}" for complaint in complaints]


def examine(path):
    """The :class:`Examiner` of a notebook, when all is done."""
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    client = Examiner(notebook, timeout=TIMEOUT, kernel_name="python3", resources=resources)
    client.execute(env={**os.environ, **ENVIRONMENT})
    client.found += client.code.found()
    return client


def main(arguments=None):
    """Examine the notebooks named, or all; print what checks nothing and what was reached; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m book._ext.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: book/*.ipynb")
    parser.add_argument("--others", action="store_true", help="list what else each claim holds of")
    options = parser.parse_args(arguments)
    encrypt_connections()
    total, status = Counter(), False
    for path in options.notebooks or sorted((ROOT / "book").glob("*.ipynb")):
        examined = examine(path.resolve())
        total += examined.counts
        found = unexplained(path.stem, examined.found)
        print(f"{path.stem}: {dict(examined.counts)}", *examined.left, *found, sep="\n    ", flush=True)
        print(f"    claims that hold of others, too: {len(examined.code.like)}")
        print(*(f"        {said}\n" for said in examined.code.like if options.others), sep="", end="")
        print(
            *(f"    known, and not found now: {said}\n" for said in unused(path.stem, examined.found)), sep="", end=""
        )
        status |= bool(found)
    print(f"all: {dict(total)}")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
