"""Which kind of data set a request means, and how it is made to fit the model."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from engine.datasets import tensors, torchvision_classes
from engine.datasets.embedded import digits
from engine.datasets.factories import metric_of, open_factory
from engine.datasets.folders import open_folder, plain
from engine.datasets.pictures import IGNORED, shown
from engine.datasets.preparing import (
    described,
    preparation,
)
from engine.datasets.splits import DataSet, LazySplit, Sample, Samples, Stored
from engine.errors import DataSetMismatch, DataSetNotFound
from engine.job import Job
from engine.requests import METRIC_NAMES, DataRequest
from engine.state import ModelInfo, SamplePreview
from engine.user_code import names_function

_DATA_SETS: dict[str, Callable[[], DataSet]] = {"digits": digits}
_TRIED = 8  # samples that may be broken before the first whole one tells the data's form
_NAMED = 4


def load_data(request: DataRequest, info: ModelInfo, job: Job) -> DataSet:
    """The data that the request names, made to fit the model's input.

    Of pictures and of the user's own data sets nothing stays in memory but names.

    Raises:
        DataSetNotFound: there are none, or files or libraries are missing.
        DataSetUnreadable: a file is damaged.
        DataSetMismatch: the samples do not fit the model, or the metric does not fit them.
        ConsentNeeded: a factory's code has not been allowed to run.
    """
    job.begin("Reading the data set")
    data = _embedded(request, info) or _fitted(request, info, job)
    if request.most:
        held = data.validation.spread(request.most)
        said = f"{data.description} {len(held):,} of {len(data.validation):,} samples report."
        data = replace(data, validation=held, description=said)
    return _with_metric(data, request)


def preview(
    request: DataRequest, info: ModelInfo, count: int, job: Job
) -> tuple[SamplePreview, ...]:
    """At most ``count`` validation samples as the model would see them; broken ones are told.

    Raises:
        As :func:`load_data`.
    """
    data = load_data(replace(request, broken="skip"), info, job)
    chosen = data.validation.spread(count)
    return tuple(_shown(chosen, at, data) for at in job.track(range(len(chosen)), "Previewing"))


def _embedded(request: DataRequest, info: ModelInfo) -> DataSet | None:
    """One of those built in, if the request means one and takes it as it is."""
    load = _DATA_SETS.get(request.source)
    if load is None or request.preprocessing is not None:
        return None
    data = load()
    images, labels = next(data.validation.batches(1))
    preparation(data.name, request, info)(images[0], labels[0])  # says what does not fit
    return data


def _fitted(request: DataRequest, info: ModelInfo, job: Job) -> DataSet:
    stored = _stored(request, job)
    prepare = preparation(stored.name, request, info)
    skip = request.broken == "skip"
    training, validation = (
        LazySplit(source, prepare, skip, places)
        for source, places in (stored.training, stored.validation)
    )
    form = _form(validation, stored.name, job)
    pictures = prepare.chosen or not _is_prepared(stored)
    return DataSet(
        stored.name,
        stored.classes,
        training,
        validation,
        f"{stored.description} {described(prepare, info, pictures)}",
        preprocessing=prepare.how if pictures else None,
        pixelwise=form is not None and form[1].dim() == 2,
    )


def _stored(request: DataRequest, job: Job) -> Stored:
    source = request.source
    path = Path(source)
    if source in _DATA_SETS:
        return _rows_of(_DATA_SETS[source]())
    if source.startswith(torchvision_classes.PREFIX):
        return torchvision_classes.open_torchvision(source, job)
    if source and _is_folder(path):
        return open_folder(path, job)
    if path.suffix.lower() in tensors.SUFFIXES:
        return tensors.open_tensors(path)
    if names_function(source):
        return open_factory(source, request.trusted, job)
    known = ", ".join(f"“{known}”" for known in sorted(_DATA_SETS))
    raise DataSetNotFound(
        f"There is no data set “{plain(source)}”.",
        f"Choose one of those built in: {known}; a folder of pictures, torchvision:CLASS:FOLDER, "
        "a file of tensors (.npz, .safetensors), or a Python factory.",
    )


def _is_prepared(stored: Stored) -> bool:
    """Whether samples are numbers that somebody made of pictures already: bytes are pictures."""
    source, _ = stored.validation
    return isinstance(source, tensors.Rows) and source.inputs.dtype != torch.uint8


def _rows_of(data: DataSet) -> Stored:
    """A data set in memory as stored samples, which another preprocessing can be applied to."""
    rows = [tensors.Rows(*next(one.batches(len(one)))) for one in (data.training, data.validation)]
    training, validation = ((one, range(len(one))) for one in rows)
    return Stored(data.name, data.classes, training, validation, data.description)


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 Path's own raises for names that are too long


def _form(split: Samples, name: str, job: Job) -> Sample | None:
    """The first sample that can be read; None when the first few cannot."""
    if not len(split):
        raise DataSetNotFound(f"{name} has no validation samples.")
    for at in range(min(_TRIED, len(split))):
        job.check()
        found = split.sample(at)
        if not isinstance(found, str):
            return found
    return None


def _with_metric(data: DataSet, request: DataRequest) -> DataSet:
    metric = request.metric or ("mean IoU" if data.pixelwise else "top-1")
    if metric not in METRIC_NAMES:
        if not names_function(metric):
            raise DataSetMismatch(
                f"There is no metric “{metric}”.",
                f"Choose one of {', '.join(METRIC_NAMES)}, or a Python function such as "
                "metrics.py:score.",
            )
        return replace(data, metric=metric, judge=metric_of(metric, request.trusted))
    if (metric == "mean IoU") != data.pixelwise:
        labels = "a label for each pixel" if data.pixelwise else "one label for each sample"
        raise DataSetMismatch(
            f"{data.name} has {labels}, and {metric} needs the other.",
            "Leave the metric to the data, or give a Python function.",
        )
    return data if metric == data.metric else replace(data, metric=metric)


def _shown(split: Samples, at: int, data: DataSet) -> SamplePreview:
    name, found = split.name(at), split.sample(at)
    if isinstance(found, str):
        return SamplePreview(name, "", b"", 0, 0, found)
    inputs, target = found
    label = _label(target, data.classes)
    picture = shown(inputs, data.preprocessing)
    if picture is None:
        shape = "×".join(map(str, inputs.shape))
        return SamplePreview(name, label, b"", 0, 0, f"numbers of shape {shape}, no picture")
    return SamplePreview(name, label, *picture)


def _label(target: Tensor, classes: tuple[str, ...]) -> str:
    numbers = [int(one) for one in target.unique() if one != IGNORED or not target.dim()]
    names = [classes[one] if 0 <= one < len(classes) else str(one) for one in numbers]
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
