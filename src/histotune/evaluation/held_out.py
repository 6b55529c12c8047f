"""The study of one data set: held-out cases at every magnification, floors, and the leak's price."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.datasets.splits.folds import random_image_folds_like
from histotune.evaluation.choice import describe_choice
from histotune.evaluation.crossfit import CrossFit, cross_fit, repeat_plans, repeated_arm
from histotune.evaluation.decisions import with_decisions
from histotune.evaluation.findings import Finding, Scored, ScoredArm
from histotune.evaluation.floors import (
    NullPlan,
    compare_first,
    majority_predictions,
    null_arms,
    twins_arm,
    untuned_arms,
    with_known_values,
)
from histotune.evaluation.material import domains_of
from histotune.evaluation.plan import CrossFitPlan, marks_of, plan_source, training_domain
from histotune.evaluation.robustness import EmbeddedArm, RobustnessSettings, map_embeddings, score_robustness
from histotune.evaluation.scoring import score_domains, score_parts, score_units
from histotune.heads.family import SweepSupport
from histotune.heads.label_efficiency import label_efficiency
from histotune.heads.outliers import find_far, join_far
from histotune.statistics.comparison import paired_difference
from histotune.tools.devices import SMALL_ROWS, map_small
from histotune.tools.marks import (
    DIFFERENCE,
    LEAKY,
    MAJORITY,
    PROBE,
    RANDOM_SPLIT,
    RANDOM_WEIGHTS,
    TOO_NARROW,
    TUNED,
    VARIED,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.datasets.splits.split import Split
    from histotune.datasets.tileset import TileSet
    from histotune.evaluation.config import EvaluationConfig
    from histotune.evaluation.findings import SweepChoice
    from histotune.evaluation.material import Material
    from histotune.evaluation.plan import SourcePlan
    from histotune.evaluation.tuned import TunedCrossFit, TuningTools
    from histotune.heads.config import SweepConfig
    from histotune.heads.head import Head, SweepResult
    from histotune.statistics.predictions import IntervalConfig, Predictions


QUICK_VALUES, QUICK_DRAWS, SLOW_DRAWS = 2**22, 20, 3
"""Values of training tiles x columns up to which a fit takes about a second, and draws of the null control."""


@dataclass(frozen=True)
class ArmMaterial:
    """A data set as the backbone of one arm sees it."""

    arm: str
    material: Material


@dataclass(frozen=True)
class ArmSweep:
    """The sweeps of one arm: the probe's, or a floor's own tuned probe.

    Attributes:
        arm: Its name.
        result: The final sweep, on all training tiles.
        folds: The sweep of every outer fold.
        sweep_s: Seconds for all of them.
    """

    arm: str
    result: SweepResult
    folds: tuple[SweepResult, ...] = ()
    sweep_s: float = 0.0


@dataclass(frozen=True)
class StudySettings:
    """What a study needs to know besides its data.

    Attributes:
        evaluation: What is scored.
        sweep: Which heads are tried.
        interval: How intervals are made.
        target_split: Split that fills the target's parts; None takes its official ones.
        support: Solved fits to read and add to.
        tuning: What fine-tunes the probe's backbone; None leaves it as it is.
    """

    evaluation: EvaluationConfig
    sweep: SweepConfig
    interval: IntervalConfig
    target_split: Split | None = None
    support: SweepSupport = field(default_factory=SweepSupport)
    tuning: TuningTools | None = None

    @property
    def robustness(self) -> RobustnessSettings:
        """How the robustness index is made."""
        return RobustnessSettings(self.evaluation.robustness_k, self.evaluation.seed, self.interval)


@dataclass(frozen=True)
class SourceStudy:
    """Findings on one data set and the heads that go on to others.

    Attributes:
        findings: In-domain, cross-magnification and leak's price, in this order, where they apply.
        scored: The predictions behind them.
        finals: Final sweep per arm, the probe first.
        choice: What the probe's sweep chose.
        split_hash: Hash of the split.
        scored_words: What was scored, for the ledger: "cross-fit", or a split's name and part.
        train_labels: Labels of the training tiles.
        leaky: Sweeps over random image folds; None where the leak was not priced.
        label_efficiency: Score against the number of training groups; None where it was not asked for.
        embedding_map: Where in-domain tiles lie on a map of what the probe reads; None where it was not asked for.
        tuned: The fine-tuned models; None where nothing was fine-tuned.
        carried: Further heads that go on to another data set, by arm: that of the fine-tuned backbone.
    """

    findings: tuple[Finding, ...]
    scored: tuple[Scored, ...]
    finals: tuple[ArmSweep, ...]
    choice: SweepChoice
    split_hash: str
    scored_words: str
    train_labels: NDArray[np.int64]
    leaky: ArmSweep | None = None
    label_efficiency: pl.DataFrame | None = None
    embedding_map: pl.DataFrame | None = None
    tuned: TunedCrossFit | None = None
    carried: tuple[tuple[str, Head], ...] = ()


def study_source(
    arms: tuple[ArmMaterial, ...], settings: StudySettings, twins: tuple[Material, ...] = ()
) -> SourceStudy:
    """Cross-fit every arm over the same folds, or train on one part and score another, at every magnification.

    Args:
        arms: The probe first, then floors that are backbones with their own tuned probe; same tiles.
        settings: What to score and how.
        twins: Some of the tiles as further draws of the random weights see them.

    Returns:
        The findings.

    Raises:
        UserError: As :func:`~histotune.evaluation.plan.plan_source`.
    """
    tiles, evaluation = arms[0].material.tiles, settings.evaluation
    plan = plan_source(tiles, evaluation)
    train_N = plan.fit.train_N
    fits, leaky = _fit_arms(arms, plan, settings)
    scored = [(arm.arm, fit.predictions) for arm, fit in zip(arms, fits, strict=True)]
    tuned = _tuned(arms[0].material, plan, fits[0], settings)
    if tuned is not None:
        scored[1:1] = [(TUNED, tuned.predictions), *_varied(arms[0].material, plan, fits[0], settings)]
    if "majority" in evaluation.floors:
        scored.append((MAJORITY, _majority(arms[0].material, plan.fit, fits[0].predictions)))
    trained_on = f"{tiles.name} {evaluation.train_magnification or 'all tiles'}, {plan.trained()}"
    labelled = np.flatnonzero((tiles.labels_N >= 0) & (plan.fit.fold_N >= 0))
    rows = score_arms(arms[0].material, scored, trained_on, marks_of(tiles, plan.split), labelled, settings)
    rows = with_decisions(rows, scored[0][1], settings.interval)
    inside = _with_repeats(_in_domain(rows, tiles, plan, settings), arms[0].material, plan, settings)
    inside = _with_twins(inside, arms, plan, settings, twins)
    probes = [row for row in inside.rows if row.arm == arms[0].arm]
    read = [EmbeddedArm(arm.arm, arm.material, fit.final.head.pooling) for arm, fit in zip(arms, fits, strict=True)]
    index = score_robustness(read, scored[0][1], probes, settings.robustness)
    inside = replace(with_details(inside, scored, tiles, settings), robustness=index)
    findings = [
        _with_far(one, (arms[0].material, plan.fit), fits[0])
        for one in (inside, *_cross_magnification(rows, tiles, plan, settings))
    ]
    kept = [Scored("cross-magnification", arm, predictions) for arm, predictions in scored]
    if leaky is not None:
        findings.append(_leak_price((fits[0], leaky), (arms[0].material, plan), settings))
        kept.append(Scored("leak-price", RANDOM_SPLIT, leaky.predictions))
    return SourceStudy(
        findings=tuple(findings),
        scored=tuple(kept),
        finals=tuple(_arm_sweep(arm.arm, fit) for arm, fit in zip(arms, fits, strict=True)),
        choice=describe_choice(fits[0].final, training_domain(tiles, train_N), tiles),
        split_hash=plan.split.split_hash,
        scored_words=f"{plan.split.name} {plan.part}" if plan.part else "cross-fit",
        train_labels=tiles.labels_N[train_N],
        leaky=None if leaky is None else _arm_sweep(RANDOM_SPLIT, leaky),
        label_efficiency=_label_efficiency(arms[0].material, fits[0], settings),
        embedding_map=map_embeddings(read[0], scored[0][1], probes, evaluation),
        tuned=tuned,
    )


def _tuned(material: Material, plan: SourcePlan, probe: CrossFit, settings: StudySettings) -> TunedCrossFit | None:
    """Fine-tune over the probe's own folds, where that is asked for."""
    if settings.tuning is None:
        return None
    from histotune.evaluation.tuned import tuned_cross_fit  # with torch, which no other study needs by now

    return tuned_cross_fit(material, plan.fit, settings.tuning, probe.folds)


