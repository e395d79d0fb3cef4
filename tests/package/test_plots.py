"""Figures hold the texts and the data they are given, refuse bad input, and show themselves once in a notebook."""

import inspect
import sys
import warnings
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import FancyBboxPatch
from matplotlib.text import Text
from nbclient import NotebookClient

from mnistdist import diagrams, plots
from mnistdist.steps import StepRecord, loss_curve, to_frame
from mnistdist.style import FAILURE, INK, PS, WORKER, Figure


def texts(figure):
    figure.draw_without_rendering()  # tick labels are written when they are drawn
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def tasks(ps, workers):
    names = [("ps", i) for i in range(ps)] + [("worker", i) for i in range(workers)]
    return [
        SimpleNamespace(job=job, index=index, address=f"192.168.233.{201 + n}:{2222 + n}", device=f"core {n}")
        for n, (job, index) in enumerate(names)
    ]


def run(workers=2, steps=100, seconds=1.0, sync=False):
    """Workers in turn (asynchronous), or side by side (synchronous)."""
    records = []
    for step in range(steps):
        for worker in range(workers):
            done = step + 1 if sync else step * workers + worker + 1
            before = step if sync else max(0, done - workers)
            start = seconds * (step + (0 if sync else worker / workers)) / steps
            end = start + 0.8 * seconds / steps
            records.append(StepRecord(worker, step + 1, before, done, start, end, 200 / (step + 1)))
    return to_frame(records, sync=sync)


IMAGES, LABELS, PREDICTIONS = np.linspace(0, 1, 5 * 784).reshape(5, 784), [7, 2, 1, 0, 4], [7, 2, 1, 6, 4]

EVERY = {
    "cluster_diagram": lambda: diagrams.cluster_diagram(tasks(1, 2)),
    "placement": lambda: diagrams.placement([("hid_w", "VariableV2", "/job:ps/task:0/cpu:0")]),
    "loss_curves": lambda: plots.loss_curves({"async": run(), "sync": run(sync=True)}),
    "timeline": lambda: plots.timeline(run()),
    "staleness_histogram": lambda: plots.staleness_histogram(run()),
    "digits": lambda: plots.digits(IMAGES, LABELS, PREDICTIONS),
    "confusion_matrix": lambda: plots.confusion_matrix(LABELS, PREDICTIONS),
    "bars_with_spread": lambda: plots.bars_with_spread({"one": [1.0, 2.0]}, xlabel="seconds"),
}


def test_every_figure_is_tested_here():
    made = [f for module in (diagrams, plots) for f in vars(module).values() if inspect.isfunction(f)]
    public = {f.__name__ for f in made if f.__module__ in (diagrams.__name__, plots.__name__) and f.__name__[0] != "_"}
    assert sorted(EVERY) == sorted(public)


@pytest.mark.parametrize("name", sorted(EVERY))
def test_a_figure_fits_the_page_and_stays_out_of_pyplot(name):
    figure = EVERY[name]()
    assert isinstance(figure, Figure)
    assert figure.get_size_inches()[0] * figure.dpi == 700
    assert to_hex(figure.get_facecolor()) == "#ffffff"
    bundle, metadata = figure._repr_mimebundle_()
    assert bundle["image/png"].startswith("iVBOR")
    assert metadata["image/png"]["width"] == 700
    assert repr(figure).startswith("<Figure size 700x")
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def test_a_notebook_shows_a_figure_once_with_and_without_the_inline_backend():
    make = "from mnistdist import diagrams, plots\nplots.bars_with_spread({'a': [1.0]}, xlabel='s')"
    cells = [make, "import matplotlib.pyplot as plt", make, "len(plt.get_fignums())"]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(book, kernel_name="python3", timeout=120).execute()
    for cell in (book.cells[0], book.cells[2]):
        (output,) = cell.outputs
        assert output.output_type == "execute_result"
        assert set(output.data) == {"image/png", "text/plain"}
        assert output.data["text/plain"] == "<Figure size 700x120 with 1 Axes>"
    assert book.cells[3].outputs[0].data["text/plain"] == "0"


