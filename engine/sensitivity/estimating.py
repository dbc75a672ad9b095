"""What cells will come to, foretold for all of them at once from gradients at the unedited state.

Where a setting moves weights by dW, which is known exactly, the loss rises by about 1/2 E[(g·dW)²],
with g the gradient of one sample's loss: the second order, with the empirical Fisher information
for the Hessian (Theis et al., Faster gaze prediction with dense networks and Fisher pruning, 2018).
The first order is left out: at a trained state it tells what training has left over, label
smoothing and decay among it, and with it layers are ranked worse. Rounding of inputs is noise of
step²/12 in each value, and adds 1/2 step²/12 times the squared gradients there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from engine.datasets import DataSet
from engine.editing import Subject, handler_of, module_at
from engine.edits import ChannelsRemoved, Edit, LayersQuantized, Quantize, WeightsZeroed
from engine.errors import EngineError, is_out_of_memory
from engine.integer_layers import IntegerWeights
from engine.job import Cancelled, Job
from engine.layers import LayerId
from engine.pruning.shrinking import is_depthwise
from engine.sensitivity.changes import Change, Row, change_of
from engine.sensitivity.gradients import Gradients
from engine.sensitivity.results import Place
from engine.sharing import share
from engine.unrounded import without_rounding

_MACS = 1e10  # of the forward passes, as far as the least samples allow
_LEAST, _MOST = 16, 256  # samples

Moved = dict[str, Tensor]
"""By how much a setting moves parameters: full name -> difference."""


class Estimating:
    """Estimates of all cells of a scan.

    Args:
        subject: the state.
        data: their training split, of which a few samples are spread evenly.
    """

    def __init__(
        self, subject: Subject, data: DataSet, rows: Sequence[Row], settings: Sequence[Edit]
    ) -> None:
        self._subject, self._data = subject, data
        self._rows, self._settings = rows, settings

    def all(self, job: Job) -> Iterator[tuple[Place | None, float]]:
        """Every cell with its estimate, not a number where there is none; None between them."""
        plain = share(self._subject.model)
        without_rounding(plain)
        try:
            gradients = Gradients(plain, self._layers())
            for _ in gradients.gather(self._data, self._samples(), job):
                yield None, 0.0
        except Cancelled:
            raise
        except Exception as error:  # forwards raise what they like; without gradients no estimate
            if is_out_of_memory(error):
                raise
            return
        for row in range(len(self._rows)):
            known: dict[Edit, float] = {}
            for column, setting in enumerate(self._settings):
                yield (
                    (row, column),
                    self._estimate(setting, self._rows[row], plain, gradients, known, job),
                )
            gradients.forget()

    def _samples(self) -> int:
        macs = sum(self._subject.trace.operators.macs().values())
        batch = max(1, len(self._subject.inputs[0])) if self._subject.inputs else 1
        wanted = int(_MACS / max(1.0, macs / batch))
        return min(max(_LEAST, wanted), _MOST, len(self._data.training))

    def _layers(self) -> tuple[LayerId, ...]:
        """Those whose inputs some setting rounds."""
        rounds = any(
            isinstance(one, Quantize) and one.activations != "none" for one in self._settings
        )
        return tuple(layer for row in self._rows for layer in row) if rounds else ()

    def _estimate(
        self,
        setting: Edit,
        row: Row,
        plain: nn.Module,
        gradients: Gradients,
        known: dict[Edit, float],
        job: Job,
    ) -> float:
        of_weights = _of_weights(setting)
        if of_weights not in known:
            known[of_weights] = self._by_weights(of_weights, row, plain, gradients, job)
        rise = known[of_weights]
        if isinstance(setting, Quantize) and setting.activations != "none":
            rise += sum(gradients.by_rounding(one, setting.activation_bits) for one in row)
        return rise

    def _by_weights(
        self, setting: Edit, row: Row, plain: nn.Module, gradients: Gradients, job: Job
    ) -> float:
        draft = not isinstance(setting, Quantize)
        try:
            change = change_of(setting, row, self._subject, job, draft)
        except EngineError:
            return float("nan")
        match change.decision:
            case LayersQuantized() as decision:
                return gradients.rise(_rounded(change, decision, self._subject.model))
            case ChannelsRemoved() as decision:
                return gradients.rise_without(_reads(decision, plain))
            case WeightsZeroed() as decision:
                return gradients.rise(_zeroed(change, plain))
        return float("nan")


def _of_weights(setting: Edit) -> Edit:
    """The setting as far as weights go, decided without looking at data."""
    if not isinstance(setting, Quantize):
        return setting
    return replace(setting, rounding="nearest", activations="none", bias_correction=False)


def _reads(decision: ChannelsRemoved, model: nn.Module) -> list[Any]:
    """The slices where removed channels are read last, which alone takes all of them away."""
    last = [
        one
        for one in decision.slices
        if one.side == "in" and not is_depthwise(module_at(model, one.layer))
    ]
    return last or [one for one in decision.slices if one.side != "in"]


def _zeroed(change: Change, plain: nn.Module) -> Moved:
    after = _carried_out(change, plain)
    old = dict(plain.named_parameters())
    return {
        name: (one - old[name]).detach()
        for name, one in after.named_parameters()
        if one is not old[name]
    }


def _rounded(change: Change, decision: LayersQuantized, model: nn.Module) -> Moved:
    """Rounding errors, of folded weights as errors of those before."""
    after = _carried_out(change, model)
    moved: Moved = {}
    for one in decision.layers:
        name, weight = _weight(one.layer, model)
        layer = module_at(after, one.layer)
        if isinstance(layer, IntegerWeights):
            folded, gain = layer.float_weight(), _gain(model, one.folded, weight)
            moved[name] = torch.where(gain == 0, 0.0, folded / gain - weight)
    return moved


def _weight(layer: LayerId, model: nn.Module) -> tuple[str, Tensor]:
    """Full name and values of a layer's weight; attention may hold it in one that is not there."""
    parent, _, own = layer.rpartition(".")
    holder = module_at(model, LayerId(parent))
    if own not in holder._modules:
        return f"{layer}_weight", getattr(holder, f"{own}_weight").detach()
    module: Any = holder._modules[own]
    return f"{layer}.weight", module.weight.detach()


def _carried_out(change: Change, model: nn.Module) -> nn.Module:
    """The model with the change, to be looked at and not to be run: far quicker than a copy is."""
    outlines = {id(one): one.__new__(type(one)) for one in model.modules()}
    for one in model.modules():
        outline = outlines[id(one)]
        outline.__dict__.update(one.__dict__)
        for name in ("_parameters", "_buffers"):
            outline.__dict__[name] = dict(one.__dict__[name])
        outline.__dict__["_modules"] = {
            name: None if child is None else outlines[id(child)]
            for name, child in one._modules.items()
        }
    handler_of(change.edit).carry_out(change.decision, outlines[id(model)])
    return outlines[id(model)]


def _gain(model: nn.Module, norm: LayerId | None, weight: Tensor) -> Tensor:
    """What folding multiplies each output channel by, of a shape that goes with the weight."""
    if norm is None:
        return torch.ones(())
    module: Any = module_at(model, norm)
    gain: Tensor = (module.running_var.double() + module.eps).rsqrt()
    if module.weight is not None:
        gain = gain * module.weight.detach()
    return gain.to(weight.dtype).reshape(-1, *(1,) * (weight.dim() - 1))
