"""Weights that come with pruning masks, as ``torch.nn.utils.prune`` keeps them: masked for good.

It holds a ``weight`` as ``weight_orig`` and ``weight_mask`` and multiplies them before each run.
"""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn
from torch.nn.utils import prune

from engine.sources.files.contents import Contents, Stored

_ORIGINAL, _MASK = "_orig", "_mask"


def without_masks(contents: Contents) -> Contents:
    """The tensors with every pair of original and mask as their product, under the plain name."""
    masked = set(filter(None, (_masked(name, contents.tensors) for name in contents.tensors)))
    if not masked:
        return contents
    names = {
        name.removesuffix(_ORIGINAL) if name.removesuffix(_ORIGINAL) in masked else name: name
        for name in contents.tensors
        if not (name.endswith(_MASK) and name.removesuffix(_MASK) in masked)
    }

    def read() -> dict[str, Tensor]:
        found = contents.read()
        return {
            name: _product(found[full], found[name + _MASK]) if name in masked else found[full]
            for name, full in names.items()
        }

    tensors = {name: contents.tensors[full] for name, full in names.items()}
    notes = (*contents.notes, *told({name.rpartition(".")[0] for name in masked}))
    return replace(contents, tensors=tensors, read=read, notes=notes)


def take_masks_in(model: nn.Module) -> set[str]:
    """Turn what ``torch.nn.utils.prune`` put into a fresh model into plain weights; the layers."""
    layers = set()
    for path, module in model.named_modules():
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, hook._tensor_name)
                layers.add(path)
    return layers


def told(layers: set[str]) -> tuple[str, ...]:
    """The note on layers that came with masks; none without such."""
    if not layers:
        return ()
    those = "1 layer" if len(layers) == 1 else f"{len(layers):,} layers"
    return (f"{those} came with pruning masks, and what they mask is zero.",)


def _masked(name: str, tensors: Mapping[str, Stored]) -> str:
    """The plain name, if this is the original of a pair; else ""."""
    plain = name.removesuffix(_ORIGINAL)
    if plain == name or plain in tensors or plain + _MASK not in tensors:
        return ""
    mask = tensors[plain + _MASK]
    return plain if mask.shape == tensors[name].shape else ""


def _product(original: Tensor, mask: Tensor) -> Tensor:
    return original.detach() * mask.detach().to(original.dtype)
