"""The book's rules on cells and outputs. Each rule takes a notebook and returns its complaints, none if it holds.

`CELL_RULES` is what `test_book.py` applies to every notebook of the book; `page_rules.py` has those on the text.
"""

import ast
import getpass
import re
import socket
from pathlib import Path

from book._ext import outputs
from book._ext.outputs import compared, false_claims, is_ignored

ROOT = Path(__file__).parents[2]
REPLACEMENTS = r"\b(ADDRESS|HOST|PORT|DEVICE|PLACE|0xPLACE|NUMBER|DATE|CLOCK|RATE|DURATION|TEMPORARY)\b"
MACHINE_PATH = re.compile(r"/(?:home|Users|root)/\S+|\S*site-packages\S*|\S*\.venv/\S*|\b[A-Z]:\\\S+")
PLAIN_IMPORT = "import tensorflow.compat.v1 as tf"
MOST_LINES, LONGEST_LINE = 20, 80


def code_cells(notebook):
    """(position, cell) of each code cell; the position counts all cells, from 0, as an editor does."""
    return [(index, cell) for index, cell in enumerate(notebook.cells) if cell.cell_type == "code"]


def tags(cell):
    """The cell's tags."""
    return cell.metadata.get("tags", [])


def solutions(notebook):
    """Positions of the cells that answer a question or solve an exercise: folded in the book and in JupyterLab."""
    return {index for index, cell in code_cells(notebook) if "hide-cell" in tags(cell)}


def is_px(cell):
    """Whether the cell runs in the cluster's tasks."""
    return cell.source.lstrip().startswith("%%px")


def syntax(cell):
    """The cell's Python as a syntax tree."""
    return outputs.syntax(cell.source)


def printed(output):
    """What one output says, as text: stream, data but for images, error."""
    if output.output_type == "stream":
        return output.text
    if output.output_type == "error":
        return "\n".join([f"{output.ename}: {output.evalue}", *output.traceback])
    return "\n".join(str(data) for kind, data in output.data.items() if not kind.startswith("image/"))


def is_checked(cell):
    """Whether nbval compares something that the cell computed: text that sanitizing leaves over."""
    return not is_ignored(cell) and bool(re.search(r"\w", re.sub(REPLACEMENTS, "", compared(cell))))


def images(cell):
    """The cell's outputs that are pictures."""
    return [output for output in cell.outputs if any(kind.startswith("image/") for kind in output.get("data", {}))]


