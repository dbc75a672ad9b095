"""timm's models, where the library is installed."""

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from engine.errors import ModelNotFound, ModelUnreadable
from engine.requests import InputSpec, Preprocessing
from engine.sources.architectures import Architecture, CatalogueName
from engine.sources.libraries.published import PublishedFile

PRETRAINED = "pretrained"
"""What timm's weights are called: a name has one set, or says which by what follows its dot."""

# Names come out of files as well, and some arguments of timm's read files or connect.
_ARGUMENTS = frozenset(
    {
        "num_classes", "in_chans", "img_size", "global_pool", "drop_rate", "drop_path_rate",
        "patch_size", "window_size", "dynamic_img_size", "output_stride",
    }
)  # fmt: skip


def names() -> tuple[str, ...]:
    """Names of all models; empty when timm is not installed."""
    try:
        return tuple(_timm().list_models())
    except ModelNotFound:
        return ()


def published(name: CatalogueName) -> PublishedFile:
    """The file of the published weights of that model.

    Raises:
        ModelNotFound: it has none.
    """
    if name.weights != PRETRAINED:
        raise ModelNotFound(
            f"timm calls its weights “{PRETRAINED}”, not “{name.weights}”.",
            f"Write {name.library}:{name.name}@{PRETRAINED}.",
        )
    settings = settings_of(name.name)
    label = f"{name.name} of timm"
    if settings.hf_hub_id:
        file = settings.hf_hub_filename or "model.safetensors"
        return PublishedFile(
            label,
            f"https://huggingface.co/{settings.hf_hub_id}/resolve/main/{file}",
            None,
            f"timm-{settings.hf_hub_id.replace('/', '-')}-{file}",
            _in_hub_cache(settings.hf_hub_id, file),
        )
    if settings.url:
        return PublishedFile(label, settings.url, None)
    raise ModelNotFound(f"timm publishes no weights for {name.name}.")


def build(name: CatalogueName, tensors: Mapping[str, Tensor] | None = None) -> Architecture:
    """The model with random weights or with ``tensors``.

    Raises:
        ModelNotFound: timm is not installed, or has no such model.
        ModelUnreadable: it cannot be built with those arguments, or the tensors do not fit.
    """
    settings = settings_of(name.name)
    if refused := sorted(set(name.arguments) - _ARGUMENTS):
        raise ModelUnreadable(
            f"The argument {refused[0]} of {name.name} is not one that Secateur passes on.",
            f"Choose among {', '.join(sorted(_ARGUMENTS))}.",
        )
    try:
        model: nn.Module = _timm().create_model(name.name, pretrained=False, **name.arguments)
        if tensors is not None:
            model.load_state_dict(dict(tensors), strict=True)
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as e:
        cause = (str(e).splitlines() or [type(e).__name__])[0]
        raise ModelUnreadable(
            f"{name} cannot be built: {cause}", "Check its arguments and its weights."
        ) from e
    channels, height, width = settings.input_size
    size = name.arguments.get("img_size")
    if isinstance(size, int):
        height = width = size
    return Architecture(
        str(name),
        model.eval(),
        (InputSpec((1, name.arguments.get("in_chans", channels), height, width)),),
        "classification",
        Preprocessing(
            resize=(round(min(height, width) / (settings.crop_pct or 1)),),
            crop=(height, width),
            interpolation=_interpolation(settings.interpolation),
            mean=tuple(settings.mean),
            std=tuple(settings.std),
        ),
    )


def _interpolation(name: str) -> Any:
    return name if name in ("nearest", "bilinear", "bicubic") else "bicubic"


def is_published(settings: Any) -> bool:
    """Whether there are weights for a model of these settings."""
    return bool(settings.hf_hub_id or settings.url)


def settings_of(name: str) -> Any:
    """What timm knows of a model beside its structure.

    Raises:
        ModelNotFound: timm is not installed, or has no such model.
    """
    timm = _timm()
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=3)
        meant = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ModelNotFound(f"timm has no model “{name}”.{meant}")
    return timm.get_pretrained_cfg(name)


@cache
def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise ModelNotFound(
            "This model is one of timm's, which is not installed.",
            "Install the extra: pip install secateur[timm]",
        ) from error
    return timm


def _in_hub_cache(repository: str, file: str) -> Path | None:
    """Where timm itself would have put the file; None when it is not there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, file)
    return Path(found) if isinstance(found, str) else None