def _varied(
    material: Material, plan: SourcePlan, probe: CrossFit, settings: StudySettings
) -> list[tuple[str, Predictions]]:
    """Return the probe on the tiles as training varies them, where it does and keeps what it sees."""
    tools = settings.tuning
    if tools is None or tools.bench.n_views < 2 or not tools.bench.cuts:
        return []
    from histotune.evaluation.tuned import varied_cross_fit

    return [(VARIED, varied_cross_fit(material, plan.fit, tools, probe.final))]


def score_arms(
    material: Material,
    scored: list[tuple[str, Predictions]],
    trained_on: str,
    marks: tuple[str, ...],
    rows: NDArray[np.int64],
    settings: StudySettings,
) -> tuple[ScoredArm, ...]:
    """Score every arm on every domain; untuned heads, on some rows of the material, last."""
    arms: list[ScoredArm] = []
    for arm, predictions in scored:
        rows_of_arm = score_domains(arm, predictions, trained_on, settings.interval, marks)
        arms += map(with_known_values, rows_of_arm) if arm == MAJORITY else rows_of_arm
    if "untuned" in settings.evaluation.floors:
        arms += untuned_arms(material, rows, settings.evaluation.untuned_draws, settings.evaluation.seed, marks)
    return tuple(arms)


def with_details(
    finding: Finding, scored: list[tuple[str, Predictions]], tiles: TileSet, settings: StudySettings
) -> Finding:
    """Add the probe on units and parts, and less each floor; the probe is the first that was scored."""
    (probe, predictions), interval = scored[0], settings.interval
    probes = [row for row in finding.rows if row.arm == probe]
    units = score_units(predictions, settings.evaluation.aggregation, interval, probes)
    parts = (*units, *score_parts(predictions, tiles, interval, probes))
    paired = compare_first(scored, [row.domain for row in probes], settings.evaluation, interval)
    return replace(finding, parts=parts, paired=paired)


