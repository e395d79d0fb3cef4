"""The book's three machines: what is their own, what ends with them, and programs on them that others have started."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from book.programs.machines import Machines
from tests.helpers import unprivileged, wait_until

SCRIPT = """
import sys
from book.programs.machines import Machines
machines = Machines()
started = [machines.start(n, "sleep", "1000") for n in (1, 2, 3)]
print(*(machines.run(n, "hostname").strip() for n in (1, 2, 3)), flush=True)
print(*(child.pid for child in started), flush=True)
sys.stdin.read()
"""
MODEL = """
import tensorflow.compat.v1 as tf
from mnistdist import Graph


def softmax_regression():
    weights = tf.get_variable("weights", [784, 10], initializer=tf.zeros_initializer())
    x, y_ = tf.placeholder(tf.float32, [None, 784]), tf.placeholder(tf.float32, [None, 10])
    logits = tf.matmul(x, weights)
    loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits_v2(labels=y_, logits=logits))
    right = tf.equal(tf.argmax(logits, 1), tf.argmax(y_, 1))
    return Graph(x, y_, tf.nn.softmax(logits), loss, tf.reduce_mean(tf.cast(right, tf.float32)))
"""


@pytest.fixture
def machines():
    try:
        made = Machines()
    except OSError as error:
        pytest.skip(f"this system allows no namespaces: {error}")
    yield made
    made.close()


def test_each_has_a_name_an_address_and_a_tmp_of_its_own(machines):
    script = "hostname; touch /tmp/$(hostname); ls /tmp; ip -o -4 address show eth0"
    for n in (1, 2, 3):
        name, *listed, wire = machines.run(n, "sh", "-c", script).splitlines()
        assert name == f"machine{n}"
        assert [each for each in listed if each.startswith("machine")] == [name]
        assert f"192.168.233.20{n}/24" in wire
    assert not Path("/tmp/machine1").exists()
    before = machines.traffic()
    machines.run(
        2, sys.executable, "-c", "import socket; socket.socket(2, 2).sendto(bytes(1000), ('192.168.233.203', 9))"
    )
    grown = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(before, machines.traffic(), strict=True)]
    assert grown[1][1] >= 1000
    assert grown[2][0] >= 1000
    assert grown[0][0] < 1000


def test_a_program_that_is_killed_has_ended(machines):
    process = machines.start(2, "sh", "-c", "echo begun; exec sleep 1000")
    assert process.stdout.readline() == "begun\n"
    process.kill()
    process.communicate()
    wait_until(lambda: "sleep" not in machines.run(2, "ps", "-ax", "-o", "comm"), 5, "the end of what was killed")


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_all_ends_with_the_process_that_has_made_them(machines, end):
    del machines  # it has said whether the system allows them
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = unprivileged([sys.executable, "-c", SCRIPT])
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    assert process.stdout.readline() == "machine1 machine2 machine3\n"
    pids = [int(word) for word in process.stdout.readline().split()]
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    if end == "kill":
        process.send_signal(signal.SIGKILL)
    process.communicate()

    def ended():
        return not any(Path(f"/proc/{pid}").exists() for pid in pids)

    wait_until(ended, 10, "the end of the machines' processes")


def test_tf_config_and_a_model_in_a_file_of_its_own(machines):
    """No flag says who a task is: worker 1 is Kubeflow's worker 0, because there is a chief."""
    (machines.folder / "mine.py").write_text(MODEL)
    cluster = {"ps": ["192.168.233.201:2222"], "chief": ["192.168.233.202:2222"], "worker": ["192.168.233.203:2222"]}
    running = []
    for n, kind in enumerate(cluster, 1):
        config = json.dumps({"cluster": cluster, "task": {"type": kind, "index": 0}, "environment": "cloud"})
        given = [f"TF_CONFIG={config}", f"PYTHONPATH={machines.folder}:{Path(__file__).parents[2]}"]
        command = ["env", *given, sys.executable, "-m", "mnistdist.distributed", "--train_steps=400"]
        running.append(
            machines.start(n, *command, f"--data_dir={machines.folder}/data{n}", "--model=mine:softmax_regression")
        )
    said = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], said
    for index in (0, 1):
        assert f"job name = worker\ntask index = {index}\n" in said[1 + index]
        assert float(said[1 + index].rpartition("validation accuracy = ")[2]) > 0.8


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("mine:nothing", "--model: module 'mine' has no attribute 'nothing'"),
        ("yours:net", "--model: No module named 'yours'"),
        ("mine:NUMBER", "--model: expected a function, got 7"),
    ],
)
def test_a_model_that_is_not_there_is_named(machines, model, message):
    (machines.folder / "mine.py").write_text("NUMBER = 7\n")
    given = f"PYTHONPATH={machines.folder}:{Path(__file__).parents[2]}"
    command = ["env", given, sys.executable, "-m", "mnistdist.distributed", "--job_name=worker", "--task_index=0"]
    process = machines.start(2, *command, f"--model={model}", f"--data_dir={machines.folder}/data")
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert said.endswith("\n")
    assert message in said.splitlines()[-1]
