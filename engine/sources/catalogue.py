"""The catalogue's rows, from what torchvision and timm publish; no model is built for them."""

import re
from collections.abc import Iterator
from math import isnan, nan
from typing import Any

from engine.catalogue import CatalogueEntry
from engine.job import Job
from engine.sources.architectures import CatalogueName
from engine.sources.libraries import timm_models, torchvision_models

# The first of these that weights publish is their accuracy.
_METRICS = ("acc@1", "miou", "box_map", "epe", "per_image_epe", "fl_all")

# The longest beginning decides.
_FAMILIES = {
    "alexnet": "AlexNet",
    "convnext": "ConvNeXt",
    "deeplabv3": "DeepLabV3",
    "densenet": "DenseNet",
    "efficientnet_b": "EfficientNet",
    "efficientnet_v2": "EfficientNetV2",
    "fasterrcnn": "Faster R-CNN",
    "fcn": "FCN",
    "fcos": "FCOS",
    "googlenet": "GoogLeNet",
    "inception": "Inception",
    "keypointrcnn": "Keypoint R-CNN",
    "lraspp": "LR-ASPP",
    "maskrcnn": "Mask R-CNN",
    "maxvit": "MaxViT",
    "mnasnet": "MNASNet",
    "mobilenet_v2": "MobileNetV2",
    "mobilenet_v3": "MobileNetV3",
    "mvit": "MViT",
    "r2plus1d": "R(2+1)D",
    "r3d": "ResNet 3D",
    "mc3": "ResNet MC",
    "raft": "RAFT",
    "regnet_x": "RegNetX",
    "regnet_y": "RegNetY",
    "resnet": "ResNet",
    "resnext": "ResNeXt",
    "retinanet": "RetinaNet",
    "s3d": "S3D",
    "shufflenet_v2": "ShuffleNetV2",
    "squeezenet": "SqueezeNet",
    "ssd": "SSD",
    "ssdlite": "SSDlite",
    "swin": "Swin",
    "swin3d": "Video Swin",
    "swin_v2": "Swin V2",
    "vgg": "VGG",
    "vit": "ViT",
    "wide_resnet": "Wide ResNet",
}


def catalogue_entries(job: Job | None = None) -> tuple[CatalogueEntry, ...]:
    """All models, with a row for each set of published weights and one for models without any."""
    job = job or Job()
    job.begin("Reading the catalogue of torchvision")
    rows = [row for name in torchvision_models.names() for row in _of_torchvision(name)]
    job.begin("Reading the catalogue of timm")
    rows += [_of_timm(name) for name in timm_models.names()]
    job.check()
    return tuple(rows)


def family_of(name: str) -> str:
    """The family of a torchvision model, such as ``EfficientNet``."""
    plain = name.removeprefix("quantized_")
    known = max((one for one in _FAMILIES if plain.startswith(one)), key=len, default="")
    family = _FAMILIES.get(known, plain)
    if plain.startswith("vgg") and plain.endswith("_bn"):
        family += " with batch norm"
    return family if plain == name else f"{family}, quantizable"


def _of_torchvision(name: str) -> Iterator[CatalogueEntry]:
    task, family = torchvision_models.task_of(name), family_of(name)
    for entry in torchvision_models.entries(name):
        source = CatalogueName("torchvision", name, weights=entry.name)
        meta = entry.meta
        metric, accuracy = _accuracy(meta.get("_metrics", {}))
        yield CatalogueEntry(
            name=name,
            source=str(source),
            task=task,
            family=family,
            weights=entry.name,
            metric=metric,
            accuracy=accuracy,
            input_size=_input_size(task, entry),
            parameters=meta.get("num_params"),
            macs=_scaled(meta.get("_ops"), 10**9),
            file_size=_scaled(meta.get("_file_size"), 1 << 20),
            cached=torchvision_models.published(source).file.is_file(),
        )


def _accuracy(metrics: dict[str, dict[str, float]]) -> tuple[str, float | None]:
    """Name and value of the published figure that stands for the others."""
    for wanted in _METRICS:
        for data, values in metrics.items():
            value = values.get(wanted, nan)
            if not isnan(value):  # as some publish it of weights without a classifier
                return f"{data} {wanted}", float(value)
    return "", None


def _input_size(task: str, entry: Any) -> tuple[int, ...]:
    size = torchvision_models.published_size(entry.transforms())
    if size is None:
        return ()
    return (torchvision_models.FRAMES, *size) if task == "video" else size


def _scaled(value: float | None, unit: int) -> int | None:
    return None if value is None else round(value * unit)


def _of_timm(name: str) -> CatalogueEntry:
    settings = timm_models.settings_of(name)
    weights = timm_models.PRETRAINED if timm_models.is_published(settings) else ""
    source = CatalogueName("timm", name, weights=weights)
    stem = re.match(r"[a-z]+?(?:v\d+)?(?=[\d_.]|$)", name)
    return CatalogueEntry(
        name=name,
        source=str(source),
        task="classification",
        family=stem[0] if stem else name,
        weights=settings.tag or weights if weights else "",
        input_size=tuple(settings.input_size[1:]),
        cached=bool(weights) and timm_models.published(source).file.is_file(),
        origin="timm",
    )
