"""Weights zeroed by masks from a file. Nothing in the file is run."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from engine.editing import Subject
from engine.edits import MaskWeights, WeightMask, WeightsZeroed
from engine.errors import ConsentNeeded, EditRefused, EngineError, OutOfMemory
from engine.job import Job
from engine.pruning.zeroing import Weight, Zeroing, chosen_weights
from engine.sources.files.contents import Contents, unwrapped
from engine.sources.files.naming import plain_name, plain_names
from engine.sources.files.reading import read_plain

_MOST_NAMED = 3
_COMPARED = (torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64)


class MaskedWeights(Zeroing):
    """Handler of :class:`engine.edits.MaskWeights`."""

    def draft(self, edit: MaskWeights, subject: Subject, job: Job) -> WeightsZeroed:
        """The same as :meth:`decide`: the file says all."""
        return self.decide(edit, subject, job)

    def decide(self, edit: MaskWeights, subject: Subject, job: Job) -> WeightsZeroed:
        """The masks of the file that belong to the layers."""
        if not edit.path:
            raise EditRefused("No file of masks is named.", "Choose one.")
        weights = chosen_weights(edit.layers, subject)
        path = Path(edit.path)
        job.begin("Reading the masks")
        try:
            contents = read_plain(path, job)
            names = _names(contents, weights, path)
            tensors = contents.read()
        except (EditRefused, OutOfMemory):
            raise
        except ConsentNeeded as error:
            raise EditRefused(
                f"{plain_name(path.name)} is more than plain tensors, and masks are read without "
                "running anything.",
                "Save the masks alone, as a dictionary of tensors or a .safetensors file.",
            ) from error
        except EngineError as error:
            raise EditRefused(str(error), error.remedy) from error
        masks = job.track(weights, "Reading the masks")
        return WeightsZeroed(tuple(_mask(one, tensors[names[one.name]], path) for one in masks))


def _names(contents: Contents, weights: tuple[Weight, ...], path: Path) -> Mapping[str, str]:
    """The file's name of each weight's mask.

    Raises:
        EditRefused: a mask is missing, or has another shape.
    """
    short = unwrapped(contents.tensors)
    names = {one.name: _name(one, short, len(weights) == 1) for one in weights}
    found = {weight: short[name] for weight, name in names.items() if name is not None}
    if missing := [one.name for one in weights if one.name not in found]:
        raise EditRefused(
            f"{plain_name(path.name)} has no mask for {plain_names(missing, _MOST_NAMED)}.",
            "Masks are found by the name of the layer or of its parameter; select only layers "
            "that the file has masks for.",
        )
    for one in weights:
        shape = contents.tensors[found[one.name]].shape
        if shape != tuple(one.values.shape):
            raise EditRefused(
                f"The mask of {one.name} is {_shape(shape)}, and the weight is "
                f"{_shape(tuple(one.values.shape))}.",
                "Choose the masks that were made for this model.",
            )
    return found


def _name(weight: Weight, names: Mapping[str, str], alone: bool) -> str | None:
    """The name under which a file has the weight's mask; None if under none.

    Args:
        alone: whether it is the only weight, for which a mask without a name will do.
    """
    wanted = [f"{weight.name}_mask", weight.name]
    if weight.parameter == "weight":
        wanted += [weight.layer, f"{weight.layer}_mask"]
    if alone:
        wanted.append("")
    return next((one for one in wanted if one in names), None)


def _mask(weight: Weight, mask: Tensor, path: Path) -> WeightMask:
    if mask.dtype is not torch.bool:
        wide = torch.complex128 if mask.is_complex() else torch.float64
        numbers = mask if mask.dtype in _COMPARED else mask.to(wide)
        if not ((numbers == 0) | (numbers == 1)).all():
            raise EditRefused(
                f"The mask of {weight.name} in {plain_name(path.name)} holds more than 0 and 1.",
                "A mask is 0 where a weight goes and 1 where it stays.",
            )
        mask = numbers == 1
    return weight.mask(mask)


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a single number"
