"""The lowest of many scores, exactly as many as asked for, in little memory beside them.

Equal scores go in their order, so that the same scores give the same choice everywhere.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

GOES_FIRST = -1.0
"""A score below all others, for what is gone already."""

_CHUNK = 1 << 20  # elements at a time: some MB beside the scores
_DIGIT = 16  # bits that one pass tells apart

Scores = Callable[[], Tensor]
"""Makes the scores of one tensor: float32 or float64, 0 or more, or :data:`GOES_FIRST`."""


def lowest(
    scores: Sequence[Scores], count: int, dtype: torch.dtype = torch.float32
) -> Iterator[Tensor]:
    """Yield, for each tensor in turn, which of its scores are among the lowest of all together.

    A radix selection on the bits of the scores: each tensor is asked for once a pass and dropped,
    so that a selection of many layers takes the memory of one.

    Args:
        count: how many are chosen.
        dtype: of all scores.
    """
    key, ties = _last(scores, count, dtype.itemsize * 8) if count > 0 else (0, 0)
    for make in scores:
        one = make()
        chosen = np.zeros(one.numel(), bool)
        for start, keys in _keys(one):
            part = chosen[start : start + len(keys)]
            np.less(keys, key, out=part)
            equal = np.flatnonzero(keys == key)[:ties]
            part[equal] = True
            ties -= len(equal)
        yield torch.from_numpy(chosen).reshape(one.shape)


def lowest_in_rows(scores: Tensor, counts: Tensor) -> Tensor:
    """Which scores are among the lowest of their row.

    Args:
        scores: (rows, columns).
        counts: (rows,) how many of each row are chosen.
    """
    chosen = torch.empty(scores.shape, dtype=torch.bool)
    rows = max(1, _CHUNK // max(1, scores.shape[1]))
    for part, wanted, out in zip(
        scores.split(rows), counts.split(rows), chosen.split(rows), strict=True
    ):
        order = part.argsort(dim=1, stable=True)
        out.scatter_(1, order, torch.arange(part.shape[1]) < wanted[:, None])
    return chosen


def _last(scores: Sequence[Scores], count: int, bits: int) -> tuple[int, int]:
    """The key of the last that is chosen, and how many of exactly that key are."""
    prefix, left = 0, count
    for shift in range(bits - _DIGIT, -1, -_DIGIT):
        histogram = np.zeros(1 << _DIGIT, np.int64)
        for make in scores:
            for _, keys in _keys(make()):
                known = keys if shift == bits - _DIGIT else keys[keys >> shift + _DIGIT == prefix]
                digits = (known >> shift) & ((1 << _DIGIT) - 1)
                histogram += np.bincount(digits, minlength=1 << _DIGIT)
        below = np.cumsum(histogram)
        digit = int(np.searchsorted(below, left))
        left -= int(below[digit - 1]) if digit else 0
        prefix = prefix << _DIGIT | digit
    return prefix, left


def _keys(scores: Tensor) -> Iterator[tuple[int, NDArray[np.signedinteger]]]:
    """Integers that rank as the scores do, a chunk at a time, with where it starts.

    Bits of floats that are not negative rank as integers; what is no number ranks last.
    """
    flat = scores.contiguous().flatten().numpy()
    bits = flat.view(np.int32 if flat.itemsize == 4 else np.int64)
    for start in range(0, len(bits), _CHUNK):
        yield start, np.maximum(bits[start : start + _CHUNK], -1) + 1
