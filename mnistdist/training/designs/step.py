"""A step in two parts: from a batch to the gradients on the worker, and from them to the update on the ps."""

import tensorflow.compat.v1 as tf

from mnistdist.model import Graph
from mnistdist.training.designs.cutting import CannotCut, Function
from mnistdist.training.designs.packing import Pack, Twins, ps_device
from mnistdist.training.graph import PYTHON, behind, is_handle, large_constants, looked_up_by, variables_of, written_by
from mnistdist.training.replica import refuse_placeholders
from mnistdist.training.tensorflow_private import control_flow

TABLE = 1 << 20  # elements; pulling more takes longer than a whole step of the listing, which pulls rows


class Forward:
    """Ops that run on the worker, as a function of a batch and of the worker's copies of variables."""

    def __init__(self, name, ops, outputs, model, worker):
        refuse_placeholders(model, ops)
        self.ops, self._inputs = ops, (model.x, model.y_)
        self._function = Function(name, ops, outputs, worker)
        self.variables = variables_of(ops)
        known = {variable.handle.ref() for variable in self.variables}
        for tensor in self._function.inputs:
            if is_handle(tensor.op) and tensor.ref() not in known and "/job:ps" in tensor.op.device:
                raise CannotCut(f"{tensor.op.name!r} of the model is on a ps")

    def call(self, handles, batch, salt=0):
        """Returns the op, and the values of tensors on this batch: a dict by ``ref()``."""
        given = {t.ref(): value for t, value in zip(self._inputs, batch, strict=True)}
        op, made = self._function.call(given | handles, salt)
        return op, given | made


class Step:
    """A step of the listing's graph in two parts.

    ``crossing`` holds the tensors that the second part needs from the first, and ``pushes`` says how they travel.
    ``written`` says how the model itself writes variables. ``sparse`` holds the sparse gradients with their variables,
    by the ``ref()`` of their values.
    """

    def __init__(self, model, pairs, update, worker, local):
        self._loss, self.worker = model.loss, worker
        flat = [(g, v, tf.nest.flatten(g, expand_composites=True)) for g, v in pairs if g is not None]
        stops = {model.x.op, model.y_.op}
        needed = behind([model.loss.op, update], stops)
        refuse_placeholders(model, needed)
        stops |= large_constants(needed)
        wanted = set(needed) - stops
        ends = [model.loss.op, *(tensor.op for _, _, parts in flat for tensor in parts)]
        forward = [op for op in behind(ends, stops) if op in wanted]
        inside, self.backward = set(forward) | stops, []
        for number, (stage, device, ops) in enumerate(_by_device([op for op in needed if op not in inside], local)):
            mine = set(ops)
            outputs = {t.ref(): t for op in needed if op not in mine for t in op.inputs if t.op in mine}
            part = Function(f"backward_{number}", ops, list(outputs.values()), device or worker)
            self.backward.append((stage, part))
            if any(op.type in PYTHON for op in ops) and not local:
                raise CannotCut("the optimizer calls a Python function, which is in the worker")
        crossing = {t.ref(): (t, part.device) for _, part in self.backward for t in part.inputs if t.op in inside}
        self.crossing = [tensor for tensor, _ in crossing.values()]
        outputs = [model.loss, *(tensor for tensor in self.crossing if tensor.op not in stops)]
        self.forward = Forward("forward", forward, outputs, model, worker)
        self.sparse = {g.values.ref(): (g, v) for g, v, _ in flat if isinstance(g, tf.IndexedSlices)}
        alone = [part.ref() for g, _, parts in flat if isinstance(g, tf.IndexedSlices) for part in parts]
        self.pushes = Pack(self.crossing, [device for _, device in crossing.values()], alone)
        self.written = written_by(forward)
        tables = {each.op.name: each.shape.num_elements() or 0 for each in looked_up_by(forward)}
        if sum(tables.values()) > TABLE and not local:
            raise CannotCut(f"{', '.join(tables)} would be pulled as a whole, and the model looks rows up in it")
        if mixed := [key.deref().op.name for key, how in self.written.items() if how == "mix"]:
            raise CannotCut(f"the model changes {', '.join(mixed)} otherwise than by adding or by assigning")

    @property
    def updated(self):
        """All ops of the second part."""
        return [op for _, part in self.backward for op in part.ops]

    def compute(self, handles, batch, salt):
        """The first part, on the worker: the op, the loss and what crosses."""
        op, made = self.forward.call(handles, batch, salt)
        return op, made[self._loss.ref()], [made.get(tensor.ref(), tensor) for tensor in self.crossing]

    def apply(self, crossed, salt=0, handles=None):
        """The second part, on the ps (or on the worker, for these ``handles``): the reader's optimizer."""
        given, calls = {t.ref(): value for t, value in zip(self.crossing, crossed, strict=True)} | (handles or {}), []
        for stage, part in self.backward:
            # Ops that take nothing from the first part also run after it, as the reader may have ordered.
            with tf.control_dependencies([*crossed, *(call for earlier, call in calls if earlier < stage)]):
                call, made = part.call(given, salt)
            given |= made
            calls.append((stage, call))
        return tf.group(*(call for _, call in calls))


def _by_device(ops, local):
    """The ops in parts, each of one stage and device, as triples. What a part needs is in an earlier stage.

    With ``local`` there is one part, for the worker.
    """
    if local:
        return [(0, None, ops)]
    stages, homes, parts = {}, {}, {}
    for op in ops:
        handles = [tensor.op.device for tensor in op.inputs if is_handle(tensor.op)]
        home = [*handles, op.device or ps_device(0)][0] or ps_device(0)
        homes[op] = home = tf.DeviceSpec.from_string(home).to_string()  # "/cpu:0" is "/device:CPU:0"
        if len(set(handles)) > 1:
            raise CannotCut(f"{op.name!r} of the optimizer takes variables on several ps")
        if "/job:ps" not in home:
            raise CannotCut(f"{op.name!r} of the optimizer is not on a ps, but on {home}")
        before = [each for each in (*(tensor.op for tensor in op.inputs), *op.control_inputs) if each in stages]
        stages[op] = max((stages[each] + (homes[each] != home) for each in before), default=0)
        parts.setdefault((stages[op], home), []).append(op)
    contexts = [{control_flow(op) for op in each} - {None} for each in parts.values()]
    if len(set().union(*contexts)) < sum(map(len, contexts)):
        raise CannotCut("a tf.cond or loop of the optimizer is on several ps")
    return [(*key, parts[key]) for key in sorted(parts)]


def evaluation(model, worker):
    """The model on the variables as they are on the ps, which its functions, like those of a step, don't change."""
    inputs, made = [model.x, model.y_], {}
    stops = {each.op for each in inputs} | large_constants(tf.get_default_graph().get_operations())
    for name, outputs in (("prediction", [model.y]), ("evaluation", [model.loss, model.accuracy])):  # y needs no y_
        ops = behind([each.op for each in outputs], stops)
        forward = Forward(name, ops, [each for each in outputs if each.op in ops], model, worker)
        twins = Twins(name, forward.variables, worker)
        with tf.control_dependencies(twins.fill(twins.pull())[1]):
            made |= forward.call(twins.handles, inputs)[1]
    return Graph(*inputs, *(made.get(each.ref(), each) for each in (model.y, model.loss, model.accuracy)))