def _with_far(finding: Finding, of: tuple[Material, CrossFitPlan], fit: CrossFit) -> Finding:
    """Warn of scored tiles that lie far outside of what trained the heads that scored them."""
    (material, plan), domains = of, {row.domain for row in finding.rows}
    inside_N = np.array([domain in domains for domain in domains_of(material.tiles)]) & (material.tiles.labels_N >= 0)
    folds = sorted({int(fold) for fold in plan.fold_N[plan.fold_N >= 0]})
    heads = zip(folds, fit.folds, strict=True)
    rows = ((result.head, np.flatnonzero(inside_N & (plan.fold_N == fold))) for fold, result in heads)
    note = join_far([find_far(head, material.embeddings, own) for head, own in rows]).note()
    return replace(finding, notes=(*finding.notes, note)) if note else finding


def _in_domain(rows: tuple[ScoredArm, ...], tiles: TileSet, plan: SourcePlan, settings: StudySettings) -> Finding:
    domain = training_domain(tiles, plan.fit.train_N)
    inside = {domain} if settings.evaluation.train_magnification else {row.domain for row in rows}
    clean = (
        "" if plan.split.leaky else " Every tile is scored by a head whose training and selection excluded its case."
    )
    return Finding(
        "in-domain",
        f"Held-out {'tiles' if plan.split.leaky else 'cases'}, {domain}",
        f"{plan.protocol(settings.sweep)}{clean}",
        tuple(row for row in rows if row.domain in inside),
        plan.notes(settings.evaluation.leak_price),
    )


