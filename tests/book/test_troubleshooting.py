"""The troubleshooting page: every message on it is one that something produces, and the package's own are all on it."""

import ast
import contextlib
import re
import socket
import threading
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest

from book._ext.outputs import compared
from mnistdist import Cluster, DataSet, Datasets, Run, cli, distributed, errors, results, train
from mnistdist.cluster import network, pinning
from mnistdist.flags import UsageError, check, parse
from mnistdist.idx import read_idx
from mnistdist.training import heartbeat, logdir
from tests.book.book_rules import ROOT, code_cells, is_checked
from tests.book.page_rules import headings
from tests.helpers import Running
from tests.package.idx_sets import small_set, write

PAGE = (ROOT / "book" / "troubleshooting.md").read_text(encoding="utf-8")
MESSAGES = [title for level, title in headings(PAGE) if level == 3]
OURS = ("UsageError", "TaskFailed", "TaskLost", "ClusterStartError", "TimeoutError", "ConnectionError", "OSError")
OURS += ("start_error",)
NOT_ON_THE_PAGE = {
    "engines ": "two engines have changed places: nothing that a user does brings it about",
    "still alive 10 s after SIGKILL": "a process that the kernel holds: there is no way to provoke it",
    "the controller wrote no connection file within 60 s": "it stands in the nursery's log only, and the cluster's own "
    "error, which is on the page, shows that",
}


def pattern(message):
    """What matches a message of the page in a text: each … stands for any words."""
    return r"[\s\S]*?".join(re.escape(part) for part in message.strip().split("…"))


# ------------------------------------------------------------------------------- produced here, directly


def usage(*argv, **_):
    """What is wrong with these flags of the program."""
    with pytest.raises(UsageError) as caught:
        check(parse(argv))
    return str(caught.value)


def worker(*argv):
    """Flags that are wrong in a worker's command line."""
    return lambda **_: usage("--job_name=worker", "--task_index=0", *argv)


def program(monkeypatch, capsys, *argv):
    """What the program says on stderr, run in this process, without a server."""
    server = SimpleNamespace(target="")
    monkeypatch.setattr(distributed, "_start_server", lambda flags, spec: (server, "cpu:0"))
    assert distributed.main([*argv, "--task_index=0"]) == 1
    return capsys.readouterr().err


def of_model(name):
    """What is wrong with a value of --model."""

    def produce(**_):
        with pytest.raises(UsageError) as caught:
            distributed._model(SimpleNamespace(model=name))
        return str(caught.value)

    return produce


def of_environment(**environ):
    """What is wrong with variables that a scheduler has set."""

    def produce(**_):
        with pytest.raises(UsageError) as caught:
            distributed.identify(parse([]), environ)
        return str(caught.value)

    return produce


def of_launcher(*argv):
    def produce(monkeypatch, capsys, **_):
        monkeypatch.setattr(network, "private_network_available", lambda: False)
        assert cli.main(["run", *argv]) == 1
        return capsys.readouterr().err

    return produce


def missing_ps(monkeypatch, capsys, tmp_path):
    with held_port(listening=False) as address:
        hosts = f"--ps_hosts={address}", f"--data_dir={tmp_path}"
        return program(monkeypatch, capsys, "--job_name=worker", "--wait_timeout=0.5", *hosts)


def silent_workers(monkeypatch, capsys, **_):
    monkeypatch.setattr(heartbeat, "attend", lambda *_, **__: set())
    return program(monkeypatch, capsys, "--job_name=ps")


