import os
import shutil
import socket
import subprocess
import sys

import psutil
import pytest

import mnistdist
from mnistdist import Cluster
from mnistdist.cluster import network
from mnistdist.cluster.cluster import _say_once
from mnistdist.cluster.network import (
    enter_private_network,
    listing_addresses,
    loopback_addresses,
    parse_address,
    port_in_use,
    private_network_available,
    wait_for_address,
)
from tests.book.book_rules import ROOT
from tests.helpers import unprivileged

needs_namespaces = pytest.mark.skipif(
    not private_network_available(), reason="this system allows no network namespaces: there is no private network"
)


def test_addresses_are_the_listings_and_go_on_from_there():
    assert listing_addresses(1, 2) == {
        "ps": ["192.168.233.201:2222"],
        "worker": ["192.168.233.202:2223", "192.168.233.203:2224"],
    }
    many = listing_addresses(2, 60)
    assert many["worker"][-1] == "192.168.234.6:2283"
    assert len({parse_address(a) for job in many.values() for a in job}) == 62


def test_loopback_addresses_are_free_and_distinct():
    spec = loopback_addresses(2, 3)
    addresses = spec["ps"] + spec["worker"]
    assert len(set(addresses)) == 5
    assert not any(port_in_use(address) for address in addresses)


@pytest.mark.parametrize("text", ["a", "a:", ":22", "a:b", "a:0", "a:65536", "a b:22", "http://a:22", "", "a:22:33"])
def test_what_is_no_address_is_named(text):
    with pytest.raises(ValueError, match="is not an address: expected host:port") as caught:
        parse_address(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b-c:22", ("a.b-c", 22)),
        ("10.0.0.1:65535", ("10.0.0.1", 65535)),
        ("[::1]:5", ("::1", 5)),
        (" h:1 ", ("h", 1)),
    ],
)
def test_addresses_are_split(text, expected):
    assert parse_address(text) == expected


def test_ports_in_use_and_waiting_for_one():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert port_in_use(address)
        wait_for_address(address, 5)
    assert not port_in_use(address)
    said = []
    with pytest.raises(TimeoutError, match=rf"ps:0 at {address} did not answer within 1.2 s \(Connection refused\)"):
        wait_for_address(address, 1.2, what="ps:0", on_wait=said.append)
    assert len(said) == 1
    with pytest.raises(TimeoutError, match=r"'no\.such\.host\.invalid' can't be resolved"):
        wait_for_address("no.such.host.invalid:1", 0.3)


@needs_namespaces
def test_a_private_network_has_the_addresses_and_nothing_else():
    code = """
        import os, socket
        from mnistdist.cluster.network import enter_private_network, wait_for_address
        before = os.readlink("/proc/self/ns/net")
        enter_private_network(["192.168.233.201", "127.0.0.1", "192.168.233.202", "192.168.233.201"])
        assert os.readlink("/proc/self/ns/net") != before
        assert [name for _, name in socket.if_nameindex()] == ["lo"], socket.if_nameindex()
        for host in "127.0.0.1", "192.168.233.201", "192.168.233.202":
            with socket.create_server((host, 2222)):
                wait_for_address(f"{host}:2222", 2)
        with socket.socket() as outside:
            outside.settimeout(1)
            try:
                outside.connect(("192.0.2.1", 80))  # TEST-NET-1
            except OSError as error:
                print("no way out:", error.strerror)
    """
    done = subprocess.run([sys.executable, "-c", _dedent(code)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "no way out: Network is unreachable\n"


def _dedent(code):
    import textwrap

    return textwrap.dedent(code)


def _ports_that_answer(ports):
    """``(address, port)`` wherever one of the ports answers on an address of this machine, link-local ones aside."""
    answering = []
    for found in [found for interface in psutil.net_if_addrs().values() for found in interface]:
        for port in ports:
            if found.family in (socket.AF_INET, socket.AF_INET6) and not found.address.startswith("fe80"):
                try:
                    with socket.create_connection((found.address, port), timeout=0.5):
                        answering.append((found.address, port))
                except OSError:
                    pass
    return answering


@needs_namespaces
def test_no_port_of_a_private_cluster_answers_from_outside():
    with Cluster(ps=1, workers=2, network="private") as cluster:
        addresses = [task.address for task in cluster.tasks]
        ports = [parse_address(address)[1] for address in addresses]
        assert ports == [2222, 2223, 2224]
        assert _ports_that_answer(ports) == []
        inside = cluster["worker", 0].apply_sync(_ports_that_answer, ports)  # the probe itself works
        assert set(inside) >= {(host, port) for host in ("127.0.0.1", "192.168.233.203") for port in ports}
        with Cluster(ps=1, workers=1, network="private") as second:  # the same ports, and no clash
            assert second.tasks[0].address == addresses[0]


UNPRIVILEGED = """
from mnistdist import Cluster
from mnistdist.cluster.network import port_in_use
with Cluster(ps=1, workers=1, network="private") as cluster:
    print([task.address for task in cluster.tasks if port_in_use(task.address)])
    print(cluster.workers.apply_sync(lambda: "trained by nobody"), cluster.status)
"""


@needs_namespaces
@pytest.mark.parametrize("home", [{"HOME": "/proc/nowhere", "TMPDIR": "/proc/nowhere"}, {}], ids=["closed", "none"])
def test_the_private_network_needs_no_privilege_and_no_home(home, tmp_path):
    """Where no home is named, the one in the list of users is taken, so the test needs a user who is in it."""
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "TMPDIR")} | home
    command = unprivileged([sys.executable, "-c", UNPRIVILEGED])
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n['trained by nobody'] running\n"


