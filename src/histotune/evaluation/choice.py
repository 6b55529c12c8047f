"""What a sweep chose, for people, and what about the choice asks for another look."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.datasets.splits.split import tile_groups
from histotune.evaluation.findings import SweepChoice
from histotune.heads.calibrate import MAX_TEMPERATURE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from histotune.datasets.tileset import TileSet
    from histotune.heads.head import SweepResult

NEAR_END = 1e-6  # relative distance at which a temperature counts as the end of its range


def describe_choice(result: SweepResult, trained_on: str, tiles: TileSet | None = None) -> SweepChoice:
    """Return what a sweep chose, for people.

    Args:
        result: The sweep.
        trained_on: Domain of the training tiles.
        tiles: The tiles of the sweep, row by row; None leaves the comparison with the classes' shares out.
    """
    chosen = result.trials.filter(pl.col("chosen")).row(0, named=True)
    head = result.head
    return SweepChoice(
        trained_on=trained_on,
        head_id=head.head_id,
        pooling=head.pooling,
        penalty=head.penalty,
        log_loss=float(chosen["log_loss"]),
        log_loss_se=float(chosen["log_loss_se"]),
        n_fits=result.n_fits,
        n_tiles=head.n_tiles,
        n_groups=head.n_groups,
        calibration=head.calibration,
        decision=head.decision,
        selection=head.selection,
        is_binary=len(head.class_names) == 2,
        warnings=tuple(choice_warnings(result, tiles)),
    )


def choice_warnings(result: SweepResult, tiles: TileSet | None) -> Iterator[str]:
    """Yield a sentence for each sign that the sweep stopped short, or that the head has learned nothing."""
    chosen = result.trials.filter(pl.col("chosen")).row(0, named=True)
    penalties = sorted(set(result.trials["penalty"].drop_nulls()))
    if len(penalties) > 1 and chosen["penalty"] in (penalties[0], penalties[-1]):
        end, more = ("weakest", "weaker") if chosen["penalty"] == penalties[0] else ("strongest", "stronger")
        yield (
            f"the chosen penalty, {chosen['penalty']:g}, is the {end} that was tried; the best may lie beyond it: add "
            f"{more} ones with --set sweep.penalties=[...]."
        )
    temperature = result.head.calibration.temperature
    if abs(abs(math.log(temperature)) - math.log(MAX_TEMPERATURE)) < NEAR_END:
        yield f"the temperature, {temperature:g}, is the end of its range; {_why_at_end(temperature)}"
    shares = math.nan if tiles is None else prevalence_log_loss(result, tiles)
    if chosen["log_loss"] >= shares:
        yield (
            f"the head's cross-validated log-loss, {chosen['log_loss']:.3f}, is no lower than {shares:.3f}, which the "
            "shares of the classes alone give: as probabilities its scores are worth nothing; more cases, another "
            "backbone or another view may help."
        )


def _why_at_end(temperature: float) -> str:
    """Say what a temperature at an end of its range means, and what to do."""
    if temperature > 1:
        return "the scores hardly tell the classes: look at labels and classes before its probabilities are used."
    return (
        "the cases are told apart without an error, so that they can't say how sure a probability should be: score the "
        "head on other cases before its probabilities are used."
    )


def prevalence_log_loss(result: SweepResult, tiles: TileSet) -> float:
    """Return the group-balanced log-loss of saying the classes' shares for every tile that trained."""
    # sum_k -p_k log p_k over group-balanced shares p_k: every group weighs once, its tiles alike
    rows = np.flatnonzero(np.isfinite(result.out_of_fold_logit_NK).all(axis=1) & (tiles.labels_N >= 0))
    groups = np.array(tile_groups(tiles))[rows]
    _, group_n, size_G = np.unique(groups, return_inverse=True, return_counts=True)
    share_K = np.bincount(tiles.labels_N[rows], weights=1.0 / size_G[group_n]) / max(len(size_G), 1)
    share_K = share_K[share_K > 0]
    return float(-(share_K * np.log(share_K)).sum()) if len(share_K) else math.nan
