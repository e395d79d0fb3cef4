import functools
import gc
import os
import pickle
import signal
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import ipyparallel
import pytest

from mnistdist import Cluster, ClusterStartError, Task
from mnistdist.cluster.engines import Engines
from mnistdist.errors import TaskFailed, describe_exit
from tests.cluster.open_ports import tree_of
from tests.helpers import alive, below, wait_until


@ipyparallel.interactive
def who():
    import os

    return job_name, task_index, os.getpid()  # noqa: F821 (names in the engine's namespace)


@ipyparallel.interactive
def add_across():
    """Put a constant on every task and add them up in one session."""
    import tensorflow.compat.v1 as tf

    with tf.Graph().as_default():
        parts = []
        for job, addresses in cluster_spec.items():  # noqa: F821 (the engine's)
            for i in range(len(addresses)):
                with tf.device(f"/job:{job}/task:{i}"):
                    parts.append(tf.constant(1.0))
        with tf.Session(server.target) as session:  # noqa: F821 (the engine's)
            return float(session.run(tf.add_n(parts)))


def test_tasks_are_real_processes_that_know_who_they_are(cluster):
    assert [task.name for task in cluster.tasks] == ["ps:0", "worker:0", "worker:1"]
    assert [task.engine for task in cluster.tasks] == [2, 0, 1]
    assert len({task.pid for task in cluster.tasks} | {os.getpid()}) == 4
    assert cluster.all.apply_sync(who) == [
        ("worker", 0, cluster.tasks[1].pid),
        ("worker", 1, cluster.tasks[2].pid),
        ("ps", 0, cluster.tasks[0].pid),
    ]
    assert cluster["worker", 1].apply_sync(who)[:2] == ("worker", 1)
    assert cluster["ps:0"].apply_sync(who)[:2] == ("ps", 0)
    assert cluster.workers.apply_sync(add_across) == [3.0, 3.0]


def test_an_idle_cluster_uses_no_processor(cluster):
    tree = tree_of(cluster)[1:]  # without the client
    assert {task.pid for task in cluster.tasks} < {process.pid for process in tree}

    def used():
        return sum(sum(process.cpu_times()[:2]) for process in tree)

    before, start = used(), time.monotonic()
    time.sleep(2)
    assert (used() - before) / (time.monotonic() - start) < 0.2  # of one core; a process that spins uses all of it


def test_tasks_see_the_environment_and_cores_of_their_pin(cluster):
    def seen():
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        return os.environ.get("CUDA_VISIBLE_DEVICES"), cores

    for task, (visible, cores) in zip(
        (*cluster.tasks[1:], cluster.tasks[0]), cluster.all.apply_sync(seen), strict=True
    ):
        pin = cluster._pins[task.job, task.index]
        assert visible == pin.env["CUDA_VISIBLE_DEVICES"]
        if sys.platform.startswith("linux") and pin.cores:
            assert cores == sorted(pin.cores)


def test_gpu_lists_reach_the_engines_without_a_gpu():
    with Cluster(ps=2, workers=3, devices=["0", "1"]) as many:
        seen = many.all.apply_sync(lambda: os.environ["CUDA_VISIBLE_DEVICES"])
        pins = [many._pins[job, i] for job, n in (("worker", 3), ("ps", 2)) for i in range(n)]
        assert seen == [pin.env["CUDA_VISIBLE_DEVICES"] for pin in pins]
        assert seen[:3] == ["0", "1", "0"]
        assert many.all.apply_sync(add_across) == [5.0] * 5


def test_tasks_draw_different_random_numbers(cluster):
    def draw():
        import random

        import numpy

        return random.random(), numpy.random.rand()

    drawn = cluster.all.apply_sync(draw)
    assert len({a for a, _ in drawn}) == len({b for _, b in drawn}) == 3


def test_reprs(cluster):
    assert repr(cluster) == "Cluster(ps=1, workers=2, status='running')"
    table = cluster._repr_html_()
    for task in cluster.tasks:
        assert all(str(part) in table for part in (task.name, task.address, task.device, task.pid))
    assert repr(Cluster()) == "Cluster(ps=1, workers=2, status='new')"


