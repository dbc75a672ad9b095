"""Architectures that can be built by name: the demo's, torchvision's, timm's, and factories'."""

import ast
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from engine.errors import ModelNotFound
from engine.job import Job
from engine.requests import InputSpec, OpenRequest, Preprocessing
from engine.sources import demo
from engine.sources.libraries.published import read_published
from engine.sources.opened import OpenedModel
from engine.state import ModelInfo
from engine.tracing import sample_inputs

DEMO = "demo"
TORCHVISION = "torchvision:"
TIMM = "timm:"

RANDOM_WEIGHTS = "Random weights: its accuracy means nothing."

_NAME = re.compile(
    r"(?:(?P<library>torchvision|timm):)?(?P<name>[\w.\-]+)"
    r"(?P<arguments>\(.*\))?(?:@(?P<weights>[\w.\-]+))?",
    re.DOTALL,
)


@dataclass(frozen=True)
class Architecture:
    """A model, and what is known of how it is used.

    Attributes:
        source: the name that builds it again: ``demo``, ``torchvision:resnet50``,
            ``torchvision:resnet50(num_classes=10)``, ``torchvision:resnet50@IMAGENET1K_V2``.
        inputs: what its forward takes.
        task: as in :class:`engine.catalogue.CatalogueEntry`; "" when unknown.
        preprocessing: how its published weights were evaluated; None when unknown.
        classes: names of what it tells apart, in the order of its outputs; empty when unknown.
        notes: what its user must know, in plain sentences.
    """

    source: str
    model: nn.Module
    inputs: tuple[InputSpec, ...]
    task: str = ""
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CatalogueName:
    """A name of the catalogue, taken apart.

    Attributes:
        library: ``torchvision`` or ``timm``.
        arguments: of the function that builds the model.
        weights: name of the published weights; "" for random ones.
    """

    library: str
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    weights: str = ""

    def __str__(self) -> str:
        """The text that :meth:`parse` reads."""
        given = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        arguments = f"({given})" if given else ""
        weights = f"@{self.weights}" if self.weights else ""
        return f"{self.library}:{self.name}{arguments}{weights}"

    @classmethod
    def parse(cls, source: str) -> "CatalogueName":
        """Read ``resnet50``, ``timm:NAME``, ``torchvision:NAME(num_classes=10)@WEIGHTS``.

        Raises:
            ModelNotFound: it is none of these.
        """
        found = _NAME.fullmatch(source)
        if found is None:
            raise ModelNotFound(f"“{source}” is no name of a model.")
        return cls(
            found["library"] or "torchvision",
            found["name"],
            _arguments(found["arguments"] or "()", source),
            found["weights"] or "",
        )


def build(source: str, device: str = "cpu", trusted: Collection[str] = frozenset()) -> Architecture:
    """The architecture with seeded random weights, in evaluation mode; nothing is downloaded.

    Args:
        source: ``demo``, a name of the catalogue, or a Python factory. Published weights that it
            names say how the model is built; their values are left out.
        device: ``meta`` for the structure alone.
        trusted: as in :class:`engine.requests.OpenRequest`, for factories.

    Raises:
        ModelNotFound: no architecture has that name; the message offers near ones.
        ModelUnreadable: it cannot be built with those arguments.
        ConsentNeeded: a factory's code was not allowed to run yet.
    """
    if is_factory(source):
        from engine.sources.factories import build_from

        return build_from(source, frozenset(trusted), device)
    with _seeded(device):
        if source == DEMO:
            return Architecture(
                DEMO, demo.DigitsNet().eval(), (InputSpec(demo.INPUT_SHAPE),), "classification"
            )
        made = _from_catalogue(CatalogueName.parse(source))
    made.model.to(device)  # what was computed, such as tables of positions, follows
    return made


def open_architecture(request: OpenRequest, job: Job) -> OpenedModel:
    """A model of the catalogue, with published weights if its name asks for them.

    Raises:
        ModelNotFound, ModelUnreadable: see :func:`build`; or the weights' file is damaged.
        WeightsMissing: they are not on this machine, and ``request.download`` is not set.
        DownloadFailed: they could not be fetched.
    """
    name = CatalogueName.parse(request.source)
    tensors = None
    if name.weights:
        tensors = read_published(_library(name).published(name), request.download, job)
        job.begin("Building the model")
    with _seeded("cpu"):
        made = _from_catalogue(name, tensors)
    inputs = request.inputs or made.inputs
    trained = tensors is not None
    info = ModelInfo(
        name.name,
        made.source,
        inputs,
        trained,
        made.notes if trained else (RANDOM_WEIGHTS, *made.notes),
        made.task,
        made.preprocessing,
    )
    return OpenedModel(info, made.model, sample_inputs(inputs), made.source)


def is_factory(source: str) -> bool:
    """Whether the name of an architecture is that of a Python factory."""
    head = source.partition("(")[0]
    return ":" in head and not head.startswith((TORCHVISION, TIMM))


def _from_catalogue(
    name: CatalogueName, tensors: Mapping[str, Tensor] | None = None
) -> Architecture:
    made: Architecture = _library(name).build(name, tensors)
    return made


def _library(name: CatalogueName) -> Any:
    # Seconds each, which the demo need not wait for.
    if name.library == "timm":
        from engine.sources.libraries import timm_models

        return timm_models
    from engine.sources.libraries import torchvision_models

    return torchvision_models


def _arguments(text: str, source: str) -> dict[str, Any]:
    try:
        call = ast.parse(f"build{text}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or not isinstance(call.func, ast.Name):
            raise ValueError("arguments are written name=value")
        given = {one.arg: ast.literal_eval(one.value) for one in call.keywords}
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ModelNotFound(
            f"The arguments of “{source}” cannot be read.",
            "Write them as names and literal values, such as resnet18(num_classes=10).",
        ) from error
    if None in given:  # **mapping
        raise ModelNotFound(f"The arguments of “{source}” cannot be read.")
    return {str(name): value for name, value in given.items()}


@contextmanager
def _seeded(device: str) -> Iterator[None]:
    """The same “random” weights every time, so that recipes fit again."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if device == "meta":
            with _WithoutData():
                yield
        else:
            with torch.device(device):
                yield


class _WithoutData(TorchFunctionMode):
    """Gives what layers are made of no data, and leaves arithmetic that decides sizes alone.

    ``torch.device("meta")`` would take the numbers away from RegNets, which compute their widths
    with ``torch.arange``.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _FILLING:  # with nothing, which takes half of the time of building
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.device.type == "meta":
                return tensor
        if func in _FACTORIES and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


_FACTORIES = frozenset(
    {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.empty_strided}
)
_FILLING = frozenset(
    {
        *(torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.zero_, torch.Tensor.fill_),
        *(nn.init.normal_, nn.init.uniform_, nn.init.constant_, nn.init.trunc_normal_),
        *(nn.init.kaiming_normal_, nn.init.kaiming_uniform_),
    }
)
