"""Secateur's own speed: each figure beside its goal, and beside a peer where there is one.

    python tests/bench/run.py [--reduced] [--json]

Nothing here fails a build: machines differ, and ratios to a peer in the same run say more.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import energy  # noqa: E402
import onnx_agreement  # noqa: E402
import pruning  # noqa: E402
import quantization  # noqa: E402
import sensitivity  # noqa: E402
from figures import Figure, alternately, report  # noqa: E402


def main() -> int:
    """Take all figures and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reduced", action="store_true", help="fewer runs, for a quick look")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # the peers' deprecations are not our figures
    runs = 3 if options.reduced else 11
    figures = [
        *window(2 if options.reduced else 5),
        *tracing(runs, MODELS[:2] if options.reduced else MODELS),
        *edits(runs),
        *evaluation(runs),
        *evaluation_again(options.reduced),
        *profiling(),
        *energy.modelling(3 if options.reduced else 7),
        *energy.peers(3 if options.reduced else 7),
        *pruning.figures(options.reduced),
        *quantization.figures(options.reduced),
        *onnx_agreement.figures(options.reduced),
        *sensitivity.figures(options.reduced),
    ]
    report(figures, options.json)
    return 0


def window(runs: int) -> Iterator[Figure]:
    """Start the application, and time the first paint and the loaded demo."""
    starts = [start_once() for _ in range(runs)]
    for key, name, goal in (
        ("visible", "start to visible window", 1.0),
        ("loaded", "start to loaded demo", 6.0),
    ):
        yield Figure(name, statistics.median(one[key] for one in starts), goal)


