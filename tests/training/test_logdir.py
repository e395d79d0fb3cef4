"""What may be done with a training's folder of checkpoints, and what is refused: each row of the page says so too."""

import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from mnistdist import Cluster, DataSet, Datasets, Graph, TaskFailed, train
from mnistdist.cluster.network import private_network_available
from mnistdist.training import client as training
from mnistdist.training import logdir
from mnistdist.training.logdir import LOCK, held, prepare
from tests.book.book_rules import ROOT
from tests.training import test_checkpoints
from tests.training.test_checkpoints import contents, flip, names


def first_step(run):
    return run.steps.global_step_before.min()


def steps_in(folder):
    return sorted(int(name.split("-")[1].removesuffix(".index")) for name in names(folder) if name.endswith(".index"))


def test_a_training_goes_on_from_its_checkpoint(cluster, tmp_path):
    first = train(cluster, steps=60, seed=1, logdir=tmp_path)
    second = train(cluster, steps=100, seed=1, logdir=tmp_path)
    assert first_step(second) >= 60
    assert second.global_step >= 100
    assert second.steps["loss"].head(5).mean() < first.steps["loss"].head(5).mean()
    assert (tmp_path / LOCK).read_text() == ""


def test_a_name_that_is_a_pattern_is_a_name(cluster, tmp_path):
    here, neighbour = tmp_path / "run[1]", tmp_path / "run1"
    train(cluster, steps=40, seed=1, logdir=neighbour)
    before = contents(neighbour)
    for steps in (150, 300):
        run = train(cluster, steps=steps, seed=1, logdir=here, save_steps=50)
        assert first_step(run) >= steps - 150
        assert len(steps_in(here)) == 3
        assert steps_in(here)[-1] >= steps  # the others may be finishing a step when the chief writes the last one
    assert contents(neighbour) == before


def test_a_copy_goes_on_by_itself_and_so_does_a_renamed_folder(cluster, tmp_path):
    a, b, c = (tmp_path / name for name in "abc")
    train(cluster, steps=100, seed=1, logdir=a, save_steps=30)
    shutil.copytree(a, b)
    before = contents(a)
    assert first_step(train(cluster, steps=250, seed=1, logdir=b, save_steps=30)) >= 100
    assert contents(a) == before
    a.rename(c)
    assert first_step(train(cluster, steps=130, seed=2, batch_size=50, sync=True, logdir=c)) >= 100
    assert not a.exists()


def test_other_workers_ps_batches_seeds_modes_and_designs_go_on(cluster, alone, tmp_path):
    """Only what the variables are has to stay."""
    here = {"logdir": tmp_path}
    train(cluster, steps=60, seed=1, design="fast", **here)
    assert first_step(train(cluster, steps=80, design="listing", **here)) >= 60
    assert first_step(train(cluster, steps=100, design="fast", batch_size=7, **here)) >= 80
    with Cluster(ps=2, workers=3) as other:
        assert first_step(train(other, steps=120, seed=2, design="fast", **here)) >= 100
        assert first_step(train(other, steps=140, seed=2, sync=True, design="listing", **here)) >= 120
        assert first_step(train(other, steps=160, sync=True, design="fast", **here)) >= 140
    assert first_step(train(alone, steps=200, local_steps=2, **here)) >= 160
    assert first_step(train(alone, steps=220, **here)) >= 200


@pytest.mark.parametrize("design", ["fast", "listing"])
def test_another_optimizer_goes_on_if_its_variables_are_there(alone, tmp_path, design):
    here, plain = {"logdir": tmp_path, "design": design}, {"optimizer": tf.train.GradientDescentOptimizer}
    train(alone, steps=60, **here)
    assert first_step(train(alone, steps=80, learning_rate=1e-4, **plain, **here)) == 60
    before = contents(tmp_path)
    words = r"can't restore .*/model\.ckpt-80: it is of another model or optimizer \(it has no (beta1_power|hid_w/Adam)"
    with pytest.raises(TaskFailed, match=words):
        train(alone, steps=140, **here)
    assert contents(tmp_path) == before


