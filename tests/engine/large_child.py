"""Edits a model of a billion parameters, mapped onto a file, and tells what memory each took.

Run by a test in a process of its own: its folder by the first argument; answers in JSON.
"""

import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.edits import Edit, MaskWeights, PruneByMethod, PruneChannels, PruneWeights
from engine.job import Job
from engine.layers import LayerId
from engine.session import open_model
from engine.user_code import allow_here

WIDTH, BLOCKS, HEADS = 4096, 10, 32
NAMES = ("query", "key", "value", "out", "up", "down")
COUNT = BLOCKS * len(NAMES) * WIDTH * WIDTH
LAYER_BYTES = WIDTH * WIDTH * 2


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name in NAMES:
            self.add_module(name, nn.Linear(WIDTH, WIDTH, bias=False, dtype=torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        heads = [
            one(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for one in (self.query, self.key, self.value)
        ]
        mixed = nn.functional.scaled_dot_product_attention(*heads)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(self.up(x).relu())


def build(path: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A decoder whose weights are those of the file, read when they are needed."""
    with torch.device("meta"):
        model = nn.Sequential(*(Block() for _ in range(BLOCKS)))
    whole = torch.from_file(path, size=COUNT, dtype=torch.bfloat16)
    layers = [one for one in model.modules() if isinstance(one, nn.Linear)]
    for layer, values in zip(layers, whole.split(WIDTH * WIDTH), strict=True):
        layer.weight = nn.Parameter(values.view(WIDTH, WIDTH), requires_grad=False)
    return model, (torch.randn(1, 8, WIDTH, dtype=torch.bfloat16),)


def write_weights(path: Path) -> None:
    """Random ones for the first block, and zeros as holes, which take no room on the disk."""
    first = torch.randn(len(NAMES) * WIDTH * WIDTH).mul_(0.02).bfloat16()
    with path.open("wb") as file:
        file.write(first.view(torch.uint8).numpy().data)
        file.truncate(COUNT * 2)


@contextmanager
def peak(found: dict[str, int]) -> Iterator[None]:
    """Most anonymous memory meanwhile, beyond what there was: pages of the file can be dropped."""
    done = threading.Event()
    start = anonymous()
    found["peak"] = 0

    def watch() -> None:
        while not done.wait(0.001):
            found["peak"] = max(found["peak"], anonymous() - start)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        found["stays"] = anonymous() - start


def anonymous() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) << 10


def edits(folder: Path) -> dict[str, Edit]:
    layer = (LayerId("0.up"),)
    return {
        "unstructured": PruneWeights(layer, 0.5),
        "2:4": PruneWeights(layer, 0.0, keep=2, of=4),
        "random": PruneWeights(layer, 0.5, "random"),
        "global over two": PruneWeights((*layer, LayerId("0.down")), 0.5, spread="global"),
        "by energy over two": PruneWeights((*layer, LayerId("0.down")), 0.5, spread="energy"),
        "a mask from a file": MaskWeights(layer, str(folder / "mask.npy")),
        "a method of torch's": PruneByMethod(layer, "L1Unstructured", 0.5),
        "channels": PruneChannels(layer, 0.5),
        "channels at random": PruneChannels(layer, 0.5, "random"),
    }


def main(folder: Path) -> None:
    import numpy as np

    torch.set_num_threads(1)
    np.save(folder / "mask.npy", np.random.default_rng(0).random((WIDTH, WIDTH)) < 0.5)
    warm = open_model("demo", Job())  # what is imported on first use is no memory of an edit
    warm.apply(PruneWeights((LayerId("head.fc"),), 0.5), Job())
    warm.apply(PruneChannels((LayerId("stem.conv"),), 0.5), Job())
    write_weights(folder / "weights.bin")
    allow_here([hashlib.sha256(Path(__file__).read_bytes()).hexdigest()])
    answer: dict[str, dict[str, int]] = {"opening": {}}
    with peak(answer["opening"]):
        session = open_model(f"{__file__}:build(path={str(folder / 'weights.bin')!r})", Job())
    count = sum(one.parameters for one in session.snapshot.base.tree)
    answer["parameters"] = {"peak": count}
    for name, edit in edits(folder).items():
        found = answer[name] = {}
        with peak(found):
            session.preview(edit, Job())
            session.apply(edit, Job())
        session.undo(Job())
        session._drop_states()
    print(json.dumps({"layer": LAYER_BYTES, **answer}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
