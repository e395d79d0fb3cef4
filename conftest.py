"""How pytest spreads the tests and the notebooks over processes, if it is given ``-n`` without ``--dist``."""

import pytest


@pytest.hookimpl(optionalhook=True)  # without pytest-xdist, there is no such hook
def pytest_xdist_make_scheduler(config, log):
    """Keep a notebook's cells, which build on one another, and a module's fixtures in one process."""
    if config.getoption("dist") in ("load", "worksteal", "loadgroup"):  # these spread single cells
        from xdist.scheduler import LoadFileScheduling

        return LoadFileScheduling(config, log)
    return None
