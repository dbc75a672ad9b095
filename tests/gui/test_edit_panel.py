"""The edit panel: forms out of dataclasses, previews, Apply, Esc."""

from dataclasses import replace
from typing import Any

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QLabel,
    QPushButton,
    QSlider,
    QSpinBox,
    QToolButton,
)
from pytestqt.qtbot import QtBot

from engine import (
    EDITS,
    Cast,
    Edit,
    Effect,
    EnergySettings,
    EngineError,
    LayerEffect,
    LayerEnergy,
    LayerId,
    LayerTree,
    Part,
    PruneChannels,
    PruneWeights,
    Quantize,
    Snapshot,
)
from gui.models.effect_rows import changes_something
from gui.selection import Selection
from gui.theme import Theme
from gui.views.edit_form import EditForm
from gui.views.edit_panel import EditPanel
from gui.views.energy_block import EnergyBlock
from gui.views.fact_rows import FactRows

CONV2 = LayerId("stage1.block0.conv2")
CONV1, FC, RELU = LayerId("stage1.block0.conv1"), LayerId("head.fc"), LayerId("stem.relu")


@pytest.fixture
def selection() -> Selection:
    return Selection()


@pytest.fixture
def panel(qtbot: QtBot, fake_document: Any, selection: Selection, theme: Theme) -> EditPanel:
    panel = EditPanel(fake_document, selection, theme)
    qtbot.addWidget(panel)
    panel.resize(340, 420)
    panel.show()
    return panel


def _amount(panel: EditPanel) -> QDoubleSpinBox:
    return panel.form.findChild(QDoubleSpinBox, "ratio")


def _text(panel: EditPanel, name: str) -> str:
    return str(panel.findChild(QLabel, name).text())


def _apply_button(panel: EditPanel) -> QPushButton:
    return panel.findChild(QPushButton, "applyEdit")


def _calls(document: Any, name: str) -> list[Any]:
    return [argument for call, argument in document.calls if call == name]


@pytest.mark.parametrize("name", sorted(EDITS))
def test_every_edit_has_a_form_that_gives_it_back(qtbot: QtBot, name: str) -> None:
    kind, _ = EDITS[name]
    form = EditForm(kind)
    qtbot.addWidget(form)
    edit = form.edit((FC,))
    assert type(edit) is kind
    assert edit.layers == (FC,)
    again = EditForm(kind)
    qtbot.addWidget(again)
    again.set_values(form.values)
    assert again.edit((FC,)) == edit


def test_the_form_is_what_the_edit_says(panel: EditPanel, selection: Selection) -> None:
    selection.set([CONV1])
    _amount(panel).setValue(42.5)
    criterion = panel.form.findChild(QComboBox, "criterion")
    criterion.setCurrentIndex(criterion.findData("l1"))
    assert panel.edit == PruneChannels((CONV1,), 0.425, "l1")


def test_slider_and_field_agree(panel: EditPanel, selection: Selection) -> None:
    selection.set([CONV1])
    slider = panel.form.findChild(QSlider)
    slider.setValue(60)
    assert _amount(panel).value() == 60
    _amount(panel).setValue(12.4)
    assert slider.value() == 12
    assert _amount(panel).value() == 12.4


def test_a_preview_follows_once_the_hand_rests(
    qtbot: QtBot, panel: EditPanel, selection: Selection, fake_document: Any
) -> None:
    selection.set([CONV1])
    for percent in (31, 32, 33):
        _amount(panel).setValue(percent)
    qtbot.waitUntil(lambda: bool(_calls(fake_document, "preview")))
    assert _calls(fake_document, "preview") == [PruneChannels((CONV1,), 0.33)]
    facts = panel.findChild(FactRows, "effectTotals").facts
    assert [fact.name for fact in facts] == ["Parameters", "MACs", "Energy", "Size"]
    assert facts[2].value == "88.0 µJ → 44.0 µJ"
    assert facts[2].remark == "▼ 50 %"


def test_the_effect_is_asked_for_again_once_energy_is_modelled_otherwise(
    qtbot: QtBot, panel: EditPanel, selection: Selection, fake_document: Any, pruned: Snapshot
) -> None:
    selection.set([CONV1])
    qtbot.waitUntil(lambda: len(_calls(fake_document, "preview")) == 1)
    fake_document.show(replace(pruned, current=replace(pruned.current)), Part.METRICS)
    assert panel.findChild(FactRows, "effectTotals").isEnabled()  # a latency was measured, say
    energy = replace(pruned.current.energy, settings=EnergySettings(batch=16))
    fake_document.show(
        replace(pruned, current=replace(pruned.current, energy=energy)), Part.METRICS
    )
    assert not panel.findChild(FactRows, "effectTotals").isEnabled()
    qtbot.waitUntil(lambda: len(_calls(fake_document, "preview")) == 2)
    assert panel.findChild(FactRows, "effectTotals").isEnabled()


