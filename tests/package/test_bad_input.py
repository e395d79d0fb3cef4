"""Wrong types, ranges and encodings: an error that names the flag, argument or file, at once, and nothing started."""

import contextlib
import gzip
import itertools
import os
import subprocess
import sys
import threading
import time
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import mnistdist
from mnistdist import Cluster, DataSet, Datasets, Run, _check, distributed, read_data_sets, restore, show, train
from mnistdist.cluster.network import parse_address
from mnistdist.cluster.pinning import assign
from mnistdist.flags import FLAGS, UsageError, check, parse
from mnistdist.idx import DataError, read_idx
from mnistdist.results import SharedModel
from mnistdist.training import client
from tests.helpers import Running
from tests.package.idx_sets import NAMES, idx, small_set, write

# ------------------------------------------------------------------------------------------------ flags

USABLE = ["--job_name=worker", "--task_index=0", "--sync_replicas"]
FLAG_NAMES = [name for _, name, _, _ in FLAGS]

numbers = (st.integers() | st.floats()).map(str)
odd = st.sampled_from(
    ["", " ", "0", "-0", "1e999", "nan", "0x10", "1_000", "\u0663", "True", "none", "9" * 5000, "é" * 999]
)
any_bytes = st.binary(max_size=20).map(os.fsdecode)  # as the command line hands over what is no UTF-8
addresses = st.lists(st.text("ab.:[]-_09/, é\u0663\0", max_size=12) | st.just("h:1"), max_size=4).map(",".join)
texts = st.text(max_size=40) | numbers | odd | any_bytes | addresses


def outcome(flags):
    """The checked flags, or the message of the UsageError: one line, in a second's work at most, without TensorFlow."""
    before, begin = "tensorflow" in sys.modules, time.thread_time()
    try:
        values = parse([*USABLE, *flags])
        if not (values.help or values.version or values.download_only):
            check(values)
    except UsageError as error:
        values = str(error)
        assert len(values.splitlines()) == 1
    assert time.thread_time() - begin < 1
    assert ("tensorflow" in sys.modules) == before
    return values


@pytest.mark.parametrize("name", FLAG_NAMES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=texts)
def test_any_text_in_a_flag_is_taken_or_refused_by_the_flags_name(name, text):
    result = outcome([f"--{name}={text}"])
    assert not isinstance(result, str) or name in result


@pytest.mark.parametrize("value", ["", "true", "false", "0", "perhaps"])
@pytest.mark.parametrize("name", [name for kind, name, _, _ in FLAGS if kind == "boolean"])
@pytest.mark.parametrize("dashes", ["-", "--"])
def test_a_negation_takes_no_value(dashes, name, value):
    result = outcome([f"{dashes}no{name}={value}"])
    assert result == f"--no{name} takes no value: write --no{name}, or --{name}=false"
    assert not isinstance(outcome([f"{dashes}no{name}"]), str)


@pytest.mark.parametrize(
    ("flags", "taken"),
    [
        (["--sync_replicas", "False"], "expected flags only, --name=value; got 'False'"),
        (["--logdir", "--sync_replicas"], "--logdir: expected the name of a directory, got '--sync_replicas'"),
        (["--data_dir", "-h"], "--data_dir: expected the name of a directory, got '-h'"),
        (["--batch_size=-0"], "--batch_size: expected an int of 1 or more, got 0"),
        (["--learning_rate=-0.0"], "--learning_rate: expected a number from 1e-30 to 1e+30, got -0.0"),
        (["--batch_size=5", "--batch_size=6"], 6),
        (["--batch_size=\u0663"], 3),
        (["--batch_size", "7"], 7),
        (["--batch_size=1_000"], 1000),
    ],
)
def test_forms_of_flags_that_are_easily_mistaken(flags, taken):
    result = outcome(flags)
    assert (result if isinstance(result, str) else result.batch_size) == taken


