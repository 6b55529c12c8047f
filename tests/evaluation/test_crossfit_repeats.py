"""Training-set variability: the same cross-fit over other folds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from histotune.evaluation.config import EvaluationConfig
from histotune.evaluation.crossfit import cross_fit, repeat_plans
from histotune.evaluation.findings import Finding
from histotune.evaluation.held_out import ArmMaterial, StudySettings, study_source
from histotune.evaluation.material import Material
from histotune.evaluation.plan import plan_source
from histotune.heads.config import SweepConfig
from histotune.heads.family import SweepSupport
from histotune.statistics.predictions import IntervalConfig
from histotune.tools.marks import PROBE, REPEATED

MakeMaterial = Callable[..., Material]
SWEEP = SweepConfig(penalties=(0.01, 0.1), folds=3)
EVALUATION = EvaluationConfig(train_magnification="100X", outer_folds=4, leak_price=False, floors=(), repeats=3)


def in_domain(material: Material, evaluation: EvaluationConfig = EVALUATION) -> Finding:
    settings = StudySettings(evaluation, SWEEP, IntervalConfig(n_resamples=200))
    study = study_source((ArmMaterial(PROBE, material),), settings)
    return next(finding for finding in study.findings if finding.id == "in-domain")


def test_every_repeat_is_a_cross_fit_of_its_own(material: MakeMaterial) -> None:
    tiles = material(n_groups=20, class_effect=0.6)
    row = in_domain(tiles).row(REPEATED)
    plan = plan_source(tiles.tiles, EVALUATION).fit
    expected = []
    for seed in range(4):
        own = plan_source(tiles.tiles, EVALUATION.model_copy(update={"seed": seed})).fit
        table = cross_fit(tiles, own, SWEEP, SweepSupport()).predictions.table.filter(pl.col("domain") == row.domain)
        pairs, won = 0, 0.0
        for _, fold in table.group_by("fold"):  # AUROC within folds: comparable pairs count alike
            n_pairs = fold["y_true"].sum() * (1 - fold["y_true"]).sum()
            logit_NK = np.stack(fold["logit"].to_list())
            margin = logit_NK[:, 1] - logit_NK[:, 0]
            won += n_pairs * roc_auc_score(fold["y_true"], margin) if n_pairs else 0.0
            pairs += n_pairs
        expected.append(won / pairs)
    assert len(repeat_plans(tiles, plan, EVALUATION)) == 4
    score = row.score("auroc")
    assert score.value == pytest.approx(np.mean(expected), abs=1e-9)
    assert score.interval.high - score.interval.low == pytest.approx(2 * np.std(expected, ddof=1), abs=1e-9)
    assert "no confidence interval" in score.interval.method


def test_a_given_split_says_why_there_is_none(material: MakeMaterial) -> None:
    given = in_domain(material(n_groups=20), EVALUATION.model_copy(update={"split": "grouped-4-seed0"}))
    assert given.row(REPEATED) is None
    assert any("can't be drawn where a split is given" in note for note in given.notes)


def test_none_is_the_default(material: MakeMaterial) -> None:
    assert in_domain(material(n_groups=20), EVALUATION.model_copy(update={"repeats": 0})).row(REPEATED) is None


def test_repeats_do_not_depend_on_row_order(material: MakeMaterial) -> None:
    made = material(n_groups=16)
    order = np.random.default_rng(0).permutation(len(made.tiles))
    mixed = replace(made, tiles=made.tiles.take(order), embeddings=made.embeddings.take(order),
                    input_mpp_N=made.input_mpp_N[order])  # fmt: skip
    first, second = (in_domain(one).row(REPEATED).score("auroc") for one in (made, mixed))
    assert first.value == pytest.approx(second.value, abs=1e-6)
