import functools
import itertools
import os
import re
import signal
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from mnistdist import Cluster, ClusterStartError, DataSet, Datasets, Task, TaskFailed, read_data_sets, train
from mnistdist.training import progress
from mnistdist.training.calls import _busy, _Calls
from mnistdist.training.spec import STEPS_PER_RUN
from tests.helpers import alive, below, wait_until


def small_model():
    """A reader's own graph: one softmax layer on 784 inputs."""
    import tensorflow.compat.v1 as tf

    from mnistdist import Graph

    weights = tf.get_variable("weights", [784, 10], initializer=tf.zeros_initializer())
    x = tf.placeholder(tf.float32, [None, 784])
    y_ = tf.placeholder(tf.float32, [None, 10])
    logits = tf.matmul(x, weights)
    loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits_v2(labels=y_, logits=logits))
    y = tf.nn.softmax(logits)
    right = tf.equal(tf.argmax(y, 1), tf.argmax(y_, 1))
    return Graph(x, y_, y, loss, tf.reduce_mean(tf.cast(right, tf.float32)))


@pytest.mark.parametrize(("design", "more"), [("fast", STEPS_PER_RUN), ("listing", 1)])
def test_async_training_counts_every_update_once(cluster, design, more):
    run = train(cluster, steps=400, seed=3, design=design)
    steps = run.steps
    assert 400 <= run.global_step <= 400 + more  # what the other worker has begun as the last is counted
    assert sorted(steps.global_step_after) == list(range(1, run.global_step + 1))
    assert set(steps.worker) == {0, 1}
    assert (steps.staleness >= 0).all()
    assert (steps.end > steps.start).all()
    assert steps.start.min() == 0
    assert run.test.accuracy > 0.85
    assert run.predictions.shape == (10000,)
    truth = read_data_sets().test.labels
    assert (run.predictions == truth).mean() == pytest.approx(run.test.accuracy, abs=1e-4)
    assert [result.task_index for result in run.results] == [0, 1]
    assert repr(run) == "Run(sync=False)"


@pytest.mark.parametrize("design", ["fast", "listing"])
def test_sync_training_counts_rounds_and_again_starts_afresh(cluster, design):
    for _ in range(2):  # the second would draw the first one's left-over tokens if anything were left on the ps
        run = train(cluster, steps=60, sync=True, seed=3, design=design)
        assert run.global_step == 60
        assert len(run.steps) >= 120
        assert run.steps.staleness.isna().all()
        assert run.steps.loss.iloc[0] > 100  # an untrained network's


def test_a_readers_own_graph_optimizer_and_data(cluster):
    mnist = read_data_sets(one_hot=True)
    few = Datasets(*(DataSet(part.images[:600], part.labels[:600]) for part in mnist))

    def momentum(rate):
        import tensorflow.compat.v1 as tf

        return tf.train.MomentumOptimizer(rate, 0.9)

    run = train(cluster, steps=150, build_graph=small_model, optimizer=momentum, learning_rate=0.1, data=few, seed=0)
    assert set(run.model.variables) == {"weights"}
    assert run.predictions.shape == (600,)
    assert run.validation.accuracy > 0.7


@pytest.mark.parametrize("design", ["fast", "listing"])
def test_the_same_seed_gives_the_same_start(cluster, design):
    def first_losses(seed):
        """Of the workers' first batches on the initial weights: by worker, for those that nobody was ahead of."""
        steps = train(cluster, steps=1, seed=seed, design=design).steps
        return steps[steps.global_step_before == 0].set_index("worker").loss.to_dict()

    one, again, other = (first_losses(seed) for seed in (11, 11, 12))
    for worker in set(one) & set(again):
        assert one[worker] == pytest.approx(again[worker], rel=1e-4)
    assert not set(one.values()) & set(other.values())


def test_on_step_runs_in_the_worker_and_a_slow_worker_does_less(cluster):
    def slow(record):
        if record.worker == 1:
            time.sleep(0.1)

    steps = train(cluster, steps=600, on_step=slow).steps
    counts = steps.groupby("worker").size()
    assert counts[0] > counts[1]


