"""How much channels and heads matter, for whoever picks them by hand."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from engine import ChannelScores, Job, LayerId, ModelSession, PruneChannels, PruneHeads
from engine.errors import EditRefused

SessionOf = Callable[..., ModelSession]


class Grouped(nn.Module):
    """Channels of ``first`` that a grouped convolution reads in twos go in twos."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 1, bias=False)
        self.pairs = nn.Conv2d(4, 4, 1, groups=2, bias=False)
        self.last = nn.Conv2d(4, 3, 1)
        with torch.no_grad():
            for layer in (self.first, self.pairs):
                layer.weight.copy_(
                    torch.arange(1.0, layer.weight.numel() + 1).view_as(layer.weight)
                )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.pairs(self.first(x)))


def test_scores_are_those_by_which_an_amount_would_choose(session_of: SessionOf, job: Job) -> None:
    model = nn.Sequential(nn.Linear(2, 4, bias=False), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0], [6.0, 8.0]]))
    session = session_of(model, 1, 2)
    edit = PruneChannels((LayerId("0"),), 0.5, "l2", multiple=1)
    found = session.channel_scores(edit, job)
    assert found == ChannelScores((5.0, 1.0, 2.0, 10.0), (0, 1, 2, 3))
    (effect,) = [one for one in session.preview(edit, job).layers if one.layer == "0"]
    assert effect.removed == (1, 2)


def test_channels_that_go_together_share_a_unit(session_of: SessionOf, job: Job) -> None:
    session = session_of(Grouped(), 1, 1, 2, 2)
    found = session.channel_scores(PruneChannels((LayerId("pairs"),), 0.5, "l2"), job)
    assert len(found.scores) == len(found.units) == 4
    by_unit: dict[int, set[float]] = {}
    for unit, score in zip(found.units, found.scores, strict=True):
        by_unit.setdefault(unit, set()).add(score)
    assert all(len(scores) == 1 for scores in by_unit.values())


def test_heads_have_scores_too(session_of: SessionOf, job: Job) -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 4, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.attention(x, x, x)[0]
            return output

    session = session_of(Attending(), 1, 3, 8)
    layer = LayerId("attention")
    found = session.channel_scores(PruneHeads((layer,), 0.5), job)
    assert found.units == (0, 1, 2, 3)
    (effect,) = session.preview(PruneHeads((layer,), 0.5), job).layers
    least = sorted(range(4), key=lambda head: found.scores[head])[:2]
    assert effect.removed == tuple(sorted(least))


def test_without_data_or_one_layer_it_is_refused(session_of: SessionOf, job: Job) -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 3))
    session = session_of(model, 1, 2)
    with pytest.raises(EditRefused, match="no data set"):
        session.channel_scores(PruneChannels((LayerId("0"),), 0.5, "taylor"), job)
    with pytest.raises(EditRefused, match="one layer"):
        session.channel_scores(PruneChannels((LayerId("0"), LayerId("2")), 0.5), job)
