"""timm's models are traced as completely as torchvision's: one of each of its modules."""

import pytest

from engine.energy.estimates import EnergySettings
from engine.energy.model import estimate
from engine.sources.architectures import build
from engine.tracing import sample_inputs, trace

timm = pytest.importorskip("timm")


def one_of_each_module() -> list[str]:
    every = (timm.list_models(module=module) for module in timm.models.list_modules())
    return [names[0] for names in every if names]


@pytest.mark.slow
@pytest.mark.parametrize("name", one_of_each_module())
def test_every_operator_has_a_rule(name: str) -> None:
    made = build(f"timm:{name}", "meta")
    found = trace(made.model, sample_inputs(made.inputs))
    assert found.ran == "fake"
    assert not found.operators.unattributed()
    macs = sum(found.operators.macs().values())
    assert macs > 0
    series = estimate(found.operators, EnergySettings(), made.inputs[0].shape[0]).series
    assert not series.unattributed
    joules = macs * EnergySettings().hardware.joules_per_mac / made.inputs[0].shape[0]
    assert series.by_part()["compute"] == pytest.approx(joules)
