"""Options of the command line that say how a model is to be recovered. No Qt."""

import argparse
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from engine import ROOT, EngineError, FineTune, LayerId, LayerTree, RecalibrateNorms

_HELP: Mapping[str, str] = {
    "epochs": "times over the training split; 0: no training",
    "learning_rate": "at the start",
    "optimizer": "SGD with Nesterov's momentum of 0.9, or AdamW",
    "schedule": "of the learning rate: down to 0 along a cosine, or constant",
    "weight_decay": "of weights; biases and norms do not decay",
    "distillation": "share of the loss that follows the base model's outputs, 0 to 1",
    "temperature": "that distillation softens outputs by",
    "batch": "samples in a step",
    "samples": "of the training split to train on; 0: all",
    "seed": "of the order of samples and of what is held out",
    "device": "cpu, cuda, cuda:1 or mps",
}


def add_recovery(parser: argparse.ArgumentParser) -> None:
    """Add an option for each field of fine-tuning, and those around it."""
    parser.add_argument(
        "--layers",
        action="append",
        metavar="PATTERN",
        help="train only these, such as “stage2.*”; once for each",
    )
    parser.add_argument(
        "--recalibrate",
        action="store_true",
        help="measure the statistics of batch norms anew before training",
    )
    for name, (kind, choices, default) in _settings().items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            choices=choices or None,
            default=default,
            metavar=None if choices else {int: "N", float: "X", str: "NAME"}[kind],
            help=f"{_HELP[name]} (default: {default})",
        )


def recovery_of(
    options: argparse.Namespace, tree: LayerTree
) -> tuple[RecalibrateNorms | FineTune, ...]:
    """The edits that the options ask for, in order.

    Raises:
        EngineError: they ask for none.
        InvalidSelection: a pattern matches no layer.
    """
    layers = (ROOT,) if options.layers is None else _outermost(tree.select(options.layers))
    wanted: list[RecalibrateNorms | FineTune] = []
    if options.recalibrate:
        wanted.append(RecalibrateNorms((ROOT,)))
    if options.epochs:
        settings = {name: getattr(options, name) for name in _settings()}
        wanted.append(FineTune(layers, **settings))
    if not wanted:
        raise EngineError(
            "Nothing is asked for: no epoch, and no recalibration.",
            "Give --epochs above 0, or --recalibrate.",
        )
    return tuple(wanted)


def _settings() -> dict[str, tuple[Any, tuple[str, ...], Any]]:
    """Type, choices and default of each field of fine-tuning but the layers."""
    hints = get_type_hints(FineTune)  # without the bounds: those are judged in words
    return {
        one.name: (
            str if get_origin(hints[one.name]) is Literal else hints[one.name],
            get_args(hints[one.name]) if get_origin(hints[one.name]) is Literal else (),
            one.default,
        )
        for one in fields(FineTune)
        if one.default is not MISSING
    }


def _outermost(layers: tuple[LayerId, ...]) -> tuple[LayerId, ...]:
    """Without those that lie below another: it stands for them."""
    return tuple(one for one in layers if not any(one.startswith(f"{other}.") for other in layers))
