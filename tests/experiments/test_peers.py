"""The benchmark of other runtimes: its figures from made-up records, each peer once in small, and no process left."""

import importlib.util
import json
import os
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest

from book.experiments import peers
from book.experiments.peer_processes import run_tasks
from book.experiments.peer_tasks import Network, Record
from book.experiments.report import accuracy_of
from book.experiments.throughput import DESIGNS
from mnistdist import read_data_sets
from mnistdist.cluster.network import private_network_available
from tests.helpers import alive, wait_until

ROOT = Path(__file__).resolve().parents[2]
MIRRORED = "TF2 MultiWorkerMirroredStrategy (rounds)"


# ------------------------------------------------------------------------------------------------- made-up figures


def row(design, repeat, rate, seconds=None, accuracy=0.97):
    measured = {"rate": rate, "seconds": seconds, "accuracy": accuracy, "steps": 1000}
    return measured | {"design": design, "repeat": repeat, "batches": peers.batches_of(design, rate), "took": 1.0}


def test_a_round_is_two_batches_and_an_update_is_one():
    assert peers.batches_of("listing, async", 100) == 100
    assert peers.batches_of("TF2 ParameterServerStrategy", 100) == 100
    assert peers.batches_of("ours, sync (rounds)", 100) == 200
    assert peers.batches_of(peers.DDP, 100) == 200
    synchronous = {name for name in peers.PEERS if peers.batches_of(name, 1) == 2}
    assert synchronous == {name for name, (task, *_) in peers.PEERS.items() if task != "parameter_server"}
    assert set(peers.OURS) <= set(DESIGNS)


def test_the_table_compares_batches_with_the_listing_of_the_same_repeat():
    rows = [row("listing, async", 0, 100), row("listing, async", 1, 200), row("listing, async", 2, 400)]
    rows += [row(MIRRORED, repeat, rate, s) for repeat, rate, s in ((0, 100, 4.0), (1, 220, None), (2, 420, 6.0))]
    rows += [row("TF2 ParameterServerStrategy", repeat, rate) for repeat, rate in ((0, 100), (1, 250), (2, 600))]
    rows.append({"design": peers.DDP, "left_out": "ModuleNotFoundError: No module named 'torch'"})
    head, listing, mirrored, server, left_out = (" ".join(line.split()) for line in peers.summary(rows).splitlines())
    assert head == "a second batches ratio (spread) s to 97% accuracy"
    assert listing == "listing, async 200 200 1.00 (1.00 to 1.00) not reached 0.9700"
    assert mirrored == f"{MIRRORED} 220 440 2.10 (2.00 to 2.20) 5.0 (2 of 3) 0.9700"
    assert server == "TF2 ParameterServerStrategy 250 250 1.25 (1.00 to 1.50) not reached 0.9700 noisy"
    assert left_out == "PyTorch DDP, gloo (rounds) is left out: ModuleNotFoundError: No module named 'torch'"


