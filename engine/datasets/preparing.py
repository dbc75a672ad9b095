"""From a stored sample of any kind to what one model takes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engine.datasets.pictures import (
    IGNORED,
    adapted,
    check_preprocessing,
    labels_of,
    sample_of,
)
from engine.datasets.splits import Sample
from engine.errors import DataSetMismatch
from engine.requests import DataRequest, Preprocessing
from engine.state import ModelInfo

SEGMENTATION = "segmentation"


@dataclass(frozen=True)
class Preparation:
    """Makes stored samples fit one model.

    Attributes:
        data, model: their names, for messages.
        how: what pictures go through; None when the model takes none.
        chosen: whether the user has set it, so that numbers go through it as well.
        wanted: shape of one sample of the model, without the batch axis.
        dtype: of the model's input.
        sized: whether samples must have the height and width of ``wanted``.
    """

    data: str
    model: str
    how: Preprocessing | None
    chosen: bool
    wanted: tuple[int, ...]
    dtype: torch.dtype
    sized: bool

    def __call__(self, stored: Any, target: Any) -> Sample:
        """The sample and its target.

        Raises:
            DataSetMismatch: the sample does not fit the model, or has no usable target.
        """
        inputs = self._inputs(stored)
        self._check(tuple(inputs.shape))
        return inputs.to(self.dtype), self._target(target)

    def _inputs(self, stored: Any) -> Tensor:
        if isinstance(stored, Image.Image):
            return sample_of(stored, self._picture_way())
        if isinstance(stored, np.ndarray | np.generic):
            stored = torch.from_numpy(np.array(stored))
        if not isinstance(stored, Tensor):
            raise DataSetMismatch(
                f"A sample of {self.data} is a {type(stored).__name__}, and pictures or tensors "
                "are needed."
            )
        if stored.dtype == torch.uint8 and self.how is not None:
            picture = _as_picture(stored)
            if picture is not None:
                return sample_of(picture, self.how)
        return self._numbers(stored)

    def _numbers(self, stored: Tensor) -> Tensor:
        arranged = _arranged(stored, self.wanted)
        if self.chosen and self.how is not None and arranged.dim() == 3:
            arranged = adapted(arranged.float(), self.how)
        return arranged

    def _picture_way(self) -> Preprocessing:
        if self.how is None:
            raise DataSetMismatch(
                f"{self.data} holds pictures, and {self.model} takes {_times(self.wanted)}.",
                "Choose data of that shape, or a model that takes pictures in colour or grey.",
            )
        return self.how

    def _target(self, target: Any) -> Tensor:
        if isinstance(target, Image.Image):
            return labels_of(target, self._picture_way())
        try:
            found = torch.as_tensor(target)
        except (TypeError, ValueError, RuntimeError) as error:
            raise _no_label(self.data) from error
        fractions = found.is_floating_point() and bool((found != found.trunc()).any())
        if found.is_complex() or fractions:
            raise _no_label(self.data)
        found = found.squeeze() if found.numel() == 1 else found
        if found.dim() == 2 and self.how is not None:
            return labels_of(Image.fromarray(found.to(torch.int32).numpy()), self.how)
        if found.dim():
            raise _no_label(self.data)
        return found.long()

    def _check(self, shape: tuple[int, ...]) -> None:
        compared = slice(None) if self.sized else slice(1)
        if len(shape) != len(self.wanted) or shape[compared] != self.wanted[compared]:
            raise DataSetMismatch(
                f"The samples of {self.data} are {_times(shape)}, "
                f"and {self.model} takes {_times(self.wanted)}.",
                "Choose other data, set how pictures are resized and cropped, or open the model "
                "with that input.",
            )


def preparation(name: str, request: DataRequest, info: ModelInfo) -> Preparation:
    """How samples of that data set are made to fit the model.

    Raises:
        DataSetMismatch: the model takes no single batch of samples, or the preprocessing is
            not possible.
    """
    if len(info.inputs) != 1 or info.inputs[0].listed or len(info.input_shape) < 2:
        kinds = ", ".join(str(spec) for spec in info.inputs) or "nothing"
        raise DataSetMismatch(
            f"{info.name} takes {kinds}, and data sets give one tensor with a batch axis.",
            "It can be inspected and profiled, but not evaluated.",
        )
    wanted = info.input_shape[1:]
    how = request.preprocessing or info.preprocessing or fitted(wanted)
    if how is not None:
        check_preprocessing(how)
    sized = info.task != SEGMENTATION or how is None or bool(how.crop) or len(how.resize) == 2
    return Preparation(
        name,
        info.name,
        how if _takes_pictures(wanted) else None,
        request.preprocessing is not None,
        wanted,
        getattr(torch, info.inputs[0].dtype),
        sized,
    )


def fitted(wanted: tuple[int, ...]) -> Preprocessing | None:
    """What brings any picture to that shape (C, H, W), not normalised; None if it is none's."""
    if not _takes_pictures(wanted):
        return None
    channels, *sides = wanted
    return Preprocessing("RGB" if channels == 3 else "grey", (max(sides),), tuple(sides))


def described(preparing: Preparation, info: ModelInfo, pictures: bool) -> str:
    """How samples are prepared, as a sentence."""
    how = preparing.how
    if how is None or not pictures:
        return "Samples are taken as they are."
    if preparing.chosen:
        origin = "as set by hand"
    elif info.preprocessing is not None:
        origin = "as the model's weights were evaluated"
    else:
        origin = "fitted to the model's input, values 0 to 1, as nothing says how it was trained"
    return f"Pictures are prepared {origin}: {how}."


def _takes_pictures(wanted: tuple[int, ...]) -> bool:
    return len(wanted) == 3 and wanted[0] in (1, 3)


def _as_picture(stored: Tensor) -> Image.Image | None:
    """Bytes of shape (H, W), (C, H, W) or (H, W, C) as a picture; None if they are none."""
    if stored.dim() == 3 and stored.shape[0] in (1, 3):
        stored = stored.permute(1, 2, 0)
    if stored.dim() == 3 and stored.shape[2] == 1:
        stored = stored[:, :, 0]
    if stored.dim() not in (2, 3) or (stored.dim() == 3 and stored.shape[2] != 3):
        return None
    return Image.fromarray(stored.contiguous().numpy())


def _arranged(stored: Tensor, wanted: tuple[int, ...]) -> Tensor:
    """Numbers with the channel axis where the model has it."""
    shape = tuple(stored.shape)
    if len(wanted) == 3 and shape != wanted:
        if wanted[0] == 1 and len(shape) == 2:
            return stored[None]
        if len(shape) == 3 and shape[2] == wanted[0] != shape[0]:
            return stored.permute(2, 0, 1)
    return stored


def _no_label(data: str) -> DataSetMismatch:
    return DataSetMismatch(
        f"A sample of {data} has no class number, nor one for each pixel.",
        f"Give each sample one whole number from 0, or a picture of them ({IGNORED} is ignored).",
    )


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
