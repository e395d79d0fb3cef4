"""Checkpoints: when they are written, that they are whole, and what is said when they can't be."""

import contextlib
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from mnistdist.model import build_model
from mnistdist.training.checkpoints import Checkpoints
from tests.book.book_rules import ROOT

# Names that are patterns, addresses, options or home folders to somebody; each with a name that the pattern matches.
ODD = {"run[1]": "run1", "a*b": "axxb", "a?b": "axb", "a\\b": "ab", "[!x]": "y", "gs:": "gs", "~": "home", "-x": "x"}
ODD |= {"two\nlines": "two", "{a,b}": "a", "käse": "kase", os.fsdecode(b"\xff\xfe"): "ff", "model.ckpt-5.index": "m"}


def replica(size=4, value=None):
    """Something with a graph of one shared variable, as checkpoints need it, and that variable."""
    with tf.Graph().as_default() as graph:
        initial = None if value is None else tf.constant_initializer(value)
        variable = tf.get_variable("shared", [size], initializer=initial, use_resource=True)
        step = tf.get_variable("step", [], tf.int64, trainable=False, use_resource=True, collections=["own"])
        given = tf.placeholder(tf.int64, [])
        made = SimpleNamespace(graph=graph, global_step=step.read_value(), given=given, change=step.assign(given).op)
    return made, variable


@contextlib.contextmanager
def training(folder, every=10, value=0.0, **options):
    """Checkpoints in a folder, with a session in which the variable has this value."""
    made, variable = replica(value=value)
    checkpoints = Checkpoints(made, folder, every, **options)
    with tf.Session(graph=made.graph) as session:
        session.run(variable.initializer)
        checkpoints.set_step = lambda step: session.run(made.change, {made.given: step})
        checkpoints.value = lambda: session.run(variable).tolist()
        checkpoints.session = session
        checkpoints.set_step(0)
        checkpoints.begin(session, 0)
        yield checkpoints


def keep(folder, *steps):
    """Write a checkpoint of each global step, in which the variable's elements are that number."""
    for step in steps:
        with training(folder, value=step) as checkpoints:
            checkpoints.save(step)


def restored(folder):
    """The value that a training begins with in a folder, the path that was restored, and what was warned of."""
    warned = []
    with training(folder, value=-1, warn=warned.append) as checkpoints:
        path = checkpoints.restore(checkpoints.session)
        return checkpoints.value()[0], path, warned


def names(folder):
    return sorted(os.listdir(folder))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_checkpoint_brings_the_values_back(tmp_path):
    made, variable = replica()
    checkpoints = Checkpoints(made, tmp_path / "new" / "folder", every=10)
    assert checkpoints.latest is None
    with tf.Session(graph=made.graph) as session:
        session.run(variable.initializer)
        value = session.run(variable)
        assert checkpoints.restore(session) is None
        checkpoints.begin(session, 0)
        checkpoints.save(30)
        session.run(variable.initializer)
        assert (session.run(variable) != value).any()
        assert checkpoints.restore(session) == str(tmp_path / "new" / "folder" / "model.ckpt-30")
        assert (session.run(variable) == value).all()
    assert checkpoints.latest.endswith("model.ckpt-30")


def test_one_is_written_in_time_for_every_so_many_steps_and_the_last_few_are_kept(tmp_path):
    written = []
    with training(tmp_path, every=100) as checkpoints:
        checkpoints.begin(checkpoints.session, 1000)
        for step in range(1001, 1500):
            checkpoints.set_step(step)
            checkpoints.save_when_due(step)
            if checkpoints.latest and int(checkpoints.latest.rpartition("-")[2]) == step:
                written.append(step)
    assert len(written) >= 4
    assert all(b - a <= 100 for a, b in zip([1000, *written], written, strict=False))
    assert len(list(tmp_path.glob("*.index"))) == 3


