"""Choosing validation data: what the form says, what is seen of it, consent, skipped samples."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from PySide6.QtCore import QObject, QPoint, Signal
from PySide6.QtWidgets import (
    QComboBox,
    QDialog,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QSpinBox,
    QWidget,
)
from pytestqt.qtbot import QtBot

from engine import (
    METRICS,
    Change,
    ConsentNeeded,
    DataInfo,
    DataRequest,
    EngineError,
    MeasurementTable,
    Part,
    Preprocessing,
    Quantity,
    SamplePreview,
    Series,
    Snapshot,
)
from gui import dialogs
from gui.dialogs.data import DataDialog
from gui.jobs import JobRunner
from gui.models.figures import figure
from gui.theme import Theme
from gui.views.figures import FiguresStrip
from gui.views.notes_line import NotesLine
from gui.views.picture_strip import PictureStrip

RED = SamplePreview("<b>one</b>.png", "cat", bytes((255, 0, 0)) * 4, 2, 2)
BROKEN = SamplePreview("two.png", "", b"", 0, 0, "it is cut short")
CONSENT = ConsentNeeded(
    "data.py runs code.", details={"digest": "cd" * 32, "what": "data.py", "runs": ["data.py:make"]}
)
USUAL = Preprocessing(resize=(232,), crop=(224, 224), mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))


class Document(QObject):
    """Answers previews at once, and writes down what it was asked to do."""

    changed = Signal(object)
    unmeasured = Signal(str, object)

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__()
        self.jobs = JobRunner()
        self.snapshot = snapshot
        self.answer: Any = (RED, BROKEN)
        self.previewed: list[DataRequest] = []
        self.loaded: list[DataRequest] = []

    def preview_data(
        self, request: DataRequest, count: int, on_samples: Callable[[Any], None]
    ) -> None:
        self.previewed.append(request)
        answer = self.answer
        on_samples(answer(request) if callable(answer) else answer)

    def cancel_preview(self, slot: str) -> None:
        pass

    def load_data(self, request: DataRequest) -> None:
        self.loaded.append(request)


@pytest.fixture
def document(qapp: object, base: Snapshot) -> Iterator[Document]:
    document = Document(replace(base, model=replace(base.model, preprocessing=USUAL)))
    yield document
    document.deleteLater()


@pytest.fixture
def dialog(qtbot: QtBot, document: Document, theme: Theme) -> Iterator[DataDialog]:
    window = QWidget()
    qtbot.addWidget(window)
    dialog = DataDialog(document, document.snapshot, theme, window)  # type: ignore[arg-type]
    dialog.show()
    yield dialog
    for still_open in window.findChildren(DataDialog):
        still_open.close()


def _choose(dialog: DataDialog, name: str, data: object) -> None:
    combo = dialog.findChild(QComboBox, name)
    combo.setCurrentIndex(combo.findData(data))


def _type(dialog: DataDialog, name: str, text: str) -> None:
    dialog.findChild(QLineEdit, name).setText(text)


def _said(dialog: DataDialog) -> str:
    return str(dialog.findChild(QLabel, "data_message").text())


def _look(qtbot: QtBot, dialog: DataDialog, document: Document) -> None:
    """Wait until typing counts as ended."""
    seen = len(document.previewed)
    qtbot.waitUntil(lambda: len(document.previewed) > seen)


def test_a_model_of_small_images_is_offered_the_digits(dialog: DataDialog) -> None:
    assert dialog.request == DataRequest("digits")
    assert dialog.findChild(QPushButton, "data_accept").isEnabled()


def test_what_the_form_says(dialog: DataDialog) -> None:
    _choose(dialog, "data_kind", "class")
    dialog.findChild(QComboBox, "data_class").setEditText("CIFAR10")
    _type(dialog, "data_where", "/data/cifar")
    _choose(dialog, "data_metric", "top-5")
    _choose(dialog, "data_broken", True)
    dialog.findChild(QSpinBox, "data_most").setValue(500)
    assert dialog.request == DataRequest(
        "torchvision:CIFAR10:/data/cifar", None, "top-5", "skip", 500
    )


@pytest.mark.parametrize("kind", ["folder", "class", "tensors", "factory"])
def test_what_is_missing_is_said(dialog: DataDialog, kind: str) -> None:
    _choose(dialog, "data_kind", kind)
    assert not dialog.findChild(QPushButton, "data_accept").isEnabled()
    assert _said(dialog).startswith("Choose the ")


def test_a_function_of_the_metric_is_checked_as_typed(dialog: DataDialog) -> None:
    function = dialog.findChild(QLineEdit, "data_function")
    assert not function.isVisible()
    _choose(dialog, "data_metric", "function")
    assert function.isVisible()
    assert not dialog.findChild(QPushButton, "data_accept").isEnabled()
    function.setText("metrics.py:score")
    assert dialog.request.metric == "metrics.py:score"


def test_preprocessing_by_hand_begins_with_the_usual_one(dialog: DataDialog) -> None:
    assert "resized to 232" in dialog.findChild(QLabel, "preprocessing_usual").text()
    _choose(dialog, "data_preprocessing", True)
    assert dialog.request.preprocessing == USUAL
    _type(dialog, "data_resize", "256x320")
    _type(dialog, "data_mean", "")
    _type(dialog, "data_std", "")
    wanted = Preprocessing(resize=(256, 320), crop=(224, 224))
    assert dialog.request.preprocessing == wanted
    _type(dialog, "data_crop", "wide")
    assert not dialog.findChild(QPushButton, "data_accept").isEnabled()


def test_samples_are_seen_when_typing_pauses(
    qtbot: QtBot, dialog: DataDialog, document: Document
) -> None:
    _look(qtbot, dialog, document)
    strip = dialog.findChild(PictureStrip)
    assert strip.samples == (RED, BROKEN)
    assert strip.sample_at(QPoint(10, 10)) is RED
    assert strip.sample_at(QPoint(900, 10)) is None
    assert strip.grab().toImage().pixelColor(48, 48).name() == "#ff0000"
    seen = len(document.previewed)
    dialog.findChild(QSpinBox, "data_most").setValue(10)  # changes no picture
    assert not dialog._typing.isActive()
    assert len(document.previewed) == seen


def test_what_the_data_lack_is_said_in_place_of_pictures(
    qtbot: QtBot, dialog: DataDialog, document: Document
) -> None:
    document.answer = EngineError("There are no pictures.", "Choose another folder.")
    _look(qtbot, dialog, document)
    assert _said(dialog) == "There are no pictures. Choose another folder."
    assert dialog.findChild(PictureStrip).samples == ()


def test_code_runs_only_after_consent_and_for_that_source_alone(
    qtbot: QtBot, dialog: DataDialog, document: Document
) -> None:
    document.answer = lambda request: (RED,) if request.trusted else CONSENT
    _choose(dialog, "data_kind", "factory")
    _type(dialog, "data_where", "data.py:make")
    _look(qtbot, dialog, document)
    assert _said(dialog) == "data.py runs code."
    dialog.findChild(QPushButton, "data_allow").click()
    dialog.findChild(QPushButton, "consent_accept").click()
    _look(qtbot, dialog, document)
    assert dialog.findChild(PictureStrip).samples == (RED,)
    assert dialog.request.trusted == {"cd" * 32}
    _type(dialog, "data_where", "other.py:make")
    assert dialog.request.trusted == frozenset()


def test_what_was_chosen_is_loaded(dialog: DataDialog, document: Document) -> None:
    dialog.findChild(QPushButton, "data_accept").click()
    assert document.loaded == [DataRequest("digits")]


def test_cancel_loads_nothing(dialog: DataDialog, document: Document) -> None:
    dialog.findChild(QPushButton, "data_cancel").click()
    assert document.loaded == []


def _evaluated(base: Snapshot, **conditions: str) -> Snapshot:
    series = Series(METRICS["accuracy"], Quantity(0.9, 0.87, 0.93), conditions=conditions)
    others = [one for key, one in base.current.table.items() if key != "accuracy"]
    state = replace(base.current, table=MeasurementTable([series, *others]))
    data = DataInfo("pictures", 0, 450, broken=("<b>a</b>.png: it is cut short", "b.png: empty"))
    return replace(base, base=state, current=state, data=data)


def test_skipped_samples_are_counted_and_listed(
    qtbot: QtBot, base: Snapshot, document: Document, theme: Theme
) -> None:
    document.snapshot = _evaluated(base, metric="top-1", samples="447", skipped="3")
    shown = figure(document.snapshot, METRICS["accuracy"])
    assert shown.skipped == 3
    assert "over 447 of 450 samples" in shown.tooltip
    strip = FiguresStrip(document, theme)  # type: ignore[arg-type]
    qtbot.addWidget(strip)
    button = strip.card("accuracy").findChild(QPushButton, "figureSkipped")
    assert button.text() == "3 skipped…"
    with qtbot.waitSignal(strip.broken_wanted):
        button.click()
    dialogs.show_broken(document, strip)  # type: ignore[arg-type]
    listed = strip.findChild(QDialog, "broken")
    names = listed.findChild(QPlainTextEdit, "broken_names").toPlainText()
    assert names.startswith("<b>a</b>.png: it is cut short")
    listed.close()


def test_without_skipped_samples_nothing_is_said(base: Snapshot) -> None:
    shown = figure(_evaluated(base, samples="450"), METRICS["accuracy"])
    assert shown.skipped == 0
    assert "skipped" not in shown.tooltip


def test_another_metric_is_named_on_the_card(base: Snapshot) -> None:
    shown = figure(_evaluated(base, metric="mean IoU", samples="5"), METRICS["accuracy"])
    assert shown.title == "Accuracy (mean IoU)"
    assert "classified right" not in shown.tooltip


def test_notes_can_be_sent_away_until_another_model_comes(
    qtbot: QtBot, base: Snapshot, document: Document, theme: Theme
) -> None:
    model = replace(base.model, notes=("This is <b>resnet50</b>.", "It agrees."))
    document.snapshot = replace(base, model=model)
    line = NotesLine(document, theme)  # type: ignore[arg-type]
    qtbot.addWidget(line)
    text = line.findChild(QLabel, "notesText")
    assert text.text() == "This is <b>resnet50</b>.  and 1 more"
    assert not line.isHidden()
    line.findChild(QObject, "notesDismiss").click()
    assert line.isHidden()
    document.changed.emit(_change(document.snapshot, Part.METRICS))
    assert line.isHidden()
    document.changed.emit(_change(document.snapshot, Part.MODEL))
    assert not line.isHidden()
    document.changed.emit(_change(base, Part.MODEL))
    assert line.isHidden()


def _change(snapshot: Snapshot, parts: Part) -> Any:
    return Change(parts, frozenset(), snapshot)
