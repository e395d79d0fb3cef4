"""Clusters on three hosts, which are network namespaces; TensorFlow's servers run in these only."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from mnistdist import Cluster
from mnistdist.cluster import link, pinning
from mnistdist.cluster.agent import shares
from mnistdist.cluster.hosts import placed, reached
from mnistdist.cluster.link import SILENCE, Link, versions
from tests.cluster.open_ports import open_sockets
from tests.cluster.three_hosts import NAMES, ThreeHosts
from tests.helpers import alive, below, wait_until

CLEAN = 6  # seconds; a machine with nothing else to do takes 2, and that a link is silent would be noticed after 8
NETNS = "ip netns exec {host}"
BEGINNING = """
import json, os, signal, sys, time
from mnistdist import Cluster, ClusterStartError, TaskFailed, train
from tests.cluster.test_cluster import add_across, who

def cluster(**options):
    there = {"hosts": ["n1", "n2", "n3"], "reach": "ip netns exec {host}", "network": "host", "devices": "cpu"}
    return Cluster(ps=1, workers=2, **there | options)

def tell(**said):
    print(json.dumps(said), flush=True)

def network():
    import os
    return os.readlink("/proc/self/ns/net")

def cores():
    import os
    return sorted(os.sched_getaffinity(0))

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
    wait_until(lambda: not hosts.left_behind(), CLEAN, "hosts that are clean in the end")


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
    from mnistdist.training import client as training

    shell = InteractiveShell.instance()
    began = time.monotonic()
    with cluster() as running:
        tell(start=time.monotonic() - began, spec=running.spec, devices=[task.device for task in running.tasks])
        tell(who=running.all.apply_sync(who), pids=[task.pid for task in running.tasks])
        tell(networks=running.all.apply_sync(network), sums=running.workers.apply_sync(add_across))
        shell.run_cell("%%px\\nmine = f'{job_name}:{task_index}'")
        tell(mine=running.all["mine"], cores=running.all.apply_sync(cores))
        sys.stdin.readline()
        training.prepare = None  # because the folder is another machine's
        run = train(running, steps=60, seed=1, logdir=os.environ["TMPDIR"] + "/log")
        run_sync = train(running, steps=40, sync=True, seed=1)
        tell(steps=[len(run.steps), len(run_sync.steps)], workers=len(run.results), accuracy=run.test.accuracy)
        running["worker", 0].apply_sync(os.write, 2, b"heard over there\\n")
        running.kill("worker:1")
        running["worker", 0].apply_async(os._exit, 3)
        while running.exit_of("worker:0") is None:
            time.sleep(0.05)
        tell(exits=[running.exit_of(f"worker:{i}") for i in (0, 1)], log=running.logs("worker:0", 200))
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
    tell(stop=time.monotonic() - began, status=running.status, log=running.logs("worker:0", 200))
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
    assert said["steps"][0] >= 60 and said["steps"][1] >= 80  # who has begun a step when it is over may end it
    assert (hosts.folder / "log" / "checkpoint").is_file()
    assert said["workers"] == 2 and 0 < said["accuracy"] <= 1
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
            tell(cores=running.workers.apply_sync(cores))
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


