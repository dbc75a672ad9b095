"""What can go wrong, as one tree; every class says what the user can do about it.

::

    EngineError
    ├── ModelNotFound        no model has that name, no file is there
    │   └── WeightsMissing       published weights are not on this machine
    ├── ModelUnreadable      the file is there, but is not a model Secateur can open
    │   ├── ConsentNeeded        opening it would run code; the user must allow that first
    │   ├── InputsNeeded         nothing says what the model takes
    │   └── ArchitectureNeeded   tensors without a structure that belongs to them
    ├── DownloadFailed       weights could not be fetched
    ├── DataSetNotFound      no data set has that name, or none is chosen
    ├── DataSetUnreadable    its files are damaged, or a sample is
    ├── DataSetMismatch      the samples do not fit the model's input
    ├── ForwardFailed        the model raised while it ran
    ├── InvalidSelection     a name or pattern matches no layer
    ├── EditRefused          the edit cannot be done on this model as it stands
    ├── RecipeUnreadable     the file is not a recipe, or is damaged
    ├── RecipeMismatch       the recipe was made for another model
    ├── ExportFailed         the written file did not pass its check, or could not be written
    ├── ProfilingFailed      it cannot be measured so on this machine
    │   └── CounterUnavailable   no counter of energy can be read
    ├── HardwareUnreadable   the file is not a description of hardware
    ├── DescriptionUnreadable  the file is not a network description
    ├── SensitivityUnreadable  the file is not a map of sensitivity
    ├── ChildFailed          a child process ended without an answer
    └── OutOfMemory          memory ran out, nothing was changed

:class:`engine.job.Cancelled` is not among them: the user asked for it.
"""

from collections.abc import Mapping
from typing import Any


class EngineError(Exception):
    """The cause in ``str(error)``, the way out in ``error.remedy``; both are plain text.

    Args:
        message: what happened and why, one or two sentences.
        remedy: what the user can do; the class's own advice when left out.
        details: JSON values that the class documents, for whoever can do something about it.
    """

    remedy = "Nothing was changed; try again with other input."

    def __init__(
        self,
        message: str,
        remedy: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        if remedy is not None:
            self.remedy = remedy
        self.details: Mapping[str, Any] = details or {}


class ModelNotFound(EngineError):
    """No model has that name and no file is at that path."""

    remedy = (
        "Give “demo”, the name of a torchvision model such as “resnet50”, the path of a file, "
        "or a Python factory such as package.module:function."
    )


class WeightsMissing(ModelNotFound):
    """Published weights are not on this machine, and fetching them was not asked for.

    details: ``url``, ``bytes`` (None when unknown).
    """

    remedy = "Allow the download, or open the model without weights."


class ModelUnreadable(EngineError):
    """The file is there, but its content is not a model that can be opened."""

    remedy = (
        "Choose a checkpoint (.safetensors, .pt, .pth, .bin, .npz), an exported program (.pt2), "
        "an ONNX file, or a Python factory."
    )


class ConsentNeeded(ModelUnreadable):
    """Opening it would run code that it holds or names, and nobody has allowed that yet.

    details: ``digest`` (what :attr:`engine.requests.OpenRequest.trusted` takes), ``what`` (its
    name), ``runs`` (names of what would be called).
    """

    remedy = "Allow it only if you trust where it comes from."


class InputsNeeded(ModelUnreadable):
    """Nothing says what the model takes.

    details: ``inputs`` (texts of :class:`engine.requests.InputSpec` that may fit, perhaps none).
    """

    remedy = "Give the shape and type of each input, such as 1x3x224x224."


class ArchitectureNeeded(ModelUnreadable):
    """Tensors without a structure, and no architecture in the catalogue fits them fully.

    details: ``candidates`` (:class:`engine.requests.Candidate` as mappings, nearest first).
    """

    remedy = "Choose the architecture they belong to, or a Python factory that builds it."


class DownloadFailed(EngineError):
    """Weights could not be fetched; nothing was left behind."""

    remedy = "Check the network, or open the model without weights."


class DataSetNotFound(EngineError):
    """No data set has that name, or the model has none yet."""

    remedy = "Choose validation data that fits the model; “digits” is built in."


class DataSetUnreadable(EngineError):
    """A file of the data set is damaged, or one of its samples, and broken ones are to stop."""

    remedy = "Repair or remove it, or choose that broken samples are skipped."


class DataSetMismatch(EngineError):
    """The samples do not fit what the model takes or gives."""

    remedy = "Choose data whose sample shape and classes are those of the model."


class ForwardFailed(EngineError):
    """The model raised while it ran on the sample input."""

    remedy = "Check the input shape; the model itself is unchanged."


class InvalidSelection(EngineError):
    """A layer name or pattern matches nothing."""

    remedy = "Use the dotted paths that “inspect” lists, or a pattern such as “stage1.*”."


class EditRefused(EngineError):
    """The edit cannot be applied to the model as it stands; nothing was changed.

    details: ``layers`` where it could be without these of the chosen ones.
    """

    remedy = "Choose other layers or another amount."


class RecipeUnreadable(EngineError):
    """The file is not a recipe, or a part of it is missing or damaged."""

    remedy = "Save the recipe again from the session that made it."


class RecipeMismatch(EngineError):
    """The recipe was made for another model or for other weights."""

    remedy = "Open the model that the recipe names, then apply it."


class ExportFailed(EngineError):
    """The file could not be written, or did not give the same outputs when re-opened."""

    remedy = "The target file was left as it was; choose another folder or format."


class ProfilingFailed(EngineError):
    """The model cannot be measured in this way on this machine."""

    remedy = "Choose other settings."


class CounterUnavailable(ProfilingFailed):
    """No counter of energy can be read here; the remedy is the command that fixes it."""

    remedy = "Measure where there is a counter; modelled energy needs none."


class HardwareUnreadable(EngineError):
    """The file is not a description of hardware; the message names the field and the reason."""

    remedy = "Mend the field, or start from a shipped description."


class DescriptionUnreadable(EngineError):
    """The file is not a network description; the message names the line and the field."""

    remedy = "Give one layer a line, 25 comma-separated fields each, as the MIT energy tool takes."


class SensitivityUnreadable(EngineError):
    """The file is not a map of sensitivity; the message names the line or the field."""

    remedy = "Open a map that Secateur saved as JSON, or a sensitivity CSV as Distiller writes it."


class ChildFailed(EngineError):
    """A child process ended without an answer."""

    remedy = "Try again; the model in the window is unchanged."


class OutOfMemory(EngineError):
    """Memory ran out; the model is as it was before."""

    remedy = "Use a smaller batch, or close other programs."


def is_out_of_memory(error: Exception) -> bool:
    """Whether that is how Python, or torch in its own words, says that memory ran out."""
    # On Windows, on Linux, on an accelerator.
    signs = ("not enough memory", "can't allocate memory", "out of memory")
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)
