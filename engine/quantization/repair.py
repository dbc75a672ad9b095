"""What makes up for rounding: better integers, and a bias that takes the mean error back.

Layers are rounded in the order in which they run, each for what it reads when those before it are
rounded already, so that it makes up for their errors as well. A pass over the samples serves a few
layers at a time where there are many.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import ceil

import torch
from torch import Tensor, nn

from engine.editing import Subject, module_at
from engine.edits import Quantize, StoredTensor
from engine.errors import EditRefused
from engine.integer_layers import float_weight, round_weight
from engine.job import Job
from engine.layers import LayerId
from engine.quantization.adaround import STEPS, AdaRound
from engine.quantization.bias import expected_error
from engine.quantization.calibration import batches, calibration
from engine.quantization.gptq import gptq
from engine.quantization.grids import WeightPlan
from engine.quantization.rows import PartlyRounded, Reading, Rows, by_group
from engine.sharing import restored_tensor, stored_tensor
from engine.state import RoundingProgress

_MOST_STAGES = 16
"""Passes up to the layers in turn: later ones are longer, so all together cost half as many."""
_POINTS = 20  # of the loss curve, for each layer

Tensors = tuple[StoredTensor, ...]


def repaired(
    edit: Quantize, plans: Mapping[LayerId, WeightPlan], subject: Subject, job: Job
) -> dict[LayerId, Tensors]:
    """Tensors of each layer that its float weight and its grid alone do not give.

    Rounding to the nearest is corrected by calibration's channel means (Nagel et al., 2019); GPTQ
    and AdaRound by what the layers read and put out, with the rounding of inputs in it.

    Args:
        plans: of the layers with weights, in the order in which they run.

    Returns:
        By layer ``weight`` (integers of the plan's format) and ``bias`` (float32), where they are
        others than those by rounding to the nearest.

    Raises:
        EditRefused: a layer is not reached by the samples.
        Cancelled: between two pieces of work.
    """
    if edit.rounding == "nearest":
        return corrected(edit, plans, subject, job) if edit.bias_correction else {}
    repair = Repair(edit, plans, subject)
    while not repair.done:
        repair.advance(job)
    return repair.found


def corrected(
    edit: Quantize, plans: Mapping[LayerId, WeightPlan], subject: Subject, job: Job
) -> dict[LayerId, Tensors]:
    """A bias for each layer rounded to the nearest, where its input's channel means are known."""
    seen = calibration(subject, edit.calibration_samples, job)
    found: dict[LayerId, Tensors] = {}
    for layer, plan in job.track(plans.items(), "Correcting biases", len(plans)):
        ranges = seen.ranges(layer)
        if ranges is None or not ranges.finite or ranges.channel_mean is None:
            continue
        integers = round_weight(plan.weight, plan.form, plan.scale, plan.zero_point)
        error = expected_error(plan, integers, ranges.channel_mean)
        found[layer] = (stored_tensor("bias", _shifted(plan.bias, -error)),)
    return found


def _shifted(bias: Tensor | None, by: Tensor) -> Tensor:
    return (by if bias is None else bias.double() + by).float()


class Repair:
    """Rounds layer after layer, in small pieces of work.

    Args:
        kept: tensors of the first :attr:`whole` layers, found by an earlier repair of the same.

    Attributes:
        found: tensors of the layers that are done.
        whole: how many of them an interrupted repair may start from, to end with the same bits.
        progress: how far it has come.
    """

    def __init__(
        self,
        edit: Quantize,
        plans: Mapping[LayerId, WeightPlan],
        subject: Subject,
        kept: Mapping[LayerId, Tensors] | None = None,
    ) -> None:
        self._edit, self._plans, self._subject = edit, plans, subject
        self._rounded, self._float = PartlyRounded(subject), PartlyRounded(subject)
        self.found: dict[LayerId, Tensors] = {}
        for layer, tensors in (kept or {}).items():
            self._put(layer, tensors)
        self.whole = len(self.found)
        self.progress = RoundingProgress(LayerId(""), len(self.found), len(plans))
        self._work = self._pieces()

    @property
    def done(self) -> bool:
        """Whether every layer is."""
        return len(self.found) == len(self._plans)

    def advance(self, job: Job) -> None:
        """Do a piece of work, and say on the job how far it has come.

        Raises:
            EditRefused: a layer is not reached by the samples.
            Cancelled: what is under way of a layer stays as it is, and can go on.
        """
        job.check()
        next(self._work, None)
        now = self.progress
        words = f"Rounding {now.layer}" if now.layer else "Rounding"
        if now.at % 1:
            words += f", error {now.losses[-1][1]:.0%} of that of the nearest"
        job.tell(words, int(now.at * STEPS), now.of * STEPS)

    def _pieces(self) -> Iterator[None]:
        layers = list(self._plans)
        size = max(1, ceil(len(layers) / _MOST_STAGES))
        for start in range(0, len(layers), size):
            if start >= self.whole:
                yield from self._stage(layers[start : start + size])
                self.whole = len(self.found)

    def _stage(self, layers: Sequence[LayerId]) -> Iterator[None]:
        """Round a few layers by what they read when those before them are rounded."""
        readings = {layer: Reading(self._module(layer), self._plans[layer]) for layer in layers}
        samples = self._edit.calibration_samples
        data = self._subject.data
        of = 0 if data is None else min(samples, len(data.training))
        for number, inputs in enumerate(batches(self._subject, data, samples, "", Job())):
            reads = self._rounded.inputs(layers, inputs)
            wanted = self._float.inputs(layers, inputs)
            share = len(inputs[0]) / of if of else 1.0
            for layer, reading in readings.items():
                reading.add(reads[layer], wanted[layer], share, number)
            yield
        for layer in layers:
            rows = readings.pop(layer).rows
            if rows is None:
                raise EditRefused(
                    f"{layer} is not reached by the calibration samples, so that nothing tells "
                    "how to round it.",
                    "Leave it out of the selection, or round to the nearest.",
                )
            if not (rows.inputs.isfinite().all() and rows.targets.isfinite().all()):
                raise EditRefused(
                    f"{layer} reads values that are not finite, so that nothing tells how to "
                    "round it.",
                    "Look at the layers before it and at the data, or round to the nearest.",
                )
            yield from self._round(layer, rows)

    def _round(self, layer: LayerId, rows: Rows) -> Iterator[None]:
        plan = self._plans[layer]
        self._tell(layer, 0.0)
        yield
        if self._edit.rounding == "gptq":
            integers = yield from gptq(plan, rows)
        else:
            learned = AdaRound(plan, rows)
            while not learned.done:
                learned.advance()
                self._tell(layer, learned.step / STEPS, learned.loss)
                yield
            integers = learned.integers()
        self._put(layer, self._tensors(plan, integers, rows))
        self._tell(LayerId(""), 0.0)
        yield

    def _tell(self, layer: LayerId, share: float, loss: float | None = None) -> None:
        at, losses = len(self.found) + share, self.progress.losses
        if loss is not None and (not losses or at - losses[-1][0] >= 1 / _POINTS):
            losses = (*losses, (at, loss))
        self.progress = replace(self.progress, layer=layer, at=at, losses=losses)

    def _tensors(self, plan: WeightPlan, integers: Tensor, rows: Rows) -> Tensors:
        weight = stored_tensor("weight", integers)
        if not self._edit.bias_correction:
            return (weight,)
        values = by_group(
            float_weight(integers, plan.form, plan.scale, plan.zero_point), len(rows.inputs)
        )
        missed = (rows.targets - rows.inputs @ values.mT).mean(1, dtype=torch.double).flatten()
        return weight, stored_tensor("bias", _shifted(plan.bias, missed))

    def _put(self, layer: LayerId, tensors: Tensors) -> None:
        given = {one.name: restored_tensor(one) for one in tensors}
        plan = self._plans[layer]
        self._rounded.put(layer, plan, given["weight"], given.get("bias", plan.bias))
        self.found[layer] = tensors

    def _module(self, layer: LayerId) -> nn.Module:
        return module_at(self._subject.model, layer)
