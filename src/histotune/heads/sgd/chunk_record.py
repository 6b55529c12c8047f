"""What is known of a chunk's jobs so far: curves, the weights kept, who has finished and why; and its copy on disk."""

# J jobs of a chunk, E epochs, M curves (training loss first), S streams, T jobs per stream

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.tools.atomic import atomic_path
from histotune.tools.files import hash_bytes, hash_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from histotune.heads.config import Stopping
    from histotune.heads.sgd.jobs import TrainData, TrainJob, TrainOptions

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]
    Bool = NDArray[np.bool_]


FINGERPRINT_ROWS = 4096
RUNNING = "running.safetensors"
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
        """Return the record before the first epoch."""

        def nothing(dtype: type = np.int64) -> NDArray[Any]:
            """Return zeros, one per training."""
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
        """Note an epoch of the jobs still training, and who has diverged or come to the end."""
        # Jobs that ended before have NaN in their curves from then on; a loss that is not finite or a weight beyond all
        # bounds ends a job as diverged.
        row = np.full((len(curve_MJ), len(self.done_J)), np.nan)
        row[:, jobs] = curve_MJ
        self.curve_EMJ.append(row)
        self.n_epochs_J[jobs] += 1
        self.n_steps_J[jobs] += n_steps
        lost = ~np.isfinite(curve_MJ[0]) | ~(largest_J <= EXPLODED_WEIGHT)
        self.diverged_J[jobs] = lost
        self.done_J[jobs] = lost | (self.n_epochs_J[jobs] >= self.end_epoch_J[jobs])

    def judge(self, jobs: Int, value_J: Float, stopping: Stopping) -> Int:
        """Note the monitored metric and return the jobs whose weights are now the best."""
        # An epoch is better if it gains more than min_delta on the best so far; after patience epochs without one, the
        # job ends.
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
        """Read what :meth:`arrays` gave."""
        values = {f"{name}_J": value.copy() for name, value in arrays.items() if name != "curves"}
        return cls(kept=kept, curve_EMJ=list(arrays["curves"]), **values)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------
# The state of the loop on disk: one file per finished chunk, one of the chunk that was running, both atomic


class Checkpoint:
    """Finished and running chunks of one plan, in a folder of its own: another plan never reads them.

    Args:
        folder: Takes the plan's folder.
        key: Of :func:`plan_key`.
        every_s: Seconds between two states of the running chunk.
    """

    def __init__(self, folder: Path, key: str, every_s: float) -> None:
        self.folder, self._every_s, self._last_s = folder / key[:32], every_s, time.monotonic()

    def finished(self, number: int) -> ChunkRecord | None:
        """Return a finished chunk's record, None where it has not finished."""
        path = self._path(number)
        return _unpack_record(_load(path)) if path.is_file() else None

    def finish(self, number: int, record: ChunkRecord) -> None:
        """Keep a finished chunk's record."""
        _save(self._path(number), _pack_record(record))
        (self.folder / RUNNING).unlink(missing_ok=True)

    def is_due(self) -> bool:
        """Return whether the running chunk should be kept now."""
        return time.monotonic() - self._last_s >= self._every_s

    def keep(self, number: int, record: ChunkRecord, tensors: dict[str, Tensor]) -> None:
        """Keep the running chunk's state."""
        import torch

        state = {f"state.{name}": tensor.contiguous() for name, tensor in tensors.items()}
        _save(self.folder / RUNNING, {**_pack_record(record), **state, "chunk": torch.tensor(number)})
        self._last_s = time.monotonic()

    def running(self, number: int) -> tuple[ChunkRecord, dict[str, Tensor]] | None:
        """Return what :meth:`keep` kept of this chunk, None where it was another one."""
        path = self.folder / RUNNING
        if not path.is_file():
            return None
        tensors = _load(path)
        if int(tensors.pop("chunk")) != number:
            return None
        state = {name[len("state.") :]: part for name, part in tensors.items() if name.startswith("state.")}
        return _unpack_record(tensors), state

    def _path(self, number: int) -> Path:
        return self.folder / f"chunk-{number:05d}.safetensors"


def plan_key(data: TrainData, jobs: Sequence[TrainJob], options: TrainOptions) -> str:
    """Return a hash of everything that makes the outcome: settings, labels, splits, and rows of the matrix."""
    # Evenly spaced rows stand for the matrix, whose every row would have to be read to be hashed.
    stride = max(1, len(data.x_ND) // FINGERPRINT_ROWS)
    splits = [
        hash_bytes(
            part.train_rows.tobytes(),
            part.held_rows.tobytes(),
            b"" if part.held_weight_n is None else part.held_weight_n.tobytes(),
        )
        for part in data.splits
    ]
    return hash_json(
        {
            "rows": hash_bytes(np.ascontiguousarray(data.x_ND[::stride]).tobytes(), data.y_N.tobytes()),
            "shape": [*data.x_ND.shape, data.n_classes, data.standardise],
            "splits": splits,
            "jobs": [[job.settings.model_dump(mode="json"), job.split, job.seed, job.stop_after] for job in jobs],
            "options": [options.measured(), options.stopping.model_dump(mode="json"), options.device],
        }
    )


def _pack_record(record: ChunkRecord) -> dict[str, Tensor]:
    import torch

    arrays = {f"record.{name}": torch.from_numpy(np.ascontiguousarray(part)) for name, part in record.arrays().items()}
    return arrays | {f"kept.{layer}": part.contiguous() for layer, part in enumerate(record.kept)}


def _unpack_record(tensors: dict[str, Tensor]) -> ChunkRecord:
    arrays = {name[len("record.") :]: part.numpy() for name, part in tensors.items() if name.startswith("record.")}
    n_layers = sum(name.startswith("kept.") for name in tensors)
    return ChunkRecord.from_arrays(arrays, [tensors[f"kept.{layer}"] for layer in range(n_layers)])


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save

    with atomic_path(path) as temporary:
        temporary.write_bytes(save(tensors))


def _load(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return dict(load_file(path))
