"""Weights and values in 16-bit floating point."""

from torch import nn

from engine.editing import Subject
from engine.edits import Cast, LayersCast
from engine.errors import EditRefused
from engine.job import Job
from engine.state import LayerEffect


class Casting:
    """Handler of :class:`engine.edits.Cast`."""

    spares_outputs = False

    def applies(self, module: nn.Module) -> bool:
        """Not yet."""
        return False

    def draft(self, edit: Cast, subject: Subject, job: Job) -> LayersCast:
        """As :meth:`decide`."""
        return self.decide(edit, subject, job)

    def decide(self, edit: Cast, subject: Subject, job: Job) -> LayersCast:
        """Not yet."""
        raise EditRefused("Not built yet.")

    def carry_out(self, decision: LayersCast, model: nn.Module) -> None:
        """Not yet."""

    def effects(self, decision: LayersCast, subject: Subject) -> tuple[LayerEffect, ...]:
        """Not yet."""
        return ()

    def notes(self, decision: LayersCast, subject: Subject) -> tuple[str, ...]:
        """Not yet."""
        return ()
