"""Data sets of every kind, written small by the tests: what is read, split, named and refused."""

import gzip
import hashlib
import os
import pickle
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torchvision import datasets as torchvision_datasets

from engine.datasets import DataSet, LazySplit, digits, factories, load_data, preview, splits
from engine.datasets.factories import try_factory
from engine.datasets.splits import stratified
from engine.edits import Quantize
from engine.errors import (
    ChildFailed,
    ConsentNeeded,
    DataSetMismatch,
    DataSetNotFound,
    DataSetUnreadable,
    EngineError,
)
from engine.job import Cancelled, Job
from engine.requests import DataRequest, InputSpec, Preprocessing
from engine.session import ModelSession
from engine.state import ModelInfo


def takes(*shape: int, task: str = "classification", dtype: str = "float32") -> ModelInfo:
    """A model of one input."""
    return ModelInfo("net", "net", (InputSpec(shape, dtype),), trained=True, task=task)


COLOUR = takes(1, 3, 4, 4)
GREY = takes(1, 1, 28, 28)


def load(source: object, info: ModelInfo = COLOUR, **settings: Any) -> DataSet:
    return load_data(DataRequest(str(source), **settings), info, Job())


def all_of(split: Any, size: int = 3) -> tuple[Tensor, Tensor]:
    """Every sample of a split, at once."""
    inputs, targets = zip(*split.batches(size), strict=True)
    return torch.cat(inputs), torch.cat(targets)


def paint(path: Path, colour: Any = (10, 20, 30), size: tuple[int, int] = (6, 5)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB" if isinstance(colour, tuple) else "L", size, colour).save(path)
    return path


def refused(kind: type[EngineError], source: object, info: ModelInfo = COLOUR, **more: Any) -> str:
    """What a source that cannot be used is answered with."""
    with pytest.raises(kind) as caught:
        load(source, info, **more)
    assert type(caught.value) is kind
    assert caught.value.remedy.endswith(".")
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Folders


@pytest.fixture
def halves(tmp_path: Path) -> Path:
    """Two classes in ``train`` and ``val``; the colours tell them."""
    root = tmp_path / "pets"
    for half, count in (("train", 3), ("val", 2)):
        for at in range(count):
            paint(root / half / "cat" / f"{at}.png", (0, 0, 255))
            paint(root / half / "dog" / "deep" / "er" / f"{at}.JPG", (255, 0, 0))
    return root


def test_folders_of_classes_in_two_halves(halves: Path) -> None:
    data = load(halves)
    assert (data.name, data.classes) == ("pets", ("cat", "dog"))
    assert (len(data.training), len(data.validation)) == (6, 4)
    inputs, targets = all_of(data.validation)
    assert inputs.shape == (4, 3, 4, 4)
    assert inputs.dtype == torch.float32
    assert targets.tolist() == [0, 0, 1, 1]
    assert (inputs[:2, 2] > 0.9).all()
    assert (inputs[2:, 0] > 0.9).all()
    assert "“train” calibrates, “val” reports" in data.description
    assert "fitted to the model's input" in data.description


def test_one_folder_is_split_the_same_way_every_time(tmp_path: Path) -> None:
    for name, count in (("a", 8), ("b", 4), ("c", 1)):
        for at in range(count):
            paint(tmp_path / name / f"{at}.png")
    first, again = load(tmp_path), load(tmp_path)

    def names(split: Any) -> list[str]:
        return [split.name(at) for at in range(len(split))]

    training, validation = names(first.training), names(first.validation)
    assert (training, validation) == (names(again.training), names(again.validation))
    assert not set(training) & set(validation)
    assert len(training) + len(validation) == 13
    assert [sum(one.startswith(name) for one in validation) for name in "abc"] == [2, 1, 1]
    assert "A quarter of the samples" in first.description


def test_a_lone_train_folder_is_looked_into(tmp_path: Path) -> None:
    for at in range(4):
        paint(tmp_path / "train" / "x" / f"{at}.png")
    data = load(tmp_path)
    assert data.classes == ("x",)
    assert (len(data.training), len(data.validation)) == (3, 1)


def test_empty_classes_keep_their_number_and_other_files_are_counted(tmp_path: Path) -> None:
    paint(tmp_path / "a" / "1.png")
    paint(tmp_path / "c" / "1.png")
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "a" / "readme.txt").write_text("no picture")
    (tmp_path / "a" / "._1.png").write_bytes(b"what a Mac leaves")
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    data = load(tmp_path)
    assert data.classes == ("a", "b", "c")
    assert all_of(data.validation)[1].tolist() == [0, 2]
    assert "Class folders without a picture: 1 (“b”)." in data.description
    assert "Files left out, as they are no pictures: 2." in data.description


