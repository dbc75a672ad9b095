"""What can go wrong, as one tree; every class says what the user can do about it.

::

    EngineError
    ├── ModelNotFound        no model has that name, no file is there
    ├── ModelUnreadable      the file is there, but is not a model Secateur can open
    ├── DataSetNotFound      no data set has that name, or none is chosen
    ├── DataSetMismatch      the samples do not fit the model's input
    ├── ForwardFailed        the model raised while it ran
    ├── InvalidSelection     a name or pattern matches no layer
    ├── EditRefused          the edit cannot be done on this model as it stands
    ├── RecipeUnreadable     the file is not a recipe, or is damaged
    ├── RecipeMismatch       the recipe was made for another model
    ├── ExportFailed         the written file did not pass its check, or could not be written
    ├── ChildFailed          a child process ended without an answer
    └── OutOfMemory          memory ran out, nothing was changed

:class:`engine.job.Cancelled` is not among them: the user asked for it.
"""


class EngineError(Exception):
    """The cause in ``str(error)``, the way out in ``error.remedy``; both are plain text.

    Args:
        message: what happened and why, one or two sentences.
        remedy: what the user can do; the class's own advice when left out.
    """

    remedy = "Nothing was changed; try again with other input."

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message)
        if remedy is not None:
            self.remedy = remedy


class ModelNotFound(EngineError):
    """No model has that name and no file is at that path."""

    remedy = (
        "Give “demo”, the name of a torchvision model such as “resnet50”, "
        "or the path of a checkpoint that Secateur exported."
    )


class ModelUnreadable(EngineError):
    """The file is there, but its content is not a model that can be opened."""

    remedy = "Choose a .safetensors checkpoint that Secateur exported."


class DataSetNotFound(EngineError):
    """No data set has that name, or the model has none yet."""

    remedy = "Choose validation data that fits the model; “digits” is built in."


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
    """The edit cannot be applied to the model as it stands; nothing was changed."""

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
