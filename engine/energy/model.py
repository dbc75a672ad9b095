"""Modelled energy of each layer: arithmetic and data movement on one hardware.

Energy of a layer = arithmetic + for each data type (weights, input, output with partial sums) and
each level (registers, array, buffer, DRAM) accesses times cost per access, in the manner of the MIT
energy estimation tool (Yang et al., Asilomar 2017). Accesses of products come from
:mod:`engine.energy.dataflow`; these are the rest of the rules:

* Pooling, normalisation, activations and element-wise work cost their traffic: one access of the
  buffer for every word read or written, and one of DRAM where it comes from or goes there. Of a
  table that is looked up in, the rows found are read. What an operator puts out beside its result,
  and nobody reads, is not kept.
* A value that is made in the pass, that exactly one such operator reads, and that is no result of
  the model, is handed over in the buffer and never goes to DRAM. So are the scores of attention.
* A value is kept in the bits that its readers take: rounding happens as it is written.
* An access costs bits/word, a MAC the product of bits/word of both operands; values wider than the
  hardware's word are held in its word. A partial sum has the bits of the output.
* Hardware that gates zero inputs spares their MACs and the weights' reads from registers, not the
  accesses of inputs and partial sums (Eyeriss, JSSC 2017, section V); for zero weights the same
  with the roles exchanged. Padding is zeros.
* Run-length compression off the chip packs 64 bits with as many pairs of a 5-bit run of zeros and a
  value as fit beside one bit (JSSC 2017, section III): never more than the raw size, and a pair for
  every 32 values at least. Partial sums that go to DRAM and come back are not compressed.

Clock and control power are not modelled.
"""

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np
from numpy.typing import NDArray

from engine.energy.dataflow import REGISTER_ACCESSES, Accesses, Bits, Geometry, front
from engine.energy.estimates import COMPUTE, PARTS, EnergyEstimate, EnergySettings, LayerEnergy
from engine.energy.loops import Product, products_of
from engine.energy.zeros import OperatorKeys, Zeros
from engine.layers import LayerId
from engine.metrics import ENERGY, Quantity, Series
from engine.operators import Operator, OperatorTable, TensorUse, Work

MODEL = 4
"""Raised whenever the same hardware gives other figures than before, which may have been kept."""

_RUN_BITS = 5
_PACK_BITS = 64

_NO_ZEROS = Zeros()


def estimate(
    operators: OperatorTable, settings: EnergySettings, batch: int, zeros: Zeros = _NO_ZEROS
) -> EnergyEstimate:
    """Energy for one inference in joules, by layer and part.

    Args:
        operators: of one forward pass over ``batch`` samples; weights that are fetched once
            serve all of them.
        zeros: what hardware that skips zeros finds.
    """
    table = _Table(operators, settings)
    sums: dict[LayerId, _Sum] = {}
    unattributed: dict[str, float | None] = {}
    keys = OperatorKeys()
    for operator in operators:
        shares = _shares(operator, operators, zeros, keys)
        if operator.work is Work.FREE:
            continue
        found = table.spent(operator, shares)
        layer = sums.setdefault(operator.layer, _Sum())
        if found is None:
            unattributed[operator.name] = None
            layer.unmodelled.append(operator.name)
        else:
            layer.add(found)
    joules = settings.hardware.joules_per_unit / batch
    layers = {
        id_: {part: Quantity(units * joules) for part, units in one.parts.items()}
        for id_, one in sums.items()
        if any(one.parts.values())
    }
    total = sum(quantity.value for parts in layers.values() for quantity in parts.values())
    conditions = _conditions(settings, batch, zeros)
    return EnergyEstimate(
        Series(ENERGY, Quantity(total), layers, unattributed, conditions),
        settings,
        {
            id_: one.told(settings, joules)
            for id_, one in sums.items()
            if id_ in layers or one.unmodelled
        },
        "time" if settings.hardware.speed else "energy",
        bool(zeros.values),
    )