def executed_in_order(notebook):
    counts = [cell.execution_count for _, cell in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        return [f"execution counts are {counts}, expected 1 to {len(counts)}: make record"]
    return []


def prints(cell):
    """Whether running the cell must print: print, show or display at the top level, or a value on the last line."""
    if "%%capture" in cell.source:
        return False
    statements = list(syntax(cell).body)
    while statements:
        statement = statements.pop()
        if isinstance(statement, (ast.With, ast.For)):
            statements += statement.body
        call = statement.value if isinstance(statement, ast.Expr) else None
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") in ("print", "show", "display"):
            return True
    body = syntax(cell).body
    values = (ast.Name, ast.Attribute, ast.Subscript, ast.Compare, ast.BinOp, ast.JoinedStr, ast.Tuple, ast.List)
    last = body[-1] if body else None
    return isinstance(last, ast.Expr) and isinstance(last.value, values) and not cell.source.rstrip().endswith(";")


def outputs_stored(notebook):
    cells = code_cells(notebook)
    if cells and not any(cell.outputs for _, cell in cells):
        return ["no cell has stored outputs (nbval would pass it unseen): make record"]
    return [f"cell {i}: prints, but has no stored output" for i, cell in cells if prints(cell) and not cell.outputs]


def errors_are_tagged(notebook):
    complaints = []
    for i, cell in code_cells(notebook):
        failed = any(output.output_type == "error" for output in cell.outputs)
        if failed and "raises-exception" not in tags(cell):
            complaints.append(f"cell {i}: an error output, without the tag raises-exception")
        if not failed and "raises-exception" in tags(cell):
            complaints.append(f"cell {i}: tagged raises-exception, and raised nothing")
    return complaints


def outputs_are_quiet(notebook):
    complaints = []
    for i, cell in code_cells(notebook):
        for output in cell.outputs:
            if output.get("name") == "stderr":
                complaints.append(f"cell {i}: noise on stderr: {output.text[:60]!r}")
            if any("widget" in kind for kind in output.get("data", {})):
                complaints.append(f"cell {i}: a widget (a progress bar?) in the stored outputs")
            if output.output_type == "error" and len(output.traceback) > 1:
                complaints.append(f"cell {i}: a whole traceback; make record keeps its last line")
    return complaints


def outputs_name_no_machine(notebook):
    """No paths of a machine, user or host anywhere; in what nbval compares, no ports, pids, times either."""
    names = {name for name in (getpass.getuser(), socket.gethostname()) if len(name) > 4 and name != "localhost"}
    complaints = []
    for i, cell in code_cells(notebook):
        said = "\n".join(printed(output) for output in cell.outputs)
        found = MACHINE_PATH.findall(said) + [name for name in names if name in said]
        if not is_ignored(cell):
            found += re.findall(r"\S*:\d{4,5}\b|/tmp/\S*|\b\d{10}\.\d+\b", compared(cell))
        complaints += [f"cell {i}: {what!r} belongs to a machine or a moment" for what in found]
    return complaints


def no_claim_is_false(notebook):
    """A checked line states a fact: what isn't so is said the other way round."""
    return [
        f"cell {i}: {line!r}: say what is so, and print True"
        for i, cell in code_cells(notebook)
        for line in false_claims(cell)
    ]


def nothing_skipped(notebook):
    """nbval runs every cell, and is told so by tags, which a reader doesn't see."""
    complaints = []
    for i, cell in code_cells(notebook):
        if "nbval-skip" in tags(cell):
            complaints.append(f"cell {i}: nbval-skip: every cell is to run")
        if re.search(r"#\s*(NBVAL|PYTEST_VALIDATE)_", cell.source):
            complaints.append(f"cell {i}: tell nbval by a tag, not by a comment")
    return complaints


def unstable_then_checked(notebook):
    """A cell whose output may differ is followed by one that checks what must not."""
    complaints, pending = [], None
    for i, cell in code_cells(notebook):
        if is_ignored(cell):
            if pending is not None:
                complaints.append(f"cell {pending}: ignored by nbval, and no checked cell before the next ignored one")
            pending = i
        elif is_checked(cell):
            pending = None
    if pending is not None:
        complaints.append(f"cell {pending}: ignored by nbval, and no checked cell after it")
    return complaints


def most_outputs_checked(notebook):
    with_output = [(i, cell) for i, cell in code_cells(notebook) if cell.outputs]
    unchecked = [i for i, cell in with_output if not is_checked(cell)]
    if 3 * len(unchecked) > len(with_output):
        return [
            f"{len(unchecked)} of {len(with_output)} cells with output are unchecked (at most a third): {unchecked}"
        ]
    return []


def nothing_proves_itself(notebook):
    """Of an empty selection, `all` is True and any set contains it: a claim says of how many things it holds."""
    complaints = []
    for i, cell in code_cells(notebook):
        nodes = list(ast.walk(syntax(cell)))
        # bool(found) and all(...): something has to be there first.
        guarded = {id(value) for node in nodes if isinstance(node, ast.BoolOp) for value in node.values[1:]}
        for node in nodes:
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "all" and id(node) not in guarded:
                complaints.append(f"cell {i}: all(...) holds of nothing, too: say of how many")
            if (
                isinstance(node, ast.Compare)
                and isinstance(node.ops[0], ast.LtE)
                and isinstance(node.comparators[0], ast.Set)
            ):
                complaints.append(f"cell {i}: the empty set is within any set, too: say what is in it")
    return complaints


def cells_are_short(notebook):
    complaints = []
    for i, cell in code_cells(notebook):
        lines = cell.source.splitlines()
        if not cell.source.strip():
            complaints.append(f"cell {i}: empty")
        if len(lines) > MOST_LINES:
            complaints.append(f"cell {i}: {len(lines)} lines, at most {MOST_LINES}")
        longest = max((len(line) for line in lines), default=0)
        if longest > LONGEST_LINE:
            complaints.append(f"cell {i}: a line of {longest} columns, at most {LONGEST_LINE}")
    return complaints


def imports_together(notebook):
    """One cell imports for the notebook; cells that run in fresh tasks import there what they need."""
    importing = [
        i
        for i, cell in code_cells(notebook)
        if not is_px(cell) and any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in syntax(cell).body)
    ]
    return [f"cells {importing} import: one is to import everything"] if len(importing) > 1 else []


def one_tensorflow(notebook):
    complaints = []
    for i, cell in code_cells(notebook):
        for line in cell.source.splitlines():
            if re.match(r"\s*(import|from) tensorflow", line) and line.strip() != PLAIN_IMPORT:
                complaints.append(f"cell {i}: {line.strip()!r}, expected {PLAIN_IMPORT!r}")
    return complaints


def plotting_is_hidden(notebook):
    """What draws is behind a toggle; what calls TensorFlow never is."""
    complaints, solving = [], solutions(notebook)
    for i, cell in code_cells(notebook):
        hidden = {"hide-input", "hide-cell", "remove-input", "remove-cell"} & set(tags(cell))
        if images(cell) and not hidden and i not in solving:
            complaints.append(f"cell {i}: draws, and lacks the tag hide-input")
        if hidden and re.search(r"\btf\.", cell.source) and i not in solving:
            complaints.append(f"cell {i}: hides TensorFlow calls")
    return complaints


def clusters_are_stopped(notebook):
    """A cluster started without `with` is stopped further down."""
    sources = [(i, cell.source) for i, cell in code_cells(notebook)]
    started = [i for i, text in sources if re.search(r"^\w+ = (\w+\.)?Cluster\(", text, re.M)]
    stopped = [i for i, text in sources if ".stop()" in text]
    if started and (not stopped or stopped[-1] < started[-1]):
        return [f"cell {started[-1]}: the cluster started here isn't stopped by a later cell"]
    return []


CELL_RULES = [
    executed_in_order,
    outputs_stored,
    errors_are_tagged,
    outputs_are_quiet,
    outputs_name_no_machine,
    no_claim_is_false,
    nothing_skipped,
    unstable_then_checked,
    most_outputs_checked,
    nothing_proves_itself,
    cells_are_short,
    imports_together,
    one_tensorflow,
    plotting_is_hidden,
    clusters_are_stopped,
]