def _with_repeats(finding: Finding, material: Material, plan: SourcePlan, settings: StudySettings) -> Finding:
    """Add how the probe's scores move when other cases train, or why that can't be told."""
    evaluation, probe = settings.evaluation, finding.row(PROBE)
    if not evaluation.repeats or probe is None:
        return finding
    if evaluation.split is not None or not plan.prices_leak:
        why = "Training-set variability is not measured: other folds can't be drawn where a split is given."
        return replace(finding, notes=(*finding.notes, why))
    plans = repeat_plans(material, plan.fit, evaluation)
    row = repeated_arm(material, plans, (settings.sweep, settings.support), probe)
    if row is None:
        return replace(finding, notes=(*finding.notes, "Training-set variability: other folds could not be trained."))
    return replace(finding, rows=(finding.rows[0], row, *finding.rows[1:]))


def _with_twins(
    finding: Finding,
    arms: tuple[ArmMaterial, ...],
    plan: SourcePlan,
    settings: StudySettings,
    twins: tuple[Material, ...],
) -> Finding:
    """Add how the random-weight floor moves when its weights are drawn again, behind that floor."""
    place = next((number for number, row in enumerate(finding.rows) if row.arm == RANDOM_WEIGHTS), None)
    whole = next((arm.material for arm in arms if arm.arm == RANDOM_WEIGHTS), None)
    if place is None or whole is None or not twins:
        return finding
    row = twins_arm(finding.rows[place], (whole, *twins), plan.fit, (settings.sweep, settings.support))
    if row is None:
        why = "Other draws of the random weights: some of their folds could not be trained on so few tiles."
        return replace(finding, notes=(*finding.notes, why))
    return replace(finding, rows=(*finding.rows[: place + 1], row, *finding.rows[place + 1 :]))


def _cross_magnification(
    rows: tuple[ScoredArm, ...], tiles: TileSet, plan: SourcePlan, settings: StudySettings
) -> tuple[Finding, ...]:
    """One table over all magnifications; nothing where there is only one."""
    if settings.evaluation.train_magnification is None or len({row.domain for row in rows}) < 2:
        return ()
    title = f"Trained at {settings.evaluation.train_magnification}, scored at every magnification"
    clean = (
        " The split speaks of the cases of all magnifications, so that no case that trained a head is scored by it at "
        "any magnification."
    )
    protocol = f"{plan.protocol(settings.sweep)}{'' if plan.split.leaky else clean}"
    return (Finding("cross-magnification", title, protocol, rows, _scale_notes(tiles)),)


def _fit_arms(
    arms: tuple[ArmMaterial, ...], plan: SourcePlan, settings: StudySettings
) -> tuple[list[CrossFit], CrossFit | None]:
    """Cross-fit every arm, and the probe once more over random image folds where the leak is priced."""
    priced = settings.evaluation.leak_price and plan.prices_leak
    jobs = [(arm.material, plan.fit) for arm in arms]
    if priced:
        jobs.append((arms[0].material, _leaky_plan(arms[0].material, plan.fit, settings)))
    small = int(plan.fit.train_N.sum()) <= SMALL_ROWS
    fits = map_small(lambda job: cross_fit(*job, settings.sweep, settings.support), jobs, small)
    return fits[: len(arms)], fits[len(arms)] if priced else None


