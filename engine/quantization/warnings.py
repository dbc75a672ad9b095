"""What is known to go wrong with such a quantization, told beforehand with its remedy."""

import platform
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from torch import nn
from torch.nn.modules.conv import _ConvNd

from engine.editing import Subject, module_at
from engine.edits import LayersQuantized, Quantize
from engine.layers import LayerId
from engine.operators import Operator, OperatorTable, TensorUse, Work

_CURVED = frozenset({"aten.hardswish", "aten.silu", "aten.gelu", "aten.mish"})
"""Activations with a short negative side, which a range over everything hardly resolves."""
_SOFTMAX = frozenset({"aten._softmax", "aten._safe_softmax"})
_FUSED_ATTENTION = "aten._scaled_dot_product"  # its softmax is within
_SCALING = frozenset({"aten.mul", "aten.div", "aten.add", "aten.sub", "aten.masked_fill"})
_NAMED = 3


def foreseen(edit: Quantize, subject: Subject) -> tuple[str, ...]:
    """Warnings that the edit and the trace give rise to, a sentence or two each."""
    return tuple(
        f"{warning} {remedy}" for layers, warning, remedy in _judged(edit, subject) if layers
    )


def _judged(edit: Quantize, subject: Subject) -> Iterator[tuple[list[LayerId], str, str]]:
    if edit.activations == "dynamic":
        layers = [one for one in edit.layers if isinstance(module_at(subject.model, one), _ConvNd)]
        yield (
            layers,
            f"Few runtimes have dynamic quantization of convolutions ({_named(layers)}), and "
            "finding each sample's range takes time.",
            "Take static activations there.",
        )
    if edit.granularity == "tensor":
        layers = [one for one in edit.layers if _is_depthwise(module_at(subject.model, one))]
        yield (
            layers,
            f"Filters of depthwise convolutions ({_named(layers)}) differ widely in range, and one "
            "scale for the whole tensor leaves the smaller ones hardly any steps.",
            "Take a scale for each channel, or equalize the channels first.",
        )
    if edit.activations != "none" and edit.activation_bits == 8:
        layers = [one for one in edit.layers if one in _before_softmax(subject.trace.operators)]
        yield (
            layers,
            f"A softmax reads what is computed from 8-bit inputs in {_named(layers)}, and turns an "
            "error of the sum into a factor.",
            "Take 16-bit activations there, or leave it in float.",
        )
    if edit.activations == "static" and edit.observer == "min-max":
        layers = [one for one in edit.layers if _behind_curve(one, subject.trace.operators)]
        yield (
            layers,
            f"The range from least to greatest input of {_named(layers)} is set by the few largest "
            "values behind hard-swish, SiLU or GELU, and most values lie close to 0.",
            "Take the observer “mse” or “percentile”.",
        )


def saturation(decision: LayersQuantized, flags: frozenset[str] | None = None) -> str:
    """A warning if integer runtimes on this machine would compute other sums; else "".

    Without VNNI, x86 runtimes multiply 8-bit inputs (unsigned) by 8-bit weights in pairs whose sum
    is cut at 16 bits.

    Args:
        flags: of the processor, as Linux lists them; None: this machine's.
    """
    flags = _cpu_flags() if flags is None else flags
    if "avx2" not in flags or any("vnni" in one for one in flags):
        return ""
    if not any(
        one.weight.bits == 8 and one.input and one.input.bits == 8 for one in decision.layers
    ):
        return ""
    return (
        "This machine's processor has no VNNI: integer runtimes here cut sums of two products at "
        "16 bits, so that results can differ from these. Take 7 bits for weights (reduced range) "
        "if the model is to run on such a processor."
    )


@cache
def _cpu_flags() -> frozenset[str]:
    """Of this machine's processor; none where the system does not list them."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return frozenset()
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return _torch_flags()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


def _torch_flags() -> frozenset[str]:
    import torch

    known = {
        "avx2": torch.cpu._is_avx2_supported(),
        "avx512_vnni": torch.cpu._is_vnni_supported(),
    }
    return frozenset(name for name, there in known.items() if there)


def _named(layers: list[LayerId]) -> str:
    named = ", ".join(layers[:_NAMED])
    return f"{named} and {len(layers) - _NAMED} more" if len(layers) > _NAMED else named


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, _ConvNd) and module.groups == module.in_channels > 1


def _behind_curve(layer: LayerId, table: OperatorTable) -> bool:
    """Whether the layer reads what a curved activation puts out."""
    writers = _writers(table)
    products = [one for one in table.of(layer) if one.macs and one.activations]
    sources = (_source(one.activations[0], writers, frozenset()) for one in products)
    return any(one is not None and one.name.rstrip("_") in _CURVED for one in sources)


def _before_softmax(table: OperatorTable) -> frozenset[LayerId]:
    """Layers whose product or sum goes into a softmax, but for scaling and masking."""
    writers = _writers(table)
    found = set()
    for one in table:
        if one.name.startswith(_FUSED_ATTENTION):
            found.add(one.layer)
        elif one.name in _SOFTMAX and one.activations:
            source = _source(one.activations[0], writers, _SCALING)
            if source is not None and source.work is Work.PRODUCT:
                found.add(source.layer)
    return frozenset(found)


def _writers(table: Iterable[Operator]) -> dict[int, Operator]:
    return {use.number: one for one in table for use in one.outputs}


def _source(
    use: TensorUse, writers: dict[int, Operator], passed: frozenset[str]
) -> Operator | None:
    """The operator that computed a value, through views and those named; None: it was given."""
    writer = writers.get(use.number)
    while writer is not None and writer.activations:
        if writer.work is not Work.FREE and writer.name.rstrip("_") not in passed:
            return writer
        writer = writers.get(writer.activations[0].number)
    return writer