def start_once() -> dict[str, float]:
    """Seconds from the start of the process to the two moments, as the application tells them."""
    with tempfile.TemporaryDirectory() as home:
        environment = {
            **os.environ,
            "QT_QPA_PLATFORM": os.environ.get("QT_QPA_PLATFORM", "offscreen"),
            "SECATEUR_TIMING": "1",
            "XDG_CONFIG_HOME": home,
        }
        command = [sys.executable, str(ROOT / "main.py"), "window", "demo"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            process.terminate()
        return dict(json.loads(line))


MODELS = (
    ("ResNet-50", "resnet50", 224),
    ("EfficientNet-B7", "efficientnet_b7", 600),
    ("Swin-B", "swin_b", 224),
    ("ViT-H/14", "vit_h_14", 224),
)
"""Title, torchvision's name and side of the picture, smaller models first."""


def tracing(runs: int, models: tuple[tuple[str, str, int], ...]) -> Iterator[Figure]:
    """Count MACs by layer, as fvcore and torch's own counter do."""
    for at, (title, name, side) in enumerate(models):
        model, inputs = built(name, side)
        # The peers take seconds a run on the larger ones.
        yield from tracing_of(f"trace {title} (layers, shapes, MACs)", model, inputs, runs >> at)


def tracing_of(name: str, model, inputs, runs: int) -> Iterator[Figure]:
    """Trace one model beside both peers."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from engine.tracing import trace

    def ours() -> None:
        trace(model, inputs)

    def torchs() -> None:
        with torch.no_grad(), FlopCounterMode(display=False):
            model(*inputs)

    seconds, peer = alternately(ours, torchs, max(runs, 1))
    yield Figure(name, seconds, 1.5, "FlopCounterMode", peer, "the peer computes, ours does not")
    try:
        import logging

        from fvcore.nn import FlopCountAnalysis
    except ImportError:
        yield Figure(name, seconds, 1.0, note="fvcore is not installed: no peer")
        return
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    fvcores = lambda: FlopCountAnalysis(model, inputs).total()  # noqa: E731
    seconds, peer = alternately(ours, fvcores, max(runs, 1))
    yield Figure(name, seconds, 1.0, "fvcore", peer)


def profiling() -> Iterator[Figure]:
    """How far the sum over the layers is from the whole model, and what one clock costs."""
    import torch

    from engine.job import Job
    from engine.metrics import overhead_of
    from engine.profiling.latency import measure_latency
    from engine.profiling.running import following

    for title, name, goal in (
        ("ResNet-50", "resnet50", 1.1),
        ("MobileNetV3-Large", "mobilenet_v3_large", 1.25),
    ):
        found = overhead_of(measure_latency(*built(name, 224), Job()))
        assert found is not None
        # Too little is as wrong as too much: a busy machine stalls the whole more than its parts.
        apart = found.whole + abs(found.difference)
        words = f"the layers sum to {found.share:+.1%}; {found.cause}"
        yield Figure(
            f"{title}, off by what its layers sum to", apart, goal, "whole", found.whole, words
        )
    layer, marks, calls = torch.nn.Identity(), [], 2000

    def bare() -> None:
        for _ in range(calls):
            layer(None)

    def clocked() -> None:
        marks.clear()
        with following(layer, lambda _: marks.append(time.perf_counter())):
            bare()

    with_clock, without = alternately(clocked, bare, 5)
    cost = (with_clock - without) / calls
    yield Figure("clock around one call of a layer", cost, 5e-6)


def edits(runs: int) -> Iterator[Figure]:
    """Edit ResNet-50 as a session does, and as the libraries do without session or undo."""
    import copy

    import torch_pruning
    from torch.nn.utils import prune

    from engine.edits import PruneChannels, PruneWeights
    from engine.job import Job
    from engine.layers import LayerId
    from engine.session import open_model

    model, inputs = built("resnet50", 224)
    session = open_model("resnet50", Job())
    layer = LayerId("layer3.2.conv2")

    def zero_weights() -> None:
        session.apply(PruneWeights((layer,), 0.5), Job())
        session.undo(Job())

    def torchs() -> None:
        # What torch offers instead of undo: a copy of the model, pruned.
        copied = copy.deepcopy(model)
        module = copied.get_submodule(layer)
        prune.l1_unstructured(module, "weight", amount=0.5)
        prune.remove(module, "weight")

    seconds, peer = alternately(zero_weights, torchs, runs)
    yield Figure(
        "zero half of a ResNet-50 layer and undo", seconds, 2.0, "deepcopy + prune", peer,
        "ours re-traces and re-counts",
    )  # fmt: skip

    def cut_channels() -> None:
        session.apply(PruneChannels((layer,), 0.3), Job())
        session.undo(Job())

    def torch_prunings() -> None:
        copied = copy.deepcopy(model)
        graph = torch_pruning.DependencyGraph().build_dependency(copied, inputs)
        module = copied.get_submodule(layer)
        graph.get_pruning_group(
            module, torch_pruning.prune_conv_out_channels, list(range(77))
        ).prune()

    seconds, peer = alternately(cut_channels, torch_prunings, runs)
    yield Figure(
        "cut channels of a ResNet-50 layer and undo", seconds, 1.0, "torch-pruning", peer,
        "ours also checks the law",
    )  # fmt: skip


def evaluation(runs: int) -> Iterator[Figure]:
    """Evaluate the demo again after an edit, beside a bare loop over the same batches."""
    import torch

    from engine.edits import PruneChannels
    from engine.job import Job
    from engine.layers import LayerId
    from engine.requests import OpenRequest
    from engine.session import open_model
    from engine.sources.opening import open_source

    session = open_model("demo", Job())
    session.apply(PruneChannels((LayerId("stage1.block0.conv2"),), 0.3), Job())
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "pruned.safetensors")
        session.export(path, "checkpoint", Job())
        model = open_source(OpenRequest(path), Job()).model
    from engine.datasets import digits

    split = digits().validation
    session.evaluate(Job())

    def bare() -> float:
        with torch.inference_mode():
            found = sum(
                int((model(images).argmax(1) == labels).sum())
                for images, labels in zip(
                    split.images.split(64), split.labels.split(64), strict=True
                )
            )
        return found / len(split)

    seconds, peer = alternately(lambda: session.evaluate(Job()), bare, runs)
    yield Figure("re-evaluate the edited demo, 450 images", seconds, 1.5, "bare loop", peer)
    started = time.perf_counter()
    session.measure_latency(Job())
    yield Figure("measure latency, by layer", time.perf_counter() - started, 2.0)


def evaluation_again(reduced: bool) -> Iterator[Figure]:
    """Evaluate after an edit from its layer on, beside whole evaluations of the same state."""
    from engine.edits import PruneChannels
    from engine.evaluate import Evaluator, evaluate
    from engine.job import Job
    from engine.layers import LayerId
    from engine.session import open_model

    samples = 32 if reduced else 256
    model, _ = built("resnet18", 224)
    data, job = pictures(samples), Job()
    evaluator = Evaluator(data)
    evaluator.evaluate(model, job)
    edited = with_other_weights(model, "layer4.0.conv1")
    started = time.process_time()
    evaluator.evaluate(edited, job)
    seconds = time.process_time() - started
    started = time.process_time()
    evaluate(edited, data, job)
    yield Figure(
        f"re-evaluate after an edit in layer4 of ResNet-18, {samples} images", seconds, 1 / 3,
        "whole evaluation", time.process_time() - started, "seconds of processor",
    )  # fmt: skip
    for name in () if reduced else ("resnet18", "mobilenet_v2", "resnet50"):
        yield scan(name, pictures(32))
    session = open_model("demo", job)
    layer = LayerId("stage1.block1.conv1")
    session.preview_accuracy(PruneChannels((layer,), 0.1), job)
    times = []
    for at in range(2, 7):
        edit = PruneChannels((layer,), at / 10)
        started = time.perf_counter()
        session.preview_accuracy(edit, job)
        times.append(time.perf_counter() - started)
    yield Figure("accuracy of the demo as a slider moves", statistics.median(times), 0.2)


def scan(name: str, data) -> Figure:
    """Change some twenty convolutions, one at a time, and judge every state."""
    import torch

    from engine.evaluate import Evaluator, evaluate
    from engine.job import Job

    model, _ = built(name, 224)
    layers = [one for one, module in model.named_modules() if isinstance(module, torch.nn.Conv2d)]
    layers = layers[:: max(1, len(layers) // 20)]
    started = time.process_time()
    evaluate(model, data, Job())
    whole = (time.process_time() - started) * (len(layers) + 1)
    evaluator = Evaluator(data)
    started = time.process_time()
    for layer in layers:
        evaluator.compare(model, with_other_weights(model, layer), Job())
    seconds = time.process_time() - started
    words = f"{whole / seconds:.1f}x faster over {len(layers)} layers, in seconds of processor"
    return Figure(f"scan of {name}'s convolutions", seconds, 0.5, "whole each", whole, words)


def pictures(count: int):
    """Noise to judge by."""
    import torch

    from engine.datasets import DataSet, Split

    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, 224, 224, generator=generator)
    split = Split(images, torch.randint(1000, (count,), generator=generator))
    return DataSet("noise", (), split, split, "noise")


def with_other_weights(model, layer: str):
    """Another state of the model: half the weights in one layer."""
    import torch

    from engine.sharing import share

    edited = share(model)
    module = edited.get_submodule(layer)
    module.weight = torch.nn.Parameter(module.weight.detach() / 2)
    return edited


def built(name: str, side: int):
    """A model of torchvision's with random weights, and its input."""
    import torchvision

    from engine.requests import InputSpec
    from engine.tracing import sample_inputs

    model = torchvision.models.get_model(name, weights=None).eval()
    return model, sample_inputs([InputSpec((1, 3, side, side))])


if __name__ == "__main__":
    sys.exit(main())
