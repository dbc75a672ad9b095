"""Data sets that the workbench ships with, split into training and validation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import DataSetNotFound

# The shipped demo weights were trained on the training half of exactly this split. Another seed
# would put images they have seen into the validation split, so a change calls for a retraining.
SPLIT_SEED = 20

_VALIDATION_IMAGES = 450
_DIGITS_LEVELS = 16.0


@dataclass(frozen=True, eq=False)
class Split:
    """Images with the class of each.

    `images` is float32 of shape (N, C, H, W); `labels` is int64 of shape (N,), an index into the
    data set's classes.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return int(self.labels.shape[0])

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images, labels) in stored order, `size` at a time; the last may be smaller.

        The tensors are views of this split and must not be written to.

        Raises:
            ValueError: `size` is below 1.
        """
        if size < 1:
            raise ValueError(f"A batch holds at least one image, not {size}.")
        yield from zip(self.images.split(size), self.labels.split(size), strict=True)


@dataclass(frozen=True, eq=False)
class DataSet:
    """A named classification task: what to train on, and what to judge by."""

    name: str
    classes: tuple[str, ...]
    training: Split
    validation: Split
    description: str

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape (C, H, W) of one image."""
        return tuple(self.training.images.shape[1:])


@functools.cache
def digits() -> DataSet:
    """Return scikit-learn's handwritten digits, 1,347 for training and 450 for validation.

    Images have shape (N, 1, 8, 8) and values in [0, 1], where 0 is blank paper; each class has the
    same share of both splits. Every call returns the same object, so its tensors must not be
    written to.

    Raises:
        DataSetNotFound: scikit-learn cannot be imported.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise DataSetNotFound(
            f"The data set “digits” comes with scikit-learn, which cannot be imported: {error}.",
            remedy="Install scikit-learn: pip install scikit-learn",
        ) from error

    pixels, labels = load_digits(return_X_y=True)
    # Background stays at exactly 0, so that the zeros a convolution pads with look like paper.
    images = torch.as_tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / _DIGITS_LEVELS
    classes = torch.as_tensor(labels, dtype=torch.int64)
    training, validation = train_test_split(
        range(len(classes)),
        test_size=_VALIDATION_IMAGES,
        stratify=labels,
        random_state=SPLIT_SEED,
    )
    return DataSet(
        name="digits",
        classes=tuple(str(digit) for digit in range(10)),
        training=Split(images[training], classes[training]),
        validation=Split(images[validation], classes[validation]),
        description="1,797 handwritten digits of 8 × 8 pixels, shipped with scikit-learn",
    )


_DATA_SETS: dict[str, Callable[[], DataSet]] = {"digits": digits}


def load_data(name: str) -> DataSet:
    """Return the data set called `name`, such as "digits".

    Raises:
        DataSetNotFound: there is none of that name, or the library it comes with is missing.
    """
    try:
        load = _DATA_SETS[name]
    except KeyError:
        known = ", ".join(f"“{known}”" for known in sorted(_DATA_SETS))
        raise DataSetNotFound(
            f"There is no data set “{name}”.", remedy=f"Choose one of those built in: {known}."
        ) from None
    return load()
