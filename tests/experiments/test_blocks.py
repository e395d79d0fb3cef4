"""Measuring in blocks: what is stored, going on with it, and what is not mixed."""

import json
from dataclasses import asdict, dataclass

import pytest

from book.experiments import async_or_sync, blocks, claims
from book.experiments.blocks import Experiment, load, measure


@dataclass(frozen=True)
class Sizes:
    blocks: int = 2
    marks: int = 3
    pilots: int = 1


@pytest.fixture
def said(monkeypatch):
    """What has been done, in order: by experiments that measure nothing, and by their clusters."""
    said = []

    class NoCluster:
        def __init__(self, ps, workers):
            said.append(f"{ps} ps, {workers} workers")

        def __enter__(self):
            return self

        def __exit__(self, *_):
            said.append("stop")

        def restart(self):
            said.append("restart")

    monkeypatch.setattr(blocks, "Cluster", NoCluster)
    return said


@pytest.fixture
def experiments(said):
    def experiment(name):
        def run(clusters, block, sizes, results):
            said.append((name, block, len(clusters), len(results["first"])))
            yield {"arm": "a", "value": block}

        return run

    return {
        "first": Experiment(experiment("first"), [(1, 2)]),
        "second": Experiment(experiment("second"), (), "pilots"),
    }


def test_measuring_goes_on_where_it_stopped(tmp_path, said, experiments):
    path = tmp_path / "folder" / "results.json"
    assert not measure(path, Sizes(), experiments, seconds=-1)
    assert not path.exists() and said == []
    assert measure(path, Sizes(), experiments, say=lambda line: None)
    everything = ["1 ps, 2 workers", ("first", 0, 1, 0), "restart", ("first", 1, 1, 1), "stop", ("second", 0, 0, 2)]
    assert said == everything
    results = json.loads(path.read_text())
    assert results["first"] == [{"block": 0, "arm": "a", "value": 0}, {"block": 1, "arm": "a", "value": 1}]
    results["first"] = [row for row in results["first"] if row["block"] == 1]
    path.write_text(json.dumps(results))
    assert measure(path, Sizes(), experiments, say=lambda line: None)
    assert said == [*everything, "1 ps, 2 workers", ("first", 0, 1, 1), "stop"]
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_results_of_another_machine_or_size_are_not_mixed(tmp_path, experiments, capsys):
    path = tmp_path / "results.json"
    given = {"file": path, "sizes": Sizes(), "experiments": experiments}
    assert blocks.main(["--seconds=-1"], "It measures.", **given) == 0
    assert "not complete: call again to go on" in capsys.readouterr().out
    assert blocks.main([], "It measures.", **given, report=lambda found: f"in {found.name}") == 0
    assert capsys.readouterr().out.endswith("\nin results.json\n")
    with pytest.raises(ValueError, match="measured with another blocks, marks"):
        load(path, Sizes(blocks=10, marks=1), experiments)
    results = json.loads(path.read_text())
    assert results["sizes"] == asdict(Sizes())
    results["environment"]["tensorflow"] = "1.0"
    path.write_text(json.dumps(results))
    with pytest.raises(ValueError, match="measured with another tensorflow"):
        load(path, Sizes(), experiments)
    assert blocks.main([], "It measures.", **given) == 1
    assert "move it away to measure anew" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "says"), [(async_or_sync, "complete\n"), (claims, "reproduced: In synchronous training the loss falls")]
)
def test_each_command_measures_what_is_its_own(module, says, monkeypatch, capsys):
    called = []
    monkeypatch.setattr(blocks, "measure", lambda *given, seconds: called.append(given) or True)
    assert module.main([]) == 0
    assert called == [(module.FILE, module.Sizes(), module.EXPERIMENTS)]
    assert capsys.readouterr().out.startswith(says)
