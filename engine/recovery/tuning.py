"""Fine-tuning: as an edit, and in slices that leave room for the user between them."""

from contextlib import suppress
from time import perf_counter

from torch import nn

from engine.editing import Subject
from engine.edits import AppliedEdit, FineTune, Retrained
from engine.errors import ExportFailed
from engine.integer_layers import is_quantized
from engine.job import Job
from engine.metrics import Quantity
from engine.recovery.checkpoints import checkpoint_of
from engine.recovery.retrained import put_back, retrained, touched
from engine.recovery.training import Training
from engine.state import LayerEffect, TuningProgress

SLICE_SECONDS = 0.3
"""How long :meth:`Tuning.step` works; a single batch that takes longer is not cut."""

_KEEP_SECONDS = 60.0  # within an epoch
_KEEP_SHARE = 0.1  # of the time may go into writing what is kept


class Tuning:
    """A fine-tuning under way, on a copy of one state of the model.

    It goes on only while somebody calls :meth:`step`, and so is paused by not calling it. Nothing
    of the state is written. What a crash would lose is kept on disk after every epoch, at least
    every minute within one, and by :meth:`pause`; a tuning of the same edit on the same state and
    data starts from it.

    Args:
        subject: the state, with the data that it is trained on.

    Raises:
        EditRefused: it cannot be trained so; the message says why.

    Attributes:
        resumed: whether it went on from what an interrupted one had kept.
        problem: why it could not be kept on disk, in a sentence; "" while it can.
    """

    def __init__(self, edit: FineTune, subject: Subject, job: Job) -> None:
        job.begin("Preparing the training")
        self.edit = edit
        self.problem = ""
        self._subject = subject
        self._training = Training(edit, subject)
        job.check()
        self._checkpoint = checkpoint_of(edit, subject)
        self.resumed = self._go_on()
        self._kept_at = perf_counter()
        self._kept_standing = self._training.standing
        self._writing = 0.0  # seconds that the last writing took

    @property
    def done(self) -> bool:
        """Whether all epochs are behind it, or it had to end early."""
        return self._training.done

    @property
    def held_out(self) -> int:
        """How many training samples choose the best epoch, and are not trained on."""
        return self._training.held_out

    @property
    def progress(self) -> TuningProgress:
        """How it goes, as plain frozen data."""
        at = self._training.standing
        return TuningProgress(
            at.epochs + at.batch / self._training.batches,
            self.edit.epochs,
            at.losses,
            at.accuracies,
            at.best,
        )

    def step(self, job: Job, seconds: float = SLICE_SECONDS) -> bool:
        """Work for about so many seconds; whether anything is left to do.

        The job's text, share done and ``partial`` (a :class:`TuningProgress`) tell how it goes.

        Raises:
            EditRefused: the loss is not finite, and no epoch has been better than none.
            DataSetUnreadable: a sample is broken, and such ones are not to be skipped.
            Cancelled: between two batches; the tuning is whole, and may go on or be finished.
        """
        end = perf_counter() + seconds
        while not self.done:
            job.check()
            epochs = len(self._training.standing.accuracies)
            self._training.advance()
            self._tell(job)
            now = perf_counter()
            self._keep_if_due(now, len(self._training.standing.accuracies) > epochs)
            if now >= end:
                break
        return not self.done

    def pause(self) -> None:
        """Keep on disk where it stands; :meth:`step` goes on from here all the same."""
        if self._training.standing == self._kept_standing:
            return
        start = perf_counter()
        try:
            self._checkpoint.write(self._training.standing, self._training.tensors())
            self.problem = ""
        except ExportFailed as error:
            self.problem = f"After a crash this training would start anew: {error}"
        self._kept_standing = self._training.standing
        self._kept_at = perf_counter()
        self._writing = self._kept_at - start

    def finish(self) -> AppliedEdit:
        """The edit with the best weights so far; those it started from if none were better."""
        best = self._training.best()
        return AppliedEdit(self.edit, retrained(self._subject.model, best, self._told()))

    def discard(self) -> None:
        """Remove what is kept of it on disk."""
        self._checkpoint.remove()

    def _go_on(self) -> bool:
        kept = self._checkpoint.read()
        if kept is None:
            return False
        with suppress(KeyError, RuntimeError):  # of another version: it starts anew
            self._training.go_on(*kept)
            return True
        self._training = Training(self.edit, self._subject)
        return False

    def _keep_if_due(self, now: float, after_epoch: bool) -> None:
        since = now - self._kept_at
        if since >= self._writing / _KEEP_SHARE and (after_epoch or since >= _KEEP_SECONDS):
            self.pause()

    def _tell(self, job: Job) -> None:
        at = self._training.standing
        words = [f"Fine-tuning: epoch {min(at.epochs + 1, self.edit.epochs)} of {self.edit.epochs}"]
        if at.losses:
            words.append(f"loss {at.losses[-1][1]:.3g}")
        if at.accuracies:
            words.append(f"{self._metric()} {_percent(at.accuracies[-1][1])}")
        job.tell(", ".join(words), *self._training.work)
        job.partial = self.progress

    def _metric(self) -> str:
        metric = self._subject.data.metric if self._subject.data else "top-1"
        return "held-out accuracy" if metric == "top-1" else f"held-out {metric}"

    def _told(self) -> str:
        at = self._training.standing
        epochs = f"{at.epochs} {'epoch' if at.epochs == 1 else 'epochs'}"
        halted = f"; ended early, as {at.halted}" if at.halted else ""
        if not at.accuracies:
            return f"{epochs}, weights unchanged{halted}"
        before, best = at.accuracies[0][1], at.accuracies[at.best][1]
        if not at.best:
            return f"{epochs}, {self._metric()} {_percent(before)} before and never better{halted}"
        if best.value == before.value:
            return (
                f"{epochs}, {self._metric()} {_percent(best)} as before, at the least loss after "
                f"epoch {at.best}{halted}"
            )
        return (
            f"{epochs}, {self._metric()} {_percent(before)} → {_percent(best)}, "
            f"best after epoch {at.best}{halted}"
        )


