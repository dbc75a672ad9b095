"""What ONNX Runtime made of a file: how many of its products it runs in integers."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

ACCURACY_LEVEL = "session.qdq_matmulnbits_accuracy_level"
"""Of ONNX Runtime's sessions: 1 keeps the input of what it fuses to MatMulNBits in float."""

_CONVOLUTIONS = {
    "QLinearConv", "ConvInteger", "QLinearConvTranspose",
    "Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose",
}  # fmt: skip
_MATRIX_PRODUCTS = {
    "QGemm", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
    "MatMulNBits", "QAttention",
    "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Einsum",
    "Attention", "MultiHeadAttention", "GroupQueryAttention",
}  # fmt: skip
_INTEGER = {
    "QLinearConv", "ConvInteger", "QLinearConvTranspose", "QGemm", "QLinearMatMul", "MatMulInteger",
    "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QAttention",
}  # fmt: skip
_PASSING = {"Transpose", "Reshape", "ReorderInput", "ReorderOutput", "Identity", "Squeeze"}

_FLOAT = "that are not quantized"
_INPUT = "whose input is not on a fixed grid of 8 bits"
_WEIGHT = "whose weights are not 8-bit integers by tensor or channel"
_OUTPUT = "whose output is not rounded before it is used"
_PACKED = (
    "whose weights stay packed, and whose input ONNX Runtime rounds to 8 bits unless its session "
    f"has {ACCURACY_LEVEL} = 1, as it had here"
)


@dataclass(frozen=True)
class Products:
    """Of one kind, convolutions or matrix products.

    Attributes:
        integer: how many run in integers.
        total: how many there are.
        reasons: why the others run in float, with how many.
    """

    integer: int
    total: int
    reasons: tuple[tuple[str, int], ...]


def counted(optimized: str) -> tuple[Products, Products]:
    """Convolutions and matrix products of the graph that ONNX Runtime runs.

    Args:
        optimized: path of what it wrote as ``optimized_model_filepath``.
    """
    import onnx

    graph = onnx.load(optimized, load_external_data=False).graph
    view = _Graph(graph)
    return view.products(_CONVOLUTIONS), view.products(_MATRIX_PRODUCTS)


def in_words(counts: tuple[Products, Products]) -> str:
    """Both in plain sentences."""
    names = ("convolutions", "matrix products")
    found = [(one, name) for one, name in zip(counts, names, strict=True) if one.total]
    if not found:
        return "It holds no convolution and no matrix product."
    parts = " and ".join(f"{one.integer} of {one.total} {name}" for one, name in found)
    reasons: Counter[str] = Counter()
    for one, _ in found:
        reasons.update(dict(one.reasons))
    told = f"ONNX Runtime runs {parts} in integers."
    if not reasons or set(reasons) == {_FLOAT}:
        return told
    others = "; ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    return f"{told} In float: {others}."


class _Graph:
    """Who makes and who reads each value."""

    def __init__(self, graph: "onnx.GraphProto") -> None:
        self.nodes = list(graph.node)
        self.makers = {name: node for node in self.nodes for name in node.output}
        self.types = {one.name: one.data_type for one in graph.initializer}

    def products(self, kinds: set[str]) -> Products:
        found = [node for node in self.nodes if node.op_type in kinds]
        others = [node for node in found if node.op_type not in _INTEGER]
        reasons = Counter(self._reason(node) for node in others)
        return Products(len(found) - len(others), len(found), tuple(reasons.most_common()))

    def _reason(self, node: "onnx.NodeProto") -> str:
        if node.op_type == "MatMulNBits":
            return _PACKED
        grids = [self._grid(name) for name in node.input[:2]]
        if grids == [None, None]:
            return _FLOAT
        if grids[0] is None or not self._is_of_8_bits(grids[0]):
            return _INPUT
        if grids[1] is None or not self._is_of_8_bits(grids[1]):
            return _WEIGHT
        return _OUTPUT

    def _grid(self, name: str) -> Any:
        """The operator that dequantizes the value; None where there is none."""
        for node in self._upstream(name):
            if node.op_type == "DequantizeLinear":
                return node
        return None

    def _upstream(self, name: str) -> "Iterator[onnx.NodeProto]":
        node = self.makers.get(name)
        while node is not None:
            yield node
            if node.op_type not in _PASSING:
                return
            node = self.makers.get(node.input[0])

    def _is_of_8_bits(self, node: "onnx.NodeProto") -> bool:
        block = any(one.name == "block_size" and one.i for one in node.attribute)
        return not block and self.types.get(node.input[-1]) in (2, 3)  # uint8, int8
