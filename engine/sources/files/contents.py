"""What a file of tensors holds, known before its numbers are read."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor

from engine.errors import ModelUnreadable
from engine.sources.files.naming import plain_names

_WRAPPERS = (
    "state_dict", "model_state_dict", "model_state", "model", "net_state_dict", "net", "network",
    "module", "params", "weights", "ema_state_dict", "model_ema", "state_dict_ema", "params_ema",
    "ema", "generator", "student", "teacher",
)  # fmt: skip
# Of tensors, too, yet not the model's.
_OTHERS = ("optim", "lr_sched", "sched", "scaler", "grad_scaler", "rng", "torch_rng", "cuda_rng")
_MOST_VALUES = 1_000_000
_DEEPEST = 5

_WRAPPING = (
    "module", "_orig_mod", "model", "net", "network", "backbone", "encoder", "base_model",
    "predictor", "student", "teacher", "generator", "_forward_module",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a file; ``dtype`` by torch's name of it."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def floating(self) -> bool:
        """Whether it holds fractions."""
        return "float" in self.dtype

    @property
    def elements(self) -> int:
        """Numbers in it."""
        return prod(self.shape)


@dataclass(frozen=True)
class Contents:
    """The tensors of a file, in its order.

    Attributes:
        read: gives them all, by the same names; raises ModelUnreadable.
        notes: what else was found, in plain sentences.
        metadata: texts that the file keeps beside them.
    """

    tensors: Mapping[str, Stored]
    read: Callable[[], dict[str, Tensor]]
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str] | None = None


def find_state(value: Any, leaf: type | tuple[type, ...]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The tensors of a model in what a checkpoint holds, by name, and what was left aside.

    A training script's checkpoint keeps them under ``state_dict``, ``model``, ``ema`` or the like,
    beside its optimizer's.

    Args:
        value: dictionaries and lists.
        leaf: what a tensor is among the values.

    Raises:
        ModelUnreadable: it is built to have more values than can be looked at.
    """
    notes: list[str] = []
    for _ in range(_DEEPEST):
        entry, inside = _entry(value, leaf)
        if entry is None:
            break
        others = [str(key) for key, count in inside.items() if count and key != entry]
        if others:
            notes.append(
                f"Opened its “{plain_names([str(entry)])}”; it also holds tensors under "
                f"{plain_names(others)}."
            )
        value = value[entry]
    if isinstance(value, dict):
        aside = [str(key) for key in value if not _holds(value[key], leaf) or _is_other(key)]
        if aside:
            notes.append(f"Left aside in it: {plain_names(aside)}.")
    return _flat(value, leaf), tuple(notes)


def unwrapped(names: Mapping[str, Any]) -> dict[str, str]:
    """Each name, without what wrappers of the whole model have put before it, to its full name."""
    short = {name.replace("._orig_mod.", "."): name for name in names}
    if len(short) < len(names):
        short = {name: name for name in names}
    while short:
        first = {name.partition(".")[0] for name in short}
        if len(first) > 1 or not first <= set(_WRAPPING) or not all("." in one for one in short):
            break
        short = {name.partition(".")[2]: full for name, full in short.items()}
    return short


def _entry(value: Any, leaf: Any) -> tuple[Any, dict[Any, int]]:
    """The key under which the model's tensors are, and the tensors under each; None: here."""
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = [(key, one) for key, one in value.items() if not _is_other(key)]
    elif isinstance(value, list | tuple):
        items = list(enumerate(value))
    here = sum(isinstance(one, leaf) for _, one in items)
    inside = {
        key: len(_flat(one, leaf)) for key, one in items if isinstance(one, dict | list | tuple)
    }
    for name in _WRAPPERS:
        if inside.get(name, 0) > here:
            return name, inside
    full = [key for key, count in inside.items() if count]
    if not here and full and (len(full) == 1 or not isinstance(value, dict)):
        return full[0], inside
    return None, inside


def _flat(value: Any, leaf: Any) -> dict[str, Any]:
    return dict(_walk(value, leaf, "", _Allowance()))


class _Allowance:
    """How many values may still be looked at: shared ones multiply as they nest."""

    def __init__(self) -> None:
        self.left = _MOST_VALUES

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise ModelUnreadable("Its dictionaries nest into more values than a model has.")


def _walk(
    value: Any, leaf: Any, name: str, allowance: _Allowance, depth: int = 0
) -> Iterator[tuple[str, Any]]:
    if isinstance(value, leaf):
        yield name, value
    elif isinstance(value, dict) and depth < _DEEPEST:
        allowance.spend(len(value))
        for key, one in value.items():
            if not _is_other(key):
                text = key.decode(errors="replace") if isinstance(key, bytes) else str(key)
                full = f"{name}.{text}" if name else text
                yield from _walk(one, leaf, full, allowance, depth + 1)


def _holds(value: Any, leaf: Any) -> bool:
    return isinstance(value, leaf) or bool(_flat(value, leaf))


def _is_other(key: Any) -> bool:
    return isinstance(key, str) and key.lower().startswith(_OTHERS)
