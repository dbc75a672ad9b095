"""A form with every field of a description of hardware, each checked as it is typed."""

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QFrame,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QWidget,
)

from engine import EngineError, Hardware, check_hardware, hardware_fields, with_buffer
from gui import format as fmt
from gui.models.hardware_fields import (
    GROUPS,
    Field,
    Group,
    Values,
    checked,
    field_of,
    left_out,
    reason_of,
    values_of,
)
from gui.theme import scaled
from gui.views.amount_field import ignore_wheel_without_focus
from gui.views.parts import set_property
from gui.widgets import column, named, plain_label, row

_LINES = 3
_TITLE_WIDTH = 128
_NUMBER_WIDTH = 160
_BUFFER = "global_buffer.bytes"


class HardwareForm(QScrollArea):
    """The fields in their groups.

    Signals:
        changed: something was typed; ``hardware`` and ``problem`` say what it comes to.
    """

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("hardwareForm")
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._fields: dict[str, QWidget] = {}
        self._places: dict[str, tuple[QFormLayout, QWidget]] = {}
        self._problems: dict[str, QLabel] = {}
        self._filling = False
        self._hardware: Hardware | None = None
        self._problem: EngineError | None = None
        self._priced: Hardware | None = None  # the last one whose buffer has the cost of its size
        page = QWidget()
        layout = column(page, spacing=4)
        layout.setContentsMargins(0, 0, 16, 16)
        for group in GROUPS:
            layout.addWidget(self._make_group(group))
        layout.addStretch(1)
        self.setWidget(page)

    @property
    def hardware(self) -> Hardware | None:
        """The description as it stands; None while something in it is wrong."""
        return self._hardware

    @property
    def problem(self) -> EngineError | None:
        """What is wrong; None while nothing is."""
        return self._problem

    @property
    def values(self) -> dict[str, object]:
        """What the fields hold."""
        return {name: _value(widget) for name, widget in self._fields.items()}

    def show_hardware(self, hardware: Hardware) -> None:
        """Fill the fields with that description."""
        self._priced = hardware
        self.show_values(values_of(hardware))

    def show_values(self, values: Values) -> None:
        """Fill the fields."""
        self._filling = True
        for name, value in values.items():
            _show(self._fields[name], value)
        self._filling = False
        self._check()

    def _make_group(self, group: Group) -> QWidget:
        box = QWidget()
        layout = column(box, spacing=4)
        layout.setContentsMargins(0, 8, 0, 0)
        title = plain_label(self.tr(group.title), f"group_{group.name}")
        title.setFont(scaled(title.font(), 1.0, bold=True))
        layout.addWidget(title)
        form = QFormLayout()
        form.setContentsMargins(0, 0, 0, 0)
        form.setHorizontalSpacing(16)
        form.setVerticalSpacing(4)
        if group.optional:
            known = named(QCheckBox(self.tr("is known")), f"field_{group.name}")
            known.toggled.connect(self._check)
            self._fields[group.name] = known
            form.addRow(_title(""), known)
        for field in group.fields:
            self._add(form, field)
            if field.name == _BUFFER:
                form.addRow(_title(""), self._make_offer())
                form.setRowVisible(self._offer, False)
        layout.addLayout(form)
        return box

    def _add(self, form: QFormLayout, field: Field) -> None:
        widget = self._make_field(field)
        widget.setObjectName(f"field_{field.name}")
        widget.setToolTip(fmt.tooltip(self.tr(field.tip)))
        widget.setAccessibleName(self.tr(field.title))
        self._fields[field.name] = widget
        place = QWidget()
        layout = column(place, spacing=0)
        line = row(spacing=8)
        line.addWidget(widget, 0 if field.kind in ("number", "choice", "switch") else 1)
        if field.unit:
            line.addWidget(plain_label(self.tr(field.unit), "", "muted"))
        if field.kind in ("number", "choice", "switch"):
            line.addStretch(1)
        problem = plain_label("", f"problem_{field.name}", "error")
        problem.setWordWrap(True)
        problem.hide()
        self._problems[field.name] = problem
        layout.addLayout(line)
        layout.addWidget(problem)
        title = _title(self.tr(field.title))
        title.setToolTip(widget.toolTip())
        form.addRow(title, place)
        self._places[field.name] = form, place

    def _make_field(self, field: Field) -> QWidget:
        match field.kind:
            case "switch":
                switch = QCheckBox()
                switch.toggled.connect(self._check)
                return switch
            case "choice":
                box = QComboBox()
                for choice in field.choices:
                    box.addItem(self.tr(choice), choice)
                box.currentIndexChanged.connect(self._check)
                ignore_wheel_without_focus(box)
                return box
            case "lines":
                lines = QPlainTextEdit()
                lines.setTabChangesFocus(True)
                lines.setFixedHeight(_LINES * lines.fontMetrics().lineSpacing() + 12)
                lines.textChanged.connect(self._check)
                return lines
        line = QLineEdit()
        if field.kind == "number":
            line.setFixedWidth(_NUMBER_WIDTH)
        line.textChanged.connect(self._check)
        return line

    def _make_offer(self) -> QPushButton:
        self._offer = named(QPushButton(), "bufferOffer")
        self._offer.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
        self._offer.setAutoDefault(False)
        self._offer.setToolTip(
            self.tr("The line through the costs that Eyeriss states for 0.5 kB and 100 kB")
        )
        self._offer.clicked.connect(self._take_offer)
        return self._offer

    @Slot()
    def _check(self) -> None:
        if self._filling:
            return
        values = self.values
        unused = left_out(values)
        for name, (form, place) in self._places.items():
            form.setRowVisible(place, name not in unused)
        try:
            self._hardware, self._problem = checked(values), None
        except EngineError as error:
            self._hardware, self._problem = None, error
        self._show_problem()
        self._show_offer()
        self.changed.emit()

    def _show_problem(self) -> None:
        """Say what is wrong at the field that is."""
        wrong = field_of(self._problem) if self._problem is not None else ""
        for name, label in self._problems.items():
            set_property(self._fields[name], "invalid", name == wrong)
            if name == wrong and self._problem is not None:
                label.setText(reason_of(self._problem))
            label.setVisible(name == wrong)

    def _show_offer(self) -> None:
        """Offer the cost of another buffer, while the field still has that of the size before."""
        offered = self._resized()
        form, _ = self._places[_BUFFER]
        form.setRowVisible(self._offer, offered is not None)
        if offered is not None:
            text = self.tr("Take {cost} {unit} for an access, the cost of an SRAM of that size")
            cost = f"{offered.cost.global_buffer:.4g}"
            self._offer.setText(text.format(cost=cost, unit=offered.cost.unit))

    def _resized(self) -> Hardware | None:
        """The description with the cost of its new buffer; None where there is nothing to offer."""
        now, before = self._hardware, self._priced
        if now is None or before is None:
            return None
        size = now.global_buffer.bytes
        if size == before.global_buffer.bytes:
            return None
        if now.cost.global_buffer != before.cost.global_buffer:  # typed by hand
            return None
        buffer = hardware_fields(before)["global_buffer"]
        as_before = hardware_fields(now) | {"global_buffer": buffer}
        try:
            return with_buffer(check_hardware(as_before, now.name), size)
        except EngineError:
            return None

    @Slot()
    def _take_offer(self) -> None:
        resized = self._resized()
        if resized is not None:
            self._priced = resized
            self.show_values(values_of(resized))


def _title(text: str) -> QWidget:
    title = plain_label(text, "", "muted")
    title.setFixedWidth(_TITLE_WIDTH)
    title.setAlignment(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignRight)
    title.setContentsMargins(0, 4, 0, 0)
    return title


def _value(widget: QWidget) -> object:
    match widget:
        case QCheckBox():
            return widget.isChecked()
        case QComboBox():
            return widget.currentData()
        case QPlainTextEdit():
            return widget.toPlainText()
        case QLineEdit():
            return widget.text()
    raise TypeError(type(widget).__name__)


def _show(widget: QWidget, value: object) -> None:
    match widget:
        case QCheckBox():
            widget.setChecked(bool(value))
        case QComboBox():
            widget.setCurrentIndex(widget.findData(value))
        case QPlainTextEdit():
            widget.setPlainText(str(value))
        case QLineEdit():
            widget.setText(str(value))
