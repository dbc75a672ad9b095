"""What a user can do to the model: one function per verb.

Menu, toolbar, shortcut, command palette, context menu, drop and test call the same function. What
a verb needs, such as a path, is its argument: whoever calls asks for it (``gui/dialogs.py``).
"""

from pathlib import Path
from typing import Final

from engine import Edit, Limit, Metric
from gui.document import Document

CHECKPOINT_SUFFIX: Final = ".safetensors"
PROGRAM_SUFFIX: Final = ".pt2"
RECIPE_SUFFIX: Final = ".json"


def open_demo(document: Document) -> None:
    """Open the small trained model that Secateur brings with it."""
    document.open("demo")


def open_model(document: Document, source: str) -> None:
    """Open ``demo``, a torchvision model by its name, or a checkpoint by its path."""
    document.open(source)


def open_checkpoint(document: Document, path: str) -> None:
    """Open a checkpoint that Secateur exported."""
    document.open(path)


def open_dropped(document: Document, path: str) -> None:
    """Do what a file dropped on the window is for: apply a recipe, open anything else.

    What is no model is refused by name when it is opened.
    """
    if Path(path).suffix.lower() == RECIPE_SUFFIX:
        document.apply_recipe(path)
    else:
        document.open(path)


def apply_edit(document: Document, edit: Edit) -> None:
    """Apply the edit to the current model."""
    document.apply(edit)


def undo(document: Document) -> None:
    """Take the last edit back."""
    document.undo()


def redo(document: Document) -> None:
    """Apply the edit again that was taken back last."""
    document.redo()


def go_to(document: Document, cursor: int) -> None:
    """Show the model after the first ``cursor`` edits."""
    document.go_to(cursor)


def evaluate(document: Document) -> None:
    """Take the accuracy of the model as it is now."""
    document.evaluate()


def measure_latency(document: Document) -> None:
    """Time the model as it is now, layer by layer."""
    document.measure_latency()


def choose_data(document: Document, name: str) -> None:
    """Choose the data set that accuracy is taken on."""
    document.load_data(name)


def set_limit(document: Document, metric: Metric, bound: float, relative: bool = False) -> None:
    """Bound a metric: in its unit, or as a share of the base model's value."""
    document.set_limit(metric, Limit(metric, bound, relative))


def clear_limit(document: Document, metric: Metric) -> None:
    """Take the limit of a metric away."""
    document.set_limit(metric, None)


def clear_limits(document: Document) -> None:
    """Take every limit away."""
    document.set_limits(())


def export_checkpoint(document: Document, path: str) -> None:
    """Write weights and structure to a file that Secateur opens again."""
    document.export(_with_suffix(path, CHECKPOINT_SUFFIX), "checkpoint")


def export_program(document: Document, path: str) -> None:
    """Write the model as a program that torch runs without Secateur."""
    document.export(_with_suffix(path, PROGRAM_SUFFIX), "program")


def save_recipe(document: Document, path: str) -> None:
    """Write the applied edits to a file, to be applied to the same model elsewhere."""
    document.save_recipe(_with_suffix(path, RECIPE_SUFFIX))


def apply_recipe(document: Document, path: str) -> None:
    """Apply the edits of a recipe file."""
    document.apply_recipe(path)


def cancel_all(document: Document) -> None:
    """Stop everything that is under way."""
    document.cancel_all()


def _with_suffix(path: str, suffix: str) -> str:
    return path if path.lower().endswith(suffix) else f"{path}{suffix}"
