"""Ridge in a sweep: scikit-learn's scores times one factor that never saw the fold it scales."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import log_loss

from histotune.heads.config import LabelEfficiencyConfig, SweepConfig
from histotune.heads.family import FoldPlan, SweepSupport, training_set
from histotune.heads.fit_cache import FitCache
from histotune.heads.head import head_logits, softmax
from histotune.heads.label_efficiency import label_efficiency
from histotune.heads.saved_head import load_head, save_head
from histotune.heads.sweep import sweep
from histotune.statistics.predictions import IntervalConfig
from tests.heads.samples import FlooredScaler, make_task

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = SweepConfig(
    family="ridge", penalties=(0.01, 1.0, 1e3), class_weights=("none", "balanced"), folds=4, honesty="none",
    calibration="none",
)  # fmt: skip


def sklearn_scores(x: np.ndarray, y: np.ndarray, train: np.ndarray, trial: tuple[float, str]) -> np.ndarray:
    weight = np.ones(len(train)) if trial[1] == "none" else len(train) / np.bincount(y[train])[y[train]]
    scaler = FlooredScaler().fit(x[train], sample_weight=weight)
    model = RidgeClassifier(alpha=trial[0] * weight.sum(), solver="cholesky")
    model.fit(scaler.transform(x[train]), y[train], sample_weight=weight)
    score = model.decision_function(scaler.transform(x))
    return np.stack([np.zeros(len(x)), score], axis=1) if score.ndim == 1 else score


def best_factor(score: np.ndarray, y: np.ndarray, group: np.ndarray) -> float:
    weight = 1.0 / np.bincount(group)[group]
    labels = range(score.shape[1])

    def loss(log_factor: float) -> float:
        return float(log_loss(y, softmax(np.exp(log_factor) * score), sample_weight=weight, labels=labels))

    return float(np.exp(minimize_scalar(loss, bounds=(-8, 12), method="bounded", options={"xatol": 1e-9}).x))


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("dim", [20, 150])
def test_a_sweep_is_scikit_learns_scores_scaled_by_the_other_folds(n_classes: int, dim: int) -> None:
    embeddings, task = make_task(n_classes=n_classes, dim=dim)
    result = sweep(embeddings, task, CONFIG)[2]
    x, y, used = embeddings.matrix_ND.astype(np.float64), task.labels_N, np.arange(len(embeddings))
    part = training_set(embeddings.tile_ids, task, used, used, FoldPlan(4, CONFIG.seed))
    chosen = result.trials.filter("chosen")
    trial = (chosen["penalty"][0], chosen["class_weight"][0])
    score = np.empty((len(y), n_classes))
    for fold in range(4):
        held = part.fold_n == fold
        score[held] = sklearn_scores(x, y, np.flatnonzero(~held), trial)[held]
    for fold in range(4):
        held = part.fold_n == fold
        expected = best_factor(score[~held], y[~held], part.group_n[~held]) * score[held]
        np.testing.assert_allclose(result.out_of_fold_logit_NK[held], expected, rtol=1e-4, atol=1e-4)
    whole = best_factor(score, y, part.group_n) * sklearn_scores(x, y, used, trial)
    np.testing.assert_allclose(head_logits(result.head, embeddings), whole, rtol=1e-4, atol=1e-4)
    assert result.head.family == "ridge" and result.head.penalty == trial[0]


def test_a_training_set_alone_and_shuffled_rows_give_the_same() -> None:
    embeddings, task = make_task()
    together = sweep(embeddings, task, CONFIG)
    alone = sweep(embeddings, dataclasses.replace(task, train_sets_SN=task.train_sets_SN[[1]]), CONFIG)[0]
    np.testing.assert_allclose(alone.trials["log_loss"], together[1].trials["log_loss"], rtol=1e-7)
    np.testing.assert_allclose(alone.head.weight_KD, together[1].head.weight_KD, rtol=1e-6, atol=1e-9)
    order = np.random.default_rng(0).permutation(len(embeddings))
    shuffled = dataclasses.replace(
        task, labels_N=task.labels_N[order], groups=tuple(task.groups[row] for row in order),
        train_sets_SN=task.train_sets_SN[:, order],
    )  # fmt: skip
    for one, other in zip(together, sweep(embeddings.take(order), shuffled, CONFIG), strict=True):
        np.testing.assert_allclose(other.trials["log_loss"], one.trials["log_loss"], rtol=1e-7)
        np.testing.assert_allclose(other.head.weight_KD, one.head.weight_KD, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("honesty", ["bias-corrected", "nested"])
def test_honesty_kept_fits_and_the_saved_head(honesty: str, tmp_path: Path) -> None:
    embeddings, task = make_task()
    config = SweepConfig.model_validate({**CONFIG.model_dump(), "honesty": honesty, "calibration": "temperature"})
    support = SweepSupport(FitCache(tmp_path / "fits"))
    first, again = (sweep(embeddings, task, config, support)[2] for _ in range(2))
    assert first.head.head_id == again.head.head_id and list((tmp_path / "fits").glob("*.safetensors"))
    assert first.head.selection is not None and first.head.selection.honest
    assert 0.5 < first.head.temperature < 2.0  # already scaled
    save_head(first.head, tmp_path / "head")
    np.testing.assert_array_equal(
        head_logits(load_head(tmp_path / "head"), embeddings), head_logits(first.head, embeddings)
    )


def test_label_efficiency_of_ridge() -> None:
    embeddings, task = make_task(n=160)
    config = CONFIG.model_copy(update={"label_efficiency": LabelEfficiencyConfig(draws=2)})
    head = sweep(embeddings, task, config)[2].head
    table = label_efficiency(embeddings, task, head, config, IntervalConfig(n_resamples=200))
    losses = table.filter(table["metric"] == "log_loss").sort("n_groups")["value"]
    assert len(losses) >= 2 and losses[-1] < np.log(2) and losses[-1] < losses[0]
