"""Inside a notebook's kernel: run a cell again with wrong data, each time in a copy of the process; what it says.

Loaded by its path, since a kernel knows nothing of this folder; :mod:`book._ext.mutants` calls :func:`examine`.
"""

import contextlib
import copy
import functools
import io
import itertools
import json
import os
import random
import select
import signal

# Seconds for one copy; one that waits for another thread of the kernel's, which a copy lacks, waits for ever.
LIMIT = 10
MOST_READ = 20  # wrong values for each place that reads


def wrong_values(value):
    """``{what was done: wrong value}`` for data of a run; empty for what is no data."""
    kind = type(value).__name__
    if kind in ("DataFrame", "Series"):
        same = value.iloc[[0] * len(value)].set_axis(value.index)
        zero = value * 0 if kind == "Series" else value.assign(**value.select_dtypes("number") * 0)
        return {"empty": value.iloc[:0], "shuffled": _shuffled(value, kind), "all alike": same, "zero": zero}
    if kind == "ndarray" and value.ndim:
        return {"empty": value[:0], "reversed": value[::-1].copy(), "zero": value * 0}
    if isinstance(value, list) and not value:
        return {"something": [0]}
    if isinstance(value, (list, tuple, str)) and len(value):
        return {"empty": value[:0], "reversed": value[::-1], "all alike": value[:1] * len(value)}
    if isinstance(value, (dict, set)) and len(value):
        wrong = {"empty": type(value)() if type(value) in (dict, set) else {}}
        if isinstance(value, dict):
            wrong["swapped"] = dict(zip(value, reversed(list(value.values())), strict=True))
        return wrong
    if isinstance(value, bool) or kind in ("bool", "bool_"):
        return {"inverted": not value}
    if isinstance(value, (int, float)) or kind.startswith(("int", "float", "uint")):
        return {"zero": value * 0 if value else value + 1, "negative": -value - 1, "large": abs(value) * 1000 + 1000}
    return {}


def _shuffled(frame, kind):
    order = list(range(len(frame)))
    random.Random(0).shuffle(order)
    if kind == "Series":
        return type(frame)(frame.to_numpy()[order], index=frame.index, name=frame.name)
    columns = {}
    for number, name in enumerate(frame.columns):  # each in an order of its own, so that a row is no step any more
        random.Random(number).shuffle(order)
        columns[name] = frame[name].to_numpy()[order]
    return type(frame)(columns, index=frame.index)


def wrong_parts(name, value):
    """``(what, what was done, wrong value)`` of a name's value; of a run or a record, for each of its fields alone."""
    for done, bad in wrong_values(value).items():
        yield name, done, bad
    if type(value) is dict and all(isinstance(key, str) for key in value):
        for key, old in value.items():
            if isinstance(old, (dict, list)):
                for done, bad in wrong_values(old).items():
                    yield f"{name}[{key!r}]", done, {**value, key: bad}
    fields = getattr(value, "__dict__", None)
    if hasattr(value, "_asdict"):
        fields = value._asdict()
    home = type(value).__module__.partition(".")[0]
    if fields and home in ("mnistdist", "types", "__main__") and type(value).__name__ != "Cluster":
        for field, old in fields.items():
            for what, done, bad in wrong_parts(f"{name}.{field}", old):
                with contextlib.suppress(Exception):
                    yield what, done, _with(value, field, bad)


def _with(value, field, bad):
    if hasattr(value, "_replace"):
        return value._replace(**{field: bad})
    made = copy.copy(value)
    object.__setattr__(made, field, bad)
    return made


def kinds(namespace):
    """``{name: its value's type}`` of the notebook's names, of those that may stand for a run or a part of one."""
    found = {}
    for name, value in namespace.items():
        kind = type(value)
        if not name.startswith("_") and (kind.__module__ not in ("builtins", "numpy") or getattr(value, "ndim", 0)):
            found[name] = f"{kind.__module__}.{kind.__name__}"
    return json.dumps(found)


