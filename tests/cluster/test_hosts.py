"""Clusters on three hosts, which are network namespaces; TensorFlow's servers run in these only."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from mnistdist.cluster.link import SILENCE, versions
from tests.cluster.open_ports import open_sockets
from tests.cluster.three_hosts import NAMES, ThreeHosts
from tests.helpers import alive, below, wait_until

CLEAN = 2  # seconds within which every host is clean, however a cluster ends
NETNS = "ip netns exec {host}"
BEGINNING = """
import json, os, signal, sys, time
from mnistdist import Cluster, ClusterStartError, TaskFailed, train
from tests.cluster.test_cluster import add_across, who

def cluster(**options):
    there = {"hosts": ["n1", "n2", "n3"], "reach": "ip netns exec {host}", "network": "host"}
    return Cluster(ps=1, workers=2, **there | options)

def tell(**said):
    print(json.dumps(said), flush=True)

def network():
    import os
    return os.readlink("/proc/self/ns/net")

"""


def client_on(hosts, code):
    """A client in the hosts' network, with pipes."""
    words = sys.executable, "-c", BEGINNING + textwrap.dedent(code)
    return subprocess.Popen(hosts.command(*words), env=hosts.environment, text=True, stdin=-1, stdout=-1, stderr=-1)


def heard(client):
    """The next thing that the client tells."""
    line = client.stdout.readline()
    assert line, client.communicate(timeout=10)[1]
    return json.loads(line)


def end(client):
    if client.poll() is None:
        client.kill()
    client.communicate()


@pytest.fixture
def start(hosts):
    """Starts a client with ``code`` whose hosts have to be clean in the end."""
    started = []

    def start_one(code):
        started.append(client_on(hosts, code))
        return started[-1]

    yield start_one
    for client in started:
        end(client)
    wait_until(lambda: not hosts.left_behind(), CLEAN, f"the end of {hosts.left_behind()}")


@pytest.fixture(scope="module")
def hosts():
    """Three hosts in a user namespace of their own, without root's capabilities."""
    yield from three_hosts(rootless=True)


def three_hosts(rootless):
    folder = Path(tempfile.mkdtemp(prefix="hosts-", dir="/tmp"))  # short, because Unix sockets are in there
    try:
        made = ThreeHosts(folder, rootless)
        yield made
        made.close()
    finally:
        shutil.rmtree(folder)


# ------------------------------------------------------------------------------------- a cluster that works


STORY = """
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    began = time.monotonic()
    with cluster() as running:
        tell(start=time.monotonic() - began, spec=running.spec, devices=[task.device for task in running.tasks])
        tell(who=running.all.apply_sync(who), pids=[task.pid for task in running.tasks])
        tell(networks=running.all.apply_sync(network), sums=running.workers.apply_sync(add_across))
        shell.run_cell("%%px\\nmine = f'{job_name}:{task_index}'")
        tell(mine=running.all["mine"], cores=running.all.apply_sync(lambda: sorted(os.sched_getaffinity(0))))
        sys.stdin.readline()
        run = train(running, steps=60, seed=1)
        run_sync = train(running, steps=40, sync=True, seed=1)
        tell(steps=len(run.steps), workers=sorted(set(run.steps["task"])), accuracy=run.test.accuracy)
        running["worker", 0].apply_sync(os.write, 2, b"heard over there\\n")
        running.kill("worker:1")
        running["worker", 0].apply_async(os._exit, 3)
        while running.exit_of("worker:0") is None:
            time.sleep(0.05)
        tell(exits=[running.exit_of(f"worker:{i}") for i in (0, 1)], log=running.logs("worker:0"))
        running.restart("worker:1")
        running.restart()
        tell(sums=running.workers.apply_sync(add_across), status=running.status)
        task, stopped = running.tasks[1], running._engines.processes.is_stopped
        running.kill(task, "SIGSTOP")
        while not stopped(task):
            time.sleep(0.05)
        running.kill(task, "SIGCONT")
        while stopped(task):
            time.sleep(0.05)
        big = running["worker", 0].apply_sync(lambda data: data[::-1], bytes(2**25) + b"x")
        tell(size=len(big), first=big[:1].decode())
        began = time.monotonic()
    tell(stop=time.monotonic() - began, status=running.status, log=running.logs("worker:0"))
    sys.stdin.readline()
"""