@settings(max_examples=200, deadline=None)
@given(words=st.lists(texts | st.sampled_from([f"--{name}" for name in FLAG_NAMES]), max_size=4))
@example(words=["--flagfile=/dev/zero"])  # absl's own: it would read that to its end
@example(words=["--undefok=anything", "--anything=1"])
@example(words=["--", "rest"])
def test_any_words_on_the_command_line_are_taken_or_refused(words):
    result = outcome(words)
    if any(word.startswith(("--flagfile", "--undefok")) for word in words):
        assert "Unknown command line flag" in result


@settings(max_examples=300, deadline=None)
@given(hosts=addresses)
def test_addresses_that_are_taken_can_be_asked_for(hosts):
    """Of a host that is taken, the resolver is asked later on: its encoding must not fail then."""
    result = outcome([f"--ps_hosts={hosts}"])
    if not isinstance(result, str):
        places = [parse_address(address) for address in result.ps_hosts.split(",")]
        assert len(set(places)) == len(places) > 0
        assert all(host.encode("idna") and 0 < port < 65536 for host, port in places)


REFUSED = {
    "job_name": ["", "PS", "chief"],
    "task_index": ["-1", "2", "9" * 30],
    "ps_hosts": [
        "",
        ",",
        "h:0",
        "h:65536",
        "h:1,",
        "h:1,H:1",
        "[::::]:5",
        "a..b:22",
        "h:\uff12\uff12",
        "h" * 64 + ":1",
    ],
    "worker_hosts": ["h:1,h:1", "192.168.233.201:2222", "http://h:1"],
    "data_dir": ["", "a\0b"],
    "logdir": ["", "a\0b"],
    "hidden_units": ["0", "-1", "500001", "1e3", "9" * 30],
    "train_steps": ["0", "1.5", "9" * 30],
    "batch_size": ["0", "1000001", "ten"],
    "learning_rate": ["0", "-1", "nan", "inf", "1e39", "1e-60", "fast"],
    "replicas_to_aggregate": ["0", "1000001"],
    "num_gpus": ["-1", "1.0"],
    "save_steps": ["0", "9" * 30],
    "log_every": ["0", "-5"],
    "wait_timeout": ["0", "nan", "inf", "1e-9", "1e8"],
    "ps_linger": ["0", "-inf", "1e300"],
    "model": ["net.py", "a:b:c", ":net", "a b:net"],
    "design": ["", "Fast"],
    "seed": ["one", "1.0", "-1"],
    "sync_replicas": ["", "2"],
    "download_only": ["perhaps"],
    "existing_servers": ["perhaps"],
    "help": ["perhaps"],
    "version": ["perhaps"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in REFUSED for value in REFUSED[name]])
def test_values_that_are_refused(name, value):
    result = outcome([f"--{name}={value}"])
    assert isinstance(result, str)
    assert name in result


def test_every_flag_has_values_that_are_refused():
    assert set(REFUSED) == set(FLAG_NAMES)


@pytest.mark.parametrize(
    "flag",
    [
        *("hidden_units=500000", "train_steps=1", "batch_size=1000000", "learning_rate=1e-30", "num_gpus=0", "seed=0"),
        *("wait_timeout=0.001", "ps_linger=1e7", "ps_hosts=[::1]:1,[::2]:1", "ps_hosts=b\u00fccher.example:22"),
        *("data_dir=/tmp/\udcff", "log_every=1000000000000", "replicas_to_aggregate=1", "task_index=1"),
    ],
)
def test_values_at_the_edge_that_are_taken(flag):
    assert not isinstance(outcome([f"--{flag}"]), str)


def test_refusing_imports_no_tensorflow_and_shows_no_traceback():
    command = [
        sys.executable,
        "-X",
        "importtime",
        "-m",
        "mnistdist.distributed",
        *USABLE,
        "--data_dir=a",
        "--design=\udcff",
    ]
    done = subprocess.run(command, capture_output=True, text=True, errors="surrogateescape")
    told = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert told == ["mnistdist.distributed: error: --design: expected 'fast' or 'listing', got '\\udcff'"]
    assert done.returncode == 1
    assert "absl" in done.stderr
    assert "tensorflow" not in done.stderr


# ------------------------------------------------------------------------------------------- functions

PIXELS, DIGITS = np.zeros((3, 4), np.uint8), np.zeros(3, np.uint8)
TWO_TASKS = {"ps": 1, "workers": 2, "gpus": [], "cores": [0]}