def _conditions(settings: EnergySettings, batch: int, zeros: Zeros) -> dict[str, str]:
    hardware = settings.hardware
    conditions = {
        "hardware": hardware.name,
        "dataflow": settings.dataflow,
        "batch": str(batch),
        "unit": f"{hardware.joules_per_mac * 1e12:g} pJ per {hardware.word_bits}-bit MAC",
    }
    if settings.bits:
        conditions["bits"] = f"{settings.bits} of weights and activations"
    if not hardware.sparsity.skips_anything:
        conditions["zeros"] = "not skipped"
    elif zeros.values:
        conditions["zeros"] = f"skipped; activations as {zeros.origin}"
    else:
        conditions["zeros"] = "skipped in weights and padding; activations not measured"
    return conditions


@dataclass(frozen=True)
class _Shares:
    """Shares of zeros in what one operator reads and writes; None: nobody knows."""

    inputs: tuple[float | None, ...]
    outputs: tuple[float | None, ...]


def _shares(
    operator: Operator, operators: OperatorTable, zeros: Zeros, keys: OperatorKeys
) -> _Shares:
    """Those measured or counted."""
    key, number = keys.of(operator), len(operator.inputs)
    measured: tuple[float | None, ...] = zeros.values.get(key, ())
    if len(measured) != number + len(operator.outputs):
        measured = (None,) * (number + len(operator.outputs))
    inputs = tuple(
        zeros.weights.get(operators.name_of(use), share) if use.weight else share
        for use, share in zip(operator.inputs, measured, strict=False)
    )
    return _Shares(inputs, measured[number:])


@dataclass(frozen=True)
class _Spent:
    """What an operator takes, in the hardware's units, and what is to be said of it.

    Attributes:
        dense: units that it would take, were no zero skipped.
        cycles: of the array, were it never to wait; None without products.
        dram_bits: to and from DRAM.
    """

    parts: dict[str, float]
    dense: float
    macs: float = 0.0
    cycles: float | None = None
    dram_bits: float = 0.0
    mapping: str = ""
    input_zeros: float | None = None
    weight_zeros: float | None = None


@dataclass
class _Sum:
    """What the operators of one layer take together."""

    parts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    unmodelled: list[str] = field(default_factory=list)
    _dense: float = 0.0
    _cycles: float = 0.0
    _macs: float = 0.0
    _dram_bits: float = 0.0
    _largest: _Spent | None = None

    def add(self, spent: _Spent) -> None:
        """Add an operator."""
        for part, units in spent.parts.items():
            self.parts[part] += units
        self._dense += spent.dense
        self._dram_bits += spent.dram_bits
        if spent.cycles is None:
            return
        self._cycles += spent.cycles
        self._macs += spent.macs
        if self._largest is None or spent.macs > self._largest.macs:
            self._largest = spent

    def told(self, settings: EnergySettings, joules: float) -> LayerEnergy:
        """What is to be said of the layer; ``joules`` is one unit for one inference."""
        largest, array = self._largest, settings.hardware.array
        names = tuple(dict.fromkeys(self.unmodelled))
        saved = max(0.0, self._dense - sum(self.parts.values())) * joules
        if largest is None:
            return LayerEnergy(saved=saved, unmodelled=names)
        return LayerEnergy(
            "DRAM" if self._waits_for_dram(settings) else "compute",
            self._macs / (self._cycles * array.rows * array.columns),
            largest.mapping,
            largest.input_zeros,
            largest.weight_zeros,
            saved,
            names,
        )

    def _waits_for_dram(self, settings: EnergySettings) -> bool:
        speed = settings.hardware.speed
        if speed is None:
            dram = sum(units for part, units in self.parts.items() if part.endswith("DRAM"))
            return dram > sum(self.parts.values()) / 2
        return self._dram_bits / 8 / speed.dram_bytes_per_second > self._cycles / speed.clock_hertz


