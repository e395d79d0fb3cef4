"""Who may come in: what a running cluster listens on, who gets an answer there, and the cures that the book names."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import venv
from pathlib import Path

import ipyparallel
import psutil
import pytest

from mnistdist.cluster.network import parse_address, private_network_available
from mnistdist.flags import check, parse
from tests.book.book_rules import ROOT
from tests.book.page_rules import section
from tests.cluster.open_ports import open_sockets, open_unix_sockets, tree_of
from tests.helpers import alive

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/net"), reason="sockets are looked up in /proc (Linux)")
needs_namespaces = pytest.mark.skipif(
    not private_network_available(), reason="this system allows no network namespaces: there is no private network"
)
HERE = Path(__file__).parent
PAGE = (ROOT / "book" / "security.md").read_text(encoding="utf-8")
EVERYWHERE = ("::", "0.0.0.0")


@pytest.fixture(scope="module")
def info(cluster):
    """What the connection file of the cluster's client says."""
    return json.loads(cluster._engines.processes.connection_file.read_text())


def client_ports(info):
    """Those ports of the controller that the client's connection file names."""
    return {value for value in info.values() if isinstance(value, int)}


# --------------------------------------------------------------------------------------- what it listens on


@needs_namespaces
def test_outside_the_private_network_only_the_controller_listens_and_on_127_0_0_1(cluster, info):
    tree = tree_of(cluster)
    assert len(tree) >= 7  # client, keeper, controller, nursery, three tasks
    found = open_sockets(tree)
    assert {(each.protocol, each.host) for each in found} == {("tcp", "127.0.0.1")}
    assert {each.port for each in found} > client_ports(info)
    assert len(found) == len(client_ports(info)) + 1  # and the one on which the controller's threads tell the hub
    controllers = {
        each.pid for each in alive(tree, lambda each: "mnistdist.cluster._ipyparallel" in " ".join(each.cmdline()))
    }
    assert {pid for each in found for pid in each.pids} <= controllers


@needs_namespaces
def test_inside_the_private_network_every_task_has_one_port_open_to_all_of_it(cluster):
    tree = tree_of(cluster)
    for task in cluster.tasks:
        found = [each for each in open_sockets(tree, seen_by=task.pid) if task.pid in each.pids]
        assert [(each.port, each.pids) for each in found] == [(parse_address(task.address)[1], (task.pid,))]
        assert found[0].host in EVERYWHERE
    assert len(open_sockets(tree, seen_by=cluster.tasks[0].pid)) == len(cluster.tasks)


def test_unix_sockets_are_in_a_folder_that_is_closed_to_others(cluster):
    """None is abstract, that is, open to every process of the network namespace; see unix(7)."""
    tree, folder = tree_of(cluster), cluster._engines.processes.folder
    names = open_unix_sockets(tree)
    assert len(names) > 5
    assert {os.path.dirname(name) for name in names} == {str(folder)}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.stat().st_uid == os.geteuid()
    if private_network_available():
        assert open_unix_sockets(tree, seen_by=cluster.tasks[0].pid) == []


HOST = f"""
    import json, sys
    sys.path.insert(0, {str(ROOT)!r})
    from mnistdist.cluster.network import enter_private_network
    enter_private_network()  # what is open to all of this machine is not to be open to others
    from mnistdist import Cluster
    from tests.cluster.open_ports import open_sockets, tree_of
    with Cluster(ps=1, workers=2, network="host") as cluster:
        ports = {{task.pid: int(task.address.rpartition(":")[2]) for task in cluster.tasks}}
        print(json.dumps([list(ports.items()), open_sockets(tree_of(cluster))]))
"""