ONE_HOT = np.zeros((3, 10), np.float32)
NOT_ONE_HOT = Datasets(DataSet(PIXELS, DIGITS), None, None)
RUN = Run(sync=False, results=[], model=SharedModel(0, {"a": np.zeros(3)}, None, None, None))
GRAPH = SimpleNamespace(graph=None)


def digits(examples=5, pixels=784, classes=10, value=0, dtype=np.uint8):
    labels = np.eye(classes, dtype=np.float32)[np.zeros(examples, int)]
    return DataSet(np.full((examples, pixels), value, dtype), labels)


FEW, NONE, WIDE, NARROW = digits(), digits(examples=0), digits(classes=12), digits(pixels=700)
NAN, HUNDREDS = digits(value=np.nan, dtype=np.float32), np.array([[100, 100], [100, 100]])


def cases(name, call, *values):
    return [
        pytest.param(name, call, value, id=f"{name}={ascii(_check.got(value))[:30]}-{i}")
        for i, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("name", "call", "value"),
    [
        *cases("images", lambda x: DataSet(x, DIGITS), None, "abc", [[1], [2, 3]], PIXELS[0], PIXELS.astype(float), {}),
        *cases("labels", lambda x: DataSet(PIXELS, x), None, "abc", [[1], [2, 3]], [1.5, 2.5, 3.5], 3, PIXELS),
        *cases("1 labels", lambda x: DataSet(PIXELS, x), DIGITS[:1]),
        *cases("seed", lambda x: DataSet(PIXELS, DIGITS, x), "x", -1, 1.5, [-1], b"a", object),
        *cases("batch_size", DataSet(PIXELS, DIGITS).next_batch, "3", 1.5, None, True, 0, -1, 10**7, 10**30, [1]),
        *cases("data_dir", read_data_sets, 3, 1.5, True, b"/tmp", ["a"], object, "", "a\0b", "\ud800"),
        *cases("one_hot", lambda x: read_data_sets(one_hot=x), "no", None, 2),
        *cases("validation_size", lambda x: read_data_sets(validation_size=x), "5", 2.5, None, True, float("nan"), -1),
        *cases("validation_size", lambda x: read_data_sets(validation_size=x), 10**30),
        *cases("seed", lambda x: read_data_sets(seed=x), "x", -1, 1.5),
        *cases("ps", lambda x: Cluster(ps=x), 0, -1, "1", 1.0, None, True, 10**9),
        *cases("workers", lambda x: Cluster(workers=x), 0, -1, "1", 1.0, None, True, 10**9),
        *cases("devices", lambda x: Cluster(devices=x), None, 3, b"0", "0,1", "tpu", [None], [1.5], ["a\0"], ["0,1"]),
        *cases("devices", lambda x: Cluster(devices=x), [True], ["-1"], [[0]], ["é"]),
        *cases("num_gpus", lambda x: Cluster(num_gpus=x), "1", 1.5, True, -1, 10**9, []),
        *cases("network", lambda x: Cluster(network=x), None, "", "bridge", ["auto"], 1),
        *cases("timeout", lambda x: Cluster(timeout=x), 0, -1, "60", None, True, float("nan")),
        *cases("nonsense", lambda x: Cluster(nonsense=x), 1),
        *cases("ps", lambda x: assign(**TWO_TASKS | {"ps": x}), "1", 1.0, None, True, -1, 1000),
        *cases("workers", lambda x: assign(**TWO_TASKS | {"workers": x}), "1", 1.0, None, True, 0, 1000),
        *cases("show()", show, 3, None, b"show", [], len, 1.5),
        *cases(
            "show(", show, "", "..", "a\0.b", "nothing.here", "mnistdist", "mnistdist.model.nothing", "mnistdist..x"
        ),
        *cases("cluster is new", lambda x: train(x, steps=1), Cluster()),
        *cases("show(", show, "sys.exit", "math.sin"),
        *cases("cluster", lambda x: train(x, steps=1), "x", None, 3, []),
        *cases("sync", lambda x: train(Running(), steps=1, sync=x), "no", None, 1),
        *cases("learning_rate", lambda x: train(Running(), steps=1, learning_rate=x), "a", None, 0, -1, float("nan")),
        *cases("learning_rate", lambda x: train(Running(), steps=1, learning_rate=x), float("inf"), True, [0.1]),
        *cases("optimizer", lambda x: train(Running(), steps=1, optimizer=x), "adam", 3),
        *cases("build_graph", lambda x: train(Running(), steps=1, build_graph=x), "model", 3),
        *cases("on_step", lambda x: train(Running(), steps=1, on_step=x), "print", 3),
        *cases("data", lambda x: train(Running(), steps=1, data=x), 3, b"/tmp", PIXELS, [PIXELS, DIGITS], "", "a\0b"),
        *cases("data.train", lambda x: train(Running(), steps=1, data=x), Datasets(None, None, None), NOT_ONE_HOT),
        *cases("seed", lambda x: train(Running(), steps=1, seed=x), "x", -1, 1.5, True, [1]),
        *cases("step_timeout", lambda x: train(Running(), steps=1, step_timeout=x), "60", 0, -1, float("nan")),
        *cases(
            "steps", lambda x: train(Running(), steps=x), "100", None, 100.0, np.True_, 0, 2**63, 10**5000, HUNDREDS
        ),
        *cases("steps", lambda x: train(Running(), steps=x), Decimal(100), np.array([100]), float("nan")),
        *cases("batch_size", lambda x: train(Running(), steps=1, batch_size=x), 10**6 + 1, 1e3, np.float32(50), -1),
        *cases("save_steps", lambda x: train(Running(), steps=1, save_steps=x), 0, 10**30, "1", None),
        *cases("local_steps", lambda x: train(Running(), steps=3, local_steps=x), 200, 0, np.int8(-5), None, 1.0),
        *cases("local_steps", lambda x: train(Running(), steps=10**6, local_steps=x), 1001),
        *cases("steps_per_run", lambda x: train(Running(), steps=10**6, steps_per_run=x), 1001, 0, True, "16"),
        *cases("restarts", lambda x: train(Running(), steps=1, restarts=x), -1, 1.0, None, "1"),
        *cases("aggregate", lambda x: train(Running(), steps=1, sync=True, replicas_to_aggregate=x), 0, 10**7, 1.5),
        *cases("seed", lambda x: train(Running(), steps=1, seed=x), np.int8(-7), np.float32(7)),
        *cases("step_timeout", lambda x: train(Running(), steps=1, step_timeout=x), 1e29, np.float32("nan"), True, 1j),
        *cases(
            "learning_rate", lambda x: train(Running(), steps=1, learning_rate=x), print, 1e31, Decimal("sNaN"), 10**400
        ),
        *cases("on_step: it can't", lambda x: train(Running(), steps=1, on_step=x), threading.Lock().acquire),
        *cases("build_graph: it can't", lambda x: train(Running(), steps=1, build_graph=x), (n for n in "ab").__next__),
        *cases("logdir", lambda x: train(Running(), steps=1, logdir=x), "", "a\0b", b"a", 3, "/dev/null/log", __file__),
        *cases(
            "data.train", lambda x: train(Running(), steps=1, data=Datasets(x, None, None)), NONE, WIDE, NARROW, NAN
        ),
        *cases(
            "data.validation", lambda x: train(Running(), steps=1, data=Datasets(FEW, x, None)), WIDE, NARROW, NAN, 3
        ),
        *cases("data.test", lambda x: train(Running(), steps=1, data=Datasets(FEW, None, x)), WIDE, NARROW, NAN, "x"),
        *cases("data.test", lambda x: train(Running(), steps=1, data=Datasets(FEW, FEW, x), build_graph=print), NARROW),
        *cases("path", RUN.save, 3, None, b"a", "", ".", "/", "a\0b"),
        *cases("path", lambda x: restore(GRAPH, x), 3, None),
        *cases("session", lambda x: restore(x, "model.npz"), 3, None, "grpc://h:1"),
        *cases("servers", lambda x: Cluster(servers=x), "no", None, 1),
        *cases("timeout", lambda x: Cluster(timeout=x), float("inf"), 10**400),
        *cases("lines", lambda x: Cluster().logs("ps:0", x), "x", -1, None, 1.5, True),
        *cases("address", parse_address, 3, None, b"h:1", ["h:1"]),
        *cases("at most 1000 tasks", lambda x: Cluster(ps=x, workers=x), 600),
    ],
)
def test_a_wrong_argument_is_named(name, call, value):
    begin = time.thread_time()
    with pytest.raises((ValueError, TypeError, RuntimeError, OSError)) as caught:
        call(value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.thread_time() - begin < 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"steps": "1"}, TypeError),
        ({"steps": 0}, ValueError),
        ({"step_timeout": "1"}, TypeError),
        ({"step_timeout": 0}, ValueError),
        ({"seed": 1.5}, TypeError),
        ({"seed": -1}, ValueError),
        ({"logdir": 3}, TypeError),
    ],
)
def test_a_wrong_type_is_a_type_error_and_a_wrong_value_a_value_error(options, error):
    with pytest.raises(error):
        train(Running(), **{"steps": 1} | options)


