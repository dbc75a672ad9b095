"""torchvision's data sets on a local root: ``torchvision:CIFAR10:ROOT``. Nothing is downloaded."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from engine.datasets.folders import open_folder, plain
from engine.datasets.map_style import MapStyle, class_names
from engine.datasets.splits import Stored
from engine.errors import DataSetNotFound, DataSetUnreadable, is_out_of_memory
from engine.job import Job

PREFIX = "torchvision:"

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip


@dataclass(frozen=True)
class _Known:
    """One of torchvision's classes.

    Attributes:
        training, validation: the arguments that choose that half.
        files: what must lie in the root, as paths inside it.
        classes: names that the class itself does not tell.
    """

    training: Mapping[str, Any]
    validation: Mapping[str, Any]
    files: tuple[str, ...]
    classes: tuple[str, ...] = ()


def _flag(*files: str) -> _Known:
    return _Known({"train": True}, {"train": False}, files)


def _split(training: str, validation: str, *files: str) -> _Known:
    return _Known({"split": training}, {"split": validation}, files)


def _idx(folder: str, *stems: str) -> tuple[str, ...]:
    kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
    return tuple(f"{folder}/raw/{stem}-{kind}" for stem in stems for kind in kinds)


_VOC = "VOCdevkit/VOC2012"
_KNOWN = {
    "MNIST": _flag(*_idx("MNIST", "train", "t10k")),
    "FashionMNIST": _flag(*_idx("FashionMNIST", "train", "t10k")),
    "KMNIST": _flag(*_idx("KMNIST", "train", "t10k")),
    "EMNIST": _Known(
        {"split": "balanced", "train": True},
        {"split": "balanced", "train": False},
        _idx("EMNIST", "emnist-balanced-train", "emnist-balanced-test"),
    ),
    "USPS": _flag("usps.bz2", "usps.t.bz2"),
    "CIFAR10": _flag("cifar-10-batches-py"),
    "CIFAR100": _flag("cifar-100-python"),
    "SVHN": _split("train", "test", "train_32x32.mat", "test_32x32.mat"),
    "STL10": _split("train", "test", "stl10_binary"),
    "GTSRB": _split(
        "train",
        "test",
        "gtsrb/GTSRB/Training",
        "gtsrb/GTSRB/Final_Test/Images",
        "gtsrb/GT-final_test.csv",
    ),
    "DTD": _split("train", "test", "dtd/dtd/images", "dtd/dtd/labels"),
    "Food101": _split("train", "test", "food-101/images", "food-101/meta"),
    "Flowers102": _split(
        "train",
        "test",
        "flowers-102/jpg",
        "flowers-102/imagelabels.mat",
        "flowers-102/setid.mat",
    ),
    "OxfordIIITPet": _split(
        "trainval", "test", "oxford-iiit-pet/images", "oxford-iiit-pet/annotations"
    ),
    "FGVCAircraft": _split("trainval", "test", "fgvc-aircraft-2013b/data"),
    "StanfordCars": _split(
        "train",
        "test",
        "stanford_cars/devkit",
        "stanford_cars/cars_train",
        "stanford_cars/cars_test",
        "stanford_cars/cars_test_annos_withlabels.mat",
    ),
    "Country211": _split("train", "test", "country211/train", "country211/test"),
    "RenderedSST2": _split("train", "test", "rendered-sst2/train", "rendered-sst2/test"),
    "Imagenette": _split("train", "val", "imagenette2/train", "imagenette2/val"),
    "ImageNet": _split("train", "val", "meta.bin", "train", "val"),
    "VOCSegmentation": _Known(
        {"image_set": "train"},
        {"image_set": "val"},
        (f"{_VOC}/JPEGImages", f"{_VOC}/SegmentationClass", f"{_VOC}/ImageSets/Segmentation"),
        VOC_CLASSES,
    ),
}


def open_torchvision(source: str, job: Job) -> Stored:
    """Both halves of one of torchvision's data sets.

    Args:
        source: ``torchvision:CLASS:ROOT``.

    Raises:
        DataSetNotFound: torchvision has no such class, or files are missing.
        DataSetUnreadable: the files are damaged.
    """
    name, _, place = source.removeprefix(PREFIX).partition(":")
    root = Path(place)
    if name == "ImageFolder":
        return open_folder(root, job)
    known = _KNOWN.get(name)
    if known is None:
        raise _no_class(name)
    _check_files(name, root, known)
    training, validation = (
        _made(name, root, one, job) for one in (known.training, known.validation)
    )
    return Stored(
        name,
        known.classes or class_names(validation.dataset),
        (training, range(len(training))),
        (validation, range(len(validation))),
        f"torchvision's {name} in {plain(root)}; {_half(known.training)} calibrates, "
        f"{_half(known.validation)} reports.",
    )


def _made(name: str, root: Path, chosen: Mapping[str, Any], job: Job) -> MapStyle:
    from torchvision import datasets

    job.check()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy's, of files that an old NumPy wrote
            return MapStyle(getattr(datasets, name)(str(root), **chosen))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        # torchvision's own words advise a download.
        words = str(error).partition("You can use download")[0].strip().rstrip(".") or repr(error)
        raise DataSetUnreadable(
            f"torchvision cannot read {name} in {plain(root)}: {words}.",
            "Unpack its original files there again, unchanged.",
        ) from error


def _check_files(name: str, root: Path, known: _Known) -> None:
    missing = [one for one in known.files if not (root / one).exists()]
    if not missing:
        return
    need = ", ".join(known.files)
    raise DataSetNotFound(
        f"{plain(root)} has no {', '.join(missing)}, which belongs to {name}.",
        f"Nothing is downloaded here: unpack {name} so that the folder holds {need}.",
    )


def _no_class(name: str) -> DataSetNotFound:
    near = get_close_matches(name, [*_KNOWN, "ImageFolder"], n=2, cutoff=0.5)
    meant = f" Did you mean {' or '.join(near)}?" if near else ""
    return DataSetNotFound(
        f"torchvision's data set “{plain(name)}” is not known here.{meant}",
        f"Choose one of {', '.join(sorted(_KNOWN))}, or return any other from a Python factory.",
    )


def _half(chosen: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in chosen.items())
