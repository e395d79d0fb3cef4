"""The index page: its table of waits holds the defaults of TensorFlow and the package, its names those of the cells."""

import inspect
import re

from book._ext.names import sections, used
from mnistdist import Cluster
from mnistdist.cluster import link
from mnistdist.flags import parse
from mnistdist.training import calls
from mnistdist.training.spec import TrainSpec
from tests.book.book_rules import ROOT
from tests.book.page_rules import section

PAGE = (ROOT / "book" / "lookup.md").read_text(encoding="utf-8")
WAITS = {}
for who, what, how_long, _ in re.findall(
    r"^\| (.+) \| (.+) \| (.+) \| (.+) \|$", section(PAGE, "What waits, and for how long"), re.M
):
    WAITS[who, what] = [float(number.replace(",", "")) for number in re.findall(r"[\d,]+(?= s\b)", how_long)]


def default(function, name):
    return float(inspect.signature(function).parameters[name].default)


def waits(start):
    (found,) = [numbers for (who, _), numbers in WAITS.items() if who.startswith(start)]
    return found


def test_the_waits_of_tensorflow_are_its_defaults():
    import tensorflow.compat.v1 as tf

    supervisor, session = tf.train.Supervisor, tf.train.MonitoredTrainingSession
    recovery = default(supervisor.__init__, "recovery_wait_secs")
    prepare = [default(supervisor.prepare_or_wait_for_session, "max_wait_secs"), recovery]
    assert waits("a worker in `prepare_or_wait_for_session`") == prepare
    manager = default(tf.train.SessionManager.__init__, "recovery_wait_secs")
    assert waits("a worker in `MonitoredTrainingSession`") == [default(session, "max_wait_secs"), manager]
    assert waits("`Supervisor.stop()`") == [default(supervisor.__init__, "stop_grace_secs")]
    assert waits("the end of a `MonitoredTrainingSession`") == [default(session, "stop_grace_period_secs")]


def test_the_waits_of_the_package_are_its_defaults():
    flags = parse(["--job_name=ps", "--task_index=0", "--ps_hosts=h:1", "--worker_hosts=h:2"])
    wait, linger = flags["wait_timeout"].value, flags["ps_linger"].value
    assert waits("`Cluster.start()`") == [default(Cluster.__init__, "timeout")]
    assert waits("`train`, before") == [calls._PATIENCE]
    assert waits("a cluster on several hosts") == [link.SILENCE]
    assert waits("a worker of `train`") == [TrainSpec.step_timeout]
    assert WAITS["`train`", "a task that somebody has stopped with SIGSTOP"] == [2 * TrainSpec.step_timeout]
    assert waits("a worker of the program") == [wait]
    assert waits("`mnistdist run`") == [2 * wait]
    assert WAITS["a ps of the program", "the first worker"] == [10 * wait]
    assert WAITS["a ps of the program", "a sign of life from each worker, once the first has come"] == [linger]


def test_names_are_found_whole_and_options_by_their_own():
    source = "%%px\nwith tf.device(d):\n    s = tf.train.Server(c, config=tf.ConfigProto(device_filters=[f]))\n"
    assert used(source) == {"tf.device", "tf.train.Server", "tf.ConfigProto", "device_filters"}


def test_the_index_leads_to_the_sections_that_use_a_name():
    index = sections(ROOT / "book")
    assert len(index) > 100
    assert ("Clusters and servers", "A server for each task", "clusters.ipynb") in index["tf.train.Server"]
    assert all(1 <= len(places) <= 4 for places in index.values())
