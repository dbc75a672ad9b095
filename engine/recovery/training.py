"""Training of a copy of a model, batch by batch, so that it can stop and go on anywhere.

What a batch does depends on the copy's tensors, the optimizer's and the batch's number alone: the
order of samples and what layers draw at random are derived from the seed and that number. On one
machine a training that goes on from what was kept of it ends with the same bits as one that was
never interrupted; accelerators do not promise that.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil, cos, isfinite, pi
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax
from torch.utils._pytree import tree_map_only

from engine.datasets import DataSet
from engine.editing import Subject
from engine.edits import FineTune
from engine.errors import DataSetUnreadable, EditRefused, EngineError, is_out_of_memory
from engine.integer_layers import is_quantized
from engine.losses import loss_of
from engine.metrics import Quantity
from engine.recovery.held_out import Judging, parted
from engine.recovery.preparing import check, device_of, optimizer_of, teacher_of, trained_copy
from engine.recovery.straight_through import as_stored, masks_of
from engine.scoring import first_result
from engine.sharing import tensors_of

_POINTS = 20  # of the loss curve, for each epoch
_STATES = {"sgd": ("momentum_buffer",), "adamw": ("step", "exp_avg", "exp_avg_sq")}


@dataclass(frozen=True)
class Standing:
    """How far a training has come.

    Attributes:
        epochs: whole ones behind it.
        batch: batches done of the running epoch.
        losses: (epoch, mean loss of the batches since the last point).
        accuracies: (epoch, held-out metric); the first is from before training.
        held_losses: the loss on the same samples; None where it is no finite number.
        best: index of the best of these.
        pending: sum and number of losses since the last point.
        halted: why it ended early; "" when it did not.
    """

    epochs: int = 0
    batch: int = 0
    losses: tuple[tuple[float, float], ...] = ()
    accuracies: tuple[tuple[float, Quantity], ...] = ()
    held_losses: tuple[float | None, ...] = ()
    best: int = 0
    pending: tuple[float, int] = (0.0, 0)
    halted: str = ""


class Training:
    """A copy of the model that is trained, one batch at each :meth:`advance`.

    Raises:
        EditRefused: it cannot be trained so; the message says why.

    Attributes:
        batches: in an epoch.
    """

    def __init__(self, edit: FineTune, subject: Subject) -> None:
        check(edit)
        if subject.data is None:
            raise EditRefused(
                "Fine-tuning needs data, and no data set is chosen.",
                "Choose one; its training split is trained on.",
            )
        self.standing = Standing()
        self._edit = edit
        self._data = subject.data
        self._samples, self._held_out = parted(self._data, edit)
        self.batches = len(self._places(0))
        with _named(edit, self._data):
            self._device = device_of(edit)
            self._model = trained_copy(subject, edit, self._device)
            self._teacher = teacher_of(subject, self._device) if edit.distillation else None
        self._trained = {
            name: one for name, one in self._model.named_parameters() if one.requires_grad
        }
        self._masks = masks_of(self._model, self._trained)
        self._optimizer = optimizer_of(edit, list(self._trained.values()))
        self._task_loss = loss_of(self._data)
        self._best: dict[str, Tensor] = {}
        self._judging: Judging | None = None
        self._check_gradient()

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        at = self.standing
        return bool(at.halted) or len(at.accuracies) > self._edit.epochs

    @property
    def work(self) -> tuple[int, int]:
        """Batches done and in all, of training and of judging."""
        at, judged = self.standing, ceil(len(self._held_out) / self._edit.batch)
        running = self._judging.done if self._judging else 0
        done = at.epochs * self.batches + at.batch + len(at.accuracies) * judged + running
        return done, self._edit.epochs * (self.batches + judged) + judged

    @property
    def held_out(self) -> int:
        """How many samples choose the best epoch."""
        return len(self._held_out)

    def best(self) -> dict[str, Tensor]:
        """The tensors after the best epoch, by name, as the model keeps them; empty when none was
        better than none.
        """
        return self._best

    def advance(self) -> None:
        """Judge by the next batch if an epoch is over, else train on the next.

        Raises:
            EditRefused: the loss is not finite, and no epoch has been better than none; the model
                does not run so.
            DataSetUnreadable, DataSetMismatch: of a sample.
        """
        with _named(self._edit, self._data):
            if len(self.standing.accuracies) == self.standing.epochs:
                self._judge()
            else:
                self._train()

    # -- to be kept, and gone on from

    def tensors(self) -> dict[str, Tensor]:
        """With the standing all that the rest depends on: copies, on the processor."""
        found = {f"now.{name}": one for name, one in self._changing().items()}
        found |= {f"best.{name}": one for name, one in self._best.items()}
        for name, parameter in self._trained.items():
            for key, one in self._optimizer.state.get(parameter, {}).items():
                if one is not None:
                    found[f"optimizer.{key}.{name}"] = torch.as_tensor(one)
        return {name: one.detach().to("cpu", copy=True) for name, one in found.items()}

    def go_on(self, standing: Standing, tensors: Mapping[str, Tensor]) -> None:
        """Continue where another training of the same edit on the same model stood.

        Raises:
            KeyError, RuntimeError: the tensors are not those of such a training.
        """
        now = self._changing()
        missing = now.keys() - {name.removeprefix("now.") for name in tensors}
        if missing:
            raise KeyError(*missing)
        with torch.no_grad():
            for name, one in now.items():
                one.copy_(tensors[f"now.{name}"])
        for name, parameter in self._trained.items():
            for key in _STATES[self._edit.optimizer]:
                if (kept := tensors.get(f"optimizer.{key}.{name}")) is not None:
                    own = kept.clone() if key == "step" else kept.to(parameter, copy=True)
                    self._optimizer.state[parameter][key] = own
        self._best = {
            name.removeprefix("best."): one
            for name, one in tensors.items()
            if name.startswith("best.")
        }
        self.standing = standing

    def _changing(self) -> dict[str, Tensor]:
        """What training writes: trained parameters, and buffers of layers in training mode."""
        ids = {id(one) for one in self._trained.values()}
        for module in self._model.modules():
            if module.training and not is_quantized(module):
                ids.update(id(one) for one in module.buffers(recurse=False))
        return {name: one for name, one in tensors_of(self._model) if id(one) in ids}

    # -- training

    def _train(self) -> None:
        at = self.standing
        number = at.epochs * self.batches + at.batch
        places = self._places(at.epochs)[at.batch]
        with _drawing(self._device, self._edit.seed, number):
            loss = self._stepped(places, self._rate(number))
        if loss is not None and not isfinite(loss):
            self._halt()
        else:
            self.standing = self._after_batch(loss)

    def _places(self, epoch: int) -> list[Tensor]:
        """The epoch's batches, in places of the samples that are trained on."""
        generator = torch.Generator().manual_seed(_derived(self._edit.seed, f"order {epoch}"))
        order = torch.randperm(len(self._samples), generator=generator)
        batches = list(order.split(self._edit.batch))
        # A single sample has no statistics for batch norm; another epoch leaves out another.
        return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches

    def _stepped(self, places: Tensor, rate: float) -> float | None:
        """Mean loss of a batch, after a step on it; None when none of it could be read.

        What does not fit into one run, by shape or size, is run in turns within the one step.
        """
        parts = list(self._samples.at(places.tolist()).batches(self._edit.batch))
        count = sum(len(targets) for _, targets in parts)
        if not count:
            return None
        self._optimizer.zero_grad()
        total = 0.0
        for inputs, targets in parts:
            loss = self._loss(inputs, targets) * (len(targets) / count)
            loss.backward()
            total += float(loss.detach())
        if isfinite(total):
            self._step(rate)
        return total

    def _step(self, rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        with torch.no_grad():
            for name, mask in self._masks.items():
                self._trained[name].masked_fill_(mask, 0.0)

    def _rate(self, number: int) -> float:
        """The learning rate of that batch; along a cosine (Loshchilov & Hutter, 2017) or as is."""
        if self._edit.schedule == "constant":
            return self._edit.learning_rate
        share = number / (self._edit.epochs * self.batches)
        return self._edit.learning_rate * 0.5 * (1 + cos(pi * share))

    def _loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        inputs, targets = inputs.to(self._device), targets.to(self._device)
        outputs, share = self._model(inputs), self._edit.distillation
        loss = self._task_loss(outputs, targets)
        if self._teacher is None:
            return loss
        with torch.no_grad():
            wanted = first_result(self._teacher(inputs))
        soft = distillation_loss(first_result(outputs), wanted, self._edit.temperature)
        return (1 - share) * loss + share * soft

    def _after_batch(self, loss: float | None) -> Standing:
        at = self.standing
        total, count = at.pending
        if loss is not None:
            total, count = total + loss, count + 1
        batch, losses = at.batch + 1, at.losses
        whole = batch == self.batches
        if count and (whole or batch % max(1, self.batches // _POINTS) == 0):
            losses = (*losses, (at.epochs + batch / self.batches, total / count))
            total, count = 0.0, 0
        return replace(
            at,
            epochs=at.epochs + whole,
            batch=0 if whole else batch,
            losses=losses,
            pending=(total, count),
        )

    def _halt(self) -> None:
        at, rate = self.standing, self._edit.learning_rate
        why = f"the loss of epoch {at.epochs + 1} is not finite at a learning rate of {rate:g}"
        if not at.best:
            raise EditRefused(
                f"Training was stopped: {why}.", f"Choose a lower one, such as {rate / 10:g}."
            )
        self.standing = replace(at, halted=why)

    def _check_gradient(self) -> None:
        """Run one batch, of which nothing is kept, to see whether it would train anything."""
        buffers = [one for one in self._changing().values() if not isinstance(one, nn.Parameter)]
        before = [one.clone() for one in buffers]
        with _named(self._edit, self._data), _drawing(self._device, self._edit.seed, 0):
            batches = self._samples.at(self._places(0)[0].tolist()).batches(self._edit.batch)
            batch = next(iter(batches), None)
            if batch is None:
                raise DataSetUnreadable(f"No sample of {self._data.name} can be read.")
            loss = self._loss(*batch)
            if loss.requires_grad:
                loss.backward()
        reached = any(one.grad is not None for one in self._trained.values())
        self._optimizer.zero_grad()
        with torch.no_grad():
            for one, kept in zip(buffers, before, strict=True):
                one.copy_(kept)
        if not reached:
            raise EditRefused(
                "Nothing would be trained: no gradient reaches the chosen layers.",
                "Choose others, of which the model's output depends smoothly.",
            )

    # -- judging

    def _judge(self) -> None:
        """Judge by the next batch of the samples held out; after the last file what they say."""
        if self._judging is None:
            self._judging = Judging(self._data, self._held_out, self._edit.batch)
        with _evaluating(self._model), torch.no_grad():
            more = self._judging.advance(self._judged)
        if not more:
            accuracy, loss = self._judging.found()
            self._judging = None
            self._file(accuracy, loss)

    def _judged(self, inputs: Tensor, targets: Tensor) -> tuple[Any, float]:
        outputs = tree_map_only(Tensor, _on_processor, self._model(inputs.to(self._device)))
        return outputs, float(self._task_loss(outputs, targets))

    def _file(self, accuracy: Quantity, loss: float | None) -> None:
        at = self.standing
        best = at.best
        if at.accuracies and _better(
            (accuracy, loss), (at.accuracies[best][1], at.held_losses[best])
        ):
            best = at.epochs
            found = as_stored(self._model, self._changing())
            self._best = {name: one.detach().to("cpu", copy=True) for name, one in found.items()}
        self.standing = replace(
            at,
            accuracies=(*at.accuracies, (float(at.epochs), accuracy)),
            held_losses=(*at.held_losses, loss),
            best=best,
        )


def distillation_loss(outputs: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Mean divergence of softened outputs from the teacher's, times the temperature's square.

    Hinton et al., Distilling the Knowledge in a Neural Network (2015): so scaled, gradients keep
    their size at any temperature. Both of shape (N, classes, …); a scalar.
    """
    soft, target = (log_softmax(one / temperature, 1) for one in (outputs, wanted))
    total = kl_div(soft, target, reduction="sum", log_target=True)
    return total * (temperature**2 * outputs.shape[1] / outputs.numel())


def _better(one: tuple[Quantity, float | None], other: tuple[Quantity, float | None]) -> bool:
    """More accurate, or as accurate at less loss; never where the loss is not finite."""
    (accuracy, loss), (before, loss_before) = one, other
    if loss is None:
        return False
    if accuracy.value != before.value:
        return accuracy.value > before.value
    return loss_before is None or loss < loss_before


# -- while it runs


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Every layer in evaluation mode, and afterwards in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _drawing(device: torch.device, seed: int, number: int) -> Iterator[None]:
    """Random numbers of that batch's own; whoever else draws is not disturbed."""
    others = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=others):
        torch.manual_seed(_derived(seed, f"batch {number}"))
        yield


@contextmanager
def _named(edit: FineTune, data: DataSet) -> Iterator[None]:
    """What a model raises while it is trained, in words."""
    try:
        yield
    except EngineError:
        raise
    except Exception as error:  # exported programs and the user's own layers raise what they like
        if is_out_of_memory(error):
            raise
        words = (str(error).strip().splitlines() or [""])[0].rstrip(".") or type(error).__name__
        raise EditRefused(
            f"The model cannot be trained on {data.name}, {edit.batch} samples at once, on "
            f"{edit.device}: {words}.",
            "Choose other layers, another batch or another device.",
        ) from error


def _derived(seed: int, what: str) -> int:
    """A seed for one purpose, that no other purpose or seed shares."""
    return int.from_bytes(hashlib.sha256(f"{seed} {what}".encode()).digest()[:7])


def _on_processor(tensor: Tensor) -> Tensor:
    return tensor.cpu()
