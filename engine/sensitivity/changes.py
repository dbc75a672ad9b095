"""Rows of a scan, what each setting decides for them, and models with these decisions."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from engine.editing import Subject, handler_of
from engine.edits import (
    ChannelSlice,
    ChannelsRemoved,
    Decision,
    Edit,
    PruneChannels,
    Quantize,
    edit_name,
)
from engine.errors import EditRefused, EngineError
from engine.job import Job
from engine.layers import Layer, LayerId
from engine.pruning.coupling import group_of
from engine.sensitivities import ScanRequest
from engine.sharing import share

Row = tuple[LayerId, ...]


def rows_of(request: ScanRequest, subject: Subject, job: Job) -> tuple[Row, ...]:
    """The layers that a setting can be applied to, coupled ones together; see ScanRequest.

    Raises:
        EditRefused: there are none.
    """
    wanted = {below for layer in request.layers for below in subject.tree.under(layer)}
    layers = [
        one.id
        for one in subject.tree
        if (one.id in wanted or not wanted)
        and any(_takes(one, setting) for setting in request.settings)
    ]
    if not layers:
        raise EditRefused(
            "None of the settings can be applied to these layers.",
            "Choose other layers or other settings.",
        )
    if not any(isinstance(one, PruneChannels) for one in request.settings):
        return tuple((one,) for one in layers)
    return _coupled(layers, subject, job)


def _takes(layer: Layer, setting: Edit) -> bool:
    """Whether the setting does something to the layer."""
    if isinstance(setting, Quantize) and setting.activations == "none" and not layer.weights:
        return False  # it only adds or multiplies activations
    return edit_name(setting) in layer.methods


def _coupled(layers: Sequence[LayerId], subject: Subject, job: Job) -> tuple[Row, ...]:
    """The layers, those that write the same channels together, each row where its first stands."""
    rows = {layer: [layer] for layer in layers}
    for layer in job.track(layers, "Finding coupled channels"):
        for other in _written_with(layer, subject):
            if other in rows and rows[other] is not rows[layer]:
                joined = sorted({*rows[layer], *rows[other]}, key=layers.index)
                rows |= dict.fromkeys(joined, joined)
    return tuple(tuple(row) for layer, row in rows.items() if row[0] == layer)


def _written_with(layer: LayerId, subject: Subject) -> Iterator[LayerId]:
    if "prune-channels" not in subject.tree[layer].methods:
        return
    try:
        members = group_of(subject, layer).members
    except EditRefused:
        return
    yield from (one.layer for one in members if one.side == "out")


@dataclass(frozen=True)
class Change:
    """What a setting decides for a row.

    Attributes:
        edit: the setting on those layers of the row that take it.
        decision: None where it is refused.
        refusal, left_out: as in :class:`engine.sensitivities.Cell`.
    """

    edit: Edit
    decision: Decision | None
    refusal: str = ""
    left_out: Row = ()


def change_of(setting: Edit, row: Row, subject: Subject, job: Job, draft: bool = False) -> Change:
    """What the setting decides for the row.

    Args:
        draft: whether a decision will do that is not checked by the law.
    """
    taking = tuple(one for one in row if _takes(subject.tree[one], setting))
    if not taking:
        return Change(setting, None, _why_not(setting, row, subject, job))
    edit = replace(setting, layers=taking)
    left_out = tuple(one for one in row if one not in taking)
    handler = handler_of(edit)
    try:
        decide = handler.draft if draft else handler.decide
        return Change(edit, decide(edit, subject, job), "", left_out)
    except EditRefused as refusal:
        return Change(edit, None, str(refusal), left_out)


def _why_not(setting: Edit, row: Row, subject: Subject, job: Job) -> str:
    if handler_of(setting).spares_outputs and row[0] in subject.trace.output_layers:
        return f"{row[0]} puts out the model's result."
    try:
        handler_of(setting).draft(replace(setting, layers=row), subject, job)
    except EngineError as error:
        return str(error)
    return f"It cannot be applied to {row[0]} ({subject.tree[row[0]].kind})."


def edited(model: nn.Module, changes: Iterable[Change]) -> nn.Module:
    """A copy of the model with these changes, all of one setting, exactly as edits make them.

    Raises:
        EngineError: they do not go together.
    """
    copy = share(model)
    for change in _together(list(changes)):
        assert change.decision is not None
        handler_of(change.edit).carry_out(change.decision, copy)
    return copy


def _together(changes: list[Change]) -> list[Change]:
    """The same changes so that each finds the model as it was when it was decided."""
    removals = [one.decision for one in changes if isinstance(one.decision, ChannelsRemoved)]
    if len(removals) < 2:
        return changes
    sides: dict[tuple[LayerId, str, int], ChannelSlice] = {}
    for one in (one for removal in removals for one in removal.slices):
        key = one.layer, one.side, one.dim
        before = sides[key].removed if key in sides else ()
        sides[key] = replace(one, removed=tuple(sorted({*before, *one.removed})))
    return [replace(changes[0], decision=ChannelsRemoved(tuple(sides.values())))]


def changed_layers(model: nn.Module, variant: nn.Module) -> tuple[frozenset[LayerId], bool]:
    """The modules in which a variant, made of a sharing copy, differs from the model.

    By kind and by the bits of their own tensors.

    Returns:
        Their paths, and whether these tensors have other sizes.
    """
    before, after = dict(model.named_modules()), dict(variant.named_modules())
    changed = frozenset(
        LayerId(name)
        for name in before.keys() | after.keys()
        if name not in before or name not in after or not _is_same(before[name], after[name])
    )
    resized = any(
        name in before and name in after and _are_resized(before[name], after[name])
        for name in changed
    )
    return changed, resized


def _is_same(one: nn.Module, other: nn.Module) -> bool:
    mine, others = _tensors(one), _tensors(other)
    return (
        type(one) is type(other)
        and mine.keys() == others.keys()
        and all(_are_equal(mine[name], others[name]) for name in mine)
    )


def _tensors(module: nn.Module) -> dict[str, Tensor | None]:
    return {**module._parameters, **module._buffers}


def _are_resized(one: nn.Module, other: nn.Module) -> bool:
    mine, others = _sizes(one), _sizes(other)
    return any(mine[name] != others[name] for name in mine.keys() & others.keys())


def _sizes(module: nn.Module) -> dict[str, object]:
    """What code elsewhere may read of a layer: numbers and tuples such as ``out_channels``."""
    return {
        name: one
        for name, one in vars(module).items()
        if name[0] != "_" and name != "training" and isinstance(one, int | float | str | tuple)
    }


def _are_equal(one: Tensor | None, other: Tensor | None) -> bool:
    if one is other:
        return True
    return one is not None and other is not None and one.dtype == other.dtype and one.equal(other)
