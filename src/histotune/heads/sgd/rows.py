"""Rows of a split as the loop reads them: float32, standardised, a column of ones for the bias, padded in width."""

# N tiles, n rows of a split, B rows of a batch, D columns, V columns with the bias, padded

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from histotune.heads.sgd.data import TrainData

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]

BLOCK_ROWS = 8192
DENSE_BYTES = 2**31
"""Up to this size the training rows are kept in float32; beyond it every batch is read from the source."""
HELD_BYTES = 2**30
"""The same for held-out rows."""
WIDTH_MULTIPLE = 16
"""Rows start on a cache line: 16 floats."""
EPSILON = float(np.finfo(np.float64).eps)


def padded_width(n_columns: int) -> int:
    """Return the width of a row: columns, the bias, and zeros up to a whole cache line."""
    return -(-(n_columns + 1) // WIDTH_MULTIPLE) * WIDTH_MULTIPLE


class SplitRows:
    """Training and held-out rows of one split.

    Args:
        data: The matrix and its splits.
        split: Number of the split.
        device: Where batches go.
    """

    def __init__(self, data: TrainData, split: int, device: str) -> None:
        self._data, self._split, self._device = data, data.splits[split], device
        n_columns = data.x_ND.shape[1]
        self._width = padded_width(n_columns)
        self.mean_D, self.std_D = np.zeros(n_columns), np.ones(n_columns)
        if data.standardise:
            self.mean_D, self.std_D = column_moments(data.x_ND, self._split.train_rows)
        self._held: list[Tensor] | None = None
        self._dense_nV: Tensor | None = None
        if len(self._split.train_rows) * self._width * 4 <= DENSE_BYTES:
            self._dense_nV = self._read(self._split.train_rows)

    def batch(self, index_B: Tensor, out_BV: Tensor) -> None:
        """Write some training rows.

        Args:
            index_B: Positions among the split's training rows.
            out_BV: Where they go.
        """
        import torch

        if self._dense_nV is not None:
            torch.index_select(self._dense_nV, 0, index_B, out=out_BV)
        else:
            out_BV.copy_(self._read(self._split.train_rows[index_B.cpu().numpy()]))

    def held_blocks(self) -> Iterator[Tensor]:
        """Yield the held-out rows, in order, in blocks (n, V)."""
        rows = self._split.held_rows
        if self._held is None and len(rows) * self._width * 4 <= HELD_BYTES:
            self._held = [self._read(rows[start : start + BLOCK_ROWS]) for start in range(0, len(rows), BLOCK_ROWS)]
        if self._held is not None:
            yield from self._held
            return
        for start in range(0, len(rows), BLOCK_ROWS):
            yield self._read(rows[start : start + BLOCK_ROWS])

    def _read(self, rows_n: Int) -> Tensor:
        import torch

        out_nV = np.zeros((len(rows_n), self._width), np.float32)
        n_columns = len(self.mean_D)
        for start in range(0, len(rows_n), BLOCK_ROWS):
            part = slice(start, start + BLOCK_ROWS)
            block = self._data.x_ND[rows_n[part]]
            if self._data.standardise:
                out_nV[part, :n_columns] = (block.astype(np.float64) - self.mean_D) / self.std_D
            else:
                out_nV[part, :n_columns] = block
        out_nV[:, n_columns] = 1.0
        return torch.from_numpy(out_nV).to(self._device)


def column_moments(x_ND: NDArray[np.floating], rows: Int) -> tuple[Float, Float]:
    """Return mean and standard deviation per column, in float64, streamed; constant columns have deviation 1.

    Args:
        x_ND: Columns.
        rows: Which rows count.
    """
    blocks = [rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS)]
    mean_D = np.sum([x_ND[block].sum(axis=0, dtype=np.float64) for block in blocks], axis=0) / len(rows)
    square_D = np.sum([((x_ND[block].astype(np.float64) - mean_D) ** 2).sum(axis=0) for block in blocks], axis=0)
    variance_D = square_D / len(rows)
    # Constant up to rounding, as scikit-learn's scaler judges it.
    bound_D = len(rows) * EPSILON * variance_D + (len(rows) * mean_D * EPSILON) ** 2
    return mean_D, np.where(variance_D <= bound_D, 1.0, np.sqrt(variance_D))
