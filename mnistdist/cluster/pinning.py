"""Which GPU and which cores each task gets, as one environment and one set of cores for each task.

TensorFlow decides once, when a process first starts a server or a session, which GPUs it sees and how many
threads it runs. Nothing changes that later. So this module chooses before that, from plain lists, and gives each task
environment variables. Nothing here imports TensorFlow or touches a process:

>>> pins = assign(ps=1, workers=2, gpus=[], cores=[0, 1])
>>> pins["worker", 1].device, pins["worker", 1].env["CUDA_VISIBLE_DEVICES"]
('core 1', '-1')
"""

import contextlib
import os
import re
import runpy
from collections.abc import Iterable
from ctypes import CDLL
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from mnistdist import _check

MOST_TASKS = _check.COUNTS["ps"][1]  # on one machine, workers included

# An empty value hides the GPUs too, but Windows cannot hold one and many scripts read it as "not set".
NO_GPU = "-1"


@dataclass(frozen=True)
class Pin:
    """Where one task runs.

    Attributes:
        device: The name for people, such as ``"GPU 0"``, ``"core 1"`` or ``"cores 0-3"``.
        env: Environment variables to set in the task before TensorFlow initialises its devices.
        cores: Cores to pin the task to, with ``os.sched_setaffinity`` if the system has it.
    """

    device: str
    env: dict
    cores: tuple

    @property
    def tf_device(self):
        """TensorFlow's name of the task's device, which is always its first and only one, ``gpu:0`` or ``cpu:0``."""
        return "cpu:0" if self.env["CUDA_VISIBLE_DEVICES"] == NO_GPU else "gpu:0"


def find_gpus():
    """Lists the GPUs that TensorFlow may use here, in the form of ``CUDA_VISIBLE_DEVICES``.

    NVML counts them, which starts nothing on them, unlike asking TensorFlow. If ``CUDA_VISIBLE_DEVICES`` is already
    set, to indices or UUIDs, it limits and orders the list by CUDA's rule: everything after the first entry that names
    no device is ignored. Without a driver, or with a TensorFlow that can't use GPUs, the list is empty.
    """
    uuids = _nvml_uuids()
    if not uuids or not tensorflow_has_cuda():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(index) for index in range(len(uuids))]
    found = []
    for entry in (part.strip() for part in visible.split(",")):
        if entry.isdecimal():
            known = int(entry) < len(uuids)
        else:  # a UUID, or its unique beginning; slices of a GPU are not listed here, and taken on trust
            known = entry.startswith("MIG-") or sum(uuid.startswith(entry) for uuid in uuids if entry) == 1
        if not known:
            break
        found.append(entry)
    return list(dict.fromkeys(found))


def _nvml_uuids():
    import pynvml

    with contextlib.suppress(pynvml.NVMLError), contextlib.ExitStack() as stack:  # no driver, or no device that answers
        pynvml.nvmlInit()
        stack.callback(pynvml.nvmlShutdown)
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return [pynvml.nvmlDeviceGetUUID(handle) for handle in handles]
    return []


def tensorflow_has_cuda():
    """Says whether the installed TensorFlow is built for CUDA and finds cuDNN, without importing it.

    TensorFlow registers no GPU if a CUDA library is missing. cuDNN stands for them all, because neither the driver nor
    the CUDA toolkit brings it, but ``pip install "tensorflow[and-cuda]"`` does.
    """
    package = find_spec("tensorflow")
    if package is None or package.origin is None:
        return False
    root = Path(package.origin).parent
    info = root / "python" / "platform" / "build_info.py"
    build = runpy.run_path(str(info))["build_info"] if info.is_file() else {}
    if not build.get("is_cuda_build"):
        return False
    library = f"libcudnn.so.{build['cudnn_version']}"
    if (root.parent / "nvidia" / "cudnn" / "lib" / library).exists():
        return True
    try:
        CDLL(library)
    except OSError:
        return False
    return True


def available_cores():
    """Lists the logical cores on which this process may run, with those of one physical core side by side.

    Linux often numbers the two halves of a physical core far apart. Side by side, neighbouring shares of the list get
    whole cores. On a system without affinity, such as macOS, these are all cores in their order.
    """
    if not hasattr(os, "sched_getaffinity"):
        return list(range(os.cpu_count() or 1))

    def physical_core(core):
        try:  # "0,8" or "0-1": the logical cores of one physical core, lowest first
            siblings = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list").read_text()
            return int(siblings.replace("-", ",").split(",")[0])
        except (OSError, ValueError):
            return core

    return sorted(os.sched_getaffinity(0), key=lambda core: (physical_core(core), core))