@pytest.mark.parametrize("kind", [int, np.int8, np.uint8, np.int64, np.uint64, np.array])
def test_numbers_of_numpy_are_taken_and_become_pythons(kind, monkeypatch):
    """What the workers get is exactly what Python's own numbers would have given them."""

    def sent(**options):
        calls = []

        def on_workers(cluster, function, indices, arguments, *, step_timeout, held, **watch):
            calls.append((arguments, step_timeout, watch))
            return [(None, ())]

        monkeypatch.setattr(client, "on_workers", on_workers)
        monkeypatch.setattr(client, "idle_workers", lambda *_: contextlib.nullcontext())
        monkeypatch.setattr(client, "_runs", itertools.count())
        train(Running(), data=Datasets(FEW, NONE, None), **options)
        return repr(calls)

    names = ("steps", "batch_size", "save_steps", "local_steps", "steps_per_run", "seed", "step_timeout", "restarts")
    expected = sent(**dict.fromkeys(names, 5) | {"learning_rate": 0.5})
    assert sent(**{name: kind(5) for name in names} | {"learning_rate": np.float16(0.5)}) == expected
    assert sent(**dict.fromkeys(names, 5) | {"learning_rate": Fraction(1, 2), "sync": np.False_}) == expected
    assert "validation=None" in expected  # an empty one would give an accuracy of nan