def _label_efficiency(material: Material, fit: CrossFit, settings: StudySettings) -> pl.DataFrame | None:
    if not settings.sweep.label_efficiency.draws or fit.task.fold_labels != "grouped":
        return None
    head, sweep = fit.final.head, settings.sweep
    return label_efficiency(material.embeddings, fit.task, head, sweep, settings.interval, settings.support)


def _arm_sweep(arm: str, fit: CrossFit) -> ArmSweep:
    """An arm's sweeps; where one part is scored there is one sweep, and it is the final one."""
    folds = tuple(result for result in fit.folds if result is not fit.final)
    return ArmSweep(arm, fit.final, folds, fit.sweep_s)


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
    fits: tuple[CrossFit, CrossFit], context: tuple[Material, SourcePlan], settings: StudySettings
) -> Finding:
    (grouped, leaky), (material, plan) = fits, context
    marks = marks_of(material.tiles, plan.split)
    honest = grouped.predictions.where(pl.col("tile_id").is_in(leaky.predictions.table["tile_id"].to_list()))
    trained_on = "the same tiles"
    rows = [
        *score_domains(PROBE, honest, trained_on, settings.interval, marks),
        *score_domains(RANDOM_SPLIT, leaky.predictions, trained_on, settings.interval, _with_leaky(marks)),
    ]
    differences = tuple(
        paired_difference(leaky.predictions, honest, metric, settings.interval, within_folds=True)
        for metric in ("auroc", "balanced_accuracy", "accuracy")
    )
    narrow = (TOO_NARROW,) if settings.interval.cluster == "tile" else ()
    rows.append(
        ScoredArm(
            DIFFERENCE, rows[0].domain, trained_on, rows[0].input_mpp, differences, (*_with_leaky(marks), *narrow)
        )
    )
    null = _null_plan(material, plan, settings)
    if null.n_draws:
        rows += null_arms(material, null, (rows[0], rows[1]))
    protocol = (
        "AUROC of each arm counts pairs of tiles that one head scored, which are those within a fold of that arm. Both "
        "arms: the same tiles, the same fold sizes and class counts, the same sweep and selection rule; only in "
        "the random arm tiles of one case stand on both sides. Differences are paired by tile, intervals are over "
        "cases. Null control: the same two arms with labels permuted among cases, so that only the case can be learned."
    )
    return Finding("leak-price", "What a random image split would have claimed", protocol, tuple(rows))


def _null_plan(material: Material, plan: SourcePlan, settings: StudySettings) -> NullPlan:
    leaky = _leaky_plan(material, plan.fit, settings)
    grouped = replace(plan.fit, fold_N=np.where(plan.fit.train_N, plan.fit.fold_N, -1))
    draws, seed = settings.evaluation.leak_null_draws, settings.evaluation.seed
    if draws is None:
        size = int(plan.fit.train_N.sum()) * material.embeddings.matrix_ND.shape[1]
        draws = QUICK_DRAWS if size <= QUICK_VALUES else SLOW_DRAWS
    return NullPlan(grouped, leaky, settings.sweep, draws, seed, settings.support)


def _majority(material: Material, plan: CrossFitPlan, probe: Predictions) -> Predictions:
    labels_N = material.tiles.labels_N
    rows = np.flatnonzero((plan.fold_N >= 0) & (labels_N >= 0))
    n_folds = int(plan.fold_N.max()) + 1
    train_sets = [labels_N[plan.train_N & (plan.fold_N != fold)] for fold in range(n_folds)]
    return majority_predictions(material, rows, train_sets, probe)


def _with_leaky(marks: tuple[str, ...]) -> tuple[str, ...]:
    return marks if LEAKY in marks else (*marks, LEAKY)


def _scale_notes(tiles: TileSet) -> tuple[str, ...]:
    sources = sorted(set(tiles.table["mpp_source"].drop_nulls()))
    return (f"input_mpp rests on {' and '.join(sources)} pixel sizes.",) if sources else ()
