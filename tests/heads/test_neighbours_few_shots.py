"""All draws at once against a loop over draws, NearestCentroid and the published variants written out."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid

from histotune.heads import neighbours
from histotune.heads.neighbours import (
    FewShotPredictions,
    PrototypeConfig,
    draw_shots,
    predict_draws,
    thunder_shot,
    uni_shot,
)
from tests.heads.test_neighbours import cohort


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def one_by_one(query: np.ndarray, train: np.ndarray, support: np.ndarray, config: PrototypeConfig) -> np.ndarray:
    """Each draw by itself in float64, as the papers' code does it."""
    query, train = query.astype(np.float64), train.astype(np.float64)
    out = []
    for rows in support:  # (K, S)
        shots = train[rows]
        centre = {"support": shots.mean(axis=(0, 1)), "training": train.mean(axis=0), "nothing": 0.0}[config.centre]
        shots, asked = shots - centre, query - centre
        if config.normalise:
            shots, asked = unit(shots), unit(asked)
        mean = shots.mean(axis=1)
        if config.metric == "cosine":
            out.append((unit(asked) @ unit(mean).T).argmax(axis=1))
        else:
            out.append(np.linalg.norm(asked[:, None] - mean[None], axis=2).argmin(axis=1))
    return np.array(out)


@pytest.mark.parametrize("shots", [1, 4])
@pytest.mark.parametrize("config", [
    PrototypeConfig(), thunder_shot(), uni_shot(), PrototypeConfig(centre="nothing", normalise=False),
    PrototypeConfig(centre="nothing"), PrototypeConfig(centre="training", normalise=False, metric="cosine"),
])  # fmt: skip
def test_all_draws_at_once_equal_one_by_one(
    shots: int, config: PrototypeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "BLOCK_BYTES", 4 * 4 * 50 * 7)  # several blocks of draws
    monkeypatch.setattr(neighbours, "FEW_SHOT_QUERY_BLOCK", 50)
    (train, y), (query, _) = cohort(90, 0), cohort(120, 1)
    support = draw_shots(y, shots, 40, np.random.default_rng(0))
    assert (
        predict_draws(query, train, support, config).predicted_BQ == one_by_one(query, train, support, config)
    ).all()


def test_a_draw_of_all_tiles_is_the_nearest_centroid() -> None:
    rng = np.random.default_rng(3)
    y = np.repeat([0, 1, 2], 20)
    train = (rng.normal(0, 1, (60, 16)) + y[:, None] * 0.5).astype(np.float32)
    query = rng.normal(0.5, 1, (80, 16)).astype(np.float32)
    support = np.arange(60).reshape(1, 3, 20)
    found = predict_draws(query, train, support, PrototypeConfig(centre="nothing", normalise=False)).predicted_BQ[0]
    assert (found == NearestCentroid().fit(train, y).predict(query)).all()


def test_draws_hold_different_tiles_of_the_right_class_and_follow_the_rng() -> None:
    _, y = cohort(200, 4)
    y[:5] = -1
    support = draw_shots(y, 8, 50, np.random.default_rng(1))
    assert support.shape == (50, 3, 8)
    assert (y[support] == np.arange(3)[None, :, None]).all()
    assert all(len(set(rows)) == 8 for draw in support.tolist() for rows in draw)
    assert (support == draw_shots(y, 8, 50, np.random.default_rng(1))).all()
    assert (support != draw_shots(y, 8, 50, np.random.default_rng(2))).any()
    with pytest.raises(ValueError, match="class 0 has"):
        draw_shots(y, 150, 1, np.random.default_rng(1))


def test_every_tile_is_as_likely_as_any_other() -> None:
    y = np.zeros(10, np.int64)
    counts = np.bincount(draw_shots(y, 3, 4000, np.random.default_rng(5)).ravel(), minlength=10)
    assert np.abs(counts - 1200).max() < 5 * np.sqrt(1200 * 0.7)


@pytest.mark.parametrize("shots", [3, 6, 14])
def test_shots_are_spread_over_groups(shots: int) -> None:
    group = np.array([0] * 20 + [1] * 5 + [2] * 2 + [3] * 9 + [4] + [5] * 3)
    y = np.zeros(len(group), np.int64)
    support = draw_shots(y, shots, 60, np.random.default_rng(6), group_N=group)
    for rows in support[:, 0]:
        assert len(set(rows.tolist())) == shots
        per_group = np.bincount(group[rows], minlength=6)
        room = np.bincount(group)
        assert (per_group >= np.minimum(room, per_group.max() - 1)).all()  # nobody waits while another gives twice more


def test_counts_over_draws() -> None:
    predictions = FewShotPredictions(np.array([[0, 1, 2], [0, 2, 1], [1, 2, 1]], np.int16), 3)
    confusion = predictions.confusion_BKK(np.array([0, 1, 1]))
    assert confusion[0].tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 0]]
    assert (confusion.sum(axis=(1, 2)) == 3).all()


def test_thunders_variant_averages_tiles_of_their_own_length() -> None:
    """THUNDER subtracts the support's mean and compares by cosine with the mean of what is left, unscaled."""
    rng = np.random.default_rng(5)
    (train, y), (query, _) = cohort(90, 0), cohort(120, 1)
    train = (train * rng.lognormal(0, 1, (len(train), 1))).astype(np.float32)  # lengths that matter
    support = draw_shots(y, 4, 40, np.random.default_rng(0))
    found = predict_draws(query, train, support, thunder_shot()).predicted_BQ
    for draw, rows in enumerate(support):
        shots = train[rows].astype(np.float64)
        centre = shots.reshape(-1, shots.shape[-1]).mean(axis=0)
        prototypes = (shots - centre).mean(axis=1)
        nearest = (unit(query.astype(np.float64) - centre) @ unit(prototypes).T).argmax(axis=1)
        assert (found[draw] == nearest).all()
    scaled = predict_draws(query, train, support, PrototypeConfig(centre="support", metric="cosine")).predicted_BQ
    assert (found != scaled).any()