def test_a_refusal_is_said_and_cannot_be_applied(
    qtbot: QtBot, panel: EditPanel, selection: Selection, fake_document: Any
) -> None:
    fake_document.answer = lambda edit: EngineError("No <b>channel</b> would stay.", "Take less.")
    selection.set([CONV1])
    qtbot.waitUntil(lambda: "No <b>channel</b>" in _text(panel, "effectError"))
    assert "Take less." in _text(panel, "effectError")
    assert not _apply_button(panel).isEnabled()
    panel.apply()
    assert not _calls(fake_document, "apply")


def test_layers_that_cannot_take_part_are_left_out(
    qtbot: QtBot, panel: EditPanel, selection: Selection, fake_document: Any
) -> None:
    why = "1 of the 2 chosen layers cannot lose channels."
    refusal = EngineError(why, details={"layers": [CONV2]})
    usual = fake_document.answer
    fake_document.answer = lambda edit: refusal if CONV2 in edit.layers else usual(edit)
    selection.set([CONV1, CONV2])
    qtbot.waitUntil(_apply_button(panel).isEnabled)
    qtbot.waitUntil(lambda: panel.edit == PruneChannels((CONV1,), 0.3))
    assert _text(panel, "editHint").startswith("Applies to 1 of 2 layers. The channels of")
    assert why in panel.findChild(QLabel, "editHint").toolTip()
    assert not _text(panel, "effectError")
    panel.choose_method("quantize")
    assert panel.edit == Quantize((CONV1, CONV2))
    selection.set([CONV2])  # alone there is no way without it
    panel.choose_method("prune-channels")
    qtbot.waitUntil(lambda: why in _text(panel, "effectError"))
    assert not _apply_button(panel).isEnabled()


def test_waiting_is_said_after_a_while(
    qtbot: QtBot, panel: EditPanel, selection: Selection, fake_document: Any
) -> None:
    fake_document.answer = None
    selection.set([CONV1])
    busy = panel.findChild(QLabel, "previewBusy")
    assert not busy.isVisible()
    qtbot.waitUntil(busy.isVisible, timeout=3000)
    selection.set([])
    assert not busy.isVisible()


def test_apply_is_one_button(
    qtbot: QtBot, panel: EditPanel, selection: Selection, fake_document: Any
) -> None:
    selection.set([CONV1])
    qtbot.mouseClick(_apply_button(panel), Qt.MouseButton.LeftButton)
    assert _calls(fake_document, "apply") == [PruneChannels((CONV1,), 0.3)]


def test_a_second_click_does_not_apply_once_more(
    panel: EditPanel, fake_document: Any, selection: Selection
) -> None:
    selection.set([CONV1])
    _apply_button(panel).click()
    _apply_button(panel).click()
    assert len(_calls(fake_document, "apply")) == 1
    fake_document.busy_changed.emit(False)  # it was refused or cancelled
    assert _apply_button(panel).isEnabled()


def test_enter_in_the_amount_applies_what_was_typed(
    qtbot: QtBot, panel: EditPanel, selection: Selection, fake_document: Any
) -> None:
    selection.set([CONV1])
    amount = _amount(panel)
    amount.setFocus()
    amount.selectAll()
    qtbot.keyClicks(amount, "45")
    qtbot.keyClick(amount, Qt.Key.Key_Return)
    assert _calls(fake_document, "apply") == [PruneChannels((CONV1,), 0.45)]


def test_escape_goes_back_to_the_last_values(
    qtbot: QtBot, panel: EditPanel, selection: Selection
) -> None:
    selection.set([CONV1])
    _amount(panel).setValue(45)
    panel.apply()
    _amount(panel).setValue(80)
    qtbot.keyClick(_amount(panel), Qt.Key.Key_Escape)
    assert _amount(panel).value() == 45


def test_a_container_stands_for_its_layers(panel: EditPanel, selection: Selection) -> None:
    selection.set([LayerId("stage1")])
    assert panel.edit is not None
    assert panel.edit.layers == (CONV1, "stage1.block0.conv2")
    assert _text(panel, "editTitle") == "stage1"


