"""A form that follows from the fields of an edit: a new kind of edit needs no form of its own."""

from collections.abc import Mapping
from dataclasses import MISSING, replace
from typing import Any, Final

from PySide6.QtCore import Signal, Slot
from PySide6.QtWidgets import QFormLayout, QLabel, QPushButton, QWidget

from engine import EDITS, TORCH_METHODS, Edit, LayerId, edit_name
from gui import format as fmt
from gui.models.edit_fields import EditField, Selected, edit_fields, useful_fields
from gui.models.edit_hints import EditHint, edit_hint
from gui.models.edit_words import (
    FAMILIES,
    amount_words,
    choice_words,
    family_of,
    field_words,
    way_title,
    way_words,
)
from gui.views.amount_field import AmountField, Input
from gui.views.edit_inputs import (
    BitsInput,
    ChoiceInput,
    CountInput,
    FileInput,
    FlagInput,
    JsonInput,
    NumberInput,
    PatternInput,
    TextInput,
    is_object,
)
from gui.views.parts import MoreButton
from gui.widgets import column, named, plain_label, row

_MOST_COUNTED: Final = 1_000_000
_MULTIPLES: Final = (1, 4, 8, 16, 32)
_PATTERN: Final = "pattern"  # one input for the two fields of N:M


class EditForm(QWidget):
    """Inputs for everything an edit asks for beside the layers; those without a use are hidden.

    Args:
        ways: kinds of edits that this one stands beside, if it is not alone.

    Signals:
        changed: a value is another one.
        way_wanted: the user wants the form of that kind of edit instead.
    """

    changed = Signal()
    way_wanted = Signal(str)

    def __init__(
        self, kind: type[Edit], ways: tuple[str, ...] = (), parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._kind, self._name = kind, edit_name(kind)
        self.setObjectName(f"form_{self._name}")
        self._selected = Selected()
        self._picked: dict[str, tuple[int, ...] | None] = {}
        self._inputs: dict[str, Input] = {}
        self._labels: dict[str, QLabel] = {}
        self._layout = QFormLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setVerticalSpacing(6)
        self._layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        self._way: ChoiceInput | None = None
        if len(ways) > 1:
            self._way = self._add_ways(ways)
        self._hint = HintRow()
        self._hint.taken.connect(self._take)
        self._more = MoreButton("moreOfEdit")
        self._more.toggled.connect(self._show_useful)
        self._add_fields()
        self._show_useful()

    @property
    def values(self) -> dict[str, Any]:
        """What the form says, by field."""
        said: dict[str, Any] = {name: widget.read() for name, widget in self._inputs.items()}
        if _PATTERN in said:
            said["keep"], said["of"] = said.pop(_PATTERN)
        return said | {name: numbers or () for name, numbers in self._picked.items()}

    def set_values(self, values: Mapping[str, Any]) -> None:
        """Show these values."""
        said = dict(values)
        if _PATTERN in self._inputs:
            said[_PATTERN] = said.pop("keep"), said.pop("of")
        for name, value in said.items():
            if name in self._picked:
                self._picked[name] = tuple(value) or None
            else:
                self._inputs[name].write(value)
        self._on_change()

    @property
    def picks(self) -> str:
        """Name of the field whose numbers are picked by hand; empty when there is none."""
        return next(iter(self._picked), "")

    @property
    def picked(self) -> tuple[int, ...] | None:
        """What is picked by hand; None: the amount decides."""
        return self._picked.get(self.picks)

    def set_picked(self, numbers: tuple[int, ...] | None) -> None:
        """Take these, as picked by hand; None: the amount decides."""
        if self.picks and numbers != self.picked:
            self._picked[self.picks] = numbers
            self._on_change()

    def set_layers(self, selected: Selected) -> None:
        """Show what has a use for these layers; what is picked by hand this form knows itself."""
        self._selected = selected
        self._show_useful()

    def refuse_ways(self, reasons: Mapping[str, str]) -> None:
        """Let these kinds of edits not be chosen instead of this one, and say why."""
        if self._way is not None:
            self._way.refuse(reasons)

    def edit(self, layers: tuple[LayerId, ...]) -> Edit:
        """The edit that the form asks for; what has no use is as the edit has it by itself."""
        values = self.values
        useful = self._useful()
        for field in edit_fields(self._name):
            if field.name not in useful and field.name not in ("ratio", "keep", "of"):
                values[field.name] = field.default
        make: Any = self._kind
        edit: Edit = make(layers=layers, **values)
        return edit

    @property
    def lack(self) -> str:
        """What must still be said before there is an edit; empty when nothing."""
        if self.picked == ():
            return self.tr("Pick what shall go, or let the amount decide.")
        if self._name == "mask-weights" and not self.values["path"]:
            return self.tr("Choose the file of the mask.")
        if self._name == "prune-by-method" and not self.values["method"]:
            return self.tr("Name the method.")
        if not is_object(self.values.get("arguments", "{}")):
            return self.tr('The arguments are not JSON; write them like {"n": 2, "dim": 0}.')
        return ""

    def _add_ways(self, ways: tuple[str, ...]) -> ChoiceInput:
        words = way_words(self.tr)
        way = ChoiceInput("way", [(one, *words[one]) for one in ways])
        way.write(self._name)
        way.changed.connect(self._on_way)
        self._add_row(*way_title(family_of(self._name), self.tr), way)
        return way

    @Slot()
    def _on_way(self) -> None:
        assert self._way is not None
        wanted = self._way.read()
        if wanted != self._name:
            self._way.write(self._name)
            self.way_wanted.emit(wanted)

    def _add_fields(self) -> None:
        fields = edit_fields(self._name)
        for field in fields:
            if field.usual:
                self._add(field)
        self._layout.addRow(self._hint)
        self._layout.addRow(self._more)
        for field in fields:
            if not field.usual:
                self._add(field)

    def _add(self, field: EditField) -> None:
        if field.kind == "picked":
            self._picked[field.name] = None
            return
        if field.name in ("keep", "of"):
            if field.name == "of":
                return
            field = EditField(_PATTERN, "choice", (0, 0), (0, 0))
        widget = self._make_input(field)
        if field.first is not MISSING:
            widget.write(field.first)
        fallback = (field.name.replace("_", " ").capitalize(), "")
        title, tip = field_words(self._name, self.tr).get(field.name, fallback)
        self._inputs[field.name] = widget
        self._labels[field.name] = self._add_row(title, tip, widget)
        widget.changed.connect(self._on_change)

    def _add_row(self, title: str, tip: str, widget: Input) -> QLabel:
        label = plain_label(title)
        label.setBuddy(widget.focusProxy() or widget)
        for one in (label, widget):
            one.setToolTip(fmt.tooltip(tip))
        self._layout.addRow(label, widget)
        return label

    def _make_input(self, field: EditField) -> Input:
        """The input for values of that type."""
        if field.name == _PATTERN:
            return PatternInput()
        if field.kind == "flag":
            return FlagInput(field.name)
        if field.kind == "share":
            return AmountField(field.name, 99.0 if field.open_end else 100.0)
        if field.name == "multiple" or field.kind == "choice":
            choices = field.choices or _MULTIPLES
            words = [(one, *choice_words(field.name, one, self._name, self.tr)) for one in choices]
            return ChoiceInput(field.name, words)
        least = field.least if field.least is not None else 0
        most = field.most if field.most is not None else _MOST_COUNTED
        if field.kind == "count":
            kind = BitsInput if field.name == "weight_bits" else CountInput
            return kind(field.name, int(least), int(most))
        if field.kind == "number":
            return NumberInput(field.name, least, most)
        return self._make_text(field.name)

    def _make_text(self, name: str) -> TextInput:
        if name == "path":
            kinds = self.tr("Masks (*.safetensors *.npz *.pt *.pth);;All files (*)")
            return FileInput(name, self.tr("Choose a mask"), kinds)
        if name == "arguments":
            return JsonInput(name)
        return TextInput(name, suggestions=TORCH_METHODS if name == "method" else ())

    @Slot()
    def _on_change(self) -> None:
        self._show_useful()
        self.changed.emit()

    @Slot(object)
    def _take(self, hint: EditHint) -> None:
        self.set_values({**self.values, **hint.values})

    def _useful(self) -> frozenset[str]:
        selected = replace(self._selected, by_hand=self.picked is not None)
        return useful_fields(self._name, self.values, selected)

    def _show_useful(self) -> None:
        useful = self._useful()
        if "keep" in useful:
            useful |= {_PATTERN}
        if "ratio" in self._labels:
            spread = self._inputs["spread"].read() if "spread" in useful else "layer"
            title, tip = amount_words(self._name, spread, self.tr)
            self._labels["ratio"].setText(title)
            self._labels["ratio"].setToolTip(fmt.tooltip(tip))
        seldom = {field.name for field in edit_fields(self._name) if not field.usual}
        folded = frozenset() if self._more.isChecked() else seldom
        for name, widget in self._inputs.items():
            self._layout.setRowVisible(widget, name in useful and name not in folded)
        self._layout.setRowVisible(self._more, bool(seldom & useful))
        hint = edit_hint(self._name, self.values, self.tr) if self._selected.weights else None
        self._hint.show_hint(hint)
        self._layout.setRowVisible(self._hint, hint is not None)


class HintRow(QWidget):
    """Values worth trying, and a button that takes them.

    Signals:
        taken: the :class:`EditHint` that the user follows.
    """

    taken = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._hint: EditHint | None = None
        self._text = plain_label("", "editHintText", "muted")
        self._text.setWordWrap(True)
        take = named(QPushButton(self.tr("Use")), "takeHint")
        take.setToolTip(self.tr("Take these settings"))
        take.clicked.connect(self._on_taken)
        layout = row(self)
        layout.addWidget(self._text, 1)
        layout.addWidget(take)

    def show_hint(self, hint: EditHint | None) -> None:
        """Offer these instead."""
        self._hint = hint
        self._text.setText(hint.text if hint is not None else "")

    @Slot()
    def _on_taken(self) -> None:
        if self._hint is not None:
            self.taken.emit(self._hint)


class EditForms(QWidget):
    """The form of one kind of edit at a time, each made when it is first wanted.

    Signals:
        changed: a value of a form is another one.
        way_wanted: the user wants the form of that kind of edit instead.
    """

    changed = Signal()
    way_wanted = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("editForms")
        self._made: dict[str, EditForm] = {}
        self._accepted: dict[str, dict[str, Any]] = {}
        self._layout = column(self, spacing=0)

    def form(self, method: str) -> EditForm:
        """The form of that kind of edit."""
        if method not in self._made:
            form = EditForm(EDITS[method][0], FAMILIES[family_of(method)], self)
            form.changed.connect(self.changed)
            form.way_wanted.connect(self.way_wanted)
            form.hide()
            self._layout.addWidget(form)
            self._made[method] = form
            self._accepted[method] = form.values
        return self._made[method]

    def show_form(self, method: str, reasons: Mapping[str, str]) -> None:
        """Show that form instead.

        Args:
            reasons: against those of its ways that cannot be chosen.
        """
        shown = self.form(method)
        shown.refuse_ways(reasons)
        for form in self._made.values():
            form.setVisible(form is shown)

    def accept(self, method: str) -> None:
        """Keep what the form says, to come back to it."""
        self._accepted[method] = self.form(method).values

    def discard(self, method: str) -> None:
        """Go back to what was accepted last, or to the first values; nothing is picked by hand."""
        form = self.form(method)
        picks = {form.picks: ()} if form.picks else {}
        form.set_values({**self._accepted[method], **picks})

    def forget_picks(self) -> None:
        """Nothing is picked by hand any more."""
        for form in self._made.values():
            form.set_picked(None)
