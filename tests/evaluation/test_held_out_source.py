"""Held-out means held out: at every magnification, and in every selection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from histotune.datasets.splits.folds import fold_per_tile, grouped_folds
from histotune.datasets.splits.split import tile_groups
from histotune.evaluation.answer import write_answer
from histotune.evaluation.config import EvaluationConfig
from histotune.evaluation.crossfit import cross_fit
from histotune.evaluation.held_out import ArmMaterial, SourceStudy, StudySettings, study_source
from histotune.evaluation.material import Material
from histotune.evaluation.plan import CrossFitPlan
from histotune.heads.config import SweepConfig
from histotune.heads.family import SweepTask
from histotune.heads.sweep import sweep
from histotune.statistics.predictions import IntervalConfig
from histotune.tools.errors import UserError
from histotune.tools.marks import DIFFERENCE, PROBE, RANDOM_SPLIT

MakeMaterial = Callable[..., Material]
SWEEP = SweepConfig(penalties=(0.01, 0.1, 1.0), folds=3)
INTERVAL = IntervalConfig(n_resamples=200)


def study(material: Material, **changes: object) -> SourceStudy:
    evaluation = EvaluationConfig(**{"train_magnification": "100X", "outer_folds": 4, "untuned_draws": 20, **changes})
    return study_source((ArmMaterial(PROBE, material),), StudySettings(evaluation, SWEEP, INTERVAL))


def test_every_labelled_tile_is_scored_once_and_by_a_head_that_never_saw_its_group(material: MakeMaterial) -> None:
    data = material()
    folds = grouped_folds(data.tiles, 4, 0)
    fold_N = fold_per_tile(data.tiles, folds)
    train_N = (data.tiles.table["magnification"] == "100X").to_numpy()
    fit = cross_fit(data, CrossFitPlan(train_N, fold_N, folds.split_hash, "grouped", 0), SWEEP)
    assert sorted(fit.predictions.table["tile_id"]) == sorted(data.tiles.tile_ids)
    heads_by_group = fit.predictions.table.group_by("group_id").agg(pl.col("head_id").n_unique())
    assert heads_by_group["head_id"].max() == 1
    assert fit.predictions.table["head_id"].n_unique() == 4
    assert fit.final.head.head_id not in set(fit.predictions.table["head_id"])


def test_held_out_tiles_do_not_reach_the_head_that_scores_them(material: MakeMaterial) -> None:
    """Preconditioning is shared over all rows: it may change the path of a fit, never its solution."""
    data = material()
    train_N = fold_per_tile(data.tiles, grouped_folds(data.tiles, 4, 0)) != 0
    task = SweepTask(
        labels_N=data.tiles.labels_N,
        groups=tuple(tile_groups(data.tiles)),
        class_names=data.tiles.class_names,
        train_sets_SN=train_N[None],
        fold_labels="grouped",
        default_pooling=("pooled",),
    )
    changed = data.embeddings.matrix_ND.copy()
    changed[~train_N] *= -3
    honest = sweep(data.embeddings, task, SWEEP)[0]
    tampered = sweep(replace(data.embeddings, matrix_ND=changed), task, SWEEP)[0]
    assert honest.head.penalty == tampered.head.penalty
    np.testing.assert_allclose(honest.head.weight_KD, tampered.head.weight_KD, atol=1e-5)


def test_findings_hold_the_probe_and_its_floors_at_every_magnification(material: MakeMaterial) -> None:
    found = study(material())
    by_id = {finding.id: finding for finding in found.findings}
    assert set(by_id) == {"in-domain", "cross-magnification", "leak-price"}
    table = by_id["cross-magnification"]
    assert {(row.arm, row.domain) for row in table.rows} == {
        (arm, domain) for arm in (PROBE, "majority class", "untuned head") for domain in ("toy 100X", "toy 400X")
    }
    assert {row.domain for row in by_id["in-domain"].rows} == {"toy 100X"}
    assert all(score.n_tiles == 96 and score.n_groups == 16 for row in table.rows for score in row.scores)


def test_a_learnable_class_is_learned_and_floors_stay_at_chance(material: MakeMaterial) -> None:
    finding = study(material(class_effect=1.5, group_effect=0.5)).findings[0]
    probe, majority, untuned = (finding.row(arm) for arm in (PROBE, "majority class", "untuned head"))
    assert probe is not None
    assert majority is not None
    assert untuned is not None
    assert probe.score("auroc").value > 0.95  # type: ignore[union-attr]
    assert majority.score("auroc").value == pytest.approx(0.5)  # type: ignore[union-attr]
    interval = untuned.score("auroc").interval  # type: ignore[union-attr]
    assert interval is not None
    assert interval.low < 0.5 < interval.high


@pytest.mark.slow
def test_without_any_class_signal_only_the_leaky_arm_looks_good(material: MakeMaterial) -> None:
    gaps, honest = [], []
    for seed in range(4):
        leak = study(material(class_effect=0.0, group_effect=3.0, seed=seed)).findings[-1]
        probe, leaky, difference = (leak.row(arm) for arm in (PROBE, RANDOM_SPLIT, DIFFERENCE))
        assert probe is not None
        assert leaky is not None
        assert difference is not None
        assert "LEAKY" in leaky.marks
        assert "LEAKY" not in probe.marks
        assert leaky.score("auroc").value > 0.9  # type: ignore[union-attr]
        expected = leaky.score("auroc").value - probe.score("auroc").value  # type: ignore[union-attr]
        assert difference.scores[0].value == pytest.approx(expected)
        gaps.append(difference.scores[0].value)
        honest.append(probe.score("auroc").value)  # type: ignore[union-attr]
    assert np.mean(gaps) > 0.25
    assert np.mean(honest) < 0.7


def test_row_order_changes_nothing(material: MakeMaterial) -> None:
    data = material()
    shuffled = data.take(np.random.default_rng(1).permutation(len(data.tiles)))
    first, second = study(data), study(shuffled)
    for left, right in zip(first.findings, second.findings, strict=True):
        for row, other in zip(left.rows, right.rows, strict=True):
            if row.arm == "untuned head":
                continue
            for score, twin in zip(row.scores, other.scores, strict=True):
                assert score.value == pytest.approx(twin.value, abs=1e-6, nan_ok=True)


def test_unknown_magnification_names_those_present(material: MakeMaterial) -> None:
    with pytest.raises(UserError, match=r"100X, 400X"):
        study(material(), train_magnification="10X")


def test_one_class_only_is_refused(material: MakeMaterial) -> None:
    data = material()
    benign = data.take(np.flatnonzero(data.tiles.labels_N == 0))
    with pytest.raises(UserError, match="at least two classes"):
        study(benign)


def test_fewer_groups_than_folds_is_refused(material: MakeMaterial) -> None:
    with pytest.raises(UserError, match="groups"):
        study(material(n_groups=3))


def test_synthetic_data_marks_every_row(material: MakeMaterial) -> None:
    found = study(material(synthetic=True))
    assert all("SYNTHETIC" in row.marks for finding in found.findings for row in finding.rows)


def test_the_answer_names_every_finding(material: MakeMaterial) -> None:
    answer = write_answer(study(material()).findings)
    for words in (
        "held-out cases of toy 100X",
        "random image split",
        "AUROC by magnification",
        "strongest floor",
        "interval",
    ):
        assert words in answer
