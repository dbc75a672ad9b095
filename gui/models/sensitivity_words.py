"""What a sensitivity map is of, and why a cell cannot be applied, in words. No Qt."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from engine import Cell, LayerId, LayerTree, SensitivityMap, Snapshot
from gui import format as fmt

Translate = Callable[[str], str]


def map_text(found: SensitivityMap | None, tr: Translate = str) -> str:
    """What the map was taken on, and the loss and accuracy that its cells are held against."""
    if found is None:
        return ""
    parts = []
    if found.loss is not None:
        parts.append(tr("loss {value} before").format(value=fmt.loss(found.loss)))
    if found.accuracy is not None:
        parts.append(tr("accuracy {value}").format(value=fmt.percent(found.accuracy)))
    if found.samples:
        count = tr("{count} training samples").format(count=fmt.count(found.samples))
        parts.append(tr("{count} of {data}").format(count=count, data=fmt.visible(found.data)))
    if not found.complete:
        parts.append(tr("not complete"))
    return " · ".join(parts)


def stale_text(
    found: SensitivityMap | None,
    snapshot: Snapshot | None,
    cursors: Mapping[str, int],
    tr: Translate = str,
) -> str:
    """Which other state the map is of; empty where it is of the one shown.

    Args:
        cursors: how many edits led to each state before the one shown, by its id.
    """
    if found is None or snapshot is None or found.state == snapshot.current.id:
        return ""
    if not found.state:
        return tr("of a state that its file does not name")
    at = cursors.get(found.state)
    if at is not None and at < snapshot.cursor:
        edit = fmt.edit_text(snapshot.history[at].edit, tr)
        return tr("of the state before “{edit}”; scan again").format(edit=edit)
    return tr("of another state of the model; scan again")


def refusal_of(
    found: SensitivityMap,
    layers: Sequence[LayerId],
    cell: Cell | None,
    snapshot: Snapshot,
    tr: Translate = str,
) -> str:
    """Why a cell cannot be applied as an edit to the state shown; empty where it can."""
    if found.direction != "only this":
        return tr(
            "This cell stands for edits of all layers but this one. Show the map of “Only this"
            " layer” to apply a cell."
        )
    if cell is not None and cell.refusal:
        return fmt.visible(cell.refusal)
    missing = next((one for one in layers if one not in snapshot.current.tree), None)
    if missing is not None:
        return tr("The model has no layer {layer}.").format(layer=fmt.layer_name(missing))
    return ""


def editable(tree: LayerTree, layers: Iterable[LayerId]) -> tuple[LayerId, ...]:
    """Those of the layers, and of all below them, that edits can be applied to."""
    below = (one for layer in layers if layer in tree for one in tree.under(layer))
    return tuple(dict.fromkeys(one for one in below if tree[one].methods))
