"""Asks which architecture tensors belong to, when none fits them fully."""

from typing import Final

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from engine import Candidate
from gui import format as fmt
from gui.dialogs.question import Question
from gui.widgets import breakable, named, plain_label, row

_SHOWN_ROWS: Final = 6
_ROW: Final = 24


class ArchitectureDialog(Question):
    """The nearest architectures, what each differs in, and a line for any other.

    Signals:
        chosen: the name of an architecture, or a Python factory.
    """

    chosen = Signal(str)

    def __init__(
        self,
        name: str,
        reason: str,
        candidates: tuple[Candidate, ...],
        parent: QWidget | None = None,
    ) -> None:
        super().__init__("architecture", "", parent)
        self.setWindowTitle(self.tr("Architecture"))
        self._candidates = candidates
        name = fmt.visible(name, 120)
        self.head(self.tr("Which model are the tensors of {name}?").replace("{name}", name))
        self.say(reason, "architecture_reason", "muted")
        self._table = self._make_table()
        self._differing = self._make_differing()
        self._other = self._make_other()
        self._accept = self.answers(self.tr("Open"))
        self._table.currentCellChanged.connect(self._show_choice)
        self._table.cellDoubleClicked.connect(self._open_row)
        self._other.textChanged.connect(self._show_choice)
        self._show_choice()
        # Why none can be opened is what there is to see then.
        self._toggle.setChecked(bool(candidates) and not any(one.fits for one in candidates))
        self.resize(620, self.sizeHint().height())
        self._table.setFocus() if candidates else self._other.setFocus()

    @property
    def architecture(self) -> str:
        """What is chosen: the line if something is typed there, else the row."""
        typed = self._other.text().strip()
        if typed:
            return typed
        candidate = self._candidate
        return candidate.source if candidate is not None else ""

    @property
    def _candidate(self) -> Candidate | None:
        place = self._table.currentRow()
        return self._candidates[place] if 0 <= place < len(self._candidates) else None

    @property
    def _can_open(self) -> bool:
        """Whether what is chosen may be opened; of what is typed opening itself tells."""
        candidate = self._candidate
        return bool(self._other.text().strip()) or (candidate is not None and candidate.fits)

    def _make_table(self) -> QTableWidget:
        titles = (self.tr("Architecture"), self.tr("Tensors that match"), self.tr("Note"))
        table = named(QTableWidget(len(self._candidates), len(titles), self), "architecture_table")
        table.setHorizontalHeaderLabels(titles)
        table.verticalHeader().hide()
        table.verticalHeader().setDefaultSectionSize(_ROW)
        table.setShowGrid(False)
        table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        table.setTabKeyNavigation(False)
        table.setAccessibleName(self.tr("Candidates"))
        for place, candidate in enumerate(self._candidates):
            self._fill(table, place, candidate)
        header = table.horizontalHeader()
        header.setHighlightSections(False)
        header.setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        table.setMinimumHeight(_ROW * (min(len(self._candidates), _SHOWN_ROWS) + 1) + 12)
        table.setVisible(bool(self._candidates))
        if self._candidates:
            table.setCurrentCell(0, 0)
        else:
            self.say(self.tr("No architecture of the catalogue comes near."), "architecture_none")
        self.body.addWidget(table, 1)
        return table

    def _fill(self, table: QTableWidget, place: int, candidate: Candidate) -> None:
        match = self.tr("{matching} of {total}").format(
            matching=candidate.matching, total=candidate.total
        )
        differ = "" if candidate.fits else self.tr("Some of its tensors differ")
        texts = (_short(candidate.source), match, candidate.note or differ)
        for section, text in enumerate(texts):
            item = QTableWidgetItem(fmt.visible(text))
            item.setToolTip(fmt.tooltip(text))
            table.setItem(place, section, item)

    def _make_differing(self) -> QPlainTextEdit:
        self._toggle = named(QPushButton(self), "architecture_toggle")
        self._toggle.setText(self.tr("Show differing tensors"))
        self._toggle.setCheckable(True)
        self._toggle.setAutoDefault(False)
        line = row()
        line.addWidget(self._toggle)
        line.addStretch(1)
        self.body.addLayout(line)
        field = self.lines((), "architecture_differing")
        field.hide()
        self._toggle.toggled.connect(field.setVisible)
        self._toggle.setVisible(bool(self._candidates))
        return field

    def _make_other(self) -> QLineEdit:
        other = named(QLineEdit(self), "architecture_other")
        other.setPlaceholderText("resnet50, package.module:function, file.py:function(depth=18)")
        label = plain_label(self.tr("Or another catalogue model, or the Python factory it is from"))
        label.setBuddy(other)
        self.body.addSpacing(4)
        self.body.addWidget(label)
        self.body.addWidget(other)
        return other

    def _show_choice(self, *_: object) -> None:
        """Name on the button what is chosen, and list what the row differs in."""
        name = self.architecture
        short = fmt.visible(_short(name), 40)
        self._accept.setText(self.tr("Open as %s") % short if name else self.tr("Open"))
        self._accept.setEnabled(self._can_open)
        self._accept.setToolTip("" if self._can_open else self.tr("Some of its tensors differ"))
        candidate = self._candidate
        differing = candidate.differing if candidate is not None else ()
        self._toggle.setEnabled(bool(differing))
        self._differing.setPlainText("\n".join(breakable(one) for one in differing))

    def _open_row(self, place: int, _: int) -> None:
        self._other.clear()
        self._table.setCurrentCell(place, 0)
        self.accept()

    def accept(self) -> None:
        if self._can_open:
            super().accept()
            self.chosen.emit(self.architecture)


def _short(source: str) -> str:
    return source.removeprefix("torchvision:")
