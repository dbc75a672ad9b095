"""Writes the table of what can be pruned in each of torchvision's models.

    python -m tests.engine.pruning_table

What torch-pruning does was measured once (``tests/data/torch_pruning.json`` says with which
version) on the same models at the same inputs.
"""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from engine.layers import LayerId
from engine.pruning.coupling import Coupling
from tests.engine.pruning_models import MODELS, outlined, pixels_of

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "resources" / "help" / "pruning_table.md"
PEER = ROOT / "tests" / "data" / "torch_pruning.json"

_REASONS = (
    ("model's output", "put out the result"),
    ("heads of the attention", "hold attention heads"),
    ("takes its own width", "read by attention of a fixed width"),
    ("equal parts|parts of one width", "tied into one by channel shuffles"),
    ("not used", "run in training alone"),
    ("cannot shrink", "meet what cannot shrink"),
)

_HEAD = """# What can be pruned

Every classification and segmentation model of torchvision, at the smallest input that it takes.
*Layers* are convolutions and linear layers; *prunable* are those whose output channels can be
removed, with all that is coupled to them, in that many *groups*. For every group the pruned model
puts out what the masked one does, within 1e-9 of its largest output in float64.

Attention heads are removed by an edit of their own. A layer that attention reads keeps its width
while torch's or torchvision's module insists on it; after heads have been removed it need not.

torch-pruning {version}, as it comes: its dependency graph is built, the group of every layer is
asked for, and half of all channels are pruned by its magnitude pruner, the output layer left alone.
*Runs* means that the pruned model takes its input. It has {limit:.0f} s of processor time.

| Model | Layers | Prunable | Groups | The others | torch-pruning {version} |
| --- | --- | --- | --- | --- | --- |
"""


def row(name: str) -> str:
    """One line of the table."""
    model = outlined(name)
    coupling = Coupling(model, (torch.zeros(1, 3, pixels_of(name), pixels_of(name)),))
    layers = [
        LayerId(path)
        for path, module in model.named_modules()
        if isinstance(module, _ConvNd | nn.Linear)
    ]
    reasons = [reason for layer in layers if (reason := coupling.why_not(layer))]
    others = Counter(map(_short, reasons))
    words = "; ".join(f"{count} {reason}" for reason, count in others.most_common())
    prunable = len(layers) - len(reasons)
    cells = name, len(layers), prunable, len(coupling.groups()), words, _of_peer(_peer()[name])
    return f"| {' | '.join(map(str, cells))} |"


def _short(reason: str) -> str:
    for pattern, short in _REASONS:
        if re.search(pattern, reason):
            return short
    return reason


def _peer() -> dict[str, Any]:
    models: dict[str, Any] = json.loads(PEER.read_text())["models"]
    return models


def _of_peer(found: dict[str, Any]) -> str:
    if found["error"]:
        return str(found["error"])
    return f"runs, {found['seconds']:.1f} s"


def table() -> str:
    """The page."""
    said = json.loads(PEER.read_text())
    head = _HEAD.format(version=said["version"], limit=said["limit_s"])
    return head + "\n".join(map(row, MODELS)) + "\n"


if __name__ == "__main__":
    TABLE.write_text(table())
