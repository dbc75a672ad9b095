"""Python factories: nothing is imported unasked, and what user code does wrong is said in words."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from engine import user_code
from engine.child import run_in_child
from engine.edits import PruneChannels, Quantize
from engine.errors import (
    ConsentNeeded,
    EngineError,
    ForwardFailed,
    InputsNeeded,
    ModelNotFound,
    ModelUnreadable,
)
from engine.export import program, verify
from engine.job import Cancelled, Job
from engine.layers import LayerId
from engine.lazy import resolve
from engine.requests import InputSpec, OpenRequest
from engine.session import ModelSession
from engine.sources import factories
from engine.sources.factories import build_from, open_factory
from engine.sources.files.safetensors_files import read_tensors
from engine.sources.opened import OpenedModel
from engine.sources.opening import open_source

NETS = """\
import sys
from pathlib import Path

import torch
from torch import nn

Path(__file__).with_suffix(".ran").touch()
print("a line that nobody asked for")

class Net(nn.Module):
    def __init__(self, width=4, *, classes=3):
        super().__init__()
        self.body = nn.Conv2d(3, width, 3, padding=1)
        self.mid = nn.Conv2d(width, 6, 1)
        self.head = nn.Linear(6, classes)

    def forward(self, x):
        return self.head(self.mid(self.body(x).relu()).mean((2, 3)))

def build(width=4, classes=3):
    return Net(width, classes=classes)

def with_inputs():
    table = nn.Embedding(9, 4)
    return table, (torch.tensor([[1, 7]]),)

def with_images():
    class Listed(nn.Module):
        def forward(self, images):
            return torch.stack([one.mean() for one in images])
    return Listed(), ([torch.rand(3, 8, 8)] * 2,)

def on_meta():
    with torch.device("meta"):
        return nn.Linear(1 << 16, 1 << 16), (torch.empty(1, 1 << 16),)

def nothing(): pass
def text(): return "a model"
def raises(): return [][3]
def stops(): sys.exit("enough")
def wrong_inputs(): return Net(), ("image",)
"""


@pytest.fixture(autouse=True)
def _children_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the child would do is done here, in a hundredth of the time."""

    def run(function: str, payload: Any, job: Job) -> Any:
        job.check()
        return resolve(function)(json.loads(json.dumps(payload)))

    for module in (factories, program, verify):
        monkeypatch.setattr(module, "run_in_child", run)


@pytest.fixture(autouse=True)
def _modules_forgotten() -> Iterator[None]:
    """A test shall not find what another one has allowed or imported."""
    allowed, modules = set(user_code._allowed_here), set(sys.modules)
    yield
    user_code._allowed_here.intersection_update(allowed)
    for name in set(sys.modules) - modules:
        if name.startswith(("secateur_user_", "made_up")):
            del sys.modules[name]


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(NETS)
    return path


def trusting(text: str, *inputs: str) -> OpenRequest:
    """The request of somebody who answered the question with yes."""
    specs = tuple(map(InputSpec.parse, inputs))
    try:
        open_factory(text, OpenRequest(text, specs), Job())
    except ConsentNeeded as error:
        return OpenRequest(text, specs, trusted=frozenset({error.details["digest"]}))
    raise AssertionError("it ran without being asked for")


def opened(text: str, *inputs: str) -> OpenedModel:
    return open_source(trusting(text, *inputs), Job())


# What opens


def test_a_function_of_a_file_with_arguments(nets: Path) -> None:
    text = f"{nets}:build(width=5, classes=2)"
    found = opened(text, "2x3x8x8")
    assert (found.info.name, found.info.source, found.architecture) == ("build", text, text)
    assert not found.info.trained
    assert "random" in found.info.notes[0]
    tree = ModelSession(found).snapshot.current.tree
    assert [(one.id, one.channels) for one in tree][1:] == [("body", 5), ("mid", 6), ("head", 2)]
    assert next(iter(tree)).kind == "Net"


def test_a_class_serves_as_a_function(nets: Path) -> None:
    assert opened(f"{nets}:Net(width=7)", "1x3x8x8").model.body.out_channels == 7


def test_random_weights_are_the_same_every_time(nets: Path) -> None:
    models = [opened(f"{nets}:build", "1x3x8x8").model]
    torch.rand(1)
    models.append(build_from(f"{nets}:build", ()).model)
    assert torch.equal(*(one.head.weight for one in models))
    assert type(models[0]) is type(models[1])


