"""The one cost table: every operator of one forward pass, recorded once; plain data.

Parameters, MACs, memory, energy and coupled batch norms are all read from here.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from math import prod
from typing import Literal

from engine.layers import LayerId


class Work(Enum):
    """What an operator costs, as far as its rule tells."""

    PRODUCT = "product"  # multiply-accumulates: convolutions, matrix products, attention
    TRAFFIC = "traffic"  # reads and writes without MACs: pooling, normalisation, element-wise
    FREE = "free"  # views and shape changes: nothing moves
    UNKNOWN = "unknown"  # no rule: listed, never counted as zero


@dataclass(frozen=True, slots=True)
class TensorUse:
    """A tensor as an operator reads or writes it.

    Attributes:
        number: the value's identity within the trace; writing in place gives a new one.
        bits: of one element as it is stored (8 behind a dequantize operator, whatever its dtype).
        weight: whether it comes from the model's parameters and buffers alone.
        name: full name of the parameter or buffer that it is, else "".
    """

    number: int
    shape: tuple[int, ...]
    bits: int
    weight: bool
    name: str = ""

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def bytes(self) -> float:
        """Bytes as stored, sub-byte elements packed."""
        return self.elements * self.bits / 8


@dataclass(frozen=True, slots=True)
class Window:
    """Geometry of a convolution, one entry for each spatial axis.

    Attributes:
        kernel, stride, padding, dilation: in elements.
        groups: independent groups of channels.
        transposed: whether it is the transposed (fractionally strided) one.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator call.

    Attributes:
        layer: innermost layer that was running.
        name: such as ``aten.convolution``.
        macs: multiply-accumulates; None without a rule.
        window: for convolutions.
    """

    layer: LayerId
    name: str
    work: Work
    inputs: tuple[TensorUse, ...]
    outputs: tuple[TensorUse, ...]
    macs: int | None
    window: Window | None = None

    @property
    def weights(self) -> tuple[TensorUse, ...]:
        """Inputs that come from the model itself."""
        return tuple(use for use in self.inputs if use.weight)

    @property
    def activations(self) -> tuple[TensorUse, ...]:
        """Inputs that come from the sample."""
        return tuple(use for use in self.inputs if not use.weight)


@dataclass(frozen=True, slots=True)
class OwnOperator:
    """An addition of two tensors or a product of two, as the code of a layer itself calls it.

    Attributes:
        name: ``add`` or ``matmul``; fused attention is two products.
        takes_activations: whether both operands come from the sample, and for an addition have
            one shape.
        in_place: whether it is written into its first operand.
    """

    name: Literal["add", "matmul"]
    takes_activations: bool
    in_place: bool = False


ADDITIONS = frozenset({"aten.add", "aten.add_"})
"""Operators that add two tensors."""
_CARRYING = frozenset(
    {"aten.clone", "aten.roll", "aten.constant_pad_nd", "aten.relu", "aten.relu_"}
)


def carries(name: str, work: Work) -> bool:
    """Whether an operator only moves the elements of its first input, or clips them at 0."""
    return name in _CARRYING or (work is Work.FREE and not name.startswith("quantized"))


class OperatorTable:
    """The operators of one forward pass in order; immutable.

    Args:
        results: numbers of the values that the model puts out.
    """

    def __init__(self, operators: tuple[Operator, ...], results: Iterable[int] = ()) -> None:
        self._operators = operators
        self._results = frozenset(results)

    def __iter__(self) -> Iterator[Operator]:
        return iter(self._operators)

    def __len__(self) -> int:
        return len(self._operators)

    def mapped(self, change: Callable[[Operator], Operator]) -> "OperatorTable":
        """The same pass with every operator changed; its values keep their numbers."""
        return OperatorTable(tuple(map(change, self._operators)), self._results)

    def macs(self) -> dict[LayerId, int]:
        """Multiply-accumulates by layer, those of layers without any left out."""
        sums: dict[LayerId, int] = {}
        for operator in self._operators:
            if operator.macs:
                sums[operator.layer] = sums.get(operator.layer, 0) + operator.macs
        return sums

    @cached_property
    def _by_layer(self) -> dict[LayerId, list[Operator]]:
        found: dict[LayerId, list[Operator]] = {}
        for operator in self._operators:
            found.setdefault(operator.layer, []).append(operator)
        return found

    def of(self, layer: LayerId) -> tuple[Operator, ...]:
        """The operators that ran in the layer itself, not in those below it, in order."""
        return tuple(self._by_layer.get(layer, ()))

    def only_product(self, layer: LayerId) -> Operator | None:
        """The product of a layer that has one and runs once; None for all others."""
        products = [one for one in self.of(layer) if one.macs]
        return products[0] if len(products) == 1 else None

    def unattributed(self) -> dict[str, None]:
        """Names of operators that have no rule, in order of appearance."""
        return {one.name: None for one in self._operators if one.work is Work.UNKNOWN}

    @cached_property
    def _roots(self) -> dict[int, int]:
        """The value behind each view, by number."""
        roots: dict[int, int] = {}
        for operator in self._operators:
            if operator.work is Work.FREE and operator.inputs:
                origin = operator.inputs[0].number
                for use in operator.outputs:
                    roots[use.number] = roots.get(origin, origin)
        return roots

    @cached_property
    def _sizes(self) -> dict[int, int]:
        """Elements of every value that is no view, by number."""
        return {
            use.number: use.elements
            for operator in self._operators
            for use in (*operator.inputs, *operator.outputs)
            if use.number not in self._roots
        }

    @cached_property
    def _readers_of(self) -> dict[str, set[LayerId]]:
        found: dict[str, set[LayerId]] = {}
        for operator in self._operators:
            for use in operator.inputs:
                if use.name:
                    found.setdefault(use.name, set()).add(operator.layer)
        return found

    def layers_reading(self, name: str) -> frozenset[LayerId]:
        """Layers whose own operators read the parameter or buffer of that name."""
        return frozenset(self._readers_of.get(name, ()))

    def is_repeated(self, use: TensorUse) -> bool:
        """Whether a value is a smaller one seen several times over (expanded)."""
        root = self._roots.get(use.number, use.number)
        return use.elements > self._sizes.get(root, use.elements)

    @cached_property
    def _names(self) -> dict[int, str]:
        """Names of parameters and buffers, by number."""
        uses = (use for operator in self._operators for use in operator.inputs)
        return {use.number: use.name for use in uses if use.name}

    def name_of(self, use: TensorUse) -> str:
        """Full name of the parameter or buffer behind views of it, else ""."""
        return self._names.get(self._roots.get(use.number, use.number), "")

    @cached_property
    def _consumers(self) -> dict[int, list[Operator]]:
        readers: dict[int, list[Operator]] = {}
        for operator in self._operators:
            if operator.work is not Work.FREE:
                for number in {use.number for use in operator.inputs}:
                    readers.setdefault(self._roots.get(number, number), []).append(operator)
        return readers

    def readers(self, use: TensorUse) -> tuple[Operator, ...]:
        """The operators that read a value, through views or not, in order."""
        return tuple(self._consumers.get(self._roots.get(use.number, use.number), ()))

    @cached_property
    def _made(self) -> frozenset[int]:
        """Numbers of the values that operators put out."""
        return frozenset(use.number for operator in self._operators for use in operator.outputs)

    def is_given(self, use: TensorUse) -> bool:
        """Whether a value is there before the pass, through views or not: an input or a weight."""
        return self._roots.get(use.number, use.number) not in self._made

    @cached_property
    def _result_roots(self) -> frozenset[int]:
        return frozenset(self._roots.get(number, number) for number in self._results)

    def is_result(self, use: TensorUse) -> bool:
        """Whether the model puts the value out, through views or not."""
        return self._roots.get(use.number, use.number) in self._result_roots

    def stored_bits(self, use: TensorUse) -> int:
        """Bits in which an operator's output is kept: the most that any of its readers takes."""
        if self.is_result(use):
            return use.bits  # what reads it outside the model takes it as it is
        root = self._roots.get(use.number, use.number)
        return max(
            (
                read.bits
                for reader in self.readers(use)
                for read in reader.inputs
                if self._roots.get(read.number, read.number) == root
            ),
            default=use.bits,
        )

    def hands_on(self, first: int, last: int, given: int, put_out: int, layer: LayerId) -> bool:
        """Whether operators add to a value what they make of it, and put the sum out.

        What moves or clips the value without computing may lie in between: views, permutations,
        ReLU. That the value then comes out as it went in is likely, and for numbers to prove.

        Args:
            first, last: the operators' range, as in ``range``.
            given, put_out: numbers of the value and of what comes out.
            layer: where at least one of the sums must be taken.
        """
        carrying, sums = {given}, 0
        for operator in self._operators[first:last]:
            carried = [use.number in carrying for use in operator.inputs]
            if operator.name in ADDITIONS and len(carried) == 2 and any(carried):
                sums += operator.layer == layer and not all(carried)
            elif carried[:1] != [True] or not carries(operator.name, operator.work):
                continue
            carrying.update(use.number for use in operator.outputs)
        return put_out in carrying and sums > 0

    def last_products(self) -> frozenset[LayerId]:
        """Layers of the products behind the results, with no other product in between."""
        writers = {use.number: operator for operator in self._operators for use in operator.outputs}
        layers: set[LayerId] = set()
        pending, seen = list(self._results), set[int]()
        while pending:
            number = pending.pop()
            writer = writers.get(number)
            if number in seen or writer is None:
                continue
            seen.add(number)
            if writer.work is Work.PRODUCT:
                layers.add(writer.layer)
            else:
                pending.extend(use.number for use in writer.activations)
        return frozenset(layers)
