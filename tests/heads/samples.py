from __future__ import annotations

import numpy as np

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