@needs_namespaces
def test_on_the_hosts_network_each_task_listens_on_every_interface_and_nothing_else_does(run_python):
    out, err = run_python(HOST).communicate(timeout=90)
    assert out, err
    tasks, found = json.loads(out)
    open_to_all = sorted([pids, port] for _, host, port, pids in found if host in EVERYWHERE)
    assert open_to_all == sorted([[pid], port] for pid, port in tasks)
    assert all(20000 <= port < 32000 for _, port in tasks)
    others = {host for _, host, _, pids in found if pids[0] not in dict(tasks)}
    assert others == {"127.0.0.1"}
    assert all(host in EVERYWHERE for _, host, _, pids in found if pids[0] in dict(tasks))


# ------------------------------------------------------------------------- what a configuration can't change

CONFIGURED = """
import os
marked = "import pathlib; pathlib.Path(os.environ['MARKS'], {mark!r}).touch()"
c = get_config()
for side in ("", "client_", "engine_", "monitor_"):
    setattr(c.IPController, side + "ip", "*")
    setattr(c.IPController, side + "transport", "tcp")
c.IPController.location = "192.0.2.1"
c.IPController.ssh_server = c.IPController.engine_ssh_server = c.IPEngine.sshserver = "nobody@192.0.2.1"
c.IPController.ports = "45000-45099"
c.IPController.enable_curve = True
c.IPController.use_threads = False
c.IPController.db_class = "nowhere.NoSuchClass"
c.Session.key = b"known"
c.Session.debug = True
c.IPEngine.out_stream_factory = "nowhere.NoSuchClass"
c.IPEngine.registration_url = "tcp://192.0.2.1:1"
c.InteractiveShellApp.exec_lines = c.IPKernelApp.exec_lines = ["import os", marked]
exec(marked)
"""
READ = ("ipython", "startup")
START = f"""
import json, os, sys
sys.path.insert(0, {str(ROOT)!r})
from mnistdist import Cluster
from tests.cluster.open_ports import open_sockets, open_unix_sockets, tree_of
with Cluster(ps=1, workers=2, network="private") as cluster:
    tree = tree_of(cluster)
    print(json.dumps({{
        "open": open_sockets(tree),
        "unix": [os.path.dirname(name) == str(cluster._engines.processes.folder) for name in open_unix_sockets(tree)],
        "info": cluster._engines.info,
        "names": cluster.workers.apply_sync(lambda: [name for name in globals() if name.startswith("from_")]),
        "environment": [name for name in os.environ if name.startswith("IPP_")],
    }}))
"""