def test_restart_gives_fresh_processes_five_times_in_a_row(cluster):
    before = {task.pid for task in cluster.tasks}
    addresses = [task.address for task in cluster.tasks]
    for _ in range(5):
        assert cluster.restart() is cluster
        after = {task.pid for task in cluster.tasks}
        assert not before & after
        assert cluster.workers.apply_sync(add_across) == [3.0, 3.0]
        before = after
    assert [task.address for task in cluster.tasks] == addresses


def test_killing_one_task_is_heard_at_once_and_restart_brings_it_back(cluster):
    sleeping = cluster["worker", 1].apply_async(time.sleep, 60)
    wait_until(lambda: cluster.client.queue_status(1)["queue"], 10, "the call's arrival")
    cluster.kill("worker:1")
    with pytest.raises(ipyparallel.error.RemoteError, match="died"):
        sleeping.get(timeout=5)
    assert "SIGKILL" in cluster._repr_html_()
    assert cluster["worker", 0].apply_sync(who)[:2] == ("worker", 0)
    with pytest.raises(ValueError, match="worker:1 has already ended"):
        cluster.kill("worker:1")
    cluster.restart("worker:1")
    assert cluster.workers.apply_sync(add_across) == [3.0, 3.0]


def test_a_task_that_ends_by_itself_makes_the_cluster_failed(cluster):
    cluster["worker", 1].apply_async(os._exit, 3)
    wait_until(lambda: cluster.status == "failed", 10, "the news of the task's end")
    assert "exit code 3" in cluster._repr_html_()
    with pytest.raises(RuntimeError, match="restart"):
        cluster.start()
    cluster.restart("worker:1")
    assert cluster.status == "running"
    assert cluster.start() is cluster


USES = {
    "apply_sync": lambda cluster, view: view.apply_sync(os.getpid),
    "apply_async": lambda cluster, view: view.apply_async(os.getpid),
    "execute": lambda cluster, view: view.execute("1"),
    "push": lambda cluster, view: view.push({"a": 1}),
    "pull": lambda cluster, view: view.pull("task_index"),
    "scatter": lambda cluster, view: view.scatter("a", range(4)),
    "gather": lambda cluster, view: view.gather("a"),
    "map_sync": lambda cluster, view: view.map_sync(abs, range(4)),
    "workers": lambda cluster, view: cluster.workers,
    "all": lambda cluster, view: cluster.all.apply_sync(os.getpid),
    "task": lambda cluster, view: cluster["worker", 1],
    "client": lambda cluster, view: cluster.client.direct_view("all").apply_sync(os.getpid),
    "one": lambda cluster, view: cluster.client[1],
    "balanced": lambda cluster, view: cluster.client.load_balanced_view([0, 1]).apply_sync(os.getpid),
}


@pytest.fixture(scope="module")
def without_worker_1():
    """A cluster whose worker 1 has been killed, and a view of its workers from before; worker 1 is back at the end."""
    with Cluster(ps=1, workers=2) as running:
        view = running.workers
        running.kill("worker:1")
        yield running, view
        assert running["ps", 0].apply_sync(who)[:2] == ("ps", 0)
        assert running["worker", 0].apply_sync(who)[:2] == ("worker", 0)
        assert running.restart("worker:1").status == "running"
        assert view.apply_sync(who) == [("worker", i, running.tasks[1 + i].pid) for i in (0, 1)]
        assert view.map_sync(abs, [-1, -2, -3]) == [1, 2, 3]
        assert [task.engine for task in running.tasks] == [2, 0, 1]


@pytest.mark.parametrize("use", USES)
def test_a_task_that_has_ended_is_named_by_whatever_uses_it(without_worker_1, use):
    cluster, view = without_worker_1
    with pytest.raises(TaskFailed, match=r"task worker:1 failed: it ended with SIGKILL\n.*cluster\.restart\(\)"):
        USES[use](cluster, view)