class FineTuning:
    """Handler of :class:`engine.edits.FineTune`."""

    spares_outputs = False

    def applies(self, module: nn.Module) -> bool:
        """Whatever has parameters in float or integer weights, itself or below."""
        floats = (one.is_floating_point() for one in module.parameters())
        return any(floats) or any(map(is_quantized, module.modules()))

    def draft(self, edit: FineTune, subject: Subject, job: Job) -> Retrained:
        """No tensor: sizes and costs stay as they are."""
        return Retrained((), "trained when it is applied")

    def decide(self, edit: FineTune, subject: Subject, job: Job) -> Retrained:
        """Train to the end; an interrupted training of the same edit goes on where it stood."""
        tuning = Tuning(edit, subject, job)
        while tuning.step(job):
            pass
        applied = tuning.finish()
        tuning.discard()
        assert isinstance(applied.decision, Retrained)
        return applied.decision

    def carry_out(self, decision: Retrained, model: nn.Module) -> None:
        """Give the model the trained tensors."""
        put_back(decision, model)

    def effects(self, decision: Retrained, subject: Subject) -> tuple[LayerEffect, ...]:
        """How many values of each layer are new."""
        return touched(decision, subject.tree)

    def notes(self, decision: Retrained, subject: Subject) -> tuple[str, ...]:
        """What is trained on, and what stays."""
        return (
            "A tenth of the training samples chooses the best epoch; validation data are not "
            "looked at. Samples are taken as they are, without augmentation.",
            "Weights that are zero stay zero. Layers of integers are trained through their "
            "rounding, on the grids that they have.",
        )


def _percent(share: Quantity) -> str:
    return f"{100 * share.value:.1f} %"