@pytest.mark.parametrize(
    ("victim", "words"),
    [
        (lambda agent: agent, "host n2: the link to its agent has closed (SIGKILL)"),
        (lambda agent: agent.children()[0], "host n2: its keeper or nursery has ended"),
        (lambda agent: agent.children()[0].children()[0], "host n2: its keeper or nursery has ended"),
    ],
    ids=["agent", "keeper", "nursery"],
)
def test_losing_any_part_of_a_host_ends_the_cluster_and_the_host_is_named(hosts, start, victim, words):
    client = start(ON_LOSS)
    assert heard(client) == {"up": True}
    time.sleep(2)
    victim(agent(hosts, "n2")).kill()
    for _ in "train", "restart":
        assert heard(client)["error"].startswith(f"task cluster failed: {words}")
    wait_until(lambda: not hosts.left_behind(), CLEAN, "clean hosts")


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
    for _ in "train", "restart":
        assert "task cluster failed: host n" in heard(client)["error"]
    wait_until(lambda: not hosts.left_behind(), CLEAN, "a clean client")


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
    "no TensorFlow": (
        greeting(TensorFlow=None),
        ": it has no TensorFlow",
        ["install it there, or name an interpreter that has it: Cluster(python=...)"],
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


# --------------------------------------------------------------------------------------------- over ssh


@pytest.fixture
def ssh_hosts():
    """Three hosts with an ssh server each; sshd needs root, to give a session to a user."""
    if os.geteuid() != 0 or not shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin"):
        pytest.skip("sshd needs root" if os.geteuid() else "sshd is not installed here")
    for hosts in three_hosts(rootless=False):
        for name in "host", "key", "other":
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", hosts.folder / name], check=True)
        (hosts.folder / "sshd_config").write_text(
            f"HostKey {hosts.folder}/host\nAuthorizedKeysFile {hosts.folder}/key.pub\nStrictModes no\nUsePAM no\n"
            "PidFile none\nPermitRootLogin prohibit-password\nAllowStreamLocalForwarding no\nAllowTcpForwarding no\n"
        )
        options = (
            "User root\nIdentitiesOnly yes\nBatchMode yes\nConnectTimeout 3\nUserKnownHostsFile /dev/null\n"
            "StrictHostKeyChecking no\nLogLevel ERROR\n"
        )
        for name in "key", "other":
            (hosts.folder / f"with_{name}").write_text(f"{options}IdentityFile {hosts.folder}/{name}\n")
        hosts.run("mkdir", "/run/sshd")
        path = os.pathsep.join(sys.path)
        program(hosts.folder, "python", f'export PYTHONPATH="{path}" TMPDIR={hosts.folder}; exec {sys.executable} "$@"')
        servers = []
        for name in NAMES:
            words = "ip", "netns", "exec", name, "/usr/sbin/sshd", "-D", "-e", "-f", str(hosts.folder / "sshd_config")
            servers.append(subprocess.Popen(hosts.command(*words), env=hosts.environment, stderr=subprocess.DEVNULL))
        try:
            yield hosts
        finally:
            for server in servers:
                server.kill()
                server.wait()


def over_ssh(there, key="key", **options):
    reach = f"ssh -F {there.folder}/with_{key} {{host}}"
    return repr({"reach": reach, "python": str(there.folder / "python")} | options)


def left_on(hosts, *names):
    """The processes on these hosts, or on all, without those of ssh's servers."""
    return [each for each in hosts.processes(*names) if each.name() != "sshd"]


def test_a_cluster_over_ssh_and_a_cable_that_is_pulled(ssh_hosts, record_property):
    """Its server forwards nothing, and one login a host is enough."""
    client = client_on(
        ssh_hosts,
        f"""
        began = time.monotonic()
        running = cluster(**{over_ssh(ssh_hosts)}).start()
        tell(start=time.monotonic() - began, sums=running.workers.apply_sync(add_across))
        run = train(running, steps=60)
        running.restart("worker:1")
        tell(steps=len(run.steps), log=running.logs("worker:1", 99))
        began = time.monotonic()
        running.stop()
        tell(stop=time.monotonic() - began)
        sys.stdin.readline()
        running.start()
        tell(started=True)
        began = time.monotonic()
        try:
            train(running, steps=10**6, step_timeout=None)
        except TaskFailed as error:
            tell(error=str(error), seconds=time.monotonic() - began)
        running.stop()
        """,
    )
    try:
        said = heard(client)
        record_property("seconds to start", said["start"])
        assert said["sums"] == [3.0, 3.0]
        said = heard(client)
        assert said["steps"] >= 60 and "grpc://n3:2224" in said["log"]
        record_property("seconds to stop", heard(client)["stop"])
        assert left_on(ssh_hosts) == []
        client.stdin.write("\n")
        client.stdin.flush()
        assert heard(client) == {"started": True}
        ssh_hosts.run("ip", "link", "set", "p2", "down")
        said = heard(client)
        assert f"host n2: nothing has been heard from it for {SILENCE} s" in said["error"]
        assert said["seconds"] < SILENCE + 5
        wait_until(lambda: not left_on(ssh_hosts, "n1", "n3"), CLEAN, "the hosts that are reached still")
        wait_until(lambda: not left_on(ssh_hosts), SILENCE, "the host that is not")
        assert client.wait(20) == 0
    finally:
        end(client)


@pytest.mark.parametrize(
    ("options", "words", "quoted"),
    [
        ({"key": "other"}, "has not reached it (exit code 255)", "Permission denied"),
        (
            {"hosts": ["n1", "192.168.233.9"]},
            "host 192.168.233.9: `ssh",
            "ssh: connect to host 192.168.233.9 port 22: ",
        ),
        ({"python": "/no/such/python"}, ": /no/such/python can't be run there", "No such file or directory"),
    ],
)
def test_what_ssh_says_is_quoted(ssh_hosts, options, words, quoted):
    client = client_on(ssh_hosts, f"cluster(**{over_ssh(ssh_hosts, **options)}).start()")
    _, said = client.communicate(timeout=60)
    message = said[said.rindex("ClusterStartError: ") :]
    assert words in message.splitlines()[0] and quoted in message
    wait_until(lambda: not left_on(ssh_hosts), CLEAN, "clean hosts")


# ------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [
        ({"hosts": "n1"}, TypeError, "hosts: expected a list of names or addresses, got 'n1'"),
        ({"hosts": []}, ValueError, "hosts: expected 1 to 3 hosts, as many as tasks at most; got []"),
        ({"hosts": list("abcd")}, ValueError, "hosts: expected 1 to 3 hosts, as many as tasks at most; got ['a', 'b'"),
        ({"hosts": ["n1", 3]}, TypeError, "hosts: expected a list of names or addresses, got ['n1', 3]"),
        (
            {"hosts": ["n1:22"]},
            ValueError,
            "hosts: expected names or addresses of hosts, without a port; got ['n1:22']",
        ),
        ({"hosts": ["-oProxyCommand=sh"]}, ValueError, "hosts: expected names or addresses of hosts, without a port"),
        ({"hosts": {"ps": ["a"]}}, ValueError, "hosts: expected a list, or one for each of 'ps' and 'worker'; got {"),
        (
            {"hosts": {"ps": ["a", "b"], "worker": ["c"]}},
            ValueError,
            "hosts['ps']: expected 1 to 1 hosts, as many as tasks at most; got ['a', 'b']",
        ),
        ({"reach": "sh -c true"}, ValueError, "reach: expected a program of this machine's, and {host} among its arg"),
        ({"reach": "no_such_program {host}"}, ValueError, "as in 'ssh {host}'; got 'no_such_program {host}'"),
        ({"reach": "sh '{host}"}, ValueError, 'reach: No closing quotation; got "sh \'{host}"'),
        ({"reach": ["sh", "{host}"]}, TypeError, "reach: expected a command as a str, got ['sh', '{host}']"),
        ({"python": 3}, TypeError, "python: expected a command as a str, got 3"),
        ({"network": "private"}, ValueError, "network='private' needs hosts=None: hosts have networks of their own"),
        ({"devices": "gpu"}, ValueError, "devices must be 'auto', 'cpu' or a list of GPU ids; got 'gpu'"),
        ({"num_gpus": -1}, ValueError, "num_gpus: expected an int of 0 or more, got -1"),
    ],
)
def test_bad_arguments_say_what_was_expected(arguments, kind, said):
    with pytest.raises(kind) as caught:
        Cluster(**{"hosts": ["n1", "n2"], "reach": "sh {host}"} | arguments)
    assert said in str(caught.value)


