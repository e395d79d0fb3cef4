"""The forward pass, and with it the gradients: ops that the worker runs on copies of the variables on the ps."""

import tensorflow.compat.v1 as tf

from mnistdist.model import Graph
from mnistdist.training.designs.cutting import CannotCut, Function
from mnistdist.training.designs.packing import Twins
from mnistdist.training.graph import behind, is_handle, large_constants, variables_of
from mnistdist.training.replica import refuse_placeholders


class Forward:
    """Ops that run on the worker, as a function of a batch and of the worker's copies of the variables they use."""

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
        """Returns the op, and what tensors come to on this batch: a dict by ``ref()``."""
        given = {t.ref(): value for t, value in zip(self._inputs, batch, strict=True)}
        op, made = self._function.call(given | handles, salt)
        return op, given | made


def evaluation(model, worker):
    """The model on the variables as they are on the ps, without changing them: by functions like a step's."""
    inputs, made = [model.x, model.y_], {}
    stops = {each.op for each in inputs} | large_constants(tf.get_default_graph().get_operations())
    for name, outputs in (("prediction", [model.y]), ("evaluation", [model.loss, model.accuracy])):  # y needs no y_
        ops = behind([each.op for each in outputs], stops)
        forward = Forward(name, ops, [each for each in outputs if each.op in ops], model, worker)
        twins = Twins(name, forward.variables, worker)
        with tf.control_dependencies(twins.fill(twins.pull())[1]):
            made |= forward.call(twins.handles, inputs)[1]
    return Graph(*inputs, *(made.get(each.ref(), each) for each in (model.y, model.loss, model.accuracy)))
