"""Secateur's engine: open a model, weigh it, edit it, prove it, export it. No Qt.

The names below are the whole public surface. They are resolved when first used, so that
``import engine`` costs nothing and the window is there before torch is.
"""

from typing import TYPE_CHECKING, Any

from engine.lazy import resolve

if TYPE_CHECKING:
    from engine.child import run_application as run_application
    from engine.child import run_in_child as run_in_child
    from engine.edits import EDITS as EDITS
    from engine.edits import Edit as Edit
    from engine.edits import PruneChannels as PruneChannels
    from engine.edits import PruneWeights as PruneWeights
    from engine.edits import Quantize as Quantize
    from engine.edits import edit_name as edit_name
    from engine.errors import EngineError as EngineError
    from engine.job import Cancelled as Cancelled
    from engine.job import Job as Job
    from engine.layers import ROOT as ROOT
    from engine.layers import Layer as Layer
    from engine.layers import LayerId as LayerId
    from engine.layers import LayerTree as LayerTree
    from engine.metrics import METRICS as METRICS
    from engine.metrics import Limit as Limit
    from engine.metrics import MeasurementTable as MeasurementTable
    from engine.metrics import Metric as Metric
    from engine.metrics import Provenance as Provenance
    from engine.metrics import Quantity as Quantity
    from engine.metrics import Series as Series
    from engine.resources import resource as resource
    from engine.session import ModelSession as ModelSession
    from engine.session import open_model as open_model
    from engine.state import Change as Change
    from engine.state import DataInfo as DataInfo
    from engine.state import Effect as Effect
    from engine.state import ExportReport as ExportReport
    from engine.state import HistoryEntry as HistoryEntry
    from engine.state import LayerEffect as LayerEffect
    from engine.state import LimitStatus as LimitStatus
    from engine.state import ModelInfo as ModelInfo
    from engine.state import ModelState as ModelState
    from engine.state import Part as Part
    from engine.state import Snapshot as Snapshot

_PUBLIC = {
    "engine.child": ("run_application", "run_in_child"),
    "engine.edits": (
        "EDITS", "Edit", "PruneChannels", "PruneWeights", "Quantize", "edit_name",
    ),
    "engine.errors": ("EngineError",),
    "engine.job": ("Cancelled", "Job"),
    "engine.layers": ("ROOT", "Layer", "LayerId", "LayerTree"),
    "engine.metrics": (
        "METRICS", "Limit", "MeasurementTable", "Metric", "Provenance", "Quantity", "Series",
    ),
    "engine.resources": ("resource",),
    "engine.session": ("ModelSession", "open_model"),
    "engine.state": (
        "Change", "DataInfo", "Effect", "ExportReport", "HistoryEntry", "LayerEffect",
        "LimitStatus", "ModelInfo", "ModelState", "Part", "Snapshot",
    ),
}  # fmt: skip
_WHERE = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = sorted(_WHERE)  # noqa: PLE0605  (a test proves it equal to the imports above)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    value = globals()[name] = resolve(f"{_WHERE[name]}:{name}")
    return value


def __dir__() -> list[str]:
    return __all__
