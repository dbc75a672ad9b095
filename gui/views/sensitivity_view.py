"""What each layer can bear: the heat map of a scan, the scan itself, and cells as edits."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, cast

from PySide6.QtCore import QPoint, Qt, QTimer, Signal, Slot
from PySide6.QtGui import QContextMenuEvent
from PySide6.QtWidgets import QLayout, QMenu, QPushButton, QStackedWidget, QWidget

from engine import Change, Edit, LayerId, Part, SensitivityFormat, SensitivityMap, Snapshot
from gui import dialogs, operations
from gui import format as fmt
from gui.models.sensitivity_cells import Order, cell_lines, table
from gui.models.sensitivity_columns import group_words
from gui.models.sensitivity_model import SensitivityModel
from gui.models.sensitivity_words import editable, map_text, refusal_of, stale_text
from gui.scanning import ScanWish
from gui.selection import Selection
from gui.tasks import JobState
from gui.theme import Theme
from gui.views.chart_files import ChartFiles
from gui.views.parts import ElidedLabel, set_property
from gui.views.sensitivity_bar import ScanBar, progress_text
from gui.views.sensitivity_cells import MapLegend
from gui.views.sensitivity_detail import CellDetail
from gui.views.sensitivity_empty import EmptyMap
from gui.views.sensitivity_picture import MapPicture
from gui.views.sensitivity_table import MapTable
from gui.widgets import column, named, plain_label, row

if TYPE_CHECKING:
    from gui.document import Document

_RENEWAL_MS: Final = 250  # of the map, while a scan goes on
_LEAST_SIZE: Final = (320, 160)
_MOST_STALE: Final = 360  # pixels of what says which state the map is of


class SensitivityView(QWidget):
    """Layers by settings; it follows the state of the model, and a scan as it goes.

    Signals:
        data_wanted: the user wants to choose a data set.
        open_wanted: the user wants to see a map that is in a file.
    """

    data_wanted = Signal()
    open_wanted = Signal()

    def __init__(
        self,
        document: Document,
        selection: Selection,
        theme: Theme,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName("sensitivityView")
        self._document = document
        self._selection = selection
        self._scanning = document.scanning
        self._cursors: dict[str, int] = {}  # of the states that led to the one shown
        self._opened: tuple[SensitivityMap, str] | None = None  # from the file of that name
        self._state = ""  # of the model
        self._pointed: tuple[int, int] | None = None
        self._seen: JobState | None = None  # of the scan
        self._model = SensitivityModel(self)
        self._bar = ScanBar()
        self._table = MapTable(self._model, selection, theme)
        self._legend = MapLegend(theme)
        self._detail = CellDetail()
        self._empty = EmptyMap()
        self._caption = ElidedLabel("mapCaption", "caption", Qt.TextElideMode.ElideRight)
        self._stale = plain_label("", "mapStale", "badge")
        self._button = named(QPushButton(), "scanButton")
        self._picture = MapPicture(self._model, self._legend, theme)
        self._files = ChartFiles(self, self._picture, theme, self._numbers)
        self._renewal = QTimer(self, singleShot=True, interval=_RENEWAL_MS)
        self._lay_out()
        self._connect(theme)
        self._follow_history(document.snapshot)
        self.refresh()

    @property
    def model(self) -> SensitivityModel:
        """The map as it is shown."""
        return self._model

    @property
    def table(self) -> MapTable:
        """The cells."""
        return self._table

    @property
    def wish(self) -> ScanWish:
        """What a scan that began now would look at."""
        layers = self._chosen_layers() if self._bar.of_selection else ()
        return ScanWish(self._bar.groups, layers, self._bar.direction, self._bar.samples)

    def take_focus(self) -> None:
        """Let keys go to the cells, or to the button while there are none."""
        (self._table if self._model.map is not None else self._button).setFocus()

    @Slot()
    def run(self) -> None:
        """Begin a scan, end it, or let it go on, as the button says."""
        if not self._button.isEnabled():
            return
        if not self._scanning.active:
            operations.scan(self._document, self.wish)
        elif self._scanning.state is JobState.PAUSED:
            operations.resume_scan(self._document)
        else:
            operations.stop_scan(self._document)

    @Slot()
    def apply(self) -> None:
        """Apply the current cell as an edit; where that cannot be, the line below says why."""
        edit = self._edit()
        if edit is not None:
            operations.apply_edit(self._document, edit)

    @Slot()
    def refresh(self) -> None:
        """Show the map of the current state, or the newest one, or what a map would be."""
        found, wish = self._found(), None
        if found is not None and not self._file:
            wish = self._scanning.wish_of(found.state, found.direction)
        self._model.show_map(found, wish.samples if wish is not None else 0)
        self._stack.setCurrentWidget(self._page if found is not None else self._empty)
        self._show_applied()
        self._explain()
        self._tell()
        self._read_out()

    def make_menu(self) -> QMenu:
        """The menu of the map: its picture and its numbers, to the clipboard or a file."""
        menu = self._files.make_menu(
            (self.tr("Save as JSON…"), partial(self._ask_save, "json")),
            (self.tr("Save as Distiller CSV…"), partial(self._ask_save, "distiller")),
        )
        menu.addSeparator()
        if self._file and self._own() is not None:
            menu.addAction(self.tr("Back to the scanned map")).triggered.connect(self._close_file)
        menu.addAction(self.tr("Open map…")).triggered.connect(self.open_wanted)
        return menu

    def _lay_out(self) -> None:
        self._button_place = row()
        top = row(spacing=8)
        top.setContentsMargins(8, 4, 8, 4)
        top.addWidget(self._bar, 1)
        top.addLayout(self._button_place)
        second = row(spacing=8)
        second.setContentsMargins(8, 0, 8, 2)
        for widget, stretch in ((self._caption, 1), (self._stale, 0), (self._legend, 0)):
            second.addWidget(widget, stretch)
        self._page = QWidget()
        page = column(self._page, spacing=0)
        page.addLayout(second)
        page.addWidget(self._table, 1)
        page.addWidget(self._detail)
        self._stack = QStackedWidget()
        self._stack.addWidget(self._page)
        self._stack.addWidget(self._empty)
        layout = column(self, spacing=0)
        # A narrow dock cuts off what is left, instead of pushing the other panels aside.
        layout.setSizeConstraint(QLayout.SizeConstraint.SetNoConstraint)
        self.setMinimumSize(*_LEAST_SIZE)
        layout.addLayout(top)
        layout.addWidget(self._stack, 1)

    def _connect(self, theme: Theme) -> None:
        self._button.clicked.connect(self.run)
        self._bar.shown_changed.connect(self._on_shown)
        self._bar.order_wanted.connect(self._on_order)
        self._bar.wish_changed.connect(self._tell)
        self._table.moved.connect(self._read_out)
        self._table.pointed.connect(self._on_pointed)
        self._table.apply_wanted.connect(self.apply)
        self._table.sort_wanted.connect(self._on_column)
        self._detail.apply_wanted.connect(self.apply)
        self._empty.data_wanted.connect(self.data_wanted)
        self._renewal.timeout.connect(self.refresh)
        self._selection.changed.connect(self._on_selection)
        self._scanning.changed.connect(self._on_scanning)
        self._scanning.opened.connect(self._on_opened)
        self._document.changed.connect(self._on_changed)
        self._document.tuning_changed.connect(self._tell)
        theme.changed.connect(self._legend.update)

    # -- what is shown

    def _found(self) -> SensitivityMap | None:
        """That of a file opened now, or of the state; else the newest, which says what it is of."""
        snapshot, direction = self._document.snapshot, self._bar.direction
        if snapshot is None:
            return None
        if self._file and self._opened is not None:
            return self._opened[0]
        own = self._scanning.map_of(snapshot.current.id, direction)
        return own if own is not None else self._scanning.newest(direction)

    @property
    def _file(self) -> str:
        """Name of the file whose map is shown; "" while it is another map."""
        if self._opened is None or self._opened[0].direction != self._bar.direction:
            return ""
        return self._opened[1]

    def _show_applied(self) -> None:
        snapshot = self._document.snapshot
        applied = snapshot.history[: snapshot.cursor] if snapshot is not None else ()
        self._model.show_applied([entry.edit for entry in applied])

    def _explain(self) -> None:
        found = self._model.map
        self._legend.explain(self._model.scale, self._model.reading, self._model.marks())
        stale = stale_text(found, self._document.snapshot, self._cursors, self.tr)
        metrics = self._stale.fontMetrics()
        middle = Qt.TextElideMode.ElideMiddle
        self._stale.setText(metrics.elidedText(stale, middle, _MOST_STALE))
        self._stale.setToolTip(fmt.tooltip(stale))
        self._stale.setVisible(bool(stale))
        self._files.describe(self._caption_text(found), ())

    def _caption_text(self, found: SensitivityMap | None) -> str:
        return " · ".join(filter(None, (fmt.visible(self._file), map_text(found, self.tr))))

    @Slot()
    def _tell(self) -> None:
        """Say how the scan stands, and let the button do what can be done now."""
        refusal = self._scan_refusal()
        progress = progress_text(self._scanning.view, self.tr)
        snapshot = self._document.snapshot
        verb = self._verb()
        self._button.setText(verb)
        stopping = self._scanning.state is JobState.STOPPING
        self._button.setEnabled(not stopping and (self._scanning.active or not refusal))
        self._button.setToolTip(fmt.tooltip(refusal or self._scan_tip()))
        found = self._model.map
        without_data = snapshot is not None and snapshot.data is None
        place = self._button_place if found is not None else self._empty.place
        place.addWidget(self._button)
        self._button.setVisible(found is not None or (snapshot is not None and not without_data))
        set_property(self._button, "primary", not (found is not None and found.complete))
        self._caption.show_text(progress or self._caption_text(found))
        self._empty.show_state(
            has_model=snapshot is not None,
            has_data=not without_data,
            progress=progress or refusal,
        )

    def _verb(self) -> str:
        match self._scanning.state:
            case None:
                return self.tr("Resume") if self._can_go_on() else self.tr("Scan")
            case JobState.PAUSED:
                return self.tr("Resume")
            case JobState.STOPPING:
                return self.tr("Stopping…")
        return self.tr("Stop")

    def _can_go_on(self) -> bool:
        """Whether the map of this state was cut short, of the very scan that would begin now."""
        found = self._own()
        if found is None or found.complete:
            return False
        return self._scanning.wish_of(found.state, found.direction) == self.wish

    def _own(self) -> SensitivityMap | None:
        snapshot = self._document.snapshot
        if snapshot is None:
            return None
        return self._scanning.map_of(snapshot.current.id, self._bar.direction)

    def _scan_refusal(self) -> str:
        """Why no scan can begin now; empty while one can."""
        refusal = self._document.scan_refusal()
        if refusal or self._scanning.active:
            return refusal
        if self._bar.of_selection and not self._chosen_layers():
            return self.tr("Select layers that can be edited first, or scan all.")
        own = self._own()
        if own is not None and own.complete:
            done = self._scanning.wish_of(own.state, own.direction)
            if done == self.wish:
                return self.tr(
                    "This state has been scanned so. Change the settings, the samples or the model"
                    " to scan again."
                )
        return ""

    def _scan_tip(self) -> str:
        if self._scanning.state is JobState.PAUSED or self._verb() == self.tr("Resume"):
            return self.tr("Go on where the scan stopped")
        if self._scanning.active:
            return self.tr("End the scan; it goes on from there another time")
        return self.tr("Estimate every cell at once, then measure them, the most uncertain first")

    # -- one cell

    @Slot()
    def _read_out(self) -> None:
        """Read out the cell below the mouse, or else the current one."""
        place, found = self._pointed or self._table.place, self._model.map
        if found is None or place is None or place[0] >= self._model.rowCount():
            hint = self.tr("Point at a cell to read it; double-click or Enter applies it")
            self._detail.show_cell("", "", hint)
        else:
            self._show_cell(*place)
        refusal = self._refusal()
        whole = found is not None and found.complete
        self._detail.offer(refusal, "" if refusal else self._apply_tip(), primary=whole)

    def _show_cell(self, at: int, column: int) -> None:
        layers, heading = self._model.layers(at), self._model.headings[column]
        group = group_words(self.tr)[heading.group][0]
        title = f"{fmt.layer_name(layers[0])} · {group} {heading.title}"
        coupled = ", ".join(fmt.layer_name(one) for one in layers[1:])
        cell = self._model.cell(at, column)
        lines = cell_lines(cell, self._model.shown(at, column), self.tr)
        self._detail.show_cell(
            title,
            self.tr("with {layers}").format(layers=coupled) if coupled else "",
            " · ".join(lines),
            refused=cell is not None and bool(cell.refusal),
        )

    def _edit(self) -> Edit | None:
        """The edit that the current cell stands for; None where it cannot be applied."""
        place, found = self._table.place, self._model.map
        if place is None or found is None or self._refusal():
            return None
        return found.edit(*self._model.origin(*place))

    def _apply_tip(self) -> str:
        edit = self._edit()
        return fmt.edit_text(edit, self.tr) if edit is not None else ""

    def _refusal(self) -> str:
        """Why the current cell cannot be applied; empty where it can."""
        place, snapshot = self._table.place, self._document.snapshot
        if place is None or self._model.map is None or snapshot is None:
            return self.tr("Choose a cell first.")
        cell, layers = self._model.cell(*place), self._model.layers(place[0])
        reason = refusal_of(self._model.map, layers, cell, snapshot, self.tr)
        return reason or self._document.apply_refusal()

    def _chosen_layers(self) -> tuple[LayerId, ...]:
        """The selected layers, and those within, that edits can be applied to."""
        snapshot = self._document.snapshot
        if snapshot is None:
            return ()
        return editable(snapshot.current.tree, self._selection.layers)

    def _numbers(self) -> list[list[object]] | None:
        found = self._model.map
        return table(found) if found is not None else None

    # -- what happens

    def _ask_save(self, form: SensitivityFormat) -> None:
        found = self._model.map
        if found is not None:
            dialogs.ask_save_map(self._document, self, found, form)

    @Slot()
    def _on_scanning(self) -> None:
        """Follow the scan: at once when it begins, rests or ends, else some times a second."""
        state, self._seen = self._seen, self._scanning.state
        if state is None and self._seen is not None:
            self._opened = None
        if self._scanning.active and state is self._seen and self._model.map is not None:
            if not self._renewal.isActive():
                self._renewal.start()
            return
        self._renewal.stop()
        self.refresh()
        if not self._scanning.active:
            self._model.arrange(self._model.order)

    @Slot(object, str)
    def _on_opened(self, found: SensitivityMap, name: str) -> None:
        """Show the map of a file, whatever was shown."""
        self._opened = found, name
        self._bar.show_direction(found.direction)
        self.refresh()
        self._model.arrange(self._model.order)

    @Slot()
    def _close_file(self) -> None:
        self._opened = None
        self.refresh()
        self._model.arrange(self._model.order)

    @Slot()
    def _on_shown(self) -> None:
        self._model.show_reading(self._bar.reading, self._bar.logarithmic)
        self.refresh()
        self._model.arrange(self._model.order)

    @Slot(str)
    def _on_order(self, by: str) -> None:
        self._arrange(cast(Order, by))

    @Slot(int)
    def _on_column(self, place: int) -> None:
        """Order by that column; by the model again where it was the order already."""
        setting = self._model.origin(0, place)[1]
        self._arrange("model" if self._model.order == setting else setting)

    def _arrange(self, by: Order) -> None:
        self._model.arrange(by)
        self._bar.show_order(by if isinstance(by, str) else "")
        self._table.show_sorted(self._model.sorted_column)

    @Slot(int, int)
    def _on_pointed(self, at: int, column: int) -> None:
        self._pointed = (at, column) if at >= 0 else None
        self._read_out()

    @Slot()
    def _on_selection(self) -> None:
        if self._bar.of_selection:
            self._tell()

    @Slot(object)
    def _on_changed(self, change: Change) -> None:
        state, self._state = self._state, change.snapshot.current.id
        if state != self._state or change.parts & (Part.MODEL | Part.DATA):
            self._opened = None
        self._follow_history(change.snapshot)
        self.refresh()

    def _follow_history(self, snapshot: Snapshot | None) -> None:
        if snapshot is None:
            return
        kept = {id_: at for id_, at in self._cursors.items() if at < snapshot.cursor}
        self._cursors = kept | {snapshot.current.id: snapshot.cursor}

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        self.make_menu().popup(QPoint(event.globalPos()))