def file_for_data(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    return program(monkeypatch, capsys, "--job_name=worker", f"--data_dir={tmp_path}/file")


def file_for_logdir(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    return program(monkeypatch, capsys, "--job_name=worker", f"--logdir={tmp_path}/file/log")


def two_trainings(tmp_path, **_):
    with logdir.held(tmp_path), pytest.raises(OSError) as caught:
        logdir.prepare(tmp_path)
    return str(caught.value)


@contextlib.contextmanager
def held_port(listening=True):
    """An address that nobody else can take meanwhile."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        if listening:
            holder.listen()
        yield f"127.0.0.1:{holder.getsockname()[1]}"


def busy_port(capsys, **_):
    with held_port() as address:
        assert distributed.main(["--job_name=ps", "--task_index=0", f"--ps_hosts={address}"]) == 1
    return capsys.readouterr().err


def no_answer(**_):
    with held_port(listening=False) as address, pytest.raises(TimeoutError) as caught:
        network.wait_for_address(address, 0.2, what="ps:0")
    return str(caught.value)


def explained(name, sync=False, up=True, merging=False):
    """What the package makes of an error of TensorFlow's, with a ps that accepts connections or doesn't."""

    def produce(**_):
        import tensorflow.compat.v1 as tf

        from mnistdist.training.runs import explain

        with held_port(listening=up) as address:
            spec = {"ps": [address], "worker": ["w:1"]}
            return str(explain(getattr(tf.errors, name)(None, None, "why"), spec, lambda: None, sync, merging))

    return produce


def late_chief(monkeypatch, **_):
    line = SimpleNamespace(open=lambda _: None, start=lambda: None, find_notice=lambda: None, end=lambda well: None)
    monkeypatch.setattr(heartbeat, "_Line", lambda *_: line)
    with pytest.raises(TimeoutError) as caught:
        heartbeat.Presence("", {"ps": ["p:1"], "worker": ["v:1", "w:1"]}, 1, timeout=0.1).compare({}, None)
    return str(caught.value)


def closed_output(monkeypatch, capsys, **_):
    monkeypatch.setattr("sys.stdout", None)
    assert distributed.main(["--help"]) == 1
    return capsys.readouterr().err


def all_for_validation(monkeypatch, capsys, tmp_path):
    folder = write(tmp_path, small_set(train=5000))
    return program(monkeypatch, capsys, "--job_name=worker", f"--data_dir={folder}")


def narrow_set():
    part = DataSet(np.zeros((2, 700), np.uint8), np.eye(10, dtype=np.float32)[:2])
    return Datasets(part, part, part)


def training(name, make):
    """What ``train`` says of an argument, before it starts anything."""

    def produce(**_):
        with pytest.raises((TypeError, ValueError)) as caught:
            train(Running(), steps=3, **{name: make()})
        return str(caught.value)

    return produce


def no_predictions(**_):
    with pytest.raises(ValueError) as caught:
        Run(sync=False, results=[], model=results.SharedModel(1, {}, None, None, None)).predictions  # noqa: B018
    return str(caught.value)


def other_cluster(**_):
    with pytest.raises(ConnectionError) as caught:
        heartbeat.Presence("", {"ps": ["p:1"], "worker": ["w:1"]}, 0)  # a session on no cluster at all
    return str(caught.value)


def no_session(monkeypatch, **_):
    release = threading.Event()
    monkeypatch.setattr(heartbeat._Line, "_connect", lambda self: release.wait(30))
    with pytest.raises(TimeoutError) as caught:
        heartbeat.Presence("", {"ps": ["p:1"], "worker": ["w:1"]}, 0, timeout=0.1)
    release.set()
    return str(caught.value)


def no_word(monkeypatch, **_):
    import tensorflow.compat.v1 as tf

    class Silent:
        def __init__(self, *_, **__):
            pass

        def run(self, _):
            threading.Event().wait()  # for ever: the thread that listens would ask again and again

    monkeypatch.setattr(tf, "Session", Silent)
    with pytest.raises(TimeoutError) as caught:
        heartbeat.attend("", {"ps": ["p:1"], "worker": ["w:1"]}, 0, linger=1, patience=0.1)
    return str(caught.value)


def slow_checkpoint(tmp_path, monkeypatch, **_):
    import tensorflow.compat.v1 as tf

    from mnistdist.training.checkpoints import Checkpoints

    release = threading.Event()
    with tf.Graph().as_default() as graph:
        tf.get_variable("shared", [1])
    checkpoints = Checkpoints(SimpleNamespace(graph=graph), tmp_path, 10, timeout=0.1)
    checkpoints.begin(SimpleNamespace(graph=graph), 0)
    monkeypatch.setattr(checkpoints, "_write", lambda step: release.wait(30))
    with pytest.raises(TimeoutError) as caught:
        checkpoints.save(20)
    release.set()
    return str(caught.value)


def slow_evaluation(monkeypatch, **_):
    from mnistdist.training import worker

    release = threading.Event()
    session = SimpleNamespace(run=lambda fetches, *_, **__: release.wait(30) if isinstance(fetches, list) else 1)
    monkeypatch.setattr(worker, "worker_session", lambda *_, **__: contextlib.nullcontext(session))
    data = SimpleNamespace(train=None, validation=SimpleNamespace(images=np.zeros((2, 784)), labels=np.zeros((2, 10))))
    spec = {"ps": ["p:1"], "worker": ["w:1"]}
    with pytest.raises(TimeoutError) as caught:
        worker.run_worker("", spec, 0, data=data, steps=1, wait_timeout=0.1, design="listing")
    release.set()
    return str(caught.value)


def slow_reading(monkeypatch, **_):
    import tensorflow.compat.v1 as tf

    from mnistdist.training import shared_model

    release = threading.Event()
    monkeypatch.setattr(shared_model, "TIMEOUT", 0.1)
    monkeypatch.setattr(tf, "Session", lambda *_, **__: release.wait(30))
    with pytest.raises(TimeoutError) as caught:
        shared_model.read_shared_model("", {"ps": ["p:1"], "worker": ["w:1"]}, 0, data=None, design="listing")
    release.set()
    return str(caught.value)


def refused(make, optimizer=None, **options):
    """What a design says of a model, before anything starts: of ``make(x, y_, tf)``'s loss."""

    def produce(**_):
        import tensorflow.compat.v1 as tf

        from mnistdist import Graph
        from mnistdist.training import build_fast_replica, build_replica

        def build_graph():
            x, y_ = tf.placeholder(tf.float32, [None, 3]), tf.placeholder(tf.float32, [None, 2])
            return Graph(x, y_, y_, make(x, tf), tf.reduce_mean(y_))

        build = build_replica if optimizer == "python" else build_fast_replica
        data = DataSet(np.zeros((8, 3), np.uint8), np.eye(2, dtype=np.float32)[np.arange(8) % 2])
        given = {} if optimizer == "python" else {"train_set": data}
        more = {} if optimizer is None else {"optimizer": lambda rate: scaling(optimizer == "python", tf)(rate)}
        with pytest.raises(ValueError) as caught:
            build({"ps": ["p:1"], "worker": ["w:1"]}, 0, build_graph=build_graph, **given, **more, **options)
        return str(caught.value)

    return produce


def scaling(by_python, tf):
    """An optimizer that scales each gradient by what else it takes of the model."""

    class Scaling(tf.train.GradientDescentOptimizer):
        def apply_gradients(self, pairs, *args, **options):
            rows = tf.get_default_graph().get_tensor_by_name("rows:0")
            by = tf.py_func(lambda: np.float32(2), [], tf.float32) if by_python else tf.cast(rows[0], tf.float32)
            return super().apply_gradients([(g * by, v) for g, v in pairs], *args, **options)

    return Scaling


def two_initializers(x, tf):
    iterator = tf.data.Iterator.from_structure(tf.float32, [])
    for number in 1.0, 2.0:
        iterator.make_initializer(tf.data.Dataset.from_tensors(number))
    return tf.get_variable("w", []) * iterator.get_next()


def loss_of_rows(x, tf):
    return tf.get_variable("w", []) * tf.cast(tf.shape(x, name="rows")[0], tf.float32)


def failed_evaluation(monkeypatch, **_):
    from mnistdist.training import worker

    def evaluate(*_):
        raise ValueError("no such class")

    said = []
    monkeypatch.setattr(worker, "evaluate", evaluate)
    worker._validate(None, SimpleNamespace(model=None), "a set", 5, said.append)
    return said[0]


def lost_without_logdir(monkeypatch, **_):
    from mnistdist.training import worker

    def gone(*_, **__):
        raise errors.TaskLost("ps:0 has gone")

    monkeypatch.setattr(worker, "worker_session", gone)
    spec = {"ps": ["p:1"], "worker": ["w:1"]}
    with pytest.raises(ConnectionError) as caught:
        worker.run_worker("", spec, 0, data=SimpleNamespace(train=None), steps=1, design="listing")
    return str(caught.value)


def slow_session(monkeypatch, **_):
    from mnistdist.training import session as module

    release = threading.Event()
    monkeypatch.setattr(module, "silence", lambda *_: None)
    manager = SimpleNamespace(wait_for_session=lambda *_, **__: release.wait(30))
    with pytest.raises(TimeoutError) as caught:
        supervisor, say = SimpleNamespace(session_manager=manager), lambda line: None
        module.open_session(supervisor, None, "", {"ps": []}, 1, wait_timeout=0.1, say=say)
    release.set()
    return str(caught.value)


def start_error(**_):
    """The words of the error, around a reason that `Cluster` gives."""
    error = errors.ClusterStartError("not every task came up", ready=1, expected=3, timeout=60)
    source = (ROOT / "mnistdist/cluster/engines.py").read_text(encoding="utf-8")
    assert '"not every task came up"' in source
    return str(error)


def not_running(**_):
    with pytest.raises(RuntimeError) as caught:
        Cluster().tasks  # noqa: B018 (asking for it is what raises)
    return str(caught.value)


def failed_cluster(monkeypatch, **_):
    cluster = Cluster()
    monkeypatch.setattr(Cluster, "status", "failed")
    monkeypatch.setattr(cluster, "_engines", SimpleNamespace(client=SimpleNamespace(ids=[])))
    with pytest.raises(RuntimeError) as caught:
        cluster.start()
    return str(caught.value)


def too_many_gpus(**_):
    with pytest.raises(ValueError, match="num_gpus") as caught:
        pinning.assign(ps=1, workers=1, num_gpus=5, gpus=["0"], cores=[0])
    return str(caught.value)


def truncated(tmp_path, **_):
    (tmp_path / "images").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 9, 1, 2]))
    with pytest.raises(ValueError) as caught:
        read_idx(tmp_path / "images", 1)
    return str(caught.value)


