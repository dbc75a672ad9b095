"""The strip of figures: values, absence, limits, provenance."""

from dataclasses import replace
from typing import Any

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLabel, QPushButton
from pytestqt.qtbot import QtBot

from engine import (
    METRICS,
    DataInfo,
    EngineError,
    Limit,
    LimitStatus,
    MeasurementTable,
    Part,
    Quantity,
    Series,
    Snapshot,
)
from gui.models.figures import figure
from gui.theme import Theme
from gui.views.figures import FiguresStrip

DATA = DataInfo("digits", 1000, 360)

CARDS = ("accuracy", "energy", "latency", "macs", "size", "parameters")


@pytest.fixture
def strip(qtbot: QtBot, fake_document: Any, theme: Theme) -> FiguresStrip:
    strip = FiguresStrip(fake_document, theme)
    qtbot.addWidget(strip)
    strip.resize(1000, strip.sizeHint().height())
    strip.show()
    return strip


def _without(snapshot: Snapshot, key: str) -> Snapshot:
    def cut(table: MeasurementTable) -> MeasurementTable:
        return MeasurementTable(one for name, one in table.items() if name != key)

    base = replace(snapshot.base, table=cut(snapshot.base.table))
    return replace(
        snapshot, base=base, current=replace(snapshot.current, table=cut(snapshot.current.table))
    )


def test_figures_compare_with_the_base(pruned: Snapshot) -> None:
    energy = figure(pruned, METRICS["energy"])
    assert energy.value == "1.44 µJ"
    assert energy.base == "2.79 µJ"
    assert energy.change == "▼ 49 %"
    assert energy.verdict == "better"


def test_accuracy_is_shown_as_it_comes_in(
    strip: FiguresStrip, fake_document: Any, pruned: Snapshot
) -> None:
    card = strip.card("accuracy")
    fake_document.jobs.show(None, Quantity(0.93, 0.90, 0.96))
    assert card.figure is not None
    assert (card.figure.value, card.figure.why) == ("93.0 % ±3.0", "so far")
    assert card.figure.change == ""
    base: Any = card.findChild(QLabel, "figureBase")
    assert base.text() == "so far"
    fake_document.jobs.show(Quantity(0.95, 0.94, 0.96))
    assert card.figure.value == "95.0 % ±1.0"
    fake_document.show(_without(fake_document.snapshot, "accuracy"))
    assert card.figure.why != "so far"  # the base's accuracy comes first
    fake_document.show(pruned)
    fake_document.jobs.show()  # it has ended
    assert card.figure.value == "97.7 % ±1.0"
    assert strip.card("energy").figure.value == "1.44 µJ"


def test_accuracy_before_recovery_is_labelled_so(
    strip: FiguresStrip, fake_document: Any, pruned: Snapshot
) -> None:
    card = strip.card("accuracy")
    badge: Any = card.findChild(QLabel, "figureBadge")
    assert not badge.isVisible()
    entry = replace(pruned.history[0], before_recovery=True)
    fake_document.show(replace(pruned, history=(entry,)))
    assert badge.isVisible()
    assert badge.text() == "before recovery"
    assert card.figure is not None
    assert "not recovered since" in card.figure.tooltip
    fake_document.show(replace(pruned, history=(entry,), cursor=0))
    assert not badge.isVisible()


def test_intervals_that_overlap_have_no_order(pruned: Snapshot) -> None:
    metric = METRICS["accuracy"]
    assert figure(pruned, metric).change.startswith("▼")
    assert figure(pruned, metric).verdict == ""
    assert "may be chance" in figure(pruned, metric).tooltip
    clear = Series(metric, Quantity(0.9, 0.88, 0.92))
    table = pruned.current.table.with_series(clear)
    apart = replace(pruned, current=replace(pruned.current, table=table))
    assert figure(apart, metric).verdict == "worse"
    assert "may be chance" not in figure(apart, metric).tooltip


@pytest.mark.parametrize("key", ["latency", "measured_energy"])
@pytest.mark.parametrize(
    ("now", "verdict"),
    [(Quantity(0.7, 0.6, 0.8), ""), (Quantity(0.4, 0.3, 0.45), "better")],
)
def test_measurements_are_ranked_where_their_intervals_do_not_overlap(
    pruned: Snapshot, key: str, now: Quantity, verdict: str
) -> None:
    metric = METRICS[key]
    before, after = Series(metric, Quantity(0.9, 0.75, 1.0)), Series(metric, now)
    measured = replace(
        pruned,
        base=replace(pruned.base, table=pruned.base.table.with_series(before)),
        current=replace(pruned.current, table=pruned.current.table.with_series(after)),
    )
    found = figure(measured, metric)
    assert found.verdict == verdict
    assert ("may be chance" in found.tooltip) == (verdict == "")
    assert found.change.startswith("▼")


def test_unedited_there_is_nothing_to_compare(base: Snapshot) -> None:
    energy = figure(base, METRICS["energy"])
    assert (energy.base, energy.change, energy.verdict) == ("", "", "")


def test_tooltips_say_where_a_figure_comes_from(pruned: Snapshot) -> None:
    tip = figure(pruned, METRICS["energy"]).tooltip
    assert "modelled" in tip
    assert "hardware Eyeriss" in tip
    assert "batch 1" in tip
    assert "between" in figure(pruned, METRICS["accuracy"]).tooltip