def test_links_that_lead_in_a_circle_are_followed_once(tmp_path: Path) -> None:
    paint(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    data = load(tmp_path)
    assert len(data.training) + len(data.validation) == 2  # once in each class


def test_what_is_no_file_is_never_opened(tmp_path: Path) -> None:
    paint(tmp_path / "a" / "1.png")
    os.mkfifo(tmp_path / "a" / "2.png")
    assert len(load(tmp_path).validation) == 1


def test_names_are_plain_text_whatever_their_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "<b>x"
    paint(folder / "1.png")
    os.rename(folder / "1.png", os.fsencode(folder) + b"/\xff.png")  # noqa: PTH104
    data = load(tmp_path)
    assert data.classes == ("<b>x",)
    assert data.validation.name(0).encode() == b"<b>x/\\xff.png"


@pytest.mark.parametrize("made", ["nothing", "loose", "others"])
def test_folders_without_classes_or_pictures_say_what_they_should_have(
    made: str, tmp_path: Path
) -> None:
    if made == "loose":
        paint(tmp_path / "1.png")
    if made == "others":
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "1.txt").write_text("x")
    words = refused(DataSetNotFound, tmp_path)
    assert words.startswith("There is no picture in a class folder of ")
    assert ("beside 1 other files" in words) is (made == "others")