class _Table:
    """The operators of a pass, and what each takes on the hardware."""

    def __init__(self, operators: OperatorTable, settings: EnergySettings) -> None:
        self._operators = operators
        self._settings = settings
        self._hardware = settings.hardware
        self._geometry = Geometry.of(settings.hardware)
        sparsity = settings.hardware.sparsity
        self._packs = sparsity.compresses_maps or sparsity.compresses_weights
        self._known: dict[Hashable, _Spent | None] = {}

    def spent(self, operator: Operator, shares: _Shares) -> _Spent | None:
        """What the operator takes; None when there is no rule for it."""
        key = self._signature(operator, shares)
        if key not in self._known:
            self._known[key] = self._found(operator, shares)
        return self._known[key]

    def _signature(self, operator: Operator, shares: _Shares) -> Hashable:
        """All that an operator's energy depends on: deep models repeat themselves."""
        uses = (*operator.inputs, *operator.outputs)
        return (
            operator.name,
            operator.work,
            operator.window,
            operator.macs,
            shares,
            tuple((one.shape, self._bits(one), one.weight, self._handed_over(one)) for one in uses),
            tuple(map(self._written_bits, operator.outputs)),
            tuple(map(self._operators.is_repeated, operator.inputs)),
            tuple(map(self._is_used, operator.outputs)),
        )

    def _found(self, operator: Operator, shares: _Shares) -> _Spent | None:
        if operator.work is Work.TRAFFIC:
            return self._moved(operator, shares)
        if operator.work is not Work.PRODUCT:
            return None
        if operator.macs == 0:  # its tensors are empty: nothing is read to make nothing
            return self._moved(operator, shares, {id(use) for use in operator.inputs})
        products = products_of(operator, self._operators, self._geometry.buffer, self._bits)
        found = [self._multiplied(operator, shares, one) for one in products if one.macs]
        whole = [one for one in found if one is not None]
        if not products or len(whole) < len(found):
            return None
        operands = {id(use) for one in products for use in (one.moving, one.held, one.result)}
        # Biases, masks, offsets, and what fused operators put out beside their result.
        return _together([*whole, self._moved(operator, shares, operands)])

    def _multiplied(self, operator: Operator, shares: _Shares, product: Product) -> _Spent | None:
        """What one product takes under its best mapping; None when the hardware cannot hold it."""
        result = product.result
        bits = Bits(
            self._bits(product.held),
            self._word if product.moving is None else self._bits(product.moving),
            self._word if result is None else self._written_bits(result),
        )
        mappings = front(
            product.loops,
            bits,
            self._geometry,
            self._settings.dataflow,
            packs=self._packs,
            resident=product.moving is None,
        )
        if mappings is None:
            return None
        dense = _Skipped()
        skipped = self._skipped(operator, shares, product, bits)
        best = mappings.best(self._costs(product, bits, skipped))
        parts = self._parts(product, bits, skipped, best)
        units = sum(parts.values())
        if skipped != dense:
            best_dense = mappings.best(self._costs(product, bits, dense))
            units = sum(self._parts(product, bits, dense, best_dense).values())
        array = self._hardware.array
        return _Spent(
            parts,
            units,
            float(product.macs),
            product.macs / (best.utilisation * array.rows * array.columns),
            self._dram_bits(product, bits, skipped, best),
            _mapping(product, best),
            _share_of(product.moving, operator, shares),
            _share_of(product.held, operator, shares),
        )

    def _skipped(
        self, operator: Operator, shares: _Shares, product: Product, bits: Bits
    ) -> "_Skipped":
        sparsity = self._hardware.sparsity
        if not sparsity.skips_anything:
            return _Skipped()
        moving = _share_of(product.moving, operator, shares) or 0.0
        held = _share_of(product.held, operator, shares) or 0.0
        written = 0.0
        if product.result is not None:
            written = shares.outputs[operator.outputs.index(product.result)] or 0.0
        padded = 1 - (1 - moving) * (1 - product.loops.padded)
        return _Skipped(
            gated_inputs=padded if sparsity.gates_zero_inputs else 0.0,
            gated_weights=held if sparsity.gates_zero_weights else 0.0,
            weights=self._packed(product.held, held, bits.weights),
            inputs=self._packed(product.moving, moving, bits.input),
            outputs=self._packed(product.result, written, bits.output),
        )

    def _packed(self, use: TensorUse | None, zeros: float, bits: int) -> float:
        """Size off the chip as a share of the raw size."""
        if use is None:
            return 1.0
        sparsity = self._hardware.sparsity
        if not (sparsity.compresses_weights if use.weight else sparsity.compresses_maps):
            return 1.0
        pairs = (_PACK_BITS - 1) // (_RUN_BITS + bits)
        stored = max(1 - zeros, 2**-_RUN_BITS)  # a run and the value behind it are 32 at most
        return min(1.0, stored * _PACK_BITS / pairs / bits) if pairs else 1.0

    def _costs(self, product: Product, bits: Bits, skipped: "_Skipped") -> NDArray[np.float64]:
        """Units for a word of each column of :attr:`Front.counts`."""
        cost = self._hardware.cost
        widths = np.array(bits) / self._word
        dram = widths * cost.dram * (skipped.weights, skipped.inputs, 1.0)
        if product.moving is None:
            dram[1] = 0.0
        # Taps that are not there have no weights, and no element that anything is delivered to.
        dram[0] *= product.real
        buffer = widths * cost.global_buffer * (product.real, 1.0, 1.0)
        return np.concatenate([dram, buffer, widths * cost.array * product.real])

    def _parts(
        self, product: Product, bits: Bits, skipped: "_Skipped", found: Accesses
    ) -> dict[str, float]:
        cost, macs = self._hardware.cost, product.macs
        weights, inputs, outputs = (one / self._word for one in bits)
        by_weight, by_input, by_output = REGISTER_ACCESSES[self._settings.dataflow]
        ungated = (1 - skipped.gated_inputs, 1 - skipped.gated_weights)
        held = "weights" if product.held.weight else "input"
        moving = "weights" if product.moving is not None and product.moving.weight else "input"
        registers = cost.register_file
        parts = dict.fromkeys(PARTS, 0.0)
        parts[COMPUTE] = macs * weights * inputs * cost.mac * ungated[0] * ungated[1]
        moved = (
            (held, weights, registers.weights * by_weight * ungated[0]),
            (moving, inputs, registers.input * by_input * ungated[1]),
            ("output", outputs, registers.output * by_output),
        )
        dram = self._dram_words(product, skipped, found)
        for at, (data, width, access) in enumerate(moved):
            parts[f"{data} registers"] += macs * width * access
            buffer = found.buffer[at] * (1.0 if at else product.real)
            parts[f"{data} array"] += found.array[at] * product.real * width * cost.array
            parts[f"{data} buffer"] += buffer * width * cost.global_buffer
            parts[f"{data} DRAM"] += dram[at] * width * cost.dram
        return parts

    def _dram_words(
        self, product: Product, skipped: "_Skipped", found: Accesses
    ) -> tuple[float, float, float]:
        """Words to and from DRAM by data type, as many as they are when compressed."""
        result = product.result
        stays = result is None or self._handed_over(result)
        # Its own words: gates of a recurrence become fewer, whole phases are more than it has.
        final = 0.0 if result is None or stays else result.elements * skipped.outputs
        return (
            found.dram[0] * product.real * skipped.weights,
            0.0 if product.moving is None else found.dram[1] * skipped.inputs,
            found.spilled + final,
        )

    def _dram_bits(
        self, product: Product, bits: Bits, skipped: "_Skipped", found: Accesses
    ) -> float:
        words = self._dram_words(product, skipped, found)
        return sum(number * width for number, width in zip(words, bits, strict=True))

    def _moved(self, operator: Operator, shares: _Shares, but: Collection[int] = ()) -> _Spent:
        """What an operator's tensors take that only pass; those with ids in ``but`` left out."""
        cost = self._hardware.cost
        parts = dict.fromkeys(PARTS, 0.0)
        dense = dram_bits = 0.0
        moved = (
            *(
                (use, _read(operator, use), zeros, "weights" if use.weight else "input")
                for use, zeros in zip(operator.inputs, shares.inputs, strict=True)
            ),
            *(
                (use, use.elements, zeros, "output")
                for at, use, zeros in zip(count(), operator.outputs, shares.outputs, strict=False)
                if not at or self._is_used(use)
            ),
        )
        for use, elements, zeros, data in moved:
            if id(use) in but:
                continue
            bits = self._written_bits(use) if data == "output" else self._bits(use)
            words = elements * bits / self._word
            parts[f"{data} buffer"] += words * cost.global_buffer
            dense += words * cost.global_buffer
            if not self._handed_over(use):
                packed = self._packed(use, zeros or 0.0, bits)
                parts[f"{data} DRAM"] += words * packed * cost.dram
                dense += words * cost.dram
                dram_bits += elements * bits * packed
        return _Spent(parts, dense, dram_bits=dram_bits)

    def _handed_over(self, use: TensorUse) -> bool:
        """Whether a value goes from its writer to its only reader within the buffer."""
        if use.weight or self._operators.is_given(use) or self._operators.is_result(use):
            return False
        return [one.work for one in self._operators.readers(use)] == [Work.TRAFFIC]

    def _is_used(self, use: TensorUse) -> bool:
        return self._operators.is_result(use) or bool(self._operators.readers(use))

    @property
    def _word(self) -> int:
        return self._hardware.word_bits

    def _bits(self, use: TensorUse) -> int:
        return min(self._settings.bits or use.bits, self._word)

    def _written_bits(self, use: TensorUse) -> int:
        return min(self._settings.bits or self._operators.stored_bits(use), self._word)