def _passed(noted, number, answer):
    """Note whether a filter's condition holds of an element."""
    _count(noted, number, 1, bool(answer))
    return answer


def _count(noted, number, more, of_them):
    tested, passed = noted.setdefault("passed", {}).get(number, (0, 0))
    noted["passed"][number] = tested + more, passed + of_them


def _mask(noted, number, index):
    """Note of how many elements a mask holds; an index of another kind is no filter."""
    if str(getattr(index, "dtype", "")) == "bool" and getattr(index, "ndim", 0):
        _count(noted, number, index.size, int(index.sum()))
    return index


def _kept(noted, number, part):
    """Note whether a slice or a query has anything in it."""
    with contextlib.suppress(TypeError):
        _passed(noted, number, len(part) > 0)
    return part


def _read(noted, reading, number, value):
    """What was read; or, of the place that is asked for, the wrong value that is."""
    if hasattr(value, "__next__"):  # a folder's files, one after the other
        value = list(value)
    wrong = list(itertools.islice(wrong_parts("what is read", value), MOST_READ))
    noted.setdefault("read", {})[number] = len(wrong)
    if reading is None or reading[0] != number:
        return value
    what, done, bad = wrong[reading[1]]
    noted["done"] = [f"{what} (place {number})", done]
    return bad


def said(lead, program, namespace, replaced, reading=None):
    """``[lines, problem, noted]`` of a program in a copy of this process, these names replaced; None if it never ends.

    The lead runs first; what it prints is not the program's. Noted is what was selected and read, see ``counted``.
    """
    reading_end, writing = os.pipe()
    child = os.fork()
    if not child:
        text, problem, noted = io.StringIO(), "", {}
        try:
            names = {**namespace, **replaced, "_read": functools.partial(_read, noted, reading)}
            names |= {call.__name__: functools.partial(call, noted) for call in (_passed, _mask, _kept)}
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                exec(lead, names)
                with contextlib.redirect_stdout(text):
                    exec(program, names)
        except BaseException as error:
            problem = f"{type(error).__name__}: {error}"
        with open(writing, "w", encoding="utf-8") as pipe:
            json.dump([text.getvalue().splitlines(), problem, noted], pipe)
        os._exit(0)
    os.close(writing)
    with open(reading_end, "rb") as pipe:
        heard = b""
        while select.select([pipe], [], [], LIMIT)[0]:
            if not (some := os.read(pipe.fileno(), 1 << 20)):
                break
            heard += some
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    try:
        return json.loads(heard)
    except ValueError:
        return None


def examine(lead, roots, program, names, counted, edits, namespace):
    """What a program says as it is, with each wrong value of what it rests on, and with each edit of its code.

    Args:
        lead: what its lines rest on, of earlier cells.
        roots: names of the data that this starts from.
        program: the cell's own part that only computes.
        names: what it uses.
        counted: lead and program, with what they select and read reported.
        edits: ``(lead, program)`` for each.
        namespace: the notebook's.

    Returns:
        JSON: ``{"right": said, "counted": said, "roots": [[name, what was done, said], ...], "names": [...], "edits":
        [said, ...]}``. What is read from a file is a root, too.
    """
    answer = {"right": said(lead, program, namespace, {}), "roots": [], "names": [], "edits": [], "counted": None}
    if answer["right"] and not answer["right"][1]:
        for kind, first, replaced in ("roots", lead, roots), ("names", "", names):
            for name in replaced:
                with contextlib.suppress(Exception):  # what can't be looked at can't be made wrong
                    for what, done, value in wrong_parts(name, namespace.get(name)):
                        answer[kind].append([what, done, said(first, program, namespace, {name: value})])
        answer["counted"] = right = said(*counted, namespace, {})
        for number, several in (right[2] if right else {}).get("read", {}).items():
            for which in range(several):
                told = said(*counted, namespace, {}, (int(number), which))
                if told and "done" in told[2]:
                    answer["roots"].append([*told[2]["done"], told])
        answer["edits"] = [said(*edit, namespace, {}) for edit in edits]
    return json.dumps(answer)