@pytest.mark.parametrize("meanwhile", [0, 10, 60, 80])
def test_others_that_go_on_while_one_is_written_are_reckoned_with(tmp_path, meanwhile):
    """What could be lost before each checkpoint is complete; how long the first one takes, it can only guess."""
    losses, now, begun = [], 0, 0

    with training(tmp_path, every=200) as checkpoints:
        write = checkpoints._write

        def slow(step):
            nonlocal now, begun
            before, begun = begun, now
            now += meanwhile
            losses.append(now - before)
            checkpoints.set_step(now)
            write(step)

        checkpoints._write = slow
        while now < 3000:
            now += 16  # the chief looks after each of its runs
            checkpoints.set_step(now)
            checkpoints.save_when_due(now)
    first, *later = losses
    assert first <= 160 + 16 + meanwhile
    assert max(later) <= 200
    assert len(losses) <= 2 + 3000 / (180 - meanwhile)


def test_one_slow_write_does_not_make_the_next_ones_frequent_for_good(tmp_path):
    with training(tmp_path, every=200) as checkpoints:
        checkpoints.set_step(1180)  # others made 1000 while it was written
        checkpoints.save_when_due(180)
        for step in range(1190, 2200, 10):
            checkpoints.set_step(step)
            checkpoints.save_when_due(step)
    assert [name for name in names(tmp_path) if "index" in name] == [
        f"model.ckpt-{n}.index" for n in (1730, 1910, 2090)
    ]


def test_what_a_killed_chief_left_half_written_is_removed(tmp_path):
    keep(tmp_path, 5)
    before = contents(tmp_path)
    for half in (
        "model.ckpt-7.data-00000-of-00001.tempstate123",
        "model.ckpt-8.half.data-00000-of-00001.tempstate123",
        "model.ckpt-9.half.index",
        "model.ckpt-9.data-00000-of-00001",  # it has been renamed, the index has not
        "model.ckpt-5.half.index",
        "checkpoint.tmp",
    ):
        (tmp_path / half).write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    assert restored(tmp_path) == (5.0, str(tmp_path / "model.ckpt-5"), [])
    assert contents(tmp_path) == before | {"notes.txt": b"mine"}


