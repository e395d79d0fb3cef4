"""How a ps learns that its training is over, and how the other tasks learn worker 0's flags.

In the classic program a ps blocks in ``server.join()`` for ever. The usual cure is a queue on the ps into which each
worker puts one token at its end, but that also blocks for ever if a worker is killed before it does. Here every worker
puts a sign of life into such a queue each second, and a last one when it has finished. A ps ends when each worker has
either finished or been silent for some time, so it also ends after a crash. A worker that is started again in that time
is simply heard again.

On every ps, worker 0 leaves a notice of its flags, which the others compare with their own: tasks with different flags
would train something that nobody has asked for, or wait for each other without a word.
"""

import contextlib
import json
import threading
import time

import tensorflow.compat.v1 as tf

from mnistdist._wait import poll, within
from mnistdist.cluster.network import wait_for_address
from mnistdist.training.runs import abandon, close_session, gist, timed_run

QUEUE, NOTICE = "mnistdist_presence", "mnistdist_flags"
PERIOD = 1.0  # seconds between two signs of life
RECONNECT_SECONDS = 5


class _Board:
    """What a ps keeps as long as it runs: the queue of signs, and worker 0's flags, in a form that JSON takes."""

    def __init__(self, ps_index):
        with tf.device(f"/job:ps/task:{ps_index}/cpu:0"):
            self.queue = tf.FIFOQueue(-1, [tf.int32, tf.bool], shapes=[(), ()], name=QUEUE, shared_name=QUEUE)
            handle = tf.raw_ops.VarHandleOp(dtype=tf.string, shape=[], shared_name=NOTICE)
            self._text = tf.placeholder(tf.string, [])
            self._write = tf.raw_ops.AssignVariableOp(resource=handle, value=self._text)
            self._written = tf.raw_ops.VarIsInitializedOp(resource=handle)
            self._read = tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.string)

    def leave(self, session, flags):
        timed_run(session, self._write, RECONNECT_SECONDS, {self._text: json.dumps(flags)})

    def find(self, session, timeout=None):
        """The flags that have been left here; None if there are none."""
        there = timed_run(session, self._written, timeout)
        return json.loads(timed_run(session, self._read, timeout)) if there else None


class Presence:
    """A worker's signs of life, which threads give to every ps while the ``with`` block runs.

    Each ps has a session and a thread of its own, so the other ps still hear the worker if one ps has gone.

    Args:
        target: The worker's session target. The first ps must be up, and all of them when the block begins.
        cluster_spec: ``{"ps": [...], "worker": [...]}``.
        task_index: Which worker this is.
        timeout: Seconds that connecting may take, and seconds to wait for worker 0.

    Call :meth:`compare` before the block if tasks may have been started with different flags, and :meth:`finish` at
    the end of the training. If an error ends the block without it, the worker falls silent.

    Raises:
        TimeoutError: No session could be made in time, although something answers at each address.
        ConnectionError: The servers belong to another cluster, or to another task of this one.
    """

    def __init__(self, target, cluster_spec, task_index, timeout=60):
        self._timeout, self._index = timeout, task_index
        self._lines = [_Line(target, cluster_spec, index, task_index) for index in range(len(cluster_spec["ps"]))]
        self._lines[0].open(timeout)

    def compare(self, flags, check, on_wait=None, outdated=lambda found: False):
        """In worker 0, leaves a notice of these flags on every ps; in another worker, waits for it.

        ``check(found)`` is called with worker 0's flags, and may raise. Worker 0 itself calls it with the flags of a
        training that the first ps still holds, if there is one. ``on_wait(seconds_left)`` is called about once a
        second. A worker waits for worker 0 to replace flags of an earlier training, which are ``outdated(found)``.

        Raises:
            TimeoutError: Worker 0 did not come in time.
        """
        first, end, tick = self._lines[0], time.monotonic() + self._timeout, 0
        first.start()  # or the ps would take the wait for silence
        try:
            while (found := first.find_notice()) is None or outdated(found):
                left, tick = end - time.monotonic(), tick + 1
                if self._index == 0 or left < 0:
                    break
                if on_wait is not None and tick % 10 == 0:
                    on_wait(left)
                time.sleep(0.1)
            if found is not None:
                check(found)
            elif self._index:
                late = f"worker 0 did not come within {self._timeout:g} s"
                raise TimeoutError(f"{late}: is it running, with the same addresses?")
        except BaseException:
            first.end(well=False)
            raise
        for line in self._lines if self._index == 0 else ():
            line.leave_notice(flags)

    def __enter__(self):
        for line in self._lines:
            line.open(self._timeout)
            line.start()
        return self

    def __exit__(self, error, *_):
        for line in self._lines:
            line.end(well=error is None)

    def finish(self):
        """Tells every ps that this worker has finished, again until the ps hears it or the ``timeout`` passes."""
        end = time.monotonic() + self._timeout
        for line in self._lines:
            line.finish(end)


