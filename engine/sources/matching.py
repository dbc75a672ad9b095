"""Which architecture tensors belong to, by their names and shapes.

The catalogue's structures are built without numbers, those of about as many parameters first, so
that a match is usually found after a few.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import chain
from math import log
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from engine.errors import ArchitectureNeeded, EngineError
from engine.job import Job
from engine.requests import Candidate
from engine.sources.architectures import DEMO, TIMM, TORCHVISION, build
from engine.sources.files.contents import Stored, unwrapped
from engine.sources.files.naming import plain_name

MOST_CANDIDATES = 5
_MOST_DIFFERING = 5

_FARTHEST = log(32)  # of parameter counts: beyond, no part of one is the other
_LEAST_SHARE = 0.05
_MOST_TENSORS = 40_000  # the catalogue's largest have some 1,500: beyond, none has the least share
_COUNTER = "num_batches_tracked"
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.", "aux_classifier.")
_MOST_CLASS_COUNTS = 2
_MOST_OF_TIMM = 12

# Names that earlier versions of torchvision wrote.
_RENAMED = (
    (re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_1\."), r"\1.0."),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_2\."), r"\1.3."),
    (re.compile(r"(fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$"), r"\1.0.\2"),
)

_ROLES = ("weight", "bias", "running_mean", "running_var")

# How names of timm's begin, which takes seconds to import.
_TIMMS = ("blocks.", "stages.", "stages_", "conv_stem.", "stem.", "stem_", "patch_embed.", "cls_")

# What is used most of what timm names otherwise than torchvision.
_COMMON_IN_TIMM = (
    "vit_base_patch16_224", "vit_small_patch16_224", "vit_tiny_patch16_224",
    "deit_small_patch16_224", "convnext_tiny", "efficientnet_b0", "mobilenetv3_large_100",
    "swin_tiny_patch4_window7_224",
)  # fmt: skip


@dataclass(frozen=True)
class Match:
    """An architecture, and where each of its tensors is.

    Attributes:
        names: of the architecture's tensors, each to the file's name of it.
        notes: what the user must know, in plain sentences.
    """

    source: str
    names: Mapping[str, str]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Fit:
    """How tensors and an architecture agree: names of those that do and of those that do not."""

    source: str
    wanted: Mapping[str, Stored]
    names: Mapping[str, str]
    differing: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    note: str = ""
    in_order: bool = False

    @property
    def total(self) -> int:
        counters = sum(_is_counter(name) for name in self.wanted if name not in self.names)
        return len(self.wanted) - counters

    @property
    def share(self) -> float:
        return len(self.names) / max(1, self.total + len(self.left))

    @property
    def full(self) -> bool:
        auxiliary = all(name.startswith(_AUXILIARY) for name in self.left)
        return not (self.differing or self.missing) and auxiliary and bool(self.names)


def match(
    tensors: Mapping[str, Stored], what: str, chosen: str, trusted: frozenset[str], job: Job
) -> Match:
    """The architecture that the tensors belong to.

    Args:
        what: name of the file, for messages; timm's models are looked for by it.
        chosen: the architecture that the user chose; "" to look through the catalogue.
        trusted: as in :class:`engine.requests.OpenRequest`, for a factory that was chosen.

    Raises:
        ArchitectureNeeded: none fits in full, or the chosen one does not.
        ModelNotFound, ModelUnreadable, ConsentNeeded: the chosen one cannot be built.
    """
    found = _renamed(tensors)
    if chosen:
        made = build(chosen, "meta", trusted)
        fit = _fit(found, made.source, _tensors_of(made.model))
        for better in chain((fit,), _variants(found, fit), _in_order(found, fit)):
            if better.full:
                return _matched(found, better)
        raise _needed(what, found, [fit], "do not fit the architecture that was chosen")
    fits = []
    for fit in _fits(found, what, job):
        for better in chain((fit,), _variants(found, fit)):
            if better.full:
                return _matched(found, *_told_apart(better, what))
        ordered = next(_in_order(found, fit), fit)
        if ordered.in_order or ordered.share > _LEAST_SHARE:
            fits.append(ordered)
    raise _needed(what, found, fits, "fit no architecture of the catalogue in full")


@dataclass(frozen=True)
class _Found:
    """The tensors of a file by the names they may have in a model, and their names in the file."""

    tensors: Mapping[str, Stored]
    files: Mapping[str, str]


def _renamed(tensors: Mapping[str, Stored]) -> _Found:
    files = {}
    for name, file in unwrapped(tensors).items():
        for pattern, newer in _RENAMED:
            if pattern.search(name):
                files[pattern.sub(newer, name)] = file
                break
        else:
            files[name] = file
    return _Found({name: tensors[file] for name, file in files.items()}, files)


def _told_apart(fit: _Fit, what: str) -> tuple[_Fit, str]:
    """The fit of the architecture that the file is named after, where two have the same tensors.

    With it, a note of the other one: they differ in what no tensor shows.
    """
    base, sign, arguments = fit.source.partition("(")
    counts = _counts()
    for twin in (one for one in counts if one != base and counts[one] == counts.get(base)):
        if _signature(twin) == _signature(base):
            source, other = (twin, base) if twin.partition(":")[2] in what else (base, twin)
            fit = replace(fit, source=source + sign + arguments)
            return fit, f"{other} has the same tensors; choose it if it was trained as that."
    return fit, ""


def _matched(found: _Found, fit: _Fit, twin: str = "") -> Match:
    shown = fit.source.partition(":")[2] or fit.source
    notes = [f"This is {shown}: {len(fit.names):,} of {fit.total:,} tensors match."]
    notes += filter(None, (fit.note, twin))
    if fit.left:
        notes.append(f"{len(fit.left):,} tensors of auxiliary heads are left out.")
    names = fit.names if fit.in_order else {name: found.files[name] for name in fit.names}
    return Match(fit.source, names, tuple(notes))


def _needed(what: str, found: _Found, fits: list[_Fit], why: str) -> ArchitectureNeeded:
    near = sorted(fits, key=lambda fit: (not fit.in_order, -fit.share))
    candidates = [_candidate(found, fit) for fit in near[:MOST_CANDIDATES]]
    first, stored = next(iter(found.tensors.items()))
    example = f"{plain_name(first)} of {_shape(stored.shape)}"
    nearest = ""
    if candidates:
        best = candidates[0]
        note = f" ({best.note})" if best.note else ""
        nearest = f" The nearest is {best.source}: {best.matching} of {best.total} match{note}."
    return ArchitectureNeeded(
        f"{plain_name(what)} holds {len(found.tensors):,} tensors (such as {example}) that {why}."
        f"{nearest}",
        details={"candidates": [asdict(one) for one in candidates]},
    )


def _candidate(found: _Found, fit: _Fit) -> Candidate:
    words = (
        *(_difference(name, found.tensors[name], fit.wanted[name]) for name in fit.differing),
        *(f"{plain_name(name)} is missing" for name in fit.missing),
        *(f"{plain_name(name)} is left over" for name in fit.left),
    )
    note = fit.note
    if not note and (counts := _class_counts(found, fit)):
        note = f"Its last layers differ, as with {' or '.join(map(str, counts))} classes."
    return Candidate(fit.source, len(fit.names), fit.total, words[:_MOST_DIFFERING], note)


def _difference(name: str, have: Stored, want: Stored) -> str:
    if have.shape != want.shape:
        return f"{plain_name(name)} is {_shape(have.shape)}, not {_shape(want.shape)}"
    return f"{plain_name(name)} holds {have.dtype}, not {want.dtype}"


# -- comparing


def _fit(found: _Found, source: str, wanted: Mapping[str, Stored], note: str = "") -> _Fit:
    names, differing, missing = {}, [], []
    for name, want in wanted.items():
        have = found.tensors.get(name)
        if have is None:
            if not _is_counter(name):
                missing.append(name)
        elif have.shape != want.shape or (want.floating and not have.floating):
            differing.append(name)
        else:
            names[name] = name
    left: tuple[str, ...] = ()
    if names:
        left = tuple(one for one in found.tensors if one not in wanted and not _is_counter(one))
    return _Fit(source, wanted, names, tuple(differing), tuple(missing), left, note)


def _variants(found: _Found, fit: _Fit) -> Iterator[_Fit]:
    """The same architecture without auxiliary heads, or for another number of classes."""
    if fit.full or "(" in fit.source or not fit.source.startswith(TORCHVISION):
        return
    if not all(name.startswith(_AUXILIARY) for name in fit.missing):
        return
    without = "aux_loss=False" if fit.missing else ""
    counts = _class_counts(found, fit)
    if fit.differing and not counts:
        return
    for count in counts or [0]:
        classes = f"num_classes={count}" if count else ""
        source = f"{fit.source}({', '.join(filter(None, (without, classes)))})"
        note = f"It tells {count:,} classes apart." if count else ""
        with suppress(EngineError):
            yield _fit(found, source, _signature(source), note)


def _class_counts(found: _Found, fit: _Fit) -> list[int]:
    """Numbers of classes that may explain all that differs; none if something else does."""
    counts = set()
    for name in fit.differing:
        have, want = found.tensors[name].shape, fit.wanted[name].shape
        if not have or have == want or have[1:] != want[1:]:
            return []
        counts.add(have[0])
    # Detection has four numbers of a box beside each class.
    return sorted(counts)[:_MOST_CLASS_COUNTS]


def _in_order(found: _Found, fit: _Fit) -> Iterator[_Fit]:
    """The same architecture if only names differ: shapes agree one by one."""
    wanted = [name for name in fit.wanted if not _is_counter(name)]
    if fit.full or not len(wanted) <= len(found.tensors) <= len(fit.wanted):
        return
    shapes = [fit.wanted[name].shape for name in wanted]
    names = [name for name in found.tensors if not _is_counter(name)]
    if len(names) != len(wanted):
        return
    for order in (names, sorted(names, key=_natural)):
        same = [found.tensors[name].shape for name in order] == shapes
        # A batch norm's four tensors have one shape: sorted by name, its bias comes first.
        if same and all(map(_may_be, order, wanted)):
            pairs = {want: found.files[name] for want, name in zip(wanted, order, strict=True)}
            note = "Its names differ; the shapes match in order."
            yield _Fit(fit.source, fit.wanted, pairs, note=note, in_order=True)
            return


def _may_be(name: str, wanted: str) -> bool:
    """Whether the last parts of two names do not say that they are different things."""
    roles = {one.rpartition(".")[2] for one in (name, wanted)}
    return len(roles) == 1 or not roles <= set(_ROLES)


def _natural(name: str) -> tuple[list[tuple[bool, int, str]], int]:
    layer, _, role = name.rpartition(".")
    parts = [
        (part.isdigit(), int(part) if part.isdigit() and len(part) < 10 else 0, part)
        for part in re.split(r"(\d+)", layer)
    ]
    return parts, _ROLES.index(role) if role in _ROLES else len(_ROLES)


def _is_counter(name: str) -> bool:
    return name.rpartition(".")[2] == _COUNTER


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a single number"


# -- the catalogue's structures


def _fits(found: _Found, what: str, job: Job) -> Iterator[_Fit]:
    elements = sum(
        one.elements
        for name, one in found.tensors.items()
        if not name.rpartition(".")[2].startswith(("running_", _COUNTER))
    )
    if len(found.tensors) > _MOST_TENSORS:
        return
    near = _nearest(max(1, elements))
    for source in job.track(near, "Comparing with the catalogue"):
        yield _fit(found, source, _signature(source))
    if near and any(name.startswith(_TIMMS) for name in found.tensors):
        for source in job.track(_of_timm(what), "Comparing with timm's models"):
            yield _fit(found, source, _signature(source))


def _nearest(elements: int) -> list[str]:
    def distance(source: str) -> float:
        return abs(log(_counts()[source] / elements))

    return sorted((one for one in _counts() if distance(one) < _FARTHEST), key=distance)


@lru_cache(maxsize=1)
def _counts() -> Mapping[str, int]:
    """Parameters of each architecture of the catalogue, as published."""
    from engine.sources.libraries import torchvision_models

    counts = {DEMO: sum(one.elements for one in _signature(DEMO).values())}
    for name in torchvision_models.names():
        if name.startswith("quantized_"):
            continue  # with the tensors of the plain one
        for entry in torchvision_models.entries(name)[:1]:
            counts[TORCHVISION + name] = int(entry.meta["num_params"])
    return counts


def _of_timm(what: str) -> list[str]:
    from engine.sources.libraries import timm_models

    known = timm_models.names()
    named = sorted((name for name in known if name in what), key=len, reverse=True)
    common = [name for name in _COMMON_IN_TIMM if name in known]
    return [TIMM + name for name in dict.fromkeys([*named[:4], *common])][:_MOST_OF_TIMM]


@lru_cache(maxsize=512)
def _signature(source: str) -> Mapping[str, Stored]:
    try:
        with _WithoutRanges():
            return _tensors_of(build(source, "meta").model)
    except (EngineError, NotImplementedError, RuntimeError):
        return _tensors_of(build(source, "meta").model)


class _WithoutRanges(TorchFunctionMode):
    """Gives ``torch.arange`` no data either, so that Swin's positions cost no memory.

    RegNets cannot be built so, as they compute their widths with it.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.arange:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


def _tensors_of(model: nn.Module) -> Mapping[str, Stored]:
    return {
        name: Stored(tuple(one.shape), str(one.dtype).removeprefix("torch."))
        for name, one in model.state_dict().items()
    }
