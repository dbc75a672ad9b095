"""Recipes: what is written is read again, and what is damaged is refused by name."""

import copy
import hashlib
import json
import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save
from safetensors.torch import save as save_torch

from engine.edits import (
    AppliedEdit,
    Cast,
    ChannelScale,
    ChannelSlice,
    ChannelsRemoved,
    ChannelsScaled,
    Decision,
    Equalize,
    InputGrid,
    LayersCast,
    LayersQuantized,
    MaskWeights,
    OperatorsRounded,
    PruneByMethod,
    PruneChannels,
    PruneWeights,
    Quantize,
    QuantizedLayer,
    RoundedOperator,
    Smooth,
    StoredTensor,
    WeightGrid,
    WeightMask,
    WeightsZeroed,
)
from engine.errors import EngineError, ExportFailed, RecipeMismatch, RecipeUnreadable
from engine.job import Job
from engine.layers import LayerId
from engine.recipe import Recipe, read_recipe, write_recipe
from engine.session import ModelSession

# -- recipes of every kind

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NAMES = TEXT.map(LayerId)
LAYERS = st.lists(NAMES, min_size=1, max_size=3).map(tuple)
SCALES = st.floats(2.0**-126, 2.0**127)
SEEDS = st.integers(-(2**63), 2**64)

PRUNED_CHANNELS = st.builds(
    AppliedEdit,
    st.builds(
        PruneChannels,
        LAYERS,
        st.floats(0, 1, exclude_max=True),
        st.sampled_from(["l1", "l2", "random"]),
        st.sampled_from(["layer", "global", "energy"]),
        seed=SEEDS,
    ),
    st.builds(
        ChannelsRemoved,
        st.lists(
            st.builds(
                ChannelSlice,
                NAMES,
                st.sampled_from(["out", "in", "parameter"]),
                st.lists(st.integers(0, 4095), unique=True, max_size=9).map(sorted).map(tuple),
                st.integers(1, 4096),
                st.integers(0, 3),
            ),
            max_size=3,
        ).map(tuple),
    ),
)
PRUNED_WEIGHTS = st.builds(
    AppliedEdit,
    st.builds(
        PruneWeights,
        LAYERS,
        st.floats(0, 1),
        st.sampled_from(["l1", "taylor", "wanda", "random"]),
        st.sampled_from(["layer", "global", "energy"]),
        st.integers(0, 4),
        st.integers(0, 8),
        st.integers(1, 512),
        SEEDS,
    )
    | st.builds(MaskWeights, LAYERS, TEXT)
    | st.builds(PruneByMethod, LAYERS, TEXT, st.floats(0, 1), TEXT, SEEDS),
    st.builds(
        WeightsZeroed,
        st.lists(
            st.builds(
                WeightMask,
                NAMES,
                st.lists(st.integers(1, 512), min_size=1, max_size=5).map(tuple),
                st.binary(max_size=64),
                TEXT,
            ),
            max_size=3,
        ).map(tuple),
    ),
)
INPUT_GRIDS = st.none() | st.builds(
    InputGrid,
    st.sampled_from([8, 16]),
    st.none() | SCALES,
    st.integers(-(2**15), 2**15 - 1),
    st.booleans(),
)
TENSORS = st.lists(
    st.builds(
        StoredTensor,
        TEXT,
        st.sampled_from(["int8", "int16", "float32"]),
        st.lists(st.integers(0, 9), max_size=4).map(tuple),
        st.binary(max_size=64),
    ),
    max_size=2,
).map(tuple)
QUANTIZED = st.builds(
    AppliedEdit,
    st.builds(
        Quantize,
        LAYERS,
        st.integers(2, 16),
        st.sampled_from(["tensor", "channel", "group"]),
        rounding=st.sampled_from(["nearest", "gptq", "adaround"]),
        activations=st.sampled_from(["static", "dynamic", "none"]),
        observer=st.sampled_from(["min-max", "percentile", "mse"]),
        percentile=st.floats(50, 100, exclude_min=True),
        calibration_samples=st.integers(1, 10**6),
    ),
    st.builds(
        LayersQuantized,
        st.lists(
            st.builds(
                QuantizedLayer,
                NAMES,
                st.none() | NAMES,
                st.builds(
                    WeightGrid,
                    st.integers(2, 16),
                    st.booleans(),
                    st.integers(0, 512),
                    st.lists(SCALES, max_size=4).map(tuple),
                    st.lists(st.integers(-(2**15), 2**15 - 1), max_size=4).map(tuple),
                ),
                INPUT_GRIDS,
                TENSORS,
            ),
            max_size=3,
        ).map(tuple),
        TEXT,
        st.lists(
            st.builds(
                OperatorsRounded,
                NAMES,
                st.lists(
                    st.builds(
                        RoundedOperator,
                        st.sampled_from(["add", "matmul"]),
                        st.lists(INPUT_GRIDS, max_size=2).map(tuple),
                    ),
                    max_size=3,
                ).map(tuple),
            ),
            max_size=2,
        ).map(tuple),
        st.lists(TEXT, max_size=2).map(tuple),
    ),
)
HALF = st.sampled_from(["float16", "bfloat16"])
CAST = st.builds(AppliedEdit, st.builds(Cast, LAYERS, HALF), st.builds(LayersCast, LAYERS, HALF))
SCALED = st.builds(
    AppliedEdit,
    st.builds(Equalize, LAYERS) | st.builds(Smooth, LAYERS, st.floats(0, 1)),
    st.builds(
        ChannelsScaled,
        st.lists(
            st.builds(
                ChannelScale,
                NAMES,
                st.sampled_from(["out", "in"]),
                st.lists(SCALES, max_size=4).map(tuple),
                st.none() | NAMES,
            ),
            max_size=3,
        ).map(tuple),
        TEXT,
    ),
)
RECIPES = st.builds(
    Recipe,
    TEXT,
    TEXT,
    st.lists(PRUNED_CHANNELS | PRUNED_WEIGHTS | QUANTIZED | CAST | SCALED, max_size=4).map(tuple),
)