def test_pictures_are_read_when_their_batch_is_due_and_not_before(
    halves: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load(halves)
    read: list[str] = []

    def counted(path: str) -> Image.Image:
        read.append(path)
        return Image.new("RGB", (6, 5))

    monkeypatch.setattr("engine.datasets.folders.read_picture", counted)
    batches = data.validation.batches(2)
    assert read == []
    next(batches)
    assert len(read) == 3, "the batch, and the one that shows that it is full"


# Broken samples


@pytest.fixture
def broken(halves: Path) -> Path:
    """Of four pictures one is no picture and one is cut short."""
    (halves / "val" / "cat" / "0.png").write_bytes(b"no picture")
    whole = paint(halves / "val" / "dog" / "deep" / "er" / "1.JPG", (9, 9, 9), (90, 90))
    whole.write_bytes(whole.read_bytes()[:-300])
    return halves


def test_broken_samples_stop_the_run(broken: Path) -> None:
    with pytest.raises(DataSetUnreadable) as caught:
        all_of(load(broken).validation)
    assert str(caught.value) == (
        "The sample val/cat/0.png cannot be read: its content is no picture of a known format."
    )
    assert "skipped" in caught.value.remedy


def test_broken_samples_are_skipped_and_listed(broken: Path) -> None:
    data, job = load(broken, broken="skip"), Job()
    targets = torch.cat([targets for _, targets in data.validation.batches(8, job)])
    assert targets.tolist() == [0, 1]
    assert job.done == 2, "skipped samples are progress"
    assert list(data.broken) == ["val/cat/0.png", "val/dog/deep/er/1.JPG"]
    assert "truncated" in data.broken["val/dog/deep/er/1.JPG"].lower()
    all_of(data.validation.spread(3))
    assert len(data.broken) == 2, "once, however often it is met"


def test_broken_samples_of_one_name_are_listed_for_either_half(broken: Path) -> None:
    data = load(broken, broken="skip")
    data.training.broken["one"] = data.validation.broken["two"] = "lost"
    data.training.broken["two"] = "torn"
    assert data.broken == {"one": "lost", "two (training)": "torn", "two": "lost"}


def test_a_picture_that_may_not_be_read_is_a_broken_sample(
    halves: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(path: str) -> Image.Image:
        raise PermissionError(13, "Permission denied", path)

    data = load(halves, broken="skip")
    monkeypatch.setattr("engine.datasets.folders.read_picture", forbidden)
    assert list(data.validation.batches(2)) == []
    assert set(data.broken.values()) == {"Permission denied"}


def test_memory_that_runs_out_is_no_broken_sample(
    halves: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def greedy(path: str) -> Image.Image:
        raise MemoryError

    data = load(halves, broken="skip")
    monkeypatch.setattr("engine.datasets.folders.read_picture", greedy)
    with pytest.raises(MemoryError):
        next(data.validation.batches(2))


# Splits


class Counted:
    """A source of samples of given shapes, each its own number."""

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        self.shapes = shapes

    def __len__(self) -> int:
        return len(self.shapes)

    def name(self, at: int) -> str:
        return str(at)

    def read(self, at: int) -> tuple[Tensor, Tensor]:
        return torch.full(self.shapes[at], float(at)), torch.tensor(at)


def lazy(shapes: Sequence[tuple[int, ...]]) -> LazySplit:
    return LazySplit(
        Counted(shapes), lambda sample, target: (sample, target), False, range(len(shapes))
    )


@given(st.lists(st.sampled_from([(2, 2), (2, 3)]), max_size=30), st.integers(1, 8))
def test_batches_cover_every_sample_once_and_in_order(
    shapes: list[tuple[int, ...]], size: int
) -> None:
    found = list(lazy(shapes).batches(size))
    assert [int(one) for _, targets in found for one in targets] == list(range(len(shapes)))
    assert all(1 <= len(inputs) <= size for inputs, _ in found)
    assert all(
        inputs[at, 0, 0] == targets[at] for inputs, targets in found for at in range(len(targets))
    )


def test_a_batch_holds_no_more_than_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "_MOST_ELEMENTS", 50)
    assert [len(one) for one, _ in lazy([(4, 4)] * 7).batches(64)] == [3, 3, 1]
    assert [len(one) for one, _ in lazy([(10, 10)] * 2).batches(64)] == [1, 1]


@given(st.integers(0, 200), st.integers(1, 50))
def test_chosen_samples_are_spread_evenly(length: int, count: int) -> None:
    chosen = list(lazy([(1,)] * length).spread(count).indices)
    assert len(chosen) == min(length, count) == len(set(chosen))
    steps = [after - before for before, after in pairwise(chosen)]
    assert not steps or max(steps) - min(steps) <= 1
    assert chosen == sorted(chosen)
    if count > 1 and length > 1:
        assert (chosen[0], chosen[-1]) == (0, length - 1)


@given(st.lists(st.integers(0, 5), max_size=80))
def test_halves_share_nothing_and_leave_nothing_out(labels: list[int]) -> None:
    training, validation = stratified(labels)
    assert sorted(training + validation) == list(range(len(labels)))
    for label in set(labels):
        held = sum(labels[at] == label for at in validation)
        assert abs(held - labels.count(label) / 4) <= 1
        assert held >= 1


@pytest.mark.parametrize("size", [0, -1])
def test_batches_of_nothing_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        next(lazy([(1,)]).batches(size))


def test_a_cancel_stops_between_two_samples(stop_at: Callable[[int], Job]) -> None:
    job = stop_at(3)
    with pytest.raises(Cancelled):
        next(lazy([(1,)] * 9).batches(9, job))


def test_no_more_samples_report_than_asked_for(halves: Path) -> None:
    data = load(halves, most=2)
    assert (len(data.training), len(data.validation)) == (6, 2)
    assert all_of(data.validation)[1].tolist() == [0, 1], "of every class"
    assert "2 of 4 samples report" in data.description
    assert load(halves, most=99).description.endswith("4 of 4 samples report.")


# What fits the model


def test_the_models_own_preprocessing_is_taken_unless_another_is_set(halves: Path) -> None:
    own = Preprocessing("RGB", (5,), (4, 4), "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    info = replace(COLOUR, preprocessing=own)
    assert load(halves, info).preprocessing == own
    assert "as the model's weights were evaluated" in load(halves, info).description
    assert all_of(load(halves, info).validation)[0].min() == -1
    hand = Preprocessing(resize=(4, 4))
    assert load(halves, info, preprocessing=hand).preprocessing == hand
    assert "as set by hand" in load(halves, info, preprocessing=hand).description


def test_pictures_turn_grey_for_a_model_of_one_channel(halves: Path) -> None:
    assert all_of(load(halves, GREY).validation)[0].shape == (4, 1, 28, 28)


@pytest.mark.parametrize(
    ("info", "words"),
    [
        (takes(1, 3, 9), "pets holds pictures, and net takes 3×9."),
        (takes(1, 4, 8, 8), "pets holds pictures, and net takes 4×8×8."),
        (
            ModelInfo("net", "net", (InputSpec((1, 3)), InputSpec((1, 4))), True),
            "net takes 1x3, 1x4",
        ),
        (ModelInfo("net", "net", (InputSpec((1, 3, 9, 9), listed=True),), True), "1x3x9x9[]"),
        (ModelInfo("net", "net", (), True), "net takes nothing"),
    ],
)
def test_models_that_take_no_pictures_are_told_so(
    info: ModelInfo, words: str, halves: Path
) -> None:
    assert words in refused(DataSetMismatch, halves, info)


def test_pictures_of_another_size_are_refused(halves: Path) -> None:
    words = refused(DataSetMismatch, halves, preprocessing=Preprocessing(crop=(8, 8)))
    assert words == "The samples of pets are 3×8×8, and net takes 3×4×4."


def test_samples_come_in_the_models_type(halves: Path) -> None:
    info = takes(1, 3, 4, 4, dtype="float16")
    assert all_of(load(halves, info).validation)[0].dtype == torch.float16


@pytest.mark.parametrize(
    ("metric", "words"),
    [("recall", "There is no metric “recall”."), ("mean IoU", "one label for each sample")],
)
def test_metrics_that_do_not_fit_are_refused(metric: str, words: str, halves: Path) -> None:
    assert words in refused(DataSetMismatch, halves, metric=metric)


def test_the_digits_go_through_steps_set_by_hand() -> None:
    data = load("digits", takes(1, 3, 16, 16), preprocessing=Preprocessing(resize=(16, 16)))
    inputs, targets = all_of(data.validation, 450)
    assert inputs.shape == (450, 3, 16, 16)
    assert torch.equal(targets, digits().validation.labels)
    assert data.classes == digits().classes


@pytest.mark.parametrize("source", ["cifar", "", "no/such/folder", "x" * 5000, "a\0b"])
def test_what_is_nothing_is_told_so(source: str) -> None:
    assert "There is no data set" in refused(DataSetNotFound, source)


# Previews


def test_samples_are_previewed_as_the_model_sees_them(broken: Path) -> None:
    how = Preprocessing(resize=(4, 4), mean=(0.5,) * 3, std=(0.25,) * 3)
    found = preview(DataRequest(str(broken), how), COLOUR, 9, Job())
    assert [one.name for one in found] == [
        "val/cat/0.png", "val/cat/1.png", "val/dog/deep/er/0.JPG", "val/dog/deep/er/1.JPG",
    ]  # fmt: skip
    assert [bool(one.problem) for one in found] == [True, False, False, True]
    assert (found[0].pixels, found[0].width, found[0].problem) == (
        b"", 0, "its content is no picture of a known format",
    )  # fmt: skip
    assert (found[1].label, found[1].pixels) == ("cat", bytes([0, 0, 255]) * 16)
    assert (found[2].label, found[2].width, found[2].height) == ("dog", 4, 4)


def test_digits_and_numbers_are_previewed_too(tmp_path: Path) -> None:
    first = preview(DataRequest("digits"), takes(1, 1, 8, 8), 3, Job())
    assert [one.label for one in first] == [
        str(int(digits().validation.labels[at])) for at in (0, 224, 449)
    ]
    assert (len(first[0].pixels), first[0].width) == (8 * 8 * 3, 8)
    path = npz(tmp_path, x=np.zeros((4, 5), np.float32), y=np.zeros(4, int))
    (only,) = preview(DataRequest(str(path)), takes(1, 5), 9, Job())
    assert (only.problem, only.label) == ("numbers of shape 5, no picture", "0")


# Tensors


def npz(folder: Path, **arrays: Any) -> Path:
    path = folder / "data.npz"
    np.savez_compressed(path, **arrays)
    return path


def test_arrays_of_two_halves(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((6, 3, 4, 4))
    data = load(npz(tmp_path, x_train=x, y_train=np.arange(6), x_test=x[:2], y_test=[[3], [1]]))
    assert (data.name, data.classes) == ("data", ())
    assert (len(data.training), len(data.validation)) == (6, 2)
    inputs, targets = all_of(data.validation)
    assert torch.equal(inputs, torch.tensor(x[:2], dtype=torch.float32))
    assert targets.tolist() == [3, 1]


@pytest.mark.parametrize("keys", [("x", "y"), ("Images", "Labels"), ("data", "targets")])
def test_arrays_of_all_samples_are_split(keys: tuple[str, str], tmp_path: Path) -> None:
    arrays = dict(zip(keys, (np.zeros((8, 4, 4, 3), ">f4"), np.arange(8) % 2), strict=True))
    data = load(npz(tmp_path, **arrays, other=np.zeros(3)))
    assert (len(data.training), len(data.validation)) == (6, 2)
    assert all_of(data.validation)[0].shape == (2, 3, 4, 4), "channels first, as the model has it"


def test_tensors_of_a_safetensors_file(tmp_path: Path) -> None:
    path = tmp_path / "tokens.safetensors"
    x, y = torch.arange(40).reshape(8, 5), torch.arange(8)
    arrays = {"train_inputs": x[:4], "train_labels": y[:4], "val_inputs": x, "val_labels": y + 1}
    save_file({name: array.clone() for name, array in arrays.items()}, path)
    data = load(path, takes(2, 5, dtype="int64"))
    inputs, targets = all_of(data.validation)
    assert torch.equal(inputs, x)
    assert torch.equal(targets, y + 1)
    assert data.preprocessing is None


def test_bytes_are_pictures(tmp_path: Path) -> None:
    images = np.full((4, 9, 9), 51, np.uint8)
    data = load(npz(tmp_path, images=images, labels=np.zeros(4, int)), GREY)
    inputs, _ = all_of(data.validation)
    assert inputs.shape == (1, 1, 28, 28)
    assert torch.allclose(inputs, torch.tensor(0.2))


def test_numbers_that_are_samples_already_stay_as_they_are(tmp_path: Path) -> None:
    path = npz(tmp_path, x=np.full((4, 3, 4, 4), 0.5, np.float32), y=np.array([True, False] * 2))
    how = Preprocessing(crop=(4, 4), mean=(0.5,) * 3, std=(0.1,) * 3)
    info = replace(takes(1, 3, 4, 4), preprocessing=how)
    data = load(path, info)
    inputs, targets = all_of(data.validation)
    assert torch.allclose(inputs, torch.tensor(0.5))
    assert targets.dtype == torch.int64
    assert (data.preprocessing, data.broken) == (None, {})
    assert data.description.endswith("Samples are taken as they are.")


def test_labels_for_every_pixel(tmp_path: Path) -> None:
    x, y = np.zeros((8, 3, 4, 4), np.float32), np.zeros((8, 4, 4), int)
    data = load(npz(tmp_path, x=x, y=y), takes(1, 3, 4, 4, task="segmentation"))
    assert (data.metric, data.pixelwise) == ("mean IoU", True)
    assert all_of(data.validation)[1].shape == (2, 4, 4)


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_arrays_of_python_objects_are_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    path = npz(tmp_path, x=np.array([Evil(trap)], dtype=object), y=np.zeros(1, int))
    assert "Python objects" in refused(DataSetUnreadable, path)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": np.zeros(3)}, "data.npz holds “a”, and no samples with labels"),
        ({"x": np.zeros((3, 3, 4, 4)), "y": np.zeros(2)}, "3×3×4×4 and 2: not one label"),
        ({"x": np.zeros((0, 3, 4, 4)), "y": np.zeros(0)}, "0×3×4×4 and 0"),
        ({"x": np.array(["a"]), "y": np.zeros(1)}, "it holds <U1 where numbers are needed"),
    ],
)
def test_arrays_that_are_no_samples_are_told_so(
    arrays: dict[str, Any], words: str, tmp_path: Path
) -> None:
    assert words in refused(DataSetUnreadable, npz(tmp_path, **arrays))


@pytest.mark.parametrize("labels", [np.full(4, 0.5), np.zeros((4, 7)), np.zeros(4, complex)])
def test_labels_that_are_no_class_numbers_are_refused(labels: Any, tmp_path: Path) -> None:
    if labels.dtype.kind == "c":
        assert "complex128" in refused(
            DataSetUnreadable, npz(tmp_path, x=np.zeros((4, 5)), y=labels)
        )
        return
    path = npz(tmp_path, x=np.zeros((4, 5)), y=labels)
    assert "no class number" in refused(DataSetMismatch, path, takes(1, 5))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"\x08" * 99])
