"""Kinds of edits, their fields and choices in words. No Qt."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from gui import format as fmt

Translate = Callable[[str], str]

FAMILIES: Final[Mapping[str, tuple[str, ...]]] = {
    "channels": ("prune-channels",),
    "heads": ("prune-heads",),
    "blocks": ("remove-blocks",),
    "weights": ("prune-weights", "mask-weights", "prune-by-method"),
    "low-rank": ("factorize",),
    "fold": ("fold-norms",),
    "quantize": ("quantize",),
}
"""What the panel offers side by side, and the kinds of edits behind each, the usual one first."""


def family_of(method: str) -> str:
    """The family of a kind of edit."""
    return next(family for family, methods in FAMILIES.items() if method in methods)


def family_words(tr: Translate) -> dict[str, tuple[str, str]]:
    """Title and explanation of each family."""
    return {
        "channels": (
            tr("Channels"),
            tr("Remove output channels, with everything coupled to them: smaller on any hardware"),
        ),
        "heads": (tr("Heads"), tr("Remove whole heads of attention: smaller on any hardware")),
        "blocks": (
            tr("Blocks"),
            tr("Take whole residual blocks out, so that their input passes on unchanged"),
        ),
        "weights": (
            tr("Weights"),
            tr(
                "Set single weights to zero: smaller once compressed, faster only on hardware that"
                " skips zeros"
            ),
        ),
        "low-rank": (
            tr("Low rank"),
            tr("Replace each layer by two smaller ones, by singular value decomposition"),
        ),
        "fold": (
            tr("Fold"),
            tr("Fold the batch norm behind each layer into its weights: the same outputs"),
        ),
        "quantize": (
            tr("Quantize"),
            tr("Round weights and input to 8-bit integers, calibrated on data"),
        ),
    }


def way_words(tr: Translate) -> dict[str, str]:
    """The kinds of a family of several, in a few words."""
    return {
        "prune-weights": tr("A criterion"),
        "mask-weights": tr("A mask in a file"),
        "prune-by-method": tr("A method of torch or your own"),
    }


def field_words(method: str, tr: Translate) -> dict[str, tuple[str, str]]:
    """Title and explanation of each field of that kind of edit."""
    words = {
        "amount": (tr("Amount"), tr("Share of the weights, as the method takes it")),
        "criterion": (tr("Criterion"), tr("What goes first")),
        "spread": (tr("Spread"), tr("How the amount is shared out among the selected layers")),
        "multiple": (
            tr("Widths"),
            tr("What is left is rounded to a multiple that hardware likes, where there is enough"),
        ),
        "pattern": (
            tr("Pattern"),
            tr("N:M: of every M weights along the input the N that matter most stay"),
        ),
        "samples": (tr("Samples"), tr("Training samples that the criterion looks at")),
        "seed": (tr("Seed"), tr("The same seed draws the same again")),
        "path": (
            tr("Mask"),
            tr("A file with a tensor for each layer or parameter: 0 where a weight goes"),
        ),
        "method": (
            tr("Method"),
            tr(
                "Of torch.nn.utils.prune by its name, or your own as file.py:Class or"
                " package.module:Class"
            ),
        ),
        "arguments": (tr("Arguments"), tr("What else the method takes, by name, as JSON")),
        "form": (tr("Form"), tr("How a convolution is split in two")),
        "calibration_samples": (
            tr("Calibration samples"),
            tr("Training samples that set the range of each layer's input"),
        ),
    }
    words["ratio"] = amount_words(method, "layer", tr)
    return words


def amount_words(method: str, spread: str, tr: Translate) -> tuple[str, str]:
    """Title and explanation of the ratio, which means something else where energy is spread."""
    if method == "prune-channels" and spread == "energy":
        return (
            tr("Energy saved"),
            tr("Share of the modelled energy of the layers, and of those coupled to them"),
        )
    meanings = {
        "prune-channels": tr("Share of the output channels that goes"),
        "prune-heads": tr("Share of each layer's heads that goes"),
        "prune-weights": tr("Share of weights that is zero afterwards"),
        "factorize": tr("Share of each layer's parameters that is saved"),
    }
    return tr("Amount"), meanings.get(method, tr("Share that goes"))


def choice_words(field: str, choice: Any, method: str, tr: Translate) -> tuple[str, str]:
    """A value of a field in words, and what it means."""
    if field == "criterion":
        name = fmt.criterion_name(choice, tr)
        return name[:1].upper() + name[1:], _criteria(method, tr).get(choice, "")
    if field == "multiple":
        return (tr("Any") if choice == 1 else tr("Multiples of %s") % choice), ""
    return _choices(tr).get((field, choice), (str(choice), ""))


def _criteria(method: str, tr: Translate) -> dict[str, str]:
    if method == "prune-weights":
        return {
            "l1": tr("Least magnitude first"),
            "l2": tr("Least square first, which ranks as the magnitude does"),
            "taylor": tr("Weight times gradient: what the loss would hardly miss; needs data"),
            "wanda": tr("Weight times the norm of its input; needs data"),
            "random": tr("Chance decides: what a criterion must beat"),
        }
    if method == "prune-heads":
        return {
            "l2": tr("Least L2 norm of what the head puts into the output first"),
            "random": tr("Chance decides: what a criterion must beat"),
        }
    return {
        "l1": tr("Least sum of magnitudes of the filters first"),
        "l2": tr("Least L2 norm of the filters first"),
        "bn-scale": tr("Least scale of the batch norm behind the layer first"),
        "fpgm": tr("Filters nearest to the geometric median first: others can stand in for them"),
        "taylor": tr("Weight times gradient: what the loss would hardly miss; needs data"),
        "activation": tr("Least mean magnitude of the output first; needs data"),
        "lamp": tr("Least share of what is left of the layer first, so that layers compare"),
        "random": tr("Chance decides: what a criterion must beat"),
    }


def _choices(tr: Translate) -> dict[tuple[str, Any], tuple[str, str]]:
    return {
        ("spread", "layer"): (
            tr("Each layer its share"),
            tr("Every selected layer loses the same share"),
        ),
        ("spread", "global"): (
            tr("One ranking over all"),
            tr("The least important of all selected layers together go, wherever they are"),
        ),
        ("spread", "energy"): (
            tr("More where energy goes"),
            tr("Layers that take much modelled energy lose more, the others less"),
        ),
        ("form", "channel"): (
            tr("Narrow, then 1×1"),
            tr("A convolution with fewer channels, and a 1×1 behind it (Zhang et al., 2016)"),
        ),
        ("form", "spatial"): (
            tr("Column, then row"),
            tr("A vertical kernel in front of a horizontal one (Jaderberg et al., 2014)"),
        ),
        ("optimizer", "sgd"): ("SGD", ""),
        ("optimizer", "adamw"): ("AdamW", ""),
    }