@pytest.mark.parametrize(("ps", "workers"), [(1, 1), (1, 2), (2, 4), (1, 6)])
def test_cluster_diagram_names_every_task_and_joins_every_pair(ps, workers):
    figure = diagrams.cluster_diagram(tasks(ps, workers))
    found = texts(figure)
    for task in tasks(ps, workers):
        assert f"{task.job}:{task.index}" in found
        assert any(task.address in text.replace(":\n", ":") and task.device in text for text in found)
    assert {"pull parameters", "push gradients"} <= set(found)
    arrows = [text for text in figure.axes[0].texts if getattr(text, "arrow_patch", None)]
    assert len(arrows) == 2 * ps * workers
    ends = [tuple(np.round(point, 6)) for arrow in arrows for point in (arrow.xy, arrow.xyann)]
    assert len(set(ends)) == len(ends), "two arrows meet"
    down = sum(arrow.xy[1] < arrow.xyann[1] for arrow in arrows)
    assert down == ps * workers
    colours = [to_hex(box.get_facecolor(), keep_alpha=False) for box in figure.findobj(FancyBboxPatch)]
    assert (colours.count(PS.lower()), colours.count(WORKER.lower())) == (ps, workers)


def test_cluster_diagram_of_workers_alone_has_no_arrows():
    figure = diagrams.cluster_diagram(tasks(0, 2))
    assert "pull parameters" not in texts(figure)
    assert not [text for text in figure.axes[0].texts if getattr(text, "arrow_patch", None)]


def test_cluster_diagram_needs_tasks_it_knows():
    with pytest.raises(ValueError, match="got none"):
        diagrams.cluster_diagram([])
    with pytest.raises(ValueError, match="evaluator"):
        diagrams.cluster_diagram([SimpleNamespace(job="evaluator", index=0, address="a:1", device="core 0")])


def test_placement_lists_variables_first_by_device():
    figure = diagrams.placement(
        [
            ("x", "Placeholder", "/job:worker/task:1/device:GPU:0"),
            ("hid_w/read", "Identity", "/job:ps/replica:0/task:0/device:CPU:0"),
            ("hid_w", "VariableV2", "/job:ps/task:0/cpu:0"),
            ("loose", "NoOp", ""),
        ]
    )
    found = texts(figure)
    assert found.index("ps:0 cpu:0") < found.index("worker:1 gpu:0") < found.index("no device asked for")
    assert found.index("hid_w") < found.index("hid_w/read")
    assert {"x", "Placeholder", "VariableV2", "loose"} <= set(found)


def test_placement_prefers_where_an_op_ran():
    requested, actual = "/job:worker/task:0", "/job:worker/replica:0/task:0/device:CPU:0"
    found = texts(diagrams.placement([("a", "Add", requested, actual), ("b", "Add", requested, None)]))
    assert {"worker:0 cpu:0", "worker:0"} <= set(found)


def test_placement_of_a_graph_counts_what_it_does_not_list():
    device = "/job:ps/task:0/cpu:0"
    graph = SimpleNamespace(
        get_operations=lambda: [SimpleNamespace(name=f"op_{i}", type="Const", device=device) for i in range(20)]
    )
    found = texts(diagrams.placement(graph, limit=5))
    assert "op_4" in found and "op_5" not in found
    assert "and 15 more" in found


def test_placement_keeps_the_end_of_a_long_name():
    found = texts(diagrams.placement([(f"{'gradients/' * 20}MatMul_1", "MatMul", "/job:ps/task:0")] * 1))
    assert any(text.startswith("…") and text.endswith("MatMul_1") for text in found)


def test_placement_needs_an_op():
    with pytest.raises(ValueError, match="at least one op"):
        diagrams.placement([])


