"""Forms out of the fields of edits: what they show, what has no use, what they give back."""

from typing import Any

import pytest
from PySide6.QtCore import QCoreApplication, QEvent, QPoint, Qt
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import (
    QAbstractSpinBox,
    QCheckBox,
    QComboBox,
    QFileDialog,
    QLabel,
    QLineEdit,
    QPushButton,
    QSpinBox,
    QToolButton,
    QWidget,
)
from pytestqt.qtbot import QtBot

from engine import (
    EDITS,
    LayerId,
    MaskWeights,
    PruneByMethod,
    PruneChannels,
    PruneHeads,
    PruneWeights,
    Quantize,
)
from gui.models.edit_fields import Selected, edit_fields, useful_fields
from gui.models.edit_hints import edit_hint
from gui.models.edit_words import FAMILIES, choice_words, family_of, field_words
from gui.views.edit_form import EditForm, EditForms
from gui.views.edit_inputs import (
    BitsInput,
    FileInput,
    FlagInput,
    JsonInput,
    PatternInput,
    is_object,
)

ONE = (LayerId("conv"),)
TWO = (LayerId("conv"), LayerId("fc"))

FILLED: dict[str, dict[str, Any]] = {
    "prune-channels": {"ratio": 0.125, "criterion": "taylor", "multiple": 16, "samples": 32},
    "prune-heads": {"ratio": 0.75, "criterion": "random", "seed": 7},
    "prune-weights": {"ratio": 0.9, "criterion": "wanda", "samples": 64},
    "mask-weights": {"path": "/masks/a.npz"},
    "prune-by-method": {"method": "own.py:Mine", "amount": 0.2, "arguments": '{"dim": 1}'},
    "factorize": {"ratio": 0.6, "form": "spatial"},
    "quantize": {
        "weight_bits": 3, "granularity": "group", "group_size": 64, "weight_symmetric": False,
        "weight_observer": "percentile", "percentile": 99.5, "rounding": "gptq",
        "activation_bits": 16, "bias_correction": False, "calibration_samples": 12,
    },
    "cast": {"dtype": "bfloat16"},
    "smooth": {"strength": 0.75, "samples": 64},
    "recalibrate-norms": {"samples": 5},
    "fine-tune": {"epochs": 2, "learning_rate": 0.005, "distillation": 0.5, "device": "cuda"},
}  # fmt: skip


@pytest.mark.parametrize("method", sorted(EDITS))
def test_a_form_gives_back_what_it_is_filled_with(qtbot: QtBot, method: str) -> None:
    form = EditForm(EDITS[method][0])
    qtbot.addWidget(form)
    form.set_values({**form.values, **FILLED.get(method, {})})
    edit = form.edit(ONE)
    assert edit.layers == ONE
    for name, value in FILLED.get(method, {}).items():
        assert getattr(edit, name) == value, name
    again = EditForm(EDITS[method][0])
    qtbot.addWidget(again)
    again.set_values(form.values)
    assert again.edit(ONE) == edit


@pytest.mark.parametrize("method", [one for methods in FAMILIES.values() for one in methods])
def test_every_field_and_choice_of_the_panel_has_words(method: str) -> None:
    words = field_words(method, str)
    for field in edit_fields(method):
        if field.kind == "picked" or field.name in ("keep", "of"):
            continue
        assert words[field.name][1], field.name
        for choice in field.choices:
            title, tip = choice_words(field.name, choice, method, str)
            assert title != str(choice), choice
            assert tip, choice


ALONE = Selected()


def _useful(kind: str, selected: Selected = ALONE, **values: Any) -> set[str]:
    return set(useful_fields(kind, values, selected))


def test_only_what_changes_the_edit_has_a_use() -> None:
    assert _useful("prune-channels", criterion="l2") == {"ratio", "criterion", "multiple"}
    assert "seed" in _useful("prune-channels", criterion="random")
    assert "samples" in _useful("prune-channels", criterion="activation")
    assert "spread" in _useful("prune-channels", Selected(layers=2), criterion="l1")
    by_hand = _useful("prune-channels", Selected(by_hand=True), criterion="taylor")
    assert by_hand == {"criterion", "samples", "channels"}
    assert "ratio" not in _useful("prune-weights", criterion="l1", of=4)
    assert _useful("factorize") == {"ratio", "form"}
    assert _useful("factorize", Selected(spatial=False)) == {"ratio"}
    assert not _useful("fold-norms") | _useful("remove-blocks")
    assert "seed" not in _useful("prune-by-method", method="L1Unstructured")
    assert "seed" in _useful("prune-by-method", method="own.py:Mine")


