"""Ways to use the head on the target: as it is, with something undone, with something learned from other groups."""

# N tiles, n tuning tiles of a fold, D columns, K classes

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.datasets.splits.folds import assign_group_folds
from histotune.heads.head import softmax
from histotune.statistics.predictions import PREDICTION_COLUMNS, Predictions
from histotune.transfer.alignment import Coral, moments
from histotune.transfer.case import Arm
from histotune.transfer.recalibrate import estimate_prevalence, fit_affine, log_priors

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from histotune.transfer.case import HeadMap, Side, TransferCase

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]
    Bool = NDArray[np.bool_]

    Fit = Callable[[Float, Bool], Float]


@dataclass(frozen=True)
class Workbench:
    """A case with the target's folds.

    Attributes:
        case: The case.
        fold_N: Fold of every target tile; groups stay together.
    """

    case: TransferCase
    fold_N: Int

    @cached_property
    def coral(self) -> Coral:
        """Alignment to the source's mean and covariance."""
        return Coral(moments(self.case.source.x_ND))

    @cached_property
    def _covariance_margins(self) -> dict[int, tuple[Float, Float]]:
        """Margins by the version of the target they come from, which is kept too, so that its id stays its own.

        Every candidate scale asks again for the versions without a scale view, and each costs an eigenvalue problem per
        fold: minutes at 3,072 dimensions.
        """
        return {}

    @property
    def source_prevalence(self) -> Float:
        """Share of each class among the source's tiles, (K,)."""
        return class_shares(self.case.source.y_N, self.case.n_classes)

    def margins(self, x_ND: Float) -> Float:
        """Return log-odds of each class against class 0, (N, K)."""
        return self.case.head.margin(x_ND)

    def per_fold(self, margin_NK: Float, fit: Fit) -> Float:
        """Correct margins fold by fold.

        Args:
            margin_NK: Margins of the target.
            fit: From all margins and which tiles are tuning tiles of this fold to corrected margins of all tiles.

        Returns:
            Every tile's margin as corrected by the fit of its own fold, which excluded its group.
        """
        out_NK = np.empty_like(margin_NK)
        for fold in np.unique(self.fold_N):
            inside_N = self.fold_N == fold
            out_NK[inside_N] = fit(margin_NK, ~inside_N)[inside_N]
        return out_NK

    def mean_aligned(self, x_ND: Float) -> Float:
        """Return margins after the mean was aligned, label-free, on tuning groups."""
        source_D = self.case.source.x_ND.mean(axis=0)
        return self._aligned(x_ND, lambda x_nD, tune_nD: x_nD - tune_nD.mean(axis=0) + source_D)

    def covariance_aligned(self, x_ND: Float) -> Float:
        """Return margins after mean and covariance were aligned, label-free, on tuning groups."""
        kept = self._covariance_margins.get(id(x_ND))
        if kept is None:
            kept = x_ND, self._aligned(x_ND, lambda x_nD, tune_nD: self.coral(x_nD, moments(tune_nD)))
            self._covariance_margins[id(x_ND)] = kept
        return kept[1]

    def _aligned(self, x_ND: Float, align: Callable[[Float, Float], Float]) -> Float:
        out_NK = np.empty((len(x_ND), self.case.n_classes))
        for fold in np.unique(self.fold_N):
            inside_N = self.fold_N == fold
            out_NK[inside_N] = self.margins(align(x_ND[inside_N], x_ND[~inside_N]))
        return out_NK

    def prior_corrected(self, margin_NK: Float, *, labels: bool) -> Float:
        """Return margins at the target's prevalence: estimated without labels, or counted on tuning groups."""
        source_K, y_N = self.source_prevalence, self.case.target.y_N

        def fit(z_NK: Float, tune_N: Bool) -> Float:
            if labels:
                share_K = class_shares(y_N[tune_N], self.case.n_classes)
            else:
                share_K = estimate_prevalence(z_NK[tune_N], source_K)
            return np.asarray(z_NK + log_priors(share_K) - log_priors(source_K))

        return self.per_fold(margin_NK, fit)

    def recalibrated(self, margin_NK: Float, *, scale: bool) -> Float:
        """Return margins with the best shift per class, or shifts and one scale, on labels of tuning groups."""
        y_N = self.case.target.y_N
        return self.per_fold(
            margin_NK, lambda z_NK, tune_N: fit_affine(z_NK[tune_N], y_N[tune_N], scale=scale)(z_NK)
        )  # fmt: skip

    def arm(self, margin_NK: Float, *, fitted: bool = False, threshold_N: Float | None = None) -> Arm:
        """Return margins on the target as an arm."""
        threshold_N = np.full(len(margin_NK), self.case.head.threshold) if threshold_N is None else threshold_N
        return Arm(side_predictions(self.case.target, self.case.head, margin_NK, (self.fold_N, threshold_N)), fitted)

    def deciding_arm(self, margin_NK: Float, predicted_N: Int) -> Arm:
        """Return margins as an arm whose decisions are made otherwise."""
        predictions = self.arm(margin_NK).predictions
        decided = pl.Series("predicted", predicted_N, dtype=pl.Int32)
        return Arm(replace(predictions, table=predictions.table.with_columns(decided)))


def make_workbench(case: TransferCase, folds: int, seed: int) -> Workbench:
    """Deal the target's groups into folds, classes even.

    Args:
        case: The case.
        folds: Folds wanted; no more than there are groups.
        seed: Seed of the deal.

    Returns:
        The workbench.
    """
    groups = case.target.groups
    wanted = min(folds, len(set(groups)))
    fold_by_group = assign_group_folds(groups, case.target.y_N, case.n_classes, wanted, seed)
    return Workbench(case, np.array([fold_by_group[group] for group in groups], np.int64))


def class_shares(y_N: Int, n_classes: int) -> Float:
    """Return the share of each class, (K,)."""
    return np.bincount(y_N, minlength=n_classes) / len(y_N)


def side_predictions(side: Side, head: HeadMap, margin_NK: Float, how: tuple[Int, Float]) -> Predictions:
    """Return margins as predictions.

    Args:
        side: The tiles.
        head: Names and id.
        margin_NK: Log-odds of each class against class 0.
        how: Fold per tile, and threshold, which counts with two classes.

    Returns:
        A row per tile; several classes are ranked in pairs.
    """
    per_class = pl.Array(pl.Float64, len(head.class_names))
    table = pl.DataFrame(
        {
            "tile_id": side.tile_ids,
            "group_id": side.groups if side.has_groups else [None] * len(side),
            "y_true": side.y_N.astype(np.int32),
            "input_mpp": np.full(len(side), side.input_mpp),
            "threshold": how[1],
        },
        schema_overrides={"group_id": pl.String},
    ).with_columns(
        pl.lit(None, pl.String).alias("source_patient_id"),
        pl.lit(None, pl.String).alias("slide_id"),
        pl.lit(side.domain).alias("domain"),
        pl.Series("fold", how[0], dtype=pl.Int32),
        pl.lit(0, pl.Int32).alias("seed"),
        pl.Series("logit", margin_NK, dtype=per_class),
        pl.Series("probability", softmax(margin_NK), dtype=per_class),
        pl.lit(head.head_id).alias("head_id"),
        pl.lit("").alias("split_hash"),
        pl.lit("").alias("view"),
    )
    return Predictions(table.select(*PREDICTION_COLUMNS, "threshold"), head.class_names, head.threshold, "pairs")