def test_damaged_files_are_told_so(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"data{suffix}"
    path.write_bytes(content)
    assert "cannot be read" in refused(DataSetUnreadable, path)
    assert "is not a file" in refused(DataSetNotFound, tmp_path / f"none{suffix}")


def test_an_array_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    import zipfile

    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 3), }\n"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", array)
        archive.writestr("y.npy", array)
    assert "“x.npy” is cut short" in refused(DataSetUnreadable, path)


def test_arrays_that_memory_cannot_hold_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = npz(tmp_path, x=np.zeros((400, 3, 4, 4)), y=np.zeros(400, int))
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("M", (), {"available": 1000}))
    assert "memory are free" in refused(DataSetUnreadable, path)


# torchvision's


def write_idx(path: Path, values: np.ndarray[Any, Any]) -> None:
    """The format of MNIST's files (Y. LeCun)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(head + values.tobytes())


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    for stem, count in (("train", 6), ("t10k", 4)):
        images = np.arange(count, dtype=np.uint8)[:, None, None].repeat(28, 1).repeat(28, 2)
        raw = tmp_path / "MNIST" / "raw"
        write_idx(raw / f"{stem}-images-idx3-ubyte", images * 50)
        write_idx(raw / f"{stem}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8))
    return tmp_path


def test_mnist_on_a_local_root(mnist: Path) -> None:
    data = load(f"torchvision:MNIST:{mnist}", GREY)
    assert data.name == "MNIST"
    assert data.classes[3] == "3 - three"
    assert (len(data.training), len(data.validation)) == (6, 4)
    inputs, targets = all_of(data.validation)
    assert targets.tolist() == [0, 1, 2, 3]
    assert torch.allclose(inputs[:, 0, 0, 0] * 255, torch.tensor([0.0, 50, 100, 150]))
    assert data.validation.name(2) == "sample 3"


def test_cifar_on_a_local_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, digests = tmp_path / "cifar-10-batches-py", {}
    folder.mkdir()
    for name in ("data_batch_1", "test_batch", "batches.meta"):
        rows = np.arange(3 * 3072, dtype=np.uint32).reshape(3, 3072).astype(np.uint8)
        content = {"data": rows, "labels": [2, 0, 1], "label_names": ["plane", "car", "bird"]}
        (folder / name).write_bytes(pickle.dumps(content))
        digests[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    known = torchvision_datasets.CIFAR10
    monkeypatch.setattr(known, "train_list", [["data_batch_1", digests["data_batch_1"]]])
    monkeypatch.setattr(known, "test_list", [["test_batch", digests["test_batch"]]])
    monkeypatch.setattr(known, "meta", {**known.meta, "md5": digests["batches.meta"]})
    data = load(f"torchvision:CIFAR10:{tmp_path}", takes(1, 3, 32, 32))
    inputs, targets = all_of(data.validation)
    assert (data.classes, targets.tolist()) == (("plane", "car", "bird"), [2, 0, 1])
    wanted = rows.reshape(3, 3, 32, 32).astype(np.float32) / np.float32(255)
    assert torch.equal(inputs, torch.tensor(wanted))
    (folder / "test_batch").write_bytes(b"changed")  # and would be unpickled
    words = refused(DataSetUnreadable, f"torchvision:CIFAR10:{tmp_path}", takes(1, 3, 32, 32))
    assert "not found or corrupted" in words
    assert "download" not in words


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "VOCdevkit" / "VOC2012"
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for half, names in (("train", ["a"]), ("val", ["b", "c"])):
        (lists / f"{half}.txt").write_text("".join(f"{name}\n" for name in names))
        for at, name in enumerate(names):
            paint(root / "JPEGImages" / f"{name}.jpg", size=(12 + 6 * at, 9))
            mask = np.full((9, 12 + 6 * at), 255, np.uint8)
            mask[:, :6] = 15
            path = root / "SegmentationClass" / f"{name}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(mask).convert("P").save(path)
    return tmp_path


def test_voc_segmentation_on_a_local_root(voc: Path) -> None:
    info = takes(1, 3, 6, 6, task="segmentation")
    how = Preprocessing(resize=(6,))
    data = load(f"torchvision:VOCSegmentation:{voc}", info, preprocessing=how)
    assert (data.metric, data.pixelwise, len(data.classes)) == ("mean IoU", True, 21)
    assert data.classes[15] == "person"
    shapes = [(inputs.shape, targets.shape) for inputs, targets in data.validation.batches(9)]
    assert shapes == [((1, 3, 6, 8), (1, 6, 8)), ((1, 3, 6, 12), (1, 6, 12))], "sizes differ"
    assert data.validation.name(1) == "VOCdevkit/VOC2012/JPEGImages/c.jpg"
    request = DataRequest(f"torchvision:VOCSegmentation:{voc}", how)
    assert [one.label for one in preview(request, info, 2, Job())] == ["person", "person"]


def test_pictures_folders_by_torchvisions_name(halves: Path) -> None:
    assert load(f"torchvision:ImageFolder:{halves}").classes == ("cat", "dog")


@pytest.mark.parametrize("name", ["MNIST", "CIFAR100", "ImageNet", "VOCSegmentation", "Food101"])
def test_missing_files_are_named_and_nothing_is_downloaded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*args: object) -> None:
        raise AssertionError("it reached for the network")

    monkeypatch.setattr("socket.socket.connect", connect)
    with pytest.raises(DataSetNotFound) as caught:
        load(f"torchvision:{name}:{tmp_path}")
    assert str(caught.value).startswith(f"{tmp_path} has no ")
    assert "Nothing is downloaded here: unpack" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_every_known_class_is_one_of_torchvisions() -> None:
    import inspect

    from engine.datasets.torchvision_classes import _KNOWN

    for name, known in _KNOWN.items():
        kind = getattr(torchvision_datasets, name)
        parameters = set(inspect.signature(kind.__init__).parameters)
        for base in kind.__mro__:
            parameters |= set(inspect.signature(base.__init__).parameters)
        for half in (known.training, known.validation):
            assert set(half) <= parameters, name
        assert known.training != known.validation


def test_classes_that_are_not_known_are_told_with_near_ones() -> None:
    assert "Did you mean CIFAR10" in refused(DataSetNotFound, "torchvision:CIFAR1:/data")
    assert "“”" in refused(DataSetNotFound, "torchvision:")


def test_damaged_files_of_torchvisions_are_told(mnist: Path) -> None:
    (mnist / "MNIST" / "raw" / "t10k-images-idx3-ubyte").write_bytes(gzip.compress(b"what"))
    assert "torchvision cannot read MNIST" in refused(
        DataSetUnreadable, f"torchvision:MNIST:{mnist}", GREY
    )


# The user's own


FACTORY = """
from itertools import pairwise
from pathlib import Path
Path(__file__).with_name("ran").touch()
import torch

