"""The study of one data set: held-out cases at every magnification, floors, and the leak's price."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.datasets.records import TileSet, require_classes
from histotune.datasets.splits.folds import fold_per_tile, grouped_folds, random_image_folds_like
from histotune.devices import SMALL_ROWS, map_small
from histotune.errors import UserError, closest_name
from histotune.evaluation.crossfit import CrossFit, CrossFitPlan, cross_fit
from histotune.evaluation.floors import MAJORITY, majority_predictions, untuned_arms
from histotune.evaluation.material import domains_of
from histotune.evaluation.records import Finding, Scored, ScoredArm, SweepChoice
from histotune.evaluation.scoring import LABEL_MOVED, LEAKY, SYNTHETIC, TOO_NARROW, domain_order, score_domains
from histotune.statistics.compare import paired_difference

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.datasets.splits.folds import Folds
    from histotune.evaluation.config import EvaluationConfig
    from histotune.evaluation.material import Material
    from histotune.heads.config import SweepConfig
    from histotune.heads.records import SweepResult
    from histotune.statistics.config import IntervalConfig
    from histotune.statistics.records import Predictions

PROBE = "probe"
RANDOM_SPLIT = "probe, random image split"
DIFFERENCE = "difference (random - grouped)"


@dataclass(frozen=True)
class ArmMaterial:
    """A data set as the backbone of one arm sees it."""

    arm: str
    material: Material


@dataclass(frozen=True)
class ArmSweep:
    """The final sweep of one arm: the probe's, or a floor's own tuned probe."""

    arm: str
    result: SweepResult


@dataclass(frozen=True)
class StudySettings:
    """What a study needs to know besides its data."""

    evaluation: EvaluationConfig
    sweep: SweepConfig
    interval: IntervalConfig


@dataclass(frozen=True)
class SourceStudy:
    """Findings on one data set and the heads that go on to others.

    Attributes:
        findings: In-domain, cross-magnification and leak's price, in this order, where they apply.
        scored: The predictions behind them.
        finals: Final sweep per arm, the probe first.
        choice: What the probe's sweep chose.
        split_hash: Hash of the outer folds.
        train_labels: Labels of the training tiles.
    """

    findings: tuple[Finding, ...]
    scored: tuple[Scored, ...]
    finals: tuple[ArmSweep, ...]
    choice: SweepChoice
    split_hash: str
    train_labels: NDArray[np.int64]


def study_source(arms: tuple[ArmMaterial, ...], settings: StudySettings) -> SourceStudy:
    """Cross-fit every arm over the same grouped folds and score it at every magnification.

    Args:
        arms: The probe first, then floors that are backbones with their own tuned probe; same tiles.
        settings: What to score and how.

    Returns:
        The findings.

    Raises:
        UserError: The training magnification holds no tiles, one class only, or too few groups.
    """
    tiles, evaluation = arms[0].material.tiles, settings.evaluation
    train_N, folds = plan_source(tiles, evaluation)
    plan = CrossFitPlan(train_N, fold_per_tile(tiles, folds), folds.split_hash, "grouped", evaluation.seed)
    fits, leaky = _fit_arms(arms, plan, settings)
    scored = [(arm.arm, fit.predictions) for arm, fit in zip(arms, fits, strict=True)]
    if "majority" in evaluation.floors:
        scored.append((MAJORITY, _majority(arms[0].material, plan, fits[0].predictions)))
    rows = _score_all(arms[0].material, scored, settings, marks_of(tiles))
    findings = [_in_domain(rows, tiles, plan, settings), *_cross_magnification(rows, tiles, settings)]
    kept = [Scored("cross-magnification", arm, predictions) for arm, predictions in scored]
    if leaky is not None:
        findings.append(_leak_price(fits[0], leaky, plan, settings, marks_of(tiles)))
        kept.append(Scored("leak-price", RANDOM_SPLIT, leaky.predictions))
    return SourceStudy(
        findings=tuple(findings),
        scored=tuple(kept),
        finals=tuple(ArmSweep(arm.arm, fit.final) for arm, fit in zip(arms, fits, strict=True)),
        choice=describe_choice(fits[0].final, training_domain(tiles, train_N)),
        split_hash=folds.split_hash,
        train_labels=tiles.labels_N[train_N],
    )


def plan_source(tiles: TileSet, evaluation: EvaluationConfig) -> tuple[NDArray[np.bool_], Folds]:
    """Return who trains and the outer folds; cheap, so that a mistake shows before anything is embedded.

    Args:
        tiles: The data set.
        evaluation: Training magnification, folds, seed.

    Returns:
        Training tiles, and folds over the groups of all magnifications.

    Raises:
        UserError: The training magnification holds no tiles or one class only, or there are too few groups.
    """
    train_N = training_rows(tiles, evaluation.train_magnification)
    require_classes(tiles.take(np.flatnonzero(train_N)), "training")
    return train_N, grouped_folds(tiles, evaluation.outer_folds, evaluation.seed)


def training_rows(tiles: TileSet, magnification: str | None) -> NDArray[np.bool_]:
    """Return which labelled tiles may train.

    Args:
        tiles: The data set.
        magnification: Such as "100X"; None takes all tiles.

    Returns:
        One bool per tile.

    Raises:
        UserError: No labelled tile has that magnification.
    """
    labelled_N: NDArray[np.bool_] = tiles.labels_N >= 0
    if magnification is None:
        return labelled_N
    train_N: NDArray[np.bool_] = labelled_N & (tiles.table["magnification"].fill_null("") == magnification).to_numpy()
    if not train_N.any():
        present = sorted(set(tiles.table["magnification"].drop_nulls()), key=lambda name: domain_order(f" {name}"))
        raise UserError(
            "no labelled tiles at this training magnification",
            value=magnification,
            allowed=", ".join(present) or "none: this data set has no magnifications",
            closest=closest_name(magnification, present),
            fix="--train-magnification " + (present[0] if present else "none"),
        )
    return train_N


def training_domain(tiles: TileSet, train_N: NDArray[np.bool_]) -> str:
    """Return the domain of the training tiles, "breakhis 100X"; the data set's name where there are several."""
    domains = set(domains_of(tiles.take(np.flatnonzero(train_N))))
    return domains.pop() if len(domains) == 1 else tiles.name


