"""What each worker notes of each training step, and what can be told from the notes: staleness, throughput, loss.

Pandas is imported where it is used: every task of a cluster imports this module for :class:`StepRecord` alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, get_type_hints

if TYPE_CHECKING:
    import pandas as pd


class StepRecord(NamedTuple):
    """One training step of one worker.

    Attributes:
        worker: Task index of the worker.
        local_step: Number of this step among the worker's own, from 1.
        global_step_before: Global step read *before* the parameters were pulled.
        global_step_after: Asynchronous: the number of this step's own update, counted and read in one op after it.
            Synchronous: the number on the token that the step drew, which is how many rounds there had been.
        start: Seconds, by ``time.monotonic()``. On Linux and macOS it is one clock for all processes of a machine, so
            the steps of different workers can be laid side by side; it says nothing across machines.
        end: Likewise.
        loss: Loss of this step's batch, on the parameters that were pulled.

    Example::

        def on_step(record):  # runs in the worker
            if record.local_step == 10:
                print(record.worker, record.global_step_after, record.loss)

        train(cluster, steps=50, on_step=on_step)
    """

    worker: int
    local_step: int
    global_step_before: int
    global_step_after: int
    start: float
    end: float
    loss: float


def to_frame(records: Iterable[StepRecord], *, sync: bool = False, local_steps: int = 1) -> pd.DataFrame:
    """Puts the records of a run into a table, one row a step, in the order in which the steps ended.

    The columns are those of :class:`StepRecord`, with ``start`` and ``end`` counted from the run's first start, and
    ``staleness`` (nullable integer).

    Asynchronous: staleness is the number of updates that others made to the parameters between this step's pull
    and its push, ``global_step_after - global_step_before - 1`` (``- local_steps``, if each record is a push of the
    change that so many local steps made; an update is then a batch). An update of another worker that falls into the
    moment between reading the counter and pulling, or between pushing and counting, may be counted on the wrong side.
    Where the counter did not rise (the ps was restarted during the step), staleness is missing.

    Synchronous (``sync=True``): the counter counts rounds, and staleness is missing throughout. A worker's step
    ends when it draws a token, not when its gradient is applied, so the difference of the two readings is no count
    of updates missed: 1 is a worker in step with the rounds; 0 one that drew a spare token (an initial one, or one
    that a slow worker left) and did not wait; 2 or more one that rounds went by without. ``SyncReplicasOptimizer``
    drops a gradient that is older than the round it arrives in; which were dropped, no record tells.

    Without records, as of a training that was complete before it began, the table has these columns and no rows.

    Raises:
        ValueError: if a record ends before it starts.
    """
    import pandas as pd

    frame = pd.DataFrame.from_records(list(records), columns=StepRecord._fields).astype(get_type_hints(StepRecord))
    backwards = frame[frame["end"] < frame["start"]]
    if len(backwards):
        row = backwards.iloc[0]
        what = f"step {row.local_step:.0f} of worker {row.worker:.0f} ends {row.start - row.end:g} s before it starts"
        raise ValueError(f"{what}: take both times from time.monotonic()")
    passed = (frame["global_step_after"] - frame["global_step_before"]).astype("Int64")
    frame["staleness"] = (passed - local_steps).where((passed > 0) & (not sync))
    frame[["start", "end"]] -= frame["start"].min()
    return frame.sort_values("end", kind="stable", ignore_index=True)


def throughput(frame: pd.DataFrame, *, of: str = "updates") -> float:
    """Returns how many updates, or batches, a second, from the first start to the last end in the frame.

    An update is one rise of the global step: a worker's step in asynchronous training, a round in synchronous
    training. Updates by workers whose rows are not in the frame count too. A batch is a row. The first steps of a
    worker include setting up its graph; leave them out with, say, ``throughput(frame[frame.local_step > 10])``.

    Args:
        frame: From :func:`to_frame`.
        of: ``"updates"`` or ``"batches"``.

    Raises:
        ValueError: if the frame is empty, lacks a column or covers no time, or ``of`` is something else.
    """
    require(frame, "start", "end", "global_step_before", "global_step_after")
    seconds = frame["end"].max() - frame["start"].min()
    if not seconds > 0:
        raise ValueError(f"throughput needs steps that take time; these cover {seconds:g} s")
    counts = {"updates": frame["global_step_after"].max() - frame["global_step_before"].min(), "batches": len(frame)}
    if of not in counts:
        raise ValueError(f"of must be 'updates' or 'batches'; got {of!r}")
    return float(counts[of] / seconds)


def staleness_counts(frame: pd.DataFrame) -> pd.Series:
    """Counts the steps of each staleness, from 0 to the largest: index ``staleness``, values ``steps``.

    Raises:
        ValueError: if the frame is empty, lacks the column, or has no staleness, as in synchronous training.
    """
    require(frame, "staleness")
    known = frame["staleness"].dropna().astype(int)
    if known.empty:
        why = "in synchronous training the records do not tell it (see mnistdist.steps.to_frame)"
        raise ValueError(f"no step has a staleness: {why}")
    counts = known.value_counts().reindex(range(known.max() + 1), fill_value=0)
    return counts.rename_axis("staleness").rename("steps")


def loss_curve(frame: pd.DataFrame, window: int = 50, *, against: str = "global_step_after") -> pd.DataFrame:
    """Returns the loss against steps or seconds, raw and smoothed.

    Args:
        frame: From :func:`to_frame`.
        window: Number of rows whose mean is the smoothed loss: each row and those before it (fewer at the start).
        against: ``"global_step_after"``, or ``"end"`` for seconds.

    Returns:
        A frame with the columns ``against``, ``loss`` and ``smooth``, sorted by the first.

    Raises:
        ValueError: if the frame is empty or lacks a column, or ``window`` is less than 1.
    """
    require(frame, against, "end", "loss")
    if window < 1:
        raise ValueError(f"window is a number of steps, 1 or more; got {window}")
    curve = frame.sort_values([against, "end"], ignore_index=True)[[against, "loss"]]
    return curve.assign(smooth=curve["loss"].rolling(window, min_periods=1).mean())


def require(frame: pd.DataFrame, *columns: str, name: str = "the frame", rows: int = 1) -> None:
    """Raises ValueError, with ``name`` in it, unless the frame has these columns and at least ``rows`` rows, 0 or 1."""
    if missing := [column for column in columns if column not in frame.columns]:
        there = ", ".join(map(str, frame.columns)) or "none"
        advice = f"make it with mnistdist.steps.to_frame. Its columns: {there}"
        raise ValueError(f"{name} has no column {', '.join(missing)}; {advice}")
    if len(frame) < rows:
        raise ValueError(f"{name} has no rows: expected at least one step")
