"""How much each channel or head of a layer matters, for whoever picks them by hand."""

from engine.editing import Subject, module_at
from engine.edits import PruneChannels, PruneHeads
from engine.errors import EditRefused
from engine.job import Job
from engine.layers import LayerId
from engine.pruning.coupling import group_of
from engine.pruning.criteria import unit_scores
from engine.pruning.heads import head_importance
from engine.state import ChannelScores


def channel_scores(edit: PruneChannels | PruneHeads, subject: Subject, job: Job) -> ChannelScores:
    """Scores of the output channels, or heads, of the edit's one layer by its criterion.

    Those of channels are over their coupled group.

    Raises:
        EditRefused: the edit has several layers, the layer's channels cannot be removed, or the
            criterion needs data that are not there.
        Cancelled: while data are looked at.
    """
    if len(edit.layers) != 1:
        raise EditRefused("They are picked of one layer.", "Select one layer.")
    layer = edit.layers[0]
    if isinstance(edit, PruneHeads):
        return _head_scores(layer, subject)
    group = group_of(subject, layer)
    scores = unit_scores(edit, group, subject, job)
    units = group.members[0].units
    return ChannelScores(
        tuple(float(scores[unit]) if unit >= 0 else 0.0 for unit in units),
        tuple(int(unit) for unit in units),
    )


def _head_scores(layer: LayerId, subject: Subject) -> ChannelScores:
    found = head_importance(module_at(subject.model, layer))
    return ChannelScores(tuple(found.tolist()), tuple(range(len(found))))
