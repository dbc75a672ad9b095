"""What a fine-tuning needs before its first batch: the copy that trains, teacher, optimizer."""

import torch
from torch import Tensor, nn

from engine.editing import Subject, module_at
from engine.edits import FineTune
from engine.errors import EditRefused, ProfilingFailed
from engine.integer_layers import IntegerWeights
from engine.profiling.running import device_named
from engine.recovery.straight_through import floats_of, pass_through
from engine.sharing import share, share_for_running


def check(edit: FineTune) -> None:
    """Raise EditRefused for a setting that is out of its range."""
    for name, fits, range_ in (
        ("epochs", edit.epochs >= 1, "1 or more"),
        ("batch", edit.batch >= 1, "1 or more"),
        ("samples", edit.samples >= 0, "0 or more"),
        ("learning_rate", 0 < edit.learning_rate < float("inf"), "above 0"),
        ("weight_decay", 0 <= edit.weight_decay < float("inf"), "0 or more"),
        ("temperature", 0 < edit.temperature < float("inf"), "above 0"),
        ("distillation", 0 <= edit.distillation <= 1, "0 to 1"),
    ):
        if not fits:
            told = f"{getattr(edit, name):g} is not possible for the {name.replace('_', ' ')}"
            raise EditRefused(f"{told}.", f"Choose {range_}.")


def device_of(edit: FineTune) -> torch.device:
    """Where it is done; raises EditRefused, with the reason, where this machine lacks it."""
    try:
        return device_named(edit.device)
    except ProfilingFailed as error:
        raise EditRefused(str(error), error.remedy) from error


def trained_copy(subject: Subject, edit: FineTune, device: torch.device) -> nn.Module:
    """A copy on the device: chosen layers in training mode, over parameters of its own.

    Layers that round let gradients through; chosen ones hold float32 weights that they round.

    Raises:
        EditRefused: they have no parameters that train.
    """
    model = subject.model
    chosen = _chosen(model, edit)

    def place(tensor: Tensor) -> Tensor:
        trained = id(tensor) in chosen
        own = trained or not isinstance(tensor, nn.Parameter)
        moved = tensor.detach().to(device, copy=own)
        return nn.Parameter(moved, trained) if isinstance(tensor, nn.Parameter) else moved

    copy = share(model, place).eval()
    trained = [module_at(copy, layer).train() for layer in edit.layers]
    below = [module for one in trained for module in one.modules()]
    pass_through(copy, below, floats_of(subject))
    return copy


def _chosen(model: nn.Module, edit: FineTune) -> set[int]:
    """Ids of the tensors that are trained: integer weights and their biases, and parameters in
    float that whoever made the model did not freeze.

    Raises:
        EditRefused: there are none.
    """
    # A file may not say what trains; then all of it does.
    said = any(one.requires_grad for one in model.parameters())
    chosen: set[int] = set()
    for layer in edit.layers:
        for module in module_at(model, layer).modules():
            rounded = isinstance(module, IntegerWeights)
            own = module.parameters(recurse=False)
            floats = (one for one in own if one.is_floating_point())
            chosen.update(id(one) for one in floats if one.requires_grad or rounded or not said)
            if isinstance(module, IntegerWeights):
                chosen.add(id(module.weight))
    if not chosen:
        raise EditRefused(
            "The chosen layers have no weights that could be trained.", "Choose others."
        )
    return chosen


def teacher_of(subject: Subject, device: torch.device) -> nn.Module:
    """The base model on the device, in evaluation mode; nothing in it trains."""
    base = share_for_running(subject.base or subject.model)
    return share(base, lambda one: _moved(one, device)).eval()


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    moved = tensor.detach().to(device)
    return nn.Parameter(moved, False) if isinstance(tensor, nn.Parameter) else moved


def optimizer_of(edit: FineTune, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """SGD with Nesterov's momentum, or AdamW; biases and scales of norms do not decay."""
    groups = [
        {"params": [one for one in parameters if one.dim() > 1], "weight_decay": edit.weight_decay},
        {"params": [one for one in parameters if one.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if edit.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=edit.learning_rate)
    return torch.optim.SGD(groups, lr=edit.learning_rate, momentum=0.9, nesterov=True)
