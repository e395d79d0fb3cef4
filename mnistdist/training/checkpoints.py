"""Checkpoints of a training in a folder: worker 0 writes them, and reads them when variables on a ps are lost."""

import contextlib
import functools
import os
import re
import tempfile

import numpy as np
import tensorflow.compat.v1 as tf

from mnistdist._wait import within
from mnistdist.training.runs import LOST_OR_SLOW, gist, timed_run
from mnistdist.training.tensorflow_private import whole_of

NAME = "model.ckpt"
KEPT = 3
# The files of a complete checkpoint, and the files that exist only while one is written.
_FILE = re.compile(rf"{re.escape(NAME)}-(0|[1-9][0-9]*)\.(index|data-[0-9]{{5}}-of-[0-9]{{5}})")
_PART = r"\.(?:index|data-[0-9]{5}-of-[0-9]{5})"
_HALF = re.compile(
    rf"{re.escape(NAME)}-(?:([0-9]+)\.half{_PART}(?:\.tempstate[0-9]+)?|[0-9]+{_PART}\.tempstate[0-9]+)"
    r"|checkpoint\.tmp(?:[0-9a-f]{32})?"
)
_UNREADABLE = (tf.errors.OpError, LookupError, ValueError, RuntimeError, TypeError)


class Checkpoints:
    """Writes a checkpoint to ``folder`` about every ``every`` global steps, and keeps the last three.

    Only the files in the folder count, so it may be moved, renamed or copied between two trainings. Each checkpoint is
    written under another name first, so a name that ends with a number stands for a complete one. TensorFlow's own
    list, the file ``checkpoint``, is written for TensorFlow's tools only.

    Args:
        replica: The :class:`~mnistdist.training.Replica` whose shared variables the checkpoints hold.
        folder: The folder of the checkpoints, which is made if it doesn't exist.
        every: How many global steps lie between two checkpoints.
        timeout: Seconds that writing a checkpoint may take.
        warn: Called with a line for each damaged checkpoint that :meth:`restore` has to pass over.

    Raises:
        OSError: The folder can't be made or read.
    """

    def __init__(self, replica, folder, every, timeout=60, warn=lambda line: None):
        self.folder = os.path.abspath(folder)  # TensorFlow takes a name with :// in it as an address elsewhere
        os.makedirs(self.folder, exist_ok=True)
        self._replica, self._every, self._timeout, self._warn = replica, every, timeout, warn
        self._session, self._saved, self._damaged = None, 0, set()
        self._meanwhile = every // 10  # how many steps others make while one is written: a guess for the first
        with replica.graph.as_default():
            self._variables = tf.global_variables()
            # Only the ops of this Saver are used, because its methods take paths as patterns and may delete matches.
            self._ops = tf.train.Saver(self._variables, max_to_keep=0).saver_def
        self._tidy()

    @property
    def latest(self):
        """The path of the last checkpoint in the folder, whole or damaged; None if there is none."""
        return self._prefix(order[-1]) if (order := self._order()) else None

    def restore(self, session):
        """Gives the variables the values of the newest whole checkpoint; returns its path, or None if there is none.

        Raises:
            OSError: Every checkpoint in the folder is damaged, or the newest whole one is of another model.
        """
        damaged = []
        with _without_wildcards(self.folder) as folder:
            for step in reversed(self._order()):
                path, readable = self._prefix(step), os.path.join(folder, f"{NAME}-{step}")
                shapes, problem = _read(readable)
                if problem is None:
                    break
                self._damaged.add(step)
                damaged.append(f"{path} is damaged: {problem.replace(readable, path)}")
            else:
                if damaged:
                    raise OSError(f"{damaged[0]}; there is no whole checkpoint in its folder: take another folder")
                return None
            flat = next((name for name in shapes if re.fullmatch(r"parameters_0(_[0-9a-f]{8})?", name)), None)
            values = _unpacked(readable, self._variables) if flat == "parameters_0" else None
            if values is not None:
                shapes = {name: (value.shape, tf.as_dtype(value.dtype)) for name, value in values.items()}
            if (problem := self._misfit(shapes)) is None:
                try:
                    for variable in self._variables if values is not None else ():
                        variable.load(values[variable.op.name], session)
                    if values is None:
                        session.run(self._ops.restore_op_name, {self._ops.filename_tensor_name: os.fsencode(readable)})
                except (tf.errors.NotFoundError, tf.errors.InvalidArgumentError, tf.errors.DataLossError) as error:
                    problem = gist(error)
            elif flat and values is None:
                problem += f"; an earlier version wrote all parameters as one, {flat}, without their names"
        if problem is not None:
            raise OSError(f"can't restore {path}: it is of another model or optimizer ({problem}): take another folder")
        for line in damaged:
            self._warn(f"{line}; training goes on from {path}")
        return path

    def begin(self, session, step):
        """Counts from the last checkpoint. The variables are at this global step, and are read in this session."""
        whole = [self._held_step(each) for each in self._files().keys() - self._damaged]
        self._session, self._saved = session, min(step, max(whole, default=0))

    def save_when_due(self, step):
        """Writes a checkpoint if nearly ``every`` steps have been made since the last; call it after a run of steps.

        It begins earlier by as many steps as others made while the last one was written, because these come on top. It
        begins another tenth of ``every`` earlier for the rest of a run, and because writing may take longer next time.
        But a quarter of ``every`` always lies in between, or on a slow disk worker 0 would do nothing else.
        """
        if step - self._saved >= max(self._every - self._every // 10 - self._meanwhile, self._every // 4):
            self.save(step)
            self._meanwhile = int(timed_run(self._session, self._replica.global_step, self._timeout)) - step

    def save(self, step):
        """Writes a checkpoint of global step ``step``, or of a later one that others have made, if there is none yet.

        Raises:
            OSError: The checkpoint can't be written, and nothing of it is left.
            TimeoutError: A ps did not send its variables in time.
        """
        late = f"no checkpoint of global step {step} within {self._timeout:g} s: a ps does not answer"
        try:
            if step in self._files().keys() - self._damaged and self._held_step(step) >= step:
                return
            within(self._timeout, functools.partial(self._write, step), late)
        except LOST_OR_SLOW:
            raise
        except (tf.errors.OpError, ValueError, OSError) as error:
            self._tidy()
            raise OSError(f"can't write the checkpoint of global step {step} to {self.folder}: {gist(error)}") from None
        self._saved = step

    def _write(self, step):
        half = self._prefix(step) + ".half"
        self._session.run(self._ops.save_tensor_name, {self._ops.filename_tensor_name: os.fsencode(half)})
        self._remove(step)  # a damaged one
        for part in ("data-00000-of-00001", "index"):  # in this order: see _tidy
            os.replace(f"{half}.{part}", f"{self._prefix(step)}.{part}")
        self._damaged.discard(step)
        whole_last = sorted(self._order(), key=lambda each: each not in self._damaged)
        for old in whole_last[:-KEPT]:
            self._remove(old)
        self._list(whole_last[-KEPT:])

    def _list(self, steps):
        """Writes TensorFlow's list of checkpoints, with paths that stay right if the folder is moved."""
        path = os.path.join(self.folder, "checkpoint")
        names = [f'"{NAME}-{step}"\n' for step in steps]
        with contextlib.suppress(OSError):  # nobody here needs it
            with open(path + ".tmp", "w", encoding="ascii") as file:
                file.write(f"model_checkpoint_path: {names[-1]}")
                file.writelines(f"all_model_checkpoint_paths: {name}" for name in names)
            os.replace(path + ".tmp", path)
        self._delete(["checkpoint.tmp"])

    def _prefix(self, step):
        return os.path.join(self.folder, f"{NAME}-{step}")

    def _files(self):
        """The names of the files of each checkpoint in the folder, by global step."""
        found = {}
        for name in os.listdir(self.folder):
            if match := _FILE.fullmatch(name):
                found.setdefault(int(match[1]), []).append(name)
        return found

    def _order(self):
        """The numbers of the checkpoints, in the order of the global steps that they hold, whatever the numbers."""
        return sorted(self._files(), key=lambda step: (self._held_step(step), step))

    def _held_step(self, step):
        """The global step in the checkpoint of this number, or the number if it has none or is damaged."""
        with _without_wildcards(self.folder) as folder:
            try:
                reader = tf.train.NewCheckpointReader(os.fsencode(os.path.join(folder, f"{NAME}-{step}")))
                return int(reader.get_tensor(tf.GraphKeys.GLOBAL_STEP))
            except _UNREADABLE:
                return step

    def _remove(self, step):
        self._delete([*self._files().get(step, ()), f"{NAME}-{step}.meta"])  # which a Saver of the reader's may write

    def _delete(self, names):
        for name in names:
            with contextlib.suppress(OSError):
                os.remove(os.path.join(self.folder, name))

    def _tidy(self):
        """Removes what is half-written. Data that has its final name is half-written if the index has not."""
        for match in filter(None, map(_HALF.fullmatch, os.listdir(self.folder))):
            self._delete([match[0]])
            if match[1] and not os.path.exists(self._prefix(match[1]) + ".index"):
                self._remove(int(match[1]))

    def _misfit(self, shapes):
        """In words, a variable of the graph that these shapes and types of a checkpoint don't fit; None if all fit."""
        for variable in self._variables:
            name, shape = whole_of(variable)
            if name not in shapes:
                return f"it has no {name}"
            dtype, (kept_shape, kept_dtype) = variable.dtype.base_dtype, shapes[name]
            if dtype != kept_dtype or not tf.TensorShape(shape).is_compatible_with(kept_shape):
                kept = f"{kept_dtype.name} of shape {tuple(kept_shape)}"
                return f"its {name} is {kept}, here it is {dtype.name} of shape {tf.TensorShape(shape)}"


def _read(prefix):
    """(shape and type of each tensor of a checkpoint, None), or (None, what is wrong with it in words)."""
    if not os.path.exists(prefix + ".index"):
        return None, f"there is no {prefix}.index"
    part = "its .index"
    try:
        reader = tf.train.NewCheckpointReader(os.fsencode(prefix))
        shapes, types = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
        part = "its data"
        for name in shapes:
            reader.get_tensor(name)  # the only way to have its checksum compared
    except _UNREADABLE as error:
        return None, f"{part} can't be read ({gist(error)})"
    return {name: (shape, types[name]) for name, shape in shapes.items()}, None


@contextlib.contextmanager
def _without_wildcards(folder):
    """A path to the folder that is not a pattern for TensorFlow, which finds a checkpoint by matching names."""
    if not set("*?[\\") & set(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        os.symlink(folder, link := os.path.join(place, "logdir"))
        yield link


def _unpacked(prefix, variables):
    """The values, by name, of a checkpoint of an earlier version, in which all parameters are one vector.

    The vector and each slot are in as many parts as there were ps tasks. None if the model is not the built-in one,
    because the vector has no names.
    """
    reader = tf.train.NewCheckpointReader(os.fsencode(prefix))
    shapes = {each.op.name: each.shape.as_list() for each in variables if each.trainable}
    if list(shapes) != ["hid_w", "hid_b", "sm_w", "sm_b"]:
        return None
    values, vectors = {}, {}
    for name in reader.get_variable_to_shape_map():
        if match := re.fullmatch(r"parameters_(\d+)(.*)", name):
            vectors.setdefault(match[2], {})[int(match[1])] = reader.get_tensor(name)
        else:
            values[name] = reader.get_tensor(name)
    cuts = np.cumsum([np.prod(shape, dtype=int) for shape in shapes.values()])
    for slot, parts in vectors.items():
        vector = np.concatenate([parts[index] for index in sorted(parts)])
        if len(vector) != cuts[-1]:
            return None
        for (name, shape), part in zip(shapes.items(), np.split(vector, cuts[:-1]), strict=True):
            values[name + slot] = part.reshape(shape)
    return values