def marks_of(tiles: TileSet) -> tuple[str, ...]:
    """Return the marks that a data set puts on every number made with it."""
    skipped = (f"{tiles.n_skipped:,} SKIPPED",) if tiles.n_skipped else ()
    moved = (LABEL_MOVED,) if tiles.label_moved else ()
    return (*((SYNTHETIC,) if tiles.synthetic else ()), *moved, *skipped)


def describe_choice(result: SweepResult, trained_on: str) -> SweepChoice:
    """Return what a sweep chose, for people."""
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
    )


def _score_all(
    material: Material, scored: list[tuple[str, Predictions]], settings: StudySettings, marks: tuple[str, ...]
) -> tuple[ScoredArm, ...]:
    """Score every arm on every domain; untuned heads last."""
    trained_on = f"{_trained_on(material.tiles, settings)}, cross-fitted over {settings.evaluation.outer_folds} folds"
    rows: list[ScoredArm] = []
    for arm, predictions in scored:
        rows += score_domains(arm, predictions, trained_on, settings.interval, marks)
    if "untuned" in settings.evaluation.floors:
        labelled = np.flatnonzero(material.tiles.labels_N >= 0)
        draws, seed = settings.evaluation.untuned_draws, settings.evaluation.seed
        rows += untuned_arms(material, labelled, draws, seed, marks)
    return tuple(rows)


def _in_domain(rows: tuple[ScoredArm, ...], tiles: TileSet, plan: CrossFitPlan, settings: StudySettings) -> Finding:
    domain = training_domain(tiles, plan.train_N)
    inside = {domain} if settings.evaluation.train_magnification else {row.domain for row in rows}
    return Finding(
        "in-domain",
        f"Held-out cases, {domain}",
        f"{_protocol(settings)} Every tile is scored by a head whose training and selection excluded its case.",
        tuple(row for row in rows if row.domain in inside),
        _group_notes(tiles),
    )


def _cross_magnification(rows: tuple[ScoredArm, ...], tiles: TileSet, settings: StudySettings) -> tuple[Finding, ...]:
    """One table over all magnifications; nothing where there is only one."""
    if settings.evaluation.train_magnification is None or len({row.domain for row in rows}) < 2:
        return ()
    title = f"Trained at {settings.evaluation.train_magnification}, scored at every magnification"
    protocol = (
        f"{_protocol(settings)} Folds are made once over the cases of all magnifications, so that no case that "
        "trained a head is scored by it at any magnification."
    )
    return (Finding("cross-magnification", title, protocol, rows, _scale_notes(tiles)),)


