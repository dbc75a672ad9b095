"""AdaRound in slices that leave room for the user between them, and across crashes."""

from contextlib import suppress
from time import perf_counter

from torch import Tensor

from engine.editing import Subject
from engine.edits import AppliedEdit, Quantize
from engine.errors import EditRefused, ExportFailed
from engine.job import Job
from engine.layers import LayerId
from engine.quantization.operators import explicit_subject
from engine.quantization.quantizing import Quantization
from engine.quantization.repair import Repair, Tensors, corrected
from engine.recovery.checkpoints import checkpoint_of
from engine.recovery.training import Standing
from engine.recovery.tuning import SLICE_SECONDS
from engine.sharing import restored_tensor, stored_tensor
from engine.state import RoundingProgress


class Rounding:
    """The learning of roundings under way, for one state of the model.

    It goes on only while somebody calls :meth:`step`, and so is paused by not calling it. Layers
    that are done are kept on disk; the same edit on the same state and data starts behind them,
    and ends with the same bits.

    Args:
        edit: with rounding ``adaround`` (or ``gptq``, which takes less time).
        subject: the state, with the data that it is calibrated on.

    Raises:
        EditRefused: it cannot be quantized so; the message says why.

    Attributes:
        resumed: whether it went on from what an interrupted one had kept.
        problem: why it could not be kept on disk, in a sentence; "" while it can.
    """

    def __init__(self, edit: Quantize, subject: Subject, job: Job) -> None:
        if edit.rounding == "nearest":
            raise EditRefused(
                "Rounding to the nearest has nothing to learn.", "Apply the edit as it is."
            )
        self.edit = edit
        self.problem = ""
        self._subject = subject
        self._plans = Quantization().plans(edit, subject, job)
        self._checkpoint = checkpoint_of(edit, subject)
        kept = self._read()
        self._repair = Repair(edit, self._plans, explicit_subject(subject), kept)
        self.resumed = bool(kept)
        self._kept = len(kept)

    @property
    def done(self) -> bool:
        """Whether all layers are behind it."""
        return self._repair.done

    @property
    def progress(self) -> RoundingProgress:
        """How it goes, as plain frozen data."""
        return self._repair.progress

    def step(self, job: Job, seconds: float = SLICE_SECONDS) -> bool:
        """Work for about so many seconds; whether anything is left to do.

        The job's text, share done and ``partial`` (a :class:`RoundingProgress`) tell how it goes.

        Raises:
            EditRefused: a layer is not reached by the samples.
            Cancelled: between two pieces of work; it may go on or be finished.
        """
        end = perf_counter() + seconds
        while not self.done and perf_counter() < end:
            self._repair.advance(job)
            job.partial = self.progress
            if self._repair.whole > self._kept:
                self.pause()
        return not self.done

    def pause(self) -> None:
        """Keep on disk what is done; :meth:`step` goes on from here all the same."""
        whole = self._repair.whole
        if whole == self._kept:
            return
        tensors = {
            f"{layer}.{one.name}": restored_tensor(one)
            for layer, found in list(self._repair.found.items())[:whole]
            for one in found
        }
        try:
            self._checkpoint.write(Standing(), tensors)
            self.problem = ""
        except ExportFailed as error:
            self.problem = f"After a crash this rounding would start anew: {error}"
        self._kept = whole

    def finish(self) -> AppliedEdit:
        """The edit with what is done; layers that it did not come to are rounded to the nearest."""
        found = dict(self._repair.found)
        left = {layer: plan for layer, plan in self._plans.items() if layer not in found}
        if left and self.edit.bias_correction:
            found |= corrected(self.edit, left, explicit_subject(self._subject), Job())
        decided = Quantization().decision(self.edit, self._plans, found, self._subject, Job())
        return AppliedEdit(self.edit, decided)

    def discard(self) -> None:
        """Remove what is kept of it on disk."""
        self._checkpoint.remove()

    def _read(self) -> dict[LayerId, Tensors]:
        """What an interrupted one had kept: the first layers, whole."""
        kept = self._checkpoint.read()
        if kept is None:
            return {}
        tensors: dict[str, Tensor] = kept[1]
        found: dict[LayerId, Tensors] = {}
        names = ("weight", "bias") if self.edit.bias_correction else ("weight",)
        with suppress(KeyError):  # these are the first; none follows a missing one
            for layer in self._plans:
                found[layer] = tuple(
                    stored_tensor(name, tensors[f"{layer}.{name}"]) for name in names
                )
        return found
