"""Where a cluster is started: odd paths, variables, descriptors and folders work, or are refused in one line."""

import os
import re
import shutil
import socket
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from mnistdist import read_data_sets, train
from mnistdist.cluster.network import BUSY, private_network_available, why_no_port
from mnistdist.flags import UsageError, check, parse
from mnistdist.results import Run, restore
from mnistdist.training.spec import TrainSpec
from tests.book.book_rules import ROOT
from tests.helpers import Running

SCRIPT = """
import os, sys
from pathlib import Path
folder = Path({folder!r})
with open(folder / "said", "w") as said:
    try:
        {before}
        from mnistdist import Cluster
        with Cluster(ps=1, workers=1) as cluster:
            {inside}
            print(cluster, sorted(cluster.all.apply_sync(lambda: job_name)), file=said)
    except Exception as error:
        print(type(error).__name__, str(error).splitlines()[0], file=said)
"""
WORKS = r"Cluster\(ps=1, workers=1, status='running'\) \['ps', 'worker'\]\n"
ROWS = {
    "braces in the import path": {"before": "sys.path.append(str(folder / '{x}'))"},
    "a Path in the import path": {"before": "sys.path.append(folder)"},
    "few characters of many bytes": {"env": {"TMPDIR": "{folder}/" + "\u00e4" * 40}},
    "no standard streams": {"shell": "<&- >&- 2>&-"},
    "warnings are errors": {"env": {"PYTHONWARNINGS": "error"}},
    "variables of another ipyparallel": {"env": {"IPP_CLUSTER_ID": "x"}},
    "Python without docstrings": {"options": ["-OO"]},
    "an inspected program": {"env": {"PYTHONINSPECT": "1"}},
    "ends of children are ignored": {
        "before": "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "inside": "assert cluster.spec['ps'] == ['192.168.233.201:2222']" if private_network_available() else "pass",
    },
}
REFUSED = [
    ("sys.executable = None", "pass", "OSError sys.executable: expected the path of the Python interpreter, got None"),
    ("sys.executable = ''", "pass", "OSError sys.executable: expected the path of the Python interpreter, got ''"),
    (
        "gone = folder / 'gone'; gone.mkdir(); os.chdir(gone); gone.rmdir()",
        "pass",
        "OSError this process's working folder has been deleted: change to another one first",
    ),
    (
        "import mnistdist.cluster.cluster, resource; resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))",
        "pass",
        r"ClusterStartError this process may open \d+ more files, and a cluster needs 128: 0 of 2 tasks .*",
    ),
    (  # as an ordinary user meets it, whose tasks are ended by TensorFlow where it can start no more threads
        "import mnistdist.cluster.linux as linux; linux.spare_threads = lambda: 7; "
        "from mnistdist.cluster.process_tree import Processes; "
        "Processes.trouble = lambda self, names: ('worker:0 ended with SIGABRT while starting', 'keeper', '')",
        "pass",
        "ClusterStartError worker:0 ended with SIGABRT while starting, and this user may start 7 more processes and "
        "threads: 0 of 2 tasks .*",
    ),
    (
        "pass",
        "import shutil; shutil.rmtree(cluster._engines.processes.folder); cluster.restart()",
        r"ClusterStartError its folder \S+ has been removed: .*",
    ),
]


def python(tmp_path, code, options=(), env=(), shell="", path=ROOT):
    env = {name: value.format(folder=tmp_path) for name, value in dict(env).items()}
    if "TMPDIR" in env:
        os.makedirs(env["TMPDIR"])
    (tmp_path / "script.py").write_text(code)
    command = f'"{sys.executable}" {" ".join(options)} "{tmp_path}/script.py" {shell}'
    return subprocess.run(
        command, shell=True, env=os.environ | {"PYTHONPATH": str(path)} | env, stdin=subprocess.DEVNULL, timeout=120
    )


@pytest.mark.parametrize("name", ROWS)
def test_a_cluster_starts_wherever_its_client_runs(tmp_path, name):
    row = {"before": "pass", "inside": "pass"} | ROWS[name]
    code = SCRIPT.format(folder=str(tmp_path), before=row["before"], inside=row["inside"])
    python(tmp_path, code, *(row.get(part, ()) for part in ("options", "env")), row.get("shell", ""))
    assert re.fullmatch(WORKS, (tmp_path / "said").read_text())


@pytest.mark.parametrize(("before", "inside", "said"), REFUSED)
def test_a_cluster_that_can_not_start_says_in_a_line_why(tmp_path, before, inside, said):
    python(tmp_path, SCRIPT.format(folder=str(tmp_path), before=before, inside=inside))
    assert re.fullmatch(said + "\n", (tmp_path / "said").read_text())


