"""The probe less each floor: a paired family per domain and metric."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
import pytest
from pydantic import ValidationError

from histotune.evaluation.config import EvaluationConfig
from histotune.evaluation.held_out import ArmMaterial, StudySettings, study_source
from histotune.evaluation.material import Material
from histotune.heads.config import SweepConfig
from histotune.statistics.comparison import compare_arms
from histotune.statistics.predictions import ComparisonConfig, IntervalConfig

INTERVAL = IntervalConfig(n_resamples=200)
SWEEP = SweepConfig(penalties=(0.1, 1.0), folds=3)


def evaluation(**changes: object) -> EvaluationConfig:
    values = {
        "train_magnification": "100X",
        "outer_folds": 4,
        "floors": ("majority",),
        "leak_price": False,
        "repeats": 0,
    }
    return EvaluationConfig(**values | {"permutations": 199} | changes)  # type: ignore[arg-type]


def test_each_floor_is_compared_on_the_same_tiles(material: Callable[..., Material]) -> None:
    arms = (ArmMaterial("probe", material()), ArmMaterial("twin", material(class_effect=0.1)))
    study = study_source(arms, StudySettings(evaluation(), SWEEP, INTERVAL))
    inside, across = study.findings
    assert across.paired == ()
    found = {(pair.against, pair.difference.name): pair for pair in inside.paired}
    assert list(found) == [
        (arm, f"{metric} difference")
        for metric in ("auroc", "balanced_accuracy") for arm in ("twin", "majority class")
    ]  # fmt: skip
    for (arm, name), pair in found.items():
        metric = name.removesuffix(" difference")
        scores = [row.score(metric) for row in (inside.row("probe"), inside.row(arm)) if row is not None]
        values = [score.value for score in scores if score is not None]
        assert pair.domain == "toy 100X" and pair.difference.value == pytest.approx(values[0] - values[1])
    predictions = {one.arm: one.predictions for one in study.scored}
    here = {arm: part.where(pl.col("domain") == "toy 100X") for arm, part in predictions.items()}
    config = ComparisonConfig(family=(("probe", "twin"), ("probe", "majority class")), n_permutations=199, seed=0)
    direct = compare_arms(here, "balanced_accuracy", config, INTERVAL, within_folds=True)
    assert found["twin", "balanced_accuracy difference"].p_words == direct[0].in_words()
    assert "adjusted by Holm over 2 comparisons" in direct[0].in_words()


def test_no_permutations_no_comparison(material: Callable[..., Material]) -> None:
    study = study_source(
        (ArmMaterial("probe", material()),), StudySettings(evaluation(permutations=0), SWEEP, INTERVAL)
    )
    assert study.findings[0].paired == ()
    with pytest.raises(ValidationError, match="99 or more"):
        evaluation(permutations=5)