def test_a_saved_model_is_restored_in_a_single_process(cluster, tmp_path):
    run = train(cluster, steps=50, seed=1)
    path = run.save(tmp_path / "model.npz")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.npz"]

    def alone(path):
        import tensorflow.compat.v1 as tf

        from mnistdist import read_data_sets, restore
        from mnistdist.model import build_model, evaluate

        with tf.Graph().as_default(), tf.Session() as session:
            model = build_model()
            restore(session, path)
            accuracy = evaluate(session, model, read_data_sets(one_hot=True).test).accuracy
        with tf.Graph().as_default(), tf.Session() as session:
            build_model(hidden_units=7)
            try:
                restore(session, path)
            except ValueError as error:
                return accuracy, str(error)

    accuracy, complaint = cluster["worker", 0].apply_sync(alone, str(path))
    assert accuracy == pytest.approx(run.test.accuracy, abs=1e-3)
    assert "hid_w of shape (784, 100); the graph's is (784, 7)" in complaint
    with pytest.raises(OSError, match="can't save the model"):
        run.save(tmp_path / "no" / "model.npz")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps: expected an int of 1 or more, got 0"),
        ({"steps": 1.5}, "steps: expected an int of 1 or more, got 1.5"),
        ({"steps": 1, "batch_size": 0}, "batch_size: expected an int of 1 or more, got 0"),
        ({"steps": 1, "replicas_to_aggregate": 2}, "needs sync=True"),
        ({"steps": 1, "data": __file__}, "test_train.py"),
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(cluster, arguments, message):
    before = [task.pid for task in cluster.tasks]
    with pytest.raises((ValueError, TypeError, OSError), match=message):
        train(cluster, **arguments)
    assert [task.pid for task in cluster.tasks] == before


@pytest.mark.parametrize(("victim", "sync"), [("worker:1", False), ("ps:0", True)])
def test_a_task_that_dies_is_named_and_the_cluster_is_usable_after(cluster, victim, sync):
    threading.Timer(3, cluster.kill, [victim]).start()
    with pytest.raises(TaskFailed, match=f"task {victim} failed: it ended with SIGKILL") as caught:
        train(cluster, steps=10**6, sync=sync)
    assert "train again" in caught.value.hint
    assert cluster.status == "running"
    assert train(cluster, steps=20).global_step >= 20


@pytest.mark.parametrize(
    ("victim", "end", "how"),
    [
        ("worker:1", lambda cluster: cluster.kill("worker:1"), "SIGKILL"),
        ("worker:0", lambda cluster: cluster["worker", 0].apply_async(os._exit, 3).wait(10), "exit code 3"),
        ("ps:0", lambda cluster: cluster.kill("ps:0"), "SIGKILL"),
    ],
)
def test_a_task_that_has_ended_before_a_training_is_named_and_comes_back(cluster, victim, end, how):
    end(cluster)
    with pytest.raises(TaskFailed, match=f"task {victim} failed: it ended with {how} before the training") as caught:
        train(cluster, steps=60)
    assert "train again" in caught.value.hint
    assert cluster.status == "running"
    assert train(cluster, steps=20).global_step >= 20


def test_tasks_that_have_ended_before_a_training_are_started_again_where_that_is_asked_for(cluster):
    cluster.kill("worker:1")
    pids = {task.name: task.pid for task in cluster.tasks}
    assert train(cluster, steps=20, restarts=1).global_step >= 20
    assert [task.name for task in cluster.tasks if task.pid != pids[task.name]] == ["worker:1"]
    cluster.kill("worker:1")
    cluster.kill("ps:0")
    with pytest.raises(TaskFailed, match="it ended with SIGKILL before the training"):
        train(cluster, steps=20, restarts=1)
    assert train(cluster, steps=20).global_step >= 20


def test_a_task_that_has_not_come_up_is_lost_too(cluster, monkeypatch):
    def leave_unfinished():
        with monkeypatch.context() as short, pytest.raises(ClusterStartError):
            short.setattr(cluster, "timeout", 0.001)
            cluster.restart("worker:1")

    leave_unfinished()
    with pytest.raises(TaskFailed, match="task worker:1 failed: it has not come up before the training"):
        train(cluster, steps=60)
    assert cluster.status == "running"
    leave_unfinished()
    assert train(cluster, steps=20, restarts=1).global_step >= 20


