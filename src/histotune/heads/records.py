"""A trained head, and the sweep that chose it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray
# K classes, D columns of the pooling, N tiles


@dataclass(frozen=True)
class Head:
    """A linear map from raw embeddings to class logits, standardisation folded in.

    Attributes:
        weight_KD: float64; acts on raw (unstandardised) columns of the pooling. Binary heads hold zeros in row 0,
            so that logit 1 is the margin.
        bias_K: float64.
        pooling: Names of the column blocks, in order.
        columns: Column numbers of the pooling within the backbone's total_dim.
        class_names: Names by logit index.
        backbone: Backbone name.
        space_key: Embedding space the head was trained in.
        meaning_key: Meaning of that space (weights, adapter, view, normalisation); in spaces of another meaning the
            head is refused, in others of the same meaning it is applied with a note.
        penalty: L2 penalty it was trained with (lambda of the mean loss).
        temperature: Divides the logits before the softmax.
        threshold: Probability of class 1 from which class 1 is predicted in binary tasks.
        n_tiles: Training tiles.
        n_groups: Training groups.
        train_groups: Group keys that trained it, so that scoring one of them later is found and marked LEAKY.
    """

    weight_KD: NDArray[np.float64]
    bias_K: NDArray[np.float64]
    pooling: tuple[str, ...]
    columns: tuple[int, ...]
    class_names: tuple[str, ...]
    backbone: str
    space_key: str
    meaning_key: str
    penalty: float
    temperature: float = 1.0
    threshold: float = 0.5
    n_tiles: int = 0
    n_groups: int = 0
    train_groups: tuple[str, ...] = ()

    @property
    def head_id(self) -> str:
        """First 16 hexadecimal digits of a hash over weights, bias, pooling, space, temperature and threshold."""
        from histotune.files import hash_bytes

        return hash_bytes(
            self.weight_KD.tobytes(), self.bias_K.tobytes(), "\n".join(self.pooling), self.space_key,
            repr((self.temperature, self.threshold)),
        )[:16]  # fmt: skip


@dataclass(frozen=True)
class SweepResult:
    """What a sweep tried, what it chose and why.

    Attributes:
        head: The chosen head, refitted on all training tiles.
        trials: A row per (pooling, penalty): pooling (blocks joined by "+"), penalty, log_loss (group-balanced,
            out-of-fold), log_loss_se (over groups), auroc (out-of-fold; NaN outside binary tasks), converged, chosen.
        out_of_fold_logit_NK: Logits of the chosen trial for the training tiles, each from folds that excluded its
            group; NaN for tiles outside the training set.
        n_fits: Logistic regressions solved.
    """

    head: Head
    trials: pl.DataFrame
    out_of_fold_logit_NK: NDArray[np.float64]
    n_fits: int