class _Line:
    """From one worker to one ps: a thread, and its session, which is made again after the ps has gone."""

    def __init__(self, target, cluster_spec, ps_index, task_index):
        self._over = threading.Event()
        self._target, self._address, self._ps = target, cluster_spec["ps"][ps_index], f"ps:{ps_index}"
        filters = [f"/job:ps/task:{ps_index}", f"/job:worker/task:{task_index}"]
        self._config = tf.ConfigProto(device_filters=filters)
        with tf.Graph().as_default() as self._graph:
            self._board = _Board(ps_index)
            enqueue = self._board.queue.enqueue
            self._sign, self._farewell = (enqueue((task_index, finished)) for finished in (False, True))
        self._session = self._flags = self._told = None  # told: the session in which the flags have been left
        self._thread = threading.Thread(target=self._live, daemon=True)

    def start(self):
        """Gives signs of life from now on."""
        if not self._thread.is_alive():
            self._thread.start()

    def open(self, timeout):
        """Connects if that has not been done; raises what :class:`Presence` raises."""
        if self._session is not None or self._thread.is_alive():
            return
        other = f"does a TensorFlow server of this very cluster answer as {self._ps} at {self._address}?"
        try:
            self._session = within(timeout, self._connect, f"no session within {timeout:g} s: {other}")
        except tf.errors.OpError as error:
            raise ConnectionError(f"no session: {other} ({gist(error)})") from error

    def leave_notice(self, flags):
        """Leaves worker 0's flags on the ps, now or as soon as it is there, and again after each start of the ps."""
        self._flags = flags
        if self._session is not None:
            self._give(self._sign)

    def find_notice(self):
        """Worker 0's flags if they are on the ps; None if they are not, or if the ps does not answer."""
        session = self._session
        with contextlib.suppress(tf.errors.OpError):
            return session and self._board.find(session, RECONNECT_SECONDS)

    def finish(self, end):
        """Gives only the last sign from now on, until the ps has heard it or the time is ``end``."""
        self._over.set()
        self._thread.join()
        poll(end - time.monotonic(), lambda: self._give(self._farewell), PERIOD)

    def end(self, well):
        """Closes the session, or after an error leaves it as it is."""
        self._over.set()
        if well:
            self._thread.join()
        if self._session is not None:
            (close_session if well else abandon)(self._session)

    def _connect(self):
        session = tf.Session(self._target, graph=self._graph, config=self._config)
        session.run(self._sign)
        return session

    def _live(self):
        while not self._over.wait(PERIOD):
            self._give(self._sign)

    def _give(self, op):
        """Whether ``op`` was run; after the ps has gone, with a new session as soon as the ps is back."""
        try:
            if self._session is None:
                wait_for_address(self._address, PERIOD, what=self._ps)
                self._session = within(RECONNECT_SECONDS, self._connect, "")
            session = self._session
            if self._flags is not None and self._told is not session:
                self._board.leave(session, self._flags)
                self._told = session
            timed_run(session, op, RECONNECT_SECONDS)
            return True
        except tf.errors.DeadlineExceededError:
            return False  # a ps that is slow, or stopped for a while
        except (tf.errors.OpError, TimeoutError, ConnectionError):
            if self._session is not None:
                abandon(self._session)
            self._session = None  # the training hears of it in its own session
            return False


class Roll:
    """Which workers a ps still has to wait for.

    Args:
        workers: Number of workers in the cluster.
        linger: Seconds of silence after which a worker counts as gone.
    """

    def __init__(self, workers, linger):
        self.finished = set()
        self._linger, self._heard, self._workers = linger, None, range(workers)

    @property
    def begun(self):
        """Whether any worker has been heard."""
        return self._heard is not None

    def hear(self, worker, finished, now):
        """Take note of a sign of life, or of the last one, at time ``now`` in seconds."""
        if self._heard is None:
            # From the first word on, those who have not come yet have as long as those who fall silent.
            self._heard = dict.fromkeys(self._workers, now)
        self._heard[worker] = now
        (self.finished.add if finished else self.finished.discard)(worker)

    def excuse(self, seconds):
        """The ps itself stood still for so long: nobody could be heard."""
        if self._heard is not None:
            self._heard = {worker: heard + seconds for worker, heard in self._heard.items()}

    def over(self, now):
        """Whether each worker has finished or been silent for too long; never before the first word."""
        return self._heard is not None and all(
            worker in self.finished or now - self._heard[worker] > self._linger for worker in self._workers
        )


def attend(target, cluster_spec, ps_index, *, linger, patience=600, on_wait=None, check=None):
    """Waits on a ps until its workers no longer need it; returns the set of those that have finished.

    ``target`` is that of the ps's own server. A worker counts as gone after ``linger`` seconds of silence. The first
    sign of any worker may take ``patience`` seconds. Until then, ``on_wait`` is called about ten times a second with
    the seconds that are left. ``check`` is called with worker 0's flags when it has left them here, and may raise.

    Raises:
        TimeoutError: There was no such sign.
    """
    roll = Roll(len(cluster_spec["worker"]), linger)
    with tf.Graph().as_default() as graph:
        board = _Board(ps_index)
        word = board.queue.dequeue()
    session = tf.Session(target, graph=graph, config=tf.ConfigProto(device_filters=[f"/job:ps/task:{ps_index}"]))

    def listen():
        while True:
            worker, finished = session.run(word)
            roll.hear(int(worker), bool(finished), time.monotonic())

    # A blocked run can't be interrupted; the main thread can.
    threading.Thread(target=listen, daemon=True).start()
    now = begun = time.monotonic()
    while not roll.over(now):
        left = begun + patience - now
        if not roll.begun and left < 0:
            raise TimeoutError(f"no worker has come within {patience:g} s: are they running, with the same addresses?")
        if not roll.begun and on_wait is not None:
            on_wait(left)
        if roll.begun and check is not None and (flags := board.find(session)) is not None:
            check(flags)
            check = None
        time.sleep(0.1)
        before, now = now, time.monotonic()
        if now - before > PERIOD:  # this process was stopped
            roll.excuse(now - before)
    time.sleep(PERIOD / 2)  # the last worker is to hear that it was heard, and closes its session with this process
    return roll.finished
