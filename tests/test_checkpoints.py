"""Checkpoints: when they are written, that they are whole, and what is said when they can't be."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import tensorflow.compat.v1 as tf

from mnistdist import TaskFailed, train
from mnistdist.checkpoints import Checkpoints


def replica(size=4):
    """Something with a graph of one shared variable, as checkpoints need it, and that variable."""
    with tf.Graph().as_default() as graph:
        variable = tf.get_variable("shared", [size], use_resource=True)
        step = tf.constant(0)
    return SimpleNamespace(graph=graph, global_step=step), variable


def test_a_checkpoint_brings_the_values_back(tmp_path):
    made, variable = replica()
    checkpoints = Checkpoints(made, tmp_path / "new" / "folder", every=10)
    assert checkpoints.latest is None
    with tf.Session(graph=made.graph) as session:
        session.run(variable.initializer)
        value = session.run(variable)
        checkpoints.begin(session, 0)
        checkpoints.save(30)
        session.run(variable.initializer)
        assert (session.run(variable) != value).any()
        checkpoints.restore(session)
        assert (session.run(variable) == value).all()
    assert checkpoints.latest.endswith("model.ckpt-30")


def test_one_is_written_in_time_for_every_so_many_steps_and_the_last_few_are_kept(tmp_path):
    made, variable = replica()
    checkpoints = Checkpoints(made, tmp_path, every=100)
    written = []
    with tf.Session(graph=made.graph) as session:
        session.run(variable.initializer)
        checkpoints.begin(session, 1000)
        for step in range(1001, 1500):
            checkpoints.save_when_due(step)
            if checkpoints.latest and int(checkpoints.latest.rpartition("-")[2]) == step:
                written.append(step)
    assert len(written) >= 4
    assert all(b - a <= 100 for a, b in zip([1000, *written], written, strict=False))
    assert len(list(tmp_path.glob("*.index"))) == 3


def test_what_a_killed_chief_left_half_written_is_removed(tmp_path):
    leftover = tmp_path / "model.ckpt-7.data-00000-of-00001.tempstate123"
    leftover.write_bytes(b"half")
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    Checkpoints(replica()[0], tmp_path, every=10)
    assert not leftover.exists()
    assert other.exists()


FULL = """
import resource, signal, sys
from test_checkpoints import replica, Checkpoints, tf
made, variable = replica(100_000)
checkpoints = Checkpoints(made, sys.argv[1], every=10)
with tf.Session(graph=made.graph) as session:
    session.run(variable.initializer)
    checkpoints.begin(session, 0)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # writing more fails, as on a full disk
    try:
        checkpoints.save(30)
    except OSError as error:
        print(error)
"""


def test_a_checkpoint_that_can_not_be_written_is_an_error_and_leaves_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, cwd="tests", timeout=120
    )
    assert f"can't write the checkpoint of global step 30 to {tmp_path}: " in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_training_goes_on_from_its_checkpoint(cluster, tmp_path):
    first = train(cluster, steps=60, seed=1, logdir=tmp_path)
    second = train(cluster, steps=100, seed=1, logdir=tmp_path)
    assert second.steps["global_step_before"].min() >= 60
    assert second.global_step >= 100
    assert second.steps["loss"].head(5).mean() < first.steps["loss"].head(5).mean()


def test_a_checkpoint_of_another_model_is_named(cluster, tmp_path):
    train(cluster, steps=30, seed=1, logdir=tmp_path, design="listing")
    with pytest.raises(TaskFailed, match=r"can't restore .*model\.ckpt-\d+: it is of another model, optimizer, design"):
        train(cluster, steps=60, seed=1, logdir=tmp_path, design="fast")


def test_a_folder_that_can_not_be_made_is_named_before_anything_starts(tmp_path):
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "mnistdist.distributed", "--job_name=worker", "--task_index=0"]
    command += [f"--logdir={tmp_path}/file/log", f"--data_dir={tmp_path}/data"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"--logdir: no checkpoints can be kept in {tmp_path}/file/log" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"restarts": -1}, "restarts"),
        ({"restarts": True}, "restarts"),
        ({"save_steps": 0}, "save_steps"),
        ({"logdir": 3}, "logdir"),
    ],
)
def test_bad_arguments_are_named(cluster, options, message):
    with pytest.raises(ValueError, match=f"{message}: expected"):
        train(cluster, steps=10, **options)


def test_a_chief_that_comes_back_counts_from_the_last_checkpoint_and_keeps_no_more_than_before(tmp_path):
    made, variable = replica()
    with tf.Session(graph=made.graph) as session:
        session.run(variable.initializer)
        first = Checkpoints(made, tmp_path, every=100)
        first.begin(session, 0)
        for step in (100, 200, 300):
            first.save(step)
        again = Checkpoints(made, tmp_path, every=100)
        again.begin(session, 380)  # the live state has gone on meanwhile
        again.save_when_due(395)
        assert again.latest.endswith("model.ckpt-395")
    assert sorted(path.stem for path in tmp_path.glob("*.index")) == [f"model.ckpt-{n}" for n in (200, 300, 395)]


def test_a_checkpoint_that_is_there_is_not_written_again(tmp_path, monkeypatch):
    made, variable = replica()
    with tf.Session(graph=made.graph) as session:
        session.run(variable.initializer)
        checkpoints = Checkpoints(made, tmp_path, every=100)
        checkpoints.begin(session, 0)
        checkpoints.save(50)
        monkeypatch.setattr(checkpoints, "_write", lambda step: pytest.fail("a disk that is full now"))
        checkpoints.save(50)
    assert checkpoints.latest.endswith("model.ckpt-50")