def test_several_layers_say_for_how_many_it_works(panel: EditPanel, selection: Selection) -> None:
    selection.set([CONV1, FC, RELU])
    assert _text(panel, "editTitle") == "3 layers"
    assert _text(panel, "editHint") == "Applies to 1 of 2 layers."
    panel.choose_method("quantize")
    assert panel.edit == Quantize((CONV1, FC))


def _quantized(snapshot: Snapshot, layer: LayerId) -> Snapshot:
    """The same model with that layer on integers."""
    done = {"methods": ("prune-channels",), "is_quantized": True}
    layers = (replace(one, **(done if one.id == layer else {})) for one in snapshot.current.tree)
    current = replace(snapshot.current, id="quantized", tree=LayerTree(tuple(layers)))
    return replace(snapshot, current=current)


def test_what_was_applied_stays_in_sight_so_that_enter_does_nothing_else(
    panel: EditPanel, selection: Selection, fake_document: Any, pruned: Snapshot
) -> None:
    selection.set([CONV1])
    panel.choose_method("quantize")
    fake_document.show(_quantized(pruned, CONV1), Part.LAYERS | Part.HISTORY)
    assert panel.method == "quantize"
    assert _text(panel, "editHint") == "Already quantized; undo that to quantize otherwise."
    assert not _apply_button(panel).isEnabled()
    assert panel.findChild(QToolButton, "family_quantize").isEnabled()  # keys go on from there
    selection.set([FC])
    selection.set([CONV1])
    assert panel.method == "prune-channels"  # another choice starts with what can be done


def test_adaround_that_a_scan_keeps_off_can_be_applied_again(
    panel: EditPanel, selection: Selection, fake_document: Any
) -> None:
    selection.set([CONV1])
    panel.choose_method("quantize")
    panel.form.set_values({**panel.form.values, "rounding": "adaround"})
    _apply_button(panel).click()
    assert _apply_button(panel).isEnabled()
    fake_document.tuning = True
    _apply_button(panel).click()
    assert not _apply_button(panel).isEnabled()


def test_impossible_methods_are_off_with_a_reason(panel: EditPanel, selection: Selection) -> None:
    selection.set([FC])
    button = panel.findChild(QToolButton, "family_channels")
    assert not button.isEnabled()
    assert "Linear" in button.toolTip()
    assert panel.method == "prune-weights"
    assert isinstance(panel.edit, PruneWeights)


def test_a_layer_that_cannot_be_edited_says_so(panel: EditPanel, selection: Selection) -> None:
    selection.set([RELU])
    assert panel.edit is None
    assert "ReLU" in _text(panel, "editHint")
    assert not _apply_button(panel).isEnabled()
    selection.set([LayerId("stem.bn")])
    assert "folded into stem.conv" in _text(panel, "editHint")


def test_nothing_selected_says_what_to_do(panel: EditPanel, fake_document: Any) -> None:
    assert "Select a layer" in _text(panel, "editHint")
    fake_document.snapshot = None
    panel.refresh()
    assert "Open a model" in _text(panel, "editHint")


def test_the_seed_shows_only_for_chance(panel: EditPanel, selection: Selection) -> None:
    selection.set([CONV1])
    criterion = panel.form.findChild(QComboBox, "criterion")
    spin = panel.form.findChild(QSpinBox, "seed")
    assert not spin.isVisible()
    criterion.setCurrentIndex(criterion.findData("random"))
    assert spin.isVisible()


def _facts(panel: EditPanel) -> dict[str, str]:
    rows = panel.findChild(FactRows, "energyFacts")
    return {one.name: f"{one.value} {one.remark}".strip() for one in rows.facts}


def test_the_energy_of_the_selected_layer_is_told(
    panel: EditPanel, selection: Selection, fake_document: Any, pruned: Snapshot
) -> None:
    block = panel.findChild(EnergyBlock)
    assert not block.isVisibleTo(panel)
    selection.set([CONV1])
    assert _facts(panel) == {
        "Per inference": "462 nJ · 32.2 %",
        "Bound": "compute-bound by energy",
        "Array in use": "50 %",
    }
    assert _text(panel, "energyNotes") == "Mapping: a mapping"
    told = dict(pruned.current.energy.layers)
    told[CONV1] = LayerEnergy("DRAM", 0.75, "", None, 0.5, 1e-7, ("mine::shift",))
    energy = replace(pruned.current.energy, layers=told, bound_by="time")
    fake_document.show(
        replace(pruned, current=replace(pruned.current, energy=energy)), Part.METRICS
    )
    assert _facts(panel) == {
        "Per inference": "462 nJ · 32.2 %",
        "Bound": "DRAM-bound",
        "Array in use": "75 %",
        "Zeros in the weights": "50.0 %",
        "Saved by zeros": "100 nJ",
        "Operators without a rule": "1",
    }
    assert _text(panel, "energyNotes").splitlines() == [
        "Saved by zeros: only on hardware that skips zeros",
        "Operators without a rule: mine::shift",
    ]
    selection.set([CONV1, FC])
    assert not block.isVisibleTo(panel)


