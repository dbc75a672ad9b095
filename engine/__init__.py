"""Secateur's engine: open a model, weigh it, edit it, prove it, export it. No Qt.

The names below are the whole public surface. They are resolved when first used, so that
``import engine`` costs nothing and the window is there before torch is.
"""

from typing import TYPE_CHECKING, Any

from engine.lazy import resolve

if TYPE_CHECKING:
    from engine.catalogue import CatalogueCost as CatalogueCost
    from engine.catalogue import CatalogueEntry as CatalogueEntry
    from engine.catalogue import pareto_front as pareto_front
    from engine.child import run_application as run_application
    from engine.child import run_in_child as run_in_child
    from engine.costs import model_costs as model_costs
    from engine.edits import EDITS as EDITS
    from engine.edits import RECOVERING as RECOVERING
    from engine.edits import TORCH_METHODS as TORCH_METHODS
    from engine.edits import Cast as Cast
    from engine.edits import Edit as Edit
    from engine.edits import Equalize as Equalize
    from engine.edits import Factorize as Factorize
    from engine.edits import FineTune as FineTune
    from engine.edits import FoldNorms as FoldNorms
    from engine.edits import MaskWeights as MaskWeights
    from engine.edits import PruneByMethod as PruneByMethod
    from engine.edits import PruneChannels as PruneChannels
    from engine.edits import PruneHeads as PruneHeads
    from engine.edits import PruneWeights as PruneWeights
    from engine.edits import Quantize as Quantize
    from engine.edits import RecalibrateNorms as RecalibrateNorms
    from engine.edits import RemoveBlocks as RemoveBlocks
    from engine.edits import Smooth as Smooth
    from engine.edits import Spread as Spread
    from engine.edits import edit_name as edit_name
    from engine.energy.counters import CounterInfo as CounterInfo
    from engine.energy.describing import DescriptionReport as DescriptionReport
    from engine.energy.estimates import DATAFLOWS as DATAFLOWS
    from engine.energy.estimates import GROUPINGS as GROUPINGS
    from engine.energy.estimates import Dataflow as Dataflow
    from engine.energy.estimates import EnergyEstimate as EnergyEstimate
    from engine.energy.estimates import EnergySettings as EnergySettings
    from engine.energy.estimates import Grouping as Grouping
    from engine.energy.estimates import LayerEnergy as LayerEnergy
    from engine.energy.grids import Grid as Grid
    from engine.energy.grids import co2_grams as co2_grams
    from engine.energy.grids import grids as grids
    from engine.energy.hardware import Hardware as Hardware
    from engine.energy.hardware import HardwareEntry as HardwareEntry
    from engine.energy.hardware import check_hardware as check_hardware
    from engine.energy.hardware import default_hardware as default_hardware
    from engine.energy.hardware import find_hardware as find_hardware
    from engine.energy.hardware import hardware_fields as hardware_fields
    from engine.energy.hardware import list_hardware as list_hardware
    from engine.energy.hardware import own_folder as own_folder
    from engine.energy.hardware import read_hardware as read_hardware
    from engine.energy.hardware import remove_own as remove_own
    from engine.energy.hardware import save_own as save_own
    from engine.energy.hardware import with_buffer as with_buffer
    from engine.energy.hardware import write_hardware as write_hardware
    from engine.errors import ArchitectureNeeded as ArchitectureNeeded
    from engine.errors import ConsentNeeded as ConsentNeeded
    from engine.errors import EngineError as EngineError
    from engine.errors import InputsNeeded as InputsNeeded
    from engine.errors import WeightsMissing as WeightsMissing
    from engine.files import write_atomically as write_atomically
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
    from engine.metrics import Overhead as Overhead
    from engine.metrics import Provenance as Provenance
    from engine.metrics import Quantity as Quantity
    from engine.metrics import Series as Series
    from engine.metrics import overhead_of as overhead_of
    from engine.profiles import CallNode as CallNode
    from engine.profiles import CallProfile as CallProfile
    from engine.profiles import Device as Device
    from engine.profiles import LayerSpan as LayerSpan
    from engine.profiles import LineProfile as LineProfile
    from engine.profiles import Machine as Machine
    from engine.profiles import OperatorCall as OperatorCall
    from engine.profiles import OperatorProfile as OperatorProfile
    from engine.profiles import Roofline as Roofline
    from engine.profiles import RooflinePoint as RooflinePoint
    from engine.profiles import SourceFunction as SourceFunction
    from engine.profiles import SourceLine as SourceLine
    from engine.profiling.devices import devices as devices
    from engine.profiling.energy import energy_counters as energy_counters
    from engine.recovery.rounding import Rounding as Rounding
    from engine.recovery.schedules import ScheduleKind as ScheduleKind
    from engine.recovery.schedules import schedule as schedule
    from engine.recovery.tuning import Tuning as Tuning
    from engine.requests import DTYPES as DTYPES
    from engine.requests import METRIC_NAMES as METRIC_NAMES
    from engine.requests import Candidate as Candidate
    from engine.requests import DataRequest as DataRequest
    from engine.requests import InputSpec as InputSpec
    from engine.requests import OpenRequest as OpenRequest
    from engine.requests import Preprocessing as Preprocessing
    from engine.requests import RunSettings as RunSettings
    from engine.resources import resource as resource
    from engine.sensitivities import SENSITIVITY_FORMATS as SENSITIVITY_FORMATS
    from engine.sensitivities import Cell as Cell
    from engine.sensitivities import Direction as Direction
    from engine.sensitivities import ScanRequest as ScanRequest
    from engine.sensitivities import SensitivityFormat as SensitivityFormat
    from engine.sensitivities import SensitivityMap as SensitivityMap
    from engine.sensitivities import setting_name as setting_name
    from engine.sensitivity.files import read_sensitivity as read_sensitivity
    from engine.sensitivity.files import save_sensitivity as save_sensitivity
    from engine.sensitivity.scanning import Scan as Scan
    from engine.sensitivity.settings import activations_setting as activations_setting
    from engine.sensitivity.settings import bits_setting as bits_setting
    from engine.sensitivity.settings import channels_setting as channels_setting
    from engine.sensitivity.settings import weights_setting as weights_setting
    from engine.session import ModelSession as ModelSession
    from engine.session import open_model as open_model
    from engine.sources.catalogue import catalogue_entries as catalogue_entries
    from engine.state import ActivationRange as ActivationRange
    from engine.state import Change as Change
    from engine.state import ChannelScores as ChannelScores
    from engine.state import Comparison as Comparison
    from engine.state import DataInfo as DataInfo
    from engine.state import Effect as Effect
    from engine.state import ExportReport as ExportReport
    from engine.state import HistoryEntry as HistoryEntry
    from engine.state import LayerEffect as LayerEffect
    from engine.state import LimitStatus as LimitStatus
    from engine.state import ModelInfo as ModelInfo
    from engine.state import ModelState as ModelState
    from engine.state import Part as Part
    from engine.state import RoundingProgress as RoundingProgress
    from engine.state import SamplePreview as SamplePreview
    from engine.state import Snapshot as Snapshot
    from engine.state import TuningProgress as TuningProgress
    from engine.user_code import FunctionName as FunctionName
    from engine.user_code import allow_here as allow_here