@given(RECIPES)
@settings(max_examples=60)
def test_every_recipe_reads_back_as_it_was_written(recipe: Recipe) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.json"
        files = write_recipe(path, recipe)
        assert read_recipe(path) == recipe
        assert sorted(Path(folder).iterdir()) == sorted(files)
        assert len(files) == 1 + any(_holds_bytes(one.decision) for one in recipe.edits)


def _holds_bytes(decision: Decision) -> bool:
    if isinstance(decision, WeightsZeroed):
        return bool(decision.masks)
    return isinstance(decision, LayersQuantized) and any(one.tensors for one in decision.layers)


# -- one recipe by hand


def masked(kept: bytes = b"\xa5\x0f") -> Recipe:
    mask = WeightMask(LayerId("fc"), (4, 4), kept)
    applied = AppliedEdit(PruneWeights((LayerId("fc"),), 0.5), WeightsZeroed((mask,)))
    return Recipe("demo", "f" * 64, (applied,))


def test_the_file_is_json_that_a_person_can_read(tmp_path: Path) -> None:
    write_recipe(tmp_path / "r.json", masked())
    content = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert content["format"] == "secateur-recipe"
    assert content["model"] == {"source": "demo", "fingerprint": "f" * 64}
    assert content["edits"][0]["edit"] == "prune-weights"
    assert content["edits"][0]["request"] == {
        "layers": ["fc"], "ratio": 0.5, "criterion": "l1", "spread": "layer", "keep": 0, "of": 0,
        "samples": 256, "seed": 0,
    }  # fmt: skip


def test_masks_lie_beside_it_bit_by_bit_in_a_file_named_by_its_content(tmp_path: Path) -> None:
    path, beside = write_recipe(tmp_path / "r.json", masked())
    digest = hashlib.sha256(beside.read_bytes()).hexdigest()
    assert beside.name == f"r.{digest[:12]}.safetensors"
    assert json.loads(path.read_text())["tensors"] == {"file": beside.name, "sha256": digest}
    (stored,) = load_file(beside).values()
    assert stored.tobytes() == b"\xa5\x0f"


def test_the_same_edits_give_the_same_bytes(tmp_path: Path) -> None:
    first = {one.name: one.read_bytes() for one in write_recipe(tmp_path / "r.json", masked())}
    again = {one.name: one.read_bytes() for one in write_recipe(tmp_path / "r.json", masked())}
    assert first == again


