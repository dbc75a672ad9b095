"""A network as the MIT energy tool's lines, and its energy as columns beside them.

A layer in groups becomes a line a group; a product with a matrix of weights a fully connected
layer, several rows a sample (tokens) being the height of a map one wide; a one-dimensional
convolution has height 1. What no line can say is listed with the reason.

Known of the tool's result is what its paper says: energy in units of one MAC, layer by layer, split
into computation and the movement of input feature maps, weights and output feature maps. The layout
of :func:`result_columns` is ours.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.energy.estimates import COMPUTE, GROUPINGS, EnergyEstimate
from engine.energy.loops import FACTORS
from engine.energy.mit_format import DescribedLayer, Entries, write_description
from engine.energy.zeros import OperatorKey, OperatorKeys, Zeros
from engine.errors import ExportFailed
from engine.files import write_atomically
from engine.layers import LayerId
from engine.operators import Operator, OperatorTable, TensorUse, Window, Work

SUFFIX = ".txt"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An operator that the format has no line for.

    Attributes:
        macs: multiply-accumulates that are so left out; None: not known.
    """

    layer: LayerId
    operator: str
    reason: str
    macs: int | None


@dataclass(frozen=True)
class Description:
    """A network as the format has it, and what of it the format cannot say.

    Attributes:
        of: the layer of the model that each line belongs to.
    """

    layers: tuple[DescribedLayer, ...]
    of: tuple[LayerId, ...]
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True)
class DescriptionReport:
    """A description that was written, and its energy beside it.

    Attributes:
        macs: of all lines.
    """

    files: tuple[str, ...]
    macs: int
    left_out: tuple[LeftOut, ...]

    @property
    def products(self) -> tuple[LeftOut, ...]:
        """What is left out and multiplies, or may: the file says less than the model does."""
        return tuple(one for one in self.left_out if one.macs != 0)


# -- from an operator table


def describe(
    operators: OperatorTable,
    batch: int,
    zeros: Zeros = Zeros(),  # noqa: B008  (frozen)
    bits: int = 0,
) -> Description:
    """The products of one forward pass as lines, in the order in which they ran.

    MACs are exact. Zeros are those of the tensors as the operator reads and writes them, none
    where they are not known; bits are those in which values are kept.

    Args:
        batch: samples in the pass; a product on rows that these do not divide has one map.
        bits: width of all data alike, instead; 0: as the model has them.
    """
    keys = OperatorKeys()
    layers: list[DescribedLayer] = []
    of: list[LayerId] = []
    left_out: dict[tuple[LayerId, str, str], LeftOut] = {}
    for operator in operators:
        key = keys.of(operator)
        if operator.work is Work.FREE:
            continue
        if reason := _reason_against(operator):
            place = operator.layer, operator.name, reason
            before = left_out.get(place)
            left_out[place] = LeftOut(*place, _sum(before, operator.macs))
            continue
        sizes = _Sizes(operators, zeros, key, bits)
        for shape in _shapes(operator, batch):
            layers.append(sizes.line(len(layers) + 1, operator, shape))
            of.append(operator.layer)
    return Description(tuple(layers), tuple(of), tuple(left_out.values()))


def _sum(before: LeftOut | None, macs: int | None) -> int | None:
    if before is None:
        return macs
    return None if macs is None or before.macs is None else before.macs + macs


_CONVOLUTION = "aten.convolution"
_MATRICES = FACTORS.keys() - {"aten.dot", "aten.vdot", "aten._scaled_mm"}
_ATTENTION = "both factors come from the sample, as in attention"


