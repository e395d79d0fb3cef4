"""Pins are decided from plain lists, so GPUs need not exist; NVML is a stand-in where it matters."""

import json
import os
import runpy
import subprocess
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import pytest

from mnistdist.cluster import pinning as devices
from mnistdist.cluster.network import private_network_available
from mnistdist.cluster.pinning import NO_GPU, Pin, assign, available_cores, find_gpus, sharing_notice

UUIDS = ["GPU-8932f937-d72c", "GPU-1a2b3c4d-0000", "GPU-1a2b9999-0000"]


def visible(pins):
    return {f"{job}:{index}": pin.env["CUDA_VISIBLE_DEVICES"] for (job, index), pin in pins.items()}


def threads(pin):
    return pin.env["TF_NUM_INTRAOP_THREADS"], pin.env["TF_NUM_INTEROP_THREADS"], pin.env["OMP_NUM_THREADS"]


@pytest.fixture
def nvml(monkeypatch):
    """Puts a made-up NVML in place of the driver's; call it with the UUIDs it should list."""

    def install(uuids=(), init_fails=False, uuid_fails=False, cuda=True):
        class NVMLError(Exception):
            pass

        def nvmlInit():
            if init_fails:
                raise NVMLError("Driver Not Loaded")

        def nvmlDeviceGetUUID(handle):
            if uuid_fails:
                raise NVMLError("GPU is lost")
            return uuids[handle]

        fake = types.SimpleNamespace(
            NVMLError=NVMLError,
            nvmlInit=nvmlInit,
            nvmlShutdown=lambda: None,
            nvmlDeviceGetCount=lambda: len(uuids),
            nvmlDeviceGetHandleByIndex=lambda index: index,
            nvmlDeviceGetUUID=nvmlDeviceGetUUID,
        )
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        monkeypatch.setattr(devices, "tensorflow_has_cuda", lambda: cuda)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return install


@pytest.mark.parametrize(
    ("parent", "expected"),
    [
        (None, ["0", "1", "2"]),
        ("", []),
        ("-1", []),
        ("2,0", ["2", "0"]),
        (" 1 , 2 ", ["1", "2"]),
        ("0,7,1", ["0"]),  # CUDA ignores what follows an entry that names no device
        ("0,-1,1", ["0"]),
        ("1,1", ["1"]),
        (UUIDS[1], [UUIDS[1]]),
        (f"{UUIDS[2]},0", [UUIDS[2], "0"]),
        ("GPU-8932", ["GPU-8932"]),
        ("GPU-1a2b", []),  # the beginning of two
        ("GPU-ffff", []),
        ("MIG-0123,MIG-4567", ["MIG-0123", "MIG-4567"]),
        ("none", []),
    ],
)
def test_find_gpus_follows_the_parent(nvml, monkeypatch, parent, expected):
    nvml(UUIDS)
    if parent is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", parent)
    assert find_gpus() == expected


@pytest.mark.parametrize(
    "trouble", [{"init_fails": True}, {"uuid_fails": True, "uuids": UUIDS}, {"cuda": False, "uuids": UUIDS}, {}]
)
def test_find_gpus_without_a_usable_one(nvml, trouble):
    nvml(**trouble)
    assert find_gpus() == []


def fake_tensorflow(folder, build_info):
    package = folder / "tensorflow"
    (package / "python" / "platform").mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    (package / "python" / "platform" / "build_info.py").write_text(f"build_info = {build_info!r}")


@pytest.mark.parametrize(("is_cuda_build", "cudnn", "expected"), [(1, 1, True), (1, 0, False), (0, 1, False)])
def test_tensorflow_has_cuda(tmp_path, monkeypatch, is_cuda_build, cudnn, expected):
    fake_tensorflow(tmp_path, {"is_cuda_build": bool(is_cuda_build), "cudnn_version": "no-such-version"})
    if cudnn:
        library = tmp_path / "nvidia" / "cudnn" / "lib" / "libcudnn.so.no-such-version"
        library.parent.mkdir(parents=True)
        library.touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    assert devices.tensorflow_has_cuda() is expected


def test_the_installed_tensorflow_is_read_not_imported():
    code = "import sys; from mnistdist.cluster import pinning as d; d.find_gpus(); d.tensorflow_has_cuda(); "
    code += "print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_available_cores_are_the_ones_allowed():
    cores = available_cores()
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count())
    assert sorted(cores) == sorted(allowed)