def test_sample_inputs_come_from_the_function_unless_others_are_given(nets: Path) -> None:
    assert opened(f"{nets}:with_inputs").info.inputs == (InputSpec((1, 2), "int64", 8),)
    given = OpenRequest(f"{nets}:with_inputs", (InputSpec.parse("4x5:int64<9"),))
    assert open_source(given, Job()).inputs[0].shape == (4, 5)  # allowed a moment ago
    images = open_source(OpenRequest(f"{nets}:with_images"), Job())
    assert images.info.inputs == (InputSpec((2, 3, 8, 8), listed=True),)
    assert images.model(*images.inputs).shape == (2,)


def test_models_without_data_stay_so(nets: Path) -> None:
    found = opened(f"{nets}:on_meta")
    assert found.model.weight.is_meta
    assert ModelSession(found).snapshot.current.table["macs"].total.value == 1 << 32


def test_the_inputs_are_asked_for_with_a_guess(nets: Path) -> None:
    with pytest.raises(InputsNeeded, match="does not say what its model takes") as caught:
        opened(f"{nets}:build")
    assert caught.value.details["inputs"] == ["1x3x224x224"]


def test_a_function_of_an_installed_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "made_up_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise_ = 1\n")
    (package / "nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(tmp_path)
    request = trusting("made_up_package.nets:build", "1x3x8x8")
    assert "made_up_package" not in sys.modules  # asking imports nothing
    assert open_source(request, Job()).model.mid.out_channels == 6


def test_structure_alone_is_built_without_data(nets: Path) -> None:
    trusted = trusting(f"{nets}:build").trusted
    assert build_from(f"{nets}:build", trusted, "meta").model.body.weight.is_meta


# Consent


def test_nothing_runs_before_consent_and_consent_is_to_one_content(nets: Path) -> None:
    request = trusting(f"{nets}:build", "1x3x8x8")
    marker = nets.with_suffix(".ran")
    assert not marker.exists()
    nets.write_text(NETS + "\n# changed\n")
    with pytest.raises(ConsentNeeded):
        open_source(request, Job())
    assert not marker.exists()
    nets.write_text(NETS)
    open_source(request, Job())
    assert marker.exists()


# What user code does wrong


def line_of(code: str) -> str:
    return rf"\(line {NETS[: NETS.index(code)].count(chr(10)) + 1}\)"


WRONG = {
    "missing": (ModelNotFound, r"has no “missing”"),
    "nothing": (ModelUnreadable, r"gives nothing, not a module of torch\.nn"),
    "text": (ModelUnreadable, "gives a str, not a module"),
    "raises": (ModelUnreadable, "IndexError: list index out of range " + line_of("[][3]")),
    "stops": (ModelUnreadable, "SystemExit: enough " + line_of("sys.exit")),
    "wrong_inputs": (ModelUnreadable, "gives a str among its sample inputs"),
    "build(depth=3)": (ModelUnreadable, "unexpected keyword argument 'depth'"),
    "build(width=len('abc'))": (ModelUnreadable, "no literals"),
    "build(width=-1)": (ModelUnreadable, line_of("self.body =")),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_goes_wrong_is_said_with_its_place(nets: Path, name: str) -> None:
    kind, words = WRONG[name]
    with pytest.raises(kind, match=words) as caught:
        opened(f"{nets}:{name}")
    assert "\n" not in str(caught.value)
    assert caught.value.remedy


def test_a_missing_function_lists_what_there_is(nets: Path) -> None:
    with pytest.raises(ModelNotFound) as caught:
        opened(f"{nets}:missing")
    assert "It has Net, build, " in caught.value.remedy


def test_a_forward_that_raises_names_the_layer(nets: Path) -> None:
    with pytest.raises(ForwardFailed, match="in layer body"):
        ModelSession(opened(f"{nets}:build", "1x4x8x8"))


SOURCES = {
    "syntax": ("def build(:\n", r"SyntaxError: .* \(line 1\)"),
    "import": ("x = 1\nimport made_up_thing\n", r"No module named 'made_up_thing' \(line 2\)"),
    "exit": ("import sys\nsys.exit(3)\n", r"SystemExit: 3 \(line 2\)"),
    "no text": ("\0\0", "null bytes"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_files_that_cannot_be_loaded(tmp_path: Path, name: str) -> None:
    source, words = SOURCES[name]
    path = tmp_path / "nets.py"
    path.write_text(source)
    with pytest.raises(ModelUnreadable, match=words):
        opened(f"{path}:build")


@pytest.mark.parametrize("where", ["missing.py", "made_up_package.nets", "."])
def test_what_is_not_there(tmp_path: Path, where: str) -> None:
    text = f"{tmp_path / where}:build" if where.endswith(".py") else f"{where}:build"
    with pytest.raises(EngineError):
        open_factory(text, OpenRequest(text), Job())


def in_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factories, "run_in_child", run_in_child)


def test_code_that_ends_its_process_ends_a_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_children(monkeypatch)
    path = tmp_path / "nets.py"
    path.write_text("import os\nprint('words')\ndef build():\n    os._exit(3)\n")
    with pytest.raises(ModelUnreadable, match="code 3"):
        opened(f"{path}:build")


def test_code_that_a_checkpoint_is_opened_with_ends_a_child_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_children(monkeypatch)
    code, tensors = tmp_path / "nets.py", tmp_path / "tensors.safetensors"
    code.write_text("import os\ndef build():\n    os._exit(3)\n")
    save_file({"weight": torch.zeros(1)}, tensors)
    request = replace(trusting(f"{code}:build"), source=str(tensors), architecture=f"{code}:build")
    with pytest.raises(ModelUnreadable, match="code 3"):
        open_source(request, Job())


def test_code_that_never_ends_is_stopped_by_a_cancel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: Callable[[int], Job]
) -> None:
    in_children(monkeypatch)
    path = tmp_path / "nets.py"
    path.write_text("def build():\n    while True:\n        pass\n")
    request = trusting(f"{path}:build", "1x3")
    with pytest.raises(Cancelled):
        open_source(request, stop_at(8))


def test_what_was_allowed_is_not_asked_for_again(nets: Path) -> None:
    request = trusting(f"{nets}:build", "1x3x8x8")
    open_source(request, Job())
    assert open_source(replace(request, trusted=frozenset()), Job()).architecture == request.source


def test_allowed_code_is_not_a_files_to_call(nets: Path, tmp_path: Path, job: Job) -> None:
    """A file that names another function, or other arguments, of code that may run is asked for."""
    session = ModelSession(open_source(trusting(f"{nets}:build", "1x3x8x8"), job))
    path = tmp_path / "model.safetensors"
    session.export(str(path), "checkpoint", job)
    assert open_source(OpenRequest(str(path)), job).architecture == f"{nets}:build"
    tensors, metadata = read_tensors(path)
    other = metadata["secateur"].replace("py:build", "py:build(width='\\u202e')")
    save_file(tensors, path, {"secateur": other})
    with pytest.raises(ConsentNeeded, match="names Python code") as caught:
        open_source(OpenRequest(str(path)), job)
    assert caught.value.details["runs"] == [f"{nets}:build(width='\\u202e')"]
    assert str(caught.value).isprintable()


def test_a_module_is_looked_for_in_packages_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``made_up_one.made_up_two`` is not the module that happens to be called made_up_two."""
    for name in ("made_up_one", "made_up_two"):
        (tmp_path / f"{name}.py").write_text("def build(): ...")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModelNotFound, match=r"no Python module “made_up_one\.made_up_two”"):
        opened("made_up_one.made_up_two:build")


# Export


def test_an_edited_model_survives_a_checkpoint(nets: Path, tmp_path: Path, job: Job) -> None:
    request = trusting(f"{nets}:build(width=8)", "1x3x8x8")
    session = ModelSession(open_source(request, job))
    session.apply(PruneChannels((LayerId("body"),), 0.5), job)
    session.apply(Quantize((LayerId("mid"),)), job)
    path = tmp_path / "model.safetensors"
    assert session.export(str(path), "checkpoint", job).largest_error == 0
    user_code._allowed_here.clear()  # as in another process
    with pytest.raises(ConsentNeeded) as caught:
        open_source(OpenRequest(str(path)), job)
    assert caught.value.details["runs"] == [request.source]
    trusted = frozenset({caught.value.details["digest"]})
    with pytest.raises(ConsentNeeded):  # what was allowed to be opened serves no file
        open_source(OpenRequest(str(path), trusted=request.trusted), job)
    again = ModelSession(open_source(OpenRequest(str(path), trusted=trusted), job))
    assert again.fingerprint() == session.fingerprint(2)
    assert again.snapshot.current.tree["body"].channels == 4


@pytest.mark.slow
def test_it_is_exported_by_children(
    nets: Path, tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (factories, program, verify):
        monkeypatch.setattr(module, "run_in_child", run_in_child)
    session = ModelSession(opened(f"{nets}:build", "1x3x8x8"))
    report = session.export(str(tmp_path / "model.pt2"), "program", job)
    assert report.note == "It takes any batch size."
    session.export(str(tmp_path / "model.safetensors"), "checkpoint", job)
