"""Which task this process is, by the environment of whatever started it: ``TF_CONFIG``, or Slurm's variables.

``TF_CONFIG`` is what TensorFlow's ``TFConfigClusterResolver`` reads, and what Kubeflow and cloud launchers set. Slurm's
variables are those of ``man srun``. TensorFlow's ``SlurmClusterResolver`` isn't used, because it needs ``nvidia-smi``
and sorts the nodes by their names as text, with n10 before n9, while Slurm numbers the tasks in the order of the nodes.
"""

import json
import re
from itertools import chain, repeat

SLURM_PORT = 2222  # of the task of rank 0; several tasks of a node have ports one after the other


def from_environment(environ):
    """The flags that say who this task is, as the environment gives them; no flags if it says nothing.

    Returns:
        A dict with ``ps_hosts`` and ``worker_hosts``, as texts, ``job_name`` and ``task_index``, or an empty one.

    Raises:
        ValueError: The environment can't be used; the message names the variable.
    """
    if environ.get("TF_CONFIG", "").strip():
        return _of_tf_config(environ["TF_CONFIG"])
    if "SLURM_PROCID" in environ and environ.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        return _of_slurm(environ)
    return {}


def _of_tf_config(text):
    """In ``TF_CONFIG``, a chief or master is worker 0, and the task ``worker`` 0 is then worker 1."""
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        jobs = {job: _addresses(job, found) for job, found in cluster.items()}
        kind, index = task["type"], int(task["index"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error) or "not of the form that it has"
        form = '{"cluster": {"ps": [...], "worker": [...]}, "task": {"type": "worker", "index": 0}}'
        raise ValueError(f"TF_CONFIG: expected {form}; {what}") from None
    chief = [*jobs.get("chief", []), *jobs.get("master", [])]
    workers = chief + jobs.get("worker", [])
    if unknown := jobs.keys() - {"ps", "worker", "chief", "master", "evaluator"}:
        raise ValueError(f"TF_CONFIG: expected the jobs ps, worker and chief, got {min(unknown)!r}")
    if len(chief) > 1:
        raise ValueError(f"TF_CONFIG: expected one chief, got {len(chief)}")
    if not jobs.get("ps") or not workers:
        raise ValueError(f"TF_CONFIG: expected a ps and a worker at least, got {sorted(jobs)}")
    if kind not in jobs or kind == "evaluator":
        raise ValueError(f"TF_CONFIG: the task is a {kind!r}, which this program has none of")
    if not 0 <= index < len(jobs[kind]):
        raise ValueError(f"TF_CONFIG: there is no {kind} {index}: the cluster has {len(jobs[kind])}, from 0")
    if kind == "worker":
        index += len(chief)
    return _flags(jobs["ps"], workers, "ps" if kind == "ps" else "worker", index)


def _addresses(job, found):
    """A job's addresses in the order of their index, from a list or from ``{"0": address}``."""
    if isinstance(found, dict):
        by_index = {int(index): address for index, address in found.items()}
        if sorted(by_index) != list(range(len(by_index))):
            known = ", ".join(map(str, sorted(by_index)))
            raise ValueError(f"of {job} only {known} are there: give all of them, because each counts the workers")
        found = [by_index[index] for index in sorted(by_index)]
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise ValueError(f"the addresses of {job} are {found!r}")
    return found


def _of_slurm(environ):
    """In a step of Slurm's, rank 0 is the ps, and each other rank is a worker."""

    def read(name, convert):
        try:
            return convert(environ[name])
        except (KeyError, ValueError) as error:
            reason = "it is not set" if isinstance(error, KeyError) else error
            raise ValueError(f"{name}: {reason}; start the program with srun") from None

    nodes, counts = read("SLURM_STEP_NODELIST", hosts), read("SLURM_STEP_TASKS_PER_NODE", tasks_per_node)
    rank, tasks = read("SLURM_PROCID", int), read("SLURM_STEP_NUM_TASKS", int)
    if len(nodes) != len(counts) or sum(counts) != tasks:
        found = f"{sum(counts)} tasks on {len(counts)} nodes"
        raise ValueError(f"SLURM_STEP_TASKS_PER_NODE: {found}, but there are {tasks} on {len(nodes)}")
    of_ranks = in_ranks(nodes, counts, environ.get("SLURM_DISTRIBUTION", "block"))
    addresses = [f"{node}:{SLURM_PORT + rank}" for rank, node in enumerate(of_ranks)]
    return _flags(addresses[:1], addresses[1:], "worker" if rank else "ps", max(rank - 1, 0))


def in_ranks(nodes, counts, distribution="block"):
    """The node of each rank, for nodes with so many tasks each and a value of ``SLURM_DISTRIBUTION``."""
    order = re.split("[:,=]", distribution)[0]
    if order == "cyclic":  # Slurm's default where no node has two
        return [node for turn in range(max(counts)) for node, count in zip(nodes, counts, strict=True) if count > turn]
    if order != "block" and (order != "plane" or max(counts) > 1):  # others may leave the order of the nodes
        raise ValueError(f"SLURM_DISTRIBUTION: expected block or cyclic, got {distribution!r}: leave out srun's -m")
    return list(chain.from_iterable(map(repeat, nodes, counts)))


def _flags(ps, workers, job, index):
    return {"ps_hosts": ",".join(ps), "worker_hosts": ",".join(workers), "job_name": job, "task_index": index}


def hosts(text):
    """The hosts of a list as Slurm writes it, in its order: ``n[09-11,20],m1`` is n09, n10, n11, n20 and m1."""
    found, words = [], re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", text)
    for word in words:
        parts = re.split(r"\[([^\]]*)\]", word)  # fixed, ranges, fixed, ...
        names = [parts[0]]
        for ranges, fixed in zip(parts[1::2], parts[2::2], strict=True):
            numbers = [number for part in ranges.split(",") for number in _range(part)]
            names = [f"{name}{number}{fixed}" for name in names for number in numbers]
        found += names
    if not found or ",".join(words) != text or any(not re.fullmatch(r"[\w.-]+", name) for name in found):
        raise ValueError(f"expected a list of hosts such as n[1-3], got {text!r}")
    return found


def _range(text):
    first, _, last = text.partition("-")
    if not re.fullmatch(r"\d+(-\d+)?", text):
        raise ValueError(f"expected numbers such as 1-3, got {text!r}")
    return [str(number).zfill(len(first)) for number in range(int(first), int(last or first) + 1)]


def tasks_per_node(text):
    """How many tasks each node has, from Slurm's short form: ``2(x3),1`` is 2, 2, 2 and 1."""
    counts = []
    for part in text.split(","):
        if not (match := re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)):
            raise ValueError(f"expected counts such as 2(x3),1, got {text!r}")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts
