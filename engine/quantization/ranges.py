"""What calibration saw of one layer, as plain data to be shown."""

from collections.abc import Sequence

from engine.editing import Subject, module_at
from engine.edits import InputGrid, Quantize
from engine.errors import EditRefused
from engine.integer_layers import IntegerWeights
from engine.job import Job
from engine.layers import LayerId
from engine.operators import OwnOperator
from engine.quantization.calibration import calibration
from engine.quantization.grids import activation_grid
from engine.quantization.operators import explicit_subject
from engine.rounded_operators import RoundedOperators
from engine.state import ActivationRange

BINS = 256


def activation_ranges(
    layer: LayerId, edit: Quantize | None, samples: int, subject: Subject, job: Job
) -> tuple[ActivationRange, ...]:
    """The ranges of a layer's input, or of the operands of its own operators, in order.

    Args:
        edit: whose grid is laid over them; None: the one on which the layer rounds already.

    Raises:
        EditRefused: some values are not finite.
        Cancelled: between two batches.
    """
    seen = calibration(subject, samples, job)
    own = _own_grids(layer, subject)
    root = explicit_subject(subject.unrounded or subject)
    operators = root.trace.own_operators.get(layer) or ()
    found = []
    for operand in seen.operands(layer):
        ranges = seen.points[layer, operand]
        if not ranges.finite:
            raise EditRefused(
                f"{layer} reads values that are not finite, so they have no range.",
                "Look at the layers before it, or at the data.",
            )
        start, stop, counts = ranges.histogram.evenly(BINS)
        grid = own.get(operand) if edit is None else activation_grid(edit, ranges.histogram)
        name = _name(operand, operators)
        least, most = ranges.least, ranges.most
        found.append(
            ActivationRange(
                layer, operand, name, least, most, start, stop, counts, grid, seen.samples
            )
        )
    return tuple(found)


def _name(operand: int, operators: Sequence[OwnOperator]) -> str:
    if not operators:
        return "input"
    at, side = divmod(operand, 2)
    which = f"operator {at + 1}: " if len(operators) > 1 else ""
    return f"{which}{operators[at].name}, {('1st', '2nd')[side]} operand"


def _own_grids(layer: LayerId, subject: Subject) -> dict[int, InputGrid | None]:
    """The grids on which the layer rounds as it stands, by operand."""
    module = module_at(subject.model, layer)
    if isinstance(module, RoundedOperators):
        return dict(enumerate(grid for one in module.operators for grid in one.inputs))
    return {0: module.input_grid} if isinstance(module, IntegerWeights) else {}
