"""What chapters once imported from other places is found there, and says where it is now."""

import importlib
import subprocess
import sys

import pytest

SHOWN = {
    "between_graph": "build_replica one_step run_worker train_loop",
    "checkpoints": "Checkpoints",
    "cut_graph": "Step build_fast_replica plain_run",
    "cutting": "Function behind",
    "devices": "assign available_cores find_gpus",
    "network": "port_in_use wait_for_address",
    "packing": "Twins",
    "presence": "Presence Roll attend",
    "replica": "Replica count_update resource_variables",
    "sessions": "session_config worker_session",
    "training": "STEPS_PER_RUN train",
}


@pytest.mark.parametrize(("module", "name"), [(m, name) for m, names in SHOWN.items() for name in names.split()])
def test_a_name_that_a_chapter_imported_is_still_found(module, name):
    old = importlib.import_module(f"mnistdist.{module}")
    if module == "training":
        assert getattr(old, name)
        return
    with pytest.warns(DeprecationWarning, match=rf"mnistdist\.{module}\.{name} is mnistdist\.[\w.]+\.{name} now"):
        there = getattr(old, name)
    assert there.__module__ != old.__name__ and there.__name__ == name


def test_a_name_that_there_never_was_is_none():
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        from mnistdist.devices import nothing  # noqa: F401 (asking for it is what raises)


def test_finding_where_they_are_imports_nothing():
    code = "import mnistdist.devices, mnistdist.between_graph, sys; print('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
