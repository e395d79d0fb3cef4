"""Two hosts with a wire between them, each a network namespace: a place to try firewall rules and tunnels.

    python two_hosts.py firewall COMMANDS            from where which port answers, before and after shell commands
    python two_hosts.py tunnel COMMAND FOLDER        what answers at the ends of an ssh tunnel; keys are in the folder

This process is the host of the ps, 192.168.233.201; a child of it is everyone else. Prints JSON, an object a line.
"""

import json
import os
import socket
import subprocess
import sys
import time

from mnistdist.cluster import linux
from mnistdist.cluster.network import enter_private_network

PS, WORKERS, STRANGER = "192.168.233.201", ["192.168.233.202", "192.168.233.203"], "192.168.233.9"
PS_V6, STRANGER_V6 = "fd00::1", "fd00::9"


def ip(command):
    subprocess.run(["ip", *command.split()], check=True)


def lay_wire(other):
    """Connect this host with the one that the process ``other`` is in; each end has its addresses."""
    ip(f"link add wire type veth peer name wire netns {other}")
    give_addresses([PS], [PS_V6])


def give_addresses(hosts, hosts_v6):
    for host in hosts:
        ip(f"address add {host}/24 dev wire")
    for host in hosts_v6:
        ip(f"address add {host}/64 dev wire nodad")
    ip("link set wire up")


class Other:
    """A child process in a network of its own; the two take turns."""

    def __init__(self, body):
        (self._from, up), (down, self._to) = os.pipe(), os.pipe()
        parent, self.pid = os.getpid(), os.fork()
        if self.pid == 0:
            status = 1
            try:
                linux.die_with(parent)
                enter_private_network()

                def turn():
                    os.write(up, b".")
                    if not os.read(down, 1):
                        os._exit(1)  # the parent has ended

                os.close(self._to)
                turn()
                give_addresses([*WORKERS, STRANGER], [STRANGER_V6])
                body(turn)
                status = 0
            finally:
                sys.stdout.flush()
                os._exit(status)
        os.close(up)
        os.read(self._from, 1)

    def turn(self):
        """Let the child go on until its next turn; whether it is there still."""
        os.write(self._to, b".")
        return os.read(self._from, 1) == b"."


def answer(target, port, source=None):
    """``refused``, ``silent``, or what the server at the other end says first."""
    try:
        with socket.create_connection((target, port), 0.4, (source, 0) if source else None) as connection:
            return connection.recv(99).decode()
    except TimeoutError:
        return "silent"
    except OSError:
        return "refused"


def serve(port, name):
    """Listen as a TensorFlow server does, on every address of v4 and v6; each caller is told the name."""
    server = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    parent = os.getpid()
    if os.fork() == 0:
        linux.die_with(parent)
        while True:
            connection, _ = server.accept()
            connection.sendall(name.encode())
            connection.close()


def firewall(commands):
    """Who gets through to a port of the listing, to one of a cluster on the host's network, and to one of neither."""
    ports = 2222, 20000, 2225

    def everyone_else(turn):
        while True:
            found = {}
            for source in (*WORKERS, STRANGER, STRANGER_V6):
                target = PS_V6 if ":" in source else PS
                found[source] = " ".join(answer(target, port, source) for port in ports)
            print(json.dumps(found), flush=True)
            turn()

    other = Other(everyone_else)
    lay_wire(other.pid)
    for port in ports:
        serve(port, "open")
    other.turn()
    subprocess.run(["sh", "-e", "-c", commands], check=True)
    other.turn()
    here = ("127.0.0.1", "::1", PS)
    print(json.dumps({target: " ".join(answer(target, port) for port in ports) for target in here}))


def tunnel(command, folder):
    """``command`` is that of the ps's host, ``ssh ... HOST``; the other host runs sshd, and worker 0 on port 2223."""
    config = f"{folder}/sshd_config"
    with open(config, "w") as file:
        file.write(
            f"ListenAddress {WORKERS[0]}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/key.pub\n"
            "StrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin prohibit-password\n"
        )
    with open(f"{folder}/ssh_config", "w") as file:
        file.write(
            f"HostName {WORKERS[0]}\nUser root\nIdentityFile {folder}/key\nIdentitiesOnly yes\nBatchMode yes\n"
            "UserKnownHostsFile /dev/null\nStrictHostKeyChecking no\nLogLevel ERROR\nExitOnForwardFailure yes\n"
        )

    def host_of_worker_0(turn):
        serve(2223, "worker 0")
        run = "mount -t tmpfs none /run && mkdir /run/sshd && exec /usr/sbin/sshd -D -e -f"
        with open(f"{folder}/sshd.log", "w") as log:
            command = ["unshare", "-m", "sh", "-c", f"{run} {config}"]
            sshd = linux.start(command, stderr=log)
        while answer(WORKERS[0], 22) == "refused":
            time.sleep(0.05)
        turn()
        while answer("127.0.0.1", 2222) == "refused":
            time.sleep(0.05)
        places = (("127.0.0.1", 2222), (PS, 2223), (PS, 2222))
        print(json.dumps({f"{host}:{port}": answer(host, port) for host, port in places}), flush=True)
        turn()
        sshd.terminate()
        sshd.wait()

    other = Other(host_of_worker_0)
    lay_wire(other.pid)
    serve(2222, "ps 0")
    other.turn()
    program, *rest = command.split()
    ssh = linux.start([program, "-F", f"{folder}/ssh_config", *rest])
    other.turn()
    found = {f"{host}:{port}": answer(host, port) for host, port in (("127.0.0.2", 2223), (WORKERS[0], 2222))}
    print(json.dumps(found))
    ssh.terminate()
    ssh.wait()
    other.turn()


if __name__ == "__main__":
    enter_private_network()
    {"firewall": firewall, "tunnel": tunnel}[sys.argv[1]](*sys.argv[2:])
