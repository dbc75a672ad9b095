"""Parts that two variants of a model have in common are computed for the first one alone."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from torch import Tensor, nn

from engine.layers import LayerId

_BUDGET = 256 << 20  # bytes of values kept


class Unchanged:
    """What unchanged parts put out before the first changed layer ran.

    The second variant takes a part's result only where the part reads the very same values, bit by
    bit, and computes it otherwise: its outputs are those of a whole run.

    Args:
        changed: the layers in which the variants differ.
    """

    def __init__(self, changed: Iterable[LayerId]) -> None:
        self._changed = frozenset(changed)
        self._known: dict[str, tuple[Tensor, Tensor]] = {}
        self._left = _BUDGET

    def keep_of(self, model: nn.Module) -> None:
        """Let the first variant, a copy of the caller's own, keep what its parts put out."""
        changed = {model.get_submodule(layer) for layer in self._changed}
        for module in changed:
            _wrap(module, self._stopping)
        for name, module in _wholes(model, changed):
            _wrap(module, partial(self._keeping, name))

    def reuse_in(self, model: nn.Module) -> None:
        """Let the second variant, a copy likewise, take what the first one has kept."""
        for name, known in self._known.items():
            _wrap(model.get_submodule(name), partial(_reusing, known))

    def _stopping(self, forward: "_Forward") -> "_Forward":
        def stopping(*inputs: Any, **named: Any) -> Any:
            self._left = 0  # what follows reads other values
            return forward(*inputs, **named)

        return stopping

    def _keeping(self, name: str, forward: "_Forward") -> "_Forward":
        def keeping(*inputs: Any, **named: Any) -> Any:
            if not _is_plain(inputs, named) or inputs[0].nbytes > self._left:
                return forward(*inputs, **named)
            read = inputs[0].clone()  # what follows may write into either
            result = forward(*inputs)
            if isinstance(result, Tensor) and read.nbytes + result.nbytes <= self._left:
                self._left -= read.nbytes + result.nbytes
                self._known[name] = read, result.clone()
            return result

        return keeping


_Forward = Callable[..., Any]


def _reusing(known: tuple[Tensor, Tensor], forward: _Forward) -> _Forward:
    def reusing(*inputs: Any, **named: Any) -> Any:
        read, result = known
        if _is_plain(inputs, named) and inputs[0].dtype == read.dtype and inputs[0].equal(read):
            return result.clone()
        return forward(*inputs, **named)

    return reusing


def _is_plain(inputs: tuple[Any, ...], named: dict[str, Any]) -> bool:
    return len(inputs) == 1 and not named and isinstance(inputs[0], Tensor)


def _wrap(module: nn.Module, around: Callable[[_Forward], _Forward]) -> None:
    # Not by hooks: they switch off torch's fused attention.
    module.forward = around(module.forward)


def _wholes(model: nn.Module, changed: set[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """The largest modules that are worth keeping and hold nothing changed, with their paths."""
    pending = [("", model)]
    while pending:
        path, module = pending.pop()
        if not changed.isdisjoint(module.modules()):
            prefix = f"{path}." if path else ""
            pending += [(prefix + name, child) for name, child in module.named_children()]
        elif any(one.dim() > 1 for one in (*module.parameters(), *module.buffers())):
            yield path, module
