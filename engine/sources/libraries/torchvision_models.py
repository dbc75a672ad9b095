"""torchvision's models, built as each entry of published weights builds them."""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn
from torchvision import models

from engine.errors import ModelNotFound, ModelUnreadable
from engine.requests import InputSpec, Preprocessing
from engine.sources.architectures import DEMO, Architecture, CatalogueName
from engine.sources.libraries.published import PublishedFile

FRAMES = 16
"""Of a video: what torchvision's published operations were counted with."""

FLOW_SIZE = 512
"""Height and width of the images whose optical flow is told, likewise."""

_DOWNLOADING = ("weights", "weights_backbone", "pretrained", "pretrained_backbone")


def task_of(name: str) -> str:
    """Task of the model of that name."""
    package = str(models.get_model_builder(name).__module__).split(".")[2]
    tasks = {"optical_flow": "optical flow"}
    known = ("segmentation", "detection", "video", "optical_flow")
    return tasks.get(package, package) if package in known else "classification"


def names() -> tuple[str, ...]:
    """Names of all models."""
    return tuple(models.list_models())


def entries(name: str) -> tuple[Any, ...]:
    """The entries of published weights of that model, oldest first."""
    return tuple(models.get_model_weights(name))


def float_entry(entry: Any) -> Any:
    """The weights that an entry stands for in floating point: those it was quantized from."""
    return entry.meta.get("unquantized", entry)


def published(name: CatalogueName) -> PublishedFile:
    """The file of the published weights that the name asks for."""
    entry = float_entry(_entry(name))
    size = entry.meta.get("_file_size")
    return PublishedFile(
        f"{name.name} {entry.name}", entry.url, None if size is None else int(size * (1 << 20))
    )


def build(name: CatalogueName, tensors: Mapping[str, Tensor] | None = None) -> Architecture:
    """The model as its weights entry builds it, with random weights or with ``tensors``.

    Raises:
        ModelNotFound: there is no such model, or it has no such weights.
        ModelUnreadable: it cannot be built with those arguments, or the tensors do not fit.
    """
    entry = _entry(name)
    weights = float_entry(entry)
    model = _model(name, weights, tensors).eval()
    transforms = weights.transforms()
    task = task_of(name.name)
    classes = tuple(weights.meta.get("categories") or ())
    if name.arguments.get("num_classes", len(classes)) != len(classes):
        classes = ()
    notes: tuple[str, ...] = ()
    if name.weights and weights is not entry:
        notes = (
            f"Opened with {weights.name}, the floating-point weights that {entry.name} was "
            "quantized from: the published accuracy of the integers is not that of this model.",
        )
    return Architecture(
        str(name), model, _inputs(name, task, model, transforms), task,
        _preprocessing(task, transforms), classes, notes,
    )  # fmt: skip


def _entry(name: CatalogueName) -> Any:
    if name.name not in models.list_models():
        near = get_close_matches(name.name, [DEMO, *models.list_models()], n=3)
        meant = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ModelNotFound(f"There is no model and no file “{name.name}”.{meant}")
    known = models.get_model_weights(name.name)
    if not name.weights:
        return known.DEFAULT
    every = {entry.name: entry for one in known for entry in (one, float_entry(one))}
    every["DEFAULT"] = known.DEFAULT
    if name.weights not in every:
        raise ModelNotFound(
            f"{name.name} has no published weights “{name.weights}”.",
            f"Choose one of {', '.join(every)}.",
        )
    return every[name.weights]


def _model(name: CatalogueName, weights: Any, tensors: Mapping[str, Tensor] | None) -> nn.Module:
    builder = models.get_model_builder(name.name)
    arguments = {**_fixed(name.name), **name.arguments}
    if refused := [one for one in (*_DOWNLOADING, "quantize") if one in arguments]:
        raise ModelUnreadable(
            f"The argument {refused[0]} of {name.name} is Secateur's to give.",
            "Name published weights as in resnet50@IMAGENET1K_V2.",
        )
    stand_in = _StandIn(weights, arguments.get("num_classes"), tensors)
    try:
        with _loading_nothing():
            try:
                model: nn.Module = builder(weights=stand_in, **arguments)
            except ValueError:
                if tensors is not None:
                    raise
                # Other arguments than those weights were made with: the model without them.
                model = builder(weights=None, **_without_downloads(name.name), **arguments)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelUnreadable(
            f"{name} cannot be built: {cause}", "Check its arguments and its weights."
        ) from error
    return model