def test_loss_curves_hold_the_smoothed_loss():
    frames = {"async": run(), "sync": run(sync=True, seconds=3.0)}
    figure = plots.loss_curves(frames, window=10)
    for axes, against in zip(figure.axes, ("global_step_after", "end"), strict=True):
        lines = {line.get_label(): line for line in axes.lines if line.get_label() in frames}
        for label, frame in frames.items():
            curve = loss_curve(frame, 10, against=against)
            np.testing.assert_allclose(lines[label].get_xydata(), curve[[against, "smooth"]])
        assert len({line.get_linestyle() for line in lines.values()}) == 2
        assert [text.get_text() for text in axes.texts].count("async") == 1
    assert {"global step", "seconds", "loss of the batch, mean of 10 steps"} <= set(texts(figure))


def test_labels_of_lines_that_end_together_do_not_overlap():
    figure = plots.loss_curves({f"run {i}": run() for i in range(4)})
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.y0)
        middles = np.diff([(box.y0 + box.y1) / 2 for box in boxes])
        assert len(boxes) == 4
        assert (middles > 10).all()


def test_timeline_draws_a_bar_a_step():
    frame = run(workers=3, steps=5)
    axes = plots.timeline(frame).axes[0]
    bars = [collection.get_paths() for collection in axes.collections]
    assert [len(paths) for paths in bars] == [5, 5, 5]
    first = frame[(frame["worker"] == 0) & (frame["local_step"] == 1)].iloc[0]
    assert bars[0][0].vertices[:, 0].min() == pytest.approx(first.start)
    assert bars[0][0].vertices[:, 0].max() == pytest.approx(first.end)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["worker:0", "worker:1", "worker:2"]
    assert [text.get_text() for text in axes.texts] == ["1", "2", "3", "4", "5"] * 3


def test_timeline_pair_shares_seconds_and_marks_rounds():
    figure = plots.timeline({"async": run(seconds=1.0), "sync": run(seconds=2.0, sync=True)}, window=(0.5, 0.8))
    above, below = figure.axes
    assert above.get_xlim() == below.get_xlim() == (0.5, 0.8)
    assert above.get_title(loc="left") == "async"
    assert below.get_title(loc="left") == "sync (dashed: a round has ended)"
    rounds = below.collections[-1].get_segments()
    assert len(rounds) == 15
    assert rounds[0][0][0] == pytest.approx(0.516)


def test_timeline_needs_steps_in_its_window():
    with pytest.raises(ValueError, match="no step of slow is between 5 and 6 s"):
        plots.timeline({"slow": run()}, window=(5, 6))
    with pytest.raises(ValueError, match="first < last; got"):
        plots.timeline(run(), window=(2, 1))


def test_staleness_histogram_shows_shares_and_mean():
    figure = plots.staleness_histogram({"1 worker": run(workers=1), "3 workers": run(workers=3)})
    one, three = figure.axes
    assert one.patches[0].get_height() == pytest.approx(100)
    heights = [bar.get_height() for bar in three.patches]
    assert sum(heights) == pytest.approx(100)
    assert one.get_title(loc="left") == "1 worker: mean 0.00, largest 0"
    assert three.get_title(loc="left").startswith("3 workers: mean 1.99, largest 2")


def test_staleness_histogram_gathers_a_long_tail():
    frame = run(workers=2, steps=500)
    frame.loc[5, "staleness"] = 60
    axes = plots.staleness_histogram(frame).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", ">1"]
    assert axes.patches[-1].get_height() == pytest.approx(0.1)
    assert axes.get_title(loc="left").endswith("largest 60")


def test_digits_frames_the_wrong_ones_and_says_what_they_are():
    figure = plots.digits(IMAGES, LABELS, PREDICTIONS)
    assert [axes.get_title(loc="center") for axes in figure.axes] == ["7", "2", "1", "6, is 0", "4"]
    framed = [axes.spines["left"].get_visible() for axes in figure.axes]
    assert framed == [False, False, False, True, False]
    assert to_hex(figure.axes[3].spines["left"].get_edgecolor()) == FAILURE.lower()
    np.testing.assert_allclose(figure.axes[1].images[0].get_array(), IMAGES[1].reshape(28, 28))


def test_digits_fill_rows_and_take_square_images():
    figure = plots.digits(IMAGES.reshape(5, 28, 28), LABELS, PREDICTIONS, columns=3)
    assert len(figure.axes) == 6
    assert [bool(axes.images) for axes in figure.axes] == [True] * 5 + [False]


