"""The book's figures.

Every function takes data and returns a :class:`~mnistdist.style.Figure`, which a notebook shows if it is a cell's
value. Nothing is registered with pyplot, so nothing is shown twice or left open. ``figure.savefig(path)`` writes a
file. A frame without rows, as of a training that was complete before it began, gives axes without a curve.
"""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, NullFormatter

from mnistdist.steps import StepRecord, loss_curve, require, staleness_counts
from mnistdist.style import COMMUNICATION, FAILURE, INK, STYLE, WIDTH, WORKER, Figure, new_figure

LIGHT_WORKER = "#66AAD1"  # every second step
# Runs that are compared. Only the first has a role's colour, and each has its own line, for print.
SERIES = [(WORKER, "-"), (INK, "--"), ("#B65C95", "-."), ("#00805C", (0, (1, 1)))]


@mpl.rc_context(STYLE)
def loss_curves(frames: Mapping[str, pd.DataFrame], *, window: int = 50) -> Figure:
    """Draws the loss of each run against steps (left) and seconds (right), with a strong line for the smoothed loss.

    Args:
        frames: A dict from label to frame (:func:`mnistdist.steps.to_frame`), or one frame.
        window: How many steps the moving mean covers.
    """
    frames = _named(frames)
    figure = new_figure(3.2)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, against, name in zip(panels, ("global_step_after", "end"), ("global step", "seconds"), strict=True):
        ends = []
        for index, (label, frame) in enumerate(frames.items()):
            if frame.empty:
                continue
            colour, line = SERIES[index % len(SERIES)]
            curve = loss_curve(frame, window, against=against)
            x, y = curve[against], curve["smooth"]
            axes.plot(x, curve["loss"], color=colour, alpha=max(0.06, 0.2 / len(frames)), linewidth=0.6)
            axes.plot(x, y, color=colour, linestyle=line, linewidth=1.8, label=label)
            ends.append((x.iloc[-1], y.iloc[-1], label, colour))
        axes.set(xlabel=name, yscale="log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.02, y=0.04 * (1 + len(frames)))  # the labels take a line each
        _label_ends(axes, ends)
    panels[0].set_ylabel(f"loss of the batch, mean of {window} steps")
    return figure


def _label_ends(axes, ends):
    """Writes each label at the end of its line, below lines that go on and below labels that are already there."""
    if not any(label for _, _, label, _ in ends):
        return
    left, right = axes.get_xlim()
    axes.set_xlim(left, right + 0.28 * (right - left))  # room for the labels
    axes.figure.draw_without_rendering()  # settles the scales
    points_a_pixel = 72 / axes.figure.dpi
    placed = []
    for x, y, label, colour in sorted(ends, key=lambda end: -end[1]):
        start, height = axes.transData.transform((x, y)) * points_a_pixel
        lowered = height if x == max(end[0] for end in ends) else height - 8
        end = start + 6 * len(label)
        for other_start, other_end, other_height in placed:
            if start < other_end and other_start < end:
                lowered = min(lowered, other_height - 11)
        placed.append((start, end, lowered))
        style = {"color": colour, "weight": "bold", "path_effects": [withStroke(linewidth=2.5, foreground="white")]}
        axes.annotate(label, (x, y), (4, lowered - height), textcoords="offset points", va="center", **style)


@mpl.rc_context(STYLE)
def timeline(frames: pd.DataFrame | Mapping[str, pd.DataFrame], *, window: tuple[float, float] | None = None) -> Figure:
    """Draws when each worker was in a step: a row for each task, a bar for each step, and blanks while it was idle.

    Steps alternate between two shades, and carry their number if it fits. Several runs share the axis of seconds. In a
    synchronous run, dashed lines mark the ends of rounds, unless there are more than 40.

    Args:
        frames: A frame (:func:`mnistdist.steps.to_frame`), or a dict from label to frame.
        window: The first and last second to show; by default all.
    """
    frames = _named(frames)
    first, last = window or (0.0, max((frame["end"].max() for frame in frames.values() if len(frame)), default=1.0))
    if not first < last:
        raise ValueError(f"window must be (first, last) in seconds with first < last; got {window!r}")
    tasks = [sorted(frame["worker"].unique()) for frame in frames.values()]
    heights = [max(len(rows), 1) for rows in tasks]
    figure = new_figure(0.6 + sum(0.3 + 0.36 * height for height in heights))
    panels = figure.subplots(len(frames), 1, sharex=True, squeeze=False, height_ratios=heights)
    for axes, rows, (label, frame) in zip(panels[:, 0], tasks, frames.items(), strict=True):
        seen = frame[(frame["end"] > first) & (frame["start"] < last)]
        if seen.empty and len(frame):
            raise ValueError(f"no step of {label or 'the frame'} is between {first:g} and {last:g} s")
        for row, worker in enumerate(rows):
            _step_bars(axes, row, seen[seen["worker"] == worker], first, last)
        rounds = seen.groupby("global_step_after")["end"].min()
        rounds = rounds[rounds < last]
        title = label
        if frame["staleness"].isna().all() and 0 < len(rounds) <= 40:
            axes.vlines(rounds, -0.5, len(rows) - 0.5, color=INK, linestyle=(0, (3, 2)), linewidth=0.9, zorder=3)
            title = f"{label} (dashed: a round has ended)".strip()
        axes.set_title(title)
        axes.set_yticks(range(len(rows)), [f"worker:{worker}" for worker in rows])
        axes.set(xlim=(first, last), ylim=(max(len(rows), 1) - 0.5, -0.5))
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    panels[-1, 0].set_xlabel("seconds")
    return figure


def _step_bars(axes, row, steps, first, last):
    starts, ends = steps["start"].clip(lower=first), steps["end"].clip(upper=last)
    shares = (ends - starts) / (last - first)  # of about 600 pixels
    two_shades = shares.median() > 0.005
    shades = [LIGHT_WORKER if two_shades and number % 2 == 0 else WORKER for number in steps["local_step"]]
    axes.broken_barh(list(zip(starts, ends - starts, strict=True)), (row - 0.36, 0.72), facecolors=shades)
    for number, start, end, share, shade in zip(steps["local_step"], starts, ends, shares, shades, strict=True):
        if share > 0.006 + 0.01 * len(str(number)):
            ink = "white" if shade == WORKER else INK
            axes.text((start + end) / 2, row, number, ha="center", va="center", color=ink, size=8)


@mpl.rc_context(STYLE)
def staleness_histogram(frames: Mapping[str, pd.DataFrame]) -> Figure:
    """Draws the share of each run's steps that had each staleness, and marks the mean.

    Args:
        frames: A dict from label to frame (:func:`mnistdist.steps.to_frame`) of asynchronous runs, or one frame.
    """
    counts = {label: staleness_counts(f) if len(f) else pd.Series(dtype=int) for label, f in _named(frames).items()}
    # A pause of one worker makes a few steps very stale. What is beyond nearly all steps goes into one bar.
    shown = max(int((steps.cumsum() < 0.99 * steps.sum()).sum()) for steps in counts.values())
    figure = new_figure(0.7 + 1.05 * len(counts))
    panels = figure.subplots(len(counts), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, (label, steps) in zip(panels, counts.items(), strict=True):
        if len(steps):
            mean = np.average(steps.index, weights=steps)
            percent = 100 * steps / steps.sum()
            axes.bar(percent.index[: shown + 1], percent[: shown + 1], color=WORKER, width=0.8)
            axes.bar(shown + 1, percent[shown + 1 :].sum(), color=LIGHT_WORKER, hatch="///", width=0.8)
            axes.axvline(mean, color=INK, linestyle="--", linewidth=1.4)
            label = f"{label}: mean {mean:.2f}, largest {steps.index.max()}".removeprefix(": ")
        axes.set_title(label)
        axes.set_xlim(-0.6, shown + 1.6)
        axes.set_xticks(range(shown + 2), [*range(shown + 1), f">{shown}"])
        axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
    panels[-1].set_xlabel("staleness: updates by others between pull and push (dashed: mean)")
    figure.supylabel("% of steps", size=9)
    return figure


@mpl.rc_context(STYLE)
def digits(images, labels: Sequence[int], predictions: Sequence[int], *, columns: int = 10) -> Figure:
    """Draws digits in a grid, each with its prediction. A wrong one is framed, and the true digit is added.

    Args:
        images: An array ``[n, 784]`` or ``[n, 28, 28]``; large numbers are dark.
        labels: The true digits, ``[n]``.
        predictions: The predicted digits, ``[n]``.
        columns: How many digits a row has.
    """
    labels, predictions = _digit_pairs(labels, predictions)
    images = np.asarray(images)
    if images.shape not in ((len(labels), 784), (len(labels), 28, 28)):
        raise ValueError(f"images must be [{len(labels)}, 784] or [{len(labels)}, 28, 28]; got {list(images.shape)}")
    columns = min(columns, len(labels))
    rows = -(-len(labels) // columns)
    figure = new_figure(rows * (WIDTH / max(columns, 7) + 0.25))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for axes, image, label, predicted in zip(panels, images, labels, predictions, strict=False):
        axes.imshow(image.reshape(28, 28), cmap="gray_r")
        axes.set_title(predicted, loc="center")
        if label != predicted:
            axes.set_title(f"{predicted}, is {label}", loc="center", color=FAILURE, weight="bold")
            axes.spines[:].set(visible=True, color=FAILURE, linewidth=2.5)
    return figure


@mpl.rc_context(STYLE)
def confusion_matrix(labels: Sequence[int], predictions: Sequence[int]) -> Figure:
    """Draws how many images of each digit were taken for which digit, with shades on a log scale that show rare errors.

    Args:
        labels: The true digits, ``[n]``.
        predictions: The predicted digits, ``[n]``.
    """
    labels, predictions = _digit_pairs(labels, predictions)
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (labels, predictions), 1)
    figure = new_figure(5.2)
    axes = figure.subplots()
    norm = mpl.colors.LogNorm(vmin=1, vmax=max(2, counts.max()))
    image = axes.imshow(np.ma.masked_equal(counts, 0), cmap="Blues", norm=norm)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            ink, weight = ("white" if norm(count) > 0.6 else INK), ("bold" if row == column else "normal")
            axes.text(column, row, count, ha="center", va="center", color=ink, weight=weight, size=8)
    axes.set(xlabel="predicted digit", ylabel="true digit", xticks=range(10), yticks=range(10))
    axes.set_xticks(np.arange(0.5, 9), minor=True)
    axes.set_yticks(np.arange(0.5, 9), minor=True)
    axes.grid(which="minor", color="#DDDDDD", linewidth=0.6)
    axes.tick_params(which="both", length=0)
    figure.colorbar(image, label="images (log scale; blank is none)", shrink=0.8, format="{x:g}")
    return figure


@mpl.rc_context(STYLE)
def bars_with_spread(groups: Mapping[str, Sequence[float]], *, xlabel: str, precision: int = 3) -> Figure:
    """Compares repeated measurements: a bar at each group's mean, a dot for each value, a whisker of one deviation.

    Args:
        groups: A dict from label to values, all in one unit.
        xlabel: What is measured, with its unit.
        precision: How many significant digits the printed means have.
    """
    if not groups or any(len(values) == 0 for values in groups.values()):
        raise ValueError(f"each group needs at least one value; got { ({k: len(v) for k, v in groups.items()}) }")
    figure = new_figure(0.7 + 0.5 * len(groups))
    axes = figure.subplots()
    names = []
    for row, (label, values) in enumerate(groups.items()):
        values = np.asarray(values, float)
        mean, name = values.mean(), f"{label}\n{values.mean():.{precision}g}"
        axes.barh(row, mean, height=0.7, color=COMMUNICATION, edgecolor=WORKER)
        spots = row - 0.12 + np.linspace(-0.12, 0.12, len(values) + 2)[1:-1]
        axes.plot(values, spots, "o", color="white", markeredgecolor=INK, markersize=4.5)
        if len(values) > 1:  # one value has no spread to show
            spread = values.std(ddof=1)
            axes.errorbar(mean, row + 0.2, xerr=spread, color=INK, linewidth=1.6, capsize=3.5, capthick=1.6)
            name += f" ± {spread:.2g}"
        names.append(name)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(f"{xlabel} (bar: mean; whisker: ± 1 standard deviation)")
    axes.tick_params(axis="y", length=0)
    return figure


def _named(frames) -> dict[str, pd.DataFrame]:
    named = {"": frames} if isinstance(frames, pd.DataFrame) else dict(frames)
    if not named:
        raise ValueError("nothing to draw: expected at least one frame")
    for label, frame in named.items():
        require(frame, *StepRecord._fields, "staleness", name=label or "the frame", rows=0)
    return named


def _digit_pairs(labels, predictions):
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.ndim != 1 or labels.shape != predictions.shape or not len(labels):
        shapes = f"{list(labels.shape)} and {list(predictions.shape)}"
        raise ValueError(f"labels and predictions must be digits, both of shape [n], n >= 1; got {shapes}")
    for name, values in (("labels", labels), ("predictions", predictions)):
        if not np.isin(values, range(10)).all():
            raise ValueError(f"{name} must be digits 0 to 9; got {sorted(set(values.tolist()) - set(range(10)))[:5]}")
    return labels, predictions