@pytest.fixture
def configured(tmp_path):
    """An environment of Python's with IPython's files in it, for its programs and in the user's own folder.

    They leave marks if they are read: returns the interpreter, environment variables, and the folder for the marks.
    """
    venv.create(tmp_path / "env", symlinks=True)
    marks, own = tmp_path / "marks", tmp_path / "ipython"
    marks.mkdir()
    for folder in (tmp_path / "env" / "etc" / "ipython", own, own / "profile_default"):
        (folder / "startup").mkdir(parents=True)
        where = str(folder.relative_to(tmp_path)).replace("/", "-")
        for name in ("ipython", "ipcontroller", "ipengine", "ipython_kernel"):
            (folder / f"{name}_config.py").write_text(CONFIGURED.replace("{mark!r}", f"'{where}-{name}'"))
        start_up = f"import os; open(os.path.join(os.environ['MARKS'], '{where}-startup'), 'w'); from_{len(where)} = 1"
        (folder / "startup" / "10.py").write_text(start_up)
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "MARKS": str(marks), "IPYTHONDIR": str(own)}
    environment |= {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    return tmp_path / "env" / "bin" / "python", environment, marks


def start_with(python, environment, code=START):
    done = subprocess.run([python, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ipythons_configuration_leaves_its_marks_where_it_is_read(configured):
    """The fixture is no dud: IPython itself reads the files of the machine and the user's, and runs their start-up."""
    python, environment, marks = configured
    start_with(python, environment, "from IPython import start_ipython; start_ipython(['-c', '1'])")
    read = sorted(path.name for path in marks.iterdir())
    assert read == [f"{where}-{what}" for where in ("env-etc-ipython", "ipython-profile_default") for what in READ]


@needs_namespaces
@pytest.mark.parametrize("source", ["one line", "files", "environment"])
def test_no_configuration_of_ipythons_opens_a_door(configured, tmp_path, source):
    """Neither the machine's or the user's files, nor the variables in which ipyparallel looks for another cluster."""
    python, environment, marks = configured
    if source != "files":
        for path in [*tmp_path.glob("*/**/*_config.py"), *tmp_path.glob("*/**/startup/*.py")]:
            path.unlink()
    if source == "one line":
        (tmp_path / "env/etc/ipython/ipcontroller_config.py").write_text("get_config().IPController.ip = '*'")
    if source == "environment":
        (tmp_path / "start_up.py").write_text("from_python_startup = 1")
        environment |= {"IPP_SESSION_KEY": "known", "IPP_CLUSTER_ID": "x", "IPP_PROFILE_DIR": str(tmp_path)}
        environment |= {"IPP_ENABLE_CURVE": "1", "IPP_CONNECTION_INFO": "{}", "IPP_CURVE_SERVERKEY": "k" * 40}
        environment |= {"IPP_CURVE_SECRETKEY": "k" * 40, "IPP_CURVE_PUBLICKEY": "k" * 40}
        environment |= {"PYTHONSTARTUP": str(tmp_path / "start_up.py")}
    found = json.loads(start_with(python, environment))
    assert {(protocol, host) for protocol, host, _, _ in found["open"]} == {("tcp", "127.0.0.1")}
    assert found["unix"] and all(found["unix"])
    info = found["info"]
    assert (info["interface"], info["location"], info["ssh"]) == ("tcp://127.0.0.1", "127.0.0.1", "")
    assert not info["curve_serverkey"]
    assert len(info["key"]) >= 32
    assert found["names"] == [[], []]
    assert list(marks.iterdir()) == []
    assert sorted(found["environment"]) == sorted(name for name in environment if name.startswith("IPP_"))


# ------------------------------------------------------------------------------------- who gets an answer


def run_on(targets, seconds):
    """Send each target a graph in a session of its own; what came of it within so many seconds, by target."""
    import threading
    import time

    import tensorflow.compat.v1 as tf

    found = dict.fromkeys(targets, "no answer")

    def send(target):
        try:
            with tf.Graph().as_default():
                answer = tf.constant(6) * 7
                with tf.Session(f"grpc://{target}") as session:
                    found[target] = f"ran it: {session.run(answer)}"
        except tf.errors.OpError as error:
            found[target] = type(error).__name__

    threads = [threading.Thread(target=send, args=[target], daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    return dict(found)


OUTSIDE = f"""
import json, os, sys
sys.path.insert(0, {str(ROOT)!r})
targets, hosts = json.loads(sys.argv[1])
if hosts:
    from mnistdist.cluster.network import enter_private_network
    enter_private_network(hosts)
from tests.cluster.test_access import run_on
print(json.dumps(run_on(targets, 5)), flush=True)
os._exit(0)  # a session that is being made can't be interrupted
"""


def own_hosts():
    """Every address of this machine, as a target has it; link-local ones, which need an interface's name, left out."""
    found = [each for interface in psutil.net_if_addrs().values() for each in interface]
    v4 = [each.address for each in found if each.family == socket.AF_INET]
    return v4 + [f"[{each.address}]" for each in found if each.family == socket.AF_INET6 and "%" not in each.address]


@needs_namespaces
def test_a_graph_is_run_for_who_is_inside_and_for_nobody_else(cluster):
    """From outside: at all of this machine's addresses; and in another private network that has the very same ones."""
    addresses = [task.address for task in cluster.tasks]
    ports = [parse_address(address)[1] for address in addresses]
    inside = [*addresses, *(f"127.0.0.1:{port}" for port in ports)]
    assert cluster["worker", 0].apply_sync(run_on, inside, 20) == dict.fromkeys(inside, "ran it: 42")

    own = [f"{host}:{port}" for host in own_hosts() for port in ports]
    assert f"127.0.0.1:{ports[0]}" in own
    neighbours = [parse_address(address)[0] for address in addresses]
    clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", OUTSIDE, json.dumps(arguments)], stdout=-1, stderr=-1, text=True, env=clean
        )
        for arguments in ((own, None), (inside, neighbours))
    ]
    try:
        for process, targets in zip(running, (own, inside), strict=True):
            out, err = process.communicate(timeout=90)
            assert out, err
            results = json.loads(out)
            assert set(results) == set(targets)
            assert set(results.values()) <= {"no answer", "UnavailableError"}
    finally:
        for process in running:
            process.kill()


@needs_namespaces
def test_a_graph_that_is_run_can_write_and_read_the_files_of_the_user(cluster, tmp_path):
    """So the book says, and so it matters who may come in."""

    def write_and_read(target, path):
        import tensorflow.compat.v1 as tf

        with tf.Graph().as_default(), tf.device("/job:ps/task:0"):
            written = tf.io.write_file(path, "from another task")
            with tf.control_dependencies([written]):
                read = tf.io.read_file(path)
            with tf.Session(target) as session:
                return session.run(read)

    path = tmp_path / "written"
    target = f"grpc://{cluster.tasks[0].address}"
    assert cluster["worker", 1].apply_sync(write_and_read, target, str(path)) == b"from another task"
    assert path.read_text() == "from another task"


# -------------------------------------------------------------------------------------- ipyparallel's keys


def test_the_connection_files_are_their_owners_alone(cluster):
    security = cluster._engines.processes.connection_file.parent
    assert security.stat().st_mode & 0o777 == 0o700
    files = sorted(security.iterdir())
    assert [path.name for path in files] == ["ipcontroller-client.json", "ipcontroller-engine.json"]
    for path in files:
        assert path.stat().st_mode & 0o777 == 0o600
        assert len(json.loads(path.read_text())["key"]) >= 32


def test_the_key_is_in_no_command_line_and_no_environment(cluster, info):
    """Command lines are open to every user of the machine."""
    tree = tree_of(cluster)
    told = alive(tree, lambda process: process.cmdline() and process.environ())
    assert [process.pid for process in told] == [process.pid for process in tree]
    assert alive(tree, lambda process: info["key"] in " ".join([*process.cmdline(), *process.environ().values()])) == []


@pytest.mark.parametrize("key", ["", "wrong"])
def test_a_client_with_a_wrong_key_gets_no_answer(cluster, info, key):
    with pytest.raises(TimeoutError, match="Hub connection request timed out"):
        ipyparallel.Client(info | {"key": key}, timeout=2)
    with ipyparallel.Client(info, timeout=10) as client:  # with the right one, it does
        assert client.ids == [0, 1, 2]
    assert cluster["worker", 0].apply_sync(os.getpid) == cluster.tasks[1].pid


def test_two_clusters_have_different_keys(info, run_python):
    code = "from mnistdist.cluster.process_tree import Processes; import json, time\n"
    code += "p = Processes({'ps': []}, private=False, servers=False, on_exit=print)\n"
    code += "while not p.connection_file.exists(): time.sleep(0.05)\n"
    code += "time.sleep(0.2); print(json.loads(p.connection_file.read_text())['key']); p.close()"
    out, err = run_python(code).communicate(timeout=60)
    assert len(out.strip()) >= 32, err
    assert out.strip() != info["key"]


# ------------------------------------------------------------------------ the cures of book/security.md


def commands(title, *parts):
    """The one block of commands in a section of the page in which all the parts are."""
    blocks = re.findall(r"^```sh\n(.*?)^```", section(PAGE, title), re.M | re.S)
    (block,) = [block for block in blocks if all(part in block for part in parts)]
    return block


def two_hosts(tmp_path, *arguments, tools, as_root=False):
    """What ``two_hosts.py`` prints, as a list; skips where a tool is missing."""
    missing = [tool for tool in ("ip", *tools) if not shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")]
    if missing:
        pytest.skip(f"not installed here: {', '.join(missing)}")
    if as_root and os.geteuid() != 0:
        pytest.skip("sshd needs root, to give a session to a user")
    command = [sys.executable, str(HERE / "two_hosts.py"), *arguments]
    if os.geteuid() != 0:
        command = ["unshare", "--map-root-user", "--net", *command]
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=os.environ | {"PATH": path})
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


LISTED, OTHERS = ["192.168.233.202", "192.168.233.203"], ["192.168.233.9", "fd00::9"]
OPEN = "open open open"


@needs_namespaces
@pytest.mark.parametrize("tool", ["nft", "iptables"])
@pytest.mark.parametrize("which", ["its machines", "nobody"])
def test_the_firewall_rules_let_in_whom_they_name(tmp_path, tool, which):
    """Ports 2222 (the listing's), 20000 (a cluster's on the host's network) and 2225 (none of either)."""
    parts = [tool, "192.168.233.202"] if which == "its machines" else [tool, "20000"]
    tools = [tool, "ip6tables"] if tool == "iptables" else [tool]
    before, after, loopback = two_hosts(tmp_path, "firewall", commands("A firewall", *parts), tools=tools)
    assert before == dict.fromkeys([*LISTED, *OTHERS], OPEN)
    if which == "its machines":
        expected = dict.fromkeys(LISTED, OPEN) | dict.fromkeys(OTHERS, "silent open open")
    else:
        expected = dict.fromkeys([*LISTED, *OTHERS], "silent silent open")
    assert after == expected
    assert loopback == dict.fromkeys(["127.0.0.1", "::1", "192.168.233.201"], OPEN)


@needs_namespaces
def test_the_tunnel_leads_both_ways_and_closes_nothing(tmp_path):
    """Its ends are the addresses of the spec, on loopback alone; the ps's own port stays open beside it."""
    for name in ("host", "key"):
        if shutil.which("ssh-keygen"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    first, second = commands("An SSH tunnel", "ssh -N").splitlines()
    assert second == first.replace("127.0.0.2", "127.0.0.3").replace("2223", "2224").replace("worker-0", "worker-1")
    arguments = "tunnel", first, str(tmp_path)
    at_worker, at_ps = two_hosts(tmp_path, *arguments, tools=["ssh", "ssh-keygen", "sshd"], as_root=True)
    assert at_worker == {"127.0.0.1:2222": "ps 0", "192.168.233.201:2223": "refused", "192.168.233.201:2222": "ps 0"}
    assert at_ps == {"127.0.0.2:2223": "worker 0", "192.168.233.202:2222": "refused"}


def test_the_tunnels_addresses_are_a_spec_and_each_task_has_a_machine_of_its_own():
    flags = commands("An SSH tunnel", "--ps_hosts").split()
    spec = check(parse([*flags, "--job_name=worker", "--task_index=1"]))
    assert spec == {"ps": ["127.0.0.1:2222"], "worker": ["127.0.0.2:2223", "127.0.0.3:2224"]}
    assert len({parse_address(address)[0] for job in spec.values() for address in job}) == 3


def test_the_ports_of_the_hosts_network_are_the_pages():
    from mnistdist.cluster.network import loopback_addresses

    first, last = map(int, re.search(r"free ports from (\d+) to (\d+) on", PAGE).groups())
    ports = [parse_address(address)[1] for _ in range(30) for address in loopback_addresses(1, 30)["worker"]]
    assert first <= min(ports) < max(ports) <= last
