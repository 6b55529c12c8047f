"""The null control: labels permuted among groups leave nothing to learn but the group."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histotune.datasets.splits.split import tile_groups
from histotune.evaluation import floors, held_out
from histotune.evaluation.answer import write_answer
from histotune.evaluation.config import EvaluationConfig
from histotune.evaluation.findings import Finding
from histotune.evaluation.floors import permuted_labels
from histotune.evaluation.held_out import ArmMaterial, StudySettings, study_source
from histotune.evaluation.material import Material
from histotune.evaluation.plan import CrossFitPlan
from histotune.heads.config import SweepConfig
from histotune.statistics.predictions import IntervalConfig
from histotune.tools.marks import NULL_GROUPED, NULL_RANDOM, PROBE
from tests.evaluation.conftest import Cohort, make_material

MakeMaterial = Callable[..., Material]


def leak_price(material: Material, draws: int | None = 3) -> Finding:
    evaluation = EvaluationConfig(train_magnification="100X", outer_folds=4, leak_null_draws=draws, floors=())
    settings = StudySettings(evaluation, SweepConfig(penalties=(0.01, 0.1), folds=3), IntervalConfig(n_resamples=200))
    study = study_source((ArmMaterial(PROBE, material),), settings)
    return next(finding for finding in study.findings if finding.id == "leak-price")


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_groups_exchange_their_classes_whole(seed: int) -> None:
    tiles = make_material(Cohort(n_groups=10, tiles_per_group=4)).tiles
    drawn_N = permuted_labels(tiles, np.random.default_rng(seed))
    groups = np.array(tile_groups(tiles))
    of_group = [set(drawn_N[groups == group].tolist()) for group in sorted(set(groups))]
    assert all(len(one) == 1 for one in of_group)
    assert sum(one == {1} for one in of_group) == 5


def test_row_order_does_not_change_the_draw(material: MakeMaterial) -> None:
    tiles = material().tiles
    order = np.random.default_rng(1).permutation(len(tiles))
    drawn = dict(zip(tiles.tile_ids, permuted_labels(tiles, np.random.default_rng(3)), strict=True))
    mixed = tiles.take(order)
    assert dict(zip(mixed.tile_ids, permuted_labels(mixed, np.random.default_rng(3)), strict=True)) == drawn


def test_only_the_random_split_scores_well_where_nothing_but_the_group_can_be_learned(material: MakeMaterial) -> None:
    finding = leak_price(material(n_groups=40, group_effect=2.0, class_effect=0.8))
    grouped, leaky = (finding.row(name).score("auroc") for name in (NULL_GROUPED, NULL_RANDOM))
    assert grouped.value == pytest.approx(0.5, abs=0.15)
    assert leaky.value > 0.9
    assert "not a confidence interval" in leaky.interval.method
    answer = write_answer((finding,))
    assert f"0.5 is expected without a leak: the split by cases gives {grouped.value:.3f} (mean and range of" in answer
    assert "control" in answer


def test_the_control_can_be_left_out(material: MakeMaterial) -> None:
    assert leak_price(material(), draws=0).row(NULL_GROUPED) is None


def test_twenty_draws_by_default_their_mean_and_range_and_as_many_for_both_arms(
    material: MakeMaterial, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def counted(material: Material, plan: CrossFitPlan, *rest: object) -> tuple[float, ...] | None:
        """Fail one fit of one arm: its draw must not count for the other arm either."""
        calls.append(len(calls))
        return None if len(calls) == 4 else (0.4 + 0.01 * len(calls), 0.5)

    monkeypatch.setattr(floors, "plain_scores", counted)
    finding = leak_price(material(), draws=None)
    assert len(calls) == 40
    for name, odd in ((NULL_GROUPED, 1), (NULL_RANDOM, 0)):
        score = finding.row(name).score("auroc")
        values = [0.4 + 0.01 * number for number in range(1, 41) if number % 2 == odd and number not in (3, 4)]
        assert score.interval.method.startswith("mean and range of 19 permutations")
        assert score.value == pytest.approx(np.mean(values))
        assert (score.interval.low, score.interval.high) == pytest.approx((min(values), max(values)))


def test_few_draws_where_a_fit_takes_long(material: MakeMaterial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "QUICK_VALUES", 100)
    finding = leak_price(material(), draws=None)
    assert finding.row(NULL_GROUPED).score("auroc").interval.method.startswith("mean and range of 3 permutations")