def test_absent_is_a_dash_with_a_reason(pruned: Snapshot) -> None:
    latency = figure(_without(pruned, "latency"), METRICS["latency"])
    assert latency.value == "–"
    assert latency.why == "not measured yet"


def test_untrained_models_have_no_accuracy(pruned: Snapshot) -> None:
    untrained = replace(pruned, model=replace(pruned.model, trained=False))
    accuracy = figure(untrained, METRICS["accuracy"])
    assert accuracy.value == "–"
    assert accuracy.why == "untrained"
    assert not accuracy.needs_data


@pytest.mark.parametrize(("met", "mark"), [(True, "✓"), (False, "✗"), (None, "?")])
def test_limits_have_a_mark(
    strip: FiguresStrip, fake_document: Any, pruned: Snapshot, met: bool | None, mark: str
) -> None:
    status = LimitStatus(Limit(METRICS["energy"], 5e-5), met)
    fake_document.show(replace(pruned, limits=(status,)))
    button = strip.card("energy").findChild(QPushButton, "figureLimit")
    assert button.text() == f"{mark} ≤ 50.0 µJ"


def test_the_mark_asks_for_a_limit(qtbot: QtBot, strip: FiguresStrip) -> None:
    button = strip.card("size").findChild(QPushButton, "figureLimit")
    assert button.text() == "Set limit…"
    with qtbot.waitSignal(strip.limit_wanted) as wanted:
        qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    assert wanted.args == ["size"]


def test_without_data_the_card_is_a_button(
    qtbot: QtBot, strip: FiguresStrip, fake_document: Any, pruned: Snapshot
) -> None:
    fake_document.show(_without(pruned, "accuracy"))
    button = strip.card("accuracy").findChild(QPushButton, "chooseData")
    assert button.isVisible()
    needed = button.fontMetrics().horizontalAdvance(button.text()) + 14
    qtbot.waitUntil(lambda: button.width() >= needed)
    with qtbot.waitSignal(strip.data_wanted):
        qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    fake_document.show(replace(_without(pruned, "accuracy"), data=DATA))
    assert not button.isVisible()
    assert strip.card("accuracy").findChild(QLabel, "figureBase").text() == "not evaluated yet"


def test_what_could_not_be_taken_says_why_until_the_state_changes(
    strip: FiguresStrip, fake_document: Any, pruned: Snapshot
) -> None:
    fake_document.show(_without(pruned, "latency"))
    card = strip.card("latency")
    caption = card.findChild(QLabel, "figureBase")
    assert caption.text() == "not measured yet"
    fake_document.unmeasured.emit("latency", EngineError("No <b>gradient</b>.", "Go forward."))
    assert caption.text() == "could not be taken"
    assert "No &lt;b&gt;gradient&lt;/b&gt;. Go forward." in card.toolTip()
    fake_document.show(_without(pruned, "latency"), Part.METRICS)  # of something else
    assert caption.text() == "could not be taken"
    fake_document.show(_without(pruned, "latency"), Part.LAYERS)
    assert caption.text() == "not measured yet"
    fake_document.unmeasured.emit("latency", EngineError("No gradient."))
    fake_document.show(pruned, Part.METRICS)  # it was measured after all
    assert "No gradient." not in card.toolTip()


def test_nothing_is_cut_off_at_1000_pixels(strip: FiguresStrip) -> None:
    for key in CARDS:
        for label in strip.card(key).findChildren(QLabel):
            if label.isVisible():
                needed = label.fontMetrics().horizontalAdvance(label.text())
                assert needed <= label.width() + 1, (key, label.objectName())


def test_without_a_model_all_are_dashes(qtbot: QtBot, fake_document: Any, theme: Theme) -> None:
    fake_document.snapshot = None
    strip = FiguresStrip(fake_document, theme)
    qtbot.addWidget(strip)
    texts = {strip.card(key).findChild(QLabel, "figureValue").text() for key in CARDS}
    assert texts == {"–"}


def test_measured_energy_stands_beside_the_modelled(pruned: Snapshot) -> None:
    assert figure(pruned, METRICS["energy"]).title == "Energy (modelled)"
    assert "Measured here" not in figure(pruned, METRICS["energy"]).tooltip

    def measured(value: Quantity) -> MeasurementTable:
        series = Series(METRICS["measured_energy"], value, conditions={"device": "cuda:0"})
        return pruned.current.table.with_series(series)

    now = replace(pruned.current, table=measured(Quantity(4e-3, 3e-3, 5e-3)))
    near = replace(pruned.base, table=measured(Quantity(5e-3, 4.5e-3, 6e-3)))
    far = replace(pruned.base, table=measured(Quantity(8e-3, 7e-3, 9e-3)))
    tip = figure(replace(pruned, current=now, base=near), METRICS["energy"]).tooltip
    assert "Measured here: 4.00 mJ, between 3.00 mJ and 5.00 mJ (cuda:0)" in tip
    assert "base 5.00 mJ, the intervals overlap: no order" in tip
    tip = figure(replace(pruned, current=now, base=far), METRICS["energy"]).tooltip
    assert "base 8.00 mJ ▼ 50 %" in tip