def test_a_worker_that_ends_as_it_is_asked_whether_it_is_idle_is_started_again(cluster, monkeypatch):
    pid = cluster.tasks[2].pid

    def end_then_find(task, find=cluster._find):
        if getattr(task, "pid", None) == pid:
            os.kill(pid, signal.SIGKILL)
            cluster._engines.processes.wait_for_exits([("worker", 1)], 10)
        return find(task)

    monkeypatch.setattr(cluster, "_find", end_then_find)
    assert train(cluster, steps=20, restarts=1).global_step >= 20
    assert cluster.tasks[2].pid != pid


def test_a_call_that_could_not_be_made_fails_with_its_cause():
    class Ended:
        def __getitem__(self, task):
            raise TaskFailed("worker:1", "it ended with SIGKILL")

    calls = _Calls(Ended(), os.getpid, [0, 1], ())
    assert calls.wait(0) and calls.global_step() == 0
    assert [calls.cause(*failed).reason for failed in calls.failed()] == ["it ended with SIGKILL"] * 2


@pytest.mark.parametrize(
    ("stopped", "said"),
    [
        (
            True,
            "worker:0 and worker:1 are still stopped, as SIGSTOP does it, after 3 s: let them go on with "
            'cluster.kill("worker:0", "SIGCONT") and cluster.kill("worker:1", "SIGCONT"), or end them with '
            "cluster.restart()",
        ),
        (
            False,
            "worker:0 and worker:1 are still busy with an earlier call after 3 s: wait until the calls end, or end "
            "them with cluster.restart()",
        ),
    ],
)
def test_several_busy_workers_are_named(stopped, said):
    tasks = [Task("worker", i, "", "", 1, i) for i in (0, 1)]
    assert str(_busy(tasks, tasks if stopped else [], 3)) == said


def block_in_join():
    from IPython import get_ipython

    get_ipython().user_ns["server"].join()


@pytest.mark.parametrize(
    ("task", "work", "said"),
    [
        (
            "worker:1",
            lambda cluster: cluster["worker", 1].apply_async(time.sleep, 30),
            "worker:1 is still busy with an earlier call after 3 s: wait until the call ends, or end it with",
        ),
        (
            "worker:0",
            lambda cluster: cluster["worker", 0].execute("while True: pass", block=False),
            "worker:0 is still busy with an earlier call",
        ),
        (
            "worker:1",
            lambda cluster: cluster["worker", 1].apply_async(block_in_join),
            "worker:1 is still busy with an earlier call",
        ),
        (
            "worker:1",
            lambda cluster: cluster.kill("worker:1", "SIGSTOP"),
            "worker:1 is still stopped, as SIGSTOP does it, after 3 s: let it go on with cluster.kill",
        ),
    ],
    ids=["a call", "a cell", "join", "stopped"],
)
def test_a_worker_that_is_still_busy_is_named_and_nothing_is_touched(cluster, task, work, said):
    call = work(cluster)
    (other,) = {"worker:0", "worker:1"} - {task}
    pids, begin = [each.pid for each in cluster.tasks], time.monotonic()
    with pytest.raises(RuntimeError, match=said) as caught:
        train(cluster, steps=60, step_timeout=3)
    assert 2 < time.monotonic() - begin < 10
    assert f'cluster.restart("{task}")' in str(caught.value)
    assert not isinstance(caught.value, TaskFailed)
    assert [each.pid for each in cluster.tasks] == pids
    assert call is None or not call.ready()
    assert cluster[other].apply_async(os.getpid).get(timeout=2) in pids  # it has nothing to do
    cluster.restart(task)
    assert train(cluster, steps=20).global_step >= 20


def test_a_call_that_ends_soon_is_waited_for_and_a_busy_ps_does_not_matter(cluster, capsys):
    first = cluster.workers.apply_async(time.sleep, 2)
    second = cluster["ps", 0].apply_async(time.sleep, 60)
    assert train(cluster, steps=20).global_step >= 20
    assert first.ready() and not second.ready()
    assert capsys.readouterr() == ("", "")
    cluster.restart("ps:0")


