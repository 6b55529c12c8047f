from __future__ import annotations

import numpy as np
from sklearn.preprocessing import StandardScaler

from histotune.backbones.spec import ColumnBlock
from histotune.embeddings.space import Embeddings, EmbeddingSpace
from histotune.heads.family import SweepTask


def make_embeddings(
    x: np.ndarray, blocks: tuple[ColumnBlock, ...] | None = None, key: str = "k" * 64, weights: str = "w"
) -> Embeddings:
    blocks = blocks or (ColumnBlock("pooled", 0, x.shape[1]),)
    space = EmbeddingSpace(key, "tiny", weights, "", "view", "fp32", '{"device": "cpu"}', "n")
    return Embeddings(x.astype(np.float32), blocks, tuple(f"t{i:04d}" for i in range(len(x))), space, 0, "f")


def make_task(
    n: int = 120, n_groups: int = 20, n_classes: int = 2, dim: int = 60, seed: int = 0, group_strength: float = 0.7
) -> tuple[Embeddings, SweepTask]:
    """Groups of one class with a shift of their own; three training sets, the last one holding all tiles."""
    rng = np.random.default_rng(seed)
    group = np.r_[np.arange(n_groups), rng.integers(0, n_groups, n - n_groups)]
    y = group % n_classes
    latent = rng.standard_normal((n, 10)) + group_strength * rng.standard_normal((n_groups, 10))[group]
    latent[np.arange(n), y] += 1.5
    x = latent @ rng.standard_normal((10, dim)) + 0.2 * rng.standard_normal((n, dim))
    train = np.stack([group % 4 != 0, group % 4 != 1, np.ones(n, bool)])
    if n_classes == 2:
        train = np.stack([(group // 2) % 3 != 0, (group // 2) % 3 != 1, np.ones(n, bool)])
    names = tuple(f"class{k}" for k in range(n_classes))
    return make_embeddings(x), SweepTask(y, tuple(f"g{g:02d}" for g in group), names, train)


def floored(std: np.ndarray) -> np.ndarray:
    """Return what columns are divided by, written anew: at least 0.3 of the median deviation, 1 for constants."""
    varying = std[std > 0]
    return np.where(std > 0, np.maximum(std, 0.3 * np.median(varying) if len(varying) else 0.0), 1.0)


class FlooredScaler(StandardScaler):
    """scikit-learn's scaler with the floor under its divisors."""

    def fit(self, x: np.ndarray, y: object = None, sample_weight: np.ndarray | None = None) -> FlooredScaler:
        super().fit(x, sample_weight=sample_weight)
        std = np.sqrt(self.var_)
        self.scale_ = floored(np.where(np.isclose(self.scale_, std, rtol=1e-12, atol=0), std, 0.0))  # 1 for constants
        return self
