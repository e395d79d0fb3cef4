"""Three machines on a switch, which one computer makes of Linux namespaces.

Each has a network, a host name and a /tmp of its own, and an address of the
classic text. An ordinary user can make them, where the system allows it. They
end, with all that runs on them, when this process ends or calls ``close()``.
"""

import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

SETUP = """
set -e
mount -t tmpfs none /run
ip link add switch type bridge
ip link set switch up
for n in 1 2 3; do
    host=192.168.233.20$n
    ip netns add $host
    ip link add port$n type veth peer name eth0 netns $host
    ip link set port$n master switch
    ip link set port$n up
    ip -n $host link set lo up
    ip -n $host address add $host/24 dev eth0
    ip -n $host link set eth0 up
done
echo ready
exec cat
"""
ADDRESSES = "192.168.233.201", "192.168.233.202", "192.168.233.203"
# What a command goes through: its machine's name, and its machine's /tmp, which
# also shows the folders of the real /tmp that the command comes from, if any.
ENTER = """
set -e
hostname machine$0
own=$1; shift
while [ "$1" != -- ]; do
    mkdir -p "$own/${1#/tmp/}"
    mount --bind "$1" "$own/${1#/tmp/}"
    shift
done
shift
mount --rbind "$own" /tmp
cd /
exec "$@"
"""


class Machines:
    """Machines 1 to 3, at 192.168.233.201 to .203.

    Raises:
        OSError: The system allows no namespaces. The message says why.
    """

    def __init__(self):
        spaces = ["--user", "--map-root-user", "--net", "--mount", "--pid"]
        command = ["unshare", *spaces, "--fork", "--mount-proc", "--kill-child"]
        command += ["sh", "-c", SETUP]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self._first = subprocess.Popen(command, text=True, **pipes)
        if self._first.stdout.readline() != "ready\n":
            raise OSError(self._first.communicate()[1].strip())
        # The first process inside; it ends when its standard input is closed,
        # and then the kernel ends all others.
        pid = self._first.pid
        inside = Path(f"/proc/{pid}/task/{pid}/children").read_text().strip()
        self._enter = ["nsenter", f"--target={inside}", "--user", "--net"]
        self._enter += ["--mount", "--pid", "--preserve-credentials"]
        # To kill the process that enters is to kill what has entered.
        self._enter += ["setpriv", "--pdeathsig=KILL", "ip", "netns", "exec"]
        self._temporary = tempfile.TemporaryDirectory(dir="/var/tmp")
        self.folder = Path(self._temporary.name)

    def command(self, machine, *words):
        """The command line that runs these words on a machine."""
        own = self.folder / str(machine)
        own.mkdir(exist_ok=True)
        here = {sys.prefix, sys.base_prefix, str(Path(__file__).parents[2])}
        here = [each for each in here if each.startswith("/tmp/")]
        enter = ["unshare", "--uts", "--mount", "sh", "-c", ENTER]
        enter += [str(machine), str(own), *here, "--"]
        host = ADDRESSES[machine - 1]
        return [*self._enter, host, *enter, *map(str, words)]

    @property
    def reach(self):
        """The command that runs another one on a {host}, with its address."""
        return shlex.join([*self._enter, "{host}"])

    def run(self, machine, *words):
        """Runs a command on a machine to its end; returns what it prints."""
        command = self.command(machine, *words)
        return subprocess.check_output(command, text=True)

    def start(self, machine, *words):
        """Starts a command on a machine; its outputs are in ``stdout``."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        command = self.command(machine, *words)
        return subprocess.Popen(command, text=True, **options)

    def traffic(self):
        """For each machine, the bytes received and sent so far."""
        counters = ["grep", "eth0", "/proc/net/dev"]
        lines = [self.run(machine, *counters).split() for machine in (1, 2, 3)]
        return [(int(line[1]), int(line[9])) for line in lines]

    def close(self):
        """Ends everything that runs on the machines, and the machines."""
        self._first.stdin.close()
        self._first.wait()
        self._temporary.cleanup()
