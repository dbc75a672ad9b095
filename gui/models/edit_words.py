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
    "quantize": ("quantize", "cast", "equalize", "smooth"),
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
            tr("Fewer bits for weights and inputs: integers calibrated on data, or 16-bit floats"),
        ),
    }


def way_words(tr: Translate) -> dict[str, tuple[str, str]]:
    """The kinds of a family of several, in a few words, and what each does."""
    return {
        "prune-weights": (tr("A criterion"), tr("The least important by a criterion go")),
        "mask-weights": (tr("A mask in a file"), tr("A file says which weights go")),
        "prune-by-method": (
            tr("A method of torch or your own"),
            tr("A method of torch.nn.utils.prune, or a class of the same kind, says which go"),
        ),
        "quantize": (
            tr("Round to integers"),
            tr("Weights and inputs on grids of 2 to 16 bits, with explicit scales"),
        ),
        "cast": (
            tr("Cast to 16-bit floats"),
            tr("Half the bits and hardly a loss, where the hardware computes with them"),
        ),
        "equalize": (
            tr("Equalize first"),
            tr(
                "Even out the ranges of channels between two layers; the outputs stay the same"
                " (Nagel et al., 2019)"
            ),
        ),
        "smooth": (
            tr("Smooth first"),
            tr(
                "Move outliers of the input into the weights; the outputs stay the same"
                " (SmoothQuant, Xiao et al., 2023)"
            ),
        ),
    }


def way_title(family: str, tr: Translate) -> tuple[str, str]:
    """What stands before the ways of a family, and its explanation."""
    if family == "quantize":
        tip = tr("Rounding itself, or what is done before it so that rounding loses less")
        return tr("Step"), tip
    return tr("Chosen by"), tr("What says which weights go")


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
        **_rounding_fields(tr),
    }
    words["ratio"] = amount_words(method, "layer", tr)
    if method == "smooth":
        words["samples"] = tr("Samples"), tr("Training samples whose outliers are looked for")
    return words


def _rounding_fields(tr: Translate) -> dict[str, tuple[str, str]]:
    return {
        "weight_bits": (
            tr("Weight bits"),
            tr("Bits of each weight, 2 to 16; 7 is the reduced range that old CPUs ask for"),
        ),
        "activations": (tr("Inputs"), tr("How the range of a layer's input is found")),
        "granularity": (tr("Granularity"), tr("How many weights share a scale")),
        "group_size": (
            tr("Group size"),
            tr("The most weights that share a scale; each layer takes the largest that divides"),
        ),
        "weight_symmetric": (
            tr("Symmetric weights"),
            tr("The zero point of weights is 0, as most integer kernels ask for"),
        ),
        "weight_observer": (
            tr("Weight range"),
            tr("How far the grid of the weights reaches; what lies beyond is clipped"),
        ),
        "rounding": (tr("Rounding"), tr("Which of its two neighbours on the grid a weight takes")),
        "activation_bits": (tr("Input bits"), tr("Bits of each value of an input")),
        "activation_symmetric": (
            tr("Symmetric inputs"),
            tr("The zero point of inputs is 0; behind a ReLU half of the grid is wasted then"),
        ),
        "observer": (
            tr("Input range"),
            tr("How far the grid of an input reaches; what lies beyond is clipped"),
        ),
        "percentile": (
            tr("Percentile"),
            tr("Share of the values, in percent, that stays within the range"),
        ),
        "bias_correction": (
            tr("Bias correction"),
            tr("Shift each bias by the mean error of the output (Nagel et al., 2019)"),
        ),
        "calibration_samples": (
            tr("Samples"),
            tr("Training samples that calibration and repair look at"),
        ),
        "dtype": (tr("Type"), tr("16-bit floating point of weights, inputs and outputs")),
        "strength": (
            tr("Strength"),
            tr("SmoothQuant's alpha: how much of the difficulty moves from inputs to weights"),
        ),
    }


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
        **_rounding_choices(tr),
        ("optimizer", "sgd"): ("SGD", ""),
        ("optimizer", "adamw"): ("AdamW", ""),
    }


def _rounding_choices(tr: Translate) -> dict[tuple[str, Any], tuple[str, str]]:
    observers = {
        "min-max": (
            tr("Min–max"),
            tr("From the least to the most that occurs: nothing is clipped"),
        ),
        "percentile": (tr("Percentile"), tr("A share of the values; the outliers are clipped")),
        "mse": (
            tr("Least squared error"),
            tr("Where clipping and rounding together cost the least mean squared error"),
        ),
    }
    both = ("weight_observer", "observer")
    return {
        **{(field, one): words for field in both for one, words in observers.items()},
        ("granularity", "tensor"): (
            tr("Per tensor"),
            tr("One scale for all weights of a layer: the channel of the widest range sets it"),
        ),
        ("granularity", "channel"): (
            tr("Per channel"),
            tr("One scale for each output channel, as most integer kernels take them"),
        ),
        ("granularity", "group"): (
            tr("Per group"),
            tr("One scale for so many weights of a row: finer, for few bits in large layers"),
        ),
        ("rounding", "nearest"): (tr("Nearest"), tr("Each weight to the nearest step")),
        ("rounding", "gptq"): (
            "GPTQ",
            tr("Later columns make up for the error of earlier ones (Frantar et al., 2023)"),
        ),
        ("rounding", "adaround"): (
            "AdaRound",
            tr(
                "Learns whether each weight goes up or down (Nagel et al., 2020); takes minutes,"
                " in the background"
            ),
        ),
        ("activations", "static"): (
            tr("Static range"),
            tr(
                "One range for all samples, from calibration: what integer hardware is fastest with"
            ),
        ),
        ("activations", "dynamic"): (
            tr("Dynamic range"),
            tr("Each sample has its own, found as it comes: exact, but slower"),
        ),
        ("activations", "none"): (
            tr("Float (weights only)"),
            tr("Inputs stay in float; what is saved is memory"),
        ),
        ("activation_bits", 8): (tr("8 bits"), tr("What integer hardware computes with")),
        ("activation_bits", 16): (
            tr("16 bits"),
            tr("Hardly a loss; few integer kernels take them, and energy is higher"),
        ),
        ("dtype", "float16"): (
            tr("FP16 (half)"),
            tr("11 bits of precision; overflows beyond 65,504"),
        ),
        ("dtype", "bfloat16"): (
            tr("BF16 (brain float)"),
            tr("8 bits of precision, over the whole range of float32"),
        ),
    }
