"""Integers of few bits as files hold them: packed where their bits are no machine type.

Little-endian: the n-th number, row-major, has ``bits`` bits from bit ``n * bits`` on, in two's
complement, as ONNX packs its four-bit integers. Numbers of 8 and 16 bits stay tensors of int8 and
int16.
"""

from math import ceil, prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.integer_layers import IntegerWeights, integer_type

_AT_ONCE = 1 << 20  # numbers; a multiple of 8, so that whole bytes come of it


def bits_of_integers(model: nn.Module) -> dict[str, int]:
    """Bits of each tensor of integers in layers of integer weights, by every name it has."""
    return {
        f"{layer}.{name}": module.weight_format.bits
        for layer, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, IntegerWeights)
        for name in ("weight", *(() if module.weight_format.symmetric else ("weight_zero_point",)))
    }


def stored_form(shape: tuple[int, ...], bits: int) -> Tensor:
    """Type and shape in a file of so many integers, as a tensor without data."""
    if bits in (8, 16):
        return torch.empty(shape, dtype=integer_type(bits), device="meta")
    return torch.empty(ceil(prod(shape) * bits / 8), dtype=torch.uint8, device="meta")


def packed(integers: Tensor, bits: int) -> Tensor:
    """What a file holds of them.

    Args:
        integers: of any integer type and shape, -2**(bits-1) to 2**(bits-1) - 1; ``bits`` 2 to 16.
    """
    kept = integers.detach().to(integer_type(bits))
    if bits in (8, 16):
        return kept.contiguous()
    numbers = kept.flatten().to(torch.int16).numpy()
    parts = [_bytes(numbers[at : at + _AT_ONCE], bits) for at in range(0, len(numbers), _AT_ONCE)]
    return torch.from_numpy(np.concatenate([np.empty(0, np.uint8), *parts]))


def unpacked(stored: Tensor, bits: int, shape: tuple[int, ...]) -> Tensor:
    """The integers again, int8 or int16.

    Args:
        stored: of the type and shape that :func:`stored_form` says.
    """
    if bits in (8, 16):
        return stored
    content, count = stored.numpy(), prod(shape)
    numbers = np.empty(count, np.int8 if bits < 8 else np.int16)
    for at in range(0, count, _AT_ONCE):
        part = content[at * bits // 8 : ceil((at + _AT_ONCE) * bits / 8)]
        numbers[at : at + _AT_ONCE] = _numbers(part, bits, min(_AT_ONCE, count - at))
    return torch.from_numpy(numbers).reshape(shape)


def _bytes(numbers: NDArray[np.int16], bits: int) -> NDArray[np.uint8]:
    halves = numbers.astype("<i2").view(np.uint8).reshape(-1, 2)
    each = np.unpackbits(halves, axis=1, bitorder="little")[:, :bits]
    return np.packbits(each.flatten(), bitorder="little")


def _numbers(content: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.int16]:
    each = np.unpackbits(content, bitorder="little", count=count * bits).reshape(count, bits)
    signs = np.repeat(each[:, -1:], 16 - bits, axis=1)
    halves = np.packbits(np.concatenate([each, signs], axis=1), axis=1, bitorder="little")
    return halves.view("<i2").flatten().astype(np.int16)
