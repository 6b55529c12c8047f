"""Columns that hardly vary among the training tiles blow nothing up, and tiles far outside of training are named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from histotune.heads.config import SgdConfig, SweepConfig
from histotune.heads.family import SweepTask
from histotune.heads.head import Head, head_logits
from histotune.heads.outliers import FAR, find_far, join_far
from histotune.heads.saved_head import load_head, save_head
from histotune.heads.solver.problems import SCALE_FLOOR, divisors, scale_floor
from histotune.heads.sweep import sweep
from histotune.tools.errors import UserError
from tests.heads.samples import make_embeddings, make_task

RARE = 5
FAMILIES = [
    SweepConfig(folds=3, honesty="none", penalties=(0.1,), device="cpu"),
    SweepConfig(folds=3, honesty="none", penalties=(0.1,), family="ridge"),
    SweepConfig(folds=3, honesty="none", family="sgd", sgd=SgdConfig(n_trials=2, device="cpu")),
]


def near_constant(scale: float = 1e-5, n_columns: int = 60) -> tuple[np.ndarray, SweepTask]:
    """Return tiles of which a single one shows a feature, faintly, and the task of telling their classes."""
    embeddings, task = make_task(dim=n_columns)
    x = np.asarray(embeddings.matrix_ND, np.float64)
    x[:, RARE] = 0.0
    x[int(np.flatnonzero(task.labels_N == 1)[0]), RARE] = scale
    return x, replace(task, train_sets_SN=np.ones((1, len(x)), bool))


def swept(x: np.ndarray, task: SweepTask, config: SweepConfig) -> Head:
    return sweep(make_embeddings(x), task, config)[0].head


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.family)
def test_a_feature_that_one_training_tile_shows_costs_a_held_out_tile_no_fortune(config: SweepConfig) -> None:
    x, task = near_constant()
    head = swept(x, task, config)
    shown = np.repeat(x.mean(axis=0)[None], 2, axis=0)
    shown[1, RARE] += 3 * np.median(x.std(axis=0))
    logit_NK = head_logits(head, make_embeddings(shown))
    assert np.abs(logit_NK[1] - logit_NK[0]).max() < 3.0
    assert head.scale_floor_D is not None and head.train_std_D is not None
    np.testing.assert_allclose(head.scale_floor_D, SCALE_FLOOR * np.median(x.astype(np.float32).std(axis=0)), rtol=1e-3)
    assert head.train_std_D[RARE] < head.scale_floor_D[RARE]


@pytest.mark.parametrize("config", FAMILIES[:2], ids=lambda config: config.family)
@pytest.mark.parametrize("n_columns", [60, 300])
def test_a_head_stays_linear_however_far_a_tile_lies(config: SweepConfig, n_columns: int) -> None:
    x, task = near_constant(n_columns=n_columns)
    head = swept(x, task, config)
    centre = x.mean(axis=0)
    step = np.random.default_rng(3).normal(size=len(centre)) * x.std(axis=0)
    line = np.stack([centre + factor * step for factor in (0.0, 1.0, 1000.0)])
    logit = head_logits(head, make_embeddings(line))[:, 1]
    assert logit[2] - logit[0] == pytest.approx(1000 * (logit[1] - logit[0]), rel=1e-3)


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.family)
def test_a_head_knows_the_columns_that_trained_it(config: SweepConfig, tmp_path: Path) -> None:
    x, task = near_constant(scale=2.0)
    x[:, 7] = 4.0
    head = swept(x, task, config)
    assert head.train_mean_D is not None and head.train_std_D is not None
    stored = x.astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(head.train_mean_D, stored.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(head.train_std_D, np.where(np.arange(60) == 7, 0.0, stored.std(axis=0)), atol=1e-9)
    save_head(head, tmp_path)
    again = load_head(tmp_path)
    assert again.head_id == head.head_id
    for name in ("scale_floor_D", "train_mean_D", "train_std_D"):
        np.testing.assert_array_equal(getattr(again, name), getattr(head, name))
    save_head(replace(head, train_std_D=head.train_std_D[:3]), tmp_path / "odd")
    with pytest.raises(UserError, match="train_std_D"):
        load_head(tmp_path / "odd")


def test_the_floor_is_a_share_of_the_median_of_the_columns_that_vary() -> None:
    std = np.array([[0.0, 1.0, 2.0, 3.0, 1e-6], [0.0, 0.0, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(scale_floor(std), [[SCALE_FLOOR * 1.5], [0.0]])
    np.testing.assert_allclose(divisors(std)[0], [1.0, 1.0, 2.0, 3.0, SCALE_FLOOR * 1.5])
    np.testing.assert_allclose(divisors(std)[1], 1.0)
    np.testing.assert_allclose(divisors(1e9 * std[0])[1:], 1e9 * divisors(std[0])[1:])


def test_a_column_above_the_floor_keeps_its_own_deviation() -> None:
    std = np.random.default_rng(0).uniform(0.5, 2.0, 200)
    np.testing.assert_array_equal(divisors(std), std)


def test_tiles_far_outside_are_counted_and_the_farthest_is_named() -> None:
    x, task = near_constant(scale=2.0)
    head = swept(x, task, FAMILIES[0])
    far = x[:6].copy()
    std = divisors(np.asarray(head.train_std_D))
    far[2, 11] += 80 * std[11]
    far[4, 12] -= 300 * std[12]
    found = find_far(head, make_embeddings(far))
    assert found.n_far == 2
    assert found.deviation_N[4] == pytest.approx(300, abs=5)
    farthest = f"|z| = {found.deviation_N[4]:,.0f}"
    assert all(words in found.note() for words in ("2 of 6 scored tiles lie", "(t0004)", farthest))
    near = find_far(head, make_embeddings(far), np.array([0, 1, 3, 5]))
    assert near.n_far == 0 and near.note() == ""
    both = join_far([near, find_far(head, make_embeddings(far), np.array([2]))])
    assert both.n_far == 1 and len(both.tile_ids) == 5
    assert find_far(head, make_embeddings(x)).n_far == 0
    assert find_far(replace(head, n_tiles=10_000), make_embeddings(far)).n_far == 1  # the limit grows with sqrt(n)
    assert find_far(head, make_embeddings(far)).limit == FAR


def test_a_head_that_knows_no_columns_warns_of_nothing() -> None:
    x, task = near_constant()
    head = replace(swept(x, task, FAMILIES[0]), train_mean_D=None, train_std_D=None)
    assert find_far(head, make_embeddings(1e6 * x)).note() == ""


def test_a_constant_column_says_nothing_of_how_far_a_tile_lies() -> None:
    x, task = near_constant()
    x[:, 3] = 1.0
    head = swept(x, task, FAMILIES[0])
    moved = x[:2].copy()
    moved[:, 3] = 1e6
    assert find_far(head, make_embeddings(moved)).n_far == 0
    np.testing.assert_allclose(head_logits(head, make_embeddings(moved)), head_logits(head, make_embeddings(x[:2])))
