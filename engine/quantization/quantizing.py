"""Rounding of layers to integers: the handler that decides grids and puts layers in place."""

from torch import Tensor, nn

from engine.batch_norms import folded, is_batch_norm, norm_behind
from engine.editing import Subject, module_at
from engine.edits import InputGrid, LayersQuantized, Quantize, QuantizedLayer
from engine.errors import EditRefused, RecipeMismatch
from engine.integer_layers import QUANTIZED, is_quantized, quantized_from, round_weight
from engine.job import Job
from engine.layers import LayerId
from engine.pruned_layers import Folded
from engine.quantization.calibration import input_grids
from engine.quantization.grids import scales_of, weight_plan
from engine.sharing import replace_module
from engine.state import LayerEffect


class Quantization:
    """Handler of :class:`engine.edits.Quantize`."""

    spares_outputs = False

    def applies(self, module: nn.Module) -> bool:
        """Convolutions and linear layers in float, of exactly torch's types."""
        return type(module) in QUANTIZED and not is_quantized(module)

    def draft(self, edit: Quantize, subject: Subject, job: Job) -> LayersQuantized:
        """Bits and foldings without looking at data: all scales are 1."""
        self._check(edit, subject)
        grid = InputGrid(edit.activation_bits, 1.0)
        return LayersQuantized(
            tuple(self._decide_layer(edit, layer, grid, subject) for layer in edit.layers),
            _calibration_text(edit, subject),
        )

    def decide(self, edit: Quantize, subject: Subject, job: Job) -> LayersQuantized:
        """Calibrate, and find the weights' scales behind the folding."""
        self._check(edit, subject)
        grids = input_grids(
            subject.model,
            edit.layers,
            subject.inputs,
            subject.data,
            edit.calibration_samples,
            job,
        )
        decided = []
        for layer in job.track(edit.layers, "Rounding weights"):
            if layer not in grids:
                raise EditRefused(
                    f"{layer} is not reached by the calibration samples, "
                    "or its input holds values that are not finite."
                )
            found = grids[layer]
            grid = InputGrid(8, found.scale, found.zero_point)
            decided.append(self._decide_layer(edit, layer, grid, subject))
        return LayersQuantized(tuple(decided), _calibration_text(edit, subject))

    def carry_out(self, decision: LayersQuantized, model: nn.Module) -> None:
        """Replace the layers by quantized ones, and folded batch norms by identities."""
        for one in decision.layers:
            module = module_at(model, one.layer)
            norm = None if one.folded is None else module_at(model, one.folded)
            if not self.applies(module) or not (norm is None or is_batch_norm(norm)):
                raise RecipeMismatch(f"{one.layer} is no layer that can be quantized that way.")
            weight, bias = _float32(module, norm)
            form, scale, zero_point = scales_of(one.weight, len(weight))
            if scale.dim() and len(scale) != len(weight):
                raise RecipeMismatch(
                    f"{one.layer} has {len(weight)} channels, and {len(scale)} scales are given."
                )
            integers = round_weight(weight, form, scale, zero_point)
            quantized = quantized_from(module, integers, bias, scale, zero_point, form, one.input)
            replace_module(model, one.layer, quantized)
            if one.folded is not None and norm is not None:
                replace_module(model, one.folded, Folded(norm, one.layer))

    def effects(self, decision: LayersQuantized, subject: Subject) -> tuple[LayerEffect, ...]:
        """Weight bits of each layer; batch norms that go away."""
        effects = []
        for one in decision.layers:
            before = subject.tree[one.layer].weight_bits or 32
            effects.append(LayerEffect(one.layer, "chosen", "weight bits", before, one.weight.bits))
            if one.folded is not None:
                channels = subject.tree[one.folded].channels or 0
                effects.append(
                    LayerEffect(one.folded, "folded", "output channels", channels, channels)
                )
        return tuple(effects)

    def notes(self, decision: LayersQuantized, subject: Subject) -> tuple[str, ...]:
        """What the ranges rest on, and what latency on this machine will show."""
        return (
            decision.calibration,
            "On this machine quantized layers run as a simulation: their latency here is not "
            "that of an integer runtime.",
        )

    def _check(self, edit: Quantize, subject: Subject) -> None:
        if edit.calibration_samples < 1:
            raise EditRefused("Calibration needs at least one sample.")
        for layer in edit.layers:
            module = module_at(subject.model, layer)
            if is_quantized(module):
                raise EditRefused(f"{layer} is quantized already.")
            if not self.applies(module):
                raise EditRefused(f"{layer} ({type(module).__name__}) cannot be quantized.")

    def _decide_layer(
        self, edit: Quantize, layer: LayerId, grid: InputGrid | None, subject: Subject
    ) -> QuantizedLayer:
        norm = _norm_behind(layer, subject)
        module = module_at(subject.model, layer)
        weight, bias = _float32(module, None if norm is None else module_at(subject.model, norm))
        plan = weight_plan(edit, weight, bias, grid)
        return QuantizedLayer(layer, norm, plan.grid, grid)


def _calibration_text(edit: Quantize, subject: Subject) -> str:
    if subject.data is None:
        return "Calibrated on random noise, as no data set is chosen: expect poor accuracy."
    count = min(edit.calibration_samples, len(subject.data.training))
    return f"Calibrated on {count} training samples of {subject.data.name}."


def _norm_behind(layer: LayerId, subject: Subject) -> LayerId | None:
    return norm_behind(layer, subject.model, subject.trace.operators)


def _float32(module: nn.Module, norm: nn.Module | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias as they are rounded, a batch norm folded into them."""
    weight, bias = folded(module, norm)
    return weight.float(), None if bias is None else bias.float()