def ordered(*names):
    """The text's network, its four variables made in another order."""

    def build():
        shapes = {"hid_w": [784, 100], "hid_b": [100], "sm_w": [100, 10], "sm_b": [10]}
        v = {name: tf.get_variable(name, shapes[name], initializer=tf.glorot_uniform_initializer() if "w" in name else
                                   tf.zeros_initializer()) for name in names}  # fmt: skip
        x, y_ = tf.placeholder(tf.float32, [None, 784]), tf.placeholder(tf.float32, [None, 10])
        y = tf.matmul(tf.nn.relu(tf.matmul(x, v["hid_w"]) + v["hid_b"]), v["sm_w"]) + v["sm_b"]
        loss = tf.reduce_sum(tf.nn.softmax_cross_entropy_with_logits_v2(labels=y_, logits=y))
        right = tf.equal(tf.argmax(y, 1), tf.argmax(y_, 1))
        return Graph(x, y_, tf.nn.softmax(y), loss, tf.reduce_mean(tf.cast(right, tf.float32)))

    return build


TEXTS = ordered("hid_w", "hid_b", "sm_w", "sm_b")
BACKWARDS = ordered("sm_b", "sm_w", "hid_b", "hid_w")


@pytest.mark.parametrize("design", ["fast", "listing"])
def test_the_same_variables_in_another_order_are_never_mixed_up(cluster, tmp_path, design):
    here = {"design": design, "seed": 1, "logdir": tmp_path}
    good = train(cluster, steps=300, build_graph=TEXTS, **here)
    again = train(cluster, steps=330, build_graph=BACKWARDS, **here)
    assert first_step(again) >= 300
    assert again.test.accuracy > good.test.accuracy - 0.05
    assert first_step(train(cluster, steps=360, **here)) >= 330  # the package's own network


def test_a_damaged_checkpoint_is_passed_over_and_told(alone, tmp_path, capfd):
    train(alone, steps=100, seed=1, logdir=tmp_path, save_steps=40)
    *_, whole, last = steps_in(tmp_path)
    flip(tmp_path / f"model.ckpt-{last}.data-00000-of-00001")
    (tmp_path / "checkpoint").unlink()
    words = f"{tmp_path}/model.ckpt-{last} is damaged: .*; training goes on from {tmp_path}/model.ckpt-{whole}"
    run = train(alone, steps=150, seed=1, logdir=tmp_path)
    assert re.search(words, capfd.readouterr().err)
    assert whole <= first_step(run) < last
    assert first_step(train(alone, steps=160, seed=1, logdir=tmp_path)) >= 150
    assert "damaged" not in capfd.readouterr().err


def test_the_newest_is_what_holds_the_highest_step_whatever_its_name_says(alone, tmp_path):
    """A checkpoint that was copied, or was counted by another program, may have any number in its name."""
    train(alone, steps=60, seed=1, logdir=tmp_path, save_steps=20)
    for number in (100, 2000, 3000):
        for part in ("index", "data-00000-of-00001"):
            shutil.copy(tmp_path / f"model.ckpt-60.{part}", tmp_path / f"model.ckpt-{number}.{part}")
    assert first_step(train(alone, steps=100, seed=1, logdir=tmp_path, save_steps=20)) == 60
    assert 100 in steps_in(tmp_path) and 3000 not in steps_in(tmp_path)
    assert first_step(train(alone, steps=120, seed=1, logdir=tmp_path, save_steps=20)) == 100


