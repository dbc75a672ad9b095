"""Batch norms folded into the layers before them."""

from typing import Any

from torch import nn

from engine.editing import Subject
from engine.errors import EditRefused
from engine.job import Job
from engine.state import LayerEffect


class NormFolding:
    """STUB: to be replaced by its owner."""

    spares_outputs = False

    def applies(self, module: nn.Module) -> bool:
        return False

    def draft(self, edit: Any, subject: Subject, job: Job) -> Any:
        return self.decide(edit, subject, job)

    def decide(self, edit: Any, subject: Subject, job: Job) -> Any:
        raise EditRefused("Not there yet.")

    def carry_out(self, decision: Any, model: nn.Module) -> None:
        raise EditRefused("Not there yet.")

    def effects(self, decision: Any, subject: Subject) -> tuple[LayerEffect, ...]:
        return ()

    def notes(self, decision: Any, subject: Subject) -> tuple[str, ...]:
        return ()
