"""Modelled energy of each layer: arithmetic, buffers, DRAM.

A simple reuse rule, stated here in full, stands in for a mapping search:

* DRAM: one tensor of a product (either operand, or the result) stays in one half of the global
  buffer, as many parts of it in turn as it takes; for each part one operand is streamed through
  the other half again, whichever choice moves the least. Results are written once.
* A value that exactly one element-wise, normalising or pooling operator reads, and that is no
  result of the model, is handed over through the global buffer and never goes to DRAM.
* A value is kept in the bits that its readers take: rounding happens as it is written.
* Global buffer: one write and one read for every word to or from DRAM.
* Array: a word delivered to a processing element serves as many MACs as its register file has
  words; inputs, weights and partial sums are delivered.
* Register file: 4 accesses a MAC (weight read, input read, partial sum read and write).
* An access costs bits/16, a MAC the product of bits/16 of both operands; values wider than the
  hardware's word are held in its word (Eyeriss, ISCA 2016).

Zeros are not skipped. Clock and control power are not modelled.
"""

from collections.abc import Iterable
from dataclasses import replace
from math import ceil

from engine.energy.hardware import Hardware
from engine.layers import LayerId
from engine.metrics import ENERGY, Quantity, Series
from engine.operators import Operator, OperatorTable, TensorUse, Work

PARTS = ("compute", "buffers", "DRAM")

_REGISTER_ACCESSES_PER_MAC = 4
_DELIVERED_OPERANDS = 3


def estimate(operators: OperatorTable, hardware: Hardware, batch: int) -> Series:
    """Energy for one inference in joules, by layer and part.

    Args:
        operators: of one forward pass over ``batch`` samples; weights that are fetched once
            serve all of them.
    """
    units: dict[LayerId, dict[str, float]] = {}
    unattributed: dict[str, float | None] = {}
    for operator in operators:
        if operator.work is Work.UNKNOWN:
            unattributed[operator.name] = None
        if operator.work in (Work.FREE, Work.UNKNOWN):
            continue
        parts = units.setdefault(operator.layer, dict.fromkeys(PARTS, 0.0))
        for part, units_used in zip(PARTS, _units(operator, operators, hardware), strict=True):
            parts[part] += units_used
    joules = hardware.unit.joules_per_mac / batch
    layers = {
        layer: {part: Quantity(value * joules) for part, value in parts.items()}
        for layer, parts in units.items()
        if any(parts.values())
    }
    total = sum(quantity.value for parts in layers.values() for quantity in parts.values())
    conditions = {
        "hardware": hardware.name,
        "batch": str(batch),
        "unit": f"{hardware.unit.joules_per_mac * 1e12:g} pJ per {hardware.word_bits}-bit MAC",
        "zeros": "not skipped",
        "rule": "simple reuse, no mapping search",
    }
    return Series(ENERGY, Quantity(total), layers, unattributed, conditions)


def _units(
    operator: Operator, operators: OperatorTable, hardware: Hardware
) -> tuple[float, float, float]:
    """Compute, buffers and DRAM of one operator, in units of one MAC of the full word."""
    cost = hardware.cost
    written = [replace(use, bits=operators.stored_bits(use)) for use in operator.outputs]
    handed_over = sum(
        _words(use, hardware)
        for use in (*operator.activations, *written)
        if _streamed(use, operators)
    )
    outputs = sum(_words(use, hardware) for use in written if not _streamed(use, operators))
    compute = registers = deliveries = 0.0
    if operator.work is Work.PRODUCT:
        left, right = _operands(operator)
        fetched = _fetched(left, right, written, operators, hardware)
        # Biases, and the third operand and mask of attention.
        extra = [use for use in operator.inputs if use is not left and use is not right]
        fetched += sum(_words(use, hardware) for use in extra if not _streamed(use, operators))
        macs = operator.macs or 0
        width = (_share(left, hardware) + _share(right, hardware)) / 2
        compute = macs * _share(left, hardware) * _share(right, hardware) * cost.mac
        registers = macs * _REGISTER_ACCESSES_PER_MAC * width * cost.register_file
        words = hardware.register_file_bytes * 8 / hardware.word_bits
        deliveries = macs * _DELIVERED_OPERANDS / words * width * cost.array
    else:
        fetched = sum(
            _words(use, hardware) for use in operator.inputs if not _streamed(use, operators)
        )
    dram_words = fetched + outputs
    buffers = registers + deliveries + (2 * dram_words + handed_over) * cost.global_buffer
    return compute, buffers, dram_words * cost.dram


def _operands(operator: Operator) -> tuple[TensorUse, TensorUse]:
    """The two operands of a product: the sample's side, and the weights' or second sample's."""
    largest = sorted(operator.activations, key=_elements, reverse=True)
    weights = sorted(operator.weights, key=_elements, reverse=True)
    if not largest:  # a product of weights alone
        return weights[0], weights[-1]
    # Attention may have a mask among its weights; its products are of two activations.
    if weights and len(largest) < 2:
        return largest[0], weights[0]
    return largest[0], largest[1]


def _elements(use: TensorUse) -> int:
    return use.elements


def _fetched(
    left: TensorUse,
    right: TensorUse,
    written: Iterable[TensorUse],
    operators: OperatorTable,
    hardware: Hardware,
) -> float:
    """Words read from DRAM for both operands of a product."""
    a = 0.0 if _streamed(left, operators) else _words(left, hardware)
    b = 0.0 if _streamed(right, operators) else _words(right, hardware)
    half = hardware.global_buffer_bytes / 2 * 8 / hardware.word_bits  # in words
    result = sum(_words(use, hardware) for use in written)
    parts_of_a, parts_of_b, parts_of_result = (
        max(1, ceil(words / half)) for words in (a, b, result)
    )
    return min(a + b * min(parts_of_a, parts_of_result), b + a * min(parts_of_b, parts_of_result))


def _streamed(use: TensorUse, operators: OperatorTable) -> bool:
    if use.weight or operators.is_result(use):
        return False
    return [one.work for one in operators.readers(use)] == [Work.TRAFFIC]


def _share(use: TensorUse, hardware: Hardware) -> float:
    """The operand's width as a share of the word."""
    return min(use.bits, hardware.word_bits) / hardware.word_bits


def _words(use: TensorUse, hardware: Hardware) -> float:
    return use.elements * _share(use, hardware)
