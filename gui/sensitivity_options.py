"""Options of the command line that say what a scan of sensitivity is to look at. No Qt."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from engine import (
    SENSITIVITY_FORMATS,
    Edit,
    EngineError,
    LayerTree,
    ScanRequest,
    activations_setting,
    bits_setting,
    channels_setting,
    weights_setting,
)

_MAKE: Mapping[str, Callable[[float], Edit]] = {
    "channels": lambda percent: channels_setting(percent / 100),
    "weights": lambda percent: weights_setting(percent / 100),
    "bits": lambda bits: bits_setting(int(bits)),
    "inputs": lambda bits: activations_setting(int(bits)),
}
_EXAMPLE = "Give such as channels=20,40 weights=50,90 bits=8,4 inputs=8."
_DIRECTIONS = {"only": "only this", "all-but": "all but this"}
_HOLDS = {
    "json": "all of the map, which can be opened again",
    "csv": "a line for each layer and setting",
    "distiller": "sparsities, as Distiller's sensitivity CSV",
}


def add_sensitivity(parser: argparse.ArgumentParser) -> None:
    """Add what a scan is asked for by, and the files that it is written to."""
    parser.add_argument(
        "--settings",
        nargs="+",
        metavar="KIND=N,…",
        help="what is tried: channels or weights in percent that go, bits of weights alone, bits "
        "of inputs with weights in 8; such as channels=20,40 weights=50 bits=8,4 inputs=8",
    )
    parser.add_argument(
        "--layers",
        action="append",
        default=[],
        metavar="PATTERN",
        help="look at these alone, such as “stage2.*”; once for each",
    )
    parser.add_argument(
        "--direction",
        choices=tuple(_DIRECTIONS),
        default="only",
        help="change only one layer at a time, or all but one (default: only)",
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=256,
        metavar="N",
        help="of the training split, at most (default: 256)",
    )
    for form in SENSITIVITY_FORMATS:
        parser.add_argument(
            f"--{form}", type=Path, metavar="FILE", help=f"write the map here: {_HOLDS[form]}"
        )


def request_of(options: argparse.Namespace, usual: ScanRequest, tree: LayerTree) -> ScanRequest:
    """The scan that the options ask for.

    Raises:
        EngineError: a setting is not understood.
        InvalidSelection: a pattern matches no layer.
    """
    return replace(
        usual,
        settings=usual.settings if options.settings is None else settings_of(options.settings),
        layers=tree.select(options.layers) if options.layers else (),
        direction=_DIRECTIONS[options.direction],  # type: ignore[arg-type]
        samples=options.samples,
        first=max(1, min(usual.first, options.samples)),
    )


def settings_of(words: Sequence[str]) -> tuple[Edit, ...]:
    """The settings that words such as ``bits=8,4`` stand for.

    Raises:
        EngineError: a word is not understood.
    """
    found = []
    for word in words:
        kind, _, values = word.partition("=")
        if kind not in _MAKE or not values:
            raise EngineError(f"“{word}” is no setting.", _EXAMPLE)
        found += [_MAKE[kind](_number(value, word)) for value in values.split(",")]
    return tuple(dict.fromkeys(found))


def _number(value: str, word: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise EngineError(f"“{value}” in “{word}” is no number.", _EXAMPLE) from error
