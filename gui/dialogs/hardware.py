"""Shows the descriptions of hardware, edits a copy, and keeps the user's own."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from PySide6.QtCore import QSize, Qt, Slot
from PySide6.QtWidgets import (
    QDialog,
    QFileDialog,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QSplitter,
    QWidget,
)

from engine import (
    EngineError,
    Hardware,
    HardwareEntry,
    list_hardware,
    read_hardware,
    remove_own,
    save_own,
    write_hardware,
)
from gui import format as fmt
from gui import operations
from gui.dialogs.hardware_form import HardwareForm
from gui.dialogs.question import Question
from gui.document import Document
from gui.models.hardware_choice import hardware_id, id_of
from gui.models.hardware_fields import field_of, reason_of
from gui.settings import Settings
from gui.views.parts import set_property
from gui.widgets import breakable, column, named, row, wrapped_label

_SIZE: Final = (960, 680)
_LIST_WIDTH: Final = 300
_ROW: Final = 24
_SUFFIX: Final = ".toml"


def ask_hardware(document: Document, settings: Settings, parent: QWidget) -> None:
    """Show the descriptions; what is saved for use is used at once."""
    HardwareDialog(document, settings, parent).open()


class HardwareDialog(QDialog):
    """A list of descriptions beside the form of one.

    A shipped description is never changed: its form is a copy, which is saved as the user's own.
    What was typed stays while another one is looked at.
    """

    def __init__(
        self, document: Document, settings: Settings, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.setObjectName("hardware_dialog")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(self.tr("Hardware descriptions"))
        self.resize(*_SIZE)
        self._document = document
        self._settings = settings
        self._entries: tuple[HardwareEntry, ...] = ()
        self._shown = ""  # id of the description in the form
        self._drafts: dict[str, dict[str, object]] = {}  # by id, as far as they differ
        self._original: dict[str, object] = {}  # what the form held before anything was typed
        self._make_list()
        self._make_form()
        self._lay_out()
        used = document.energy_settings
        entries = list_hardware()
        self._list(id_of(entries, used.hardware) if used is not None else settings.hardware)

    def _make_list(self) -> None:
        self._names = named(QListWidget(self), "hardware_list")
        self._names.setAccessibleName(self.tr("Descriptions"))
        self._names.setTextElideMode(Qt.TextElideMode.ElideMiddle)  # whose it is stands at the end
        self._names.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._names.currentItemChanged.connect(self._on_chosen)
        self._import = self._button("hardware_import", self.tr("Import…"), self._ask_import)
        self._export = self._button("hardware_export", self.tr("Export…"), self._ask_export)
        self._delete = self._button("hardware_delete", self.tr("Delete…"), self._ask_delete)

    def _make_form(self) -> None:
        self._about = wrapped_label("", "hardware_about", "muted", width=320)
        self._form = HardwareForm(self)
        self._form.changed.connect(self._on_typed)
        self._message = wrapped_label("", "hardware_message", "muted", width=320)
        self._save = self._button("hardware_save", self.tr("Save as own"), self.save)
        self._use = self._button("hardware_use", self.tr("Save and use"), self.save_and_use)
        set_property(self._use, "primary", True)
        self._close = self._button("hardware_close", self.tr("Close"), self.reject)

    def _button(self, name: str, text: str, slot: Callable[[], object]) -> QPushButton:
        button = named(QPushButton(text, self), name)
        button.setAutoDefault(False)
        button.clicked.connect(slot)
        return button

    def _lay_out(self) -> None:
        left, right = QWidget(), QWidget()
        beside = column(left, spacing=8)
        beside.addWidget(self._names, 1)
        files = row(spacing=4)
        for button in (self._import, self._export, self._delete):
            files.addWidget(button)
        beside.addLayout(files)
        beside.setContentsMargins(0, 0, 16, 0)
        inner = column(right, spacing=8)
        inner.setContentsMargins(16, 0, 0, 0)
        inner.addWidget(self._about)
        inner.addWidget(self._form, 1)
        split = QSplitter(Qt.Orientation.Horizontal)
        split.addWidget(left)
        split.addWidget(right)
        split.setChildrenCollapsible(False)
        split.setHandleWidth(1)
        split.setSizes([_LIST_WIDTH, _SIZE[0] - _LIST_WIDTH])
        split.setStretchFactor(1, 1)
        foot = row(spacing=8)
        foot.addWidget(self._message, 1)
        for button in (self._close, self._save, self._use):
            foot.addWidget(button)
        layout = column(self, spacing=12)
        layout.setContentsMargins(16, 16, 16, 16)
        layout.addWidget(split, 1)
        layout.addLayout(foot)

    def save(self) -> str:
        """Keep what the form holds as the user's own; its id, "" when that failed."""
        hardware, entry = self._form.hardware, self._entry
        if hardware is None:
            return ""
        editing = entry.key if entry is not None and entry.own else ""
        used = self._document.energy_settings
        in_use = bool(editing and used and entry and used.hardware == entry.hardware)
        try:
            path = save_own(hardware, hardware.name, editing)
            saved = read_hardware(path)
        except EngineError as error:
            self._complain(error)
            return ""
        self._drafts.pop(self._shown, None)
        entries = list_hardware()
        id_ = next((hardware_id(one) for one in entries if one.path == path), "")
        if in_use:
            self._put_to_use(saved, id_)
        self._list(id_)
        self._say(self.tr("Saved as “%s”.") % fmt.visible(saved.name))
        return id_

    def save_and_use(self) -> None:
        """Keep what the form holds, model energy on it, and close; unchanged it is only used."""
        entry = self._entry
        if entry is not None and entry.hardware is not None and not self._edited:
            self._put_to_use(entry.hardware, hardware_id(entry))
            self.accept()
            return
        id_ = self.save()
        saved = self._entry
        if id_ and saved is not None and saved.hardware is not None:
            self._put_to_use(saved.hardware, id_)
            self.accept()

    @Slot()
    def discard(self) -> None:
        """Close, whatever was typed."""
        self._drafts.clear()
        self.reject()

    @property
    def _entry(self) -> HardwareEntry | None:
        return next((one for one in self._entries if hardware_id(one) == self._shown), None)

    @property
    def _edited(self) -> bool:
        """Whether the form holds something else than the description in the list."""
        return self._shown in self._drafts

    def _put_to_use(self, hardware: Hardware, id_: str) -> None:
        self._settings.hardware = id_
        used = self._document.energy_settings
        if used is not None:
            operations.set_energy(self._document, replace(used, hardware=hardware))

    def _list(self, chosen: str) -> None:
        """Read the descriptions again and show that one, or the first."""
        self._entries = list_hardware()
        self._names.blockSignals(True)
        self._names.clear()
        for entry in self._entries:
            self._names.addItem(_item(entry, self.tr("your own"), self.tr("cannot be read")))
        ids = [hardware_id(entry) for entry in self._entries]
        place = ids.index(chosen) if chosen in ids else 0
        self._names.setCurrentRow(place)
        self._names.blockSignals(False)
        self._show(self._entries[place])

    @Slot()
    def _on_chosen(self) -> None:
        place = self._names.currentRow()
        if 0 <= place < len(self._entries):
            self._show(self._entries[place])

    def _show(self, entry: HardwareEntry) -> None:
        self._shown = hardware_id(entry)
        self._delete.setEnabled(entry.own)
        self._form.setEnabled(entry.hardware is not None)
        self._save.setText(self.tr("Save") if entry.own else self.tr("Save as own"))
        self._say("")
        if entry.hardware is not None:
            self._fill(entry.hardware)
        set_property(self._about, "role", "muted" if entry.hardware is not None else "error")
        self._about.setText(breakable(self._about_text(entry)))
        self._follow_form()

    def _about_text(self, entry: HardwareEntry) -> str:
        if entry.hardware is None:
            return entry.problem
        if entry.own:
            return self.tr("Your own description.")
        return self.tr("What you change here is a copy; the shipped description stays.")

    def _fill(self, hardware: Hardware) -> None:
        draft = self._drafts.get(self._shown)
        self._form.blockSignals(True)
        self._form.show_hardware(hardware)
        self._original = self._form.values
        if draft is not None:
            self._form.show_values(draft)
        self._form.blockSignals(False)

    @Slot()
    def _on_typed(self) -> None:
        values = self._form.values
        if values != self._original:
            self._drafts[self._shown] = values
        else:
            self._drafts.pop(self._shown, None)
        self._say("")
        self._follow_form()

    def _follow_form(self) -> None:
        """Let the buttons follow what the form holds, and say what is wrong with it."""
        entry = self._entry
        readable = entry is not None and entry.hardware is not None
        good = readable and self._form.hardware is not None
        self._save.setEnabled(good and self._edited)
        self._use.setEnabled(good)
        self._use.setText(self.tr("Save and use") if self._edited else self.tr("Use"))
        self._export.setEnabled(good)
        if readable and self._form.problem is not None:
            self._complain(self._form.problem)

    def _say(self, text: str) -> None:
        set_property(self._message, "role", "muted")
        self._message.setText(breakable(text))

    def _complain(self, error: EngineError) -> None:
        set_property(self._message, "role", "error")
        field = field_of(error)
        typed = bool(field) and self._form.problem is error
        text = f"{field}: {reason_of(error)}" if typed else f"{error} {error.remedy}"
        self._message.setText(breakable(text))

    @Slot()
    def _ask_import(self) -> None:
        kinds = self.tr("Hardware descriptions (*.toml)")
        dialog = named(QFileDialog(self, self.tr("Import"), "", kinds), "hardware_import_file")
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.setFileMode(QFileDialog.FileMode.ExistingFile)
        dialog.fileSelected.connect(self.import_file)
        dialog.open()

    def import_file(self, path: str) -> None:
        """Keep a copy of that file among the user's own."""
        try:
            hardware = read_hardware(Path(path))
            saved = save_own(hardware, hardware.name)
        except EngineError as error:
            self._complain(error)
            return
        self._list(next((hardware_id(one) for one in list_hardware() if one.path == saved), ""))
        self._say(self.tr("Imported %s.") % fmt.visible(Path(path).name))

    @Slot()
    def _ask_export(self) -> None:
        kinds = self.tr("Hardware descriptions (*.toml)")
        dialog = named(QFileDialog(self, self.tr("Export"), "", kinds), "hardware_export_file")
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
        dialog.setDefaultSuffix(_SUFFIX.removeprefix("."))
        entry = self._entry
        dialog.selectFile(f"{entry.key if entry is not None else 'hardware'}{_SUFFIX}")
        dialog.fileSelected.connect(self.export_file)
        dialog.open()

    def export_file(self, path: str) -> None:
        """Write what the form holds to that file."""
        hardware = self._form.hardware
        if hardware is None:
            return
        try:
            write_hardware(hardware, Path(path))
        except EngineError as error:
            self._complain(error)
            return
        self._say(self.tr("Exported to %s.") % fmt.visible(path))

    @Slot()
    def _ask_delete(self) -> None:
        entry = self._entry
        if entry is None or not entry.own:
            return
        name = entry.hardware.name if entry.hardware is not None else entry.path.name
        question = Question("hardware_delete_question", self.tr("Delete"), self)
        question.head(self.tr("Delete “%s”?") % fmt.visible(name))
        question.say(self.tr("Its file is removed: %s") % entry.path)
        question.answers(self.tr("Delete"), safe=False)
        question.accepted.connect(self.delete)
        question.open()

    @Slot()
    def delete(self) -> None:
        """Remove the user's own description that is shown."""
        entry = self._entry
        if entry is None:
            return
        try:
            remove_own(entry.key)
        except EngineError as error:
            self._complain(error)
            return
        self._drafts.pop(self._shown, None)
        self._list("")

    def reject(self) -> None:
        if not self._drafts:
            super().reject()
            return
        shown = (one for one in self._entries if hardware_id(one) in self._drafts)
        names = [fmt.visible(one.hardware.name, 80) for one in shown if one.hardware is not None]
        question = Question("hardware_discard_question", self.tr("Discard"), self)
        question.head(self.tr("Discard what was typed?"))
        question.say(self.tr("Not saved: %s") % ", ".join(names))
        question.answers(self.tr("Discard"), safe=False)
        question.accepted.connect(self.discard)
        question.open()


def _item(entry: HardwareEntry, own: str, bad: str) -> QListWidgetItem:
    name = entry.hardware.name if entry.hardware is not None else entry.path.name
    remarks = [own] * entry.own + [bad] * (entry.hardware is None)
    text = fmt.visible(name, 80) + (f"  ({', '.join(remarks)})" if remarks else "")
    item = QListWidgetItem(text)
    item.setSizeHint(QSize(0, _ROW))
    item.setToolTip(fmt.tooltip(entry.problem or f"{name}\n{entry.path.name}"))
    return item
