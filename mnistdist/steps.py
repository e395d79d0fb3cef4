"""What each worker records about each training step, and what the records show: staleness, throughput, loss.

Pandas is imported where it is used, because every task of a cluster imports this module for :class:`StepRecord`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, get_type_hints

if TYPE_CHECKING:
    import pandas as pd


class StepRecord(NamedTuple):
    """One training step of one worker.

    Attributes:
        worker: The task index of the worker.
        local_step: The number of this step among the worker's own steps, from 1.
        global_step_before: The global step that was read *before* the parameters were pulled.
        global_step_after: In asynchronous training, the number of this step's own update, which one op counts and
            reads. In synchronous training, the number on the token that the step drew: how many rounds there had been.
        start: Seconds of ``time.monotonic()``. On Linux and macOS all processes of a machine share this clock, so the
            steps of different workers can be compared. Between machines they can't.
        end: Seconds of the same clock.
        loss: The loss of this step's batch with the parameters that were pulled.

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
    """Puts the records of a run into a table with one row for each step, in the order in which the steps ended.

    The columns are those of :class:`StepRecord`, with ``start`` and ``end`` counted from the run's first start, and
    ``staleness`` (nullable integer).

    In asynchronous training, staleness is how many updates others made to the parameters between this step's pull and
    its push: ``global_step_after - global_step_before - 1``, or ``- local_steps`` if each record is a push of what this
    many steps have changed, each of which counts as an update. If another worker updates between the reading of the
    counter and the pull, or between the push and the count, its update may be counted on the wrong side. If the
    counter did not rise because the ps was restarted during the step, staleness is missing.

    In synchronous training (``sync=True``), the counter counts rounds, and all staleness is missing. A worker's step
    ends when it draws a token, not when its gradient is applied, so the difference of the two readings does not count
    missed updates. It is 1 if the worker keeps pace with the rounds, 0 if it drew a spare token (an initial one, or one
    that a slow worker left) and did not wait, and more if rounds went by without it. ``SyncReplicasOptimizer`` drops a
    gradient that is older than the round in which it arrives; no record tells which were dropped.

    Without records, as for a training that was complete before it began, the table has these columns and no rows.

    Raises:
        ValueError: A record ends before it starts.
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
    """Returns how many updates or batches there were each second, from the first start to the last end in the frame.

    An update is one rise of the global step: a worker's step in asynchronous training, and a round in synchronous
    training. Updates by workers whose rows are not in the frame count too. A batch is a row. The first steps of a
    worker include setting up its graph; ``throughput(frame[frame.local_step > 10])`` leaves them out.

    Args:
        frame: From :func:`to_frame`.
        of: ``"updates"`` or ``"batches"``.

    Raises:
        ValueError: The frame is empty, lacks a column or covers no time, or ``of`` is something else.
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
    """Counts the steps of each staleness from 0 to the largest, as a series ``steps`` with the index ``staleness``.

    Raises:
        ValueError: The frame is empty, lacks the column, or has no staleness, as in synchronous training.
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
        window: How many rows are averaged for the smoothed loss: each row and those before it, fewer at the start.
        against: ``"global_step_after"``, or ``"end"`` for seconds.

    Returns:
        A frame with the columns ``against``, ``loss`` and ``smooth``, sorted by the first.

    Raises:
        ValueError: The frame is empty or lacks a column, or ``window`` is less than 1.
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
