"""The same wrong argument is refused with the same sentence at each door."""

import pytest

from mnistdist import Cluster, cli, distributed, train
from tests.helpers import Running

# What is wrong: the kind of error in Python, the sentence, the value, and at each door the arguments that it is wrong
# for. In a command line every value is a text.
FROM_1, FROM_0 = "expected an int of 1 or more", "expected an int of 0 or more"
COUNTS_FROM_1 = {
    "train": ("steps", "batch_size", "save_steps", "local_steps", "steps_per_run"),
    "Cluster": ("ps", "workers"),
    "flags": ("train_steps", "batch_size", "save_steps", "hidden_units", "log_every"),
    "run": ("ps", "workers", "train_steps", "batch_size"),
}
COUNTS_FROM_0 = {
    "train": ("restarts", "seed"),
    "Cluster": ("num_gpus",),
    "flags": ("seed", "num_gpus", "task_index"),
    "run": ("restarts", "seed", "num_gpus"),
}
SECONDS = {"train": ("step_timeout",), "Cluster": ("timeout",), "flags": ("wait_timeout", "ps_linger")}
RATES = {door: ("learning_rate",) for door in ("train", "flags", "run")}
BATCHES = {door: ("batch_size",) for door in ("train", "flags", "run")}
TRUTHS = {"train": ("sync",), "Cluster": ("servers",), "flags": ("sync_replicas", "help"), "run": ("sync_replicas",)}
DESIGNS = {door: ("design",) for door in ("train", "flags", "run")}
FOLDERS = {"train": ("logdir",), "flags": ("logdir", "data_dir"), "run": ("logdir", "data_dir")}
TABLE = [
    (ValueError, f"{FROM_1}, got 0", 0, COUNTS_FROM_1),
    (ValueError, f"{FROM_1}, got -1", -1, COUNTS_FROM_1),
    (TypeError, f"{FROM_1}, got 'many'", "many", COUNTS_FROM_1),
    (TypeError, f"{FROM_1}, got '1.5'", "1.5", COUNTS_FROM_1),
    (TypeError, f"{FROM_1}, got ''", "", COUNTS_FROM_1),
    (ValueError, f"{FROM_0}, got -1", -1, COUNTS_FROM_0),
    (TypeError, f"{FROM_0}, got 'none'", "none", COUNTS_FROM_0),
    (ValueError, "expected an int of 1000000 or less, got 2000000", 2_000_000, BATCHES),
    (ValueError, "expected a number from 0.001 to 1e+07, got 0.0", 0.0, SECONDS),
    (ValueError, "expected a number from 0.001 to 1e+07, got nan", float("nan"), SECONDS),
    (TypeError, "expected a number from 0.001 to 1e+07, got 'soon'", "soon", SECONDS),
    (ValueError, "expected a number from 1e-30 to 1e+30, got -1.0", -1.0, RATES),
    (TypeError, "expected a number from 1e-30 to 1e+30, got 'fast'", "fast", RATES),
    (TypeError, "expected True or False, got 'perhaps'", "perhaps", TRUTHS),
    (ValueError, "expected 'fast' or 'listing', got 'slow'", "slow", DESIGNS),
    (ValueError, "expected 'auto', 'private' or 'host', got ''", "", {"Cluster": ("network",), "run": ("network",)}),
    (ValueError, "expected the name of a directory, got ''", "", FOLDERS),
    (ValueError, "expected a directory on this machine, got the address 'hdfs://h/ckpt'", "hdfs://h/ckpt", FOLDERS),
]
CASES = [
    pytest.param(error, sentence, value, door, name, id=f"{door}-{name}-{value!r}")
    for error, sentence, value, doors in TABLE
    for door, names in doors.items()
    for name in names
]


def in_python(door, **options):
    """The type of the error, and its message."""
    with pytest.raises((TypeError, ValueError)) as caught:
        Cluster(**options) if door == "Cluster" else train(Running(), **{"steps": 9} | options)
    return caught.type, str(caught.value)


def at_the_terminal(capsys, door, *flags):
    """The only line on stderr, without the program's name; the status is 1."""
    if door == "run":
        program, status = "mnistdist run", cli.main(["run", "--network=host", *flags])
    else:
        program, status = "mnistdist.distributed", distributed.main(["--job_name=worker", "--task_index=0", *flags])
    said = capsys.readouterr()
    assert (status, said.out) == (1, "")
    return said.err.removeprefix(f"{program}: error: ").removesuffix("\n")


@pytest.mark.parametrize(("error", "sentence", "value", "door", "name"), CASES)
def test_a_wrong_argument_is_refused_with_the_same_sentence(error, sentence, value, door, name, capsys):
    if door in ("train", "Cluster"):
        assert in_python(door, **{name: value}) == (error, f"{name}: {sentence}")
    else:
        assert at_the_terminal(capsys, door, f"--{name}={value}") == f"--{name}: {sentence}"


def test_arguments_that_go_together_are_refused_with_the_same_sentence(capsys):
    why = "asynchronous training has no rounds"
    assert in_python("train", replicas_to_aggregate=2) == (
        ValueError,
        f"replicas_to_aggregate=2 needs sync=True: {why}",
    )
    for door in "flags", "run":
        said = at_the_terminal(capsys, door, "--replicas_to_aggregate=2")
        assert said == f"--replicas_to_aggregate=2 needs --sync_replicas: {why}"


@pytest.mark.parametrize("door", ["train", "flags"])
def test_a_folder_without_the_data_is_refused_with_the_same_sentence(door, capsys, tmp_path):
    (tmp_path / "file").touch()
    words = f"{tmp_path / 'file'}: expected a directory, found a file; name an empty or new directory"
    if door == "train":
        _, said = in_python("train", data=tmp_path / "file")
        assert said.startswith(f"data: {words}")
    else:
        assert at_the_terminal(capsys, door, f"--data_dir={tmp_path / 'file'}").startswith(f"--data_dir: {words}")


def test_a_variable_says_what_network_auto_is_and_is_refused_like_an_argument(capsys, monkeypatch):
    monkeypatch.setenv("MNISTDIST_NETWORK", "home")
    sentence = "MNISTDIST_NETWORK: expected 'auto', 'private' or 'host', got 'home'"
    assert in_python("Cluster") == in_python("Cluster", network="auto") == (ValueError, sentence)
    assert cli.main(["run"]) == 1
    assert capsys.readouterr().err == f"mnistdist run: error: {sentence}\n"
    Cluster(network="private")  # who asks for one gets it
    monkeypatch.setenv("MNISTDIST_NETWORK", "")
    Cluster()
    monkeypatch.setenv("MNISTDIST_NETWORK", "host")
    assert Cluster()._choose_network() is False and capsys.readouterr() == ("", "")
