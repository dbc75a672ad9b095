"""Passes of a model that leave out what an earlier pass over the same samples has computed."""

from engine.prefixes.absent import Form
from engine.prefixes.running import PREFIX_BUDGET, Batch, Prefixes, Running

__all__ = ["PREFIX_BUDGET", "Batch", "Form", "Prefixes", "Running"]