_PUBLIC = {
    "engine.costs": ("model_costs",),
    "engine.sources.catalogue": ("catalogue_entries",),
    "engine.child": ("run_application", "run_in_child"),
    "engine.edits": (
        "EDITS", "RECOVERING", "TORCH_METHODS", "Cast", "Edit", "Equalize", "Factorize", "FineTune",
        "FoldNorms", "MaskWeights",
        "PruneByMethod", "PruneChannels", "PruneHeads", "PruneWeights", "Quantize",
        "RecalibrateNorms", "RemoveBlocks", "Smooth", "Spread", "edit_name",
    ),
    "engine.energy.counters": ("CounterInfo",),
    "engine.energy.describing": ("DescriptionReport",),
    "engine.energy.estimates": (
        "DATAFLOWS", "GROUPINGS", "Dataflow", "EnergyEstimate", "EnergySettings", "Grouping",
        "LayerEnergy",
    ),
    "engine.energy.grids": ("Grid", "co2_grams", "grids"),
    "engine.energy.hardware": (
        "Hardware", "HardwareEntry", "check_hardware", "default_hardware", "find_hardware",
        "hardware_fields", "list_hardware", "own_folder", "read_hardware", "remove_own", "save_own",
        "with_buffer", "write_hardware",
    ),
    "engine.errors": (
        "ArchitectureNeeded", "ConsentNeeded", "EngineError", "InputsNeeded", "WeightsMissing",
    ),
    "engine.files": ("write_atomically",),
    "engine.job": ("Cancelled", "Job"),
    "engine.layers": ("ROOT", "Layer", "LayerId", "LayerTree"),
    "engine.metrics": (
        "METRICS", "Limit", "MeasurementTable", "Metric", "Overhead", "Provenance", "Quantity",
        "Series", "overhead_of",
    ),
    "engine.resources": ("resource",),
    "engine.sensitivities": (
        "SENSITIVITY_FORMATS", "Cell", "Direction", "ScanRequest", "SensitivityFormat",
        "SensitivityMap", "setting_name",
    ),
    "engine.sensitivity.files": ("read_sensitivity", "save_sensitivity"),
    "engine.sensitivity.scanning": ("Scan",),
    "engine.sensitivity.settings": (
        "activations_setting", "bits_setting", "channels_setting", "weights_setting",
    ),
    "engine.session": ("ModelSession", "open_model"),
    "engine.catalogue": ("CatalogueCost", "CatalogueEntry", "pareto_front"),
    "engine.profiles": (
        "CallNode", "CallProfile", "Device", "LayerSpan", "LineProfile", "Machine", "OperatorCall",
        "OperatorProfile", "Roofline", "RooflinePoint", "SourceFunction", "SourceLine",
    ),
    "engine.profiling.devices": ("devices",),
    "engine.profiling.energy": ("energy_counters",),
    "engine.recovery.schedules": ("ScheduleKind", "schedule"),
    "engine.recovery.rounding": ("Rounding",),
    "engine.recovery.tuning": ("Tuning",),
    "engine.requests": (
        "DTYPES", "METRIC_NAMES", "Candidate", "DataRequest", "InputSpec", "OpenRequest",
        "Preprocessing", "RunSettings",
    ),
    "engine.state": (
        "ActivationRange", "Change", "ChannelScores", "Comparison", "DataInfo", "Effect",
        "ExportReport", "HistoryEntry",
        "LayerEffect", "LimitStatus", "ModelInfo", "ModelState", "Part",
        "RoundingProgress", "SamplePreview", "Snapshot", "TuningProgress",
    ),
    "engine.user_code": ("FunctionName", "allow_here"),
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
