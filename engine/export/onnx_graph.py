"""The ONNX graph of a program, in the forms that runtimes turn into integer kernels."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes import common as passes
from torch.export import ExportedProgram

from engine.export.onnx_operators import OPSET, TRANSLATIONS

_Array: TypeAlias = np.ndarray[Any, Any]

_LAYOUT = ("Cast", "Reshape", "Transpose")
"""What may stand between stored integers and the operator that dequantizes them."""

_MOST = 2**31 - 1


def onnx_of(program: ExportedProgram) -> ir.Model:
    """The program in ONNX's operators; quantized layers as QuantizeLinear and DequantizeLinear.

    Integers of weights are initialisers under the names that they have in the model.

    Raises:
        Exception: whatever torch's exporter raises on what it cannot express.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        made = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=OPSET,
            custom_translation_table=TRANSLATIONS,
            optimize=False,
            verbose=False,
        )
    assert made is not None
    _store_integers(made.model)  # ahead of the optimizer, which loses their names
    made.optimize()
    model: ir.Model = made.model
    _transpose_integers(model)
    _round_biases(model)
    passes.CommonSubexpressionEliminationPass()(model)
    _shift_to_unsigned(model)
    passes.RemoveUnusedNodesPass()(model)
    passes.ClearMetadataAndDocStringPass()(model)  # lines of code, with this machine's folders
    _name_outputs(model)
    return model


def _store_integers(model: ir.Model) -> None:
    """Keep weights as the integers that are dequantized: casts and views of them applied."""
    names: dict[str, ir.Value] = {}
    for node in list(_nodes(model, "DequantizeLinear")):
        for at, value in enumerate(node.inputs):
            if value is None or (array := _laid_out_weight(value)) is None:
                continue
            source = _source(value)
            stored = names.get(f"{source.name} {array.dtype} {array.shape}")
            if stored is None:
                stored = _added(model, f"{source.name}.stored", array)
                names[f"{source.name} {array.dtype} {array.shape}"] = stored
            node.replace_input_with(at, stored)
    passes.RemoveUnusedNodesPass()(model)
    taken = set(model.graph.initializers)
    for stored in names.values():
        plain = str(stored.name).partition(".stored")[0]
        if plain not in taken:
            taken.add(plain)
            stored.name = plain


def _laid_out_weight(value: ir.Value) -> _Array | None:
    """What is stored, if operators of layout stand before it."""
    node = value.producer()
    return None if node is None or node.op_type not in _LAYOUT else _constant_of(value)


def _source(value: ir.Value) -> ir.Value:
    """The initialiser or constant at the far end."""
    node = value.producer()
    if node is None or not node.inputs or node.inputs[0] is None:
        return value
    return _source(node.inputs[0])


def _constant_of(value: ir.Value | None) -> _Array | None:
    """What the value always is: an initialiser behind operators of layout alone; else None."""
    node = None if value is None else value.producer()
    if value is None or node is None or node.op_type == "Constant":
        held = None if value is None else ir.convenience.get_const_tensor(value)
        return None if held is None else held.numpy()
    if node.op_type not in (*_LAYOUT, "Concat"):
        return None
    given = [_constant_of(one) for one in node.inputs]
    known = [one for one in given if one is not None]
    return _laid_out(node, known) if len(known) == len(given) else None


def _laid_out(node: ir.Node, given: list[_Array]) -> _Array:
    if node.op_type == "Cast":
        return given[0].astype(ir.DataType(node.attributes["to"].as_int()).numpy())
    if node.op_type == "Transpose":
        return given[0].transpose(node.attributes["perm"].as_ints())
    if node.op_type == "Concat":
        return np.concatenate(given, node.attributes["axis"].as_int())
    return given[0].reshape(given[1].tolist())


def _transpose_integers(model: ir.Model) -> None:
    """Keep matrices that are read transposed that way, as runtimes look for them."""
    for node in list(_nodes(model, "Transpose")):
        found = None if node.inputs[0] is None else node.inputs[0].producer()
        if found is None or found.op_type != "DequantizeLinear":
            continue
        tensors = [None if one is None else _constant_of(one) for one in found.inputs]
        if tensors[0] is None or tensors[0].ndim != 2:
            continue
        _replace_by_transposed(model, node, found)


def _replace_by_transposed(model: ir.Model, node: ir.Node, found: ir.Node) -> None:
    given = []
    for one in found.inputs:
        assert one is not None
        array = _constant_of(one)
        assert array is not None
        given.append(_added(model, f"{one.name}.transposed", array.T) if array.ndim == 2 else one)
    axis = found.attributes.get_int("axis", 1)
    block = found.attributes.get_int("block_size", 0)
    made = ir.node(
        "DequantizeLinear", given, {"axis": 1 - axis, **({"block_size": block} if block else {})}
    )
    old, new = node.outputs[0], made.outputs[0]
    new.name, new.shape, new.type = old.name, old.shape, old.type
    model.graph.insert_before(node, made)
    old.replace_all_uses_with(new)
    model.graph.remove(node, safe=True)


