"""Who begins again when a training has lost a task."""

import pytest

from mnistdist.cluster.recovery import to_begin_again

PS, CHIEF, WORKER = ("ps", 0), ("worker", 0), ("worker", 1)


@pytest.mark.parametrize(
    ("lost", "finished", "restores", "again"),
    [
        (PS, [], True, [PS]),  # both workers wait for it, and the chief restores
        (PS, [CHIEF], True, [PS, CHIEF]),
        (PS, [CHIEF], False, [PS]),
        (PS, [WORKER], True, [PS]),
        (PS, [CHIEF, WORKER], True, []),
        (("ps", 1), [CHIEF], True, [("ps", 1), CHIEF]),
        (CHIEF, [], True, [CHIEF]),
        (WORKER, [CHIEF], True, [WORKER]),
        (WORKER, [PS], True, [WORKER]),
        (WORKER, [WORKER], True, []),  # it has answered, and its process has ended since
    ],
)
def test_who_begins_again(lost, finished, restores, again):
    assert to_begin_again(lost, [CHIEF, WORKER], finished, restores=restores) == again
