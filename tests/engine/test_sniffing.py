"""What a file is, by its content; names as they may be shown."""

import io
import json
import os
import pickle
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

from engine.errors import EngineError, ModelNotFound, ModelUnreadable
from engine.job import Job
from engine.sources.files.archives import read_archive
from engine.sources.files.naming import MOST_SHOWN, megabytes, plain_name, plain_names
from engine.sources.files.sniffing import Kind, sniff

STATE = nn.Linear(2, 3).state_dict()


def saved(value: object, new: bool = True) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, _use_new_zipfile_serialization=new)
    return out.getvalue()


def zipped(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return out.getvalue()


def arrays() -> bytes:
    out = io.BytesIO()
    np.savez(out, weight=np.zeros(2))
    return out.getvalue()


def program() -> bytes:
    out = io.BytesIO()
    torch.export.save(torch.export.export(nn.Linear(2, 3), (torch.zeros(1, 2),)), out)
    return out.getvalue()


@pytest.mark.parametrize("suffix", ["pt", "bin", "safetensors", "onnx", "txt"])
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (save(STATE), Kind.SAFETENSORS),
        (saved(STATE), Kind.TORCH_ZIP),
        (saved(nn.Linear(2, 3)), Kind.TORCH_ZIP),
        (saved(STATE, new=False), Kind.LEGACY_PICKLE),
        (pickle.dumps({"a": 1}), Kind.PICKLE),
        (pickle.dumps({"a": [1, "b"]}, 0), Kind.PICKLE),
        (pickle.dumps({"a": [1, "b"]}, 1), Kind.PICKLE),
        (zipped(m__data_dot_pkl=b".", m__code__a_dot_py=b""), Kind.TORCHSCRIPT),
        (zipped(m__data_dot_pkl=b".", m__constants_dot_pkl=b""), Kind.TORCHSCRIPT),
        (arrays(), Kind.NPZ),
        (json.dumps({"weight_map": {"a": "b"}}).encode(), Kind.SHARD_INDEX),
    ],
    ids=lambda value: value.name if isinstance(value, Kind) else "",
)
def test_the_content_decides_whatever_the_suffix(
    tmp_path: Path, content: bytes, kind: Kind, suffix: str
) -> None:
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(content)
    assert sniff(path) is kind


def test_exported_programs(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(program())
    assert sniff(path) is Kind.PROGRAM
    path.write_bytes(zipped(serialized_exported_program_dot_json=b"{}"))
    assert sniff(path) is Kind.PROGRAM


def test_python_files_are_known_by_their_suffix_alone(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text("def build(): ...")
    assert sniff(tmp_path / "nets.py") is Kind.PYTHON


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(save(STATE))
    (tmp_path / "link").symlink_to("model")
    assert sniff(tmp_path / "link") is Kind.SAFETENSORS


@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="the superuser may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(save(STATE))
    path.chmod(0)
    with pytest.raises(ModelUnreadable, match=r"model\.pt cannot be opened: Permission denied"):
        sniff(path)


def test_what_is_missing_of_a_file_is_told_in_bytes(tmp_path: Path) -> None:
    whole = save({"weight": torch.zeros(1_000_000)})
    path = tmp_path / "model.safetensors"
    path.write_bytes(whole[:1_200_000])
    from engine.sources.files.safetensors_files import read_safetensors

    assert sniff(path) is Kind.SAFETENSORS
    with pytest.raises(ModelUnreadable, match=r"cut short: 1\.2 MB of 4\.0 MB are there"):
        read_safetensors(path)


@given(st.binary(max_size=200) | st.binary(max_size=50).map(lambda tail: b"PK\x03\x04" + tail))
def test_any_bytes_are_one_kind_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.bin"
    path.write_bytes(content)
    found = outcome(path)
    assert isinstance(found, Kind) or (found.startswith("any.bin") and found.isprintable())


def outcome(path: Path) -> Kind | str:
    try:
        return sniff(path)
    except EngineError as error:
        return str(error)


# -- archives


def test_a_whole_archive_of_torchs_passes(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(saved({str(i): torch.full((1000,), float(i)) for i in range(5)}))
    archive = read_archive(path)
    archive.verify(Job())
    numbers = np.frombuffer(archive.content("archive/data/3"), "<f4")
    assert numbers.tolist() == [3.0] * 1000


@given(st.data())
def test_a_flipped_bit_is_noticed_unless_nothing_depends_on_it(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Every member of a damaged archive that passes has its own bytes still."""
    whole = saved({"weight": torch.arange(20.0)})
    path = tmp_path_factory.getbasetemp() / "flipped.pt"
    path.write_bytes(whole)
    archive = read_archive(path)
    before = {name: archive.content(name) for name in archive.members}
    damaged = bytearray(whole)
    damaged[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(damaged)
    try:
        archive = read_archive(path)
        archive.verify(Job())
    except ModelUnreadable:
        return
    assert {name: archive.content(name) for name in archive.members} == before


# -- names


@given(st.text(st.characters(codec=None), max_size=400))
def test_shown_names_are_one_line_of_bounded_length(name: str) -> None:
    shown = plain_name(name)
    assert shown.isprintable()
    assert len(shown) <= 10 * MOST_SHOWN
    assert not any(unicodedata.bidirectional(one) in ("RLO", "LRO", "RLI", "PDF") for one in shown)


@given(st.text("abcÄ–< >&.", max_size=MOST_SHOWN))
def test_ordinary_names_are_shown_as_they_are(name: str) -> None:
    assert plain_name(name) == name


def test_long_names_keep_their_ends() -> None:
    shown = plain_name("begin" + "x" * 10_000 + "end.pt")
    assert shown.startswith("begin")
    assert shown.endswith("end.pt")
    assert "…" in shown
    assert plain_names([str(i) for i in range(5)]) == "0, 1, 2 and 2 more"
    assert plain_names(["a"]) == "a"


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (45_000_000, "45.0 MB"), (12_400_000_000, "12.4 GB")],
)
def test_sizes_are_told_with_their_unit(size: int, text: str) -> None:
    assert megabytes(size) == text


def test_a_name_that_no_file_can_have() -> None:
    with pytest.raises(ModelNotFound, match="its name is too long"):
        sniff(Path("x" * 5000))
