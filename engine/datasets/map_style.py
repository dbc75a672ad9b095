"""Map-style data sets of (sample, target), torchvision's and the user's own, as a source."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.datasets.folders import plain
from engine.datasets.pictures import attacks_refused

_PATHS = ("images", "_images", "_image_files", "samples", "_samples", "imgs")


@dataclass(frozen=True, eq=False)
class MapStyle:
    """What ``len(dataset)`` and ``dataset[at]`` give."""

    dataset: Any

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, at: int) -> str:
        """The picture's file if the data set tells it, else a number from 1."""
        for attribute in _PATHS:
            paths = getattr(self.dataset, attribute, None)
            if isinstance(paths, list) and len(paths) == len(self.dataset):
                one = paths[at][0] if isinstance(paths[at], tuple) else paths[at]
                if isinstance(one, str | Path):
                    return plain(self._inside(Path(one)))
        return f"sample {at + 1}"

    def read(self, at: int) -> tuple[Any, Any]:
        """The sample and its target."""
        with attacks_refused():
            sample, target = self.dataset[at]
        return sample, target

    def _inside(self, path: Path) -> Path:
        root = getattr(self.dataset, "root", None)
        inside = isinstance(root, str | Path) and path.is_relative_to(root)
        return path.relative_to(root) if inside and root is not None else path


def class_names(dataset: Any) -> tuple[str, ...]:
    """Names of its classes in order; empty when it has none."""
    names = getattr(dataset, "classes", None)
    if not isinstance(names, list | tuple):
        return ()
    several = [one if isinstance(one, list | tuple) and one else (one,) for one in names]
    return tuple(str(one[0]) for one in several)  # of synonyms the first