def test_a_cluster_on_three_hosts_works_like_one_on_this_machine(hosts, start, record_property):
    client = start(STORY)
    said = heard(client)
    assert said["spec"] == {"ps": ["n1:2222"], "worker": ["n2:2223", "n3:2224"]}
    record_property("seconds to start", said["start"])
    assert said["start"] < 60 and all(device.startswith("core") for device in said["devices"])

    said = heard(client)
    ps, *workers = said["pids"]
    assert [each[:2] for each in said["who"]] == [["worker", 0], ["worker", 1], ["ps", 0]]
    assert [each[2] for each in said["who"]] == [*workers, ps]
    there = {name: {process.pid for process in hosts.processes(name)} for name in NAMES}
    assert ps in there["n1"] and workers[0] in there["n2"] and workers[1] in there["n3"]

    said = heard(client)
    assert len(set(said["networks"])) == 3 and said["sums"] == [3.0, 3.0]
    assert heard(client) == {"mine": ["worker:0", "worker:1", "ps:0"], "cores": [sorted(os.sched_getaffinity(0))] * 3}

    for name, port in zip(NAMES, (2222, 2223, 2224), strict=True):
        found = open_sockets(hosts.processes(name), seen_by=hosts.processes(name)[0].pid)
        assert {each.port for each in found} == {port}  # of ipyparallel's, none
    with_controller = [psutil.Process(client.pid), *below(client.pid)]
    found = open_sockets(with_controller, seen_by=client.pid)
    assert {each.host for each in found} == {"127.0.0.1"}
    client.stdin.write("\n")
    client.stdin.flush()

    said = heard(client)
    assert said["steps"] == 60 and said["workers"] == ["worker:0", "worker:1"] and 0 <= said["accuracy"] <= 1
    said = heard(client)
    assert said["exits"] == [3, -9] and "heard over there" in said["log"]
    assert heard(client) == {"sums": [3.0, 3.0], "status": "running"}
    assert heard(client) == {"size": 2**25 + 1, "first": "x"}
    said = heard(client)
    assert hosts.left_behind() == []
    record_property("seconds to stop", said["stop"])
    assert said["status"] == "stopped" and "grpc://n2:2223" in said["log"]


def test_tasks_of_one_host_share_it(start):
    client = start(
        """
        with cluster(hosts={"ps": ["n3"], "worker": ["n2", "n2"]}) as running:
            tell(spec=running.spec, networks=running.all.apply_sync(network))
            tell(cores=running.workers.apply_sync(lambda: sorted(os.sched_getaffinity(0))))
        """
    )
    said = heard(client)
    assert said["spec"] == {"ps": ["n3:2222"], "worker": ["n2:2223", "n2:2224"]}
    assert said["networks"][0] == said["networks"][1] != said["networks"][2]
    here, (first, second) = os.sched_getaffinity(0), heard(client)["cores"]
    assert len(here) < 2 or not set(first) & set(second)


# -------------------------------------------------------------------------------------- however it ends


@pytest.mark.parametrize("moment", ["start-up", "work"])
def test_no_host_keeps_anything_of_a_killed_client(hosts, start, moment, record_property):
    client = start("tell(at='start-up')\nrunning = cluster().start()\ntell(at='work')\nsys.stdin.readline()")
    assert heard(client) == {"at": "start-up"}
    if moment == "work":
        assert heard(client) == {"at": "work"}
    wait_until(lambda: all(len(hosts.processes(name)) >= 3 for name in NAMES), 30, "three nurseries")
    client.kill()
    began = time.monotonic()
    wait_until(lambda: not hosts.left_behind(), CLEAN, "clean hosts")
    record_property("seconds to clean hosts", time.monotonic() - began)


ON_LOSS = """
    with cluster() as running:
        running.all.apply_sync(who)
        tell(up=True)
        began = time.monotonic()
        try:
            train(running, steps=10**6)
        except TaskFailed as error:
            tell(error=str(error), seconds=time.monotonic() - began)
        try:
            running.restart()
        except TaskFailed as error:
            tell(error=str(error))
"""


def agent(hosts, name):
    (found,) = [process for process in hosts.processes(name) if "mnistdist.cluster.agent" in process.cmdline()]
    return found


def test_a_killed_agent_ends_the_cluster_and_its_host_is_named(hosts, start):
    client = start(ON_LOSS)
    assert heard(client) == {"up": True}
    time.sleep(2)
    agent(hosts, "n2").kill()
    wait_until(lambda: not hosts.left_behind(), CLEAN + 1, "clean hosts")  # a second, as the client's folder is one
    words = "task cluster failed: host n2: the link to its agent has closed (SIGKILL)"
    assert heard(client)["error"].startswith(words)
    assert heard(client)["error"].startswith(words)


