"""Pictures of a cluster: which tasks talk to each other, and what is placed where."""

from collections import defaultdict
from itertools import product

import matplotlib as mpl
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Rectangle

from mnistdist.style import COMMUNICATION, INK, PS, STYLE, WAITING, WIDTH, WORKER, Figure, new_figure

BOX_HEIGHT = 0.8  # inches
LINE, CHARACTER = 0.165, 0.0628  # inches: height of a line, width of a character at 7.5 points
MUTED = "#666666"
VARIABLES = {"Variable", "VariableV2", "VarHandleOp"}
BOX = {"ps": (PS, INK), "worker": (WORKER, "white")}  # fill, ink


@mpl.rc_context(STYLE)
def cluster_diagram(tasks) -> Figure:
    """Draws a cluster: ps above, workers below, and arrows for what goes between them in each training step.

    Args:
        tasks: Objects with ``job``, ``index``, ``address`` and ``device``, such as ``cluster.tasks``.

    Raises:
        ValueError: There is no task, or a task has another job than ps or worker.
    """
    tasks = list(tasks)
    unknown = sorted({task.job for task in tasks} - set(BOX))
    if not tasks or unknown:
        raise ValueError(f"tasks must be of the jobs ps and worker, at least one; got {unknown or 'none'}")
    ps, workers = ([task for task in tasks if task.job == job] for job in ("ps", "worker"))
    height, low = (3.5, 0.4) if ps and workers else (1.0, 0.1)
    high = height - 0.9
    figure, axes = _canvas(height)
    above, below = _row_of_boxes(axes, ps, high), _row_of_boxes(axes, workers, low)
    lines = {"pull parameters": "-", "push gradients": (0, (4, 1.5))}
    for (i, (ps_left, ps_width)), (j, (left, width)) in product(enumerate(above), enumerate(below)):
        for kind, line in enumerate(lines.values()):
            # Each end has its own place on the edge of a box, so that no two arrows meet.
            top = ps_left + ps_width * (2 * j + kind + 1) / (2 * len(below) + 1), high
            bottom = left + width * (2 * i + kind + 1) / (2 * len(above) + 1), low + BOX_HEIGHT
            start, end = (bottom, top) if kind else (top, bottom)
            arrow = {"arrowstyle": "-|>,head_width=0.25", "color": COMMUNICATION, "lw": 1.8, "linestyle": line}
            axes.annotate("", end, start, arrowprops=arrow | {"shrinkA": 1, "shrinkB": 1})
    if ps and workers:
        key = [Line2D([], [], color=COMMUNICATION, lw=1.8, linestyle=line, label=name) for name, line in lines.items()]
        axes.legend(handles=key, loc="lower center", ncols=2, frameon=False, handlelength=4, borderaxespad=0.2)
    return figure


@mpl.rc_context(STYLE)
def placement(ops, *, limit: int = 12) -> Figure:
    """Draws what is placed where: a box for each device, with its variables first (in bold) and then its other ops.

    Args:
        ops: A ``tf.Graph``, or for each op ``(name, type, device)`` or a :class:`mnistdist.placement.Placement`.
            A placement counts by where the op ran, or, if it did not run, by what was requested.
        limit: How many ops a box lists; the rest are counted.

    Raises:
        ValueError: There is no op.
    """
    if hasattr(ops, "get_operations"):
        ops = [(op.name, op.type, op.device) for op in ops.get_operations()]
    devices = defaultdict(list)
    for name, kind, *places in ops:
        devices[_short(next((place for place in reversed(places) if place), ""))].append((name, kind))
    if not devices:
        raise ValueError("nothing to draw: expected at least one op")
    # the ps come first, then the workers, then what belongs to no task
    ordered = sorted(devices, key=lambda device: (not device.startswith("ps"), not device.startswith("worker"), device))
    columns = min(3, len(ordered))
    rows = [ordered[i : i + columns] for i in range(0, len(ordered), columns)]
    lines = [max(min(len(devices[device]), limit + 1) for device in row) for row in rows]
    height = sum(0.55 + LINE * count for count in lines)
    figure, axes = _canvas(height)
    top = height - 0.05
    for row, count in zip(rows, lines, strict=True):
        for column, device in enumerate(row):
            place = column * WIDTH / columns + 0.05, top, WIDTH / columns - 0.1, count
            _list_box(axes, place, device, devices[device], limit)
        top -= 0.55 + LINE * count
    return figure