DIRECT = {
    "… at … did not answer within … s (…)": no_answer,
    "…: is it running, and is its address in --ps_hosts right?": missing_ps,
    "no session within … s: does a TensorFlow server of this very cluster answer as … at …?": no_session,
    "worker 0 did not come within … s: is it running, with the same addresses?": late_chief,
    "no session: does a TensorFlow server of this very cluster answer as … at …? (…)": other_cluster,
    "no session within … s. Every ps answers now: was one stopped, or overloaded, for a while?": slow_session,
    "no worker has come within … s: are they running, with the same addresses?": no_word,
    "…: port of … is in use by another process; end that, or choose another port": busy_port,
    "Must specify an explicit `job_name`: --job_name=ps or --job_name=worker": lambda **_: usage(),
    "Must specify an explicit `task_index`: --task_index=0 for the first task of a job": lambda **_: usage(
        "--job_name=ps"
    ),
    "--job_name: expected 'ps' or 'worker', got …": lambda **_: usage("--job_name=chief", "--task_index=0"),
    "--model: expected package.module:function, got …": worker("--model=net.py"),
    "--model: …: is the folder of … in PYTHONPATH?": of_model("mnistdist.no_such_module:net"),
    "--model: expected a function, got …": of_model("mnistdist:__version__"),
    "TF_CONFIG: …": of_environment(TF_CONFIG="[]"),
    "SLURM_… …": of_environment(SLURM_PROCID="0", SLURM_STEP_NUM_TASKS="3"),
    "--task_index: there is no … task …: --…_hosts names …, from 0 to …": worker("--task_index=7"),
    "--…: … is in --… already; each task has one of its own": worker("--worker_hosts=h:1,h:1"),
    "…: expected an int of … or more, got …": worker("--batch_size=0"),
    "…: expected an int of … or less, got …": worker("--batch_size=100000000"),
    "…: expected a number from … to …, got …": worker("--learning_rate=0"),
    "--…: expected the name of a directory, got …": worker("--logdir="),
    "…: expected 'fast' or 'listing', got …": worker("--design=slow"),
    "…: expected True or False, got …": worker("--sync_replicas=perhaps"),
    "…=… needs …: asynchronous training has no rounds": worker("--replicas_to_aggregate=1"),
    "--existing_servers: if the ps runs already, there is none to start; it is for workers": lambda **_: usage(
        "--job_name=ps", "--task_index=0", "--existing_servers"
    ),
    "expected flags only, --name=value; got …": worker("h:2"),
    "--… takes no value: write --…, or --…=false": worker("--nosync_replicas=true"),
    "can't write to standard output: …": closed_output,
    "--data_dir: …: all … training examples are the validation set, and none is left to train on": all_for_validation,
    "data.…: expected images of … pixels and … classes, as … them; got … and …": training("data", narrow_set),
    "…: it can't be sent to the workers: …": training("on_step", lambda: threading.Lock().acquire),
    "local_steps=…: expected at most steps=…: a push stands for as many": training("local_steps", lambda: 200),
    "no predictions: the training had no test set; give train() data with one": no_predictions,
    "Unknown command line flag …": worker("--nonsense=1"),
    "--… is what `mnistdist run` gives each task: use --ps, --workers and --network": of_launcher("--job_name=ps"),
    "not every task came up: … of … tasks were ready (limit … s)": start_error,
    "…: restart() brings ended tasks back; stop() ends the rest": failed_cluster,
    "the cluster is …: use `with Cluster(...) as cluster:` or cluster.start()": not_running,
    "… is not an address: expected host:port with a port from 1 to 65535": worker("--ps_hosts=nowhere"),
    "--network=private: this system allows no private network; use --network=host": of_launcher("--network=private"),
    "num_gpus must be between 0 and the … GPUs available; got …": too_many_gpus,
    "--data_dir: …: expected a directory, found a file; …": file_for_data,
    "logdir: no checkpoints can be kept in …: …": file_for_logdir,
    "… is in use by another training (…): wait for its end, or take another folder": two_trainings,
    "a step was not done in time. A synchronous round waits for as many gradients as it aggregates: …": explained(
        "DeadlineExceededError", sync=True
    ),
    "a step was not done in time. Every ps answers now: was one stopped, or overloaded, for a while?": explained(
        "DeadlineExceededError"
    ),
    "… has gone, and its variables with it": explained("UnavailableError", up=False),
    "a task of the cluster was lost or restarted: …": explained("AbortedError"),
    "a run that merges gradients was ended: …": explained("FailedPreconditionError", sync=True, merging=True),
    "start the training again (with a logdir, checkpoints would remain)": lost_without_logdir,
    "no checkpoint of global step … within … s: a ps does not answer": slow_checkpoint,
    "no evaluation within … s: a ps does not answer": slow_evaluation,
    "the trained model could not be read within … s: a ps does not answer": slow_reading,
    "every worker has been silent for … s (--ps_linger), and none has finished": silent_workers,
    "build_graph: expected a loss with a gradient, got one that depends on no variable": refused(
        lambda x, tf: tf.reduce_mean(x)
    ),
    "build_graph: expected one initializer of each iterator, got … besides": refused(two_initializers),
    "build_graph: expected x and y_ to be all that is fed, got … besides": refused(
        lambda x, tf: tf.get_variable("w", []) * tf.placeholder(tf.float32, [])
    ),
    "sync=True: the optimizer calls a Python function, which is in the workers only": refused(
        loss_of_rows, "python", sync=True
    ),
    "no evaluation: …": failed_evaluation,
}


