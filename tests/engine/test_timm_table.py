"""timm's models are traced as completely as torchvision's: one of each of its modules."""

import pytest

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
    assert sum(found.operators.macs().values()) > 0