def test_files_and_folders_of_the_readers_own_are_left_alone(alone, tmp_path):
    own = ["checkpoint.tmp_notes.txt", "checkpoint.tmpl", "model.ckpt-best.tempstate1", "model.ckpt.tempstate"]
    for name in own:
        (tmp_path / name).write_text("mine")
    (tmp_path / "checkpoint").mkdir()  # by that name, a list is written for other tools, which has to do without
    assert train(alone, steps=60, logdir=tmp_path, save_steps=20).global_step == 60
    assert set(own) | {"checkpoint", "model.ckpt-60.index"} <= set(names(tmp_path))
    assert "checkpoint.tmp" not in names(tmp_path)


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    assert refusal(tmp_path / "file") == f"logdir: no checkpoints can be kept in {tmp_path}/file: it is not a folder"


def test_where_no_checkpoint_is_whole_the_training_is_refused(cluster, tmp_path):
    (tmp_path / "model.ckpt-200.index").write_bytes(b"")
    with pytest.raises(
        TaskFailed, match=rf"{tmp_path}/model\.ckpt-200 is damaged: its \.index .*there is no whole"
    ) as caught:
        train(cluster, steps=10, logdir=tmp_path)
    assert caught.value.log == () and "mend this before you train again" in caught.value.hint
    assert names(tmp_path) == ["model.ckpt-200.index", LOCK]


# ------------------------------------------------------------------------------- one training at a time


