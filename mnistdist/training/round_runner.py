"""The chief's part of a synchronous training: a thread that merges the workers' gradients into updates."""

import threading

import tensorflow.compat.v1 as tf

from mnistdist.errors import TaskLost
from mnistdist.training.runs import CLOSE_SECONDS, OF_THE_MODEL, close_session, timed_run


class Merging:
    """Runs a replica's ``merge`` op in the chief's session, again and again, until the training ends or a run fails.

    It has a thread of its own, and all workers wait for its results. After an error of the model or the optimizer it
    closes the queue of tokens, which ends the training, as ``tf.train.QueueRunner`` does after any error. All other
    errors are the runtime's, such as "ABORTED: Cleanup ..." or a ps that has gone. It then closes the session under the
    chief's own step, so that the chief makes a new one, with new tokens for the round that the variables are at.

    ``error`` is the error that ended merging, and ``interrupted`` says whether it was the runtime's.
    """

    def __init__(self, session, replica):
        self.error, self._session, self._replica = None, session, replica
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="merging")
        self._thread.start()

    @property
    def interrupted(self):
        return isinstance(self.error, tf.errors.OpError) and not isinstance(self.error, OF_THE_MODEL)

    def stop(self):
        """From now on the end of the thread is no error, because the caller closes the session and so ends it."""
        self._over.set()

    def blame(self, error):
        """The cause of a session's end by ``error``: the error of merging, if this one may come from it."""
        self.stop()
        follows = isinstance(error, (tf.errors.OpError, TaskLost, TimeoutError)) or "closed Session" in str(error)
        return self.error if follows and self.error is not None else error

    def close(self, timeout):
        """The training is over: closes the queue within ``timeout`` seconds, which tells those who wait for a token."""
        self.stop()
        timed_run(self._session, self._replica.rounds.close_tokens, timeout)

    def join(self):
        """Waits some seconds for the end of the thread; raises what was wrong with the model or the optimizer."""
        self._thread.join(CLOSE_SECONDS)
        if self.error is not None and not self.interrupted:
            raise self.error

    def _run(self):
        try:
            merge = self._session.make_callable(self._replica.rounds.merge)
            while True:
                merge()
        except Exception as error:
            if self._over.is_set():
                return
            self.error = error
        if self.interrupted:
            # If a ps has gone, the chief's step ends by itself, and the session must not be closed meanwhile.
            if not self._over.wait(2):
                close_session(self._session)
            return
        try:
            self.close(CLOSE_SECONDS)
        except (tf.errors.OpError, RuntimeError):
            close_session(self._session)  # so that at least the chief hears of it
