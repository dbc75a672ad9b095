"""Asks which data accuracy is taken on, and shows what the model would see of it."""

from dataclasses import replace
from typing import Final

from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QComboBox, QFormLayout, QLineEdit, QPushButton, QSpinBox, QWidget

from engine import (
    METRIC_NAMES,
    ConsentNeeded,
    DataRequest,
    EngineError,
    FunctionName,
    SamplePreview,
    Snapshot,
)
from gui import operations
from gui.dialogs.consent import ConsentDialog
from gui.dialogs.data_source import DIGITS, FOLDER, SourceFields
from gui.dialogs.preprocessing import PreprocessingFields
from gui.dialogs.question import Question
from gui.document import Document
from gui.theme import Theme
from gui.views.amount_field import ignore_wheel_without_focus
from gui.views.picture_strip import PictureStrip
from gui.widgets import breakable, named, row

_SHOWN: Final = 6
_TYPING_MS: Final = 400
_MOST: Final = 100_000_000
_FUNCTION: Final = "function"
_DIGITS_INPUT: Final = (1, 8, 8)


def ask_data(document: Document, parent: QWidget, theme: Theme) -> None:
    """Ask which data accuracy is taken on, then load it."""
    if document.snapshot is not None:
        DataDialog(document, document.snapshot, theme, parent).open()


