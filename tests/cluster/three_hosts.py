"""Three hosts on a bridge, and a client's machine beside them, each of which is a network namespace.

They are in private namespaces of their own: the machine's network is not touched, and reaches nothing in here. The
hosts are called n1, n2 and n3.
"""

import contextlib
import os
import shutil
import subprocess
import sys

import psutil
import pytest

from tests.helpers import alive, unprivileged

NAMES = ("n1", "n2", "n3")
ADDRESSES = dict(zip(NAMES, ("192.168.233.201", "192.168.233.202", "192.168.233.203"), strict=True))
HERE = "192.168.233.1"
LAY = """
mount -t tmpfs none /run
ip link set lo up
ip link add br0 type bridge
ip address add 192.168.233.1/24 dev br0
ip link set br0 up
for i in 1 2 3; do
  ip netns add n$i
  ip link add p$i type veth peer name eth0 netns n$i
  ip link set p$i master br0
  ip link set p$i up
  ip -n n$i address add 192.168.233.20$i/24 dev eth0
  ip -n n$i link set eth0 up
  ip -n n$i link set lo up
  echo "192.168.233.20$i n$i" >> "$0"
done
mount --bind "$0" /etc/hosts
stat -L -c %i /run/netns/n1 /run/netns/n2 /run/netns/n3
exec cat
"""


class ThreeHosts:
    """The hosts exist until :meth:`close`. ``folder`` is where everything on them keeps its temporary files.

    ``rootless`` makes them without root's capabilities, in a user namespace.
    """

    def __init__(self, folder, rootless):
        needed = ["ip", "unshare", "nsenter", "mount"]
        self._path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
        if missing := [tool for tool in needed if not shutil.which(tool, path=self._path)]:
            pytest.skip(f"not installed here: {', '.join(missing)}")
        self.folder, self._rootless = folder, rootless or os.geteuid() != 0
        (folder / "etc_hosts").write_text("127.0.0.1 localhost\n")
        namespaces = ["unshare", "--net", "--mount", *["--user", "--map-root-user"] * self._rootless]
        command = [*namespaces, "sh", "-e", "-c", LAY, str(folder / "etc_hosts")]
        command = unprivileged(command) if self._rootless else command
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self._holder = subprocess.Popen(command, env=os.environ | {"PATH": self._path}, **pipes)
        self._inodes = dict(zip(NAMES, (self._holder.stdout.readline().strip() for _ in NAMES), strict=True))
        if not all(self._inodes.values()):
            self._holder.stdin.close()
            pytest.skip(f"no network namespaces here: {self._holder.stderr.read()}")

    def command(self, *words):
        """The command line that runs these words on the client's machine."""
        into = ["nsenter", "--target", str(self._holder.pid), "--net", "--mount"]
        into += ["--user", "--preserve-credentials"] * self._rootless
        return (unprivileged(into) if self._rootless else into) + [f"--wd={self.folder}", *words]

    @property
    def environment(self):
        """The variables of everything that runs here."""
        own = {"PATH": self._path, "TMPDIR": str(self.folder), "PYTHONPATH": os.pathsep.join(sys.path)}
        return os.environ | own

    def run(self, *words):
        """Runs a short command on the client's machine; returns what it prints."""
        done = subprocess.run(self.command(*words), env=self.environment, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def without_address(self):
        """The name of one more host, which has no address."""
        if "nameless" not in self.run("ip", "netns"):
            self.run("ip", "netns", "add", "nameless")
        return "nameless"

    def processes(self, *names):
        """The running processes on some hosts, by default on all."""
        wanted = {f"net:[{self._inodes[name]}]" for name in names or NAMES}

        def is_there(process):
            try:
                return os.readlink(f"/proc/{process.pid}/ns/net") in wanted
            except OSError:
                return False

        return alive(psutil.process_iter(), is_there)

    def left_behind(self):
        """What a cluster has left: processes on the hosts, and temporary folders, which all have in one place here."""
        found = [path.name for path in self.folder.glob("mnistdist-*")]
        for process in self.processes():
            with contextlib.suppress(psutil.Error):  # it has ended since
                found.append(" ".join(process.cmdline())[:80])
        return found

    def close(self):
        self._holder.stdin.close()
        self._holder.wait(10)
        self._holder.stdout.close()
        self._holder.stderr.close()