@pytest.mark.parametrize("message", DIRECT)
def test_a_message_is_what_is_said(message, monkeypatch, capsys, tmp_path):
    said = DIRECT[message](monkeypatch=monkeypatch, capsys=capsys, tmp_path=tmp_path)
    assert re.search(pattern(message), said), said


# ------------------------------------------------------------------------------- produced elsewhere

# In the output of a notebook's checked cell, or asserted by one ("..." in error.message), whose output says True.
IN_NOTEBOOKS = {
    "CreateSession still waiting for response from worker: …": "clusters",
    "Could not start gRPC server": "clusters",
    'Task … was not defined in job "…"': "clusters",
    'Job "…" was not defined in cluster': "clusters",
    "got an unexpected keyword argument 'replica_id'": "program",
    "The flag … is defined twice.": "program",
    "Cannot assign a device for operation …": "clusters",
    "number of gpus is less than number of workers: … GPUs, … workers": "from_listing_to_program",
    "expected … bytes after the header, for … examples; found …: the file is truncated": "data_and_model",
    "Cannot feed value of shape … for Tensor …, which has shape …": "data_and_model",
    "DeadlineExceededError: Operation timed out.": "when_it_goes_wrong",
    "UnavailableError": "recovery",
    "sync_token_q' is closed": "synchronous",
    "uninitialized value …": "clusters",
    "Graph is finalized and cannot be modified.": "program",
    "Collective ops must be configured at program startup": "when_it_goes_wrong",
    "Coordinator stopped with threads still running": "program",
}
# Asserted by a test: its module, and words of the message that stand in it.
IN_TESTS = {
    "worker:0, the chief, did not initialise the variables within … s: is it running?": (
        "test_session",
        "worker:0, the chief, did not initialise the variables within 2 s",
    ),
    "…: port of … is not permitted to this user; choose another port, above 1023 as a rule": (
        "test_environments",
        "not permitted to this user; choose another port",
    ),
    "this process may open … more files, and a cluster needs …: … of … tasks were ready (limit … s)": (
        "test_environments",
        "more files, and a cluster needs 128",
    ),
    "…, and this user may start … more processes and threads: … of … tasks were ready (limit … s)": (
        "test_environments",
        "and this user may start 7 more processes and ",
    ),
    "its folder … has been removed: … of … tasks were ready (limit … s)": ("test_environments", "has been removed"),
    "this process's working folder has been deleted: change to another one first": (
        "test_environments",
        "working folder has been deleted: change to another one first",
    ),
    "sys.executable: expected the path of the Python interpreter, got …": (
        "test_environments",
        "sys.executable: expected the path of the Python interpreter, got None",
    ),
    "…: expected a … on this machine, got the address …": ("test_environments", "on this machine, got the address"),
    "… ended with … while starting": ("test_cluster", "ended with exit code 1 while starting"),
    "this task has no `server`: start the cluster with servers=True, or make one in every task": (
        "test_train",
        "servers=True",
    ),
    "Other clusters that are still running in this process: …, with … processes. …": (
        "test_cluster",
        "Other clusters that are still running in this process: 1, with 7 processes",
    ),
    "the `server` in this task: expected a tf.train.Server of …, got …": (
        "test_train",
        "the `server` in this task: expected a tf.train.Server of worker:0",
    ),
    "… still busy with an earlier call after … s: wait until the call ends, or end it with cluster.restart(…)": (
        "test_train",
        "worker:1 is still busy with an earlier call after 3 s: wait until the call ends, or end it with",
    ),
    "… still stopped, as SIGSTOP does it, after … s: let it go on with …, or end it with …": (
        "test_train",
        "worker:1 is still stopped, as SIGSTOP does it, after 3 s: let it go on with",
    ),
    "another training is still running on this cluster after … s: wait until it ends, or end it with …": (
        "test_train",
        "another training is still running on this cluster after 2 s: wait",
    ),
    "task … failed: it ended with … before the training": (
        "test_train",
        "it ended with SIGKILL before the training",
    ),
    "task … failed: it ended with …": ("test_cluster", "task worker:1 failed: it ended with SIGKILL"),
    "… can't be resolved": ("test_network", "can't be resolved"),
    "this system allows no private network": ("test_network", "allows no private network"),
    "host …: … has not reached it (…)": ("test_hosts", "has not reached it (exit code 255)"),
    "host … has not answered": ("test_hosts", "host n1 has not answered"),
    "host …: … can't be run there": ("test_hosts", ": /no/such/python can't be run there"),
    "host …: … has no such mnistdist there": ("test_hosts", "bare has no such mnistdist there"),
    "host …: it has … …, and this machine has …": ("test_hosts", ": it has Python 3.9, and this machine has "),
    "host …: it has no TensorFlow": ("test_hosts", ": it has no TensorFlow"),
    "host …: port … is …": ("test_hosts", "host n2: port 2223 is in use by another process; end that"),
    "host …: … can't be resolved there: …": ("test_hosts", ": 'nameless' can't be resolved there: "),
    "host …: the link to its agent has closed (…)": (
        "test_hosts",
        "host n2: the link to its agent has closed (SIGKILL)",
    ),
    "host …: nothing has been heard from it for … s": ("test_hosts", "host n3: nothing has been heard from it for "),
    "host …: its keeper or nursery has ended": ("test_hosts", "host n2: its keeper or nursery has ended"),
    "No private network on …": ("test_network", "listen on every interface"),
    "…, with or without .gz; missing: …; found …": ("test_data_dir", "missing: train-images-idx3-ubyte, train-labels"),
    "unshare: …": ("test_network", "unshare: Invalid argument"),
    "this process has … threads: enter the private network before anything starts one, as importing NumPy or "
    "TensorFlow does": ("test_network", "this process has 2 threads: enter the private network"),
    "can't write the checkpoint of global step … to …: …": (
        "test_checkpoints",
        "can't write the checkpoint of global step 30 to",
    ),
    "… is damaged: …; training goes on from …": ("test_checkpoints", "; training goes on from "),
    "… is damaged: …; there is no whole checkpoint in its folder: take another folder": (
        "test_checkpoints",
        "; there is no whole checkpoint in its folder: take another folder",
    ),
    "can't restore …: it is of another model or optimizer (…): take another folder": (
        "test_logdir",
        ": it is of another model or optimizer ",
    ),
    "build_graph: its variables can't be initialised: …": ("test_one_design", "its variables can't be initialised: "),
    "build_graph: the model fails on a batch of …: …": (
        "test_one_design",
        "build_graph: the model fails on a batch of 8: ",
    ),
    "build_graph: … takes variables into a tf.function: that needs design='fast'": (
        "test_zoo",
        "that needs design='fast'",
    ),
    "…: trained in the listing's design": ("test_zoo", "trained in the listing's design"),
    "…: that needs design='listing', without local_steps or steps_per_run": (
        "test_one_design",
        "that needs design='listing', without local_steps or steps_per_run",
    ),
    "optimizer: expected a tf.train.Optimizer, got …": (
        "test_one_design",
        "optimizer: expected a tf.train.Optimizer, got",
    ),
    "optimizer: expected one of which compute_gradients() and apply_gradients() are all that is called, got … with a "
    "minimize() of its own": ("test_one_design", "got ClipsInMinimize with a minimize() of its own"),
    "optimizer: expected one that leaves the global step alone, got one that changes it": (
        "test_one_design",
        "optimizer: expected one that leaves the global step alone, got one that changes it",
    ),
    "optimizer: expected one whose rounds need nothing that is fed, got …": (
        "test_one_design",
        "optimizer: expected one whose rounds need nothing that is fed, got 'Placeholder'",
    ),
    "build_graph: expected a Graph of tensors, got a … without a tensor as …": (
        "test_one_design",
        "build_graph: expected a Graph of tensors, got a NoneType without a tensor as x, y_, y, loss, accuracy",
    ),
    "build_graph: expected a loss of floating point, got one of …": (
        "test_one_design",
        "build_graph: expected a loss of floating point, got one of int32",
    ),
    "build_graph: expected a loss that is a scalar, got one of shape …": (
        "test_one_design",
        "build_graph: expected a loss that is a scalar, got one of shape (?,)",
    ),
    "sync=True: expected an optimizer that needs only gradients, of 16, 32 or 64 bits, got one that needs …, of …": (
        "test_one_design",
        "sync=True: expected an optimizer that needs only gradients, of 16, 32 or 64 bits, got one that",
    ),
    "can't save the model: …": ("test_train", "can't save the model"),
    "task cluster failed: its keeper, controller or nursery has ended": (
        "test_train",
        "keeper, controller or nursery has ended",
    ),
    "worker:0, the chief, ended in round … of …": ("test_worker", "worker:0, the chief, ended in round 5 of 10"),
    "task … failed: it ended with … during the training": ("test_train", "failed: it ended with SIGKILL"),
    "task … failed: it has been stopped for … s, as SIGSTOP does it": ("test_train", "it has been stopped for 4 s"),
    "no session within … s. … accepts connections, but does not answer: is it stopped, or overloaded?": (
        "test_session",
        "TimeoutError: no session within 2 s. ps:0 at",
    ),
    "a step was not done in time. … accepts connections, but does not answer: is it stopped, or overloaded?": (
        "test_session",
        "TimeoutError: a step was not done in time. ps:0 at",
    ),
    "… ended with …, and the ps before it: the training is over": ("test_distributed", "and the ps before it"),
    "worker 0 has other flags: …; start all tasks with the same (see --help)": (
        "test_distributed",
        "worker 0 has other flags: ",
    ),
    "the training that the ps tasks hold has other flags: …; go on with the same, or end the ps tasks to begin anew": (
        "test_distributed",
        "the training that the ps tasks hold has other flags: ",
    ),
    "… has been stopped for … s, as SIGSTOP does it: it is ended": ("test_distributed", "has been stopped for 1 s"),
    "… ended with …: the other tasks are ended": ("test_distributed", "ended with SIGKILL: the other tasks are ended"),
    "… ended with …: started again": ("test_distributed", "ended with SIGKILL: started again"),
    "… has already ended (…): restart() brings it back": ("test_cluster", "worker:1 has already ended"),
}