class Toy:
    classes = ["no", "yes"]
    def __init__(self, count, broken=()):
        self.count, self.broken = count, broken
    def __len__(self):
        return self.count
    def __getitem__(self, at):
        if at in self.broken:
            raise KeyError("lost")
        return torch.full((3,), float(at)), at % 2

def one(count=8):
    return Toy(count)
def two():
    return Toy(4), Toy(3, broken=(1,))
def stream():
    return iter([1])
def nothing():
    return Toy(0)
def fails():
    raise RuntimeError("no disk")
def dies():
    import os
    os._exit(7)
def dictionary():
    return [({"pixels": 1}, 0)]
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(f"{FACTORY}\n# allowed for {tmp_path} alone\n")
    return path


def digest(path: Path) -> frozenset[str]:
    return frozenset({hashlib.sha256(path.read_bytes()).hexdigest()})


FACTORY_INFO = takes(1, 3)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do in this process what is tried in a child first, which takes seconds."""
    monkeypatch.setattr(factories, "run_in_child", lambda _, payload, job: try_factory(payload))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [("fails", DataSetUnreadable, "no disk"), ("dies", ChildFailed, "with code 7")],
)
def test_a_factory_is_tried_in_a_child_first(
    name: str, kind: type[EngineError], words: str, script: Path
) -> None:
    assert words in refused(kind, f"{script}:{name}", FACTORY_INFO, trusted=digest(script))


def test_a_factory_runs_only_after_consent(script: Path) -> None:
    with pytest.raises(ConsentNeeded) as caught:
        load(f"{script}:one", FACTORY_INFO)
    assert frozenset({caught.value.details["digest"]}) == digest(script)
    assert caught.value.details["runs"] == [f"{script}:one"]
    assert not script.with_name("ran").exists()


@pytest.mark.usefixtures("here")
def test_a_factory_of_two_halves(script: Path) -> None:
    data = load(f"{script}:two", FACTORY_INFO, trusted=digest(script), broken="skip")
    assert (data.name, data.classes) == ("two", ("no", "yes"))
    assert (len(data.training), len(data.validation)) == (4, 3)
    inputs, targets = all_of(data.validation)
    assert inputs.tolist() == [[0.0] * 3, [2.0] * 3]
    assert targets.tolist() == [0, 0]
    assert data.broken == {"sample 2": "'lost'"}


@pytest.mark.usefixtures("here")
def test_a_factory_with_arguments_of_one_data_set(script: Path) -> None:
    data = load(f"{script}:one(count=12)", FACTORY_INFO, trusted=digest(script))
    assert (len(data.training), len(data.validation)) == (9, 3)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("stream", DataSetUnreadable, "gives no sample by its number"),
        ("nothing", DataSetMismatch, "without samples"),
        ("fails", DataSetUnreadable, "raised RuntimeError: no disk"),
        ("missing", DataSetNotFound, "has no “missing”"),
        ("dictionary", DataSetMismatch, "is a dict, and pictures or tensors are needed"),
    ],
)
def test_factories_that_give_no_data_are_told_so(
    name: str, kind: type[EngineError], words: str, script: Path
) -> None:
    assert words in refused(kind, f"{script}:{name}", FACTORY_INFO, trusted=digest(script))


# In a session


def test_calibration_reads_training_pictures_only(
    demo: ModelSession, halves: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(path: str) -> Image.Image:
        read.append(str(Path(path).relative_to(halves)))
        return Image.new("RGB", (9, 9), (50, 100, 200))

    demo.load_data(DataRequest(str(halves), broken="skip"), job)
    monkeypatch.setattr("engine.datasets.folders.read_picture", counted)
    layer = next(one.id for one in demo.snapshot.current.tree if "quantize" in one.methods)
    demo.apply(Quantize((layer,), calibration_samples=4), job)
    assert set(read) >= {
        "train/cat/0.png", "train/cat/2.png",
        "train/dog/deep/er/0.JPG", "train/dog/deep/er/2.JPG",
    }  # fmt: skip
    assert {one.partition("/")[0] for one in read} == {"train"}


def test_sessions_take_a_request_and_tell_what_was_skipped(
    demo: ModelSession, broken: Path, job: Job
) -> None:
    request = DataRequest(str(broken), broken="skip", metric="top-1")
    info = demo.load_data(request, job).snapshot.data
    assert info is not None
    assert (info.name, info.metric, info.broken) == ("pets", "top-1", ())
    assert "grey" in info.description
    shown = demo.preview_data(request, 2, job)
    assert [one.name for one in shown] == ["val/cat/0.png", "val/dog/deep/er/1.JPG"]
    assert demo.snapshot.data == info