def test_the_clock_of_a_record_stands_still_while_parameters_are_noted(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("book.experiments.peer_tasks.time.monotonic", lambda: now[0])

    def parameters():
        now[0] += 100
        return len(record.made)

    record = Record(steps=26, every=10)
    for made in (8, 16, 24, 32):  # eight at a time: the tens are passed over
        now[0] += 1
        record.mark(made, parameters)
    assert record.made == [8, 16, 24, 32]
    assert record.ends == [1, 2, 3, 4]
    assert record.notes == [(16, 2, 2), (24, 3, 3), (32, 4, 4)]


def test_a_score_leaves_warm_up_out_and_wants_the_goal_twice_in_a_row(monkeypatch):
    monkeypatch.setattr(peers, "accuracy_of", lambda parameters, validation: parameters)
    notes = [(100, 11, 0.98), (200, 16, 0.96), (300, 18, 0.97), (400, 20, 0.975), (500, 22, 0.96)]
    record = {"made": [1, 100, 200, 300, 400, 500], "ends": [10, 11, 16, 18, 20, 22], "notes": notes}
    scored = peers.score(record, None, warm_up=150)
    assert scored == {"rate": 300 / 6, "seconds": 8, "accuracy": 0.96, "steps": 500}
    assert peers.score(record | {"notes": notes[:3]}, None)["seconds"] is None


def test_what_cannot_be_imported_is_left_out_in_table_and_json(monkeypatch, tmp_path, capsys):
    class FakeCluster:
        def __init__(self, **options):
            assert options["devices"] == "cpu"

        __enter__ = restart = lambda self: self

        def __exit__(self, *_):
            pass

    def measured(*_, **__):
        return {"rate": 50.0, "seconds": 1.0, "accuracy": 0.975, "steps": 1000}

    monkeypatch.setattr(peers, "Cluster", FakeCluster)
    monkeypatch.setattr(peers, "measure", measured)
    monkeypatch.setattr(peers, "measure_peer", measured)
    monkeypatch.setattr(peers, "why_not_torch", lambda: "no torch")
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    try:
        assert peers.main(["--repeats", "2", "--json", str(tmp_path / "figures.json")]) == 0
    finally:
        if cores:
            os.sched_setaffinity(0, cores)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "PyTorch DDP, gloo (rounds) is left out: no torch"
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written["environment"]["tensorflow"]
    designs = [entry["design"] for entry in written["rows"]]
    names = [*peers.OURS, *(name for name in peers.PEERS if name != peers.DDP)]
    assert designs == [*names, *names, peers.DDP]
    assert all(entry["batches"] == (100 if "rounds" in entry["design"] else 50) for entry in written["rows"][:-1])


def test_why_torch_is_missing_is_said_in_one_line(monkeypatch, tmp_path):
    (tmp_path / "torch.py").write_text("import os\nraise ImportError('with colours: ' + os.environ['PYTHON_COLORS'])\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHON_COLORS", "1")
    assert peers.why_not_torch() == "ImportError: with colours: 0"
    (tmp_path / "torch.py").write_text("")
    assert peers.why_not_torch() is None


# ------------------------------------------------------------------------------------------------- the same training


def test_the_tf2_network_takes_the_steps_of_the_listings_optimizer():
    import tensorflow.compat.v1 as tf

    from mnistdist.model import build_model

    network = Network(seed=3)
    start = network.numpy()
    assert 1.5 / 28 < abs(start["hid_w"]).max() <= 2 / 28  # truncated at two standard deviations
    assert 1.5 / 10 < abs(start["sm_w"]).max() <= 2 / 10
    data = read_data_sets(one_hot=True, seed=0).train
    batches = [data.next_batch(100) for _ in range(5)]
    for batch in batches:
        network.apply(network.gradients(*batch))
    with tf.Graph().as_default(), tf.Session() as session:
        model = build_model()
        step = tf.train.AdamOptimizer(0.01).minimize(model.loss)
        session.run(tf.global_variables_initializer())
        variables = {variable.op.name: variable for variable in tf.trainable_variables()}
        for name, value in start.items():
            variables[name].load(value, session)
        for images, labels in batches:
            session.run(step, {model.x: images, model.y_: labels})
        expected = session.run(variables)
    for name, value in network.numpy().items():
        assert abs(value - start[name]).max() > 0.01
        np.testing.assert_allclose(value, expected[name], atol=1e-4, err_msg=name)


@pytest.fixture
def marked(monkeypatch):
    """``marked()``: the processes that this test has started, and those that they have, still running."""
    if not private_network_available():
        pytest.skip("this system allows no network namespaces, and servers would be open to all")
    mark = f"{os.getpid()}-{id(monkeypatch)}"
    monkeypatch.setenv("MNISTDIST_TEST_MARK", mark)

    def has_it(process):
        return process.environ().get("MNISTDIST_TEST_MARK") == mark

    return lambda: alive(psutil.process_iter(), has_it)


@pytest.mark.parametrize("name", [name for name, (*_, at_once) in peers.PEERS.items() if at_once == 1])
def test_every_peer_learns_and_leaves_no_process(name, marked):
    peer, ps, coordinator, at_once = peers.PEERS[name]
    if peer == "distributed_data_parallel" and importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    settings = {"steps": 60, "steps_per_call": at_once, "every": 30, "seed": 1}
    records = run_tasks(peer, ps=ps, coordinator=coordinator, private=True, timeout=100, **settings)
    assert list(records) == ([("coordinator", 0)] if coordinator else [("worker", 0), ("worker", 1)])
    validation = read_data_sets(one_hot=True).validation
    for record in records.values():
        assert [made for made, _, _ in record["notes"]] == [30, 60]
        assert record["made"][-1] == 60
        assert record["ends"] == sorted(record["ends"])
        scored = peers.score(record, validation, warm_up=20)
        assert 0.8 < scored["accuracy"] < 1
        assert scored["rate"] > 1
    if not coordinator:  # synchronous: after every round both have the same parameters, from different batches
        (_, _, one), (_, _, other) = (record["notes"][-1] for record in records.values())
        assert all(np.array_equal(one[name], other[name]) for name in one)
        assert accuracy_of(one, validation) == accuracy_of(other, validation)
    wait_until(lambda: not marked(), 10, "the end of every process")


# --------------------------------------------------------------------------------------------------- how runs end


def settings(**more):
    return {"ps": 0, "coordinator": False, "private": True, "timeout": 60} | more


def test_a_task_that_fails_is_named_with_its_last_words_and_ends_the_rest(marked):
    with pytest.raises(RuntimeError, match=r"worker:\d ended with exit code 1 before it was done") as caught:
        run_tasks("no_such_peer", **settings())
    assert "KeyError: 'no_such_peer'" in str(caught.value)
    wait_until(lambda: not marked(), 10, "the end of every process")


def test_a_run_that_takes_too_long_ends_with_every_process(marked):
    with pytest.raises(TimeoutError, match="multi_worker_mirrored: not done within 2 s"):
        run_tasks("multi_worker_mirrored", **settings(timeout=2, steps=10**9, every=30, steps_per_call=1, seed=1))
    wait_until(lambda: not marked(), 10, "the end of every process")


@pytest.mark.parametrize(
    ("number", "threads"),
    [(signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGKILL, 20)],  # with 20 TensorFlow's server is up
)
def test_tasks_end_when_their_caller_is_interrupted_or_killed(number, threads, marked, run_python):
    caller = run_python(
        f"""
        import signal, sys
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent in the background has it ignored
        sys.path.insert(0, {str(ROOT)!r})
        from book.experiments.peer_processes import run_tasks
        run_tasks("multi_worker_mirrored", steps=10**9, every=30, steps_per_call=1, seed=1, **{settings()!r})
        """
    )

    def tasks():
        return alive(marked(), lambda p: "book.experiments.peer_tasks" in p.cmdline() and p.num_threads() >= threads)

    wait_until(lambda: len(tasks()) == 2, 60, "both workers")
    assert len(marked()) == 4  # with the caller and the keeper
    caller.send_signal(number)
    caller.communicate()
    assert caller.returncode != 0
    wait_until(lambda: not marked(), 10, "the end of every process")