def test_rounding_asks_only_for_what_its_other_settings_leave_open() -> None:
    plain = _useful("quantize", activations="static", granularity="channel", bias_correction=True)
    assert {"weight_bits", "activations", "rounding", "calibration_samples"} <= plain
    assert not {"group_size", "percentile"} & plain
    assert "group_size" in _useful("quantize", granularity="group")
    assert "percentile" in _useful("quantize", observer="percentile")
    assert "percentile" in _useful("quantize", weight_observer="percentile")
    dynamic = _useful("quantize", activations="dynamic", observer="percentile")
    assert not {"observer", "percentile", "calibration_samples"} & dynamic
    assert {"activation_bits", "activation_symmetric"} <= dynamic
    weights = _useful("quantize", activations="none", rounding="gptq")
    assert "activation_bits" not in weights
    assert "calibration_samples" in weights  # GPTQ looks at them
    assert "calibration_samples" not in _useful("quantize", activations="none")
    sums = _useful("quantize", Selected(weights=False), bias_correction=True)
    assert sums == {
        "activations", "activation_bits", "activation_symmetric", "observer", "calibration_samples",
    }  # fmt: skip


def test_what_is_seldom_wanted_unfolds(qtbot: QtBot) -> None:
    form = EditForm(Quantize)
    qtbot.addWidget(form)
    form.show()
    seldom: Any = form.findChild(QComboBox, "granularity")
    more: Any = form.findChild(QToolButton, "moreOfEdit")
    bits: Any = form.findChild(QSpinBox, "weight_bits")
    assert bits.isVisible()
    assert not seldom.isVisible()
    assert more.arrowType() == Qt.ArrowType.RightArrow
    more.click()
    assert seldom.isVisible()
    assert more.arrowType() == Qt.ArrowType.DownArrow
    plain = EditForm(PruneChannels)
    qtbot.addWidget(plain)
    plain.show()
    nothing: Any = plain.findChild(QToolButton, "moreOfEdit")
    assert not nothing.isVisible()


def test_usual_bits_are_a_click_away(qtbot: QtBot) -> None:
    bits = BitsInput("bits", 2, 16)
    qtbot.addWidget(bits)
    four: Any = bits.findChild(QToolButton, "bits_4")
    with qtbot.waitSignal(bits.changed):
        four.click()
    assert bits.read() == 4
    assert four.isChecked()
    four.click()
    assert four.isChecked()
    bits.write(5)
    assert not four.isChecked()


