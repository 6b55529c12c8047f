"""Nested subsets, no group on both sides, every tile scored by a head that never saw its group, intervals as a loop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline

from histotune.heads import label_efficiency as module
from histotune.heads.config import LabelEfficiencyConfig, SweepConfig
from histotune.heads.family import FoldPlan, SweepData, training_set
from histotune.heads.label_efficiency import label_efficiency, nested_orders
from histotune.heads.sweep import sweep
from histotune.statistics.evaluators import Evaluator, make_evaluator
from histotune.statistics.predictions import IntervalConfig, Predictions
from histotune.statistics.sample import Sample, read_sample
from histotune.statistics.scores import score_predictions
from histotune.tools.errors import UserError
from tests.heads.samples import FlooredScaler, make_task
from tests.statistics.samples import make_predictions

CONFIG = SweepConfig(penalties=(0.03, 0.3, 3.0), folds=4, label_efficiency=LabelEfficiencyConfig(draws=3))
INTERVAL = IntervalConfig(n_resamples=200)


@given(st.lists(st.sampled_from([(1, 0), (0, 1), (1, 1)]), min_size=2, max_size=30), st.integers(0, 99))
def test_the_beginning_of_an_order_holds_each_kind_in_proportion(kinds: list[tuple[int, int]], seed: int) -> None:
    holds = np.array(kinds, bool)
    for order in nested_orders(holds, 3, np.random.default_rng(seed)):
        assert sorted(order) == list(range(len(kinds)))
        for size in range(1, len(kinds) + 1):
            for kind in set(kinds):
                share = kinds.count(kind) / len(kinds)
                assert abs(sum(kinds[group] == kind for group in order[:size]) - share * size) <= 2.0


def subsets_of() -> tuple[list[module.Subset], SweepData, object]:
    embeddings, task = make_task(n_groups=24, n=150)
    rows = np.arange(len(embeddings))
    data = SweepData(embeddings, rows, task.labels_N, 2)
    part = training_set(embeddings.tile_ids, task, rows, rows, FoldPlan(4, 0))
    return module._subsets(part, data.y_n, data.n_classes, CONFIG), data, part


def test_subsets_are_nested_hold_every_class_and_never_the_scored_groups() -> None:
    subsets, data, part = subsets_of()
    assert sorted({one.size for one in subsets}) == [4, 8, 18]
    for one in subsets:
        held = {part.groups[code] for code in part.group_n[part.fold_n == one.fold]}
        assert not held & set(one.part.groups)
        assert one.part.n_groups == one.size
        assert set(data.y_n[one.part.rows]) == {0, 1}
        larger = next(other for other in subsets
                      if (other.draw, other.fold) == (one.draw, one.fold) and other.size >= one.size)  # fmt: skip
        assert set(one.part.groups) <= set(larger.part.groups)


def test_numbers_equal_scikit_learn_one_fit_at_a_time() -> None:
    embeddings, task = make_task(n_groups=24, n=150)
    head = sweep(embeddings, task, CONFIG)[-1].head
    table = label_efficiency(embeddings, task, head, CONFIG, INTERVAL)
    subsets, _, part = subsets_of()
    x, y = embeddings.matrix_ND.astype(np.float64), task.labels_N
    one_per_group = np.eye(part.n_groups)[part.group_n]
    weight_n = (one_per_group / one_per_group.sum(axis=0)).sum(axis=1)
    values = []
    for draw in range(3):
        margin = np.empty((len(CONFIG.penalties), len(y)))
        for one in (s for s in subsets if s.draw == draw and s.size == 8):
            rows = one.part.rows
            for t, penalty in enumerate(CONFIG.penalties):
                model = make_pipeline(FlooredScaler(), LogisticRegression(C=1 / (penalty * len(rows)), tol=1e-9))
                held = part.fold_n == one.fold
                margin[t, held] = model.fit(x[rows], y[rows]).decision_function(x[held])
        loss = np.logaddexp(0, np.where(y == 1, -margin, margin)) * weight_n
        chosen = np.empty(len(y))
        for fold in range(4):
            best = loss[:, part.fold_n != fold].sum(axis=1).argmin()
            chosen[part.fold_n == fold] = margin[best, part.fold_n == fold]
        values.append(balanced_accuracy_score(y, chosen > 0))
    row = table.filter((pl.col("metric") == "balanced_accuracy") & (pl.col("n_groups") == 8)).row(0, named=True)
    assert row["value"] == pytest.approx(np.mean(values), abs=1e-9)
    assert row["low"] < row["value"] < row["high"]
    assert row["n_draws"] == 3
    assert row["method"].startswith("t interval from leaving out one group at a time")
    assert row["method"].endswith("the variance of the mean over draws added")


def test_more_groups_help_and_row_order_changes_nothing() -> None:
    embeddings, task = make_task(n_groups=24, n=150)
    head = sweep(embeddings, task, CONFIG)[-1].head
    table = label_efficiency(embeddings, task, head, CONFIG, INTERVAL)
    loss = table.filter(pl.col("metric") == "log_loss").sort("n_groups")["value"].to_list()
    assert loss[0] > loss[-1]
    order = np.random.default_rng(3).permutation(len(embeddings))
    shuffled = replace(task, labels_N=task.labels_N[order], groups=tuple(task.groups[i] for i in order),
                       train_sets_SN=task.train_sets_SN[:, order])  # fmt: skip
    again = label_efficiency(embeddings.take(order), shuffled, head, CONFIG, INTERVAL)
    np.testing.assert_allclose(again["value"], table["value"], rtol=1e-4)


def test_fits_in_small_calls_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, task = make_task(n_groups=24, n=150)
    head = sweep(embeddings, task, CONFIG)[-1].head
    whole = label_efficiency(embeddings, task, head, CONFIG, INTERVAL)
    monkeypatch.setattr(module, "MAX_VALUES", 2000)
    np.testing.assert_allclose(label_efficiency(embeddings, task, head, CONFIG, INTERVAL)["value"], whole["value"],
                               rtol=1e-5)  # fmt: skip


def test_sizes_whose_subsets_lack_a_class_are_left_out_and_too_few_sizes_are_said() -> None:
    embeddings, task = make_task(n_groups=12, n=80)
    config = CONFIG.model_copy(update={"folds": 3, "label_efficiency": LabelEfficiencyConfig(draws=2, sizes=(1, 4, 6))})
    head = sweep(embeddings, task, config)[-1].head
    table = label_efficiency(embeddings, task, head, config, INTERVAL)
    assert set(table["n_groups"]) == {4, 6}
    few = config.model_copy(update={"label_efficiency": LabelEfficiencyConfig(draws=2, sizes=(1, 6))})
    with pytest.raises(UserError, match="two sizes whose subsets hold every class"):
        label_efficiency(embeddings, task, head, few, INTERVAL)


def test_who_trained_is_part_of_the_error() -> None:
    """Draws that differ widen the interval; one draw alone has no such part."""
    samples = [sample_of(shift) for shift in (0.0, 0.0, 0.0)], [sample_of(shift) for shift in (-0.8, 0.0, 0.8)]

    def evaluate(one: Sample) -> Evaluator:
        return make_evaluator("auroc", one, one.group_N, 20, within_folds=True)  # type: ignore[arg-type]

    found = [module._with_interval("auroc", evaluate, some, INTERVAL) for some in samples]
    alike, unlike = (high - low for _, low, high, _ in found if low is not None and high is not None)
    assert unlike > 1.2 * alike
    one = module._with_interval("auroc", evaluate, samples[0][:1], INTERVAL)
    assert "draws" not in one[3]
    score = score_predictions(predictions_of(0.0), ["auroc"], IntervalConfig(), within_folds=True)[0]
    assert score.interval is not None
    assert one[:3] == pytest.approx((score.value, score.interval.low, score.interval.high))


def predictions_of(shift: float) -> Predictions:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(20), 6)
    y = (group % 2).astype(np.int64)
    margin = (1.0 + shift) * y + 0.6 * rng.standard_normal(20)[group] + rng.standard_normal(len(y))
    return make_predictions(y, np.stack([np.zeros(len(y)), margin], axis=1), [f"g{g:02d}" for g in group])


def sample_of(shift: float) -> Sample:
    return read_sample(predictions_of(shift))


def test_intervals_are_refused_with_the_reason_below_five_groups_per_class() -> None:
    embeddings, task = make_task(n_groups=8, n=60)
    config = CONFIG.model_copy(update={"folds": 2, "label_efficiency": LabelEfficiencyConfig(draws=2, sizes=(2, 4))})
    head = sweep(embeddings, task, config)[-1].head
    table = label_efficiency(embeddings, task, head, config, INTERVAL)
    assert table["low"].null_count() == len(table)
    assert all("has 4 groups" in reason for reason in table["method"])
