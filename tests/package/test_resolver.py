"""Who a task is by its environment: TF_CONFIG of several launchers, and Slurm's variables as its nodes set them."""

import json
import re

import pytest

from mnistdist import distributed
from mnistdist.resolver import from_environment, hosts, tasks_per_node

PS, WORKERS = ["ps0:2222"], ["w0:2222", "w1:2222"]


def tf_config(kind="worker", index=0, **cluster):
    return {
        "TF_CONFIG": json.dumps(
            {"cluster": cluster or {"ps": PS, "worker": WORKERS}, "task": {"type": kind, "index": index}}
        )
    }


@pytest.mark.parametrize(
    ("environ", "job", "index", "workers"),
    [
        (tf_config("ps"), "ps", 0, WORKERS),
        (tf_config("worker", 1), "worker", 1, WORKERS),
        (tf_config("worker", "1"), "worker", 1, WORKERS),
        (tf_config("chief", 0, ps=PS, chief=["c:1"], worker=WORKERS), "worker", 0, ["c:1", *WORKERS]),
        (tf_config("worker", 0, ps=PS, chief=["c:1"], worker=WORKERS), "worker", 1, ["c:1", *WORKERS]),
        (tf_config("worker", 1, ps=PS, master=["c:1"], worker=WORKERS), "worker", 2, ["c:1", *WORKERS]),
        (tf_config("chief", 0, ps=PS, chief=["c:1"]), "worker", 0, ["c:1"]),
        (tf_config("ps", 0, ps={"0": "ps0:2222"}, worker={"1": "w1:2222", "0": "w0:2222"}), "ps", 0, WORKERS),
        (tf_config("worker", 0, ps=PS, worker=WORKERS, evaluator=["e:1"]), "worker", 0, WORKERS),
    ],
)
def test_tf_config_says_who_a_task_is(environ, job, index, workers):
    found = {"ps_hosts": "ps0:2222", "worker_hosts": ",".join(workers), "job_name": job, "task_index": index}
    assert from_environment(environ) == found


def slurm(rank, tasks, nodes, counts, **more):
    return {
        "SLURM_PROCID": str(rank),
        "SLURM_STEP_NUM_TASKS": str(tasks),
        "SLURM_STEP_NODELIST": nodes,
        "SLURM_STEP_TASKS_PER_NODE": counts,
        **more,
    }


@pytest.mark.parametrize(
    ("environ", "job", "index", "ps", "workers"),
    [
        (slurm(0, 3, "n[1-3]", "1(x3)"), "ps", 0, "n1:2222", "n2:2223,n3:2224"),
        (slurm(2, 3, "n[1-3]", "1(x3)"), "worker", 1, "n1:2222", "n2:2223,n3:2224"),
        # Slurm numbers ranks in the order of the nodes: n9 before n10.
        (slurm(1, 3, "n[9-11]", "1(x3)"), "worker", 0, "n9:2222", "n10:2223,n11:2224"),
        (slurm(3, 4, "a,b", "3,1"), "worker", 2, "a:2222", "a:2223,a:2224,b:2225"),
        (slurm(1, 2, "a", "2", SLURM_DISTRIBUTION="block:cyclic"), "worker", 0, "a:2222", "a:2223"),
        # What srun says of itself where no node has two tasks.
        (slurm(2, 3, "n[1-3]", "1(x3)", SLURM_DISTRIBUTION="cyclic"), "worker", 1, "n1:2222", "n2:2223,n3:2224"),
        (slurm(2, 3, "n[1-3]", "1(x3)", SLURM_DISTRIBUTION="cyclic,pack"), "worker", 1, "n1:2222", "n2:2223,n3:2224"),
        (slurm(2, 3, "n[1-3]", "1(x3)", SLURM_DISTRIBUTION="plane=2"), "worker", 1, "n1:2222", "n2:2223,n3:2224"),
        (slurm(0, 4, "a,b", "3,1", SLURM_DISTRIBUTION="cyclic"), "ps", 0, "a:2222", "b:2223,a:2224,a:2225"),
    ],
)
def test_slurm_says_who_a_task_is(environ, job, index, ps, workers):
    assert from_environment(environ) == {"ps_hosts": ps, "worker_hosts": workers, "job_name": job, "task_index": index}


@pytest.mark.parametrize(
    "environ", [{}, {"TF_CONFIG": " "}, slurm(0, 1, "n1", "1"), {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0"}]
)
def test_an_environment_that_says_nothing_gives_no_flags(environ):
    assert from_environment(environ) == {}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n1", ["n1"]),
        ("n[1-3]", ["n1", "n2", "n3"]),
        ("n[09-11,20],m1", ["n09", "n10", "n11", "n20", "m1"]),
        ("rack[1-2]n[1,3].site", ["rack1n1.site", "rack1n3.site", "rack2n1.site", "rack2n3.site"]),
        ("a,b-c,d", ["a", "b-c", "d"]),
    ],
)
def test_lists_of_hosts(text, names):
    assert hosts(text) == names