def test_a_second_training_at_the_same_time_is_refused_and_the_first_goes_on(cluster):
    runs = []
    slow = functools.partial(lambda seconds, record: time.sleep(seconds), 0.05)
    first = threading.Thread(target=lambda: runs.append(train(cluster, steps=200, sync=True, on_step=slow)))
    first.start()
    time.sleep(1)
    with pytest.raises(RuntimeError, match="another training is still running on this cluster after 2 s: wait"):
        train(cluster, steps=20, step_timeout=2)
    first.join(60)
    assert runs[0].global_step == 200


def test_what_a_task_is_comes_from_the_task_and_not_from_its_namespace(cluster):
    cluster.all.execute(
        "cluster_spec['worker'].pop(); task_index, job_name, cluster_spec = 0, 'ps', 5; server = 'mine'"
    )
    run = train(cluster, steps=60, sync=True, seed=1)
    assert [result.task_index for result in run.results] == [0, 1]
    assert cluster.workers["server"] == ["mine"] * 2
    cluster.all.execute("del server, cluster_spec, task_index, job_name; np = tf = mnistdist = identity = None")
    cluster.all.execute("import tensorflow.compat.v1 as tf; tf.reset_default_graph(); tf.InteractiveSession()")
    assert train(cluster, steps=60, sync=True).global_step == 60
    cluster.restart()
    cluster.all.execute("import tensorflow.compat.v1 as tf; tf.enable_v2_behavior()")
    assert train(cluster, steps=60, sync=True).global_step == 60
    assert cluster.workers.apply_sync(lambda: __import__("tensorflow").executing_eagerly()) == [True, True]
    cluster.restart()
    assert cluster.workers["task_index"] == [0, 1]


MADE_BY_HAND = "import tensorflow.compat.v1 as tf; server = tf.train.Server(tf.train.ClusterSpec(cluster_spec), {})"


def test_servers_made_by_hand_are_used_if_they_are_the_tasks_own():
    other = MADE_BY_HAND.format("'worker', 1").replace("(cluster_spec)", "({'worker': ['h:1', '127.0.0.1:23231']})")
    with Cluster(ps=1, workers=2, servers=False) as bare:
        for code, got in (
            ("", "this task has no `server`: start the cluster with servers=True"),
            (other, "got one of worker:1"),
            (MADE_BY_HAND.format("'ps', 0"), "got one of ps:0"),
            ("server = 'localhost:2222'", "got what is of type str"),
        ):
            bare["worker", 0].execute(code)
            bare["worker", 1].execute(MADE_BY_HAND.format("job_name, task_index"))
            with pytest.raises(TaskFailed) as caught:
                train(bare, steps=1, step_timeout=20)
            assert caught.value.task == "worker:0" and got in caught.value.reason
            if code:
                assert "the `server` in this task: expected a tf.train.Server of worker:0" in caught.value.reason
            assert "\n" not in caught.value.reason
        bare.all.execute(MADE_BY_HAND.format("job_name, task_index"))
        bare.all.execute("task_index, cluster_spec = 0, None")
        run = train(bare, steps=60, sync=True)
        assert [result.task_index for result in run.results] == [0, 1]


@pytest.mark.parametrize("sync", [False, True])
def test_a_training_that_was_complete_gives_its_model_and_no_steps(cluster, alone, tmp_path, sync):
    if not sync:  # another worker might finish a step after worker 0 has written the last checkpoint
        cluster = alone
    before = train(cluster, steps=40, seed=1, sync=sync, logdir=tmp_path)
    run = train(cluster, steps=40, seed=1, sync=sync, logdir=tmp_path)
    assert run.global_step == before.global_step
    assert run.test == before.test and run.validation == before.validation
    assert len(run.steps) == 0
    assert run.steps.dtypes.to_dict() == before.steps.dtypes.to_dict()
    assert [result.global_step for result in run.results] == [run.global_step] * len(cluster.workers)
    figures = [run.plot_loss(), run.plot_timeline(), run.plot_staleness()]
    assert not any(axes.lines or axes.patches or axes.collections for figure in figures for axes in figure.axes)
    assert (run.predictions == before.predictions).all()
    assert run.save(tmp_path / "model.npz").exists()


