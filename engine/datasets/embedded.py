"""The data set that the workbench ships with, split into training and validation."""

import functools

import torch

from engine.datasets.splits import SPLIT_SEED, DataSet, Split
from engine.errors import DataSetNotFound

_VALIDATION_IMAGES = 450
_DIGITS_LEVELS = 16.0


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
        description="1,797 handwritten digits of 8 × 8 pixels, shipped with scikit-learn.",
    )
