"""Fine-tuned models cross-fitted beside their probe, and in words whether that helped."""

# N tiles, n rows, K classes

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from histotune.backbones.spec import ColumnBlock
from histotune.datasets.splits.split import tile_groups
from histotune.evaluation.findings import TunedChoice
from histotune.evaluation.material import ScoredRows, build_predictions
from histotune.finetune.outcome import tuned_columns
from histotune.finetune.tuning import TunedSet, TuningRequest, tune_set
from histotune.heads.family import SweepTask
from histotune.heads.head import class_probabilities, head_logits
from histotune.heads.sweep import sweep
from histotune.tools.files import hash_bytes
from histotune.tools.marks import TUNED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.evaluation.material import Material
    from histotune.evaluation.plan import CrossFitPlan
    from histotune.finetune.workbench import TuningBench
    from histotune.heads.head import Head, SweepResult
    from histotune.statistics.predictions import Predictions

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]


COLUMNS = "columns"


@dataclass(frozen=True)
class TuningTools:
    """What a study needs in order to fine-tune.

    Attributes:
        bench: The network and the tiles.
        request: How the probe is found, and where state is kept.
    """

    bench: TuningBench
    request: TuningRequest


@dataclass(frozen=True)
class TunedCrossFit:
    """Predictions of what fine-tuning returns, and the model of all training tiles.

    Attributes:
        predictions: A row per scored tile: by the tuned model of its fold, or by the probe where that was kept.
        final: Fine-tuned on all training tiles; where a part is scored, what scored it.
        folds: One per outer fold.
        tune_s: Seconds for all of them.
    """

    predictions: Predictions
    final: TunedSet
    folds: tuple[TunedSet, ...]
    tune_s: float

    @property
    def n_tuned(self) -> int:
        """Outer folds that returned a tuned model."""
        return sum(one.decided.verdict == "tuned" for one in self.folds)


@dataclass(frozen=True)
class _Said:
    """What one fold's model says of its tiles."""

    rows: Int
    logit_nK: Float
    probability_nK: Float
    threshold: float
    head_id: str


def tuned_cross_fit(
    material: Material, plan: CrossFitPlan, tools: TuningTools, probes: Sequence[SweepResult]
) -> TunedCrossFit:
    """Fine-tune once per outer fold and once on all training tiles; score each fold with what it returned.

    Args:
        material: The tiles as the frozen backbone sees them.
        plan: Who trains and who is scored; the same as the probe's.
        tools: What fine-tunes.
        probes: The probe of every outer fold, in order: what scores a fold where fine-tuning is not borne out.

    Returns:
        Predictions of every scored tile, by a model whose training and choices never saw its group.
    """
    start = time.perf_counter()
    labelled_N = material.tiles.labels_N >= 0
    train_N = plan.train_N & labelled_N
    folds = sorted({int(fold) for fold in plan.fold_N[plan.fold_N >= 0]})
    by_fold, said = [], []
    for fold, probe in zip(folds, probes, strict=True):
        tuned = tune_set(tools.bench, train_N & (plan.fold_N != fold), tools.request, f"fold{fold}")
        said.append(_said(material, tuned, probe.head, np.flatnonzero((plan.fold_N == fold) & labelled_N)))
        by_fold.append(_without_model(tuned))
    alone = len(folds) == 1 and not (train_N & (plan.fold_N == folds[0])).any()  # a part is scored: one training set
    final = tuned if alone else tune_set(tools.bench, train_N, tools.request, "all")
    return TunedCrossFit(_joined(material, plan, said), final, tuple(by_fold), time.perf_counter() - start)


