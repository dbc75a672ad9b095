"""Recurrent layers: torch's own, with their tensors in torch's order."""

from typing import Any

import torch
from onnx2torch.utils.common import OperationConverterResult
from torch import Tensor, nn

from engine.sources.onnx_files.converters.call import Call, Unconvertible, converts
from engine.sources.onnx_files.converters.layers import parameter

_KINDS: dict[str, type[Any]] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
# Where in ONNX's order of gates each of torch's stands: iofc to ifgo, zrh to rzn.
_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
_USUAL = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
_STATES, _LENGTHS, _PEEPHOLES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}, 4, 7


class Recurrent(nn.Module):
    """Torch's layer, with ONNX's layout around it.

    Inputs of (steps, batch, features), results of (steps, directions, batch, features); with the
    batch first, inputs of (batch, steps, …), results of (batch, steps, directions, …).
    """

    def __init__(self, layer: Any, backwards: bool, batch_first: bool) -> None:
        super().__init__()
        self.layer = layer
        self.backwards, self.batch_first = backwards, batch_first

    def forward(self, x: Tensor, *initial: Tensor) -> tuple[Tensor, ...]:
        """All results, the last one, and the last cell's state where there is one."""
        if self.batch_first:
            x, initial = x.transpose(0, 1), tuple(one.transpose(0, 1) for one in initial)
        steps = x.flip(0) if self.backwards else x
        given: Any = None
        if initial:
            given = initial if isinstance(self.layer, nn.LSTM) else initial[0]
        results, last = self.layer(steps, given)
        directions = 2 if self.layer.bidirectional else 1
        parts = results.reshape(*results.shape[:2], directions, -1).transpose(1, 2)
        parts = parts.flip(0) if self.backwards else parts
        states = last if isinstance(last, tuple) else (last,)
        if self.batch_first:
            return parts.permute(2, 0, 1, 3), *(one.transpose(0, 1) for one in states)
        return (parts, *states)


@converts("LSTM", "GRU", "RNN")
def _recurrent(call: Call) -> OperationConverterResult:
    _refuse_unusual(call)
    weights = (call.constant(1, "weights"), call.constant(2, "weights"))
    bias = call.constant(3, "biases") if call.has(3) else None
    directions, width = weights[0].shape[0], call.attribute("hidden_size")
    with torch.device("meta"):
        layer = _KINDS[call.kind](
            weights[0].shape[2], width, bias=bias is not None, bidirectional=directions == 2
        )
    for direction in range(directions):
        suffix = f"_l0{'_reverse' if direction else ''}"
        named = {"weight_ih": weights[0][direction], "weight_hh": weights[1][direction]}
        if bias is not None:
            named["bias_ih"], named["bias_hh"] = bias[direction].chunk(2)
        for name, tensor in named.items():
            setattr(layer, name + suffix, parameter(_in_torch_order(call.kind, tensor)))
    states = _STATES[call.kind]
    initial = [one for one in states if call.has(one)]
    if initial and len(initial) != len(states):
        raise Unconvertible("with only one of its initial states")
    backwards = call.attribute("direction") == "reverse"
    batch_first = bool(call.attribute("layout", 0))
    return call.over(Recurrent(layer, backwards, batch_first), 0, *initial)


def _refuse_unusual(call: Call) -> None:
    direction, kind = call.attribute("direction", "forward"), call.kind
    usual = _USUAL[kind] * (2 if direction == "bidirectional" else 1)
    lengths = call.known(_LENGTHS)
    steps = call.shape()[1 if call.attribute("layout", 0) else 0]
    unusual = {
        "with other activations": call.attribute("activations", usual) != usual,
        "that clips": call.attribute("clip") is not None,
        "with input and forget gate in one": call.attribute("input_forget", 0),
        "with peepholes": call.has(_PEEPHOLES) and kind == "LSTM",
        "that resets before the product": kind == "GRU"
        and not call.attribute("linear_before_reset", 0),
        "over sequences of different lengths": call.has(_LENGTHS)
        and (lengths is None or bool((lengths != steps).any())),
    }
    for what, is_so in unusual.items():
        if is_so:
            raise Unconvertible(what)


def _in_torch_order(kind: str, tensor: Tensor) -> Tensor:
    gates = tensor.chunk(len(_GATES[kind]))
    return torch.cat([gates[at] for at in _GATES[kind]])