def test_tasks_are_placed_in_turn_or_as_it_is_said():
    counts = {"ps": 1, "worker": 3}
    assert placed(["a", "b"], counts) == {
        ("ps", 0): "a",
        ("worker", 0): "b",
        ("worker", 1): "a",
        ("worker", 2): "b",
    }
    assert list(placed({"worker": ["a", "b"], "ps": ["c"]}, counts).values()) == ["c", "a", "b", "a"]
    cluster = Cluster(ps=1, workers=3, hosts=("[fd00::1]", "10.0.0.2"), reach="sh -c 'ssh {host} x' -l {host}")
    assert cluster._hosts.spec == {
        "ps": ["[fd00::1]:2222"],
        "worker": ["10.0.0.2:2223", "[fd00::1]:2224", "10.0.0.2:2225"],
    }
    assert cluster.spec is None and repr(cluster) == "Cluster(ps=1, workers=3, status='new')"


def test_what_a_host_is_reached_with():
    where = {("ps", 0): "[fd00::1]", ("worker", 0): "b", ("worker", 1): "b"}
    first, second = reached(where, "sh -c 'ssh {host} x' -l {host}", None).values()
    agent = [sys.executable, "-m", "mnistdist.cluster.agent"]
    assert first == {
        "command": ["sh", "-c", "ssh fd00::1 x", "-l", "fd00::1", *agent],
        "log": "host-0",
        "tasks": [("ps", 0)],
    }
    assert second["tasks"] == [("worker", 0), ("worker", 1)] and second["log"] == "host-1"


