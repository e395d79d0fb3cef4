"""The chief's part of a synchronous training: a thread that merges the workers' gradients into updates."""

import contextlib
import threading

import tensorflow.compat.v1 as tf

from mnistdist.limits import CLOSE_SECONDS, timed_run
from mnistdist.outages import OF_A_LOST_TASK

_OF_THE_MODEL = (tf.errors.InvalidArgumentError, tf.errors.ResourceExhaustedError, tf.errors.UnimplementedError)


class Merging:
    """Runs a replica's ``merge`` op again and again, from a thread of its own, until the training or the ps has ended.

    ``tf.train.QueueRunner`` does so too, but with the first run that fails it ends, and closes the queue for good. The
    runtime fails one now and then in which nothing is wrong ("ABORTED: Cleanup ..."). Gradients that such a run had
    taken are lost, and so the tokens for them: new ones let the workers go on.

    Args:
        session: The chief's.
        replica: Its :class:`mnistdist.between_graph.Replica`.

    ``error`` is what was wrong with the model or the optimizer, once merging has ended by that: None if it has not.
    """

    def __init__(self, session, replica):
        self.error, self._session, self._replica = None, session, replica
        self._ending = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="merging")
        self._thread.start()

    def stop(self):
        """Make no new run. The queue stays open: another session may go on with it."""
        self._ending = True

    def close(self, timeout):
        """The training is over: close the queue, which tells those who wait for a token, within ``timeout`` seconds."""
        self.stop()
        timed_run(self._session, self._replica.close_tokens, timeout)

    def join(self):
        """Wait for the end of the thread, some seconds; raises what was wrong with the model or the optimizer."""
        self._thread.join(CLOSE_SECONDS)
        if self.error is not None:
            raise self.error

    def _run(self):
        try:
            merge = self._session.make_callable(self._replica.merge)
            while not self._ending:
                try:
                    merge()
                except (*OF_A_LOST_TASK, tf.errors.CancelledError):
                    if not self._ending:
                        timed_run(self._session, self._replica.init_tokens, CLOSE_SECONDS)
        except _OF_THE_MODEL as error:
            self.error = error
            self._tell()
        except (tf.errors.OpError, RuntimeError):
            pass  # the ps has gone, or the session is closed: the chief's own step meets the same

    def _tell(self):
        """Nobody will give tokens any more: those who wait for one are to hear of it."""
        with contextlib.suppress(tf.errors.OpError, RuntimeError):  # they can't be told either
            self.close(CLOSE_SECONDS)
