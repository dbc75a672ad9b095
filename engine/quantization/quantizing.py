"""Rounding of layers to integers: the handler that decides grids and puts layers in place."""

from collections.abc import Mapping
from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor, nn

from engine.batch_norms import folded, is_batch_norm, norm_behind
from engine.editing import Subject, module_at
from engine.edits import (
    Granularity,
    InputGrid,
    LayersQuantized,
    Observer,
    Quantize,
    QuantizedLayer,
    StoredTensor,
    WeightGrid,
)
from engine.errors import EditRefused, RecipeMismatch
from engine.integer_layers import (
    QUANTIZED,
    WeightFormat,
    integer_range,
    quantized_from,
    round_weight,
)
from engine.job import Job
from engine.layers import LayerId
from engine.pruned_layers import Folded
from engine.quantization.calibration import calibration
from engine.quantization.collapse import collapse
from engine.quantization.grids import WeightPlan, activation_grid, scales_of, weight_plan
from engine.quantization.observed import Calibration
from engine.quantization.operators import (
    Chosen,
    check_in_place,
    chosen,
    grids_of,
    make_explicit,
    operator_grids,
    round_own_operators,
)
from engine.quantization.quantizable import is_idle, is_rounded, reason_against, verdict
from engine.quantization.repair import repaired
from engine.quantization.warnings import foreseen, saturation
from engine.sharing import replace_module, restored_tensor, share
from engine.state import LayerEffect
from engine.tracing import Trace


