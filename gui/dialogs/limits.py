"""Asks for the bound of a metric, then sets it."""

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QDialog, QDialogButtonBox, QLineEdit, QWidget

from engine import Limit, Metric, Snapshot
from gui import format as fmt
from gui import operations
from gui.document import Document
from gui.views.parts import set_property
from gui.widgets import column, named, plain_label


def ask_limit(document: Document, parent: QWidget, metric: Metric) -> None:
    """Ask for the bound of a metric, then set it."""
    LimitDialog(document, metric, parent).open()


class LimitDialog(QDialog):
    """One line for a bound: a value with its unit, or a share of the base model's value."""

    def __init__(self, document: Document, metric: Metric, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("limit_dialog")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(self.tr("Set limit"))
        self._document = document
        self._metric = metric
        held = _limit_of(document.snapshot, metric)
        self._line = named(QLineEdit(_bound_to_type(held), self), "limit_line")
        self._line.setPlaceholderText(self._example())
        self._line.textChanged.connect(self._check)
        self._message = plain_label("", "limit_message", "muted")
        self._message.setWordWrap(True)
        self._message.setMinimumWidth(360)
        self._lay_out(can_remove=held is not None)
        self._check()

    def _lay_out(self, can_remove: bool) -> None:
        title = self.tr(self._metric.title)
        least_or_most = (
            self.tr("%s, at most:") if self._metric.lower_is_better else self.tr("%s, at least:")
        )
        label = plain_label(least_or_most % title)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Cancel, self)
        set_button = buttons.addButton(self.tr("Set limit"), QDialogButtonBox.ButtonRole.AcceptRole)
        set_property(set_button, "primary", True)
        set_button.setDefault(True)
        self._set_button = set_button
        if can_remove:
            remove = buttons.addButton(
                self.tr("Remove limit"), QDialogButtonBox.ButtonRole.DestructiveRole
            )
            remove.setAutoDefault(False)
            remove.clicked.connect(self._remove)
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        layout = column(self)
        layout.setContentsMargins(24, 16, 24, 16)
        for widget in (label, self._line, self._message):
            layout.addWidget(widget)
        layout.addSpacing(8)
        layout.addWidget(buttons)

    def _example(self) -> str:
        snapshot = self._document.snapshot
        total = snapshot.current.table.total(self._metric) if snapshot is not None else None
        now = fmt.metric_number(self._metric, total.value) if total is not None else ""
        if self._metric.key == "accuracy":
            return now
        return self.tr("%s, or 60 % of base").replace("%s", now) if now else "60 %"

    def _parse(self) -> tuple[float, bool]:
        """The bound, and whether it is a share of the base model's value.

        Raises:
            ValueError: the line is no bound; the message says why.
        """
        text = self._line.text().strip().lstrip("≤≥<>= ")
        accuracy = self._metric.key == "accuracy"
        share, _, rest = text.partition("%")
        relative = "%" in text and not (accuracy and not rest.strip())
        bound = float(fmt.parse(f"{share}%", "1")) if relative else fmt.parse(text, self._unit)
        if bound <= 0 or (accuracy and bound > 1):
            raise ValueError(self.tr("Give a value above zero, or in percent up to 100 %."))
        return bound, relative

    @property
    def _unit(self) -> str:
        return self._metric.unit

    def _check(self) -> None:
        """Say at once whether the line can be understood, and how."""
        try:
            bound, relative = self._parse()
        except ValueError as error:
            empty = not self._line.text().strip()
            self._message.setText(self._hint() if empty else str(error))
            self._set_button.setEnabled(False)
            return
        self._message.setText(fmt.limit_text(Limit(self._metric, bound, relative), self.tr))
        self._set_button.setEnabled(True)

    def _hint(self) -> str:
        if self._metric.key == "accuracy":
            return self.tr("In percent, such as 97 %.")
        return self.tr("A value with its unit, or a share of the base model's value in percent.")

    def _remove(self) -> None:
        operations.clear_limit(self._document, self._metric)
        self.reject()

    def accept(self) -> None:
        bound, relative = self._parse()
        operations.set_limit(self._document, self._metric, bound, relative)
        super().accept()


def _limit_of(snapshot: Snapshot | None, metric: Metric) -> Limit | None:
    held = snapshot.limits if snapshot is not None else ()
    return next((status.limit for status in held if status.limit.metric == metric), None)


def _bound_to_type(limit: Limit | None) -> str:
    return fmt.bound_text(limit).lstrip("≤≥ ") if limit is not None else ""