def test_a_layer_without_a_rule_is_not_modelled(
    panel: EditPanel, selection: Selection, fake_document: Any, pruned: Snapshot
) -> None:
    told = {**pruned.current.energy.layers, RELU: LayerEnergy(unmodelled=("aten::relu",))}
    energy = replace(pruned.current.energy, layers=told)
    fake_document.show(replace(pruned, current=replace(pruned.current, energy=energy)))
    selection.set([RELU])
    assert _facts(panel) == {"Per inference": "not modelled", "Operators without a rule": "1"}


@pytest.mark.parametrize("skips", [False, True])
def test_what_zeroed_weights_save_depends_on_the_hardware(
    qtbot: QtBot, panel: EditPanel, selection: Selection, fake_document: Any, pruned: Snapshot,
    skips: bool,
) -> None:  # fmt: skip
    settings = pruned.current.energy.settings
    sparsity = replace(
        settings.hardware.sparsity, gates_zero_weights=skips, compresses_weights=False
    )
    hardware = replace(settings.hardware, name="Toy", sparsity=sparsity)
    energy = replace(pruned.current.energy, settings=replace(settings, hardware=hardware))
    fake_document.show(replace(pruned, current=replace(pruned.current, energy=energy)))
    selection.set([CONV1])
    qtbot.waitUntil(lambda: bool(panel.findChild(FactRows, "effectTotals").facts))
    assert "Toy" not in _text(panel, "effectNotes")
    panel.choose_method("prune-weights")
    qtbot.waitUntil(lambda: "Toy" in _text(panel, "effectNotes"))
    said = "counts on Toy skipping" if skips else "Toy saves no energy"
    assert said in _text(panel, "effectNotes")


def test_what_would_change_nothing_cannot_be_applied(
    qtbot: QtBot, panel: EditPanel, selection: Selection, fake_document: Any
) -> None:
    def nothing(edit: Edit) -> Effect:
        same = {"parameters": 54_100.0, "macs": 3.02e6}
        zeros = LayerEffect(CONV1, "chosen", "zeros", 7, 7)
        return Effect(edit, (zeros,), same, same, ("Nothing changes.",))

    fake_document.answer = nothing
    selection.set([CONV1])
    qtbot.waitUntil(lambda: "Nothing changes." in _text(panel, "effectNotes"))
    assert not _apply_button(panel).isEnabled()
    folded = LayerEffect(CONV2, "folded", "parameters", 64, 64)
    assert changes_something(replace(nothing(PruneChannels((CONV1,), 0.0)), layers=(folded,)))


def test_the_panel_says_why_a_layer_stays_in_float(
    panel: EditPanel, selection: Selection, fake_document: Any, base: Snapshot
) -> None:
    why = "its weights are looked up"
    layers = [
        replace(one, methods=("prune-weights",), why_float=why) if one.id == FC else one
        for one in base.current.tree
    ]
    current = replace(base.current, tree=LayerTree(layers))
    fake_document.show(replace(base, current=current))
    selection.set([FC])
    assert _text(panel, "editHint") == f"Cannot be quantized: {why}."
    off: Any = panel.findChild(QToolButton, "family_quantize")
    assert not off.isEnabled()
    assert why in off.toolTip()


def test_a_way_leads_to_another_edit_of_the_family(
    panel: EditPanel, selection: Selection, fake_document: Any, base: Snapshot
) -> None:
    layers = [
        replace(one, methods=("quantize", "cast")) if one.id == CONV1 else one
        for one in base.current.tree
    ]
    fake_document.show(replace(base, current=replace(base.current, tree=LayerTree(layers))))
    selection.set([CONV1])
    panel.choose_method("quantize")
    way: Any = panel.form.findChild(QComboBox, "way")
    way.setCurrentIndex(way.findData("cast"))
    assert panel.edit == Cast((CONV1,))
    item = way.model().item(way.findData("smooth"))
    assert not item.isEnabled()
