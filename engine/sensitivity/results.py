"""What has been measured, sample by sample, and what cells it comes to."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engine.sensitivities import Cell

if TYPE_CHECKING:
    from engine.sensitivity.samples import Judged

Place = tuple[int, int]
"""Row and column."""


@dataclass(frozen=True, eq=False)
class Line:
    """Losses and rights of one model.

    Attributes:
        losses: (samples,); not a number where it is not known.
        rights: (samples,); 1 right, 0 wrong, -1 not known.
    """

    losses: NDArray[np.float64]
    rights: NDArray[np.int8]

    def take(self, chunk: range, judged: "Judged") -> None:
        """Write a chunk down; of samples that could not be read nothing is."""
        until = chunk.start + len(judged.losses)
        self.losses[chunk.start : until] = judged.losses
        self.rights[chunk.start : until] = judged.rights


class Results:
    """All that a scan has measured, in arrays that are kept on disk as they are.

    Attributes:
        seen: (rows, columns) how many samples each cell has met.
        estimates: (rows, columns); not a number where there is none.
    """

    def __init__(self, rows: int, columns: int, samples: int) -> None:
        self.seen = np.zeros((rows, columns), np.int64)
        self.estimates = np.full((rows, columns), np.nan)
        self._losses = np.full((rows, columns, samples), np.nan)
        self._rights = np.full((rows, columns, samples), -1, np.int8)
        # The last one is the unedited state; of the others one a column, all rows changed.
        self._base_losses = np.full((columns + 1, samples), np.nan)
        self._base_rights = np.full((columns + 1, samples), -1, np.int8)
        self.base_seen = np.zeros(columns + 1, np.int64)
        self._estimated = np.zeros(1, np.int8)

    @property
    def wants_estimates(self) -> bool:
        """Whether the estimates are still to be made."""
        return not self._estimated[0]

    @wants_estimates.setter
    def wants_estimates(self, wanted: bool) -> None:
        self._estimated[0] = not wanted

    @property
    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """All of them by name, the arrays themselves."""
        return {name.strip("_"): one for name, one in vars(self).items()}

    def cell(self, row: int, column: int) -> Line:
        """That of a cell."""
        return Line(self._losses[row, column], self._rights[row, column])

    def base(self, column: int = -1) -> Line:
        """That of the unedited state, or of all rows changed at a column's setting."""
        return Line(self._base_losses[column], self._base_rights[column])

    def base_means(self, samples: int) -> tuple[float | None, float | None]:
        """Loss and accuracy of the unedited state over the first so many samples."""
        losses, rights = self._base_losses[-1, :samples], self._base_rights[-1, :samples]
        known = ~np.isnan(losses)
        if not known.any():
            return None, None
        right = None if (rights[known] < 0).any() else float((rights[known] == 1).mean())
        return float(losses[known].mean()), right

    def measured(self, row: int, column: int, all_but: bool) -> Cell:
        """Rise, error and samples of a cell, as far as it is measured."""
        seen = int(self.seen[row, column])
        one, base = self.cell(row, column), self.base(column if all_but else -1)
        known = ~np.isnan(base.losses[:seen])
        count = int(known.sum())
        if not count:
            return Cell(estimate=self.estimate(row, column))
        sign = -1.0 if all_but else 1.0
        with np.errstate(invalid="ignore"):  # of infinite losses
            rises = sign * (one.losses[:seen] - base.losses[:seen])[known]
        lost = sign * (base.rights[:seen].astype(float) - one.rights[:seen])[known]
        finite = bool(np.isfinite(rises).all())
        rights = not (base.rights[:seen][known] < 0).any()
        return Cell(
            self.estimate(row, column),
            float(rises.mean()) if finite else float("inf"),
            float(rises.std(ddof=1) / np.sqrt(count)) if finite and count > 1 else None,
            float(lost.mean()) if rights else None,
            count,
        )

    def estimate(self, row: int, column: int) -> float | None:
        """The estimate of a cell; None where there is none."""
        found = float(self.estimates[row, column])
        return None if np.isnan(found) else found