def _round_biases(model: ir.Model) -> None:
    """Keep biases of products of 8-bit matrices as 32-bit integers of the sums' own scale.

    ONNX Runtime rounds a convolution's by itself, and a product's where its output is rounded too.
    """
    for node in list(_nodes(model, "Gemm")):
        if len(node.inputs) == 3 and (integers := _bias_integers(node)) is not None:
            _replace_bias(model, node, *integers)


def _bias_integers(node: ir.Node) -> tuple[_Array, _Array] | None:
    """Integers and scale; None where the product is not one of 8-bit integers."""
    grids = [_grid_of_8_bits(one) for one in node.inputs[:2]]
    bias = None if node.inputs[2] is None else _constant_of(node.inputs[2])
    if bias is None or grids[0] is None or grids[1] is None or grids[0].ndim > 0:
        return None
    scale = (grids[0] * grids[1]).astype(np.float32)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        steps = np.round(bias.astype(np.float64) / scale)
    if not (np.abs(steps) <= _MOST).all():
        return None
    return steps.astype(np.int32), scale


def _grid_of_8_bits(value: ir.Value | None) -> _Array | None:
    """The scale of dequantized 8-bit integers, () or (channels,); None of anything else."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "DequantizeLinear" or len(node.inputs) < 3:
        return None
    scale, zero = (None if one is None else _constant_of(one) for one in node.inputs[1:3])
    if scale is None or zero is None or zero.dtype != np.int8 or scale.ndim > 1:
        return None
    return scale


def _replace_bias(model: ir.Model, node: ir.Node, steps: _Array, scale: _Array) -> None:
    old = node.inputs[2]
    assert old is not None
    name = str(old.name)
    given = [
        _added(model, f"{name}.integers", steps),
        _added(model, f"{name}_scale", scale),
        _added(model, f"{name}_zero_point", np.zeros(scale.shape, np.int32)),
    ]
    made = ir.node("DequantizeLinear", given, {"axis": 0})
    made.outputs[0].name = f"{name}.values"
    made.outputs[0].shape, made.outputs[0].type = old.shape, old.type
    model.graph.insert_before(node, made)
    node.replace_input_with(2, made.outputs[0])


def _shift_to_unsigned(model: ir.Model) -> None:
    """Keep activations of 8 bits as unsigned integers, which stand for the same numbers.

    ONNX Runtime's kernels on x86 take those; by itself it shifts only what is read once, and
    leaves a convolution between the two kinds in float.
    """
    shifted: dict[int, ir.Value] = {}
    for node in list(_nodes(model, "QuantizeLinear")):
        readers = node.outputs[0].consumers()
        pairs = [node, *readers]
        if any(one.op_type != "DequantizeLinear" for one in readers):
            continue
        zeros = {_zero_of_8_bits(one) for one in pairs}
        zero = zeros.pop()
        if zeros or zero is None:
            continue
        if zero not in shifted:
            array = np.array(zero + 128, np.uint8)
            shifted[zero] = _added(model, f"zero_point_{zero + 128}", array)
        for one in pairs:
            one.replace_input_with(2, shifted[zero])
        node.outputs[0].type = ir.TensorType(ir.DataType.UINT8)


def _zero_of_8_bits(node: ir.Node) -> int | None:
    """The zero point of one grid of signed 8-bit integers; None of any other."""
    zero = _constant_of(node.inputs[2]) if len(node.inputs) == 3 else None
    return None if zero is None or zero.dtype != np.int8 or zero.size != 1 else int(zero.item())


def _name_outputs(model: ir.Model) -> None:
    """Call them ``output``, or ``output_0`` and so on: their names were those of operators."""
    inputs = {one.name for one in model.graph.inputs}
    outputs = model.graph.outputs
    for at, value in enumerate(outputs):
        name = "output" if len(outputs) == 1 else f"output_{at}"
        if name not in inputs and value.producer() is not None:
            value.name = name


def _nodes(model: ir.Model, kind: str) -> Iterator[ir.Node]:
    return (node for node in model.graph.all_nodes() if node.op_type == kind)


def _added(model: ir.Model, name: str, array: _Array) -> ir.Value:
    """A new initialiser."""
    tensor = ir.Tensor(np.array(array, order="C"), name=name)
    value = ir.Value(
        name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    while name in model.graph.initializers:
        name = f"{name}_"
    value.name = name
    model.graph.register_initializer(value)
    return value