LIMITED = """
import os, sys
from mnistdist.cluster.network import enter_private_network, private_network_available
enter_private_network()  # what is open to all of this machine is not to be open to others
assert private_network_available()
with open(f"/proc/sys/user/{sys.argv[1]}", "w") as file:
    file.write("0")
os.execvp(sys.argv[2], sys.argv[2:])
"""


def limited(limit, command):
    """A command without privilege, in a user namespace that allows no further ones, or no network namespaces."""
    command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
    return ["unshare", "--map-root-user", sys.executable, "-c", LIMITED, limit, *command]


@needs_namespaces
@pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv is not installed here")
@pytest.mark.parametrize("limit", ["max_user_namespaces", "max_net_namespaces"])
def test_where_the_system_has_no_namespaces_left_the_launcher_says_so(limit, tmp_path):
    """``auto`` says it in one line and trains all the same; ``private`` refuses in one line."""
    command = [sys.executable, "-m", "mnistdist", "run", "--train_steps=20", f"--data_dir={tmp_path}/data"]
    for network_flag, status in (("auto", 0), ("private", 1)):
        each = limited(limit, [*command, f"--network={network_flag}"])
        done = subprocess.run(each, capture_output=True, text=True, timeout=120, cwd=ROOT)
        assert done.returncode == status, done.stderr
        if status:
            assert done.stderr == (
                "mnistdist run: error: --network=private: this system allows no private network; use --network=host\n"
            )
            assert done.stdout == ""
        else:
            assert done.stderr.count("No private network on this system") == 1
            assert done.stdout.count("validation accuracy") == 2


@needs_namespaces
def test_a_process_with_threads_is_told_so_whoever_runs_it():
    """A thread that is there already would stay outside, if the system let the process in at all."""
    code = """
        import os, threading
        from mnistdist.cluster.network import enter_private_network
        before, release = os.readlink("/proc/self/ns/net"), threading.Event()
        threading.Thread(target=release.wait).start()
        try:
            enter_private_network()
        except OSError as error:
            print(error)
        release.set()
        assert os.readlink("/proc/self/ns/net") == before
    """
    done = subprocess.run([sys.executable, "-c", _dedent(code)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "this process has 2 threads: enter the private network before anything starts one" in done.stdout


def test_without_namespaces_auto_says_so_once_and_private_refuses(monkeypatch, capsys):
    monkeypatch.setattr(network, "private_network_available", lambda: False)
    _say_once.cache_clear()
    with pytest.raises(mnistdist.ClusterStartError, match="allows no private network"):
        Cluster(network="private").start()
    for _ in range(2):
        assert Cluster()._choose_network() is False
    assert capsys.readouterr().err.count("listen on every interface") == 1


def test_a_refused_namespace_is_an_oserror(monkeypatch):
    class Refusing:
        def __init__(self, *_, **__):
            pass

        def unshare(self, flags):
            network.ctypes.set_errno(22)
            return -1

    monkeypatch.setattr(network.ctypes, "CDLL", Refusing)
    monkeypatch.setattr(network.os, "listdir", lambda _: ["the only thread"])
    with pytest.raises(OSError, match="unshare: Invalid argument"):
        enter_private_network()