class Quantization:
    """Handler of :class:`engine.edits.Quantize`."""

    spares_outputs = False
    keeps_ranges = True

    def applies(self, module: nn.Module) -> bool:
        """Any layer that is not quantized yet; :meth:`fits` looks at what it computes."""
        return not is_rounded(module)

    def fits(self, layer: LayerId, model: nn.Module, seen: Trace) -> bool:
        """Convolutions, linear layers, and those that add or multiply activations themselves."""
        return verdict(layer, model, seen).possible

    def why_not(self, layer: LayerId, model: nn.Module, seen: Trace) -> str:
        """Why a layer that computes products or adds stays in float; "" if it need not."""
        return verdict(layer, model, seen).why

    def draft(self, edit: Quantize, subject: Subject, job: Job) -> LayersQuantized:
        """Bits and foldings without looking at data: all inputs' scales are 1."""
        self._check(edit, subject)
        picked = chosen(edit, subject)
        grids = dict.fromkeys(picked.edit.layers, activation_grid(edit, None))
        quick = replace(picked.edit, weight_observer="min-max")  # no search
        plans = self._plans(quick, grids, picked.subject, job)
        return self._decided(picked, plans, {}, None, job)

    def decide(self, edit: Quantize, subject: Subject, job: Job) -> LayersQuantized:
        """Calibrate, find the weights' scales behind the folding, and make up for rounding."""
        plans = self.plans(edit, subject, job)
        picked = chosen(edit, subject)
        tensors = repaired(picked.edit, plans, picked.subject, job)
        return self.decision(edit, plans, tensors, subject, job)

    def plans(self, edit: Quantize, subject: Subject, job: Job) -> dict[LayerId, WeightPlan]:
        """Calibrate, and find the grids of each layer with weights, in the order they run in.

        Raises:
            EditRefused: as :meth:`decide`.
        """
        self._check(edit, subject)
        picked = chosen(edit, subject)
        grids = _input_grids(picked.edit, picked.subject, job)
        return self._plans(picked.edit, grids, picked.subject, job)

    def decision(
        self,
        edit: Quantize,
        plans: Mapping[LayerId, WeightPlan],
        tensors: Mapping[LayerId, tuple[StoredTensor, ...]],
        subject: Subject,
        job: Job,
    ) -> LayersQuantized:
        """What was decided of plans, and of the tensors that repair their rounding.

        Raises:
            EditRefused: operators of a layer's own code cannot be rounded.
        """
        picked, seen = chosen(edit, subject), None
        check_in_place(picked)
        if picked.operators and edit.activations == "static":
            seen = calibration(picked.subject, edit.calibration_samples, job)
        return self._decided(picked, plans, tensors, seen, job)

    def _decided(
        self,
        picked: Chosen,
        plans: Mapping[LayerId, WeightPlan],
        tensors: Mapping[LayerId, tuple[StoredTensor, ...]],
        seen: Calibration | None,
        job: Job,
    ) -> LayersQuantized:
        both = replace(picked.edit, layers=(*picked.edit.layers, *picked.operators))
        return LayersQuantized(
            self._layers(plans, picked.edit, picked.subject, tensors),
            _calibration_text(picked.edit, picked.subject),
            operator_grids(picked.edit, picked, seen, job),
            foreseen(both, picked.subject),
        )

    def checked(self, decision: LayersQuantized, subject: Subject, job: Job) -> LayersQuantized:
        """The decision with a warning if the model's predictions collapse by it."""
        model = share(subject.model)
        self.carry_out(decision, model)
        found = collapse(model, subject, job)
        return replace(decision, warnings=(*decision.warnings, *found))

    def carry_out(self, decision: LayersQuantized, model: nn.Module) -> None:
        """Replace the layers by quantized ones, and folded batch norms by identities."""
        make_explicit(model, [one.layer for one in decision.layers])
        make_explicit(model, [one.layer for one in decision.operators])
        for one in decision.layers:
            module = module_at(model, one.layer)
            norm = None if one.folded is None else module_at(model, one.folded)
            if type(module) not in QUANTIZED or not (norm is None or is_batch_norm(norm)):
                raise RecipeMismatch(f"{one.layer} is no layer that can be quantized that way.")
            replace_module(model, one.layer, _rounded(one, module, norm))
            if one.folded is not None and norm is not None:
                replace_module(model, one.folded, Folded(norm, one.layer))
        round_own_operators(decision.operators, model)

    def effects(self, decision: LayersQuantized, subject: Subject) -> tuple[LayerEffect, ...]:
        """Bits of each layer's weights and of what it reads; batch norms that go away."""
        effects = [
            LayerEffect(one.layer, "chosen", "input bits", 32, grid.bits)
            for one in decision.operators
            for grid in grids_of(one)[:1]
        ]
        for one in decision.layers:
            # What is a layer only once its attention calls it is told of that.
            layer = subject.tree.get(one.layer) or subject.tree[subject.tree.parent_of(one.layer)]
            before = layer.weight_bits or 32
            effects.append(LayerEffect(layer.id, "chosen", "weight bits", before, one.weight.bits))
            if one.input is not None and layer.id == one.layer:
                reads = layer.activation_bits or 32
                effects.append(LayerEffect(layer.id, "chosen", "input bits", reads, one.input.bits))
            if one.folded is not None:
                channels = subject.tree[one.folded].channels or 0
                effects.append(
                    LayerEffect(one.folded, "folded", "output channels", channels, channels)
                )
        order = {layer.id: at for at, layer in enumerate(subject.tree)}
        return tuple(sorted(effects, key=lambda effect: order[effect.layer]))

    def notes(self, decision: LayersQuantized, subject: Subject) -> tuple[str, ...]:
        """What the ranges rest on, what may go wrong, and what latency on this machine shows."""
        return (
            decision.calibration,
            *decision.warnings,
            *filter(None, (saturation(decision),)),
            "On this machine quantized layers run as a simulation: their latency here is not "
            "that of an integer runtime.",
        )

    def _check(self, edit: Quantize, subject: Subject) -> None:
        _check_fields(edit)
        for layer in edit.layers:
            module = module_at(subject.model, layer)
            name = layer or "The model itself"
            if is_rounded(module):
                raise EditRefused(f"{name} is quantized already.")
            if is_idle(layer, module, subject.trace):
                raise EditRefused(f"{name} is not reached by a run on the sample input.")
            if reason := reason_against(layer, subject.model, subject.trace):
                kind = subject.tree[layer].kind
                raise EditRefused(f"{name} ({kind}) cannot be quantized: {reason}.")

    def _plans(
        self,
        edit: Quantize,
        grids: Mapping[LayerId, InputGrid | None],
        subject: Subject,
        job: Job,
    ) -> dict[LayerId, WeightPlan]:
        """The plan of each layer with weights, in the order in which they run."""
        plans = {}
        for layer in job.track(_as_they_run(edit.layers, subject), "Choosing the weights' grids"):
            norm = norm_behind(layer, subject.model, subject.trace.operators)
            module = module_at(subject.model, layer)
            weight, bias = _float32(
                module, None if norm is None else module_at(subject.model, norm)
            )
            if not torch.isfinite(weight).all():
                raise EditRefused(f"{layer} holds weights that are not finite.")
            plans[layer] = weight_plan(edit, weight, bias, grids[layer], job)
        return plans

    def _layers(
        self,
        plans: Mapping[LayerId, WeightPlan],
        edit: Quantize,
        subject: Subject,
        tensors: Mapping[LayerId, tuple[StoredTensor, ...]],
    ) -> tuple[QuantizedLayer, ...]:
        return tuple(
            QuantizedLayer(
                layer,
                norm_behind(layer, subject.model, subject.trace.operators),
                plans[layer].grid,
                plans[layer].input,
                tensors.get(layer, ()),
            )
            for layer in edit.layers
        )


def _check_fields(edit: Quantize) -> None:
    """Raise EditRefused for what no grid can be made of."""
    for wrong, words in (
        (edit.calibration_samples < 1, "Calibration needs at least one sample."),
        (not 2 <= edit.weight_bits <= 16, "Weights take 2 to 16 bits."),
        (edit.activation_bits not in (8, 16), "Activations take 8 or 16 bits."),
        (
            edit.granularity not in get_args(Granularity),
            f"There is no granularity “{edit.granularity}”.",
        ),
        (edit.group_size < 1, "A group holds at least one weight."),
        (edit.observer not in get_args(Observer), f"There is no observer “{edit.observer}”."),
        (
            edit.weight_observer not in get_args(Observer),
            f"There is no observer of weights “{edit.weight_observer}”.",
        ),
        (
            edit.activations not in ("static", "dynamic", "none"),
            "Activations are static, dynamic or none.",
        ),
        (
            edit.rounding not in ("nearest", "gptq", "adaround"),
            f"There is no rounding “{edit.rounding}”.",
        ),
        (not 50 < edit.percentile <= 100, "A percentile is above 50 and at most 100."),
    ):
        if wrong:
            raise EditRefused(words)