def test_sets_that_are_empty_or_not_there_are_not_evaluated(cluster):
    mnist = read_data_sets(one_hot=True, validation_size=0)
    run = train(cluster, steps=20, data=Datasets(mnist.train, mnist.validation, None), seed=np.uint8(7))
    assert (run.validation, run.test) == (None, None)
    with pytest.raises(ValueError, match="no predictions: the training had no test set"):
        run.predictions  # noqa: B018


def test_the_steps_of_one_run_may_draw_more_examples_than_a_batch_may_have(cluster):
    def tiny():
        import tensorflow.compat.v1 as tf

        from mnistdist import Graph

        x, y_ = tf.placeholder(tf.float32, [None, 2]), tf.placeholder(tf.float32, [None, 2])
        y = tf.nn.softmax(tf.matmul(x, tf.get_variable("w", [2, 2])))
        return Graph(x, y_, y, tf.reduce_mean(tf.square(y - y_)), tf.reduce_mean(y))

    part = DataSet(np.zeros((100_000, 2), np.float32), np.ones((100_000, 2), np.float32))
    options = {"build_graph": tiny, "data": Datasets(part, None, None), "design": "fast"}
    assert train(cluster, steps=200, batch_size=100_000, **options).global_step >= 200


def test_what_a_graph_raises_is_the_failure_of_its_worker(cluster):
    def broken(error=RuntimeError):
        raise error("no graph today")

    with pytest.raises(TaskFailed, match=r"task worker:0 failed: RuntimeError: no graph today"):
        train(cluster, steps=10, build_graph=broken)
    pids = [task.pid for task in cluster.tasks]
    with pytest.raises(ValueError, match=r"^no graph today$"):  # a refusal, as the package's own: nothing has started
        train(cluster, steps=10, build_graph=functools.partial(broken, ValueError))
    assert [task.pid for task in cluster.tasks] == pids


def test_several_ps_share_the_variables_and_other_sets_are_trained_on_as_they_are(tmp_path):
    mnist = read_data_sets(tmp_path)  # fills the folder
    assert mnist.train.num_examples == 55000
    with Cluster(ps=2, workers=3) as many:
        run = train(many, steps=300, data=tmp_path)
        assert run.global_step in (300, 301, 302)
        assert set(run.steps.worker) == {0, 1, 2}
        assert run.test.accuracy > 0.8


def test_an_interrupt_leaves_a_usable_cluster(run_python):
    client = run_python("""
        import signal
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent in the background has it ignored
        from mnistdist import Cluster, train
        with Cluster(ps=1, workers=2) as cluster:
            print("running", flush=True)
            try:
                train(cluster, steps=10**6)
            except KeyboardInterrupt:
                print(cluster.status, train(cluster, steps=10).global_step >= 10)
    """)
    assert client.stdout.readline() == "running\n"
    time.sleep(4)
    client.send_signal(signal.SIGINT)
    out, err = client.communicate(timeout=90)
    assert out == "running True\n", err