@dataclass(frozen=True)
class _Skipped:
    """What zeros spare one product.

    Attributes:
        gated_inputs, gated_weights: share of the MACs that a zero operand spares.
        weights, inputs, outputs: size off the chip as a share of the raw size.
    """

    gated_inputs: float = 0.0
    gated_weights: float = 0.0
    weights: float = 1.0
    inputs: float = 1.0
    outputs: float = 1.0


_LOOKED_UP = frozenset(
    f"aten.{name}" for name in ("embedding", "index", "_unsafe_index", "index_select", "gather")
)
_SHAPE_ALONE = frozenset(  # of their first input nothing else counts: it is written over, if at all
    f"aten.{name}"
    for name in (
        "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like",
        "new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided",
        "copy_", "fill_", "zero_", "bernoulli_",
    )
)  # fmt: skip


def _read(operator: Operator, use: TensorUse) -> int:
    """Elements of an input that an operator of traffic reads: of a table those that it puts out."""
    if use is not operator.inputs[0]:
        return use.elements
    if operator.name in _SHAPE_ALONE:
        return 0
    found = operator.outputs[0].elements if operator.name in _LOOKED_UP else use.elements
    return min(use.elements, found)


def _share_of(use: TensorUse | None, operator: Operator, shares: _Shares) -> float | None:
    """Share of zeros in an operand; None: not known, or it never leaves the chip."""
    return None if use is None else shares.inputs[operator.inputs.index(use)]


def _together(spent: Sequence[_Spent]) -> _Spent:
    """Several parts of an operator as one; told is the largest product."""
    largest = max(spent, key=lambda one: one.macs)
    cycles = [one.cycles for one in spent if one.cycles is not None]
    return replace(
        largest,
        parts={part: sum(one.parts[part] for one in spent) for part in PARTS},
        dense=sum(one.dense for one in spent),
        macs=sum(one.macs for one in spent),
        cycles=sum(cycles) if cycles else None,
        dram_bits=sum(one.dram_bits for one in spent),
    )


def _mapping(product: Product, found: Accesses) -> str:
    channels, filters, rows, images = found.tile
    of = product.loops
    return (
        f"buffer: {channels} of {of.channels} channels, {filters} of {of.filters} filters, "
        f"{rows} of {of.rows} rows, {images} of {of.images} images; array: {found.pass_[0]} "
        f"channels, {found.pass_[1]} filters, {found.pass_[2]} rows"
    )
