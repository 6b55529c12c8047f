"""What is known of a chunk's jobs so far: curves, the weights kept, who has finished and why."""

# J jobs of a chunk, E epochs, M curves (training loss first), S streams, T jobs per stream

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from histotune.heads.sgd.config import Stopping

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]
    Bool = NDArray[np.bool_]

EXPLODED_WEIGHT = 1e6
"""No useful head has a larger weight on columns of ordinary scale: its training has left all bounds."""
LOWER_IS_BETTER = ("log_loss",)


@dataclass
class ChunkRecord:
    """Outcomes of a chunk's jobs.

    Attributes:
        end_epoch_J: Epochs each job may begin.
        kept: Weights kept, one tensor per layer, a row per job.
        curve_EMJ: Curves; NaN after a job's end.
        best_J: Best value of the monitored metric.
        stale_J: Epochs since.
        kept_epoch_J: Epochs behind the kept weights.
        n_epochs_J: Epochs begun.
        n_steps_J: Steps taken.
        done_J: Who has finished.
        diverged_J: Who has diverged.
    """

    end_epoch_J: Int
    kept: list[Tensor]
    curve_EMJ: list[Float]
    best_J: Float
    stale_J: Int
    kept_epoch_J: Int
    n_epochs_J: Int
    n_steps_J: Int
    done_J: Bool
    diverged_J: Bool

    @classmethod
    def start(cls, end_epoch_J: Int, scaled: Sequence[Tensor]) -> ChunkRecord:
        """Return the record before the first epoch.

        Args:
            end_epoch_J: Epochs each job may begin.
            scaled: Stacked weights (S, T, ...), for their shapes.
        """

        def nothing(dtype: type = np.int64) -> NDArray[Any]:
            return np.zeros(len(end_epoch_J), dtype)

        return cls(
            end_epoch_J,
            kept=[part.flatten(0, 1).clone() for part in scaled],
            curve_EMJ=[],
            best_J=np.full(len(end_epoch_J), np.nan),
            stale_J=nothing(),
            kept_epoch_J=nothing(),
            n_epochs_J=nothing(),
            n_steps_J=nothing(),
            done_J=nothing(bool),
            diverged_J=nothing(bool),
        )

    def close_epoch(self, jobs: Int, curve_MJ: Float, largest_J: Float, n_steps: int) -> None:
        """Note an epoch of the jobs still training, and who has diverged or come to the end.

        Args:
            jobs: Which jobs of the chunk.
            curve_MJ: Their training loss and metrics.
            largest_J: Their largest weight.
            n_steps: Steps of this epoch.
        """
        row = np.full((len(curve_MJ), len(self.done_J)), np.nan)
        row[:, jobs] = curve_MJ
        self.curve_EMJ.append(row)
        self.n_epochs_J[jobs] += 1
        self.n_steps_J[jobs] += n_steps
        lost = ~np.isfinite(curve_MJ[0]) | ~(largest_J <= EXPLODED_WEIGHT)
        self.diverged_J[jobs] = lost
        self.done_J[jobs] = lost | (self.n_epochs_J[jobs] >= self.end_epoch_J[jobs])

    def judge(self, jobs: Int, value_J: Float, stopping: Stopping) -> Int:
        """Note the monitored metric and return the jobs whose weights are now the best.

        Args:
            jobs: Which jobs of the chunk.
            value_J: Their metric; NaN is never better.
            stopping: What counts as better, and for how long a job may fail to be.
        """
        sign = -1.0 if stopping.monitor in LOWER_IS_BETTER else 1.0
        best_J = self.best_J[jobs]
        gain_J = sign * (value_J - np.where(np.isnan(best_J), -sign * np.inf, best_J))
        better = (gain_J > stopping.min_delta) & np.isfinite(value_J) & ~self.diverged_J[jobs]
        self.best_J[jobs[better]] = value_J[better]
        self.stale_J[jobs] = np.where(better, 0, self.stale_J[jobs] + 1)
        if stopping.patience is not None:
            self.done_J[jobs] |= self.stale_J[jobs] >= stopping.patience
        return np.asarray(jobs[better])

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return everything but the kept weights, to be saved."""
        n_curves = self.curve_EMJ[0].shape[0] if self.curve_EMJ else 0
        curves = np.stack(self.curve_EMJ) if self.curve_EMJ else np.zeros((0, n_curves, len(self.done_J)))
        names = ("end_epoch", "best", "stale", "kept_epoch", "n_epochs", "n_steps", "done", "diverged")
        return {"curves": curves, **{name: getattr(self, f"{name}_J") for name in names}}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[np.generic]], kept: list[Tensor]) -> ChunkRecord:
        """Read what :meth:`arrays` gave.

        Args:
            arrays: By name.
            kept: The kept weights.
        """
        values = {f"{name}_J": value.copy() for name, value in arrays.items() if name != "curves"}
        return cls(kept=kept, curve_EMJ=list(arrays["curves"]), **values)  # type: ignore[arg-type]