def _fit_arms(
    arms: tuple[ArmMaterial, ...], plan: CrossFitPlan, settings: StudySettings
) -> tuple[list[CrossFit], CrossFit | None]:
    """Cross-fit every arm, and the probe once more over random image folds where the leak is priced."""
    jobs = [(arm.material, plan) for arm in arms]
    if settings.evaluation.leak_price:
        jobs.append((arms[0].material, _leaky_plan(arms[0].material, plan, settings)))
    small = int(plan.train_N.sum()) <= SMALL_ROWS
    fits = map_small(lambda job: cross_fit(*job, settings.sweep), jobs, small)
    return fits[: len(arms)], fits[len(arms)] if settings.evaluation.leak_price else None


def _leaky_plan(material: Material, plan: CrossFitPlan, settings: StudySettings) -> CrossFitPlan:
    """The same tiles, fold sizes and selection rule, but tiles of one case on both sides."""
    tile_ids = np.array(material.tiles.tile_ids)
    rows = np.flatnonzero(plan.train_N)
    rows = rows[np.argsort(tile_ids[rows])]  # the draw follows this order, so that row order changes nothing
    fold_N = np.full(len(plan.fold_N), -1, dtype=np.int64)
    labels = material.tiles.labels_N[rows]
    fold_N[rows] = random_image_folds_like(plan.fold_N[rows], labels, settings.evaluation.seed)
    return CrossFitPlan(plan.train_N, fold_N, f"{plan.split_hash}:random-images", "image", plan.seed)


def _leak_price(
    grouped: CrossFit, leaky: CrossFit, plan: CrossFitPlan, settings: StudySettings, marks: tuple[str, ...]
) -> Finding:
    honest = grouped.predictions.where(pl.col("tile_id").is_in(leaky.predictions.table["tile_id"].implode()))
    trained_on = "the same tiles"
    rows = [
        *score_domains(PROBE, honest, trained_on, settings.interval, marks),
        *score_domains(RANDOM_SPLIT, leaky.predictions, trained_on, settings.interval, (*marks, LEAKY)),
    ]
    differences = tuple(
        paired_difference(leaky.predictions, honest, metric, settings.interval, within_folds=True)
        for metric in ("auroc", "balanced_accuracy", "accuracy")
    )
    narrow = (TOO_NARROW,) if settings.interval.cluster == "tile" else ()
    rows.append(
        ScoredArm(DIFFERENCE, rows[0].domain, trained_on, rows[0].input_mpp, differences, (*marks, LEAKY, *narrow))
    )
    protocol = (
        "Both arms: the same tiles, the same fold sizes and class counts, the same sweep and selection rule; only in "
        "the random arm tiles of one case stand on both sides. Differences are paired by tile and resampled by case."
    )
    return Finding("leak-price", "What a random image split would have claimed", protocol, tuple(rows))


def _majority(material: Material, plan: CrossFitPlan, probe: Predictions) -> Predictions:
    labels_N = material.tiles.labels_N
    rows = np.flatnonzero((plan.fold_N >= 0) & (labels_N >= 0))
    n_folds = int(plan.fold_N.max()) + 1
    train_sets = [labels_N[plan.train_N & (plan.fold_N != fold)] for fold in range(n_folds)]
    return majority_predictions(material, rows, train_sets, probe)


def _trained_on(tiles: TileSet, settings: StudySettings) -> str:
    return f"{tiles.name} {settings.evaluation.train_magnification or 'all tiles'}"


def _protocol(settings: StudySettings) -> str:
    evaluation, sweep = settings.evaluation, settings.sweep
    return (
        f"Nested grouped cross-validation: {evaluation.outer_folds} outer folds (seed {evaluation.seed}), inside each "
        f"{len(sweep.penalties)} penalties chosen by {sweep.folds}-fold grouped cross-validation on group-balanced "
        f"log-loss (seed {sweep.seed}). AUROC counts pairs within a fold; other scores pool the folds."
    )


def _group_notes(tiles: TileSet) -> tuple[str, ...]:
    if tiles.has_groups:
        return ()
    return ("Some tiles have no known case or slide: each counts as its own group, so leakage can't be excluded.",)


def _scale_notes(tiles: TileSet) -> tuple[str, ...]:
    sources = sorted(set(tiles.table["mpp_source"].drop_nulls()))
    return (f"input_mpp rests on {' and '.join(sources)} pixel sizes.",) if sources else ()
