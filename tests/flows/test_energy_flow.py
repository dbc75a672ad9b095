"""Energy in the real window: other hardware, batch, bits and zeros, and what follows at once."""

from dataclasses import replace
from pathlib import Path

import pytest
from PySide6.QtWidgets import QComboBox, QLabel, QLineEdit, QPushButton, QSpinBox, QToolButton

from engine import (
    METRICS,
    ConsentNeeded,
    EnergySettings,
    InputSpec,
    Job,
    LayerId,
    OpenRequest,
    PruneChannels,
    default_hardware,
    list_hardware,
    open_model,
)
from engine.errors import ForwardFailed
from gui import operations
from gui.models.hardware_choice import hardware_id
from gui.views.energy_map import EnergyMap
from gui.views.energy_page import EnergyPage
from gui.views.metric_chart import MetricChart

ONE_SAMPLE = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(x.view(1, 8))

make = Net
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("APPDATA", str(tmp_path / "config"))


@pytest.fixture
def page(demo) -> EnergyPage:
    """The energy of the demo, which nothing measures anew meanwhile."""
    demo.settings.measure_after_edit = False
    demo.trigger("energy_bars")
    return demo.window.workbench.show_energy()


def _choose(desk, name: str, data: object) -> None:
    box = desk.window.findChild(QComboBox, name)
    box.setCurrentIndex(box.findData(data))
    box.activated.emit(box.currentIndex())
    desk.settle()


def _batch(desk, batch: int) -> QSpinBox:
    field = desk.window.findChild(QSpinBox, "energyBatch")
    field.setValue(batch)
    desk.settle()
    return field


def _energy(desk) -> float:
    return desk.snapshot.current.table.total(METRICS["energy"]).value


def _card(desk) -> str:
    """What the figures strip says of energy."""
    cards = desk.window.findChildren(QLabel, "figureValue")
    return next(card.text() for card in cards if card.text().endswith("J"))


def _bars(desk) -> float:
    return sum(desk.window.findChild(MetricChart, "energyChart").bars.totals)


def _other():
    return next(one for one in list_hardware() if one.hardware != default_hardware())


def test_hardware_batch_and_bits_change_every_figure_at_once(demo, page: EnergyPage) -> None:
    seen = [(_energy(demo), _card(demo), _bars(demo))]
    _choose(demo, "energyHardware", hardware_id(_other()))
    seen.append((_energy(demo), _card(demo), _bars(demo)))
    _batch(demo, 64)
    seen.append((_energy(demo), _card(demo), _bars(demo)))
    _choose(demo, "energyBits", 4)
    seen.append((_energy(demo), _card(demo), _bars(demo)))
    assert len(set(seen)) == 4
    assert all(bars == pytest.approx(energy) for energy, _, bars in seen)
    assert _energy(demo) < seen[1][0]
    caption = page.findChild(MetricChart).caption()
    assert _other().hardware.name in caption
    assert "batch 64 · 4 bit" in caption
    assert not demo.errors


@pytest.mark.usefixtures("page")
def test_undo_keeps_the_settings(demo) -> None:
    layers = [one.id for one in demo.snapshot.current.tree if "prune-channels" in one.methods]
    operations.apply_edit(demo.document, PruneChannels((layers[1],), 0.5))
    demo.settle()
    _batch(demo, 8)
    settings = demo.snapshot.current.energy.settings
    assert settings == EnergySettings(batch=8)
    assert demo.snapshot.base.energy.settings == settings  # one scale for both
    demo.trigger("undo")
    demo.settle()
    assert demo.snapshot.current.energy.settings == settings
    assert demo.window.findChild(QSpinBox, "energyBatch").value() == 8


def test_a_batch_that_the_model_refuses_is_taken_back(desk, tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_text(ONE_SAMPLE, encoding="utf-8")
    request = OpenRequest(f"{path}:make", inputs=(InputSpec((1, 8)),))
    with pytest.raises(ConsentNeeded) as needed:
        open_model(request, Job())
    operations.open_model(
        desk.document, replace(request, trusted=frozenset({needed.value.details["digest"]}))
    )
    desk.settle()
    desk.trigger("energy_bars")
    before = _energy(desk)
    field = _batch(desk, 7)
    (error,) = desk.errors
    assert isinstance(error, ForwardFailed)
    assert field.value() == 0
    assert _energy(desk) == before
    desk.errors.clear()
    assert _batch(desk, 1).value() == 1
    assert not desk.errors


@pytest.mark.usefixtures("page")
def test_zeros_count_where_hardware_skips_them(demo) -> None:
    button = demo.window.findChild(QToolButton, "measureZeros")
    text = demo.window.findChild(QLabel, "zerosText")
    assert text.text() == "skips no zeros"
    skipper = next(
        one for one in list_hardware() if one.hardware and one.hardware.sparsity.skips_anything
    )
    _choose(demo, "energyHardware", hardware_id(skipper))
    assert text.text().endswith(("so far", "not measured yet"))
    before = _energy(demo)
    button.click()
    demo.settle()
    assert not demo.errors
    assert text.text().startswith("zeros save")
    assert not text.text().endswith("so far")
    assert _energy(demo) < before


@pytest.mark.usefixtures("page")
def test_the_next_model_is_opened_on_the_same_hardware(demo, make_desk) -> None:
    _choose(demo, "energyHardware", hardware_id(_other()))
    other = make_desk()
    other.trigger("open_demo")
    other.settle()
    assert other.snapshot.current.energy.settings == EnergySettings(_other().hardware)
    assert other.window.findChild(QComboBox, "energyHardware").currentText() == (
        _other().hardware.name
    )


def test_the_menu_chooses_view_and_grouping(demo, page: EnergyPage) -> None:
    demo.trigger("energy_by_level")
    assert "DRAM" in page.findChild(MetricChart).bars.parts
    assert demo.window.commands["energy_by_level"].isChecked()
    demo.trigger("energy_map")
    assert page.shown == "map"
    assert page.findChild(EnergyMap).isVisible()
    demo.trigger("energy_by_data")
    assert demo.settings.grouping == "data type"


@pytest.mark.usefixtures("page")
def test_own_hardware_is_made_from_a_copy_and_used(demo) -> None:
    demo.trigger("hardware_forms")
    dialog = demo.window.findChild(object, "hardware_dialog")
    dialog.findChild(QLineEdit, "field_name").setText("Dear DRAM")
    dialog.findChild(QLineEdit, "field_cost.dram").setText("400")
    before = _energy(demo)
    dialog.findChild(QPushButton, "hardware_use").click()
    demo.settle()
    assert _energy(demo) > before
    assert demo.window.findChild(QComboBox, "energyHardware").currentText() == "Dear DRAM"
    assert demo.settings.hardware == "own/dear_dram"


def test_a_layer_is_selected_from_the_bars(demo, page: EnergyPage) -> None:
    chart = page.findChild(MetricChart)
    layer = chart.bars.layers[0]
    chart.findChild(object, "barPlot").clicked.emit(0, False)
    assert demo.window.selection.layers == (LayerId(layer),)