def test_a_cluster_with_a_task_that_has_ended_says_so(without_worker_1):
    cluster, _ = without_worker_1
    assert (cluster.status, len(cluster.tasks)) == ("failed", 3)
    assert cluster._repr_html_().count("ended with SIGKILL") == 1
    with pytest.raises(RuntimeError, match="restart"):
        cluster.start()


def test_all_tasks_that_have_ended_are_named(cluster):
    view = cluster.all
    for task in cluster.tasks:
        cluster.kill(task)
    with pytest.raises(TaskFailed, match=r"task worker:0 failed: it ended with SIGKILL; worker:1 .*; ps:0 ended"):
        view.apply_sync(who)
    with pytest.raises(TaskFailed, match="it ended with SIGKILL; worker:1 ended with SIGKILL"):
        cluster.client.direct_view([0, 1])
    cluster.restart()
    assert [each[:2] for each in view.apply_sync(who)] == [("worker", 0), ("worker", 1), ("ps", 0)]


def test_a_call_to_a_task_that_is_ending_fails_and_does_not_wait(cluster):
    """Its process may have ended while nobody has heard of it yet."""
    for pause in (0, 0.002, 0.01, 0.03):
        pid = cluster["worker", 1].apply_sync(os.getpid)
        os.kill(pid, signal.SIGKILL)
        time.sleep(pause)
        with pytest.raises((TaskFailed, ipyparallel.error.RemoteError), match=r"died|it ended with SIGKILL"):
            cluster["worker", 1].apply_async(who).get(timeout=10)
        cluster.restart("worker:1")


def test_the_magics_name_a_task_that_has_ended(run_python):
    client = run_python(
        """
        from IPython.core.interactiveshell import InteractiveShell
        from mnistdist import Cluster

        shell = InteractiveShell.instance()
        with Cluster(ps=1, workers=2, servers=False) as cluster:
            cluster.kill("worker:1")
            for magic in "px", "px_worker", "px_worker1", "px --targets 1", "px --targets all", "px_ps":
                error = shell.run_cell(f"%%{magic}\\nmine = 1").error_in_exec
                print("-", magic, type(error).__name__, str(error).splitlines()[0])
            cluster.restart("worker:1")
            for magic in "px", "px_worker1":
                print("-", magic, shell.run_cell(f"%%{magic}\\nmine = 1").error_in_exec)
        """
    )
    out, err = client.communicate(timeout=120)
    said = [line for line in out.splitlines() if line.startswith("- ")]
    named = "TaskFailed task worker:1 failed: it ended with SIGKILL"
    magics = ("px", "px_worker", "px_worker1", "px --targets 1", "px --targets all")
    assert said == [f"- {magic} {named}" for magic in magics] + ["- px_ps NoneType None", "- px None"] + [
        "- px_worker1 None"
    ], err


def test_a_stopped_and_continued_task_goes_on(cluster):
    cluster.kill("worker:0", signal.SIGSTOP)
    waiting = cluster["worker", 0].apply_async(who)
    time.sleep(2)  # 20 heartbeats
    assert not waiting.ready()
    cluster.kill("worker:0", "SIGCONT")
    assert waiting.get(timeout=10)[:2] == ("worker", 0)


def test_logs_hold_what_tensorflow_says(cluster):
    assert "Started server with target: grpc://" in cluster.logs("ps:0", 100)
    assert cluster.logs(cluster.tasks[0], 1).count("\n") == 0


def test_what_a_tasks_children_say_has_no_colours(cluster):
    """Python 3.13 colours the tracebacks of children in every kernel and engine, whose output then can't be parsed."""

    def failing_child():
        import subprocess
        import sys

        failed = subprocess.run([sys.executable, "-c", "raise RuntimeError('why')"], capture_output=True, text=True)
        return os.environ["FORCE_COLOR"], os.environ.get("PYTHON_COLORS"), failed.stderr.splitlines()[-1]

    assert cluster["worker", 0].apply_sync(failing_child) == ("1", "0", "RuntimeError: why")


