"""Pictures to samples: bit-equal to torchvision's presets, and every odd mode of a picture."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, UnidentifiedImageError
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F
from torchvision.transforms._presets import ImageClassification, SemanticSegmentation

from engine.datasets import pictures
from engine.datasets.pictures import (
    IGNORED,
    adapted,
    check_preprocessing,
    labels_of,
    read_picture,
    sample_of,
    shown,
)
from engine.errors import DataSetMismatch
from engine.requests import Preprocessing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PLAIN = Preprocessing()
SIDES = st.integers(1, 70)


def noise(width: int, height: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


# As torchvision does it


@given(
    SIDES, SIDES, st.integers(1, 48), st.integers(1, 48), st.sampled_from(["bilinear", "bicubic"])
)
def test_samples_are_those_of_torchvisions_classification_preset(
    width: int, height: int, resize: int, crop: int, interpolation: Any
) -> None:
    preset = ImageClassification(
        crop_size=crop, resize_size=resize, interpolation=InterpolationMode(interpolation)
    )
    how = Preprocessing("RGB", (resize,), (crop, crop), interpolation, MEAN, STD)
    picture = noise(width, height, resize)
    assert torch.equal(sample_of(picture, how), preset(picture))


@given(SIDES, SIDES, st.integers(1, 48))
def test_samples_are_those_of_torchvisions_segmentation_preset(
    width: int, height: int, resize: int
) -> None:
    preset = SemanticSegmentation(resize_size=resize)
    how = Preprocessing("RGB", (resize,), mean=MEAN, std=STD)
    picture = noise(width, height, resize)
    assert torch.equal(sample_of(picture, how), preset(picture))


@given(SIDES, SIDES, st.integers(1, 48))
def test_labels_of_pixels_are_resized_as_torchvisions_reference_does(
    width: int, height: int, resize: int
) -> None:
    mask = noise(width, height, resize, "L")
    wanted = F.pil_to_tensor(F.resize(mask, [resize], InterpolationMode.NEAREST))[0].long()
    assert torch.equal(labels_of(mask, Preprocessing("RGB", (resize,))), wanted)


def test_two_sides_are_height_and_width() -> None:
    assert sample_of(noise(9, 7), Preprocessing(resize=(4, 6))).shape == (3, 4, 6)
    assert sample_of(noise(9, 7), Preprocessing(crop=(2, 5))).shape == (3, 2, 5)


def test_pixels_that_a_crop_adds_have_no_label() -> None:
    mask = Image.fromarray(np.full((2, 2), 7, np.uint8))
    labels = labels_of(mask, Preprocessing(crop=(4, 4)))
    assert labels[1:3, 1:3].tolist() == [[7, 7], [7, 7]]
    assert int((labels == IGNORED).sum()) == 12


def test_palettes_of_labels_are_numbers_of_classes() -> None:
    mask = Image.fromarray(np.array([[0, 15], [20, 255]], np.uint8)).convert("P")
    mask.putpalette([value for at in range(256) for value in (at, 255 - at, 7)])
    assert labels_of(mask, PLAIN).tolist() == [[0, 15], [20, 255]]


def test_labels_in_colours_are_refused() -> None:
    with pytest.raises(DataSetMismatch, match="colours"):
        labels_of(noise(3, 3), PLAIN)


# Odd pictures


def kept(picture: Image.Image, folder: Path, suffix: str, **settings: Any) -> Image.Image:
    """The picture, written and read again."""
    path = folder / f"picture{suffix}"
    picture.save(path, **settings)
    return read_picture(str(path))


def first_pixel(picture: Image.Image, colour: Any = "RGB") -> list[int]:
    return [round(float(one) * 255) for one in sample_of(picture, Preprocessing(colour))[:, 0, 0]]


def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path: Path) -> None:
    deep = kept(Image.fromarray(np.array([[0x8000, 0xFFFF]], np.uint16)), tmp_path, ".png")
    assert sample_of(deep, Preprocessing("grey")).flatten().mul(255).tolist() == [128, 255]


def test_palettes_with_transparency_keep_their_colours_without_a_warning(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    read = kept(palette, tmp_path, ".png", transparency=bytes([0, 128]))
    assert read.mode == "P"
    assert first_pixel(read) == [10, 20, 30]


@pytest.mark.parametrize(
    ("mode", "colour", "suffix"),
    [
        ("RGBA", (10, 20, 30, 40), ".png"),
        ("LA", (50, 100), ".png"),
        ("1", 1, ".png"),
        ("L", 70, ".png"),
        ("CMYK", (10, 20, 30, 40), ".tif"),
    ],
)
def test_other_modes_become_what_pillow_makes_of_them(
    mode: str, colour: Any, suffix: str, tmp_path: Path
) -> None:
    read = kept(Image.new(mode, (3, 3), colour), tmp_path, suffix)
    assert read.mode == mode
    assert tuple(first_pixel(read)) == read.convert("RGB").getpixel((0, 0))


def test_of_an_animation_the_first_picture_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((200, 0, 0), (0, 200, 0))]
    read = kept(frames[0], tmp_path, ".gif", save_all=True, append_images=frames[1:])
    assert first_pixel(read) == [200, 0, 0]


def test_fractions_are_refused_as_nothing_says_their_range() -> None:
    with pytest.raises(ValueError, match="fractions"):
        sample_of(Image.fromarray(np.zeros((2, 2), np.float32)), PLAIN)
    with pytest.raises(ValueError, match="32-bit"):
        sample_of(Image.fromarray(np.full((2, 2), 1 << 20, np.int32)), PLAIN)


def test_pictures_too_large_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.png"
    noise(40, 40).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow warns from here to twice as many
    with pytest.raises(Image.DecompressionBombWarning):
        read_picture(str(path))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(Image.DecompressionBombError):
        read_picture(str(path))


def test_a_long_and_narrow_picture_is_not_blown_up() -> None:
    narrow = Image.new("L", (200_000, 1))
    with pytest.raises(ValueError, match="long and narrow"):
        sample_of(narrow, Preprocessing("grey", (2_000,)))


def test_a_cut_picture_is_an_error_and_not_half_grey(tmp_path: Path) -> None:
    content = io.BytesIO()
    noise(64, 64).save(content, "JPEG")
    path = tmp_path / "cut.jpg"
    path.write_bytes(content.getvalue()[:-400])
    with pytest.raises(OSError, match="truncated"):
        read_picture(str(path))


def test_postscript_is_not_run_whatever_its_name(tmp_path: Path) -> None:
    content = io.BytesIO()
    noise(8, 8).save(content, "EPS")
    path = tmp_path / "innocent.png"
    path.write_bytes(content.getvalue())
    with pytest.raises(UnidentifiedImageError):
        read_picture(str(path))
    with (
        pictures.attacks_refused(),
        Image.open(path) as picture,
        pytest.raises(OSError, match="Ghostscript"),
    ):
        picture.load()


def test_warnings_of_other_threads_are_as_before() -> None:
    before = list(warnings.filters)
    with pictures.attacks_refused():
        pass
    assert warnings.filters == before


# Numbers, and the way back


def test_numbers_go_through_the_same_steps() -> None:
    grey = torch.rand(1, 6, 6)
    how = Preprocessing("RGB", (3, 3), (2, 2), "bilinear", MEAN, STD)
    made = adapted(grey, how)
    wanted = F.center_crop(F.resize(grey, [3, 3], antialias=True), [2, 2]).expand(3, -1, -1)
    assert torch.allclose(made, F.normalize(wanted, MEAN, STD), atol=1e-6)
    assert adapted(torch.rand(3, 4, 4), Preprocessing("grey")).shape == (1, 4, 4)


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from(["RGB", "grey"]))
def test_what_is_shown_is_the_picture_again(width: int, height: int, colour: Any) -> None:
    channels = 3 if colour == "RGB" else 1
    how = Preprocessing(colour, mean=MEAN[:channels], std=STD[:channels])
    picture = noise(width, height, width, "RGB" if channels == 3 else "L")
    assert shown(sample_of(picture, how), how) == (
        picture.convert("RGB").tobytes(), width, height,
    )  # fmt: skip


def test_numbers_of_any_range_are_shown_in_theirs() -> None:
    found = shown(torch.tensor([[[-4.0, 0.0, 4.0]]]), None)
    assert found == (bytes([0] * 3 + [128] * 3 + [255] * 3), 3, 1)


@pytest.mark.parametrize("sample", [torch.rand(5), torch.rand(2, 3, 3), torch.ones(1, 2, 2).long()])
def test_what_is_no_picture_is_not_shown(sample: torch.Tensor) -> None:
    assert shown(sample, None) is None


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (Preprocessing(resize=(0,)), "resize=0"),
        (Preprocessing(crop=(1, 2, 3)), "crop=1x2x3"),
        (Preprocessing(crop=(1 << 20,)), "crop=1048576"),
        (Preprocessing(mean=(0.5,), std=(0.5,)), "1 and 1 channels, and samples have 3"),
        (Preprocessing(mean=MEAN), "3 and 0 channels"),
        (Preprocessing("grey", mean=(0.5,), std=(0.0,)), "not usable"),
        (Preprocessing("grey", mean=(float("nan"),), std=(1.0,)), "not usable"),
    ],
)
def test_steps_that_cannot_be_done_are_refused(how: Preprocessing, words: str) -> None:
    with pytest.raises(DataSetMismatch, match=words):
        check_preprocessing(how)


# Their text


STEPS = st.builds(
    Preprocessing,
    st.sampled_from(["RGB", "grey"]),
    st.lists(st.integers(1, 999), min_size=1, max_size=2).map(tuple),
    st.lists(st.integers(1, 999), max_size=2).map(tuple),
    st.sampled_from(["nearest", "bilinear", "bicubic"]),
    st.lists(st.floats(-9, 9), max_size=3).map(tuple),
    st.lists(st.floats(0.125, 9), max_size=3).map(tuple),
)


@given(STEPS)
def test_steps_are_read_as_they_are_written(how: Preprocessing) -> None:
    assert Preprocessing.parse(str(how)) == how


def test_steps_as_they_are_typed() -> None:
    assert Preprocessing.parse("resize = 256, crop=224x192, mean=0.5,0.25,1, std=1,1,2") == (
        Preprocessing("RGB", (256,), (224, 192), "bilinear", (0.5, 0.25, 1.0), (1.0, 1.0, 2.0))
    )


@pytest.mark.parametrize(
    "text", ["", "256", "size=3", "resize=a", "resize=3,resize=4", "colour=blue", "mean=x", "crop="]
)
def test_texts_that_are_no_steps_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Preprocessing.parse(text)