def _fixed(name: str) -> dict[str, Any]:
    """Arguments that a builder leaves open even when it is given weights."""
    if name == "quantized_inception_v3":
        # The published parameters include its auxiliary head. It also warns that its
        # initialisation will change, which is kept as it is.
        return {"init_weights": False, "aux_logits": True}
    quiet = name.removeprefix("quantized_") in ("googlenet", "inception_v3")
    return {"init_weights": False} if quiet else {}


def _without_downloads(name: str) -> dict[str, Any]:
    has_backbone = task_of(name) in ("segmentation", "detection")
    return {"weights_backbone": None} if has_backbone else {}  # its default downloads


class _Nothing(OrderedDict[str, Tensor]):
    """A state dict that leaves a model as it was initialised."""


class _StandIn:
    """Published weights as a builder sees them, with other tensors or with none.

    A builder asks them for more than tensors: number of classes, image size, auxiliary heads,
    frozen batch norm. So it gets the entry itself, in all but what would be downloaded.
    """

    def __init__(
        self, entry: Any, classes: int | None, tensors: Mapping[str, Tensor] | None
    ) -> None:
        self._entry = entry
        self._tensors = tensors
        self.meta = dict(entry.meta)
        if isinstance(classes, int) and "categories" in self.meta:
            self.meta["categories"] = range(classes)

    @property  # type: ignore[misc]  # nobody assigns it
    def __class__(self) -> Any:
        """The entry's own, which builders verify."""
        return type(self._entry)

    def __eq__(self, other: object) -> bool:
        return bool(self._entry == other)

    def __hash__(self) -> int:
        return hash(self._entry)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._entry, name)

    def get_state_dict(self, *_args: Any, **_kwargs: Any) -> OrderedDict[str, Tensor]:
        if self._tensors is None:
            return _Nothing()
        state = OrderedDict(self._tensors)
        state._metadata = getattr(self._tensors, "_metadata", None)  # type: ignore[attr-defined]
        return state


_patching = threading.Lock()


@contextmanager
def _loading_nothing() -> Iterator[None]:
    """Let builders load :class:`_Nothing`; for every other state dict nothing changes."""
    with _patching:
        load = nn.Module.load_state_dict

        def load_something(
            self: nn.Module, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any
        ) -> Any:
            if isinstance(state_dict, _Nothing):
                return None
            return load(self, state_dict, *args, **kwargs)

        nn.Module.load_state_dict = load_something  # type: ignore[method-assign]
        try:
            yield
        finally:
            nn.Module.load_state_dict = load  # type: ignore[method-assign]


def _inputs(name: CatalogueName, task: str, model: Any, transforms: Any) -> tuple[InputSpec, ...]:
    if task == "detection":
        sizes = model.transform
        height, width = getattr(sizes, "fixed_size", None) or (sizes.min_size[-1],) * 2
        return (InputSpec((1, 3, height, width), listed=True),)
    if task == "optical flow":
        return (InputSpec((1, 3, FLOW_SIZE, FLOW_SIZE)),) * 2
    height, width = published_size(transforms) or (224, 224)
    if task == "video":
        return (InputSpec((1, 3, FRAMES, height, width)),)
    size = name.arguments.get("image_size")
    return (InputSpec((1, 3, *((size, size) if isinstance(size, int) else (height, width)))),)


def published_size(transforms: Any) -> tuple[int, int] | None:
    """Height and width that pictures are brought to; None where they keep their own."""
    for name in ("crop_size", "resize_size"):
        size = getattr(transforms, name, None)
        if size:
            return int(size[0]), int(size[-1])
    return None


def _preprocessing(task: str, transforms: Any) -> Preprocessing:
    if task == "detection":
        return Preprocessing()  # values of 0 to 1; the model itself scales and normalises
    if task == "optical flow":
        return Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3)
    return Preprocessing(
        resize=tuple(transforms.resize_size or ()),
        crop=published_size(transforms) or () if hasattr(transforms, "crop_size") else (),
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )
