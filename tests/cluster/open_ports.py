"""The sockets of a tree of processes that others can reach, as Linux lists them in /proc."""

import contextlib
import os
import socket
from typing import NamedTuple

import psutil

from tests.helpers import alive, below

_LISTENING = {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}  # UDP: bound, and connected to nobody


class Open(NamedTuple):
    """A socket that waits for others: its protocol and address, and the pids of the processes that hold it."""

    protocol: str
    host: str
    port: int
    pids: tuple


def tree_of(cluster):
    """All processes of a cluster, this one, its client, included."""
    keeper = psutil.Process(cluster._engines.processes._keeper.pid)
    return [psutil.Process(), keeper, *below(keeper.pid)]


def open_sockets(processes, seen_by="self"):
    """What the processes listen on in the network namespace of the process ``seen_by``: ``Open``, by port."""
    owners = _owners(processes)
    found = []
    for protocol, listening in _LISTENING.items():
        with contextlib.suppress(FileNotFoundError):  # no IPv6 here
            for fields in _table(seen_by, protocol):
                address, state, inode = fields[1], fields[3], fields[9]
                if state == listening and inode in owners:
                    host, port = address.split(":")
                    found.append(Open(protocol, _host(host), int(port, 16), tuple(owners[inode])))
    return sorted(found, key=lambda each: (each.port, each.protocol))


def open_unix_sockets(processes, seen_by="self"):
    """Names of the Unix sockets on which the processes accept connections; an abstract one's begins with ``@``."""
    owners = _owners(processes)
    rows = [fields for fields in _table(seen_by, "unix") if int(fields[3], 16) & 0x10000 and fields[6] in owners]
    return sorted(fields[7] if len(fields) > 7 else "" for fields in rows)


def _table(seen_by, name):
    with open(f"/proc/{seen_by}/net/{name}") as file:
        return [line.split() for line in file.readlines()[1:]]


def _owners(processes):
    owners = {}
    for process in alive(processes):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            for fd in os.listdir(f"/proc/{process.pid}/fd"):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    kind, _, inode = os.readlink(f"/proc/{process.pid}/fd/{fd}").partition(":")
                    if kind == "socket":
                        owners.setdefault(inode.strip("[]"), {})[process.pid] = None
    return owners


def _host(text):
    """The kernel writes addresses as words of 32 bits in the machine's order."""
    words = b"".join(bytes.fromhex(text[i : i + 8])[::-1] for i in range(0, len(text), 8))
    return socket.inet_ntop(socket.AF_INET if len(words) == 4 else socket.AF_INET6, words)