@pytest.mark.skipif(not shutil.which("ssh"), reason="ssh is not installed here")
def test_ssh_gets_words_for_a_shell():
    (about,) = reached({("ps", 0): "n1"}, "ssh -T {host}", "/my programs/python").values()
    assert about["command"] == ["ssh", "-T", "n1", "'/my programs/python'", "-m", "mnistdist.cluster.agent"]


def test_each_host_shares_its_own_cores_and_gpus(monkeypatch):
    monkeypatch.setattr(pinning, "available_cores", lambda: [0, 1, 2, 3])
    monkeypatch.setattr(pinning, "find_gpus", list)
    tasks = [("ps", 1), ("worker", 1), ("worker", 3)]
    pins, notice = shares(tasks, "auto", None)
    assert {name: pin.cores for name, pin in pins.items()} == {
        ("ps", 1): (0, 1, 2, 3),
        ("worker", 1): (0, 1),
        ("worker", 3): (2, 3),
    }
    assert notice is None
    assert [pin.cores for pin in shares([("ps", 0), ("ps", 2)], ["0"], 1)[0].values()] == [(0, 1), (2, 3)]
    pins, notice = shares(tasks, ["5"], None)
    assert pins["worker", 3].env["CUDA_VISIBLE_DEVICES"] == "5" and pins["ps", 1].env["CUDA_VISIBLE_DEVICES"] == "-1"
    assert notice == "2 workers share GPU 5: each takes GPU memory as it needs it"


def test_what_goes_through_a_link():
    """Messages, and a connection that the other side can open, fill and close; one that is closed is no error."""

    async def ends():
        streams = [await asyncio.open_unix_connection(sock=each) for each in socket.socketpair()]
        near, far = (Link(*pair) for pair in streams)
        mine, theirs = socket.socketpair()
        near.carry(7, *await asyncio.open_unix_connection(sock=theirs))
        near.tell(a="ü\n")
        mine.sendall(b"there\n")
        mine.shutdown(socket.SHUT_WR)
        got = bytearray()
        far._sockets[7] = SimpleNamespace(write=got.extend, close=lambda: far.tell(closed=True))
        hears, answers = far.messages(), near.messages()
        said = [await anext(hears)]
        far.tell()
        near._put(9, b"to nobody")
        rest = asyncio.ensure_future(anext(hears, None))
        said.append(await anext(answers))
        streams[0][1].close()
        return said, bytes(got), await rest

    assert asyncio.run(ends()) == ([{"a": "ü\n"}, {"closed": True}], b"there\n", None)


def test_a_link_that_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr(link, "SILENCE", 0.1)

    async def hear():
        ours, theirs = socket.socketpair()
        with theirs:
            return await anext(Link(*await asyncio.open_unix_connection(sock=ours)).messages())

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(hear())
