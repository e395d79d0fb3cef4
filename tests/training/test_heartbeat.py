"""When a ps may end: what it makes of its workers' words and of their silence."""

import time
from types import SimpleNamespace

import pytest

from mnistdist import Cluster
from mnistdist.training import heartbeat as presence
from mnistdist.training.heartbeat import Presence, Roll
from tests.helpers import wait_until


def test_a_ps_waits_for_ever_for_the_first_word():
    assert not Roll(workers=2, linger=5).over(now=1e9)


def test_it_ends_at_once_when_all_have_finished():
    roll = Roll(workers=2, linger=5)
    roll.hear(0, True, now=1)
    assert not roll.over(now=2)
    roll.hear(1, True, now=3)
    assert roll.over(now=3)
    assert roll.finished == {0, 1}


def test_a_killed_worker_and_one_that_never_came_hold_it_up_no_longer_than_the_linger():
    roll = Roll(workers=3, linger=5)
    roll.hear(0, False, now=0)
    roll.hear(1, False, now=4)  # and is killed; worker 2 never comes
    roll.hear(0, True, now=6)
    assert not roll.over(now=8)
    assert roll.over(now=9.5)
    assert roll.finished == {0}


def test_a_slow_worker_is_waited_for_while_it_gives_signs():
    roll = Roll(workers=2, linger=5)
    roll.hear(0, True, now=0)
    for now in range(1, 100):
        roll.hear(1, False, now=now)
        assert not roll.over(now=now + 4)


def test_a_ps_that_stood_still_does_not_take_that_for_silence():
    roll = Roll(workers=1, linger=5)
    roll.excuse(3)  # before the first word there is nothing to excuse
    roll.hear(0, False, now=1)
    roll.excuse(60)
    assert not roll.over(now=65)
    assert roll.over(now=67)


def test_a_worker_that_is_started_again_counts_again():
    roll = Roll(workers=1, linger=5)
    roll.hear(0, True, now=0)
    roll.hear(0, False, now=1)
    assert not roll.over(now=2)
    assert roll.over(now=7)
    assert roll.finished == set()


@pytest.fixture
def comparing(monkeypatch):
    """``comparing(notices, patient)``: what a worker 1 with ``{"seed": 1}`` makes of the notices it finds."""

    def compare(*notices, patient, timeout=0.5):
        left, checked = list(notices), []
        line = SimpleNamespace(open=lambda _: None, start=lambda: None, end=lambda well: None)
        line.find_notice = lambda: left.pop(0) if len(left) > 1 else left[0]
        monkeypatch.setattr(presence, "_Line", lambda *_: line)
        spec = {"ps": ["p:1"], "worker": ["v:1", "w:1"]}
        Presence("", spec, 1, timeout=timeout).compare(
            {"seed": 1}, checked.append, outdated=lambda found: patient and found != {"seed": 1}
        )
        return checked

    return compare


OLD, NEW = {"seed": 2}, {"seed": 1}


def test_on_existing_servers_a_worker_waits_until_worker_0_has_replaced_an_earlier_trainings_flags(comparing):
    assert comparing(OLD, OLD, None, NEW, patient=True, timeout=30) == [NEW]
    assert comparing(OLD, patient=True) == [OLD]  # they are worker 0's after all
    assert comparing(None, OLD, NEW, patient=False) == [OLD]
    with pytest.raises(TimeoutError, match="worker 0 did not come within"):
        comparing(None, patient=True)


def test_a_ps_that_is_down_silences_no_worker_for_the_other(tmp_path):
    """Two ps of short patience; one is killed. The other goes on hearing the worker, and is told that it finished."""
    with Cluster(ps=2, workers=1) as cluster:

        def attend():
            from IPython import get_ipython

            from mnistdist.training.heartbeat import attend

            here = get_ipython().user_ns
            return attend(here["server"].target, here["cluster_spec"], here["task_index"], linger=4)

        def speak(connected=str(tmp_path / "connected")):
            import time

            from IPython import get_ipython

            from mnistdist.training.heartbeat import Presence

            here = get_ipython().user_ns
            with Presence(here["server"].target, here["cluster_spec"], 0, timeout=10) as presence:
                open(connected, "w").close()
                time.sleep(10)
                presence.finish()

        heard = [cluster["ps", index].apply_async(attend) for index in (0, 1)]
        spoken = cluster["worker", 0].apply_async(speak)
        wait_until((tmp_path / "connected").exists, 30, "the sessions")
        cluster.kill("ps:1")
        time.sleep(6)
        assert not heard[0].ready(), heard[0].get()
        spoken.get(60)
        assert heard[0].get(30) == {0}
