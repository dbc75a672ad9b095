"""Statistics of batch norms measured anew."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.datasets import DataSet
from engine.editing import Subject, module_at
from engine.edits import RecalibrateNorms, Retrained
from engine.errors import DataSetUnreadable, EditRefused, is_out_of_memory
from engine.job import Job
from engine.recovery.retrained import put_back, retrained, touched
from engine.sharing import share_for_running, tensors_of
from engine.state import LayerEffect

BATCH = 64


class NormRecalibration:
    """Handler of :class:`engine.edits.RecalibrateNorms`.

    The mean over batches of each batch's mean and variance takes the place of the running
    statistics, so that they belong to what the edited layers before them put out.
    """

    spares_outputs = False

    def applies(self, module: nn.Module) -> bool:
        """Batch norms with running statistics, and what holds any."""
        return any(_norms(module))

    def draft(self, edit: RecalibrateNorms, subject: Subject, job: Job) -> Retrained:
        """No tensor: sizes and costs stay as they are."""
        return Retrained((), "measured when it is applied")

    def decide(self, edit: RecalibrateNorms, subject: Subject, job: Job) -> Retrained:
        """The statistics over the samples, which are drawn with a fixed seed."""
        copy = share_for_running(subject.model)
        chosen = (norm for layer in edit.layers for norm in _norms(module_at(copy, layer)))
        norms = list(dict.fromkeys(chosen))
        if not norms:
            raise EditRefused(
                "The chosen layers hold no batch norm with running statistics; folded ones are "
                "part of the layers before them.",
                "Fine-tune instead, or undo to a state before folding.",
            )
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over batches
            norm.train()
        samples = _measured(copy, edit, subject, job)
        held = {id(one) for norm in norms for one in norm.buffers(recurse=False)}
        after = {name: one for name, one in tensors_of(copy) if id(one) in held}
        count = f"{len(norms)} batch {'norm' if len(norms) == 1 else 'norms'}"
        told = f"{count} on {samples:,} training samples in batches of {BATCH}"
        return retrained(subject.model, after, told)

    def carry_out(self, decision: Retrained, model: nn.Module) -> None:
        """Give the model the statistics."""
        put_back(decision, model)

    def effects(self, decision: Retrained, subject: Subject) -> tuple[LayerEffect, ...]:
        """How many values of each layer are new."""
        return touched(decision, subject.tree)

    def notes(self, decision: Retrained, subject: Subject) -> tuple[str, ...]:
        """What it is measured on."""
        return (
            "Only the running statistics of batch norms change, measured on training samples; "
            "no weight does.",
        )


def _norms(module: nn.Module) -> Iterator[_BatchNorm]:
    for one in module.modules():
        if isinstance(one, _BatchNorm) and one.running_mean is not None:
            yield one


def _measured(model: nn.Module, edit: RecalibrateNorms, subject: Subject, job: Job) -> int:
    """Run the model over the samples; how many there were.

    Raises:
        EditRefused: there are no data, or the model does not run on them.
    """
    if subject.data is None:
        raise EditRefused(
            "Batch norms are measured on data, and no data set is chosen.",
            "Choose one; its training split is used.",
        )
    if edit.samples < 1:
        raise EditRefused("Batch norms are measured on at least one sample.", "Choose 1 or more.")
    samples = subject.data.training.spread(edit.samples)
    # Stored order is often that of the classes, and a batch of one class has too little variance.
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0)).tolist()
    if len(order) % BATCH == 1 and len(order) > 1:
        order.pop()  # a single sample has no variance
    seen = 0
    job.begin("Measuring batch norms", len(order))
    with torch.no_grad():
        for inputs, _ in samples.at(order).batches(BATCH, job):
            _run(model, inputs, subject.data)
            seen += len(inputs)
            job.advance(len(inputs))
    if not seen:
        raise DataSetUnreadable(f"{subject.data.name} has no training sample that can be read.")
    return seen


def _run(model: nn.Module, inputs: Tensor, data: DataSet) -> None:
    try:
        model(inputs)
    except Exception as error:  # exported programs and the user's own layers raise what they like
        if is_out_of_memory(error):
            raise
        words = (str(error).strip().splitlines() or [""])[0].rstrip(".") or type(error).__name__
        raise EditRefused(
            f"Batch norms cannot be measured on {data.name}, {len(inputs)} samples at once: "
            f"{words}.",
            "Fine-tune instead, with a batch that the model takes.",
        ) from error