def varied_cross_fit(material: Material, plan: CrossFitPlan, tools: TuningTools, probe: SweepResult) -> Predictions:
    """Score a probe that learned from the same varied tiles as the network: what varying them alone brings.

    Args:
        material: The tiles as the frozen backbone sees them.
        plan: Who trains and who is scored; the same as the probe's.
        tools: What fine-tunes; its views of a tile are what the probe learns from.
        probe: Any probe of the study; says which columns a head reads.

    Returns:
        Predictions of every scored tile as it is.
    """
    bench, tiles, n = tools.bench, material.tiles, len(material.tiles)
    labelled_N = tiles.labels_N >= 0
    train_N, folds = plan.train_N & labelled_N, sorted({int(fold) for fold in plan.fold_N[plan.fold_N >= 0]})
    start = bench.start(probe.head)  # not trained: the frozen network
    bench.prepare(start.inputs, np.flatnonzero(train_N), np.arange(n))
    rows_of = [np.arange(n), *(np.flatnonzero(train_N) for _ in range(1, bench.n_views))]
    x_MD = np.concatenate([tuned_columns(start.model, start.inputs, rows, view) for view, rows in enumerate(rows_of)])
    row_M = np.concatenate(rows_of)
    ids, groups = tiles.tile_ids, tile_groups(tiles)
    seen = replace(
        material.embeddings,
        matrix_ND=x_MD.astype(np.float32),
        blocks=(ColumnBlock(COLUMNS, 0, x_MD.shape[1]),),
        tile_ids=tuple(f"{number} {ids[row]}" for number, row in enumerate(row_M)),
        sha256_N32=None,
    )
    sets_SM = np.stack([(train_N & (plan.fold_N != fold))[row_M] for fold in folds])
    groups_M = tuple(groups[row] for row in row_M)
    task = SweepTask(tiles.labels_N[row_M], groups_M, tiles.class_names, sets_SM, "grouped", (COLUMNS,), ())
    said = []
    for fold, result in zip(folds, sweep(seen, task, tools.request.sweep, tools.request.support), strict=True):
        rows = np.flatnonzero((plan.fold_N == fold) & labelled_N)
        logit_nK = head_logits(result.head, seen.take(rows))
        head = result.head
        said.append(_Said(rows, logit_nK, class_probabilities(head, logit_nK), head.threshold, head.head_id))
    return _joined(material, plan, said)


def _said(material: Material, tuned: TunedSet, head: Head, rows: Int) -> _Said:
    """Return what the model that one training set returned says of some tiles."""
    if tuned.start is None:
        logit_nK = head_logits(head, material.embeddings.take(rows))
        return _Said(rows, logit_nK, class_probabilities(head, logit_nK), head.threshold, head.head_id)
    logit_nK = tuned.logits(rows)
    name = hash_bytes(TUNED, logit_nK.tobytes(), head.head_id)[:16]
    return _Said(rows, logit_nK, tuned.probabilities(logit_nK), tuned.decided.decision.threshold, name)


def _joined(material: Material, plan: CrossFitPlan, said: Sequence[_Said]) -> Predictions:
    """Return the folds' predictions as one table."""
    rows = np.concatenate([one.rows for one in said])
    scored = ScoredRows(
        rows,
        np.concatenate([one.logit_nK for one in said]),
        np.concatenate([one.probability_nK for one in said]),
        [one.head_id for one in said for _ in one.rows],
        plan.fold_N[rows],
        plan.seed,
        plan.split_hash,
        np.concatenate([np.full(len(one.rows), one.threshold) for one in said]),
    )
    return build_predictions(material, scored)


def _without_model(tuned: TunedSet) -> TunedSet:
    """Return a fold's record without its model, so that one network is in memory at a time."""
    return TunedSet(tuned.probe, tuned.decided)


def describe_tuning(fit: TunedCrossFit, tools: TuningTools) -> TunedChoice:
    """Return what fine-tuning decided, for people and ``scores.json``."""
    config, decided = tools.bench.config, fit.final.decided
    return TunedChoice(
        method=config.method.name,
        verdict=decided.verdict,
        rate=decided.rate,
        epochs=decided.epoch,
        gain=decided.gain,
        gain_se=decided.gain_se,
        n_tuning_groups=decided.n_groups,
        n_folds=len(fit.folds),
        n_folds_tuned=fit.n_tuned,
        reason=decided.reason,
    )
