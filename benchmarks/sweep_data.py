"""Synthetic embeddings that are as hard as real ones: correlated columns, a decaying spectrum, slides, overlap."""

# N tiles, D columns, L latent factors, K classes

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Half = NDArray[np.float16]
    Int = NDArray[np.int64]

BLOCK_ROWS = 4096
N_FOLDS = 5
SPECTRUM_DECAY, SLIDE_SHARE, LABEL_FOLLOWS_SLIDE = 1.1, 0.35, 0.75
FIRST_SIGNAL, LAST_SIGNAL, SEPARATION = 5, 120, 1.55


@dataclass(frozen=True)
class Rows:
    """Labels and folds of synthetic tiles.

    Attributes:
        y_N: 0 or 1.
        slide_N: Slide of each tile; three of four tiles carry their slide's label.
    """

    y_N: Int
    slide_N: Int

    @property
    def mask_FN(self) -> NDArray[np.bool_]:
        """Training tiles of each of five folds; slides stay together."""
        return np.stack([self.slide_N % N_FOLDS != fold for fold in range(N_FOLDS)])


def draw_rows(n_tiles: int, n_slides: int, seed: int = 0) -> Rows:
    """Draw labels.

    Args:
        n_tiles: Number of tiles.
        n_slides: Number of slides.
        seed: Seed.

    Returns:
        The rows, sorted by slide.
    """
    rng = np.random.default_rng(seed)
    slide_N = np.sort(rng.integers(0, n_slides, n_tiles))
    of_slide = rng.integers(0, 2, n_slides)
    follows_N = rng.random(n_tiles) < LABEL_FOLLOWS_SLIDE
    return Rows(np.where(follows_N, of_slide[slide_N], rng.integers(0, 2, n_tiles)), slide_N)


def fill(out_ND: Half, rows: Rows, n_factors: int, seed: int = 1) -> None:
    """Fill a matrix with embeddings.

    Factor i has variance i^-1.1, as spectra of vision transformers decay; 35 % of it belongs to the slide. Classes
    differ along factors 5 to 120, never the largest. Columns mix all factors, with means and scales of their own.

    Args:
        out_ND: float16, memory-mapped or not; overwritten block by block.
        rows: Labels and slides.
        n_factors: Number of factors; as many as columns leave no column redundant.
        seed: Seed.
    """
    rng = np.random.default_rng(seed)
    n_tiles, n_columns = out_ND.shape
    factor_L = np.arange(1, n_factors + 1)
    mix_LD = rng.standard_normal((n_factors, n_columns), dtype=np.float32)
    mix_LD *= (factor_L ** (-SPECTRUM_DECAY / 2)).astype(np.float32)[:, None]
    scale_D = np.exp(0.6 * rng.standard_normal(n_columns)).astype(np.float32)
    mean_D = 2.0 * scale_D * rng.standard_normal(n_columns, dtype=np.float32)
    mix_LD *= scale_D / np.sqrt((mix_LD**2).sum(axis=0))
    carries_L = (factor_L > FIRST_SIGNAL) & (factor_L <= LAST_SIGNAL)
    shift_KL = rng.standard_normal((2, n_factors)) * carries_L * SEPARATION / np.sqrt(carries_L.sum())
    slide_SL = np.sqrt(SLIDE_SHARE) * rng.standard_normal((int(rows.slide_N.max()) + 1, n_factors), dtype=np.float32)
    for start in range(0, n_tiles, BLOCK_ROWS):
        part = slice(start, min(start + BLOCK_ROWS, n_tiles))
        tile_nL = rng.standard_normal((part.stop - part.start, n_factors), dtype=np.float32)
        tile_nL *= np.sqrt(1.0 - SLIDE_SHARE, dtype=np.float32)
        tile_nL += slide_SL[rows.slide_N[part]] + shift_KL[rows.y_N[part]].astype(np.float32)
        out_ND[part] = tile_nL @ mix_LD + mean_D


def make_matrix(rows: Rows, n_columns: int) -> Half:
    """Return embeddings in memory.

    Args:
        rows: Labels and slides.
        n_columns: Columns, and factors.

    Returns:
        The matrix.
    """
    out_ND = np.empty((len(rows.y_N), n_columns), np.float16)
    fill(out_ND, rows, n_columns)
    return out_ND