def test_unknown_tasks_are_named(cluster):
    for name in ("worker:2", ("worker", 2), "chief", 7):
        with pytest.raises(KeyError, match="expected one of ps:0, worker:0, worker:1"):
            cluster[name]


def test_stop_leaves_nothing_and_keeps_the_logs():
    cluster = Cluster(ps=1, workers=1)
    assert cluster.start() is cluster
    folder = cluster._engines.processes.folder
    tree = below(os.getpid(), lambda process: str(folder) in " ".join(process.cmdline()))
    assert len(tree) >= 4  # keeper, controller, nursery, tasks
    cluster.stop()
    cluster.stop()
    wait_until(lambda: not alive(tree), 2, "the end of every process")
    assert not folder.exists()
    assert "Started server" in cluster.logs("worker:0", 100)
    assert cluster.status == "stopped"
    with pytest.raises(RuntimeError, match="the cluster is stopped"):
        _ = cluster.workers
    with cluster:  # and it can start again
        assert cluster.workers.apply_sync(add_across) == [2.0]


def test_an_exception_in_the_block_and_a_lost_reference_end_the_cluster():
    with pytest.raises(ZeroDivisionError), Cluster(ps=1, workers=1) as cluster:
        folder = cluster._engines.processes.folder
        1 / 0  # noqa: B018 (the exception is the point)
    assert not folder.exists()
    cluster = Cluster(ps=1, workers=1).start()
    folder = cluster._engines.processes.folder
    del cluster
    gc.collect()
    wait_until(lambda: not folder.exists(), 10, "the end of a forgotten cluster")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ps": 0}, "ps: expected an int of 1 or more, got 0"),
        ({"workers": "2"}, "workers: expected an int of 1 or more, got '2'"),
        ({"workers": True}, "got True"),
        ({"network": "bridge"}, "expected 'auto', 'private' or 'host', got 'bridge'"),
        ({"timeout": 0}, r"timeout: expected a number from 0\.001 to 1e\+07, got 0"),
        ({"devices": ["0"], "num_gpus": 1}, "number of gpus is less than number of workers: 1 GPUs, 2 workers"),
    ],
)
def test_bad_arguments_say_what_was_expected(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Cluster(**arguments)


def test_a_start_that_takes_too_long_says_so_and_leaves_nothing():
    cluster = Cluster(timeout=0.5)
    with pytest.raises(ClusterStartError, match=r"0 of 3 tasks were ready \(limit 0.5 s\)") as caught:
        cluster.start()
    assert caught.value.expected == 3
    assert "Cluster(timeout=1)" in caught.value.hint
    assert not cluster._engines.processes.folder.exists()


def test_a_port_in_use_is_named_with_the_log(monkeypatch):
    import socket

    with socket.socket() as holder:
        holder.bind(("0.0.0.0", 0))
        holder.listen()
        taken = f"127.0.0.1:{holder.getsockname()[1]}"
        addresses = {"ps": [taken], "worker": ["127.0.0.1:21999"]}
        monkeypatch.setattr("mnistdist.cluster.network.loopback_addresses", lambda *_: addresses)
        with pytest.raises(ClusterStartError, match="ps:0 ended with exit code 1 while starting") as caught:
            Cluster(ps=1, workers=1, network="host").start()
    assert "Could not start gRPC server" in str(caught.value)


@pytest.mark.parametrize("moment", ["before the question", "before the answer"])
def test_a_task_that_ends_when_it_has_registered_is_named(monkeypatch, moment):
    connect = Engines.connect

    def connect_then_end(self, *arguments):
        connect(self, *arguments)
        direct_view = self.client.direct_view

        def end_then_view(*targets, **options):
            os.kill(self.processes.pids["ps", 0], signal.SIGKILL)
            wait_until(lambda: self.processes.exits, 10, "the task's end")
            return direct_view(*targets, **options)

        self.client.direct_view = end_then_view

    if moment == "before the question":
        monkeypatch.setattr(Engines, "connect", connect_then_end)
    else:
        monkeypatch.setattr("mnistdist.cluster.engines.identity", functools.partial(os._exit, 3))
    with pytest.raises(ClusterStartError, match=r":0 ended with (SIGKILL|exit code 3) while starting"):
        Cluster(ps=1, workers=1, servers=False).start()


def test_host_network_and_servers_started_by_hand():
    with Cluster(ps=1, workers=1, network="host", servers=False) as cluster:
        assert all(task.address.startswith("127.0.0.1:") for task in cluster.tasks)
        assert cluster.all.apply_sync(ipyparallel.interactive(lambda: "server" in globals())) == [False, False]


def test_the_environment_of_tasks_has_no_proxy_and_no_user_configuration(monkeypatch, tmp_path):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path))
    with Cluster(ps=1, workers=1) as cluster:
        names = cluster["ps", 0].apply_sync(lambda: [name for name in os.environ if "proxy" in name.lower()])
        assert names == []
        assert cluster.workers.apply_sync(add_across) == [2.0]
    assert not (tmp_path / ".ipython").exists()


