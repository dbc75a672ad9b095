"""Layers replaced by two low-rank factors.

The weight as a matrix is cut to its largest singular values, which of all matrices of that rank
comes nearest to it (Eckart and Young, 1936); each factor takes their square roots. They come of
the eigenvectors of the smaller Gram matrix: a tenth of the time of a singular value decomposition
where one side is some times the other, and what is kept is as exact, eigenvectors being
orthonormal whatever their values.
"""

from math import floor
from typing import Any

import torch
from torch import Tensor, nn

from engine.editing import Subject, module_at
from engine.edits import Factorize, LayerFactors, LayersFactorized, StoredTensor
from engine.errors import EditRefused, RecipeMismatch
from engine.integer_layers import QUANTIZED, is_quantized
from engine.job import Job
from engine.layers import LayerId
from engine.pruned_layers import Form, factors_of, form_for, matrix_sides
from engine.sharing import own_parameter, replace_module, restored_tensor, stored_tensor
from engine.state import LayerEffect
from engine.tracing import Trace

_AT_ONCE = 4096
"""Columns that are multiplied between two looks at whether the user has cancelled."""


class Factorization:
    """Handler of :class:`engine.edits.Factorize`."""

    spares_outputs = False

    def applies(self, module: nn.Module) -> bool:
        """Convolutions without groups and linear layers, in float, that two factors can shrink."""
        return not _why_not(module) and _rank(module, "channel", 0.0) > 0

    def fits(self, layer: LayerId, model: nn.Module, seen: Trace) -> bool:
        """Where the layer is called: of some only the weight is read, by the layer above."""
        return layer in seen.output_shapes

    def draft(self, edit: Factorize, subject: Subject, job: Job) -> LayersFactorized:
        """Ranks alone: the factors have shapes and no values."""
        if not 0 <= edit.ratio < 1:
            raise EditRefused(
                f"A ratio of {edit.ratio:g} is not possible: it must be at least 0 and below 1."
            )
        return LayersFactorized(tuple(_ranked(edit, layer, subject) for layer in edit.layers))

    def decide(self, edit: Factorize, subject: Subject, job: Job) -> LayersFactorized:
        """The factors of each layer's weight."""
        decided = []
        for one in job.track(self.draft(edit, subject, job).layers, "Decomposing weights"):
            tensors = _stored(module_at(subject.model, one.layer), one.rank, one.form, job)
            decided.append(LayerFactors(one.layer, one.rank, one.form, tensors))
        return LayersFactorized(tuple(decided))

    def carry_out(self, decision: LayersFactorized, model: nn.Module) -> None:
        """Replace each layer by its two factors."""
        for one in decision.layers:
            module = module_at(model, one.layer)
            if _why_not(module) or one.rank > min(matrix_sides(module, one.form)):
                raise RecipeMismatch(f"{one.layer} has no factors of rank {one.rank}.")
            if one.form != form_for(module, one.form):
                raise RecipeMismatch(f"{one.layer} cannot be factorised as “{one.form}”.")
            made: Any = factors_of(module, one.rank, one.form)
            for stored in one.tensors:
                _put(made, stored, _weight(module.weight))
            replace_module(model, one.layer, made)

    def effects(self, decision: LayersFactorized, subject: Subject) -> tuple[LayerEffect, ...]:
        """Rank and parameters of each layer, before and after."""
        effects = []
        for one in decision.layers:
            module = module_at(subject.model, one.layer)
            sides, before = matrix_sides(module, one.form), subject.tree[one.layer].parameters
            bias = 0 if module.bias is None else _weight(module.bias).numel()
            after = one.rank * sum(sides) + bias
            effects.append(LayerEffect(one.layer, "chosen", "rank", min(sides), one.rank))
            effects.append(LayerEffect(one.layer, "chosen", "parameters", before, after))
        return tuple(effects)

    def notes(self, decision: LayersFactorized, subject: Subject) -> tuple[str, ...]:
        """How much of each weight is left, as far as it has been decomposed."""
        kept = {
            one.layer: _share_kept(module_at(subject.model, one.layer), one)
            for one in decision.layers
            if one.tensors
        }
        told = "Two layers run where one ran: fewer parameters and MACs, one more step."
        if not kept:
            return (told,)
        least = min(kept, key=lambda layer: kept[layer])
        return (
            told,
            f"Of the squared singular values {kept[least]:.1%} are kept in {least}"
            + (", and more in all other layers." if len(kept) > 1 else "."),
        )


def _why_not(module: nn.Module) -> str:
    """Why the layer's weight is no matrix to decompose; "" if it is one."""
    if is_quantized(module):
        return "has integer weights: factorise it before that"
    if type(module) not in QUANTIZED:  # exactly torch's: a subclass may compute something else
        return "is no convolution or linear layer"
    groups = getattr(module, "groups", 1)
    return f"is a convolution in {groups} groups" if groups != 1 else ""