def test_stopping_does_not_wait_for_a_copy_of_the_client(tmp_path):
    code = """
        import os, time
        from mnistdist import Cluster
        cluster = Cluster(ps=1, workers=1).start()
        child = os.fork() or time.sleep(60) or os._exit(0)
        begin = time.monotonic()
        cluster.stop()
        os.kill(child, 9)
        raise SystemExit(time.monotonic() - begin > 5)
    """
    assert python(tmp_path, "if True:" + code).returncode == 0


def test_the_package_works_from_a_zip_file(tmp_path):
    package = shutil.make_archive(str(tmp_path / "package"), "zip", ROOT, "mnistdist")
    code = """
        import mnistdist
        from mnistdist import Cluster, train
        from mnistdist.source import show
        assert ".zip" in mnistdist.__file__
        assert "def build_model(" in repr(show("mnistdist.model.build_model"))
        with Cluster(ps=1, workers=1) as cluster:
            raise SystemExit(train(cluster, steps=20).global_step != 20)
    """
    assert python(tmp_path, "if True:" + code, path=package).returncode == 0


LAUNCH = "import sys; from mnistdist.cli import main; sys.exit(main())"


@pytest.mark.skipif(not private_network_available(), reason="no network namespaces here: servers would be open to all")
def test_the_launcher_starts_tasks_that_know_nothing_of_the_working_folder(tmp_path):
    (tmp_path / "random.py").write_text("raise SystemExit('not the one')")
    command = [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path[1:]!r}; {LAUNCH}", "run", "--workers=1"]
    command += ["--train_steps=20", f"--data_dir={tmp_path}/data", "--logdir=~/log"]
    env = os.environ | {"PYTHONWARNINGS": "error", "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "log" / "model.ckpt-20.index").exists() and not (tmp_path / "~").exists()


def test_the_launcher_knows_how_tasks_end_where_its_caller_ignores_that(tmp_path):
    (tmp_path / "file").touch()
    code = """
        import signal, sys
        from mnistdist.cli import main
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        status = main(["run", "--workers=1", "--data_dir={}"])
        sys.exit((status, signal.getsignal(signal.SIGCHLD)) != (1, signal.SIG_IGN))
    """.format(tmp_path / "file")
    assert python(tmp_path, "if True:" + code).returncode == 0


@pytest.mark.parametrize("address", ["hdfs://name/log", "gs://bucket", "file:///log", "s3:/log"])
def test_an_address_is_no_path(tmp_path, monkeypatch, address):
    monkeypatch.chdir(tmp_path)
    run = Run(sync=False, results=[], model=SimpleNamespace(variables={}))
    session = SimpleNamespace(graph=None)
    for refused in (
        lambda: train(Running(), steps=1, logdir=address),
        lambda: train(Running(), steps=1, data=address),
        lambda: read_data_sets(address),
        lambda: run.save(address),
        lambda: restore(session, address),
        lambda: parse([f"--logdir={address}"]),
    ):
        with pytest.raises((ValueError, UsageError), match=r"expected a \w+ on this machine, got the address '"):
            refused()
    assert os.listdir(tmp_path) == []


def test_the_home_is_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run = Run(sync=False, results=[], model=SimpleNamespace(variables={"w": np.ones(2)}))
    assert run.save("~/m.npz") == tmp_path / "m.npz"
    assert TrainSpec(steps=1, logdir="~/log").logdir == str(tmp_path / "log")
    flags = parse(["--job_name=worker", "--task_index=0", "--logdir=~/log", "--data_dir=~/data"])
    check(flags)
    assert (flags.logdir, flags.data_dir) == (f"{tmp_path}/log", f"{tmp_path}/data")


@pytest.mark.parametrize(("number", "why"), [(1, "not permitted to this user; choose another port"), (None, BUSY)])
def test_a_port_that_is_not_permitted_is_not_called_busy(monkeypatch, number, why):
    """Whether an ordinary user may listen below 1024 is a setting of the system's (ip_unprivileged_port_start)."""

    class Forbidden(socket.socket):
        def bind(self, address):
            raise PermissionError(13, "Permission denied")

    with socket.create_server(("127.0.0.1", 0)) as holder:
        if number:
            monkeypatch.setattr("mnistdist.cluster.network.socket.socket", Forbidden)
        assert why_no_port(f"127.0.0.1:{number or holder.getsockname()[1]}").startswith(why)
