"""Records of two workers, worked out by hand."""

import pickle
import subprocess
import sys

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnistdist.steps import StepRecord, loss_curve, staleness_counts, throughput, to_frame

# Worker 0 is twice as fast as worker 1. The global step rises at 101.0 (w0), 102.0 (w0), 102.1 (w1), 103.0 (w0),
# 104.0 (w0) and 104.1 (w1); each worker reads it at its start and after its own update.
ASYNC = [
    StepRecord(1, 1, 0, 3, 100.1, 102.1, 40.0),
    StepRecord(1, 2, 3, 6, 102.1, 104.1, 10.0),
    StepRecord(0, 1, 0, 1, 100.0, 101.0, 50.0),
    StepRecord(0, 2, 1, 2, 101.0, 102.0, 30.0),
    StepRecord(0, 3, 2, 4, 102.0, 103.0, 20.0),
    StepRecord(0, 4, 4, 5, 103.0, 104.0, 16.0),
]
# Two workers, two initial tokens: each first step draws one, before round 1 is applied (no round passes) or just
# after (one does); then a round a step, but two go by during worker 1's last.
SYNC = [
    StepRecord(0, 1, 0, 0, 10.0, 11.0, 9.0),
    StepRecord(1, 1, 0, 1, 10.0, 11.5, 8.0),
    StepRecord(0, 2, 1, 2, 11.0, 12.0, 7.0),
    StepRecord(1, 2, 1, 3, 11.5, 13.0, 6.0),
]


def test_frame_is_sorted_and_starts_at_zero():
    frame = to_frame(ASYNC)
    assert list(frame.columns) == [*StepRecord._fields, "staleness"]
    assert list(frame.index) == list(range(6))
    assert frame["end"].tolist() == pytest.approx([1.0, 2.0, 2.1, 3.0, 4.0, 4.1])
    assert frame["start"].tolist() == pytest.approx([0.0, 1.0, 0.1, 2.0, 3.0, 2.1])
    assert frame["worker"].tolist() == [0, 0, 1, 0, 0, 1]
    assert frame["loss"].tolist() == [50.0, 30.0, 40.0, 20.0, 16.0, 10.0]


def test_staleness_is_what_others_did_between_pull_and_push():
    assert to_frame(ASYNC)["staleness"].tolist() == [0, 0, 2, 1, 0, 2]


def test_synchronous_steps_have_no_staleness():
    frame = to_frame(SYNC, sync=True)
    assert frame["staleness"].isna().all()
    assert frame["staleness"].dtype == to_frame(ASYNC)["staleness"].dtype == "Int64"
    with pytest.raises(ValueError, match="in synchronous training the records do not tell it"):
        staleness_counts(frame)


def test_a_counter_that_fell_back_gives_no_staleness():
    restarted = StepRecord(0, 5, 624, 107, 104.0, 116.0, 12.0)
    frame = to_frame([*ASYNC, restarted])
    assert frame["staleness"].isna().tolist() == [False] * 6 + [True]
    assert staleness_counts(frame).sum() == 6


def test_staleness_counts_include_the_zeros_between():
    counts = staleness_counts(to_frame([StepRecord(0, 1, 0, 1, 0, 1, 1.0), StepRecord(0, 2, 1, 5, 1, 2, 1.0)]))
    assert counts.to_dict() == {0: 1, 1: 0, 2: 0, 3: 1}
    assert (counts.index.name, counts.name) == ("staleness", "steps")


def test_throughput_counts_updates_or_batches():
    assert throughput(to_frame(ASYNC)) == pytest.approx(6 / 4.1)
    assert throughput(to_frame(ASYNC), of="batches") == pytest.approx(6 / 4.1)
    assert throughput(to_frame(SYNC, sync=True)) == pytest.approx(3 / 3.0)
    assert throughput(to_frame(SYNC, sync=True), of="batches") == pytest.approx(4 / 3.0)


def test_throughput_of_a_part_counts_the_updates_of_all():
    frame = to_frame(ASYNC)
    slow = frame[frame["worker"] == 1]
    assert throughput(slow) == pytest.approx(6 / 4.0)
    assert throughput(slow, of="batches") == pytest.approx(2 / 4.0)


def test_loss_curve_follows_steps_or_seconds():
    by_step = loss_curve(to_frame(ASYNC), window=2)
    assert list(by_step.columns) == ["global_step_after", "loss", "smooth"]
    assert by_step["global_step_after"].tolist() == [1, 2, 3, 4, 5, 6]
    assert by_step["smooth"].tolist() == [50.0, 40.0, 35.0, 30.0, 18.0, 13.0]
    by_time = loss_curve(to_frame(ASYNC), window=3, against="end")
    assert by_time["smooth"].tolist() == pytest.approx([50.0, 40.0, 40.0, 30.0, 76 / 3, 46 / 3])


@pytest.mark.parametrize("sync", [False, True])
def test_no_records_make_a_frame_of_the_same_kind_without_rows(sync):
    frame, full = to_frame([], sync=sync), to_frame(ASYNC, sync=sync)
    assert len(frame) == 0
    assert frame.dtypes.to_dict() == full.dtypes.to_dict()
    assert pd.concat([frame, full])["staleness"].dtype == "Int64"
    assert repr(frame).startswith("Empty DataFrame")


def test_mixed_clocks_are_refused():
    with pytest.raises(ValueError, match=r"step 1 of worker 2 ends 5 s before it starts: .*time\.monotonic"):
        to_frame([*ASYNC, StepRecord(2, 1, 6, 7, 10.0, 5.0, 1.0)])


@pytest.mark.parametrize("function", [throughput, staleness_counts, loss_curve])
def test_frames_that_cannot_be_used(function):
    with pytest.raises(ValueError, match=r"no column .*Its columns: x"):
        function(pd.DataFrame({"x": [1]}))
    with pytest.raises(ValueError, match="no rows"):
        function(to_frame(ASYNC).head(0))


def test_nonsensical_arguments():
    frame = to_frame(ASYNC)
    with pytest.raises(ValueError, match="window is a number of steps, 1 or more; got 0"):
        loss_curve(frame, window=0)
    with pytest.raises(ValueError, match="'updates' or 'batches'; got 'epochs'"):
        throughput(frame, of="epochs")
    with pytest.raises(ValueError, match="no column steps"):
        loss_curve(frame, against="steps")
    with pytest.raises(ValueError, match="cover 0 s"):
        throughput(to_frame([StepRecord(0, 1, 0, 1, 5.0, 5.0, 1.0)]))


def test_records_travel():
    assert pickle.loads(pickle.dumps(ASYNC)) == ASYNC


def test_a_task_need_not_import_pandas():
    code = "import sys, mnistdist.steps; print('pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 4))
def test_total_staleness_against_a_simulated_run(order, workers):
    """Workers finish in any order; each update raises the counter by 1, and each worker pulls again at once."""
    pulled, steps, records = {}, {}, []
    for now, worker in enumerate(worker % workers for worker in order):
        before, start = pulled.get(worker, (0, 0))
        steps[worker] = steps.get(worker, 0) + 1
        records.append(StepRecord(worker, steps[worker], before, now + 1, start, now + 1, 1.0))
        pulled[worker] = (now + 1, now + 1)
    frame = to_frame(records[::-1])
    for row, record in zip(frame.itertuples(), records, strict=True):
        others = [r for r in records if r.worker != row.worker and record.start < r.end < record.end]
        assert row.staleness == len(others)
    assert staleness_counts(frame).sum() == len(order)
    assert throughput(frame) == pytest.approx(1.0)