def test_a_plain_script_trains_away_from_the_checkout(tmp_path, run_python):
    client = run_python(
        """
        from mnistdist import Cluster, train
        cluster = Cluster(ps=1, workers=2).start()
        print(train(cluster, steps=100, sync=True).global_step, flush=True)
        input()
        """,
        cwd=tmp_path,
        stdin=-1,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert client.stdout.readline() == "100\n", client.stderr.read()
    tree = below(client.pid)
    client.communicate("\n", timeout=20)  # it ends without stop()
    wait_until(lambda: not alive(tree), 10, "the end of every process")


def test_a_ps_and_the_chief_are_started_again_when_both_are_lost():
    """The ps comes first; the call of the chief has failed by then, which is not an answer, and can't be made yet."""
    from mnistdist.training.calls import _Calls

    made, alive = [], {0, 1}

    def call(function, sent):
        index = made[-1]
        assert index in alive
        return SimpleNamespace(ready=lambda: index not in alive, successful=lambda: False)

    class Fake:
        def __getitem__(self, task):
            made.append(task[1])
            return SimpleNamespace(apply_async=call)

    calls = _Calls(Fake(), len, [0, 1], ())
    alive.remove(0)
    calls.replaced("ps:0", restores=True)
    assert made == [0, 1]
    alive.add(0)
    calls.replaced("worker:0", restores=True)
    assert made == [0, 1, 0]


def test_progress_is_shown_to_a_person_only(monkeypatch, capsys):
    def bar():
        with progress.shown(10) as show:
            show(3)
        return capsys.readouterr().err

    monkeypatch.setenv("MNISTDIST_PROGRESS", "0")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert bar() == ""
    monkeypatch.delenv("MNISTDIST_PROGRESS")
    assert "global step:" in bar()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert bar() == ""


def test_the_bar_of_a_notebook_is_a_display_of_its_own_and_leaves_nothing(monkeypatch, capsys):
    import IPython.display

    class Handle:
        def __init__(self, what):
            self.shown = [what]

        def update(self, what, raw=False):
            self.shown.append(what)

    made = []
    monkeypatch.setattr(IPython.display, "display", lambda what, display_id: made.append(Handle(what)) or made[0])
    monkeypatch.setattr(progress, "_in_notebook", lambda: True)
    monkeypatch.delenv("MNISTDIST_PROGRESS")
    with pytest.raises(KeyError), progress.shown(800) as show:
        for step in 0, 300, 300, 801:
            show(step)
        raise KeyError
    texts = [getattr(each, "data", each) for each in made[0].shown]
    assert [re.search(r"global step .*", text)[0] for text in texts[:-1]] == [
        "global step 0 of 800",
        "global step 300 of 800",
        "global step 801 of 800",
    ]
    assert 'max="800" value="800"' in texts[-2]
    assert texts[-1] == {}
    assert capsys.readouterr() == ("", "")


def test_predictions_are_the_most_probable_classes():
    from mnistdist import Run
    from mnistdist.results import SharedModel

    probabilities = np.array([[0.1, 0.9], [0.6, 0.4]], np.float32)
    run = Run(sync=False, results=[], model=SharedModel(0, {}, None, None, probabilities))
    assert run.predictions.tolist() == [1, 0]


def aborted_once(worker, at):
    """An on_step that loses the connection once, as far as the loop can tell; the other worker has time to spare."""

    def on_step(record):
        import time

        import tensorflow.compat.v1 as tf

        if record.worker != worker:
            time.sleep(0.01)
        elif record.local_step == at:
            raise tf.errors.AbortedError(None, None, "made up")

    return on_step


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("worker", [0, 1])
def test_a_lost_connection_to_living_variables_is_made_again(cluster, worker, sync):
    steps = 300 if sync else 1000  # in asynchronous training, enough for the other to go on meanwhile
    run = train(cluster, steps=steps, sync=sync, seed=1, on_step=aborted_once(worker, 10))
    assert run.global_step >= steps
    assert run.results[worker].steps[10].local_step == 11


@pytest.mark.parametrize("design", ["fast", "listing"])
def test_a_worker_that_comes_when_all_rounds_are_over_ends_too(cluster, design):
    """It is in a step, waiting for a token, when the chief has gone: the chief says that there will be none."""

    def late(record):
        if record.worker == 1:
            time.sleep(4)

    begin = time.monotonic()
    run = train(cluster, steps=100, sync=True, replicas_to_aggregate=1, on_step=late, design=design)
    assert run.global_step >= 100
    assert time.monotonic() - begin < 45
    assert train(cluster, steps=20, sync=True, design=design).global_step == 20


def test_the_end_of_the_keeper_is_an_error_of_the_training():
    def end_it(record, pid):
        if record.local_step == 5 and record.worker == 0:
            os.kill(pid, signal.SIGKILL)

    with Cluster(ps=1, workers=1) as short:
        keeper = short._engines.processes._keeper.pid
        with pytest.raises(TaskFailed, match="keeper, controller or nursery has ended") as caught:
            train(short, steps=10**6, on_step=functools.partial(end_it, pid=keeper))
        assert "stop() the cluster" in caught.value.hint
    assert short.status == "stopped"


@pytest.mark.parametrize("restarts", [0, 1])
def test_a_worker_that_is_stopped_for_good_is_noticed(cluster, restarts):
    """Nobody waits for it in asynchronous training: the others end, and it would be waited for without end."""

    def stops(record, pid):
        if record.worker == 1 and record.local_step == 5 and os.getpid() == pid:
            os.kill(pid, signal.SIGSTOP)

    (pid,) = [task.pid for task in cluster.tasks if task.name == "worker:1"]
    options = {"steps": 300, "step_timeout": 2, "on_step": functools.partial(stops, pid=pid)}
    begin = time.monotonic()
    if restarts:
        run = train(cluster, restarts=1, **options)
        assert run.global_step >= 300
    else:
        with pytest.raises(TaskFailed, match="it has been stopped for 4 s, as SIGSTOP does it") as caught:
            train(cluster, **options)
        assert caught.value.task == "worker:1"
        assert train(cluster, steps=20).global_step >= 20
    assert time.monotonic() - begin < 30


def test_what_a_task_leaves_behind_may_end_without_the_cluster(cluster):
    def leave():
        import subprocess

        subprocess.Popen(["sh", "-c", "sleep 0.5 & exit"])

    cluster["worker", 0].apply_sync(leave)
    time.sleep(1.5)
    assert cluster.status == "running"


def test_a_users_own_connection_error_is_not_taken_for_a_lost_ps(cluster):
    def fails(record):
        raise ConnectionRefusedError("the metrics server")

    with pytest.raises(TaskFailed, match="ConnectionRefusedError: the metrics server"):
        train(cluster, steps=200, on_step=fails)


def test_one_of_two_ps_is_lost_and_synchronous_training_goes_on_from_the_checkpoint(tmp_path):
    """The other ps has kept its share, its gradients and its tokens, of rounds that are to be made again."""
    sign = tmp_path / "sign"

    def on_step(record, path=str(sign)):
        if record.global_step_after >= 300 and record.worker == 1:
            open(path, "a").close()

    with Cluster(ps=2, workers=2) as several:

        def strike():
            wait_until(sign.exists, 60, "300 rounds")
            several.kill("ps:1")

        threading.Thread(target=strike, daemon=True).start()
        options = {"logdir": tmp_path / "log", "save_steps": 100, "restarts": 1, "step_timeout": 20}
        run = train(several, steps=700, sync=True, on_step=on_step, steps_per_run=16, **options)
    assert run.global_step == 700
    assert run.test.accuracy > 0.9
    told = [[record.global_step_after for record in result.steps] for result in run.results]
    rewound = [before - after for each in told for before, after in itertools.pairwise(each)]
    assert 0 < max(rewound) <= 116  # a checkpoint every 100 steps, and a run of 16


def checked_adam(rate):
    """Adam, and an error of the op that merges once 40 rounds have been made."""
    import tensorflow.compat.v1 as tf

    class Checked(tf.train.AdamOptimizer):
        def apply_gradients(self, grads_and_vars, global_step=None, name=None):
            left = tf.cast(tf.train.get_global_step().read_value() < 40, tf.float32)
            checked = [(tf.debugging.check_numerics(g / left, "no number"), v) for g, v in grads_and_vars]
            return super().apply_gradients(checked, global_step, name)

    return Checked(rate)


@pytest.mark.parametrize("design", ["fast", "listing"])
def test_an_error_of_merging_gradients_is_told_at_once(cluster, design):
    """Only a thread of the chief's meets it; all workers wait for a token that nobody will put into the queue."""
    begin = time.monotonic()
    with pytest.raises(TaskFailed, match=r"(?s)InvalidArgumentError.*no number") as caught:
        train(cluster, steps=500, sync=True, optimizer=checked_adam, step_timeout=None, design=design)
    assert caught.value.task == "worker:0"
    assert time.monotonic() - begin < 40
    assert train(cluster, steps=20, sync=True, design=design).global_step == 20


def test_a_ps_that_is_lost_after_the_chief_has_finished_comes_back_with_its_last_checkpoint(tmp_path):
    def late(record):
        if record.worker == 1 and record.local_step >= 3:
            time.sleep(6)

    with Cluster(ps=1, workers=2) as short:

        def strike():
            wait_until((tmp_path / "model.ckpt-300.index").exists, 60, "the chief's end")
            time.sleep(1)
            short.kill("ps:0")

        threading.Thread(target=strike, daemon=True).start()
        run = train(short, steps=300, on_step=late, logdir=tmp_path, restarts=1)
    assert run.global_step >= 300
    assert run.results[0].steps[-1].global_step_after == 300
    assert run.test.accuracy > 0.85
