"""Measures what torch-pruning does with torchvision's models, for the table beside ours.

    python -m tests.engine.pruning_peer

Takes an hour; each model is a process of its own, since on some torch-pruning does not end.
"""

import json
import signal
import subprocess
import sys
import time
import warnings
from importlib.metadata import version
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from tests.engine.pruning_models import MODELS, SEGMENTATION, built, pixels_of
from tests.engine.pruning_table import PEER, ROOT

LIMIT = 20.0
"""Seconds of processor time for all that is asked of one model."""

_OUTPUTS = ("AuxLogits.fc", "aux1.fc2", "aux2.fc2", "low_classifier", "high_classifier")


class TooSlow(Exception):
    """Its time is up."""


def measured(name: str) -> dict[str, Any]:
    """Seconds that the plan and pruning took, and what went wrong; "" if nothing did."""

    def strike(*_: object) -> None:
        raise TooSlow

    model, inputs = built(name), torch.randn(1, 3, pixels_of(name), pixels_of(name))
    signal.signal(signal.SIGPROF, strike)
    start, error = time.process_time(), ""
    # Again and again, as what strikes once may be swallowed.
    signal.setitimer(signal.ITIMER_PROF, LIMIT, 1.0)
    try:
        with warnings.catch_warnings(action="ignore"):
            error = _prune(model, inputs, name in SEGMENTATION)
    except TooSlow:
        error = _too_slow()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return {"error": error, "seconds": round(time.process_time() - start, 2)}


def _prune(model: nn.Module, inputs: Tensor, is_segmentation: bool) -> str:
    forward = (lambda model, x: model(x)["out"]) if is_segmentation else None
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _ConvNd | nn.Linear)
    }
    try:
        graph = torch_pruning.DependencyGraph()
        graph.build_dependency(model, inputs, forward_fn=forward, verbose=False)
        for module in layers.values():
            if module in graph.module2node:
                pruner = graph.get_pruner_of_module(module)
                every = list(range(pruner.get_out_channels(module)))
                graph.get_pruning_group(module, pruner.prune_out_channels, every)
    except Exception as error:  # whatever it stumbles over
        return f"plan fails: {_said(error)}"
    last = {name for name in layers if name.endswith(_OUTPUTS)} | {_last(layers)}
    if is_segmentation:
        last |= {name for name in layers if name.endswith("classifier.4")}
    try:
        torch_pruning.pruner.MagnitudePruner(
            model, inputs, torch_pruning.importance.MagnitudeImportance(p=2), pruning_ratio=0.5,
            ignored_layers=[layers[name] for name in last], forward_fn=forward,
        ).step()  # fmt: skip
        with torch.no_grad():
            model(inputs)
    except Exception as error:
        return f"pruned, it fails: {_said(error)}"
    return ""


def _last(layers: dict[str, nn.Module]) -> str:
    """The layer that puts the classes out: none is registered behind it but auxiliary heads."""
    main = [name for name in layers if "aux" not in name.lower()]
    return next((name for name in main if name in ("fc", "head")), main[-1])


def _said(error: Exception) -> str:
    if isinstance(error, TooSlow):
        raise error
    return f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0][:80]}"


def _too_slow() -> str:
    return f"over {LIMIT:.0f} s"


def main() -> None:
    """Measure every model and write the file."""
    found = {}
    for name in MODELS:
        script = (
            "import json; from tests.engine.pruning_peer import measured; "
            f"print(json.dumps(measured({name!r})))"
        )
        try:
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", script],
                cwd=ROOT, capture_output=True, text=True, check=True, timeout=20 * LIMIT,
            )  # fmt: skip
            found[name] = json.loads(done.stdout.splitlines()[-1])
        except subprocess.TimeoutExpired:
            found[name] = {"error": _too_slow(), "seconds": LIMIT}
    PEER.write_text(
        json.dumps(
            {"version": version("torch-pruning"), "limit_s": LIMIT, "models": found}, indent=1
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