def test_counts_of_tasks():
    assert tasks_per_node("2(x3),1") == [2, 2, 2, 1]


BROKEN = [
    ({"TF_CONFIG": "no JSON"}, "TF_CONFIG: expected {"),
    ({"TF_CONFIG": "[]"}, "TF_CONFIG: expected {"),
    ({"TF_CONFIG": "{}"}, "no 'cluster'"),
    ({"TF_CONFIG": '{"cluster": {}}'}, "no 'task'"),
    ({"TF_CONFIG": '{"cluster": [], "task": {}}'}, "TF_CONFIG: expected {"),
    ({"TF_CONFIG": '{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps"}}'}, "no 'index'"),
    (tf_config("worker", "one"), "TF_CONFIG: expected {"),
    (tf_config("worker", None), "TF_CONFIG: expected {"),
    (tf_config("worker", 2), "there is no worker 2: the cluster has 2, from 0"),
    (tf_config("worker", -1), "there is no worker -1"),
    (tf_config("chief"), "the task is a 'chief'"),
    (tf_config("evaluator"), "the task is a 'evaluator'"),
    (tf_config("evaluator", 0, ps=PS, worker=WORKERS, evaluator=["e:1"]), "the task is a 'evaluator'"),
    (tf_config("worker", 0, worker=WORKERS), "a ps and a worker at least, got ['worker']"),
    (tf_config("ps", 0, ps=PS), "a ps and a worker at least, got ['ps']"),
    (tf_config("ps", 0, ps=PS, worker="w0:1"), "the addresses of worker are 'w0:1'"),
    (tf_config("ps", 0, ps=PS, worker=[1]), "the addresses of worker are [1]"),
    (tf_config("ps", 0, ps=PS, worker={"1": "w1:1"}), "of worker only 1 are there"),
    (tf_config("ps", 0, ps=PS, worker={"x": "w1:1"}), "TF_CONFIG: expected {"),
    (tf_config("ps", 0, ps=PS, worker=WORKERS, chief=["a:1", "b:1"]), "expected one chief, got 2"),
    (tf_config("ps", 0, ps=PS, worker=WORKERS, gpu=["a:1"]), "expected the jobs ps, worker and chief, got 'gpu'"),
    (tf_config("ps", 0, ps=PS, worker=["w0"]), "'w0' is not an address"),
    (tf_config("ps", 0, ps=PS, worker=["ps0:2222"]), "is in --ps_hosts already"),
    ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "3"}, "SLURM_STEP_NODELIST: it is not set"),
    (slurm(0, 3, "n[1-", "1(x3)"), "SLURM_STEP_NODELIST"),
    (slurm(0, 3, "n[a-c]", "1(x3)"), "SLURM_STEP_NODELIST: expected numbers such as 1-3, got 'a-c'"),
    (slurm(0, 3, "", "1(x3)"), "SLURM_STEP_NODELIST: expected a list of hosts"),
    (slurm(0, 3, "n[1-3]", "1(y3)"), "SLURM_STEP_TASKS_PER_NODE: expected counts such as"),
    (slurm(0, 3, "n[1-2]", "1(x3)"), "SLURM_STEP_TASKS_PER_NODE: 3 tasks on 3 nodes"),
    (slurm("x", 3, "n[1-3]", "1(x3)"), "SLURM_PROCID"),
    (slurm(0, "x", "n[1-3]", "1(x3)"), "SLURM_STEP_NUM_TASKS"),
    (slurm(0, 3, "n[1-3]", "1(x3)", SLURM_DISTRIBUTION="arbitrary"), "expected block or cyclic, got 'arbitrary'"),
    (
        slurm(0, 4, "a,b", "2(x2)", SLURM_DISTRIBUTION="plane=2"),
        "SLURM_DISTRIBUTION: expected block or cyclic, got 'plane=2'",
    ),
]


@pytest.mark.parametrize(("environ", "message"), BROKEN)
def test_a_broken_environment_is_refused_in_one_line_that_names_it(environ, message, monkeypatch, capsys):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert distributed.main([]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert message in said
    assert re.match(
        r"mnistdist.distributed: error: (TF_CONFIG|SLURM_\w+): |mnistdist.distributed: error: --\w+_hosts: ", said
    )


def test_flags_on_the_command_line_go_before_the_environment():
    flags = distributed.parse(["--job_name=worker"])
    distributed.identify(flags, {"TF_CONFIG": "broken"})
    assert flags.task_index is None
    flags = distributed.parse(["--batch_size=7"])
    distributed.identify(flags, tf_config("ps"))
    assert (flags.job_name, flags.task_index, flags.ps_hosts, flags.batch_size) == ("ps", 0, "ps0:2222", 7)
