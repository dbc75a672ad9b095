"""Move outliers of inputs into weights."""

from torch import nn

from engine.editing import Subject
from engine.edits import ChannelsScaled, Smooth
from engine.errors import EditRefused
from engine.job import Job
from engine.state import LayerEffect


class Smoothing:
    """Handler of :class:`engine.edits.Smooth`."""

    spares_outputs = False

    def applies(self, module: nn.Module) -> bool:
        """Not yet."""
        return False

    def draft(self, edit: Smooth, subject: Subject, job: Job) -> ChannelsScaled:
        """As :meth:`decide`."""
        return self.decide(edit, subject, job)

    def decide(self, edit: Smooth, subject: Subject, job: Job) -> ChannelsScaled:
        """Not yet."""
        raise EditRefused("Not built yet.")

    def carry_out(self, decision: ChannelsScaled, model: nn.Module) -> None:
        """Not yet."""

    def effects(self, decision: ChannelsScaled, subject: Subject) -> tuple[LayerEffect, ...]:
        """Not yet."""
        return ()

    def notes(self, decision: ChannelsScaled, subject: Subject) -> tuple[str, ...]:
        """Not yet."""
        return ()