def _rank(module: nn.Module, form: Form, ratio: float) -> int:
    """The most that saves ``ratio`` of the weights, at least 1; 0 where even 1 saves nothing."""
    sides, weights = matrix_sides(module, form), _weight(module.weight).numel()
    if sum(sides) >= weights:
        return 0
    return max(1, floor((1 - ratio) * weights / sum(sides)))


def _ranked(edit: Factorize, layer: LayerId, subject: Subject) -> LayerFactors:
    module = module_at(subject.model, layer)
    kind = type(module).__name__
    if why := _why_not(module):
        raise EditRefused(f"{layer} ({kind}) cannot be factorised: it {why}.")
    if subject.tree[layer].output_shape is None:
        raise EditRefused(
            f"{layer} cannot be factorised: it is not called, the layer above reads its weight.",
            "Of attention layers remove heads instead.",
        )
    form = form_for(module, edit.form)
    rank = _rank(module, form, edit.ratio)
    if not rank:
        raise EditRefused(
            f"{layer} has {_weight(module.weight).numel():,} weights, and two factors of rank 1 "
            f"have {sum(matrix_sides(module, form)):,}: nothing is saved.",
            "Leave it out of the selection.",
        )
    return LayerFactors(layer, rank, form, ())


def _weight(tensor: Any) -> Tensor:
    assert isinstance(tensor, Tensor)
    return tensor.detach()


def _matrix(module: Any, form: Form) -> Tensor:
    """The weight as (written, read); see :func:`engine.pruned_layers.matrix_sides`."""
    weight = _weight(module.weight)
    if form == "channel":
        return weight.flatten(1)
    # (outputs, inputs, column, row): a column of each input is read, a row of each output written.
    return weight.permute(0, 3, 1, 2).reshape(weight.shape[0] * weight.shape[3], -1)


def _stored(module: Any, rank: int, form: Form, job: Job) -> tuple[StoredTensor, ...]:
    """Both factors in the weight's own type and their layers' shapes."""
    written, read = _decomposed(_matrix(module, form), rank, job)
    made = factors_of(module, rank, form)
    if form == "spatial":
        written = written.reshape(module.out_channels, -1, rank).transpose(1, 2)
    shaped = {"first.weight": read, "second.weight": written}
    return tuple(
        stored_tensor(name, one.reshape(made.get_parameter(name).shape).to(module.weight.dtype))
        for name, one in shaped.items()
    )


def _decomposed(matrix: Tensor, rank: int, job: Job) -> tuple[Tensor, Tensor]:
    """(written, rank) and (rank, read), float64, whose product is nearest to the matrix."""
    is_wide = matrix.shape[0] <= matrix.shape[1]
    parts = (matrix if is_wide else matrix.T).split(_AT_ONCE, 1)
    gram = torch.zeros(parts[0].shape[0], parts[0].shape[0], dtype=torch.double)
    for part in parts:
        job.check()
        gram += part.double() @ part.double().T
    vectors = torch.linalg.eigh(gram).eigenvectors[:, -rank:]
    job.check()
    other = torch.cat([vectors.T @ part.double() for part in parts], 1)
    norms = other.norm(dim=1)
    roots = torch.where(norms > 0, norms, 1.0).sqrt()
    short, long = vectors * roots, other / roots.unsqueeze(1)
    return (short, long) if is_wide else (long.T, short.T)


def _put(made: nn.Module, stored: StoredTensor, like: Tensor) -> None:
    """Give one of the factors its weight."""
    if stored.name not in ("first.weight", "second.weight"):
        raise RecipeMismatch(f"Factors have no tensor “{stored.name}”.")
    tensor, wanted = restored_tensor(stored), made.get_parameter(stored.name)
    if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
        raise RecipeMismatch(
            f"{stored.name} is {tensor.dtype} of {tuple(tensor.shape)}, "
            f"not {wanted.dtype} of {tuple(wanted.shape)}."
        )
    factor = made.get_submodule(stored.name.partition(".")[0])
    factor.weight = own_parameter(tensor.to(like.device), like)


def _share_kept(module: nn.Module, one: LayerFactors) -> float:
    """Sum of the squared singular values kept, as a share of all."""
    first, second = (restored_tensor(stored).double() for stored in one.tensors)
    if one.form == "spatial":
        second = second.squeeze(2).transpose(1, 2)
    read, written = first.flatten(1), second.reshape(-1, one.rank)
    whole = torch.linalg.vector_norm(_weight(module.weight), dtype=torch.double).square()
    kept = ((read @ read.T) * (written.T @ written)).sum()
    return float(kept / whole) if whole > 0 else 1.0