def refusal(folder):
    with pytest.raises(OSError) as caught:
        prepare(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_is_held_by_one_training_and_the_second_names_its_process(tmp_path):
    inside = f"process {os.getpid()} on {socket.gethostname()}"
    (tmp_path / "link").symlink_to(tmp_path)
    with held(tmp_path):
        for path in (tmp_path, tmp_path / "link"):
            assert refusal(path) == (
                f"{path} is in use by another training ({inside}): wait for its end, or take another folder"
            )
        prepare(tmp_path / "inner")
    assert (tmp_path / LOCK).read_text() == ""
    prepare(tmp_path)
    with pytest.raises(ZeroDivisionError), held(tmp_path):
        raise ZeroDivisionError
    prepare(tmp_path)


HOLD = "import sys, time; from mnistdist.training.logdir import held\n"
HOLD += "with held(sys.argv[1]): print(1, flush=True); time.sleep(60)"


def test_a_process_that_is_killed_lets_go_of_the_folder_and_its_file_is_no_obstacle(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        process.stdout.read(1)
        assert f"process {process.pid} on " in refusal(tmp_path)
    finally:
        process.kill()
        with process:  # a training that is started again at once
            prepare(tmp_path)
    (tmp_path / LOCK).write_text("process 1 on a machine that has gone")
    prepare(tmp_path)


def test_a_process_on_another_machine_is_named_as_it_has_named_itself(tmp_path):
    with open(tmp_path / LOCK, "w") as file:
        file.write("process 7 on elsewhere")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "(process 7 on elsewhere)" in refusal(tmp_path)


def test_a_lock_file_of_another_users_serves_as_well(tmp_path, monkeypatch):
    """In a folder that both may write to, only its owner may write to the file."""
    (tmp_path / LOCK).write_text("")
    real = os.open

    def as_another_user(path, flags, *more, **options):
        if str(path).endswith(LOCK) and flags & os.O_RDWR:
            raise PermissionError(13, "Permission denied", path)
        return real(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", as_another_user)
    with held(tmp_path):
        assert "is in use by another training (a process that is not known)" in refusal(tmp_path)
    prepare(tmp_path)


def test_a_lock_file_that_can_not_be_one_is_told_in_a_line(tmp_path):
    (tmp_path / LOCK).mkdir()
    assert refusal(tmp_path) == f"logdir: no checkpoints can be kept in {tmp_path}: Is a directory"


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    def none_here(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(logdir.fcntl, "flock", none_here)
    with held(tmp_path), held(tmp_path):
        pass


def test_a_second_training_is_refused_before_anything_starts(cluster, tmp_path):
    pids = [task.pid for task in cluster.tasks]
    train(cluster, steps=10, seed=1, logdir=tmp_path)
    before = contents(tmp_path)
    with held(tmp_path), pytest.raises(OSError, match=rf"is in use by another training \(process {os.getpid()} on"):
        train(cluster, steps=20, seed=1, logdir=tmp_path)
    assert [task.pid for task in cluster.tasks] == pids
    assert contents(tmp_path) == before


def test_the_chief_holds_the_folder_and_decides_a_race(cluster, tmp_path, monkeypatch):
    pid = next(task.pid for task in cluster.tasks if task.name == "worker:0")

    def on_step(record, folder=str(tmp_path)):
        from mnistdist.training.logdir import prepare

        if record.local_step == 2:
            try:
                prepare(folder)
            except OSError as error:
                with open(f"{folder}/said", "a") as file:
                    file.write(f"{error}\n")

    train(cluster, steps=60, logdir=tmp_path, on_step=on_step)
    assert (tmp_path / "said").read_text().count(f"(process {pid} on {socket.gethostname()})") >= 1
    assert (tmp_path / LOCK).read_text() == ""
    monkeypatch.setattr(training, "prepare", lambda folder: None)  # two that have both found it free
    with held(tmp_path), pytest.raises(TaskFailed, match="is in use by another training"):
        train(cluster, steps=80, logdir=tmp_path)
    assert first_step(train(cluster, steps=80, logdir=tmp_path)) >= 60


def test_a_chief_that_is_started_again_has_the_folder_at_once(cluster, tmp_path):
    def on_step(record, folder=str(tmp_path)):
        if record.worker == 0 and record.global_step_after > 50 and not os.path.exists(f"{folder}/killed"):
            open(f"{folder}/killed", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)

    run = train(cluster, steps=150, seed=1, logdir=tmp_path, restarts=1, on_step=on_step)
    assert run.global_step >= 150
    assert (tmp_path / "killed").exists()
    assert steps_in(tmp_path)[-1] >= 150


# ------------------------------------------------------------------------------- other batches in each part


def looking():
    """A model whose loss shows which batch it was: the sum of its pixels."""
    x, y_ = tf.placeholder(tf.float32, [None, 784]), tf.placeholder(tf.float32, [None, 10])
    weight = tf.get_variable("weight", [], initializer=tf.zeros_initializer())
    total = tf.reduce_sum(x) + 0 * weight
    return Graph(x, y_, tf.zeros_like(y_), total, tf.reduce_mean(y_))


def few():
    rng = np.random.default_rng(0)
    return DataSet(rng.integers(0, 256, (500, 784), np.uint8), np.eye(10, dtype=np.float32)[np.arange(500) % 10])


def test_each_part_of_a_training_draws_batches_of_its_own_and_the_first_as_ever(alone, tmp_path):
    part, batches = few(), []
    options = {"data": Datasets(part, None, None), "seed": 1, "build_graph": looking, "batch_size": 20}
    for folder, design, steps in (
        (None, "fast", 25),
        ("fast", "fast", 25),
        ("fast", "fast", 50),
        ("fast", "fast", 75),
        ("listing", "listing", 25),
        ("listing", "listing", 50),
    ):
        run = train(alone, steps=steps, logdir=folder and tmp_path / folder, design=design, **options)
        batches.append(run.steps.loss.round().tolist())
    assert [len(each) for each in batches] == [25] * 6
    plain, first, second, third, listing, further = batches
    own = DataSet(*part.stored, seed=[1, 0])
    np.testing.assert_allclose(plain, [own.next_batch(20)[0].sum() for _ in range(25)], atol=1)
    assert plain == first == listing  # seed, worker and global step decide, in both designs
    assert second == further
    for one, other in (first, second), (second, third), (first, third):
        assert sum(a == b for a, b in zip(one, other, strict=True)) <= 3  # by chance


def test_a_worker_that_is_started_again_draws_other_batches(alone, tmp_path):
    def on_step(record, folder=str(tmp_path)):
        with open(f"{folder}/batches", "a") as file:
            file.write(f"{record.local_step} {record.loss:.0f}\n")
        if record.local_step == 3 and not os.path.exists(f"{folder}/killed"):
            open(f"{folder}/killed", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)

    options = {"data": Datasets(few(), None, None), "seed": 1, "build_graph": looking, "batch_size": 20}
    train(alone, steps=20, restarts=1, on_step=on_step, design="listing", **options)
    lines = [line.split() for line in (tmp_path / "batches").read_text().splitlines()]
    before, after = lines[:3], lines[3:6]
    assert [step for step, _ in lines[:6]] == ["1", "2", "3"] * 2
    assert sum(a == b for a, b in zip(before, after, strict=True)) <= 1  # by chance


def test_a_data_set_of_the_readers_own_is_left_alone():
    from types import SimpleNamespace

    from mnistdist.training.worker import _choose_order

    session = SimpleNamespace(run=lambda *_: 60)
    _choose_order(session, SimpleNamespace(count_start=None), SimpleNamespace(next_batch=None), None)
    parts = [DataSet(np.zeros((50, 4), np.uint8), np.zeros(50, np.uint8), seed=1) for _ in range(2)]
    _choose_order(session, SimpleNamespace(count_start=None), parts[0], None)
    assert parts[0].next_rows(50).tolist() != parts[1].next_rows(50).tolist()


# ------------------------------------------------------------------------------- refused before anything starts


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("restarts", -1, ValueError),
        ("restarts", True, TypeError),
        ("save_steps", 0, ValueError),
        ("logdir", 3, TypeError),
        ("logdir", "", ValueError),
        ("logdir", "a\0b", ValueError),
    ],
)
def test_bad_arguments_are_named(cluster, name, value, error):
    with pytest.raises(error, match=f"{name}: expected"):
        train(cluster, steps=10, **{name: value})


def test_a_folder_that_can_not_be_made_is_named_before_anything_starts(cluster, tmp_path):
    (tmp_path / "file").write_text("")
    pids = [task.pid for task in cluster.tasks]
    for path in (tmp_path / "file", tmp_path / "file" / "log"):
        with pytest.raises(OSError, match=f"^logdir: no checkpoints can be kept in {path}: "):
            train(cluster, steps=10, logdir=path)
    assert [task.pid for task in cluster.tasks] == pids
    command = [sys.executable, "-m", "mnistdist.distributed", "--job_name=worker", "--task_index=0"]
    command += [f"--logdir={tmp_path}/file/log", f"--data_dir={tmp_path}/data"]
    for each in (command, [sys.executable, "-m", "mnistdist", "run", *command[5:]]):
        done = subprocess.run(each, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert f"--logdir: no checkpoints can be kept in {tmp_path}/file/log: Not a directory" in done.stderr
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""
        assert not (tmp_path / "data").exists()


# ------------------------------------------------------------------------------- the program


def launch(*flags):
    """Run `mnistdist run` with one worker: (exit status, what it said)."""
    command = [sys.executable, "-m", "mnistdist", "run", "--workers=1", "--save_steps=50", "--seed=1", *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    return done.returncode, done.stdout


@pytest.mark.skipif(not private_network_available(), reason="no network namespaces here: servers would be open to all")
def test_the_program_goes_on_in_a_folder_that_was_renamed_and_refuses_what_is_not_its_own(tmp_path):
    here, moved, data = tmp_path / "run[1]", tmp_path / "a*b\\c", f"--data_dir={tmp_path}/data"
    status, said = launch("--train_steps=200", f"--logdir={here}", data)
    assert status == 0, said
    assert len(steps_in(here)) == 3
    here.rename(moved)
    *_, whole, last = steps_in(moved)
    flip(moved / f"model.ckpt-{last}.data-00000-of-00001")
    status, said = launch("--train_steps=250", f"--logdir={moved}", data)
    assert status == 0, said
    assert f"{moved}/model.ckpt-{last} is damaged: its data can't be read" in said
    assert f"; training goes on from {moved}/model.ckpt-{whole}\n" in said
    assert f"Worker 0: restored {moved}/model.ckpt-{whole}\n" in said
    assert steps_in(moved)[-1] == 250
    before = contents(moved)
    status, said = launch("--train_steps=300", f"--logdir={moved}", data, "--hidden_units=50")
    assert status == 1
    (line,) = [line for line in said.splitlines() if "error: " in line]
    assert "can't restore" in line and ": it is of another model or optimizer (its hid_w " in line
    assert "its hid_w is float32 of shape (784, 100), here it is float32 of shape (784, 50)" in line
    with held(moved):
        status, said = launch("--train_steps=300", f"--logdir={moved}", data)
    assert (status, said.count("\n")) == (1, 1)
    assert re.search(rf"error: .*is in use by another training \(process {os.getpid()} on", said)
    assert contents(moved) == before


# ------------------------------------------------------------------------------- the page

HELD_BY = {
    "train again": "test_a_training_goes_on_from_its_checkpoint",
    "copy it": "test_a_copy_goes_on_by_itself_and_so_does_a_renamed_folder",
    "move or rename it": "test_a_copy_goes_on_by_itself_and_so_does_a_renamed_folder",
    "name it as you like": "test_a_name_that_is_a_pattern_is_a_name",
    "put it into another `logdir`": "test_a_folder_may_be_moved_copied_and_linked",
    "keep files of your own there": "test_files_of_others_count_for_nothing_and_stay",
    "put a checkpoint of your own `tf.train.Saver` there, named `model.ckpt-` and a number": (
        "test_a_checkpoint_of_the_readers_own_saver_is_restored_and_kept_as_long_as_others"
    ),
    "read it with a `tf.train.Saver` of your own": "test_a_saver_of_the_readers_own_graph_reads_the_checkpoint",
    "put a checkpoint of an earlier version there": (
        "test_an_earlier_versions_checkpoint_is_read_for_the_texts_network"
    ),
    "lose or damage the file `checkpoint`": "test_the_list_of_checkpoints_may_be_lost_cut_or_of_another_folder",
    "lose or damage the newest checkpoint": "test_a_damaged_checkpoint_is_passed_over_and_told",
    "damage all of them": "test_where_no_checkpoint_is_whole_the_training_is_refused",
    "other workers, `batch_size`, `seed` or `sync`": "test_other_workers_ps_batches_seeds_modes_and_designs_go_on",
    "the same `seed`": "test_each_part_of_a_training_draws_batches_of_its_own_and_the_first_as_ever",
    "another number of ps": "test_other_workers_ps_batches_seeds_modes_and_designs_go_on",
    "another `design`": "test_other_workers_ps_batches_seeds_modes_and_designs_go_on",
    "another model, or other `hidden_units`": (
        "test_the_program_goes_on_in_a_folder_that_was_renamed_and_refuses_what_is_not_its_own"
    ),
    "the same variables, made in another order": "test_the_same_variables_in_another_order_are_never_mixed_up",
    "another optimizer": "test_another_optimizer_goes_on_if_its_variables_are_there",
    "other `local_steps`": "test_other_workers_ps_batches_seeds_modes_and_designs_go_on",
    "a second training at the same time": "test_a_second_training_is_refused_before_anything_starts",
    "a folder that can't be written": "test_a_folder_that_can_not_be_made_is_named_before_anything_starts",
}


def test_each_row_of_the_page_is_held_by_a_test():
    page = (ROOT / "book" / "checkpoints.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("|")]
    assert [row for row in rows if not row.startswith(("with the ", "---"))] == list(HELD_BY)
    elsewhere = (ROOT / "tests" / "training" / "test_one_design.py").read_text(encoding="utf-8")
    for name in HELD_BY.values():
        assert name in globals() or hasattr(test_checkpoints, name) or f"def {name}(" in elsewhere
