"""Asks for what a request did not say, then makes it again.

Nothing is remembered: the next file, and the same one the next time, is asked about anew.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from PySide6.QtCore import QCoreApplication
from PySide6.QtWidgets import QWidget

from engine import (
    ArchitectureNeeded,
    Candidate,
    ConsentNeeded,
    DataRequest,
    EngineError,
    InputsNeeded,
    InputSpec,
    OpenRequest,
    WeightsMissing,
)
from gui import operations
from gui.dialogs.architecture import ArchitectureDialog
from gui.dialogs.consent import ConsentDialog
from gui.dialogs.inputs import InputsDialog
from gui.dialogs.training import ask_to_stop
from gui.dialogs.weights import WeightsDialog
from gui.document import Document, Request, source_name
from gui.training import TrainingUnderWay


def answer(document: Document, parent: QWidget, request: Request, error: EngineError) -> bool:
    """Ask what the request lacks, if that is why it failed; True if so.

    Cancelling leaves everything as it is.
    """
    if isinstance(error, ConsentNeeded) and error.details.get("digest"):
        _ask_consent(document, parent, request, error)
    elif isinstance(request, DataRequest):
        return False
    elif isinstance(error, TrainingUnderWay):
        _ask_to_stop(document, parent, request)
    elif isinstance(error, InputsNeeded):
        _ask_inputs(document, parent, request, error)
    elif isinstance(error, ArchitectureNeeded):
        _ask_architecture(document, parent, request, error)
    elif isinstance(error, WeightsMissing):
        _ask_weights(document, parent, request, error)
    else:
        return False
    return True


def _ask_consent(document: Document, parent: QWidget, request: Request, error: EngineError) -> None:
    opens = isinstance(request, OpenRequest)
    verb = _tr("Open and run its code") if opens else _tr("Use and run its code")
    dialog = ConsentDialog(error, request.source, verb, parent)

    def allow(digest: str) -> None:
        trusted = request.trusted | {digest}
        if isinstance(request, OpenRequest):
            operations.open_model(document, replace(request, trusted=trusted))
        else:
            operations.choose_data(document, replace(request, trusted=trusted))

    dialog.allowed.connect(allow)
    if not opens:
        document.changed.connect(dialog.follow)
    dialog.open()


def ask_to_run(document: Document, parent: QWidget, error: EngineError, source: str) -> None:
    """Ask whether the code that an edit names may run."""
    dialog = ConsentDialog(error, source, _tr("Allow to run"), parent)
    dialog.allowed.connect(partial(operations.allow_code, document))
    document.changed.connect(dialog.follow)
    dialog.open()


def _ask_inputs(
    document: Document, parent: QWidget, request: OpenRequest, error: EngineError
) -> None:
    dialog = InputsDialog(source_name(request.source), str(error), _guesses(error), parent)

    def give(inputs: tuple[InputSpec, ...]) -> None:
        operations.open_model(document, replace(request, inputs=inputs))

    dialog.chosen.connect(give)
    dialog.open()


def _guesses(error: EngineError) -> tuple[InputSpec, ...]:
    try:
        return tuple(InputSpec.parse(str(text)) for text in error.details.get("inputs", ()))
    except ValueError:
        return ()


def _ask_to_stop(document: Document, parent: QWidget, request: OpenRequest) -> None:
    def stop() -> None:
        operations.interrupt_tuning(document)
        operations.open_model(document, request)

    ask_to_stop(document, parent, _tr("Stop and open")).stop_wanted.connect(stop)


def _ask_architecture(
    document: Document, parent: QWidget, request: OpenRequest, error: EngineError
) -> None:
    candidates = tuple(_candidate(one) for one in error.details.get("candidates", ()))
    dialog = ArchitectureDialog(source_name(request.source), str(error), candidates, parent)

    def choose(architecture: str) -> None:
        operations.open_model(document, replace(request, architecture=architecture))

    dialog.chosen.connect(choose)
    dialog.open()


def _candidate(fields: Mapping[str, Any]) -> Candidate:
    """A candidate out of JSON, in which a tuple has become a list."""
    return Candidate(**{**fields, "differing": tuple(fields.get("differing", ()))})


def _ask_weights(
    document: Document, parent: QWidget, request: OpenRequest, error: EngineError
) -> None:
    dialog = WeightsDialog(error, source_name(request.source), parent)
    without = request.source.rpartition("@")[0] or request.source

    def download() -> None:
        operations.open_model(document, replace(request, download=True))

    def open_untrained() -> None:
        operations.open_model(document, replace(request, source=without))

    dialog.download_wanted.connect(download)
    dialog.random_wanted.connect(open_untrained)
    dialog.open()


def _tr(text: str) -> str:
    return QCoreApplication.translate("Dialogs", text)