def _reason_against(operator: Operator) -> str:
    """Why the format cannot say the operator; "" when it can."""
    if operator.work is Work.UNKNOWN:
        return "it has no rule"
    if operator.work is Work.TRAFFIC:
        return "it multiplies nothing, and the format has products alone"
    if any(0 in use.shape for use in (*operator.inputs, *operator.outputs)):
        return "its tensors are empty"
    if operator.window is not None and operator.name == _CONVOLUTION:
        return _reason_against_window(operator.window)
    if "attention" in operator.name:
        return _ATTENTION
    if operator.name not in _MATRICES:
        return "the format has no line for it"
    left, right = _operands(operator)
    if left.weight and right.weight:
        return "it multiplies weights with weights"
    return "" if left.weight or right.weight else _ATTENTION


def _reason_against_window(window: Window) -> str:
    if len(window.kernel) > 2:
        return f"it is a convolution over {len(window.kernel)} axes"
    if window.transposed:
        return "it is a transposed convolution"
    spread = zip(window.kernel, window.dilation, strict=True)
    if any(side > 1 and step > 1 for side, step in spread):
        return "it is a dilated convolution"
    return ""


def _operands(operator: Operator) -> tuple[TensorUse, TensorUse]:
    first = FACTORS[operator.name]
    return operator.inputs[first], operator.inputs[first + 1]


@dataclass(frozen=True, slots=True)
class _Shape:
    """Sizes of a line, and which of the operator's inputs is the ifmap and which the filters."""

    sides: tuple[int, int]
    channels: int
    count: int
    kernel: tuple[int, int]
    kernel_channels: int
    filters: int
    results: tuple[int, int]
    ifmap: int
    filter: int
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)


def _shapes(operator: Operator, batch: int) -> list[_Shape]:
    if operator.window is not None:
        return _convolution(operator, operator.window)
    return _product(operator, batch)


def _convolution(operator: Operator, window: Window) -> list[_Shape]:
    """One line, or one for each group; a depthwise layer is one line."""
    count, channels, *sides = operator.inputs[0].shape
    filters = operator.inputs[1].shape[0]
    results = operator.outputs[0].shape[2:]
    depthwise = window.groups == channels
    parts = 1 if depthwise else window.groups
    shape = _Shape(
        _two(sides, 1),
        channels // parts,
        count,
        _two(window.kernel, 1),
        channels // window.groups,
        filters // parts,
        _two(results, 1),
        0,
        1,
        _two(window.stride, 1),
        _two(window.padding, 0),
    )
    return [shape] * parts


def _two(sides: Sequence[int], missing: int) -> tuple[int, int]:
    """Height and width, where a one-dimensional convolution has the width alone."""
    return (sides[0], sides[1]) if len(sides) == 2 else (missing, sides[0])


def _product(operator: Operator, batch: int) -> list[_Shape]:
    """A line for each matrix of weights: rows of the sample's side become maps, or their height."""
    first = FACTORS[operator.name]
    left, right = _operands(operator)
    if len(right.shape) == 1:  # a matrix times a vector
        parts, rows, inner, columns = 1, *left.shape, 1
    else:
        parts = left.shape[0] if len(left.shape) == 3 else 1
        rows, inner = left.shape[-2:]
        columns = right.shape[-1]
    maps, filters = (rows, columns) if right.weight else (columns, rows)
    count = batch if maps % batch == 0 else 1
    ifmap, filter_ = (first, first + 1) if right.weight else (first + 1, first)
    sides = maps // count, 1
    return [_Shape(sides, inner, count, (1, 1), inner, filters, sides, ifmap, filter_)] * parts