def test_a_cluster_and_a_data_set_take_numbers_of_numpy_too():
    cluster = Cluster(ps=np.int64(1), workers=np.uint8(3), timeout=np.float32(30), num_gpus=np.int8(0))
    assert repr(cluster) == "Cluster(ps=1, workers=3, status='new')"
    assert cluster.timeout == 30 and type(cluster.timeout) is float
    assert Cluster(servers=np.True_, timeout=np.array(5)).logs("ps:0", np.int16(3)) == ""
    assert read_data_sets(validation_size=np.uint16(7), one_hot=np.True_, seed=np.uint8(1)).validation.num_examples == 7
    assert FEW.next_batch(np.array(2))[0].shape == (2, 784)
    assert assign(**TWO_TASKS | {"gpus": ["0", "1"], "devices": [np.int64(1)]})["worker", 0].device == "GPU 1"


def test_the_program_and_train_have_the_same_bounds():
    for name, (least, most) in _check.COUNTS.items():
        if name in FLAG_NAMES:
            assert not isinstance(outcome([f"--{name}={least}"]), str), name
            assert isinstance(outcome([f"--{name}={least - 1}"]), str), name
            assert most is None or isinstance(outcome([f"--{name}={most + 1}"]), str), name
    assert _check.COUNTS["steps"] == _check.COUNTS["train_steps"]
    assert _check.NUMBERS["step_timeout"] == _check.NUMBERS["wait_timeout"]


