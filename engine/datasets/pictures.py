"""Pictures to samples, as torchvision's presets for published weights do it, and back.

Resizing, cropping and normalising are torchvision's own functions on Pillow's pictures. What
differs is before them: 16-bit grey is scaled instead of cut off, and palettes with transparency
keep their colours without a warning. Of an animation the first picture counts, and a camera's note
on orientation does not, as in torchvision.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import EpsImagePlugin, Image
from torch import Tensor

from engine.errors import DataSetMismatch
from engine.requests import Preprocessing

IGNORED = 255
"""Label of pixels that no metric counts, as in Pascal VOC."""

MOST_PIXELS = Image.MAX_IMAGE_PIXELS or 1 << 26
"""Of a picture before and after resizing: beyond it lies what Pillow takes for an attack."""

_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
_CHANNELS = {"RGB": 3, "grey": 1}
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I")


def channels_of(how: Preprocessing) -> int:
    """Channels of a sample."""
    return _CHANNELS[how.colour]


@contextmanager
def attacks_refused() -> Iterator[None]:
    """Have Pillow raise where it would warn of a picture that is far too large.

    Nor does it start Ghostscript, which it would for PostScript by whatever name.
    """
    EpsImagePlugin.gs_binary = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged metadata, which is not used
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def read_picture(path: str) -> Image.Image:
    """The picture in a file, decoded; raises whatever is wrong with it."""
    with (
        attacks_refused(),
        open(path, "rb") as file,  # noqa: PTH123
        Image.open(file, formats=_FORMATS) as picture,
    ):
        picture.load()
        return picture.copy()


def check_preprocessing(how: Preprocessing) -> None:
    """Refuse what cannot be carried out.

    Raises:
        DataSetMismatch: it names the field.
    """
    channels = channels_of(how)
    for name, sides in (("resize", how.resize), ("crop", how.crop)):
        if len(sides) > 2 or any(not 0 < side <= 1 << 14 for side in sides):
            raise DataSetMismatch(
                f"Pictures cannot be brought to {name}={'x'.join(map(str, sides))}.",
                "Give one or two sides of 1 to 16,384 pixels.",
            )
    lengths = {len(how.mean), len(how.std)}
    if lengths not in ({0}, {channels}):
        raise DataSetMismatch(
            f"Mean and standard deviation are given for {len(how.mean)} and {len(how.std)} "
            f"channels, and samples have {channels}.",
            "Give both for each channel, or neither.",
        )
    if not all(np.isfinite(how.mean)) or not all(0 < one < np.inf for one in how.std):
        raise DataSetMismatch(
            "A mean or a standard deviation is not usable.",
            "Give finite means, and standard deviations above zero.",
        )


def sample_of(picture: Image.Image, how: Preprocessing) -> Tensor:
    """A picture as float32 of shape (C, H, W)."""
    from torchvision.transforms import functional as F

    fitted = _resized(_coloured(picture, how.colour), how, _mode(how.interpolation))
    sample: Tensor = F.convert_image_dtype(F.pil_to_tensor(fitted), torch.float32)
    return _normalised(sample, how)


def labels_of(mask: Image.Image, how: Preprocessing) -> Tensor:
    """A picture of class numbers as int64 of shape (H, W), resized and cropped as its picture.

    What a crop adds around it is :data:`IGNORED`.

    Raises:
        DataSetMismatch: it is a picture in colours.
    """
    if len(mask.getbands()) != 1 or mask.mode == "F":
        raise DataSetMismatch(
            "The labels are pictures in colours, and a class number for each pixel is needed.",
            "Save them as grey or palette pictures whose values are the numbers of the classes.",
        )
    # Crops fill with zero.
    shifted = np.asarray(mask).astype(np.int32) - IGNORED
    fitted = _resized(Image.fromarray(shifted), how, _mode("nearest"))
    return torch.from_numpy(np.asarray(fitted).astype(np.int64) + IGNORED)


def adapted(sample: Tensor, how: Preprocessing) -> Tensor:
    """A sample of shape (C, H, W) that is numbers already, put through the same steps."""
    from torchvision.transforms import functional as F

    if how.colour == "RGB" and sample.shape[0] == 1:
        sample = sample.expand(3, -1, -1)
    if how.colour == "grey" and sample.shape[0] == 3:
        sample = F.rgb_to_grayscale(sample)
    if how.resize:
        mode = _mode(how.interpolation)
        sample = F.resize(sample, list(how.resize), mode, antialias=how.interpolation != "nearest")
    if how.crop:
        sample = F.center_crop(sample, list(how.crop))
    return _normalised(sample, how)


def shown(sample: Tensor, how: Preprocessing | None) -> tuple[bytes, int, int] | None:
    """RGB bytes, width and height of a sample of shape (C, H, W); None if it is no picture.

    Normalisation is undone. Values beyond 0 to 1 without one are brought into that range.
    """
    if sample.dim() != 3 or sample.shape[0] not in (1, 3) or not sample.is_floating_point():
        return None
    values = sample.float()
    if how is not None and how.mean:
        mean, std = (torch.tensor(one)[:, None, None] for one in (how.mean, how.std))
        values = values * std + mean
    elif values.min() < 0 or values.max() > 1:
        low, high = values.min(), values.max()
        values = (values - low) / (high - low).clamp_min(1e-12)
    pixels = (values.nan_to_num(0).clamp(0, 1) * 255).round().to(torch.uint8)
    rows = pixels.expand(3, -1, -1).permute(1, 2, 0).contiguous()
    return rows.numpy().tobytes(), int(rows.shape[1]), int(rows.shape[0])


def _coloured(picture: Image.Image, colour: str) -> Image.Image:
    if picture.mode in _DEEP:
        picture = _eight_bits(picture)
    if picture.mode == "F":
        raise ValueError("its pixels are fractions, and nothing says of what range")
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return picture.convert("RGB" if colour == "RGB" else "L")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """16-bit grey in the 8 bits that samples are made of."""
    values = np.asarray(picture).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > 0xFFFF):
        raise ValueError("its pixels are 32-bit numbers, and nothing says of what range")
    return Image.fromarray((values >> 8).astype(np.uint8))


def _resized(picture: Image.Image, how: Preprocessing, mode: Any) -> Image.Image:
    from torchvision.transforms import functional as F

    if len(how.resize) == 1:
        short, long = sorted(picture.size)
        if how.resize[0] ** 2 * long > MOST_PIXELS * short:
            raise ValueError("it is too long and narrow to be resized")
    if how.resize:
        picture = F.resize(picture, list(how.resize), mode)
    return F.center_crop(picture, list(how.crop)) if how.crop else picture


def _normalised(sample: Tensor, how: Preprocessing) -> Tensor:
    from torchvision.transforms import functional as F

    return F.normalize(sample, list(how.mean), list(how.std)) if how.mean else sample


def _mode(interpolation: str) -> Any:
    from torchvision.transforms import InterpolationMode

    return InterpolationMode(interpolation)
