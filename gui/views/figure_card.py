"""One card of the figures strip."""

from PySide6.QtCore import QVariantAnimation, Signal, Slot
from PySide6.QtGui import QAction, QColor, QContextMenuEvent, QGuiApplication
from PySide6.QtWidgets import QFrame, QMenu, QPushButton, QSizePolicy, QWidget

from engine import Metric
from gui import format as fmt
from gui.models.figures import Figure
from gui.theme import Theme, blend, scaled
from gui.views.parts import set_property
from gui.widgets import column, named, plain_label, row

_FADE = 600  # milliseconds in which a number that changed takes its usual colour
_SMALL, _LARGE = 0.85, 1.6


class FigureCard(QFrame):
    """A metric: caption, the value large, base and change, and the limit as a button."""

    data_wanted = Signal()
    limit_wanted = Signal(str)
    broken_wanted = Signal()

    def __init__(self, metric: Metric, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName(f"card_{metric.key}")
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self._metric = metric
        self._modelled = metric.key == "energy"  # its title says so
        self._theme = theme
        self._figure: Figure | None = None
        self._make_widgets()
        self._lay_out()
        self._fade = QVariantAnimation(self, startValue=0.0, endValue=1.0, duration=_FADE)
        self._fade.valueChanged.connect(self._show_fade)
        theme.changed.connect(self._show_colours)

    @property
    def figure(self) -> Figure | None:
        """What the card shows; None when no model is open."""
        return self._figure

    def show_figure(self, figure: Figure | None) -> None:
        """Show this figure; a number that changed lights up for a moment."""
        previous, self._figure = self._figure, figure
        self._show_value(figure)
        self._show_base(figure)
        self._show_limit(figure)
        self._show_colours()
        self.setToolTip(fmt.tooltip(figure.tooltip) if figure else "")
        self.setAccessibleName(figure.tooltip.replace("\n", ", ") if figure else "")
        if previous and figure and previous.value != figure.value:
            self._fade.start()

    def _make_widgets(self) -> None:
        title = self.tr("Energy (modelled)") if self._modelled else self._metric.title
        self._title = plain_label(self.tr(title), "figureTitle", "caption")
        provenance = self.tr(self._metric.provenance.value)
        self._provenance = plain_label(provenance, "figureProvenance", "caption")
        self._badge = plain_label("", "figureBadge", "badge")
        self._value = plain_label("", "figureValue")
        self._base = plain_label("", "figureBase", "caption")
        self._change = plain_label("", "figureChange")
        self._data = named(QPushButton(self.tr("Choose validation data…")), "chooseData")
        self._data.clicked.connect(self.data_wanted)
        self._skipped = named(QPushButton(), "figureSkipped")
        self._skipped.setToolTip(self.tr("List the samples that could not be read"))
        self._skipped.clicked.connect(self.broken_wanted)
        self._limit = named(QPushButton(), "figureLimit")
        self._limit.clicked.connect(self._want_limit)
        small = scaled(self.font(), _SMALL)
        for widget in (self._title, self._provenance, self._badge, self._base, self._change):
            widget.setFont(small)
        self._limit.setFont(small)
        self._data.setFont(small)
        self._skipped.setFont(small)
        self._value.setFont(scaled(self.font(), _LARGE))

    def _lay_out(self) -> None:
        head, middle, foot = row(spacing=6), row(spacing=0), row(spacing=6)
        for widget in (self._title, self._provenance, self._badge):
            head.addWidget(widget)
        head.setStretch(0, 1)
        middle.addWidget(self._value)
        middle.addWidget(self._data)
        middle.addStretch(1)
        foot.addWidget(self._base)
        foot.addWidget(self._change)
        foot.addWidget(self._skipped)
        foot.addStretch(1)
        layout = column(self, spacing=2)
        layout.setContentsMargins(12, 8, 12, 4)
        for part in (head, middle, foot):
            layout.addLayout(part)
        layout.addWidget(self._limit)
        height = self._value.fontMetrics().height() + 4
        self._value.setFixedHeight(height)
        self._data.setFixedHeight(height)
        self._base.setFixedHeight(self._base.fontMetrics().height() + 2)

    def _show_value(self, figure: Figure | None) -> None:
        needs_data = figure is not None and figure.needs_data
        self._data.setVisible(needs_data)
        self._value.setVisible(not needs_data)
        badge = figure.badge if figure is not None else ""
        self._badge.setText(badge)
        self._badge.setVisible(bool(badge))
        shown = figure is not None and not figure.why and not badge and not self._modelled
        self._provenance.setVisible(shown)
        self._value.setText(figure.value if figure else fmt.ABSENT)
        skipped = figure.skipped if figure else 0
        self._skipped.setText(self.tr("%s skipped…") % skipped)
        self._skipped.setVisible(skipped > 0)
        if figure and figure.title:
            self._title.setText(figure.title)

    def _show_base(self, figure: Figure | None) -> None:
        text = figure.base if figure else ""
        if figure and figure.why and not figure.needs_data and figure.why != figure.badge:
            text = figure.why
        self._base.setText(text)
        change = f"{figure.change} {self.tr(figure.verdict)}" if figure and figure.change else ""
        self._change.setText(change.strip())

    def _show_limit(self, figure: Figure | None) -> None:
        limit = figure.limit if figure else ""
        mark = {True: "✓", False: "✗", None: "?"}[figure.met if figure else None]
        self._limit.setText(f"{mark} {limit}" if limit else self.tr("Set limit…"))
        self._limit.setEnabled(figure is not None)
        self._limit.setToolTip(self.tr("Change the limit") if limit else self.tr("Set a limit"))
        state = {True: "kept", False: "broken", None: ""}[figure.met if figure else None]
        set_property(self._limit, "limit", state if limit else "none")

    def _show_colours(self) -> None:
        palette = self._theme.palette
        verdict = self._figure.verdict if self._figure else ""
        color = {fmt.BETTER: palette.better, fmt.WORSE: palette.worse}.get(verdict, palette.muted)
        self._change.setStyleSheet(f"color: {color}")
        absent = self._figure is None or bool(self._figure.why)
        self._value.setStyleSheet(f"color: {palette.muted if absent else palette.text}")

    @Slot(object)
    def _show_fade(self, share: float) -> None:
        palette = self._theme.palette
        color = blend(QColor(palette.accent), QColor(palette.text), share)
        self._value.setStyleSheet(f"color: {color.name()}")

    @Slot()
    def _want_limit(self) -> None:
        self.limit_wanted.emit(self._metric.key)

    @Slot()
    def _copy(self) -> None:
        if self._figure is not None:
            QGuiApplication.clipboard().setText(self._figure.value)

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        if self._figure is None:
            return
        menu = QMenu(self)
        for text, slot in (
            (self.tr("Set limit…"), self._want_limit),
            (self.tr("Copy value"), self._copy),
        ):
            action = QAction(text, menu)
            action.triggered.connect(slot)
            menu.addAction(action)
        menu.popup(event.globalPos())