@pytest.mark.parametrize("options", ["ro", "nr_inodes=1"])
def test_a_folder_for_checkpoints_that_is_closed_to_writing_is_refused(tmp_path, options):
    """On a disk that is read-only, and on one that is full; nothing is made there."""
    unshare = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    script = 'mount -t tmpfs -o "$0" none "$1" && "$2" -c "$3" "$1"; ls -A "$1"'
    code = "import sys, mnistdist\nclass Running: workers = tasks = ()\n"
    code += (
        "try: mnistdist.train(Running(), steps=1, logdir=sys.argv[1] + '/log')\nexcept OSError as error: print(error)"
    )
    done = subprocess.run([*unshare, script, options, tmp_path, sys.executable, code], capture_output=True, text=True)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("mounting a small disk needs user namespaces, which this system does not allow")
    why = {"ro": "Read-only file system", "nr_inodes=1": "No space left on device"}[options]
    assert done.stdout == f"logdir: no checkpoints can be kept in {tmp_path}/log: {why}\n"


def test_a_set_that_leaves_nothing_to_train_on_is_refused(tmp_path, capsys):
    """Of the training files, the first 5000 examples are the validation set."""
    for count in (12, 5000):
        folder = write(tmp_path / str(count), small_set(train=count))
        assert distributed.main(["--job_name=worker", "--task_index=0", f"--data_dir={folder}"]) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith("mnistdist.distributed: error: --data_dir: ")
        with pytest.raises(ValueError, match=r"validation_size: expected 0 to 12, .* has 12|none is left to train on"):
            train(Running(), steps=1, data=folder)


@pytest.mark.parametrize(
    "task",
    ["", "chief", "worker", "worker:2", "worker:-1", "worker:0 ", None, 3, 1.5, ("ps", "0"), ["ps", 0], "worker:²"],
)
def test_a_task_that_there_is_not_is_named(task):
    with pytest.raises(KeyError, match="expected one of ps:0, worker:0, worker:1") as caught:
        Cluster().logs(task)
    assert repr(task) in caught.value.args[0]


@pytest.mark.parametrize("name", ["all", "client", "ps", "tasks", "workers"])
def test_a_cluster_that_is_not_started_has_nothing_to_show(name):
    cluster = Cluster()
    if name == "client":
        assert cluster.client is None
        return
    with pytest.raises(RuntimeError, match=r"the cluster is new: use `with Cluster\(\.\.\.\) as cluster:`"):
        getattr(cluster, name)


def test_every_public_name_that_checks_its_arguments_is_tried_here():
    """The others hold what they are given."""
    plain = {"ClusterStartError", "DataError", "Datasets", "Graph", "StepRecord", "Task", "TaskFailed"}
    tried = {"Cluster", "DataSet", "Run", "read_data_sets", "restore", "show", "train"}
    assert tried | plain == set(mnistdist.__all__)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut", "cut", "array", "missing", "folder"])
def test_a_file_that_is_no_saved_model_is_named(tmp_path, content):
    path = RUN.save(tmp_path / "model.npz")
    if content == "array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif content in ("missing", "folder"):
        path.unlink()
        if content == "folder":
            path.mkdir()
    else:
        path.write_bytes(path.read_bytes()[:-30] if content == "cut" else content)
    with pytest.raises((ValueError, OSError)) as caught:
        restore(GRAPH, path)
    assert str(path) in str(caught.value)


def test_a_name_that_is_too_long_is_the_models():
    with pytest.raises(OSError, match="can't save the model: File name too long"):
        RUN.save("x" * 300)


# ------------------------------------------------------------------------------------------- idx files


def read(folder, content, ndim):
    path = folder / NAMES[0 if ndim == 3 else 1]
    path.write_bytes(content)
    try:
        return read_idx(path, ndim)
    except DataError as error:
        assert str(error).startswith(f"{path}: expected ")
        assert "; found " in str(error)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("ndim", [1, 3])
def test_a_file_cut_at_any_byte_is_refused(tmp_path, ndim, zipped):
    whole = idx(np.arange(784).reshape(1, 28, 28) % 256 if ndim == 3 else np.arange(9))
    content = gzip.compress(whole) if zipped else whole
    assert read(tmp_path, content, ndim) is not None
    for length in range(len(content)):
        assert read(tmp_path, content[:length], ndim) is None, length
    for more in (b"\n", b"\0\n", content):
        assert read(tmp_path, content + more, ndim) is None, more
    assert (read(tmp_path, content + bytes(3), ndim) is None) != zipped  # zeros may follow in gzip's format


