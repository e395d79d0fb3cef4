"""The hosts of a cluster that is on several: which task is where, at which address, and how each host is reached."""

import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping

from mnistdist import _check
from mnistdist.cluster import pinning
from mnistdist.cluster.network import LISTING_PORT, parse_address

ELSEWHERE = pinning.Pin("", {"CUDA_VISIBLE_DEVICES": pinning.NO_GPU}, ())  # until a host has shared itself out


class Hosts:
    """What ``Cluster`` makes of its arguments if it has ``hosts``; the ``counts`` are the numbers of tasks by job.

    ``spec`` has the tasks' addresses, which have the classic program's ports. ``pins`` are empty, because each host
    gives its tasks their shares. ``settings`` are for the relay.
    """

    def __init__(self, hosts, counts, reach, python, *, devices, num_gpus, network):
        if network == "private":
            _check.needs("network", repr(network), "hosts=None", "hosts have networks of their own")
        place = placed(hosts, counts)
        names = [f"{host}:{LISTING_PORT + i}" for i, host in enumerate(place.values())]
        self.spec = {"ps": names[: counts["ps"]], "worker": names[counts["ps"] :]}
        self.pins = dict.fromkeys(place, ELSEWHERE)
        if isinstance(devices, Iterable) and not isinstance(devices, (str, bytes)):
            devices = list(devices)
        pinning.assign(0, 1, devices=devices, gpus=[], cores=[0])  # refuses what can be no devices anywhere
        self.settings = {
            "each": reached(place, reach, python),
            "devices": devices if isinstance(devices, str) else list(map(str, devices)),
            "num_gpus": _check.argument("num_gpus", num_gpus, optional=True),
        }


def placed(hosts, counts):
    """Which host each task is on, ``{(job, index): host}``, for numbers of tasks by job.

    ``hosts`` is a list for all tasks, ps first, or has a list for each job. A short list begins again.
    """
    if not isinstance(hosts, Mapping):
        names = _names("hosts", hosts, sum(counts.values()))
        tasks = [(job, i) for job, count in counts.items() for i in range(count)]
        return {task: names[i % len(names)] for i, task in enumerate(tasks)}
    if set(hosts) != set(counts):
        raise ValueError(f"hosts: expected a list, or one for each of 'ps' and 'worker'; got {_check.got(hosts)}")
    lists = {job: _names(f"hosts[{job!r}]", hosts[job], count) for job, count in counts.items()}
    return {(job, i): lists[job][i % len(lists[job])] for job, count in counts.items() for i in range(count)}


def _names(shown, hosts, most):
    wrong = TypeError(f"{shown}: expected a list of names or addresses, got {_check.got(hosts)}")
    if isinstance(hosts, str) or not isinstance(hosts, Iterable):
        raise wrong
    hosts = list(hosts)
    if not all(isinstance(host, str) for host in hosts):
        raise wrong
    if not 0 < len(hosts) <= most:
        raise ValueError(f"{shown}: expected 1 to {most} hosts, as many as tasks at most; got {_check.got(hosts)}")
    for host in hosts:
        try:
            parse_address(f"{host}:{LISTING_PORT}")
        except ValueError:
            host = "-"
        if host.startswith("-"):  # which a program would take for an option
            raise ValueError(f"{shown}: expected names or addresses of hosts, without a port; got {_check.got(hosts)}")
    return hosts


def reached(place, reach, python):
    """For the relay, by host: the ``tasks`` there, the ``command`` that runs the agent there, and the name of its log.

    ``reach`` is a command that runs another one on the host that stands for its ``{host}``. ``python`` is the
    interpreter there, by default this one's path.
    """
    for name, value in ("reach", reach), ("python", python):
        if not isinstance(value, str) and (value, name) != (None, "python"):
            raise TypeError(f"{name}: expected a command as a str, got {_check.got(value)}")
    try:
        words = shlex.split(reach)
    except ValueError as error:
        raise ValueError(f"reach: {error}; got {_check.got(reach)}") from None
    if "{host}" not in reach or not shutil.which(words[0]):
        wanted = "a program of this machine's, and {host} among its arguments, as in 'ssh {host}'"
        raise ValueError(f"reach: expected {wanted}; got {_check.got(reach)}")
    agent = [python or sys.executable, "-m", "mnistdist.cluster.agent"]
    if "ssh" in map(os.path.basename, words):  # it hands over one line for a shell
        agent = [shlex.quote(word) for word in agent]
    hosts = {}
    for task, host in place.items():
        command = [word.replace("{host}", host.strip("[]")) for word in words] + agent
        log = f"host-{len(hosts)}"
        hosts.setdefault(host, {"command": command, "log": log, "tasks": []})["tasks"].append(task)
    return hosts