@dataclass(frozen=True, slots=True)
class _Sizes:
    """What is known of the tensors of one operator."""

    operators: OperatorTable
    zeros: Zeros
    key: OperatorKey
    bits: int

    def line(self, index: int, operator: Operator, shape: _Shape) -> DescribedLayer:
        """One line of the operator, of that shape."""
        values = self.zeros.values.get(self.key, ())

        def value(at: int) -> float:
            return values[at] if at < len(values) else 0.0

        weight = operator.inputs[shape.filter]
        named = self.zeros.weights.get(self.operators.name_of(weight))
        output = operator.outputs[0]
        (top, left), ofmap_bits = shape.padding, self.operators.stored_bits(output)
        return DescribedLayer(
            index,
            self._entries(
                (*shape.sides, shape.channels, shape.count),
                value(shape.ifmap),
                operator.inputs[shape.ifmap].bits,
            ),
            self._entries(
                (*shape.kernel, shape.kernel_channels, shape.filters),
                value(shape.filter) if named is None else named,
                weight.bits,
            ),
            self._entries(
                (*shape.results, shape.filters, shape.count),
                value(len(operator.inputs)),
                ofmap_bits,
            ),
            shape.stride,
            (top, top, left, left),
        )

    def _entries(self, sizes: tuple[int, int, int, int], share: float, bits: int) -> Entries:
        plain = Entries(*sizes, 0, self.bits or bits)
        return Entries(*sizes, round(share * plain.entries), plain.bits)


# -- its energy


def save_description(
    path: Path, description: Description, estimate: EnergyEstimate
) -> DescriptionReport:
    """Write a description, and its energy into a file of that name that ends in ``.energy.csv``.

    Raises:
        ExportFailed: the system refused, or the description has no layer.
    """
    if not description.layers:
        first = description.left_out[0] if description.left_out else None
        cause = f", such as {first.operator}: {first.reason}" if first else ""
        raise ExportFailed(
            f"Nothing in the model has a line in a network description{cause}.",
            "Describe a model of convolutions or linear layers.",
        )
    beside = path.with_name(f"{path.name.removesuffix(SUFFIX)}.energy.csv")
    write_atomically(path, write_description(description.layers).encode())
    write_atomically(beside, result_columns(estimate, description).encode())
    macs = sum(layer.macs for layer in description.layers)
    return DescriptionReport((str(path), str(beside)), macs, description.left_out)


def result_columns(estimate: EnergyEstimate, description: Description) -> str:
    """Energy of one inference as comma-separated values, in units of one MAC of full words.

    One row for each line; a layer of several lines shares its energy out by their MACs, and holds
    that of all that ran in it. Then a row for the layers without a line, and one for the total.
    The first line says what the figures hold under, the last ones which operators have no line.
    """
    series = estimate.series.regrouped(GROUPINGS["data type"])
    unit = estimate.settings.hardware.joules_per_mac
    macs: dict[LayerId, int] = {}
    for layer, line in zip(description.of, description.layers, strict=True):
        macs[layer] = macs.get(layer, 0) + line.macs
    energies = {
        layer: [parts[group].value / unit if group in parts else 0.0 for group in _COLUMNS]
        for layer, parts in series.layers.items()
    }
    text = io.StringIO()
    said = "; ".join(f"{name}: {value}" for name, value in series.conditions.items())
    text.write(f"# energy of one inference in units of one MAC; {said}\n")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("layer", "name", *_COLUMNS.values(), "total"))
    for layer, line in zip(description.of, description.layers, strict=True):
        share = line.macs / macs[layer]
        own = [value * share for value in energies.get(layer, [0.0] * len(_COLUMNS))]
        rows.writerow((line.index, layer, *_row(own)))
    rest = [values for layer, values in energies.items() if layer not in macs]
    rows.writerow(("", "layers without a line", *_row(_added(rest))))
    rows.writerow(("", "total", *_row(_added(list(energies.values())))))
    for one in description.left_out:
        where = " ".join(one.layer.split()) or "the model at its top level"
        text.write(f"# without a line: {one.operator} in {where}: {one.reason}\n")
    return text.getvalue()


_COLUMNS = {COMPUTE: "computation", "input": "ifmap", "weights": "weights", "output": "ofmap"}


def _added(rows: list[list[float]]) -> list[float]:
    return [sum(column) for column in zip(*rows, strict=True)] or [0.0] * len(_COLUMNS)


def _row(values: list[float]) -> list[str]:
    return [f"{value:.9g}" for value in (*values, sum(values))]
