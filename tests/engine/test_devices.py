"""What models can run on here, and why not elsewhere."""

import pytest
import torch

from engine import devices
from engine.errors import ProfilingFailed
from engine.profiling import devices as module


def test_the_processor_is_always_there() -> None:
    first = devices()[0]
    assert (first.name, first.unavailable) == ("cpu", "")
    assert first.title


def test_what_is_missing_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> torch.device:
        raise ProfilingFailed(f"{name} is unavailable: no driver.", "Install one.")

    monkeypatch.setattr(module, "device_named", refuse)
    assert [(one.name, one.unavailable) for one in devices()[1:]] == [
        ("cuda", "cuda is unavailable: no driver. Install one."),
        ("mps", "mps is unavailable: no driver. Install one."),
    ]


def test_every_accelerator_is_offered_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "device_named", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda at: f"GPU {at}")
    found = {one.name: one.title for one in devices() if not one.unavailable}
    assert found["cuda:0"] == "GPU 0"
    assert found["cuda:1"] == "GPU 1"
    assert "mps" in found