def test_recipes_move_together_with_their_tensors(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in write_recipe(tmp_path / "r.json", masked()):
        file.rename(other / file.name)
    (other / "r.json").rename(other / "renamed.json")
    assert read_recipe(other / "renamed.json") == masked()


@pytest.mark.parametrize("failing", [1, 2])
def test_an_old_recipe_stays_whole_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Whether the tensors or the recipe itself cannot be written."""
    path = tmp_path / "r.json"
    write_recipe(path, masked())
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
    flush, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) == (1 if failing == 1 else 3):  # file, folder, file
            raise OSError(28, "No space left on device")
        flush(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ExportFailed, match="No space left on device"):
        write_recipe(path, masked(b"\x00\x01"))
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before
    assert read_recipe(path) == masked()


def test_failing_to_write_the_same_again_does_not_take_its_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.json"
    write_recipe(path, masked())
    monkeypatch.setattr("engine.recipe._same", lambda *_: (_ for _ in ()).throw(OSError(5, "Bad")))
    with pytest.raises(ExportFailed):
        write_recipe(path, masked())
    assert read_recipe(path) == masked()


# -- files that are no recipe, or no longer


def unreadable(path: Path) -> str:
    with pytest.raises(RecipeUnreadable) as caught:
        read_recipe(path)
    assert caught.value.remedy
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"[" * 100_000, "not JSON.*recursion"),
        (b"[" * 100_000 + b"]" * 100_000, "not JSON.*recursion"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON.*4300 digits"),
        (b'{"format": "secateur-recipe", "version": NaN}', "NaN"),
        (b'{"format": "secateur-recipe", "version": -1e999}', "-1e999"),
        (b"null", "not a recipe of Secateur"),
        (b"[]", "not a recipe of Secateur"),
        (b'"secateur-recipe"', "not a recipe of Secateur"),
        (b"{}", "'format' is missing"),
        (b'{"format": "onnx", "version": 1}', "not a recipe of Secateur"),
        (b'{"format": "secateur-recipe"}', "'version' is missing"),
        (b'{"format": "secateur-recipe", "version": 2}', "another version .format 2."),
        (b'{"format": "secateur-recipe", "version": "1"}', "another version"),
        (b'{"format": "secateur-recipe", "version": 1}', "'edits' is missing"),
        (b'{"format": "secateur-recipe", "version": 1, "edits": []}', "'model' is missing"),
        (b'{"format": "secateur-recipe", "version": 1, "edits": 3}', "not built as a recipe"),
    ],
)
def test_what_is_no_recipe_is_refused(tmp_path: Path, content: bytes, cause: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    message = unreadable(path)
    assert "bad.json" in message
    assert re.search(cause, message), message


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("missing", "fifo", "loop", "."):
        assert "not there, or is not a regular file" in unreadable(tmp_path / name)
    assert "not a regular file" in unreadable(Path("/dev/zero"))


def test_a_name_too_long_for_any_file_is_refused(tmp_path: Path) -> None:
    assert "too long" in unreadable(tmp_path / ("x" * 10_000))


def test_a_file_too_large_for_any_recipe_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(1 << 40)  # without a byte on the disk
    assert "larger than any recipe" in unreadable(tmp_path / "huge.json")


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "good.json"
    write_recipe(path, masked())
    return path


def damage(path: Path, *steps: Any, **changes: Any) -> None:
    """Change entries of the JSON under ``steps``."""
    content = place = json.loads(path.read_text())
    for step in steps:
        place = place[step]
    place.update(changes)
    path.write_text(json.dumps(content))


def test_a_missing_tensors_file_is_named(written: Path) -> None:
    (beside,) = written.parent.glob("*.safetensors")
    beside.unlink()
    assert unreadable(written) == f"{beside.name}, which belongs to good.json, is missing."
    os.mkfifo(beside)
    assert f"{beside.name}, which belongs" in unreadable(written)


def test_every_flipped_bit_of_the_tensors_file_is_noticed(written: Path) -> None:
    (beside,) = written.parent.glob("*.safetensors")
    whole = beside.read_bytes()
    for at in range(len(whole)):
        beside.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        assert unreadable(written) == f"{beside.name} is damaged: its checksum differs."
    beside.write_bytes(whole[:-1])
    assert "is damaged" in unreadable(written)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no tensors",
        save({"other": np.zeros(2, np.uint8)}),
        save_torch({"0.masks.0.kept": torch.zeros(2, dtype=torch.bfloat16)}),
    ],
    ids=["empty", "garbage", "other-names", "other-type"],
)
def test_a_tensors_file_that_holds_something_else(written: Path, content: bytes) -> None:
    (written.parent / "other.safetensors").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    damage(written, "tensors", file="other.safetensors", sha256=digest)
    message = unreadable(written)
    assert "other.safetensors is damaged" in message or "'0.masks.0.kept' is missing" in message


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "..", ".", "", "/etc/passwd", "a/../../outside.safetensors"]
)
def test_tensors_are_never_read_from_another_folder(written: Path, name: str) -> None:
    (beside,) = written.parent.glob("*.safetensors")
    inside = written.parent / "inside"
    inside.mkdir()
    beside.rename(written.parent / "outside.safetensors")
    written = written.rename(inside / "good.json")
    damage(written, "tensors", file=name)
    assert "in another folder" in unreadable(written)


@pytest.mark.parametrize("name", ["x" * 10_000, "a\0b", 3, None])
def test_odd_names_of_a_tensors_file(written: Path, name: Any) -> None:
    damage(written, "tensors", file=name)
    unreadable(written)


@pytest.mark.parametrize("tensors", [None, 3, "x", [], {}])
def test_odd_entries_for_the_tensors(written: Path, tensors: Any) -> None:
    damage(written, tensors=tensors)
    unreadable(written)


DEEP: Any = "bottom"
for _ in range(400):
    DEEP = [DEEP]

WRONG = [
    (("edit",), "distill", "no edit of the kind “distill”"),
    (("edit",), ["quantize"], "not built as a recipe"),
    (("edit",), "quantize", "ChannelsRemoved|LayersQuantized|Quantize"),
    (("request",), None, "PruneChannels"),
    (("request", "ratio"), "much", "PruneChannels.ratio"),
    (("request", "ratio"), -0.1, "PruneChannels.ratio"),
    (("request", "ratio"), 1, "PruneChannels.ratio"),
    (("request", "layers"), "conv", "PruneChannels.layers"),
    (("request", "layers"), [None], "PruneChannels.layers.0"),
    (("request", "criterion"), "l3", "PruneChannels.criterion"),
    (("decision",), 3, "ChannelsRemoved"),
    (("decision",), DEEP, "ChannelsRemoved"),
    (("decision", "slices"), {"a": 1}, "ChannelsRemoved.slices"),
    (("decision", "slices", 0, "side"), "up", "slices.0.side"),
    (("decision", "slices", 0, "of"), 0, "slices.0.of"),
    (("decision", "slices", 0, "of"), 2.5, "slices.0.of"),
    (("decision", "slices", 0, "removed"), [-1], "slices.0.removed.0"),
    (("decision", "slices", 0, "removed"), [1e300], "slices.0.removed.0"),
    (("decision", "slices", 0, "removed"), {"tensor": "nothing"}, "'nothing' is missing"),
    (("decision", "slices", 0, "removed"), {"tensor": ["x"]}, "not built as a recipe"),
]


@pytest.mark.parametrize(("steps", "value", "cause"), WRONG)
def test_wrong_values_are_refused_by_name(
    tmp_path: Path, steps: tuple[Any, ...], value: Any, cause: str
) -> None:
    removed = ChannelsRemoved((ChannelSlice(LayerId("a"), "out", (1,), 4),))
    recipe = Recipe("demo", "", (AppliedEdit(PruneChannels((LayerId("a"),), 0.5), removed),))
    path = tmp_path / "bad.json"
    write_recipe(path, recipe)
    damage(path, "edits", 0, *steps[:-1], **{steps[-1]: value})
    message = unreadable(path)
    assert re.search(cause, message), message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input.scale", 0),
        ("input.scale", -1.0),
        ("input.scale", 1e300),
        ("input.zero_point", 2**15),
        ("input.zero_point", 0.5),
        ("input.bits", 4),
        ("weight.scales", [1.0, -1.0]),
        ("weight.bits", 1),
        ("weight.bits", 17),
        ("weight.group_size", -1),
        ("weight.zero_points", [2**15]),
        ("folded", 3),
    ],
)
def test_impossible_grids_are_refused_by_name(tmp_path: Path, field: str, value: Any) -> None:
    grids = WeightGrid(8, True, 0, (1.0,), (0,)), InputGrid(8, 1.0)
    layers = LayersQuantized((QuantizedLayer(LayerId("a"), None, *grids),), "")
    path = tmp_path / "bad.json"
    write_recipe(path, Recipe("demo", "", (AppliedEdit(Quantize((LayerId("a"),)), layers),)))
    *steps, key = field.split(".")
    damage(path, "edits", 0, "decision", "layers", 0, *steps, **{key: value})
    assert f"layers.0.{field}" in unreadable(path)


@given(st.data())
@settings(max_examples=150)
def test_one_changed_value_anywhere_is_read_or_refused_in_words(data: st.DataObject) -> None:
    """Whatever is put in place of any one value, nothing but RecipeUnreadable comes out."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "r.json"
        write_recipe(path, data.draw(RECIPES))
        content = json.loads(path.read_text())
        place, key = data.draw(st.sampled_from(list(_places(content))))
        others = st.sampled_from([None, DEEP, [], {}, {"tensor": "0"}])
        place[key] = data.draw(others | st.integers() | st.floats() | TEXT)
        path.write_text(json.dumps(content))
        try:
            read = read_recipe(path)
        except RecipeUnreadable:
            return
        assert isinstance(read, Recipe)


def _places(value: Any) -> Any:
    """Every (container, key) of a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in list(items):
        yield value, key
        if isinstance(one, dict | list):
            yield from _places(one)


# -- recipes that are whole and do not fit


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The demo's recipe with all three kinds of edit, as JSON; its folder under ``folder``."""
    from engine.session import open_model

    folder = tmp_path_factory.mktemp("recipe")
    session = open_model("demo", Job())
    session.apply(PruneChannels((LayerId("stage1.block0.conv1"),), 0.25), Job())
    session.apply(PruneWeights((LayerId("stem.conv"),), 0.5), Job())
    session.apply(
        Quantize((LayerId("stem.conv"), LayerId("head.fc")), calibration_samples=32), Job()
    )
    session.save_recipe(str(folder / "r.json"), Job())
    return {
        "folder": folder,
        "content": json.loads((folder / "r.json").read_text()),
        "fingerprint": session.fingerprint(),
    }


def test_replay_gives_the_same_bits(demo: ModelSession, recorded: dict[str, Any], job: Job) -> None:
    demo.apply_recipe(str(recorded["folder"] / "r.json"), job)
    assert demo.fingerprint() == recorded["fingerprint"]


SLICE, MASK, LAYER = (
    ("edits", 0, "decision", "slices", 0),
    ("edits", 1, "decision", "masks", 0),
    ("edits", 2, "decision", "layers", 0),
)
LONG = "x" * 10_000
MISFITS = [
    (("model", "fingerprint"), "0" * 64, "other weights"),
    (("edits", 0, "request", "layers"), ["nowhere"], "no layer “nowhere”"),
    (("edits", 0, "request", "layers"), [LONG], "no layer “xxx"),
    ((*SLICE, "layer"), "nowhere", "nowhere"),
    ((*SLICE, "layer"), LONG, "xxx"),
    ((*SLICE, "layer"), "stem.relu", "ReLU"),
    ((*SLICE, "layer"), "", "DigitsNet"),
    ((*SLICE, "removed"), [64], "1 of 64 channels cannot be removed from stage1.block0.conv1"),
    ((*SLICE, "removed"), [10**30], "cannot be removed from stage1.block0.conv1"),
    ((*SLICE, "removed"), list(range(64)), "64 of 64 channels cannot be removed"),
    ((*SLICE, "removed"), [1], "no longer run"),
    ((*SLICE, "of"), 63, "which has 64"),
    ((*SLICE, "of"), 10**15, "which has 64"),
    ((*SLICE, "side"), "parameter", "shape"),
    ((*SLICE, "side"), "in", "no longer run|channels"),
    ((*MASK, "layer"), "nowhere", "nowhere"),
    ((*MASK, "layer"), "stem", "weight"),
    ((*MASK, "shape"), [1], "mask of stem.conv"),
    ((*MASK, "shape"), [32, 1, 3, 30], "mask of stem.conv"),
    ((*MASK, "shape"), [288], "mask of stem.conv"),
    ((*MASK, "shape"), [2**40, 2**40], "mask of stem.conv"),
    ((*LAYER, "layer"), "nowhere", "nowhere"),
    ((*LAYER, "layer"), "stem.bn", "stem.bn"),
    ((*LAYER, "folded"), "stem.relu", "stem.conv"),
    ((*LAYER, "folded"), "nowhere", "nowhere"),
    ((*LAYER, "folded"), "stage2.pointwise.bn", "size"),
    ((*LAYER, "weight", "scales"), [1.0, 1.0], "32 channels, and 2 scales"),
    ((*LAYER, "weight", "scales"), [], "32 channels, and 0 scales"),
    ((*LAYER, "weight", "group_size"), 7, "32 channels, and 32 scales"),
    ((*LAYER, "weight", "group_size"), 10**30, "32 channels, and 32 scales"),
    ((*LAYER, "weight", "zero_points"), [0] * 31, "zero points of stem.conv"),
    ((*LAYER, "weight", "zero_points"), [1] * 32, "zero points of stem.conv"),
    ((*LAYER, "input", "zero_point"), 128, "not on its grid"),
]


@pytest.mark.parametrize(
    ("steps", "value", "cause"), MISFITS, ids=[f"{one[0][-1]}={one[1]!s:.20}" for one in MISFITS]
)
def test_a_recipe_that_does_not_fit_changes_nothing(
    demo: ModelSession,
    job: Job,
    recorded: dict[str, Any],
    steps: tuple[Any, ...],
    value: Any,
    cause: str,
) -> None:
    content = copy.deepcopy(recorded["content"])
    place = content
    for step in steps[:-1]:
        place = place[step]
    place[steps[-1]] = value
    path = recorded["folder"] / "bad.json"
    path.write_text(json.dumps(content))
    before = demo.snapshot
    with pytest.raises(RecipeMismatch) as caught:
        demo.apply_recipe(str(path), job)
    assert re.search(cause, str(caught.value)), str(caught.value)[:300]
    assert demo.snapshot == before


def test_a_mask_with_too_many_bits_does_not_fit(
    demo: ModelSession, job: Job, recorded: dict[str, Any]
) -> None:
    blobs = load_file(recorded["folder"] / recorded["content"]["tensors"]["file"])
    # 288 weights are 36 bytes.
    tensors = save({**blobs, "1.masks.0.kept": np.zeros(37, np.uint8)})
    (recorded["folder"] / "long.safetensors").write_bytes(tensors)
    digest = hashlib.sha256(tensors).hexdigest()
    content = {**recorded["content"], "tensors": {"file": "long.safetensors", "sha256": digest}}
    path = recorded["folder"] / "bad.json"
    path.write_text(json.dumps(content))
    with pytest.raises(RecipeMismatch, match="one bit for each weight"):
        demo.apply_recipe(str(path), job)


def test_a_recipe_applied_twice_over_does_not_fit(
    demo: ModelSession, job: Job, recorded: dict[str, Any]
) -> None:
    content = {**recorded["content"], "edits": recorded["content"]["edits"][:1] * 2}
    path = recorded["folder"] / "bad.json"
    path.write_text(json.dumps(content))
    with pytest.raises(EngineError, match=r"of 64 channels cannot be removed .* has 48"):
        demo.apply_recipe(str(path), job)
    assert demo.snapshot.cursor == 0


def test_a_recipe_behind_a_link_keeps_its_tensors_beside_it(tmp_path: Path) -> None:
    real, link = tmp_path / "real" / "one.json", tmp_path / "link.json"
    real.parent.mkdir()
    link.symlink_to(real)
    mask = WeightMask(LayerId("fc"), (8,), b"\x0f")
    edit = AppliedEdit(PruneWeights((LayerId("fc"),), 0.5), WeightsZeroed((mask,)))
    recipe = Recipe("demo", "0" * 64, (edit,))
    write_recipe(link, recipe)
    assert link.is_symlink()
    assert read_recipe(link) == read_recipe(real) == recipe
    assert {path.parent for path in tmp_path.rglob("*.safetensors")} == {real.parent}
