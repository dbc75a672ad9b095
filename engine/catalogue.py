"""The table of models to choose from, as plain data; :mod:`engine.sources` fills it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class CatalogueEntry:
    """One model with one set of published weights (or with none).

    Absent is None, never zero.

    Attributes:
        name: such as ``resnet50``.
        source: what opens it, such as ``torchvision:resnet50@IMAGENET1K_V2``.
        task: ``classification``, ``segmentation``, ``detection``, ``video``, ``optical flow``.
        family: models of one family are joined by a line in the scatter, in order of MACs.
        weights: name of the weights entry; "" when nothing is published.
        metric: name of the published accuracy's metric and data, such as ``ImageNet-1K acc@1``.
        accuracy: published, in the metric's own unit (percent for top-1, mAP, mIoU).
        input_size: height and width, with frames first for video.
        parameters, macs: published; MACs of one sample.
        file_size: bytes of the weights file.
        cached: whether the weights are on this machine.
        origin: where the figures come from.
    """

    name: str
    source: str
    task: str
    family: str
    weights: str = ""
    metric: str = ""
    accuracy: float | None = None
    input_size: tuple[int, ...] = ()
    parameters: int | None = None
    macs: int | None = None
    file_size: int | None = None
    cached: bool = False
    origin: str = "torchvision"


@dataclass(frozen=True)
class CatalogueCost:
    """What was modelled or measured for one entry on request.

    Attributes:
        energy: joules per inference, modelled on ``hardware``.
        latency: seconds, median on this machine; with the middle half of the runs.
        problem: why a figure is missing, in words.
    """

    energy: float | None = None
    hardware: str = ""
    latency: float | None = None
    latency_low: float | None = None
    latency_high: float | None = None
    problem: str = ""


def pareto_front(
    items: Iterable[T], cost: Callable[[T], float], gain: Callable[[T], float]
) -> list[T]:
    """The items that no other beats in both: sorted by rising cost, and so by rising gain."""
    front: list[T] = []
    for item in sorted(items, key=lambda one: (cost(one), -gain(one))):
        if not front or gain(item) > gain(front[-1]):
            front.append(item)
    return front
