"""Which of the selected layers an edit can be applied to, and why not to the others. No Qt."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from engine import EDITS, ROOT, Layer, LayerId, LayerTree, Snapshot
from gui import format as fmt
from gui.models.edit_fields import Selected

Translate = Callable[[str], str]


@dataclass(frozen=True)
class Targets:
    """The selection as edits see it.

    Attributes:
        layers: everything selected, containers with all that is below them.
        leaves: those without children.
        by_method: those to which each method can be applied; absent when there are none.
        around: the block around the one selected layer that could be removed whole, if any.
        in_model: the methods that apply to some layer of the model, or quantized it already.
        one: what is selected, if that is one layer or container.
    """

    title: str
    summary: str
    layers: tuple[Layer, ...]
    leaves: tuple[Layer, ...]
    by_method: dict[str, tuple[LayerId, ...]]
    around: LayerId | None = None
    in_model: frozenset[str] = frozenset()
    one: LayerId | None = None

    def reason_against(self, method: str, tr: Translate = str) -> str:
        """Why the method cannot be applied to any of them; empty when it can."""
        if method in self.by_method:
            return ""
        notes = sorted({layer.note for layer in self.leaves if layer.note})
        if notes and all(layer.note for layer in self.leaves):
            return tr("Not possible: {notes}.").format(notes=", ".join(notes))
        if method == "remove-blocks":
            return self._not_a_block(tr)
        quantized = any(layer.is_quantized for layer in self.layers)
        match method:
            case "quantize" | "cast":
                return self.why_float(tr) or self._nothing_to_round(quantized, tr)
            case "fold-norms":
                return tr("No batch norm stands right behind a selected layer.")
            case "equalize":
                return tr("No selected layer is followed, past a ReLU, by one that alone reads it.")
            case "smooth":
                return tr("No norm stands before the selected layers, or others read it as well.")
            case "prune-heads":
                return tr("Select an attention layer: only these have heads.")
        kinds = ", ".join(sorted({layer.kind for layer in self.leaves}))
        if quantized:
            return tr("{kinds}: already quantized, and this comes before that.").format(kinds=kinds)
        return tr("Not possible for {kinds} as it stands here.").format(kinds=kinds)

    def why_float(self, tr: Translate = str) -> str:
        """Why the layers cannot be quantized, as far as they cannot."""
        reasons = sorted({layer.why_float for layer in self.layers if layer.why_float})
        if not reasons:
            return ""
        return tr("Cannot be quantized: {reasons}.").format(reasons="; ".join(reasons))

    def _nothing_to_round(self, quantized: bool, tr: Translate) -> str:
        if quantized:
            return tr("Already quantized; undo that to quantize otherwise.")
        return tr("There is nothing to round: no weights, products or sums.")

    @property
    def rounded(self) -> LayerId | None:
        """The one selected layer, if what it reads lies on a grid."""
        on_grid = {
            layer.id for layer in self.layers if layer.activation_bits and layer.is_quantized
        }
        return self.one if self.one in on_grid else None

    def candidates(self, method: str) -> int:
        """How many of the layers that kind of edit could be meant for."""
        if method == "quantize":
            able = set(self.by_method.get(method, ()))
            layers = (one for one in self.layers if one.why_float or one.is_quantized)
            return len(able | {one.id for one in layers})
        return sum(bool(layer.methods) for layer in self.leaves)

    def selected(self, able: Iterable[LayerId]) -> Selected:
        """What these of the layers mean for the fields of a form."""
        ids = set(able)
        layers = [layer for layer in self.layers if layer.id in ids]
        return Selected(
            len(layers),
            spatial=any("Conv" in layer.kind for layer in layers),
            weights=any(layer.weights for layer in layers),
        )

    def _not_a_block(self, tr: Translate) -> str:
        if self.around is not None:
            block = fmt.layer_name(self.around)
            return tr("Select the whole block {block} to remove it.").format(block=block)
        return tr("Only a residual block whose input and output have one shape can be removed.")


def targets(snapshot: Snapshot, selected: Iterable[LayerId], tr: Translate = str) -> Targets:
    """What the selected layers and containers come down to."""
    tree = snapshot.current.tree
    chosen = [layer for layer in selected if layer in tree]
    ids = {below for layer in chosen for below in tree.under(layer)}
    layers = tuple(layer for layer in tree if layer.id in ids)
    leaves = tuple(layer for layer in layers if not tree.children(layer.id))
    by_method = {
        method: able
        for method in EDITS
        if (able := tuple(layer.id for layer in layers if method in layer.methods))
    }
    if "remove-blocks" in by_method:
        by_method["remove-blocks"] = outermost(by_method["remove-blocks"])
    return Targets(
        _title(snapshot, chosen, tr),
        _summary(tree, chosen, leaves, tr),
        layers,
        leaves,
        by_method,
        _block_around(tree, chosen),
        frozenset(method for layer in tree for method in layer.methods) | _done(tree),
        chosen[0] if len(chosen) == 1 else None,
    )


def outermost(layers: tuple[LayerId, ...]) -> tuple[LayerId, ...]:
    """Those that lie in no other of them; a block within a removed block goes with it."""
    found: list[LayerId] = []
    for layer in layers:  # parents come before their children
        if not any(layer.startswith(f"{above}.") for above in found):
            found.append(layer)
    return tuple(found)


def _done(tree: LayerTree) -> frozenset[str]:
    """Quantization where it is done: it is still offered, with the reason why not once more."""
    return frozenset({"quantize"} if tree.quantized_count()[0] else ())


def _block_around(tree: LayerTree, chosen: list[LayerId]) -> LayerId | None:
    """The innermost block that holds the one chosen layer and can be removed."""
    layer = chosen[0] if len(chosen) == 1 else ROOT
    while layer != ROOT:
        layer = tree.parent_of(layer)
        if "remove-blocks" in tree[layer].methods:
            return layer
    return None


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
