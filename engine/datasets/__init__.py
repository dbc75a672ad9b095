"""What calibrates and what reports: pictures, tensors, torchvision's data sets, the user's."""

from engine.datasets.embedded import digits
from engine.datasets.loading import load_data, preview
from engine.datasets.splits import SPLIT_SEED, DataSet, LazySplit, Samples, Split

__all__ = [
    "SPLIT_SEED",
    "DataSet",
    "LazySplit",
    "Samples",
    "Split",
    "digits",
    "load_data",
    "preview",
]