def test_every_message_of_the_page_is_produced_by_something():
    known = [*DIRECT, *IN_NOTEBOOKS, *IN_TESTS]
    assert len(known) == len(set(known))
    assert sorted(message.strip() for message in MESSAGES) == sorted(known)


@pytest.mark.parametrize("message", IN_NOTEBOOKS)
def test_a_notebook_shows_the_message(message):
    notebook = nbformat.read(ROOT / "book" / f"{IN_NOTEBOOKS[message]}.ipynb", as_version=4)
    checked = [cell for _, cell in code_cells(notebook) if is_checked(cell)]
    shown = any(re.search(pattern(message), compared(cell)) for cell in checked)
    words = pattern(message.removesuffix("…").strip().removesuffix(" for operation"))
    asserted = [cell for cell in checked if re.search(rf'"{words}[^"]*" in error\.message', cell.source)]
    assert shown or any("True" in compared(cell) for cell in asserted)


@pytest.mark.parametrize("message", IN_TESTS)
def test_a_test_asserts_the_message(message):
    module, words = IN_TESTS[message]
    (path,) = (ROOT / "tests").rglob(f"{module}.py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    asserted = [node for node in ast.walk(tree) if isinstance(node, (ast.Assert, ast.withitem, ast.Tuple))]
    texts = [n.value for node in asserted for n in ast.walk(node) if isinstance(n, ast.Constant) and n.value]
    assert any(words in text.replace("\\", "") for text in texts if isinstance(text, str))


# ------------------------------------------------------------------------------- the other way round


def constant_parts(node):
    """The fixed words of a string, f-string or string times something."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return [part.value for part in node.values if isinstance(part, ast.Constant)]
    return []


def raised():
    """(place, the fixed words) of every error of ours that the package makes; those that pass words on are not.

    A TypeError or a ValueError says itself what was expected of the argument that it names: no page is needed for it.
    """
    for path in sorted((ROOT / "mnistdist").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in OURS:
                parts = [part for argument in node.args for part in constant_parts(argument)]
                if any(re.search(r"\w{3}", re.sub(r"^--\w+:", "", part)) for part in parts):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", parts


def test_every_message_of_the_package_is_on_the_page():
    page, missing = " ".join(PAGE.split()), []
    for place, parts in raised():
        longest = max(parts, key=len).strip()
        if longest not in page and not any(known in parts or longest == known for known in NOT_ON_THE_PAGE):
            missing.append(f"{place}: {longest!r}")
    assert missing == []


def test_what_is_left_out_is_still_in_the_package():
    parts = {part.strip() for _, parts in raised() for part in parts}
    assert {words.strip() for words in NOT_ON_THE_PAGE} <= parts


# ------------------------------------------------------------------------------- the form of the page


def test_every_message_has_its_symptom_in_chinese_and_something_to_do():
    entries = re.split(r"^### +", PAGE, flags=re.M)[1:]
    assert len(entries) == len(MESSAGES) > 50
    for entry in entries:
        entry = re.split(r"^## ", entry, flags=re.M)[0]
        title, _, rest = entry.partition("\n")
        symptom = rest.strip().splitlines()[0]
        assert title.startswith("`") and title.rstrip().endswith("`"), title
        assert len(re.findall(r"[\u4e00-\u9fff]", symptom)) >= 4 and symptom.endswith("。"), (title, symptom)
        assert "**Do**" in rest, title