def test_a_long_temporary_folder_is_no_obstacle(monkeypatch, tmp_path):
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with Cluster(ps=1, workers=1) as cluster:
        assert cluster.status == "running"


@pytest.mark.parametrize(
    "error",
    [
        TaskFailed("worker:1", "it ended", log=["a", "b"], hint="again"),
        ClusterStartError("too late", ready=1, expected=3, timeout=5, log=["a"], hint="wait"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_goes_to_another_process_whole(error):
    there = pickle.loads(pickle.dumps(error))
    assert (type(there), str(there), vars(there)) == (type(error), str(error), vars(error))


def test_exits_in_words():
    assert describe_exit(-9) == "SIGKILL"
    assert describe_exit(3) == "exit code 3"
    assert describe_exit(-64) in ("SIGRTMAX", "signal 64")
    message = str(TaskFailed("worker:1", "exit code 3", log=["a", "b"], hint="restart it"))
    assert message == "task worker:1 failed: exit code 3\nlast log lines:\n    a\n    b\nwhat to do: restart it"
    assert Task("ps", 0, "h:1", "core 0", 1, 2).name == "ps:0"


def test_importing_the_package_loads_neither_tensorflow_nor_ipyparallel(run_python):
    process = run_python("import sys, mnistdist; print([m for m in ('tensorflow', 'ipyparallel') if m in sys.modules])")
    assert process.communicate(timeout=60)[0] == "[]\n"


CLIENT = """
    import os, signal, sys, time
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent in the background has it ignored
    from mnistdist import Cluster
    cluster = Cluster(ps=1, workers=2)
    print("starting", flush=True)
    cluster.start()
    print(cluster._engines.processes.folder, flush=True)
    cluster.workers.apply_async(lambda: sum(i * i for i in range(10**9)))
    sys.stdin.readline()
    print("stopping", flush=True)
    cluster.stop()
"""


@pytest.mark.parametrize(
    ("fatal", "moment"), [("SIGKILL", "start-up"), ("SIGKILL", "work"), ("SIGKILL", "stop"), ("SIGTERM", "work")]
)
def test_nothing_outlives_a_killed_client(run_python, fatal, moment):
    client = run_python(CLIENT, stdin=-1)
    assert client.stdout.readline() == "starting\n"
    if moment == "start-up":
        wait_until(lambda: len(below(client.pid)) >= 3, 30, "the tree's start")
        folder = None
    else:
        folder = Path(client.stdout.readline().strip())
    tree = below(client.pid)
    assert len(tree) >= 3
    if moment == "stop":
        client.stdin.write("\n")
        client.stdin.flush()
        assert client.stdout.readline() == "stopping\n"
    client.send_signal(signal.Signals[fatal])
    client.wait(timeout=10)
    wait_until(lambda: not alive(tree), 10, "the end of every process")
    if folder:
        wait_until(lambda: not folder.exists(), 5, "the removal of the folder")


def test_an_interrupt_during_start_up_leaves_nothing(run_python):
    client = run_python(CLIENT, stdin=-1)
    assert client.stdout.readline() == "starting\n"
    wait_until(lambda: len(below(client.pid)) >= 3, 30, "the tree's start")
    tree = below(client.pid)
    client.send_signal(signal.SIGINT)
    client.wait(timeout=20)
    assert "KeyboardInterrupt" in client.stderr.read()
    wait_until(lambda: not alive(tree), 5, "the end of every process")


@pytest.mark.parametrize("victim", ["keeper", "controller", "nursery"])
def test_losing_any_part_of_the_tree_ends_it_whole(victim):
    with Cluster(ps=1, workers=1) as cluster:
        folder = cluster._engines.processes.folder
        keeper, *rest = tree = tree_of(cluster)[1:]
        own = sorted(task.pid for task in cluster.tasks)
        (nursery,) = alive(rest, lambda process: own == sorted(child.pid for child in process.children()))
        (controller,) = alive(rest, lambda process: process.ppid() == keeper.pid and process != nursery)
        waiting = cluster.workers.apply_async(time.sleep, 60)
        {"keeper": keeper, "controller": controller, "nursery": nursery}[victim].kill()
        with pytest.raises((ipyparallel.error.RemoteError, ipyparallel.error.CompositeError), match="died"):
            waiting.get(timeout=10)
        wait_until(lambda: not alive(tree), 5, "the end of every process")
        wait_until(lambda: cluster.status == "failed", 5, "the status")
        begin = time.monotonic()
        processes = cluster._engines.processes
        for use in (cluster.restart, lambda: cluster.kill("ps:0"), lambda: processes.signal(("ps", 0), 9)):
            with pytest.raises(TaskFailed, match="keeper, controller or nursery has ended"):
                use()
        assert time.monotonic() - begin < 5
        with pytest.raises(TaskFailed, match="keeper, controller or nursery has ended"):
            cluster["worker", 0].apply_sync(who)
        assert cluster._repr_html_().count("<td>ended with") == 2
    assert not folder.exists()


def test_the_magics_are_the_last_started_clusters_and_then_the_one_befores_again(run_python):
    client = run_python(
        """
        from IPython.core.interactiveshell import InteractiveShell
        from mnistdist import Cluster

        shell = InteractiveShell.instance()
        with Cluster(ps=1, workers=1, servers=False) as first:
            with Cluster(ps=1, workers=2, servers=False) as second:
                shell.run_cell_magic("px_worker", "", "mine = 2")
                print(second.workers["mine"])
            shell.run_cell_magic("px_worker", "", "mine = 1")
            print(first.workers["mine"])
            with Cluster(ps=1, workers=1, servers=False):
                first.kill("worker:0")
            shell.run_cell_magic("px_ps", "", "mine = 3")
            print(first.ps["mine"])
        """
    )
    out, err = client.communicate(timeout=120)
    assert [line for line in out.splitlines() if line.startswith("[")] == ["[2, 2]", "[1]", "[3]"], err


def test_a_cell_that_is_run_again_says_that_another_cluster_is_running(run_python):
    client = run_python(
        """
        import sys
        import psutil
        from IPython.core.interactiveshell import InteractiveShell
        from mnistdist import Cluster

        shell = InteractiveShell.instance()
        cell = "from mnistdist import Cluster; cluster = Cluster(ps=1, workers=2, servers=False).start()\\ncluster"
        for _ in range(2):
            shell.run_cell(cell, store_history=True)
            print(len(psutil.Process().children(recursive=True)), "processes", file=sys.stderr)
        with Cluster(ps=1, workers=1, servers=False) as third:  # in a with block, it is meant
            Cluster.start(third)  # runs already
            shell.run_cell("Out[1].stop(); Out[2].stop()")
        cluster = Cluster(ps=1, workers=1, servers=False).start()
        """
    )
    _, err = client.communicate(timeout=120)
    said = [line for line in err.splitlines() if "processes" in line]
    assert [line.partition(". A notebook")[0] for line in said] == [
        "7 processes",
        "Other clusters that are still running in this process: 1, with 7 processes",
        "14 processes",
    ], err


INTERRUPTED = """
    import collections, os, signal, sys, threading, time
    import psutil
    from mnistdist import Cluster, train

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent in the background has it ignored
    outcomes = collections.Counter()


    def interrupted(work, *pauses):
        def strike():
            for pause in pauses:
                time.sleep(pause)
                os.kill(os.getpid(), signal.SIGINT)

        thread, heard = threading.Thread(target=strike), False
        try:
            try:
                thread.start()
                work()
                thread.join()
                time.sleep(0.05)
            except KeyboardInterrupt:
                heard = True
                thread.join()
                time.sleep(0.05)
        except KeyboardInterrupt:
            heard = True
        thread.join()
        assert heard


    def check(cluster):
        status = cluster.status
        try:
            assert cluster.workers.apply_sync(os.getpid) == [task.pid for task in cluster.tasks[1:]]
            assert status == "running"
        except RuntimeError as error:
            assert status == "failed" and "cluster.restart()" in str(error), (status, error)
            cluster.restart()
            assert cluster.all.apply_sync(os.getpid)[1] == cluster.tasks[2].pid
            assert cluster.status == "running"
        outcomes[status] += 1


    def nothing_left():
        return not psutil.Process().children(recursive=True)
"""


@pytest.mark.parametrize(
    ("what", "rounds", "code"),
    [
        (
            "two during a training",
            8,
            "interrupted(lambda: train(cluster, steps=10**6), 0.02 + i / 7, 0.02 + 0.03 * (i % 4) / 3); check(cluster)",
        ),
        (
            "four during a training",
            3,
            "interrupted(lambda: train(cluster, steps=10**6), 0.5, *[0.04 + i / 50] * 3); check(cluster)",
        ),
        ("one during a restart", 20, "interrupted(cluster.restart, 0.001 + 0.025 * i); check(cluster)"),
        ("two during a restart", 6, "interrupted(cluster.restart, 0.001 + 0.05 * i, 0.03); check(cluster)"),
    ],
    ids=["two in train", "four in train", "one in restart", "two in restart"],
)
def test_interrupts_leave_a_cluster_that_can_be_used_or_says_what_to_do(run_python, what, rounds, code):
    client = run_python(
        textwrap.dedent(INTERRUPTED)
        + "with Cluster(ps=1, workers=2) as cluster:\n"
        + f"    for i in range({rounds}):\n        {code}\n"
        + "    assert train(cluster, steps=20).global_step >= 20\n"
        + "assert nothing_left()\nprint(outcomes['running'], outcomes['failed'])"
    )
    out, err = client.communicate(timeout=240)
    running, failed = map(int, (out or err).split())
    assert running + failed == rounds
    assert not failed or what in ("four during a training", "two during a restart")


def test_interrupts_of_start_and_stop_leave_no_process_and_true_words(run_python):
    client = run_python(
        textwrap.dedent(INTERRUPTED)
        + textwrap.dedent("""
        for i in range(8):
            cluster = Cluster(ps=1, workers=2)
            interrupted(cluster.start, 0.001 + 0.35 * i, *[0.03] * (i % 2))
            if cluster.status in ("running", "failed"):
                check(cluster)
            else:
                assert nothing_left(), i
            cluster.start()
            interrupted(cluster.stop, 0.0005 + 0.02 * i, *[0.01] * (i % 2))
            assert cluster.status == "stopped" and nothing_left(), i
        print("done")
        """)
    )
    out, err = client.communicate(timeout=240)
    assert out == "done\n", err


def test_a_notebook_keeps_nothing_of_clusters_that_have_stopped(run_python):
    client = run_python(
        """
        from IPython.core.interactiveshell import InteractiveShell
        from mnistdist import Cluster
        shell = InteractiveShell.instance()
        kept = []
        for _ in range(2):
            with Cluster(ps=1, workers=1, servers=False):
                kept.append(len(shell.configurables))
        print(kept[1] - kept[0])
        """
    )
    out, err = client.communicate(timeout=120)
    assert out.strip() == "0", err
