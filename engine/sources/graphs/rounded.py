"""Graphs that round what a layer reads, as our layers of integers and of 16 bits are exported.

    input ── (quantize, dequantize | to 16 bits, to 32) ──┐
    stored weight ──────────── (dequantize | to 32) ──────┴── product ── (to 16 bits, to 32)

Such a graph is one of our layers again if it does all of that and nothing else.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from engine.edits import InputGrid
from engine.half_layers import HALF, half_from
from engine.integer_layers import (
    QUANTIZED,
    WeightFormat,
    integer_range,
    integer_type,
    quantized_from,
    round_input,
)
from engine.sources.graphs.leaves import layer_for
from engine.sources.graphs.nodes import arguments_of, operator_name

_CAST = torch.ops.quantized_decomposed.convert_element_type.no_fuse
_DEQUANTIZE = "dequantize_per_tensor", "dequantize_per_channel", "dequantize_per_channel_group"


def rounded_layer(module: nn.Module, calls: list[fx.Node], place: fx.Node) -> nn.Module | None:
    """The layer of integer or 16-bit weights that a module's graph is; None if it is none.

    Args:
        calls: its operators, in order; the last gives the result.
        place: its one input.
    """
    needed = [one for one in calls if one.users]
    if any(one.target is _CAST for one in needed):
        return _half(module, needed, place)
    return _quantized(module, needed, place)


# Integers


@dataclass(frozen=True)
class _Integers:
    """A weight of integers, by the operator that makes floats of it.

    Attributes:
        nodes: what does so; the last gives the floats.
    """

    stored: Tensor
    scale: Tensor
    zero_point: Tensor
    form: WeightFormat
    nodes: tuple[fx.Node, ...]


def _quantized(module: nn.Module, calls: list[fx.Node], place: fx.Node) -> nn.Module | None:
    weight = next((found for one in calls if (found := _integers(one, module))), None)
    product: Any = calls[-1]
    if weight is None or weight.nodes[-1] not in product.all_input_nodes:
        return None
    rounding = [one for one in calls[:-1] if one not in weight.nodes]
    x = rounding[-1] if rounding else place
    grid = _grid(rounding, place)
    floats = nn.Parameter(weight.stored.float(), requires_grad=False)
    arguments = arguments_of(product, module, x, {weight.nodes[-1]: floats})
    plain = layer_for(operator_name(product), arguments)
    if plain is None or grid == "unknown" or type(plain) not in QUANTIZED:
        return None
    bias = arguments["bias"]
    return quantized_from(
        plain, weight.stored, None if bias is None else bias.detach(),
        weight.scale, weight.zero_point, weight.form, grid,
    ).eval()  # fmt: skip


def _integers(node: fx.Node, module: nn.Module) -> _Integers | None:
    """The weight that the node makes floats of; None if it does something else."""
    if operator_name(node) not in _DEQUANTIZE or not node.args:
        return None
    flat = [one for one in node.all_input_nodes if operator_name(one) == "flatten"]
    own = {one: found for one in flat if isinstance(found := _flattened(one, module), Tensor)}
    given = arguments_of(node, module, known=own)
    stored = given["input"]
    if not isinstance(stored, Tensor):
        return None
    grouped = len(flat) == 3 or operator_name(node) == "dequantize_per_channel_group"
    scale, zero_point = _scales(given)
    size = given.get("group_size", 1) if grouped else 0
    form = _format(given["quant_min"], given["quant_max"], size)
    if form is None or scale is None or stored.dtype != form.dtype or given.get("axis", 0) != 0:
        return None
    if form.symmetric and bool(zero_point.any()):
        return None
    after = next(iter(node.users)) if grouped else None
    nodes = tuple(one for one in (*flat, node, after) if isinstance(one, fx.Node))
    return _Integers(stored, scale, zero_point, form, nodes)


def _flattened(node: Any, module: nn.Module) -> Any:
    """The tensor of the module that the node flattens; anything else if it does not."""
    return arguments_of(node, module).get("self")


def _scales(given: Any) -> tuple[Tensor | None, Tensor]:
    """Scales and zero points in the shapes that our layers have them in."""
    scale, zero_point = (given.get(name, given.get(f"{name}s")) for name in ("scale", "zero_point"))
    if isinstance(scale, float):
        scale = torch.tensor(scale)
    if not isinstance(scale, Tensor):
        return None, torch.zeros(())
    if zero_point is None:
        zero_point = torch.zeros_like(scale, dtype=torch.int64)
    return scale, torch.as_tensor(zero_point).to(torch.int64)


def _format(low: int, high: int, group_size: int) -> WeightFormat | None:
    form = WeightFormat((high + 1).bit_length(), low == -high, group_size)
    return form if (low, high) == form.range and 2 <= form.bits <= 16 else None


# The input's grid


def _grid(rounding: list[fx.Node], place: fx.Node) -> InputGrid | Literal["unknown"] | None:
    """The grid by which these operators round the input; None if there are none."""
    if not rounding:
        return None
    told = next((one for one in rounding if operator_name(one).startswith("quantize_per_")), None)
    if told is None or len(told.args) != 6:
        return "unknown"
    _, scale, zero_point, low, high, _ = told.args
    bits: Any = (high + 1).bit_length() if isinstance(high, int) else 0
    if bits not in (8, 16) or (low, high) != integer_range(bits):
        return "unknown"
    if isinstance(scale, float) and isinstance(zero_point, int):
        grids = [InputGrid(bits, scale, zero_point)]
    else:
        grids = [InputGrid(bits, symmetric=symmetric) for symmetric in (False, True)]
    dims = place.meta["val"].dim() if isinstance(place.meta.get("val"), Tensor) else 0
    found = _steps(rounding, place)
    return next((one for one in grids if dims and _steps_of(one, dims) == found), "unknown")


class _Rounds(nn.Module):
    def __init__(self, grid: InputGrid) -> None:
        super().__init__()
        self.grid = grid  # a constant of the exported program

    def forward(self, x: Tensor) -> Tensor:
        grid: Any = self.grid
        return round_input(x, grid)


@cache
def _dynamic_steps(grid: InputGrid, dims: int) -> list[Any]:
    """What a program of such a rounding does, as torch exports it."""
    graph = torch.export.export(_Rounds(grid), (torch.zeros((2,) * dims),)).graph
    place = next(one for one in graph.nodes if one.op == "placeholder")
    calls = [one for one in graph.nodes if one.op == "call_function" and one.users]
    return _steps(calls, place)


def _steps_of(grid: InputGrid, dims: int) -> list[Any]:
    if grid.scale is None:
        return _dynamic_steps(grid, dims)
    told = (grid.scale, grid.zero_point, *integer_range(grid.bits), integer_type(grid.bits))
    return [("quantize_per_tensor", (-1, *told)), ("dequantize_per_tensor", (0, *told))]


def _steps(calls: list[fx.Node], place: fx.Node) -> list[Any]:
    """Operators and what they are given: numbers, and which of the steps; -1 for the input."""
    numbers = {place: -1} | {one: at for at, one in enumerate(calls)}

    def told(value: Any) -> Any:
        if isinstance(value, fx.Node):
            return numbers.get(value, value)
        return tuple(map(told, value)) if isinstance(value, list | tuple) else value

    return [(operator_name(one), told(one.args)) for one in calls]


# 16 bits


def _half(module: nn.Module, calls: list[fx.Node], place: fx.Node) -> nn.Module | None:
    products = [one for one in calls if one.target is not _CAST]
    if len(products) != 1:
        return None
    product, is_table = products[0], operator_name(products[0]) == "embedding"
    own = {one: tensor for one in calls if (tensor := _stored(one, module)) is not None}
    if is_table and isinstance(product.args[0], fx.Node):
        own = {product.args[0]: getattr(module, str(product.args[0].target), torch.empty(0))}
    halves = {one.dtype for one in own.values()}
    dtype = next(iter(halves), torch.float32)
    if len(halves) != 1 or dtype not in (torch.float16, torch.bfloat16):
        return None
    read, expected = (place, 2) if is_table else (_cast(place, calls, dtype, torch.float32), 5)
    types = (torch.float32,) if is_table else (dtype, torch.float32)
    if _cast(product, calls, *types) is not calls[-1] or read is None:
        return None
    if len(calls) != expected + (0 if is_table else len(own)):
        return None
    wide = {one: nn.Parameter(tensor.float(), requires_grad=False) for one, tensor in own.items()}
    plain = layer_for(operator_name(product), arguments_of(product, module, read, wide))
    return half_from(plain, dtype).eval() if type(plain) in HALF and plain is not None else None


def _stored(node: fx.Node, module: nn.Module) -> Tensor | None:
    """The tensor of the module that the node makes float32; None if it does something else."""
    if node.target is not _CAST or node.args[1:] != (torch.float32,):
        return None
    source: Any = node.args[0]
    found = getattr(module, str(source.target), None) if source.op == "get_attr" else None
    return found.detach() if isinstance(found, Tensor) else None


def _cast(node: fx.Node | None, calls: list[fx.Node], *types: torch.dtype) -> fx.Node | None:
    """What comes of casts to these types in turn, each the only use of the one before."""
    for dtype in types:
        users = [one for one in calls if node is not None and node in one.all_input_nodes]
        node = users[0] if len(users) == 1 else None
        if node is None or node.target is not _CAST or node.args[1:] != (dtype,):
            return None
    return node