def test_yes_and_no_can_be_told_apart(qtbot: QtBot) -> None:
    flag = FlagInput("flag")
    qtbot.addWidget(flag)
    flag.show()
    unticked = flag.grab().toImage()
    box: Any = flag.findChild(QCheckBox, "flag")
    with qtbot.waitSignal(flag.changed):
        qtbot.mouseClick(box, Qt.MouseButton.LeftButton, pos=QPoint(8, box.height() // 2))
    assert flag.read() is True
    assert flag.grab().toImage() != unticked


def test_few_bits_bring_a_hint_that_can_be_followed(qtbot: QtBot) -> None:
    form = EditForm(Quantize)
    qtbot.addWidget(form)
    form.show()
    use: Any = form.findChild(QPushButton, "takeHint")
    assert not use.isVisible()
    form.set_values({**form.values, "weight_bits": 4, "granularity": "tensor"})
    assert use.isVisible()
    use.click()
    assert not use.isVisible()
    edit: Any = form.edit(ONE)
    assert (edit.granularity, edit.weight_observer, edit.rounding) == ("channel", "mse", "gptq")
    form.set_values({**form.values, "rounding": "adaround", "granularity": "group"})
    assert not use.isVisible()  # that is as good


def test_hints_name_what_they_change() -> None:
    values = {
        "weight_bits": 3, "granularity": "channel", "weight_observer": "mse", "rounding": "nearest",
    }  # fmt: skip
    hint = edit_hint("quantize", values)
    assert hint is not None
    assert hint.values == {"rounding": "gptq"}
    assert hint.text == "With so few bits, try GPTQ."
    assert edit_hint("quantize", {**values, "weight_bits": 5}) is None
    assert edit_hint("cast", {"dtype": "float16"}) is None


def test_ways_that_do_not_apply_cannot_be_chosen(qtbot: QtBot) -> None:
    forms = EditForms()
    qtbot.addWidget(forms)
    forms.show_form("quantize", {"quantize": "", "smooth": "No <norm> stands before them."})
    way: Any = forms.form("quantize").findChild(QComboBox, "way")
    items = {way.itemData(place): way.model().item(place) for place in range(way.count())}
    assert [one for one, item in items.items() if not item.isEnabled()] == ["smooth"]
    assert "No &lt;norm&gt; stands" in items["smooth"].toolTip()
    forms.show_form("quantize", {})
    assert items["smooth"].isEnabled()


def test_what_has_no_use_does_not_get_into_the_edit(qtbot: QtBot) -> None:
    form = EditForm(PruneChannels)
    qtbot.addWidget(form)
    filled = {"ratio": 0.5, "criterion": "random", "seed": 9, "spread": "energy", "multiple": 4}
    form.set_values({**form.values, **filled})
    form.set_layers(Selected(2))
    assert form.edit(TWO) == PruneChannels(TWO, 0.5, "random", "energy", 4, seed=9)
    form.set_layers(Selected(1))
    form.set_values({**form.values, "criterion": "l1"})
    assert form.edit(ONE) == PruneChannels(ONE, 0.5, "l1", "layer", 4)


def test_by_energy_the_amount_is_what_is_saved(qtbot: QtBot) -> None:
    form = EditForm(PruneChannels)
    qtbot.addWidget(form)
    titles = [label.text() for label in form.findChildren(QLabel)]
    assert "Amount" in titles
    form.set_layers(Selected(2))
    form.set_values({**form.values, "spread": "energy"})
    titles = [label.text() for label in form.findChildren(QLabel)]
    assert "Energy saved" in titles
    assert "Amount" not in titles


def test_channels_picked_by_hand_take_the_place_of_the_amount(qtbot: QtBot) -> None:
    form = EditForm(PruneChannels)
    qtbot.addWidget(form)
    form.show()
    ratio: Any = form.findChild(QWidget, "ratio")
    assert ratio.isVisible()
    form.set_picked((3, 5))
    assert not ratio.isVisible()
    assert form.edit(ONE) == PruneChannels(ONE, 0.3, channels=(3, 5))
    assert not form.lack
    form.set_picked(())
    assert form.lack
    form.set_picked(None)
    assert ratio.isVisible()
    assert form.edit(ONE) == PruneChannels(ONE, 0.3)


def test_heads_are_picked_likewise(qtbot: QtBot) -> None:
    form = EditForm(PruneHeads)
    qtbot.addWidget(form)
    form.set_picked((1,))
    assert form.edit(ONE) == PruneHeads(ONE, 0.25, heads=(1,))


@pytest.mark.parametrize("pattern", [(0, 0), (2, 4), (1, 4), (3, 16)])
def test_a_pattern_is_chosen_or_ones_own(qtbot: QtBot, pattern: tuple[int, int]) -> None:
    form = EditForm(PruneWeights)
    qtbot.addWidget(form)
    form.show()
    form.set_values({**form.values, "keep": pattern[0], "of": pattern[1]})
    edit: Any = form.edit(ONE)
    assert (edit.keep, edit.of) == pattern
    shown: Any = form.findChild(QWidget, "ratio")
    assert shown.isVisible() == (pattern == (0, 0))
    own: Any = form.findChild(QSpinBox, "keep")
    assert own.isVisible() == (pattern == (3, 16))


def test_a_pattern_of_ones_own_can_be_typed(qtbot: QtBot) -> None:
    pattern = PatternInput()
    qtbot.addWidget(pattern)
    combo: Any = pattern.findChild(QComboBox, "pattern")
    combo.setCurrentIndex(combo.count() - 1)
    keep: Any = pattern.findChild(QSpinBox, "keep")
    with qtbot.waitSignal(pattern.changed):
        keep.setValue(5)
    assert pattern.read() == (5, 8)


def test_a_mask_is_lacking_until_its_file_is_chosen(qtbot: QtBot) -> None:
    form = EditForm(MaskWeights)
    qtbot.addWidget(form)
    assert form.lack
    browse: Any = form.findChild(QToolButton, "path_browse")
    browse.click()
    dialog: Any = form.findChild(FileInput).window().findChild(QFileDialog)
    dialog.fileSelected.emit("/masks/<b>.npz")
    dialog.close()
    assert not form.lack
    assert form.edit(ONE) == MaskWeights(ONE, "/masks/<b>.npz")


def test_a_method_is_named_with_its_arguments(qtbot: QtBot) -> None:
    form = EditForm(PruneByMethod)
    qtbot.addWidget(form)
    method: Any = form.findChild(QComboBox, "method")
    method.setEditText("LnStructured")
    arguments: Any = form.findChild(QLineEdit, "arguments")
    arguments.setText('{"n": 2, "dim": 0}')
    assert form.edit(ONE) == PruneByMethod(ONE, "LnStructured", 0.5, '{"n": 2, "dim": 0}')
    assert not form.lack
    arguments.setText('{"n": ')
    assert arguments.property("invalid")
    assert form.lack
    arguments.setText("")
    assert not arguments.property("invalid")
    method.setEditText(" ")
    assert form.lack


def test_arguments_are_an_object() -> None:
    assert is_object("{}")
    assert not is_object("[1]")
    assert not is_object("{'n': 2}")


def test_a_criterion_unknown_to_the_form_is_shown_all_the_same(qtbot: QtBot) -> None:
    form = EditForm(PruneChannels)
    qtbot.addWidget(form)
    form.set_values({**form.values, "multiple": 6})
    assert form.edit(ONE) == PruneChannels(ONE, 0.3, multiple=6)


def test_the_ways_of_a_family_lead_to_each_other(qtbot: QtBot) -> None:
    forms = EditForms()
    qtbot.addWidget(forms)
    way: Any = forms.form("prune-weights").findChild(QComboBox, "way")
    with qtbot.waitSignal(forms.way_wanted) as wanted:
        way.setCurrentIndex(way.findData("mask-weights"))
    assert wanted.args == ["mask-weights"]
    assert way.currentData() == "prune-weights"
    assert forms.form("fold-norms").findChild(QComboBox, "way") is None


def test_every_kind_for_single_layers_is_in_one_family() -> None:
    from engine import RECOVERING

    wanted = sorted(name for name, (kind, _) in EDITS.items() if kind not in RECOVERING)
    assert sorted(method for methods in FAMILIES.values() for method in methods) == wanted
    assert family_of("mask-weights") == "weights"


def test_the_bounds_of_a_field_follow_its_annotation() -> None:
    by_name = {field.name: field for field in edit_fields("prune-channels")}
    assert by_name["ratio"].open_end
    assert by_name["samples"].least == 1
    assert not {field.name: field for field in edit_fields("prune-weights")}["ratio"].open_end
    rounding = {field.name: field for field in edit_fields("quantize")}
    assert list(rounding)[:2] == ["weight_bits", "activations"]
    assert (rounding["weight_bits"].least, rounding["weight_bits"].most) == (2, 16)
    assert rounding["weight_symmetric"].kind == "flag"
    assert by_name["criterion"].choices[:2] == ("l1", "l2")


def test_json_is_empty_where_nothing_is_typed(qtbot: QtBot) -> None:
    field = JsonInput("arguments")
    qtbot.addWidget(field)
    assert field.read() == "{}"


@pytest.mark.parametrize("method", ["prune-channels", "prune-weights", "fine-tune"])
def test_fields_leave_the_keys_of_undo_to_the_window(qtbot: QtBot, method: str) -> None:
    form = EditForm(EDITS[method][0])
    qtbot.addWidget(form)
    spins = form.findChildren(QAbstractSpinBox)
    assert spins
    for spin in spins:
        for key, taken in ((Qt.Key.Key_Z, False), (Qt.Key.Key_A, True)):
            asked = QKeyEvent(
                QEvent.Type.ShortcutOverride, key, Qt.KeyboardModifier.ControlModifier
            )
            asked.ignore()
            QCoreApplication.sendEvent(spin, asked)
            assert asked.isAccepted() == taken, (spin.objectName(), key)
