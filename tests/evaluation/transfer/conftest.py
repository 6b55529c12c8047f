"""Small transfers with known causes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from histotune.evaluation.transfer.arms import side_predictions
from histotune.evaluation.transfer.records import HeadMap, RemedyView, Side, TransferCase

DIM = 6
SPREAD = 1.0
SIGNAL = np.array([2.2, 0.0, 0.0, 0.0, 0.0, 0.0])


def draw_side(name: str, labels: list[int], rng: np.random.Generator, tiles: int = 10) -> Side:
    group_N = np.repeat(np.arange(len(labels)), tiles)
    y_N = np.array(labels, np.int64)[group_N]
    effect_GD = 0.2 * rng.normal(size=(len(labels), DIM))
    x_ND = (y_N[:, None] - 0.5) * SIGNAL + effect_GD[group_N] + rng.normal(size=(len(y_N), DIM))
    groups = tuple(f"{name}-{group:03d}" for group in group_N)
    return Side(name, x_ND, y_N, groups, tuple(f"{name}-{row:05d}" for row in range(len(y_N))))


def ideal_head(threshold: float = 0.5) -> HeadMap:
    """The log-odds that the classes are drawn with, group effects included: calibrated by construction."""
    return HeadMap(lambda x_ND: x_ND @ SIGNAL / (SPREAD + 0.04), threshold, 0.1, ("benign", "malignant"), "ideal")


def make_transfer(
    change: Callable[[np.ndarray, np.random.Generator], np.ndarray] = lambda x_ND, _: x_ND,
    target_labels: list[int] | None = None,
    undone: tuple[str, ...] = (),
    seed: int = 0,
) -> TransferCase:
    rng = np.random.default_rng(seed)
    head = ideal_head()
    source = draw_side("source", [0, 1] * 20, rng)
    clean = draw_side("target", target_labels or [0, 1] * 20, rng)
    target = replace(clean, x_ND=change(clean.x_ND, rng))
    how = (np.zeros(len(source), np.int64), np.full(len(source), 0.5))
    predictions = side_predictions(source, head, head.margin(source.x_ND), how)
    views = [RemedyView(frozenset({name}), clean.x_ND) for name in undone]
    if len(undone) == 2:
        views.append(RemedyView(frozenset(undone), clean.x_ND))
    return TransferCase(head, source, predictions, target, tuple(views))


@pytest.fixture
def transfer() -> Callable[..., TransferCase]:
    """Return a factory of transfers."""
    return make_transfer