FULL = """
import resource, signal, sys
from tests.training.test_checkpoints import replica, Checkpoints, tf
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
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert f"can't write the checkpoint of global step 30 to {tmp_path}: " in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


def vector_checkpoint(folder, sizes, layout=""):
    """What an earlier version wrote, on so many ps: all parameters, and slots, as a vector in parts."""
    with tf.Graph().as_default(), tf.Session() as session:
        rising, begin = np.arange(sum(sizes), dtype=np.float32), 0
        for index, size in enumerate(sizes):
            for kind, sign in (("", 1), ("/Adam", -1), ("/Adam_1", 2)):
                tf.get_variable(f"parameters_{index}{layout}{kind}", initializer=sign * rising[begin : begin + size])
            begin += size
        tf.get_variable("beta1_power", initializer=0.5)
        tf.get_variable("beta2_power", initializer=0.25)
        step = tf.get_variable("global_step", initializer=np.int64(7))
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, str(folder / "model.ckpt"), step)


@pytest.mark.parametrize("ps", [1, 12])
def test_an_earlier_versions_checkpoint_is_read_for_the_texts_network(tmp_path, ps):
    size = 784 * 100 + 100 + 1000 + 10
    vector_checkpoint(tmp_path, [size // ps + (index < size % ps) for index in range(ps)])
    with tf.Graph().as_default() as graph, tf.Session() as session:
        tf.train.get_or_create_global_step()
        tf.train.AdamOptimizer(0.01).minimize(build_model().loss)
        checkpoints = Checkpoints(SimpleNamespace(graph=graph), tmp_path, every=10)
        checkpoints.restore(session)
        values = session.run({variable.op.name: variable for variable in tf.global_variables()})
    assert values["global_step"] == 7
    assert values["beta1_power"] == 0.5
    whole = np.concatenate([values[name].ravel() for name in ("hid_w", "hid_b", "sm_w", "sm_b")])
    assert (whole == np.arange(size)).all()
    assert (values["sm_b/Adam"] == -values["sm_b"]).all()
    assert (values["hid_w/Adam_1"] == 2 * values["hid_w"]).all()


@pytest.mark.parametrize("layout", ["", "_0123abcd"])
def test_an_earlier_versions_checkpoint_of_another_model_is_refused_by_name(tmp_path, layout):
    vector_checkpoint(tmp_path, [100], layout)
    with tf.Graph().as_default() as graph, tf.Session() as session:
        tf.train.get_or_create_global_step()
        tf.get_variable("w", [100])
        checkpoints = Checkpoints(SimpleNamespace(graph=graph), tmp_path, every=10)
        words = r"can't restore .*model\.ckpt-7: it is of another model or optimizer \(it has no w; an earlier version "
        words += rf"wrote all parameters as one, parameters_0{layout}, without their names\): take another folder$"
        with pytest.raises(OSError, match=words):
            checkpoints.restore(session)


def test_a_chief_that_comes_back_counts_from_the_last_checkpoint_and_keeps_no_more_than_before(tmp_path):
    with training(tmp_path, every=100) as first:
        for step in (100, 200, 300):
            first.save(step)
    with training(tmp_path, every=100) as again:
        again.begin(again.session, 380)  # the live state has gone on meanwhile
        again.save_when_due(395)
        assert again.latest.endswith("model.ckpt-395")
    assert sorted(path.stem for path in tmp_path.glob("*.index")) == [f"model.ckpt-{n}" for n in (200, 300, 395)]


def test_a_checkpoint_that_is_there_is_not_written_again(tmp_path, monkeypatch):
    with training(tmp_path, every=100) as checkpoints:
        checkpoints.save(50)
        monkeypatch.setattr(checkpoints, "_write", lambda step: pytest.fail("a disk that is full now"))
        checkpoints.save(50)
    assert checkpoints.latest.endswith("model.ckpt-50")


# ------------------------------------------------------------------------------- where the folder is


@pytest.mark.parametrize(("name", "neighbour"), ODD.items(), ids=map(ascii, ODD))
def test_a_folder_of_any_name_is_itself_and_no_pattern(tmp_path, name, neighbour):
    here, there = tmp_path / name / "log", tmp_path / neighbour / "log"
    keep(there, 8, 9)
    before = contents(there)
    keep(here, 6, 7, 8, 9)
    assert restored(here) == (9.0, f"{here}/model.ckpt-9", [])
    kept = [f"model.ckpt-{n}.{part}" for n in (7, 8, 9) for part in ("data-00000-of-00001", "index")]
    assert names(here) == ["checkpoint", *kept]
    assert contents(there) == before


@pytest.mark.parametrize("name", ["gs://bucket/log", "file:///log", "ram://log"])
def test_a_path_that_looks_like_an_address_is_a_path(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    keep(name, 5)
    assert restored(name)[0] == 5.0
    assert "model.ckpt-5.index" in os.listdir(name)


def test_a_folder_may_be_moved_copied_and_linked(tmp_path):
    first, copy, moved, link = (tmp_path / name for name in ("first", "copy", "moved", "link"))
    keep(first, 5, 6, 7)
    shutil.copytree(first, copy)
    before = contents(first)
    keep(copy, 8, 9)
    assert restored(copy)[:2] == (9.0, f"{copy}/model.ckpt-9")
    assert contents(first) == before
    first.rename(moved)
    link.symlink_to(moved)
    keep(link / "inner", 3)  # a folder of checkpoints in a folder of checkpoints
    assert restored(moved)[0] == restored(link)[0] == 7.0
    assert restored(moved / "inner")[0] == 3.0
    keep(link, 8)
    assert {"model.ckpt-6.index", "model.ckpt-7.index", "model.ckpt-8.index"} < set(names(moved))
    assert "model.ckpt-5.index" not in names(moved)


# ------------------------------------------------------------------------------- what is in it


@pytest.mark.parametrize("state", [None, "", "model_checkpoint", '"', 'model_checkpoint_path: "/gone/model.ckpt-3"\n'])
def test_the_list_of_checkpoints_may_be_lost_cut_or_of_another_folder(tmp_path, state):
    keep(tmp_path, 100, 200)
    if state is None:
        (tmp_path / "checkpoint").unlink()
    else:
        (tmp_path / "checkpoint").write_text(state)
    assert restored(tmp_path) == (200.0, f"{tmp_path}/model.ckpt-200", [])


def test_the_list_is_there_for_tensorflows_own_tools_also_where_the_folder_was_moved(tmp_path):
    keep(tmp_path / "a", 1, 2, 3, 4)
    (tmp_path / "a").rename(tmp_path / "b")
    state = tf.train.get_checkpoint_state(str(tmp_path / "b"))
    assert state.model_checkpoint_path == f"{tmp_path}/b/model.ckpt-4"
    assert list(state.all_model_checkpoint_paths) == [f"{tmp_path}/b/model.ckpt-{n}" for n in (2, 3, 4)]
    assert tf.train.load_checkpoint(str(tmp_path / "b")).get_tensor("shared").tolist() == [4.0] * 4


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip(path):
    *most, last = path.read_bytes()
    path.write_bytes(bytes([*most, last ^ 1]))


def empty(path):
    path.write_bytes(b"")


def folder_instead(path):
    path.unlink()
    path.mkdir()


DATA = "data-00000-of-00001"
DAMAGES = [(part, harm) for part in ("index", DATA) for harm in (os.unlink, empty, cut, folder_instead)]
DAMAGES.append((DATA, flip))


@pytest.mark.parametrize(("part", "harm"), DAMAGES, ids=lambda each: getattr(each, "__name__", each))
def test_training_goes_on_from_the_newest_whole_one_and_says_so(tmp_path, part, harm):
    keep(tmp_path, 100, 200)
    harm(tmp_path / f"model.ckpt-200.{part}")
    value, path, (warning,) = restored(tmp_path)
    assert (value, path) == (100.0, f"{tmp_path}/model.ckpt-100")
    assert warning.startswith(f"{tmp_path}/model.ckpt-200 is damaged: ")
    assert warning.endswith(f"; training goes on from {tmp_path}/model.ckpt-100")
    assert "\n" not in warning
    assert ("index" if part == "index" else "data") in warning.partition(": ")[2]


@pytest.mark.parametrize(("part", "harm"), DAMAGES[:3], ids=lambda each: getattr(each, "__name__", each))
def test_where_none_is_whole_the_newest_is_named_and_nothing_touched(tmp_path, part, harm):
    folder = tmp_path / "run[1]"
    keep(folder, 100, 200)
    for step in (100, 200):
        harm(folder / f"model.ckpt-{step}.{part}")
    before = contents(folder)
    with pytest.raises(OSError) as caught:
        restored(folder)
    assert str(caught.value).startswith(f"{folder}/model.ckpt-200 is damaged: ")
    assert str(caught.value).endswith("; there is no whole checkpoint in its folder: take another folder")
    assert "\n" not in str(caught.value)
    assert contents(folder) == before


def test_a_damaged_one_goes_before_a_whole_one_and_is_written_again(tmp_path):
    keep(tmp_path, 100, 200, 300)
    flip(tmp_path / f"model.ckpt-300.{DATA}")
    with training(tmp_path, warn=lambda line: None) as checkpoints:
        checkpoints.restore(checkpoints.session)
        checkpoints.begin(checkpoints.session, 200)
        checkpoints.save(250)
        assert sorted(path.stem for path in tmp_path.glob("*.index")) == [f"model.ckpt-{n}" for n in (100, 200, 250)]
    keep(tmp_path, 300)
    flip(tmp_path / f"model.ckpt-300.{DATA}")
    with training(tmp_path, warn=lambda line: None) as checkpoints:
        checkpoints.restore(checkpoints.session)
        checkpoints.begin(checkpoints.session, 250)
        checkpoints.save(300)
    assert restored(tmp_path)[1:] == (f"{tmp_path}/model.ckpt-300", [])


def test_files_of_others_count_for_nothing_and_stay(tmp_path):
    others = [
        "model.ckpt-00100.index",
        "model.ckpt.index",
        "other.ckpt-9.index",
        "model.ckpt-9.index.bak",
        "model.ckpt-9",
    ]
    others += ["model.ckpt-7.meta", "xmodel.ckpt-9.index", "model.ckpt--9.index", "graph.pbtxt", "model.ckpt-٣.index"]
    for name in others:
        (tmp_path / name).write_bytes(b"mine")
    assert restored(tmp_path)[1] is None
    keep(tmp_path, 1, 2, 3, 4)
    assert restored(tmp_path)[0] == 4.0
    assert {name for name, text in contents(tmp_path).items() if text == b"mine"} == set(others)


def own_saver(folder, step, shards=1):
    """Write a checkpoint with a Saver of the reader's own, in as many files of data."""
    with tf.Graph().as_default(), tf.Session(config=tf.ConfigProto(device_count={"CPU": shards})) as session:
        with tf.device("/cpu:0"):
            tf.get_variable("shared", initializer=tf.fill([4], float(step)), use_resource=True)
        with tf.device(f"/cpu:{shards - 1}"):
            tf.get_variable("another", initializer=tf.zeros([50]), use_resource=True)
        session.run(tf.global_variables_initializer())
        tf.train.Saver(sharded=shards > 1).save(session, os.path.join(folder, "model.ckpt"), step)