def _as_they_run(layers: tuple[LayerId, ...], subject: Subject) -> tuple[LayerId, ...]:
    order = {one.layer: at for at, one in reversed(list(enumerate(subject.trace.operators)))}
    return tuple(sorted(layers, key=lambda layer: order.get(layer, len(order))))


def _input_grids(edit: Quantize, subject: Subject, job: Job) -> dict[LayerId, InputGrid | None]:
    """The grid of each layer's input."""
    if edit.activations != "static":
        return dict.fromkeys(edit.layers, activation_grid(edit, None))
    seen = calibration(subject, edit.calibration_samples, job)
    grids = {}
    for layer in job.track(edit.layers, "Choosing the inputs' grids"):
        ranges = seen.ranges(layer)
        if ranges is None or not ranges.finite:
            raise EditRefused(
                f"{layer} is not reached by the calibration samples, "
                "or its input holds values that are not finite.",
                "Leave it out of the selection, or take activations as they come (dynamic).",
            )
        grids[layer] = activation_grid(edit, ranges.histogram)
    return grids


def _calibration_text(edit: Quantize, subject: Subject) -> str:
    told = {
        "none": "Weights alone are rounded: inputs stay in float. ",
        "dynamic": "Inputs are rounded by each sample's own range, as it comes. ",
        "static": "",
    }[edit.activations]
    if told and edit.rounding == "nearest" and not edit.bias_correction:
        return told.strip()  # no sample is looked at
    if subject.data is None:
        return f"{told}Calibrated on random noise, as no data set is chosen: expect poor accuracy."
    count = min(edit.calibration_samples, len(subject.data.training))
    return f"{told}Calibrated on {count} training samples of {subject.data.name}."


def _float32(module: nn.Module, norm: nn.Module | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias as they are rounded, a batch norm folded into them."""
    weight, bias = folded(module, norm)
    return weight.float(), None if bias is None else bias.float()


def _rounded(one: QuantizedLayer, module: nn.Module, norm: nn.Module | None) -> nn.Module:
    """The quantized form of a layer by what was decided; raises RecipeMismatch if that is none."""
    weight, bias = _float32(module, norm)
    _check_grids(one, weight)
    form, scale, zero_point = scales_of(one.weight, len(weight))
    given = {stored.name: restored_tensor(stored) for stored in one.tensors}
    integers = given.pop("weight", None)
    if integers is None:
        integers = round_weight(weight, form, scale, zero_point)
    else:
        _check_integers(one.layer, integers, weight, form)
    if "bias" in given:
        bias = given.pop("bias")
        if bias.dtype != torch.float32 or bias.shape != weight.shape[:1]:
            raise RecipeMismatch(f"The bias that is given for {one.layer} is not one of its own.")
    if given:
        raise RecipeMismatch(f"{one.layer} has no tensor called “{next(iter(given))}”.")
    return quantized_from(module, integers, bias, scale, zero_point, form, one.input)


def _check_integers(layer: LayerId, integers: Tensor, weight: Tensor, form: WeightFormat) -> None:
    low, high = form.range
    if (
        integers.dtype != form.dtype
        or integers.shape != weight.shape
        or (integers.numel() and not low <= int(integers.min()) <= int(integers.max()) <= high)
    ):
        raise RecipeMismatch(
            f"The weights that are given for {layer} are not {form.bits}-bit integers of its shape."
        )


def _check_grids(one: QuantizedLayer, weight: Tensor) -> None:
    grid = one.weight
    if len(grid.scales) != _scales_needed(grid, weight):
        raise RecipeMismatch(
            f"{one.layer} has {len(weight)} channels, and {len(grid.scales)} scales are given."
        )
    low, high = integer_range(grid.bits)
    zeros = (0, 0) if grid.symmetric else (low, high)
    if len(grid.zero_points) != len(grid.scales) or not all(
        zeros[0] <= zero <= zeros[1] for zero in grid.zero_points
    ):
        raise RecipeMismatch(f"The zero points of {one.layer} do not belong to its scales.")
    if one.input is not None:
        low, high = integer_range(one.input.bits)
        if not low <= one.input.zero_point <= high:
            raise RecipeMismatch(f"The zero point of {one.layer}'s input is not on its grid.")


def _scales_needed(grid: WeightGrid, weight: Tensor) -> int:
    """How many scales the grid is to have; -1 where there can be none."""
    if not grid.group_size:
        return 1 if len(grid.scales) == 1 else len(weight)
    width = weight[:1].numel()
    fits = grid.group_size > 1 and width % grid.group_size == 0
    return weight.numel() // grid.group_size if fits else -1