def test_confusion_matrix_counts():
    labels, predictions = [3, 3, 3, 5, 9], [3, 3, 8, 5, 4]
    counts = plots.confusion_matrix(labels, predictions).axes[0].images[0].get_array().filled(0)
    expected = np.zeros((10, 10))
    for label, predicted in zip(labels, predictions, strict=True):
        expected[label, predicted] += 1
    np.testing.assert_array_equal(counts, expected)
    found = plots.confusion_matrix(labels, predictions).axes[0].texts
    assert {(text.get_position(), text.get_text()) for text in found} == {
        ((3, 3), "2"),
        ((8, 3), "1"),
        ((5, 5), "1"),
        ((4, 9), "1"),
    }


@pytest.mark.parametrize("draw", [plots.confusion_matrix, lambda *pair: plots.digits(IMAGES[:2], *pair)])
@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([1, 2], [1], r"got \[2\] and \[1\]"),
        ([], [], "n >= 1"),
        (np.eye(10), np.eye(10), r"got \[10, 10\]"),
        ([1, 2], [1, 10], r"predictions must be digits 0 to 9; got \[10\]"),
        ([-1, 2], [1, 1], r"labels must be digits 0 to 9; got \[-1\]"),
    ],
)
def test_digits_that_are_none(draw, labels, predictions, message):
    with pytest.raises(ValueError, match=message):
        draw(labels, predictions)


def test_images_of_another_shape():
    with pytest.raises(ValueError, match=r"\[5, 784\] or \[5, 28, 28\]; got \[5, 100\]"):
        plots.digits(IMAGES[:, :100], LABELS, PREDICTIONS)


def test_bars_show_mean_deviation_and_every_value():
    groups = {"async": [150.0, 160.0, 170.0], "sync": [80.0]}
    axes = plots.bars_with_spread(groups, xlabel="updates a second").axes[0]
    assert [bar.get_width() for bar in axes.patches] == [160.0, 80.0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["async\n160 ± 10", "sync\n80"]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in dots] == list(groups.values())
    assert axes.get_xlabel().startswith("updates a second (bar: mean")
    assert to_hex(dots[0].get_markeredgecolor()) == INK


@pytest.mark.parametrize("groups", [{}, {"a": [1.0], "b": []}])
def test_bars_need_values(groups):
    with pytest.raises(ValueError, match="each group needs at least one value"):
        plots.bars_with_spread(groups, xlabel="seconds")


@pytest.mark.parametrize("draw", [plots.loss_curves, plots.timeline, plots.staleness_histogram])
def test_frames_that_cannot_be_drawn(draw):
    with pytest.raises(ValueError, match="expected at least one frame"):
        draw({})
    with pytest.raises(ValueError, match="no column"):
        draw(run()[["worker"]])


@pytest.mark.parametrize("draw", [plots.loss_curves, plots.timeline, plots.staleness_histogram])
def test_a_frame_without_rows_gives_axes_with_labels_and_no_curve(draw):
    """Of a training that was complete before it began; beside another run's, that one is drawn as ever."""
    empty = to_frame([])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure, both = draw(empty), draw({"before": run(), "after": empty})
        labels = set(texts(figure))
        assert figure._repr_mimebundle_()[0]["image/png"].startswith("iVBOR")
        both.draw_without_rendering()
    assert any(word in " ".join(labels) for word in ("seconds", "staleness"))
    assert not any(axes.lines or axes.patches or axes.collections for axes in figure.axes)
    drawn = [bool(axes.lines or axes.patches or axes.collections) for axes in both.axes]
    assert drawn == ([True, True] if draw is plots.loss_curves else [True, False])


def test_a_worker_that_made_no_step_has_no_row():
    frame = run()
    assert "worker:1" not in texts(plots.timeline(frame[frame["worker"] == 0]))


def test_synchronous_runs_have_no_staleness_to_draw():
    with pytest.raises(ValueError, match="in synchronous training the records do not tell it"):
        plots.staleness_histogram({"sync": run(sync=True)})