def test_a_checkpoint_of_the_readers_own_saver_is_restored_and_kept_as_long_as_others(tmp_path):
    own_saver(tmp_path, 5)
    assert restored(tmp_path)[:2] == (5.0, f"{tmp_path}/model.ckpt-5")
    keep(tmp_path, 6, 7, 8)
    assert not [name for name in names(tmp_path) if "-5." in name]


def test_a_checkpoint_in_several_files_of_data_is_whole_if_all_are(tmp_path):
    keep(tmp_path, 5)
    own_saver(tmp_path, 9, shards=2)
    assert {"model.ckpt-9.data-00000-of-00002", "model.ckpt-9.data-00001-of-00002"} < set(names(tmp_path))
    assert restored(tmp_path)[0] == 9.0
    (tmp_path / "model.ckpt-9.data-00001-of-00002").unlink()
    value, _, (warning,) = restored(tmp_path)
    assert value == 5.0
    assert "model.ckpt-9.data-00001-of-00002" in warning


@pytest.mark.parametrize(
    ("variable", "problem"),
    [
        ({"name": "other", "shape": [4]}, "it has no other"),
        (
            {"name": "shared", "shape": [5]},
            "its shared is float32 of shape .4,., here it is float32 of shape .5,.",
        ),
        ({"name": "shared", "shape": [4], "dtype": tf.float64}, "its shared is float32 .*, here it is float64"),
    ],
)
def test_a_checkpoint_of_other_variables_is_refused_in_one_line(tmp_path, variable, problem):
    keep(tmp_path, 5)
    before = contents(tmp_path)
    with tf.Graph().as_default() as graph, tf.Session() as session:
        tf.get_variable(**variable, use_resource=True)
        checkpoints = Checkpoints(SimpleNamespace(graph=graph), tmp_path, 10)
        words = rf"can't restore {tmp_path}/model.ckpt-5: it is of another model or optimizer \({problem}.*\)"
        with pytest.raises(OSError, match=words):
            checkpoints.restore(session)
        assert len(session.run(tf.report_uninitialized_variables())) == 1
    assert contents(tmp_path) == before


def test_a_variable_that_a_partitioner_has_cut_comes_back(tmp_path):
    def graph(value):
        cutting = tf.fixed_size_partitioner(2)
        with tf.variable_scope("", use_resource=True, partitioner=cutting):
            return list(tf.get_variable("cut", [6], initializer=tf.constant_initializer(value)))

    with tf.Graph().as_default() as made, tf.Session() as session:
        graph(3.0)
        session.run(tf.global_variables_initializer())
        checkpoints = Checkpoints(SimpleNamespace(graph=made), tmp_path, 10)
        checkpoints.begin(session, 0)
        checkpoints.save(5)
    with tf.Graph().as_default() as made, tf.Session() as session:
        parts = graph(0.0)
        assert Checkpoints(SimpleNamespace(graph=made), tmp_path, 10).restore(session)
        assert np.concatenate(session.run(parts)).tolist() == [3.0] * 6