@pytest.mark.parametrize("ndim", [1, 3])
def test_any_other_byte_in_a_header_is_refused(tmp_path, ndim):
    whole = idx(np.zeros((1, 28, 28)) if ndim == 3 else np.zeros(1))
    for place in range(4 + 4 * ndim):
        for value in set(range(256)) - {whole[place]}:
            assert read(tmp_path, whole[:place] + bytes([value]) + whole[place + 1 :], ndim) is None, (place, value)


def test_any_flipped_bit_of_a_gzip_file_is_refused_or_changes_nothing(tmp_path):
    """Some bits say nothing of the content: a date and a system in the header, the last byte's rest before the sum."""
    array = np.arange(100)
    content = gzip.compress(idx(array))
    taken = []
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        result = read(tmp_path, flipped, 1)
        if result is not None:
            assert result.tolist() == array.tolist()
            taken.append(bit // 8)
    assert set(taken) <= {*range(3, 10), len(content) - 9}


LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from mnistdist.idx import DataError, read_idx
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 2**26
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for name in sys.argv[1:]:
    try:
        read_idx(Path(name), 3)
    except DataError as error:
        print(error)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads its own size from /proc (Linux)")
def test_what_a_header_claims_takes_no_memory(tmp_path):
    """64 MB are enough to refuse 2^31 x 2^31 images, and a million of 28 x 28 (784 MB) that are not there."""
    contents = {}
    for name, shape in {"huge": (2**31,) * 3, "wide": (1, 2**31, 2**31), "many": (10**6, 28, 28)}.items():
        header = bytes([0, 0, 8, 3]) + b"".join(size.to_bytes(4, "big") for size in shape)
        contents[name] = header + bytes(1000)
        contents[f"{name}.gz"] = gzip.compress(header + bytes(2**21))
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    paths = [str(tmp_path / name) for name in contents]
    done = subprocess.run([sys.executable, "-c", LITTLE_MEMORY, *paths], capture_output=True, text=True, timeout=30)
    assert done.stderr == ""
    told = done.stdout.splitlines()
    assert [line.partition(": expected ")[0] for line in told] == paths
    assert all("found 2147483648 x 2147483648" in line for line in told[:4])
    assert all("784,000,000 bytes after the header, for 1,000,000 examples; found" in line for line in told[4:])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 30), min_size=3, max_size=3), zipped=st.booleans())
@example(shape=[2, 28, 28], zipped=False)
def test_any_dimensions_but_the_true_ones_are_refused(tmp_path, shape, zipped):
    header = bytes([0, 0, 8, 3]) + b"".join(size.to_bytes(4, "big") for size in shape)
    content = header + bytes(2 * 28 * 28)
    result = read(tmp_path, gzip.compress(content) if zipped else content, 3)
    assert (result is not None) == (shape == [2, 28, 28])


@pytest.mark.parametrize("name", NAMES)
def test_each_file_missing_its_neighbours_count_is_named(tmp_path, name):
    """One example more than the other file of the same split has."""
    contents = small_set()
    contents[name] = small_set(train=13, test=6)[name]
    with pytest.raises(DataError, match="expected one label an image; found") as caught:
        read_data_sets(write(tmp_path, contents), validation_size=0)
    assert name in str(caught.value)


def test_a_model_is_saved_where_a_link_leads_with_the_permissions_that_the_file_has(tmp_path):
    target, link = tmp_path / "target.npz", tmp_path / "link.npz"
    target.touch(mode=0o600)
    link.symlink_to(target)
    assert RUN.save(link) == link
    assert link.is_symlink() and target.stat().st_size > 0 and target.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.npz", "target.npz"]


def test_a_model_replaces_no_pipe_and_no_device(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="can't save the model: it is a device, a pipe or a socket"):
        RUN.save(pipe)
    assert pipe.is_fifo() and [path.name for path in tmp_path.iterdir()] == ["pipe"]
