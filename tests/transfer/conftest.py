"""Small transfers with known causes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from histotune.transfer.case import HeadMap, RemedyView, Side, TransferCase
from histotune.transfer.corrections import side_predictions, two_class_margins

DIM = 6
SPREAD = 1.0
SIGNAL = np.array([2.2, 0.0, 0.0, 0.0, 0.0, 0.0])
TWO_KD = np.stack([-0.5 * SIGNAL, 0.5 * SIGNAL])
THREE_KD = np.zeros((3, DIM))
THREE_KD[1, 0], THREE_KD[2, :2] = 2.6, (1.3, 2.4)
THREE = ("adipose", "stroma", "tumour")


def draw_side(
    name: str, labels: list[int], rng: np.random.Generator, tiles: int = 10, means_KD: np.ndarray = TWO_KD
) -> Side:
    group_N = np.repeat(np.arange(len(labels)), tiles)
    y_N = np.array(labels, np.int64)[group_N]
    effect_GD = 0.2 * rng.normal(size=(len(labels), DIM))
    x_ND = means_KD[y_N] + effect_GD[group_N] + rng.normal(size=(len(y_N), DIM))
    groups = tuple(f"{name}-{group:03d}" for group in group_N)
    return Side(name, x_ND, y_N, groups, tuple(f"{name}-{row:05d}" for row in range(len(y_N))))


def ideal_head(threshold: float = 0.5) -> HeadMap:
    """The log-odds that the classes are drawn with, group effects included: calibrated by construction."""
    return HeadMap(
        lambda x_ND: two_class_margins(x_ND @ SIGNAL / (SPREAD + 0.04)),
        threshold,
        0.1,
        ("benign", "malignant"),
        "ideal",
    )


def ideal_head_of_three() -> HeadMap:
    """The same for three classes."""
    variance = SPREAD + 0.04

    def margin(x_ND: np.ndarray) -> np.ndarray:
        logit_NK = (x_ND @ THREE_KD.T - 0.5 * (THREE_KD**2).sum(axis=1)) / variance
        return logit_NK - logit_NK[:, :1]

    return HeadMap(margin, 0.5, 0.1, THREE, "ideal of three")


def make_transfer(
    change: Callable[[np.ndarray, np.random.Generator], np.ndarray] = lambda x_ND, _: x_ND,
    target_labels: list[int] | None = None,
    undone: tuple[str, ...] = (),
    seed: int = 0,
    n_classes: int = 2,
) -> TransferCase:
    rng = np.random.default_rng(seed)
    head, means_KD = (ideal_head(), TWO_KD) if n_classes == 2 else (ideal_head_of_three(), THREE_KD)
    labels = list(range(n_classes)) * 20
    source = draw_side("source", labels, rng, means_KD=means_KD)
    clean = draw_side("target", target_labels or labels, rng, means_KD=means_KD)
    target = replace(clean, x_ND=change(clean.x_ND, rng))
    fold, threshold = np.zeros(len(source), np.int64), np.full(len(source), 0.5)
    predictions = side_predictions(source, head, head.margin(source.x_ND), fold, threshold)
    views = [RemedyView(frozenset({name}), clean.x_ND) for name in undone]
    if len(undone) == 2:
        views.append(RemedyView(frozenset(undone), clean.x_ND))
    return TransferCase(head, source, predictions, target, tuple(views))


@pytest.fixture
def transfer() -> Callable[..., TransferCase]:
    """Return a factory of transfers."""
    return make_transfer
