"""Addresses of tasks, and a private network for them.

TensorFlow's servers listen on every interface and run whatever graph they are sent. In a network namespace of their
own nobody else reaches them, no port clashes, and they can have the very addresses that a printed program names.
"""

import contextlib
import ctypes
import errno
import fcntl
import ipaddress
import os
import random
import re
import socket
import struct
import subprocess
import sys
import time

from mnistdist._check import argument
from mnistdist.cluster.linux import command, environment

LISTING_HOST = ipaddress.IPv4Address("192.168.233.201")
LISTING_PORT = 2222

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_SIOCSIFADDR, _SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFNETMASK = 0x8916, 0x8913, 0x8914, 0x891C
_IFF_UP = 1
BUSY = "in use by another process; end that, or choose another port"
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")


def wanted_network(value):
    """The network that an argument asks for. The variable ``MNISTDIST_NETWORK`` can replace "auto" by another.

    Raises ``ValueError`` or ``TypeError`` for a network that doesn't exist.
    """
    value = argument("network", value)
    variable = os.environ.get("MNISTDIST_NETWORK") if value == "auto" else None
    return argument("network", variable, "MNISTDIST_NETWORK") if variable else value


def choose_network(wanted, refusal):
    """Whether tasks get a private network; ``wanted`` is auto, private or host. May raise ``refusal``."""
    private = wanted != "host" and private_network_available()
    if wanted == "private" and not private:
        raise refusal
    return private


def task_addresses(ps, workers, *, private):
    """The tasks' addresses in a private or the host's network: ``{"ps": [...], "worker": [...]}``."""
    return (listing_addresses if private else loopback_addresses)(ps, workers)


def hosts_of(spec):
    """The hosts of all tasks in ``{job: addresses}``."""
    return [parse_address(address)[0] for addresses in spec.values() for address in addresses]


def listing_addresses(ps, workers):
    """The addresses of the classic program, continued: 192.168.233.201:2222 for the ps, .202:2223 next, and so on.

    Takes the numbers of ps and worker tasks, and returns ``{"ps": [...], "worker": [...]}`` for ``ClusterSpec``. Each
    task also has a port of its own, because a server takes its port on every address of its network.
    """
    names = [f"{LISTING_HOST + i}:{LISTING_PORT + i}" for i in range(ps + workers)]
    return {"ps": names[:ps], "worker": names[ps:]}


def loopback_addresses(ps, workers):
    """Free ports on 127.0.0.1, in the shape of :func:`listing_addresses`.

    They lie below the range from which the system takes ports for outgoing connections. So a port that is free now is
    still free a moment later, when the server takes it.
    """
    ports = set()
    while len(ports) < ps + workers:
        port = random.SystemRandom().randrange(20000, 32000)
        if not port_in_use(f"127.0.0.1:{port}"):
            ports.add(port)
    names = [f"127.0.0.1:{port}" for port in sorted(ports)]
    return {"ps": names[:ps], "worker": names[ps:]}


def parse_address(text):
    """``"host:port"`` or ``"[v6]:port"`` to ``(host, port)``.

    Raises ``ValueError`` if the text is neither, and ``TypeError`` if it is not a text; both name it.
    """
    if not isinstance(text, str):
        raise TypeError(f"{text!r} is not an address: expected a str, host:port with a port from 1 to 65535")
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+):([0-9]{1,5})", text.strip())
    if not match or not 0 < int(match[2]) < 65536 or not _can_be_a_host(match[1]):
        raise ValueError(f"{text!r} is not an address: expected host:port with a port from 1 to 65535")
    return match[1].strip("[]"), int(match[2])


def _can_be_a_host(text):
    """Whether the system's resolver can be asked for it: a v6 address in brackets, or a name that it can encode."""
    try:
        if text.startswith("["):
            ipaddress.IPv6Address(text.strip("[]"))
        else:
            text.encode("idna")
    except ValueError:  # UnicodeError is one
        return False
    return True