def test_siblings_stand_side_by_side(monkeypatch):
    siblings = {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(devices.Path, "read_text", lambda path: siblings[int(path.parts[5].removeprefix("cpu"))] + "\n")
    assert available_cores() == [0, 2, 1, 3]


def test_what_there_is_is_found_where_no_list_is_given(monkeypatch):
    monkeypatch.setattr("mnistdist.cluster.pinning.find_gpus", lambda: ["0", "1"])
    monkeypatch.setattr("mnistdist.cluster.pinning.available_cores", lambda: [4, 5])
    assert assign(1, 2) == assign(1, 2, gpus=["0", "1"], cores=[4, 5])
    assert assign(1, 2, gpus=[]) == assign(1, 2, gpus=[], cores=[4, 5])


def test_available_cores_without_affinity(monkeypatch):
    monkeypatch.delattr(devices.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(devices.os, "cpu_count", lambda: 3)
    assert available_cores() == [0, 1, 2]


def test_one_gpu_a_worker():
    pins = assign(1, 2, gpus=["0", "1", "2"], cores=[0, 1, 2, 3])
    assert visible(pins) == {"ps:0": NO_GPU, "worker:0": "0", "worker:1": "1"}
    assert [pin.device for pin in pins.values()] == ["cores 0-3", "GPU 0", "GPU 1"]
    assert [pin.tf_device for pin in pins.values()] == ["cpu:0", "gpu:0", "gpu:0"]
    assert all("TF_FORCE_GPU_ALLOW_GROWTH" not in pin.env for pin in pins.values())
    assert all(pin.cores == (0, 1, 2, 3) for pin in pins.values())
    assert sharing_notice(pins) is None


def test_workers_share_gpus_when_there_are_too_few():
    pins = assign(1, 3, gpus=["3", UUIDS[0]], cores=[0, 1])
    assert visible(pins) == {"ps:0": NO_GPU, "worker:0": "3", "worker:1": UUIDS[0], "worker:2": "3"}
    grows = [pin.env.get("TF_FORCE_GPU_ALLOW_GROWTH") for pin in pins.values()]
    assert grows == [None, "true", None, "true"]
    assert sharing_notice(pins) == ("3 workers share GPU 3, GPU-8932f937: each takes GPU memory as it needs it")


def test_the_text_s_error_names_both_numbers():
    message = "number of gpus is less than number of workers: 1 GPUs, 2 workers"
    for gpus in (["0", "1"], []):
        with pytest.raises(ValueError, match=message):
            assign(1, 2, num_gpus=1, gpus=gpus, cores=[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_gpus": 5}, "between 0 and the 2 GPUs available; got 5"),
        ({"num_gpus": -1}, "got -1"),
        ({"devices": "cpu", "num_gpus": 2}, "leave one of them out"),
        ({"devices": "tpu"}, "'auto', 'cpu' or a list of GPU ids; got 'tpu'"),
        ({"devices": [0, 4]}, "names GPU 4; the GPUs here are 0, 1"),
        ({"workers": 0}, "workers: expected an int of 1 or more, got 0"),
        ({"ps": -1}, "ps: expected an int of 0 or more, got -1"),
        ({"cores": []}, "at least one core"),
    ],
)
def test_what_cannot_be_assigned(arguments, message):
    with pytest.raises(ValueError, match=message):
        assign(**({"ps": 1, "workers": 2, "gpus": ["0", "1"], "cores": [0, 1]} | arguments))


def test_an_explicit_list_is_taken_in_its_order_and_on_trust():
    assert visible(assign(0, 2, devices=[1, 0], gpus=["0", "1"], cores=[0])) == {"worker:0": "1", "worker:1": "0"}
    unseen = assign(0, 3, devices=["0", UUIDS[0], "0"], gpus=[], cores=[0])
    assert list(visible(unseen).values()) == ["0", UUIDS[0], "0"]
    assert unseen["worker", 0].env["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    assert "TF_FORCE_GPU_ALLOW_GROWTH" not in unseen["worker", 1].env


@pytest.mark.parametrize("arguments", [{"devices": "cpu"}, {"num_gpus": 0}, {"gpus": []}, {"devices": []}])
def test_no_gpus(arguments):
    pins = assign(**({"ps": 2, "workers": 2, "gpus": ["0"], "cores": [0, 1]} | arguments))
    assert set(visible(pins).values()) == {NO_GPU}
    assert {pin.tf_device for pin in pins.values()} == {"cpu:0"}


@pytest.mark.parametrize(
    ("ps", "workers", "cores", "expected"),
    [
        # a core a worker; the ps runs on both
        (1, 2, [0, 1], {"ps:0": "cores 0-1", "worker:0": "core 0", "worker:1": "core 1"}),
        # equal shares; what is left over is the ps's
        (1, 2, [0, 1, 2], {"ps:0": "core 2", "worker:0": "core 0", "worker:1": "core 1"}),
        (1, 2, [4, 5, 6, 7], {"ps:0": "cores 4-7", "worker:0": "cores 4-5", "worker:1": "cores 6-7"}),
        # the halves of a physical core stay together
        (0, 2, [0, 2, 1, 3], {"worker:0": "cores 0, 2", "worker:1": "cores 1, 3"}),
        # too few for one each: nobody is favoured
        (1, 3, [0, 1], dict.fromkeys(["ps:0", "worker:0", "worker:1", "worker:2"], "cores 0-1")),
        (2, 1, [5], dict.fromkeys(["ps:0", "ps:1", "worker:0"], "core 5")),
    ],
)
def test_cores(ps, workers, cores, expected):
    pins = assign(ps, workers, gpus=[], cores=cores)
    assert {f"{job}:{index}": pin.device for (job, index), pin in pins.items()} == expected


@pytest.mark.parametrize("cores", [2, 3, 4, 5, 8, 11])
@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_workers_get_equal_and_separate_cores(cores, workers):
    own = [set(p.cores) for (job, _), p in assign(1, workers, gpus=[], cores=range(cores)).items() if job == "worker"]
    assert len({len(part) for part in own}) == 1
    if cores >= workers:
        assert sum(map(len, own)) == len(set().union(*own)) == cores // workers * workers
    else:
        assert all(part == set(range(cores)) for part in own)


def test_thread_pools_match():
    pins = assign(1, 2, gpus=[], cores=range(9))
    assert threads(pins["worker", 0]) == ("4", "4", "4")
    assert threads(pins["ps", 0]) == ("1", "2", "1")
    shared = assign(1, 3, gpus=[], cores=[0, 1])
    assert {threads(pin) for pin in shared.values()} == {("1", "2", "1")}
    with_gpus = assign(1, 3, gpus=["0", "1", "2"], cores=range(8))
    assert {threads(pin) for pin in with_gpus.values()} == {("2", "2", "2")}


def test_shared_cores_are_no_news():
    assert sharing_notice(assign(1, 3, gpus=[], cores=[0, 1])) is None


def test_pin_cannot_be_changed():
    with pytest.raises(AttributeError):
        Pin("core 0", {}, (0,)).device = "core 1"


PYNVML = f"""
class NVMLError(Exception):
    pass

UUIDS = {UUIDS[:2]!r}
nvmlInit = nvmlShutdown = lambda: None
nvmlDeviceGetCount = lambda: len(UUIDS)
nvmlDeviceGetHandleByIndex = lambda index: index
nvmlDeviceGetUUID = lambda handle: UUIDS[handle]
"""
PLACES = "PYTHONPATH", "LD_LIBRARY_PATH"
ENGINES = """
import json
from mnistdist import Cluster, train

def look():
    import os
    from IPython import get_ipython
    from mnistdist.training import build_fast_replica, build_replica
    from mnistdist.cluster.task import identity

    spec = get_ipython().user_ns["cluster_spec"]
    job, index, _ = identity()
    asked = set()
    for build in (build_replica, build_fast_replica) if job == "worker" else ():
        model = build(spec, index).model
        asked |= {tensor.device for tensor in (model.y, model.loss)}
    return os.environ["CUDA_VISIBLE_DEVICES"], os.environ.get("TF_FORCE_GPU_ALLOW_GROWTH"), sorted(asked)

with Cluster(ps=1, workers=4, network="private") as cluster:
    seen = dict(zip(["worker:0", "worker:1", "worker:2", "worker:3", "ps:0"], cluster.all.apply_sync(look)))
    run = train(cluster, steps=40)
    print(json.dumps([seen, [task.device for task in cluster.tasks if task.job == "worker"], run.global_step]))
"""


@pytest.fixture
def two_gpus(tmp_path):
    """The environment of a process that finds two GPUs: an NVML of ours, and a library by the name of cuDNN's."""
    info = Path(find_spec("tensorflow").origin).parent / "python" / "platform" / "build_info.py"
    version = runpy.run_path(str(info))["build_info"].get("cudnn_version")
    if not version:
        pytest.skip("this TensorFlow is built without CUDA, so it could use no GPU that NVML finds")
    (tmp_path / "pynvml.py").write_text(PYNVML)
    with open("/proc/self/maps") as maps:
        libc = next(line.split()[-1] for line in maps if "/libc.so" in line or "/libc-" in line)
    (tmp_path / f"libcudnn.so.{version}").symlink_to(libc)
    places = {name: os.pathsep.join(filter(None, [str(tmp_path), os.environ.get(name)])) for name in PLACES}
    return {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"} | places


@pytest.mark.skipif(not private_network_available(), reason="the servers of this test are for a private network only")
def test_two_gpus_and_four_workers_from_end_to_end(two_gpus, run_python):
    """What each engine sees, which device its graphs ask for, and that training goes on where TensorFlow has none."""
    client = run_python(ENGINES, env=two_gpus)
    out, err = client.communicate(timeout=300)
    assert client.returncode == 0, err
    seen, named, steps = json.loads(out)
    assert named == ["GPU 0", "GPU 1", "GPU 0", "GPU 1"]
    assert seen.pop("ps:0") == [NO_GPU, None, []]
    assert seen == {f"worker:{i}": [str(i % 2), "true", [f"/job:worker/task:{i}/device:GPU:0"]] for i in range(4)}
    assert steps >= 40