def _short(device):
    """``/job:ps/replica:0/task:0/device:CPU:0`` as ``ps:0 cpu:0``; leaves out what is not given."""
    parts = dict(part.split(":", 1) for part in device.lower().replace("device:", "").split("/") if ":" in part)
    task = ":".join(parts[key] for key in ("job", "task") if key in parts)
    kinds = [f"{kind}:{number}" for kind, number in parts.items() if kind not in ("job", "replica", "task")]
    return " ".join([task, *kinds]).strip() or "no device asked for"


def _list_box(axes, place, device, ops, limit):
    """Draws one device: its name, then up to ``limit`` of its ops, each with its type at the right.

    ``place`` holds the left end, the top, the width, and how many lines there are.
    """
    left, top, width, lines = place
    fill, ink = BOX.get(device.split(":")[0], (WAITING, INK))
    bottom = top - 0.4 - LINE * lines
    axes.add_patch(Rectangle((left, bottom), width, top - bottom, facecolor="none", edgecolor=fill, linewidth=1.5))
    axes.add_patch(Rectangle((left, top - 0.28), width, 0.28, facecolor=fill, edgecolor=fill, linewidth=1.5))
    axes.text(left + 0.08, top - 0.15, device, color=ink, weight="bold", va="center")
    ops = sorted(ops, key=lambda op: op[1] not in VARIABLES)
    shown = ops if len(ops) <= limit + 1 else ops[:limit]
    y = top - 0.28 - 0.14
    for name, kind in shown:
        room = int((width - 0.2) / CHARACTER) - len(kind) - 1
        weight = "bold" if kind in VARIABLES else "normal"
        name = name if len(name) <= room else "…" + name[len(name) - max(room, 4) + 1 :]
        axes.text(left + 0.08, y, name, family="monospace", size=7.5, weight=weight, va="center")
        axes.text(left + width - 0.08, y, kind, family="monospace", size=7.5, color=MUTED, ha="right", va="center")
        y -= LINE
    if len(shown) < len(ops):
        axes.text(left + 0.08, y, f"and {len(ops) - len(shown)} more", size=8, style="italic", va="center")


def _canvas(height):
    """Makes a figure with a single axes that fills it, in inches and without ticks."""
    figure = new_figure(height)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, height))
    axes.axis("off")
    return figure, axes


def _row_of_boxes(axes, tasks, bottom):
    """Draws the tasks of one row; returns the left end and the width of each box."""
    places = []
    for i, task in enumerate(tasks):
        pitch = (WIDTH - 0.2) / len(tasks)
        width = min(1.6, pitch - 0.12)
        left = 0.1 + (i + 0.5) * pitch - width / 2
        fill, ink = BOX[task.job]
        box = "round,pad=0,rounding_size=0.08"
        axes.add_patch(FancyBboxPatch((left, bottom), width, BOX_HEIGHT, boxstyle=box, facecolor=fill, lw=0))
        address = task.address if len(tasks) <= 4 else ":\n".join(task.address.rsplit(":", 1))
        middle = left + width / 2
        style = {"ha": "center", "va": "center", "color": ink}
        axes.text(middle, bottom + 0.62, f"{task.job}:{task.index}", weight="bold", **style)
        axes.text(middle, bottom + 0.28, f"{address}\n{task.device}", size=8, linespacing=1.4, **style)
        places.append((left, width))
    return places