def why_no_port(address):
    """Why no server can listen on the port of ``address``, on any interface of this machine; None if one can."""
    _, port = parse_address(address)
    for family, wildcard in ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")):
        # That the machine has no such family is an OSError too, and no reason.
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((wildcard, port))
                probe.listen()
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return BUSY
                if error.errno == errno.EACCES:
                    return "not permitted to this user; choose another port, above 1023 as a rule"
    return None


def port_in_use(address):
    """Whether something on this machine holds the port of ``address``, on any interface."""
    return why_no_port(address) == BUSY


def wait_for_address(address, timeout, *, what="the server", on_wait=None, limit=None):
    """Waits until something accepts connections at ``address``.

    ``on_wait(seconds_left)`` is called about once a second. A ``TimeoutError`` after ``timeout`` seconds names
    ``what``, the address and the time, which is ``limit`` if the caller has already used part of it. A session that
    is created before its servers are up waits for ever, so call this first.
    """
    host, port = parse_address(address)
    deadline, next_word, why = time.monotonic() + timeout, time.monotonic() + 1, "no answer"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), timeout=min(left, 1.0)):
                return
        except socket.gaierror as error:
            why = f"{host!r} can't be resolved: {error.strerror}"
        except OSError as error:
            why = error.strerror or "timed out"
        if on_wait and time.monotonic() >= next_word:
            on_wait(max(0.0, deadline - time.monotonic()))
            next_word += 1
        time.sleep(min(0.1, max(0.0, deadline - time.monotonic())))
    raise TimeoutError(f"{what} at {address} did not answer within {limit or timeout:g} s ({why})")


def without_proxies(environment):
    """These variables without a proxy for the web, which would catch the tasks' gRPC too, and hang them."""
    return {name: value for name, value in environment.items() if name.lower() not in _PROXIES}


def private_network_available():
    """Whether this process may make a private network, which a throw-away child tries."""
    if not sys.platform.startswith("linux"):
        return False
    code = f"import {__name__} as network; network.enter_private_network(['192.168.233.201']); print('entered')"
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "env": environment(os.environ)}
    # Where the caller ignores SIGCHLD, every status reads 0.
    return b"entered" in subprocess.run(command(code), **options).stdout


def enter_private_network(hosts=()):
    """Moves this process, and the children that it starts from now on, to a network of their own.

    The new network has a loopback interface with 127.0.0.1 and every IPv4 address of ``hosts``, and no way out or in.
    It needs no privilege if the system allows user namespaces, and raises ``OSError`` otherwise. The process must have
    a single thread, so call this before anything imports NumPy or TensorFlow. An ordinary user may not move several
    threads, and those of root would stay where they are (unshare(2)).
    """
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        what = "enter the private network before anything starts one, as importing NumPy or TensorFlow does"
        raise OSError(errno.EINVAL, f"this process has {threads} threads: {what}")
    libc = ctypes.CDLL(None, use_errno=True)

    def unshare(flags):
        if libc.unshare(flags) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"unshare: {os.strerror(number)}")

    try:
        unshare(_CLONE_NEWNET)
    except PermissionError:
        uid, gid = os.geteuid(), os.getegid()
        unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
        for name, text in {"setgroups": "deny", "uid_map": f"{uid} {uid} 1", "gid_map": f"{gid} {gid} 1"}.items():
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        answer = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16sh22x", b"lo", 0))
        flags = struct.unpack_from("h", answer, 16)[0]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))
        for i, host in enumerate(dict.fromkeys(map(str, hosts))):
            if not ipaddress.ip_address(host).is_loopback:
                for request, address in (_SIOCSIFADDR, host), (_SIOCSIFNETMASK, "255.255.255.255"):
                    packed = struct.pack("=H2x4s8x", socket.AF_INET, socket.inet_aton(address))
                    fcntl.ioctl(control, request, struct.pack("16s16s8x", f"lo:{i}".encode(), packed))