def test_a_link_that_is_silent_is_noticed_by_the_client_and_its_host_is_named(hosts, start):
    client = start(ON_LOSS)
    assert heard(client) == {"up": True}
    agent(hosts, "n3").suspend()
    said = heard(client)
    assert f"host n3: nothing has been heard from it for {SILENCE} s" in said["error"]
    assert said["seconds"] < SILENCE + 3
    wait_until(lambda: not hosts.left_behind(), CLEAN, "clean hosts")


def test_a_link_that_is_silent_is_noticed_by_the_hosts(hosts, start):
    client = start(ON_LOSS)
    assert heard(client) == {"up": True}
    relay = agent(hosts, "n3").parent()
    assert relay.pid in {process.pid for process in below(client.pid)}
    relay.suspend()
    wait_until(lambda: not alive(hosts.processes()), SILENCE + CLEAN, "clean hosts")
    relay.resume()
    assert "task cluster failed: host n" in heard(client)["error"]


# --------------------------------------------------------------------------------------- what goes wrong


def program(folder, name, text):
    """A script for a shell on a host; its path."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def interpreter_without_the_package(hosts):
    return {"python": program(hosts.folder, "bare", f'unset PYTHONPATH; exec {sys.executable} -I -S "$@"')}


def greeting(**other):
    def options(hosts):
        text = "mnistdist agent " + json.dumps(versions() | other)
        return {"python": program(hosts.folder, "other", f"echo Welcome.; echo '{text}'; exec cat > /dev/null")}

    return options


def taken_port(hosts):
    code = "import socket, time; s = socket.create_server(('', 2223)); print('listens', flush=True); time.sleep(60)"
    words = NETNS.replace("{host}", "n2").split()
    holder = subprocess.Popen(hosts.command(*words, sys.executable, "-c", code), env=hosts.environment, stdout=-1)
    assert holder.stdout.readline() == b"listens\n"
    return {"end": holder}


HERE = versions()
PYTHON = HERE["Python"]
FAULTS = {
    "no such host": (
        lambda hosts: {"hosts": ["n1", "n2", "n9"]},
        "host n9: `ip netns exec n9` has not reached it (exit code 255)",
        ['Cannot open network namespace "n9"', "try `ip netns exec n9 true` in a terminal until it works"],
    ),
    "no such interpreter": (
        lambda hosts: {"python": "/no/such/python"},
        ": /no/such/python can't be run there",
        ["No such file or directory", "name the interpreter there: Cluster(python=...)"],
    ),
    "no such package": (
        interpreter_without_the_package,
        "bare has no such mnistdist there",
        ["No module named", f"install mnistdist {HERE['mnistdist']} there, or name the interpreter that has it"],
    ),
    "another package": (
        greeting(mnistdist="0.1.9"),
        f": it has mnistdist 0.1.9, and this machine has {HERE['mnistdist']}",
        ["Welcome.", f"install mnistdist {HERE['mnistdist']} there, or name an interpreter that has it"],
    ),
    "another Python": (
        greeting(Python="3.9"),
        f": it has Python 3.9, and this machine has {PYTHON}",
        [f"install Python {PYTHON} there, or name an interpreter that has it: Cluster(python=...)"],
    ),
    "a taken port": (taken_port, "host n2: port 2223 is in use by another process; end that", ["what to do"]),
    "a name without an address": (
        lambda hosts: {"hosts": ["n1", "n2", hosts.without_address()]},
        ": 'nameless' can't be resolved there: ",
        ["what to do"],
    ),
    "no answer": (
        lambda hosts: {"reach": "sh -c 'exec sleep 60' {host}", "timeout": 4},
        "host n1 has not answered",
        ["Cluster(timeout=8)", "see whether it runs and can be reached as `reach` says"],
    ),
    "no such GPU": (
        lambda hosts: {"num_gpus": 3, "devices": ["0", "1"]},
        ": num_gpus must be between 0 and the 2 GPUs available; got 3",
        ["put that right there"],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_start_that_fails_names_the_host_and_the_cure(hosts, start, fault):
    options, words, others = FAULTS[fault]
    options = options(hosts)
    holder = options.pop("end", None)
    try:
        client = start(
            f"""
            began = time.monotonic()
            try:
                cluster(**{options!r}).start()
            except ClusterStartError as error:
                tell(error=str(error), seconds=time.monotonic() - began)
            """
        )
        said = heard(client)
        if holder:
            holder.kill()
        assert hosts.left_behind() == []
        assert words in said["error"].splitlines()[0] and all(each in said["error"] for each in others), said
        assert said["seconds"] < 20
    finally:
        if holder:
            end(holder)
