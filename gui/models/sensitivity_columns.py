"""The columns of a sensitivity map: settings in groups, each with a short title. No Qt."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from engine import (
    Cast,
    Edit,
    Factorize,
    LayerId,
    PruneChannels,
    PruneHeads,
    PruneWeights,
    Quantize,
    RemoveBlocks,
)
from gui import format as fmt

Translate = Callable[[str], str]

GROUPS: Final = ("channels", "heads", "blocks", "weights", "low-rank", "bits", "inputs", "other")
"""Kinds of settings, in the order of the columns."""

SCANNED: Final = ("channels", "weights", "bits", "inputs")
"""Those that a usual scan has."""


@dataclass(frozen=True)
class Column:
    """A setting as it is headed.

    Attributes:
        group: one of :data:`GROUPS`.
        title: short, such as ``20 %``; the group is told above it.
        tip: the setting in full.
    """

    group: str
    title: str
    tip: str


def group_of(setting: Edit) -> str:
    """The kind of a setting; of quantization, whether inputs are rounded too."""
    match setting:
        case PruneChannels():
            return "channels"
        case PruneHeads():
            return "heads"
        case RemoveBlocks():
            return "blocks"
        case PruneWeights():
            return "weights"
        case Factorize():
            return "low-rank"
        case Quantize():
            return "bits" if setting.activations == "none" else "inputs"
    return "other"


def group_words(tr: Translate) -> Mapping[str, tuple[str, str]]:
    """Title and explanation of each group."""
    return {
        "channels": (
            tr("Channels"),
            tr("Share of the output channels that goes, with everything coupled to them"),
        ),
        "heads": (tr("Heads"), tr("Share of the heads of attention that goes")),
        "blocks": (tr("Blocks"), tr("The residual block is taken out")),
        "weights": (tr("Weights"), tr("Share of the weights that is zero afterwards")),
        "low-rank": (tr("Low rank"), tr("Share of the parameters saved by two smaller layers")),
        "bits": (tr("Bits"), tr("Bits of the weights; inputs stay in float")),
        "inputs": (
            tr("Inputs"),
            tr("Bits of the inputs, whose ranges come from calibration, and of the weights"),
        ),
        "other": (tr("Other"), tr("Other edits")),
    }


def columns(settings: Iterable[Edit], tr: Translate = str) -> tuple[Column, ...]:
    """The headings of these settings, in their order.

    Settings of a group that would read alike are told apart by the field in which they differ.
    """
    asked = tuple(settings)
    heads = [(group_of(one), _title(one, tr)) for one in asked]
    often = Counter(heads)
    alike = {
        head: [one for one, own in zip(asked, heads, strict=True) if own == head] for head in often
    }
    return tuple(
        Column(
            group,
            title if often[group, title] == 1 else _apart(setting, title, alike[group, title]),
            tip(setting, tr),
        )
        for setting, (group, title) in zip(asked, heads, strict=True)
    )


def runs(headings: Sequence[Column]) -> list[tuple[str, int, int]]:
    """Groups of columns that stand together: group, first and last column."""
    found: list[tuple[str, int, int]] = []
    for place, heading in enumerate(headings):
        if found and found[-1][0] == heading.group:
            found[-1] = (heading.group, found[-1][1], place)
        else:
            found.append((heading.group, place, place))
    return found


def tip(setting: Edit, tr: Translate = str) -> str:
    """What a setting does to a layer, in one line."""
    return fmt.edit_text(replace(setting, layers=(LayerId(tr("the layer")),)), tr)


def arranged(settings: Iterable[Edit]) -> tuple[int, ...]:
    """Places of the settings in the order in which they are shown: group by group."""
    asked = tuple(settings)
    return tuple(sorted(range(len(asked)), key=lambda place: GROUPS.index(group_of(asked[place]))))


def of_groups(settings: Iterable[Edit], groups: Collection[str]) -> tuple[Edit, ...]:
    """The settings of these groups alone; all if none is named."""
    return tuple(one for one in settings if not groups or group_of(one) in groups)


def _title(setting: Edit, tr: Translate) -> str:
    match setting:
        case PruneWeights() if setting.of:
            return f"{setting.keep}:{setting.of}"
        case PruneChannels() | PruneHeads() | PruneWeights() | Factorize():
            return fmt.amount(setting.ratio)
        case RemoveBlocks():
            return tr("out")
        case Quantize() if setting.activations == "none":
            return str(setting.weight_bits)
        case Quantize() if setting.weight_bits == setting.activation_bits:
            return str(setting.activation_bits)
        case Quantize():
            return f"{setting.activation_bits}/{setting.weight_bits}"
        case Cast():
            return setting.dtype
    return tip(setting, tr)


def _apart(setting: Edit, title: str, alike: list[Edit]) -> str:
    """The title, and behind it what tells the setting from those that read alike."""
    for one in fields(setting):
        values = {getattr(other, one.name, None) for other in alike}
        if len(values) == len(alike):
            return f"{title} {_said(getattr(setting, one.name))}"
    return title


def _said(value: Any) -> str:
    return fmt.criterion_name(value) if isinstance(value, str) else str(value)