def assign(ps, workers, *, devices="auto", num_gpus=None, gpus=None, cores=None):
    """Gives every task of a cluster on one machine its environment and its cores.

    With GPUs, worker ``i`` gets GPU ``i % num_gpus``. If a GPU serves several workers, they take its memory as needed,
    not all of it. A ps never sees a GPU. GPU workers may run on every core.

    Without GPUs, each worker gets an equal share of the cores for itself. Cores that are left over go to the ps tasks;
    if none are, the ps run on every core. If there are fewer cores than workers, all tasks share all cores, because
    two workers on one core and a third alone on another would make a straggler that nobody asked for.

    Thread pools match. One operation uses as many threads as the task has cores, divided by the tasks on these cores,
    because idle threads of TensorFlow spin and take time from other tasks. A worker that shares its cores with no other
    worker uses all of them, even if the ps run there too. Parallel operations get at least two threads, so that one
    that blocks never holds up the rest.

    Args:
        ps: How many parameter servers, 0 or more.
        workers: How many workers, 1 or more.
        devices: ``"auto"`` (the GPUs found, otherwise cores), ``"cpu"``, or GPU ids (indices or UUIDs), in order.
        num_gpus: How many of those GPUs to use; 0 for none, by default all.
        gpus: The GPUs to choose from, by default those of :func:`find_gpus`.
        cores: The cores to choose from, by default those of :func:`available_cores`.

    Returns ``{("ps", 0): Pin, ..., ("worker", 0): Pin, ...}`` in task order. Raises ``ValueError`` if a count is out of
    range, a GPU is not there, or ``num_gpus`` is more than the GPUs or less than the workers. Raises ``TypeError`` if a
    count is not an int, or ``devices`` are neither names nor numbers.
    """
    ps, workers = _check.count("ps", ps, (0, None)), _check.count("workers", workers, (1, None))
    num_gpus = _check.argument("num_gpus", num_gpus, optional=True)
    cores = tuple(available_cores() if cores is None else cores)
    gpus = find_gpus() if gpus is None else list(gpus)
    if ps + workers > MOST_TASKS:
        raise ValueError(f"expected at most {MOST_TASKS} tasks on one machine; got ps={ps}, workers={workers}")
    if not cores:
        raise ValueError("a cluster needs at least one core; got an empty list of cores")
    chosen = _choose_gpus(devices, num_gpus, workers, gpus)
    worker_gpus = [chosen[index % len(chosen)] for index in range(workers)] if chosen else []
    share = 0 if chosen else len(cores) // workers
    left_over = cores[share * workers :] if share else ()

    pins = {}
    for index in range(ps):
        own, tasks = (left_over, ps) if left_over else (cores, ps + workers)
        pins["ps", index] = Pin(_core_names(own), {"CUDA_VISIBLE_DEVICES": NO_GPU} | _threads(own, tasks), own)
    for index in range(workers):
        own, tasks = (cores[index * share : (index + 1) * share], 1) if share else (cores, ps + workers)
        name, env = _core_names(own), {"CUDA_VISIBLE_DEVICES": NO_GPU}
        if worker_gpus:
            gpu = worker_gpus[index]
            name = f"GPU {gpu}" if gpu.isdecimal() else gpu[:12]  # "GPU-8932f937" tells UUIDs apart
            env = {"CUDA_VISIBLE_DEVICES": gpu}
            if worker_gpus.count(gpu) > 1:
                env["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
        pins["worker", index] = Pin(name, env | _threads(own, tasks), own)
    return pins


def sharing_notice(pins):
    """Says in one line which GPUs workers share, for the caller to print once; None if each has its own."""
    gpus = [pin.device for (job, _), pin in pins.items() if job == "worker" and pin.tf_device == "gpu:0"]
    if len(set(gpus)) == len(gpus):
        return None
    return f"{len(gpus)} workers share {', '.join(dict.fromkeys(gpus))}: each takes GPU memory as it needs it"


def _choose_gpus(devices, num_gpus, workers, gpus):
    if devices == "cpu":
        if num_gpus:
            raise ValueError(f"devices='cpu' uses no GPU, but num_gpus is {num_gpus}: leave one of them out")
        return []
    if devices == "auto":
        chosen = gpus
    elif isinstance(devices, str):
        raise ValueError(f"devices must be 'auto', 'cpu' or a list of GPU ids; got {devices!r}")
    else:
        chosen = _gpu_ids(devices)
        # Ids are taken on trust where NVML lists nothing; an index that it would list is checked.
        missing = [gpu for gpu in chosen if gpus and gpu.isdecimal() and gpu not in gpus]
        if missing:
            raise ValueError(f"devices names GPU {', '.join(missing)}; the GPUs here are {', '.join(gpus)}")
    if num_gpus is None:
        return chosen
    if 0 < num_gpus < workers:
        raise ValueError(f"number of gpus is less than number of workers: {num_gpus} GPUs, {workers} workers")
    if not 0 <= num_gpus <= len(chosen):
        raise ValueError(f"num_gpus must be between 0 and the {len(chosen)} GPUs available; got {num_gpus}")
    return chosen[:num_gpus]


def _gpu_ids(devices):
    expected = "devices: expected 'auto', 'cpu' or a list of GPU ids, indices or UUIDs"
    if isinstance(devices, bytes) or not isinstance(devices, Iterable):
        raise TypeError(f"{expected}; got {devices!r}")
    ids = list(devices)
    for gpu in ids:
        if isinstance(gpu, bool) or not (isinstance(gpu, str) or hasattr(gpu, "__index__")):
            raise TypeError(f"{expected}; got {gpu!r} among them")
        if not re.fullmatch(r"[0-9]+|[A-Za-z][\w./-]*", str(gpu), re.ASCII):
            raise ValueError(f"{expected}; got {gpu!r} among them")
    return [str(gpu) for gpu in ids]


def _threads(cores, tasks):
    threads = max(1, len(cores) // tasks)
    return {
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "TF_NUM_INTEROP_THREADS": str(max(2, threads)),
        "OMP_NUM_THREADS": str(threads),  # NumPy's own pool, which it starts when it is imported
    }


def _core_names(cores):
    """Names cores for people: ``core 1``, ``cores 0-3``, ``cores 0-1, 8-9``."""
    runs = []
    for core in sorted(cores):
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    spans = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return f"cores {spans}" if len(cores) > 1 else f"core {spans}"
