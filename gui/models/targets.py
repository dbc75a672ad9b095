"""Which of the selected layers an edit can be applied to, and why not to the others. No Qt."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from engine import EDITS, ROOT, Layer, LayerId, LayerTree, Snapshot
from gui import format as fmt

Translate = Callable[[str], str]


@dataclass(frozen=True)
class Targets:
    """The selection as edits see it.

    Attributes:
        leaves: selected layers without children, containers taken as what is below them.
        by_method: those to which each method can be applied; absent when there are none.
    """

    title: str
    summary: str
    leaves: tuple[Layer, ...]
    by_method: dict[str, tuple[LayerId, ...]]

    def reason_against(self, method: str, tr: Translate = str) -> str:
        """Why the method cannot be applied to any of them; empty when it can."""
        if method in self.by_method:
            return ""
        notes = sorted({layer.note for layer in self.leaves if layer.note})
        if notes and all(layer.note for layer in self.leaves):
            return tr("Not possible: {notes}.").format(notes=", ".join(notes))
        quantized = any(layer.weight_bits == 8 for layer in self.leaves)
        if quantized and method == "quantize":
            return tr("Already quantized.")
        kinds = ", ".join(sorted({layer.kind for layer in self.leaves}))
        if quantized:
            return tr("{kinds}: already quantized, and pruning comes before.").format(kinds=kinds)
        return tr("Not possible for {kinds} as it stands here.").format(kinds=kinds)


def targets(snapshot: Snapshot, selected: Iterable[LayerId], tr: Translate = str) -> Targets:
    """What the selected layers and containers come down to."""
    tree = snapshot.current.tree
    chosen = [layer for layer in selected if layer in tree]
    ids = {below for layer in chosen for below in tree.under(layer) if not tree.children(below)}
    leaves = tuple(layer for layer in tree if layer.id in ids)
    by_method = {
        method: layers
        for method in EDITS
        if (layers := tuple(layer.id for layer in leaves if method in layer.methods))
    }
    title = _title(snapshot, chosen, tr)
    return Targets(title, _summary(tree, chosen, leaves, tr), leaves, by_method)


def _title(snapshot: Snapshot, chosen: list[LayerId], tr: Translate) -> str:
    if len(chosen) != 1:
        return tr("{count} layers").format(count=len(chosen))
    return snapshot.model.name if chosen[0] == ROOT else fmt.layer_name(chosen[0])


def _summary(
    tree: LayerTree, chosen: list[LayerId], leaves: tuple[Layer, ...], tr: Translate
) -> str:
    """Kind and shape of one layer, or how many of which kinds there are."""
    parameters = tr("{count} parameters").format(
        count=fmt.count(sum(layer.parameters for layer in leaves))
    )
    if len(chosen) == 1 and not tree.children(chosen[0]):
        layer = tree[chosen[0]]
        texts = [layer.kind, fmt.shape(layer.output_shape), parameters, layer.note]
        return " · ".join(text for text in texts if text and text != fmt.ABSENT)
    kinds = Counter(layer.kind for layer in leaves if layer.methods).most_common(3)
    texts = [f"{count} × {kind}" for kind, count in kinds]
    return " · ".join([*texts, parameters])
