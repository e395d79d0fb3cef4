"""Checkpoints of a training, in a folder: written by worker 0, read again when the variables on a ps are lost."""

import contextlib
import functools
import glob
import os

import tensorflow.compat.v1 as tf

from mnistdist.limits import within
from mnistdist.outages import gist

NAME = "model.ckpt"
KEPT = 3
# What these mean is that a task has gone or is slow, not that the folder can't be written.
_NOT_OURS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    TimeoutError,
)


class Checkpoints:
    """The checkpoints in ``folder``, of one every ``every`` global steps the last few.

    TensorFlow writes a checkpoint under another name first: it is there whole or not at all.

    Args:
        replica: The :class:`~mnistdist.between_graph.Replica` whose shared variables they hold.
        folder: Where they are; made if it is not there.
        every: Global steps from one to the next.
        timeout: Seconds that writing one may take.

    Raises:
        OSError: the folder can't be made.
    """

    def __init__(self, replica, folder, every, timeout=60):
        os.makedirs(folder, exist_ok=True)
        self.folder, self._every, self._timeout = str(folder), every, timeout
        self._session = self._saved = None
        with replica.graph.as_default():
            self.saver = tf.train.Saver(tf.global_variables(), max_to_keep=KEPT)
        state = tf.train.get_checkpoint_state(self.folder)
        if state is not None:  # or those of a worker 0 that was started again would never be removed
            self.saver.recover_last_checkpoints(state.all_model_checkpoint_paths)
        _remove(self._unfinished())  # of a worker 0 that was killed

    @property
    def _prefix(self):
        return os.path.join(self.folder, NAME)

    def _unfinished(self):
        """Files that are there only while a checkpoint is written."""
        patterns = f"{NAME}*.tempstate*", "checkpoint.tmp*", "graph.pbtxt.tmp*"
        return [path for each in patterns for path in glob.glob(os.path.join(glob.escape(self.folder), each))]

    @property
    def latest(self):
        """Path of the last checkpoint in the folder; None if there is none."""
        return tf.train.latest_checkpoint(self.folder)

    def begin(self, session, step):
        """Count from the last checkpoint: the variables are at this global step, and read in this session."""
        number = (self.latest or "").rpartition("-")[2]
        self._session, self._saved = session, min(int(number), step) if number.isdecimal() else 0

    def save_when_due(self, step):
        """Write a checkpoint when nearly ``every`` steps have been made since the last; called after a run of steps."""
        # A tenth of them is left to the rest of a run, and to what others make while it is written.
        if step - self._saved >= self._every - self._every // 10:
            self.save(step)

    def save(self, step):
        """Write a checkpoint, of global step ``step`` or of one that others have made meanwhile; none if there is one.

        Raises:
            OSError: it can't be written; nothing of it is left.
            TimeoutError: a ps did not send its variables in time.
        """
        if (self.latest or "").endswith(f"{NAME}-{step}"):
            return
        late = f"no checkpoint of global step {step} within {self._timeout:g} s: a ps does not answer"
        try:
            within(self._timeout, functools.partial(self._write, step), late)
        except _NOT_OURS:
            raise
        except (tf.errors.OpError, ValueError, OSError) as error:
            _remove([*glob.glob(f"{glob.escape(self._prefix)}-{step}.*"), *self._unfinished()])
            why = gist(error) if isinstance(error, tf.errors.OpError) else str(error)
            raise OSError(f"can't write the checkpoint of global step {step} to {self.folder}: {why}") from None
        self._saved = step

    def _write(self, step):
        with self._session.graph.as_default():
            self.saver.save(self._session, self._prefix, step, write_meta_graph=False)


def _remove(paths):
    for path in paths:
        with contextlib.suppress(OSError):
            os.remove(path)
