"""What a user can do to the model: one function per verb.

Menu, toolbar, shortcut, command palette, context menu, drop and test call the same function. What
a verb needs, such as a path, is its argument: whoever calls asks for it (``gui/dialogs``).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from engine import (
    DataRequest,
    Edit,
    EnergySettings,
    FineTune,
    LayerId,
    Limit,
    Metric,
    OpenRequest,
    RecalibrateNorms,
    SensitivityFormat,
    SensitivityMap,
)
from gui.document import Document
from gui.scanning import ScanWish
from gui.training import GradualPruning

CHECKPOINT_SUFFIX: Final = ".safetensors"
PROGRAM_SUFFIX: Final = ".pt2"
ONNX_SUFFIX: Final = ".onnx"
RECIPE_SUFFIX: Final = ".json"
DESCRIPTION_SUFFIX: Final = ".txt"
MAP_SUFFIXES: Final[Mapping[SensitivityFormat, str]] = {
    "json": ".sensitivity.json",
    "csv": ".csv",
    "distiller": ".csv",
}
INDEX_SUFFIX: Final = ".index.json"  # lists the files of a checkpoint in several


def open_demo(document: Document) -> None:
    """Open the small trained model that Secateur brings with it."""
    open_model(document, "demo")


def open_model(document: Document, source: str | OpenRequest) -> None:
    """Open what a source names (a file, a catalogued model, a factory), as far as that says."""
    document.open(OpenRequest(source) if isinstance(source, str) else source)


def open_dropped(document: Document, path: str) -> None:
    """Do what a file dropped on the window is for: apply a recipe, open anything else.

    What is no model is refused by name when it is opened.
    """
    name = Path(path).name.lower()
    if name.endswith(RECIPE_SUFFIX) and not name.endswith(INDEX_SUFFIX):
        document.apply_recipe(path)
    else:
        open_model(document, path)


def apply_edit(document: Document, edit: Edit) -> None:
    """Apply the edit to the current model."""
    document.apply(edit)


def allow_code(document: Document, digest: str) -> None:
    """Let the user's own code of that digest run from now on."""
    document.allow_code(digest)


def recalibrate(document: Document, edit: RecalibrateNorms) -> None:
    """Measure the statistics of batch norms anew."""
    document.apply(edit)


def tune(document: Document, edit: FineTune) -> None:
    """Train the current model."""
    document.tune(edit)


def prune_gradually(document: Document, pruning: GradualPruning) -> None:
    """Prune in steps, and train after each."""
    document.prune_gradually(pruning)


def pause_tuning(document: Document) -> None:
    """Let the training rest."""
    document.pause_tuning()


def resume_tuning(document: Document) -> None:
    """Let the training go on."""
    document.resume_tuning()


def keep_tuning(document: Document) -> None:
    """End the training and apply its best weights so far."""
    document.stop_tuning(keep=True)


def discard_tuning(document: Document) -> None:
    """End the training and forget it."""
    document.stop_tuning(keep=False)


def interrupt_tuning(document: Document) -> None:
    """End the training without a result, so that it can go on another time."""
    document.interrupt_tuning()


def scan(document: Document, wish: ScanWish) -> None:
    """Find out what each layer can bear."""
    document.scan(wish)


def stop_scan(document: Document) -> None:
    """End the scan; it goes on from there another time."""
    document.stop_scan()


def resume_scan(document: Document) -> None:
    """Let a scan that rests go on."""
    document.resume_scan()


def open_map(document: Document, path: str) -> None:
    """Show the map of sensitivity in a file, of this tool or of Distiller."""
    document.open_map(path)


def save_map(document: Document, found: SensitivityMap, form: SensitivityFormat, path: str) -> None:
    """Write a map of sensitivity."""
    document.save_map(found, form, _with_suffix(path, MAP_SUFFIXES[form]))


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


def measure_memory(document: Document) -> None:
    """Take the peak memory of the model as it is now, layer by layer."""
    document.measure_memory()


def set_energy(document: Document, settings: EnergySettings) -> None:
    """Model energy on that hardware, at that batch."""
    document.set_energy(settings)


def measure_zeros(document: Document) -> None:
    """Measure zeros of activations on data, for hardware that skips them."""
    document.measure_zeros()


def measure_energy(document: Document) -> None:
    """Count the joules that the model takes as it is now, layer by layer."""
    document.measure_energy()


def measure(document: Document) -> None:
    """Take both latency and memory of the model as it is now."""
    document.measure_latency()
    document.measure_memory()


def profile_operators(document: Document) -> None:
    """Record which operators one pass runs, and their time."""
    document.profile_operators()


def profile_python(document: Document) -> None:
    """Record which Python functions the model runs through."""
    document.profile_python()


def profile_lines(document: Document, layer: LayerId, follow: bool = False) -> None:
    """Time the source lines of a layer's forward, with ``follow`` of what it calls too."""
    document.profile_lines(layer, follow)


def take_roofline(document: Document) -> None:
    """Set the layers' speed against what this machine reaches at best."""
    document.take_roofline()


def choose_data(document: Document, request: DataRequest) -> None:
    """Choose the data that accuracy is taken on."""
    document.load_data(request)


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


def export_onnx(document: Document, path: str) -> None:
    """Write the model for ONNX Runtime and whatever else reads ONNX."""
    document.export(_with_suffix(path, ONNX_SUFFIX), "onnx")


def save_recipe(document: Document, path: str) -> None:
    """Write the applied edits to a file, to be applied to the same model elsewhere."""
    document.save_recipe(_with_suffix(path, RECIPE_SUFFIX))


def save_description(document: Document, path: str) -> None:
    """Write the layers for the MIT energy tool, and their modelled energy beside them."""
    document.save_description(_with_suffix(path, DESCRIPTION_SUFFIX))


def apply_recipe(document: Document, path: str) -> None:
    """Apply the edits of a recipe file."""
    document.apply_recipe(path)


def cancel_all(document: Document) -> None:
    """Stop everything that is under way."""
    document.cancel_all()


def _with_suffix(path: str, suffix: str) -> str:
    return path if path.lower().endswith(suffix) else f"{path}{suffix}"