class DataDialog(Question):
    """A form for a :class:`engine.DataRequest` above the first samples that it gives."""

    def __init__(
        self, document: Document, snapshot: Snapshot, theme: Theme, parent: QWidget | None = None
    ) -> None:
        super().__init__("data", "", parent)
        self.setWindowTitle(self.tr("Validation data"))
        self._document = document
        self._trusted: frozenset[str] = frozenset()
        self._asked: DataRequest | None = None  # what the pictures are of, or will be
        self._consent: EngineError | None = None
        self.head(self.tr("Which data is the model judged by?"))
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        form.setVerticalSpacing(8)
        form.setHorizontalSpacing(16)
        self._source = SourceFields(form, self)
        self._make_metric(form)
        self._make_limits(form)
        model = snapshot.model
        grey = model.input_shape[1:2] == (1,)
        self._how = PreprocessingFields(form, model.preprocessing, grey, self)
        self.body.addSpacing(4)
        self.body.addLayout(form)
        self._lay_out_preview(theme)
        self._accept = self.answers(self.tr("Use this data"))
        fits = model.input_shape[1:] == _DIGITS_INPUT
        self._source.choose(DIGITS if fits else FOLDER)
        self._connect()
        self._check()

    @property
    def request(self) -> DataRequest:
        """What the form says.

        Raises:
            ValueError: something is missing or cannot be read; the message says what.
        """
        return DataRequest(
            self._source.source,
            self._how.preprocessing,
            self._metric_name(),
            "skip" if self._broken.currentData() else "stop",
            self._most.value(),
            self._trusted,
        )

    def _make_metric(self, form: QFormLayout) -> None:
        self._metric = named(QComboBox(self), "data_metric")
        self._metric.addItem(self.tr("The usual one of the task"), "")
        for name in METRIC_NAMES:
            self._metric.addItem(name, name)
        self._metric.addItem(self.tr("Python function…"), _FUNCTION)
        self._function = named(QLineEdit(self), "data_function")
        self._function.setPlaceholderText("metrics.py:score")
        form.addRow(self.tr("Metric"), self._metric)
        form.addRow(self.tr("Metric's function"), self._function)
        form.setRowVisible(self._function, False)
        self._form = form

    def _make_limits(self, form: QFormLayout) -> None:
        self._broken = named(QComboBox(self), "data_broken")
        self._broken.addItem(self.tr("Stop the run"), False)
        self._broken.addItem(self.tr("Are skipped and listed"), True)
        self._most = named(QSpinBox(self), "data_most")
        self._most.setRange(0, _MOST)
        self._most.setSpecialValueText(self.tr("All"))
        self._most.setToolTip(self.tr("Samples that report, evenly spread; fewer are quicker"))
        form.addRow(self.tr("Broken samples"), self._broken)
        form.addRow(self.tr("Samples at most"), self._most)
        for widget in (self._metric, self._broken, self._most):
            ignore_wheel_without_focus(widget)

    def _lay_out_preview(self, theme: Theme) -> None:
        self._pictures = PictureStrip(theme, _SHOWN, self)
        self._message = self.say("", "data_message", "muted")
        self._allow = named(QPushButton(self.tr("Show what it would run…"), self), "data_allow")
        self._allow.setAutoDefault(False)
        self._allow.hide()
        line = row()
        line.addWidget(self._allow)
        line.addStretch(1)
        self.body.addSpacing(4)
        self.body.addWidget(self._pictures)
        self.body.addWidget(self._message)
        self.body.addLayout(line)

    def _connect(self) -> None:
        self._typing = QTimer(self, singleShot=True, interval=_TYPING_MS)
        self._typing.timeout.connect(self._preview)
        self._source.changed.connect(self._forget_consent)
        for changed in (
            self._source.changed,
            self._how.changed,
            self._function.textChanged,
            self._metric.currentIndexChanged,
        ):
            changed.connect(self._check)
        self._allow.clicked.connect(self._ask_consent)
        self.finished.connect(self._end)

    def _metric_name(self) -> str:
        chosen = str(self._metric.currentData())
        if chosen != _FUNCTION:
            return chosen
        text = self._function.text().strip()
        FunctionName.parse(text)
        return text

    def _forget_consent(self) -> None:
        """What was allowed was allowed for the data chosen before."""
        self._trusted = frozenset()

    def _check(self, *_: object) -> None:
        """Say at once what is missing; look at the data when typing pauses."""
        self._form.setRowVisible(self._function, self._metric.currentData() == _FUNCTION)
        self._consent = None
        self._allow.hide()
        try:
            request = self.request
        except ValueError as error:
            self._typing.stop()
            self._document.cancel_preview("data")
            self._asked = None
            self._pictures.say("")
            self._say(str(error))
            self._accept.setEnabled(False)
            return
        self._accept.setEnabled(True)
        if self._asked is None or _looks(request) != _looks(self._asked):
            self._say(self.tr("Looking at the data"))
            self._typing.start()

    def _preview(self) -> None:
        try:
            self._asked = self.request
        except ValueError:
            return
        self._document.preview_data(self._asked, _SHOWN, self._show)

    def _show(self, found: tuple[SamplePreview, ...] | EngineError | None) -> None:
        if isinstance(found, tuple):
            self._pictures.show_samples(found)
            self._say(self.tr("Samples from all over the data, as the model sees them."))
            return
        self._asked = None
        self._pictures.say("")
        if found is None:
            self._say(self.tr("There is no preview."))
        elif isinstance(found, ConsentNeeded) and found.details.get("digest"):
            self._consent = found
            self._allow.show()
            self._say(str(found))
        else:
            self._say(f"{found} {found.remedy}")

    def _say(self, text: str) -> None:
        self._message.setText(breakable(text))

    def _ask_consent(self) -> None:
        if self._consent is None:
            return
        verb = self.tr("Run it for this data")
        dialog = ConsentDialog(self._consent, self._source.source, verb, self)
        dialog.allowed.connect(self._trust)
        dialog.open()

    def _trust(self, digest: str) -> None:
        self._trusted |= {digest}
        self._check()

    def _end(self) -> None:
        self._typing.stop()
        self._document.cancel_preview("data")

    def accept(self) -> None:
        request = self.request
        super().accept()
        operations.choose_data(self._document, request)


def _looks(request: DataRequest) -> DataRequest:
    """The request without what changes no picture."""
    return replace(request, broken="stop", most=0)
