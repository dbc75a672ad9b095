"""What makes up for rounding: better integers, and a bias that takes the mean error back."""

from collections.abc import Mapping

from engine.editing import Subject
from engine.edits import Quantize, StoredTensor
from engine.job import Job
from engine.layers import LayerId
from engine.quantization.grids import WeightPlan


def repaired(
    edit: Quantize, plans: Mapping[LayerId, WeightPlan], subject: Subject, job: Job
) -> dict[LayerId, tuple[StoredTensor, ...]]:
    """Tensors of each layer that its float weight and its grid alone do not give.

    Args:
        plans: of the layers with weights, in the order in which they run.

    Returns:
        By layer ``weight`` (integers of the plan's format) and ``bias`` (float32), where they are
        others than those by rounding to the nearest.
    """
    return {}
