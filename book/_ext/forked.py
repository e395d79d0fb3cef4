"""Inside a notebook's kernel: run a cell again with wrong data, each time in a copy of the process; what it says.

Loaded by its path, since a kernel knows nothing of this folder; :mod:`book._ext.mutants` calls :func:`examine`.
"""

import contextlib
import copy
import io
import json
import os
import random
import select
import signal

LIMIT = (
    10  # seconds for one copy; one that waits for another thread of the kernel's, which a copy lacks, waits for ever
)


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
        return {"zero": value * 0 if value else value + 1, "negative": -value - 1}
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


def said(lead, program, namespace, replaced):
    """``[lines, problem]`` of a program in a copy of this process, with these names replaced; None if it never ends.

    The lead runs first; what it prints is not the program's.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        text, problem = io.StringIO(), ""
        try:
            names = {**namespace, **replaced}
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                exec(lead, names)
                with contextlib.redirect_stdout(text):
                    exec(program, names)
        except BaseException as error:
            problem = f"{type(error).__name__}: {error}"
        with open(writing, "w", encoding="utf-8") as pipe:
            json.dump([text.getvalue().splitlines(), problem], pipe)
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
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


def examine(lead, roots, program, names, namespace):
    """What a program says as it is, and with each wrong value of each root, and of each name that it uses itself.

    Returns JSON: ``{"right": said, "roots": [[name, what was done, said], ...], "names": [...]}``.
    """
    answer = {"right": said(lead, program, namespace, {}), "roots": [], "names": []}
    if answer["right"] and not answer["right"][1]:
        for kind, first, replaced in ("roots", lead, roots), ("names", "", names):
            for name in replaced:
                with contextlib.suppress(Exception):  # what can't be looked at can't be made wrong
                    for what, done, value in wrong_parts(name, namespace.get(name)):
                        answer[kind].append([what, done, said(first, program, namespace, {name: value})])
    return json.dumps(answer)
