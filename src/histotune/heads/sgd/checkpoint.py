"""The state of the loop on disk: one file per finished chunk, one of the chunk that was running, both atomic."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from histotune.heads.sgd.chunk_record import ChunkRecord
from histotune.tools.files import atomic_path, hash_bytes, hash_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from histotune.heads.sgd.data import Job, TrainData, TrainOptions

FINGERPRINT_ROWS = 4096
RUNNING = "running.safetensors"


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
        """Keep a finished chunk's record.

        Args:
            number: Of the chunk.
            record: Its outcome.
        """
        _save(self._path(number), _pack_record(record))
        (self.folder / RUNNING).unlink(missing_ok=True)

    def is_due(self) -> bool:
        """Return whether the running chunk should be kept now."""
        return time.monotonic() - self._last_s >= self._every_s

    def keep(self, number: int, record: ChunkRecord, tensors: dict[str, Tensor]) -> None:
        """Keep the running chunk's state.

        Args:
            number: Of the chunk.
            record: Its record so far.
            tensors: Weights and moments.
        """
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


def plan_key(data: TrainData, jobs: Sequence[Job], options: TrainOptions) -> str:
    """Return a hash of everything that makes the outcome: settings, labels, splits, and rows of the matrix.

    Args:
        data: Its shape, labels and splits count in full, its values by up to 4,096 evenly spaced rows.
        jobs: All jobs.
        options: Metrics, stopping and device; a caller's own order and initial weights can't be hashed and must not
            change between a run and its continuation.
    """
    stride = max(1, len(data.x_ND) // FINGERPRINT_ROWS)
    splits = [
        hash_bytes(part.train_rows.tobytes(), part.held_rows.tobytes(),
                   b"" if part.held_weight_n is None else part.held_weight_n.tobytes())
        for part in data.splits
    ]  # fmt: skip
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
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        save_file(tensors, temporary)


def _load(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return dict(load_file(path))
