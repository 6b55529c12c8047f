"""Simulated cohorts whose true scores are known.

A tile's score is x = mu y + group effect + noise, with variance 1 within a class; the group effect has the share
``icc`` of it. One-class cohorts are like BreakHis: every group holds one class, 60 % of them positive (10 and 14
groups: 5 and 8, so that five negative ones are there). Mixed cohorts are like PatchCamelyon's slides: every group holds
both classes, in shares from Beta(2, 2); half of the group effect is shared by its two classes. Groups hold 10 to 40
tiles. The head's logit is 1.5 times the true log-odds: it is overconfident.

True values are those of a population of infinitely many groups. They depend on the distribution of (x, y) of a single
tile alone, which is a normal mixture, so they have closed forms or one-dimensional integrals.
"""

# N tiles of all repeats, R repeats, G groups, L points of an integral

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.special import expit, ndtr, ndtri

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]

Design = Literal["one-class", "mixed"]
DESIGNS: tuple[Design, ...] = ("one-class", "mixed")
GROUPS = (10, 14, 20, 50, 200)
AUROCS = (0.75, 0.90, 0.98)
ICCS = (0.1, 0.5)
POSITIVE_GROUPS = {10: 5, 14: 8, 20: 12, 50: 30, 200: 120}
TILES = (10, 40)
OVERCONFIDENCE = 1.5
N_BINS = 15
HELD = 0.95


@dataclass(frozen=True)
class CellSpec:
    """One setting of the simulation."""

    design: Design
    n_groups: int
    auroc: float
    icc: float

    @property
    def name(self) -> str:
        """File name of its results."""
        return f"{self.design}-{self.n_groups}-{self.auroc:g}-{self.icc:g}"

    @property
    def separation(self) -> float:
        """Distance mu of the classes: AUROC = Phi(mu / sqrt 2)."""
        return float(np.sqrt(2.0) * ndtri(self.auroc))

    @property
    def prevalence(self) -> float:
        """Share of positive tiles in the population."""
        return 0.5 if self.design == "mixed" else POSITIVE_GROUPS[self.n_groups] / self.n_groups


@dataclass(frozen=True)
class Cohorts:
    """Tiles of many repeats, one after another; groups in the same order in each.

    Attributes:
        y_N: Label.
        x_N: Score.
        logit_N: The head's logit.
        repeat_N: Repeat.
        group_N: Group within its repeat.
    """

    y_N: Int
    x_N: Float
    logit_N: Float
    repeat_N: Int
    group_N: Int


def all_cells() -> tuple[CellSpec, ...]:
    """Return every setting, small ones first."""
    return tuple(CellSpec(d, g, a, i) for g in GROUPS for d in DESIGNS for a in AUROCS for i in ICCS)


def holds_classes(spec: CellSpec) -> NDArray[np.bool_]:
    """Return which classes each group holds, (G, 2)."""
    if spec.design == "mixed":
        return np.ones((spec.n_groups, 2), bool)
    positive_G = np.arange(spec.n_groups) < POSITIVE_GROUPS[spec.n_groups]
    return np.stack([~positive_G, positive_G], axis=1)


def simulate(spec: CellSpec, n_repeats: int, rng: np.random.Generator) -> Cohorts:
    """Draw cohorts.

    Args:
        spec: The setting.
        n_repeats: Number of cohorts.
        rng: Source of randomness.

    Returns:
        Their tiles.
    """
    n_units = n_repeats * spec.n_groups
    size_U = rng.integers(TILES[0], TILES[1] + 1, n_units)
    unit_N = np.repeat(np.arange(n_units), size_U)
    group_N = unit_N % spec.n_groups
    y_N = _labels(spec, unit_N, size_U, rng)
    effect_U2 = rng.standard_normal((n_units, 2)) * np.sqrt(0.5 * spec.icc)
    own_N = effect_U2[unit_N, y_N]
    shared_N = (rng.standard_normal(n_units) * np.sqrt(0.5 * spec.icc))[unit_N]
    noise_N = rng.standard_normal(len(unit_N)) * np.sqrt(1.0 - spec.icc)
    x_N = spec.separation * y_N + own_N + shared_N + noise_N
    return Cohorts(y_N, x_N, head_logit(spec, x_N), unit_N // spec.n_groups, group_N)


def _labels(spec: CellSpec, unit_N: Int, size_U: Int, rng: np.random.Generator) -> Int:
    """One-class: by group. Mixed: by each group's share, with at least one tile of each class."""
    if spec.design == "one-class":
        return (unit_N % spec.n_groups < POSITIVE_GROUPS[spec.n_groups]).astype(np.int64)
    share_U = rng.beta(2.0, 2.0, len(size_U))
    y_N = (rng.random(len(unit_N)) < share_U[unit_N]).astype(np.int64)
    first_U = np.cumsum(size_U) - size_U
    y_N[first_U], y_N[first_U + 1] = 0, 1
    return y_N


def head_logit(spec: CellSpec, x_N: Float) -> Float:
    """Return the overconfident logit of a score."""
    return OVERCONFIDENCE * true_log_odds(spec, x_N)


def true_log_odds(spec: CellSpec, x_N: Float) -> Float:
    """Return the log-odds of class 1 given the score."""
    prior = np.log(spec.prevalence / (1.0 - spec.prevalence))
    return np.asarray(spec.separation * (x_N - 0.5 * spec.separation) + prior)


def true_values(spec: CellSpec) -> dict[str, float]:
    """Return the population's value of every metric.

    Args:
        spec: The setting.

    Returns:
        By metric name.
    """
    mu, pi = spec.separation, spec.prevalence
    threshold = 0.5 * mu - np.log(pi / (1.0 - pi)) / mu
    sens, spec_ = float(ndtr(mu - threshold)), float(ndtr(threshold))
    tp, fn, tn, fp = pi * sens, pi * (1 - sens), (1 - pi) * spec_, (1 - pi) * (1 - spec_)
    f1 = 0.5 * (2 * tp / (2 * tp + fp + fn) + 2 * tn / (2 * tn + fp + fn))
    mcc = (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return {
        "accuracy": tp + tn,
        "patient_recognition_rate": tp + tn,
        "balanced_accuracy": 0.5 * (sens + spec_),
        "macro_f1": float(f1),
        "mcc": float(mcc),
        "auroc": spec.auroc,
        "sensitivity_at_95_specificity": float(ndtr(mu - ndtri(HELD))),
        **_integrals(spec),
    }


def _integrals(spec: CellSpec) -> dict[str, float]:
    mu, pi = spec.separation, spec.prevalence
    x_L = np.linspace(-9.0, mu + 9.0, 400_001)
    step = x_L[1] - x_L[0]
    density = [np.exp(-0.5 * (x_L - shift) ** 2) / np.sqrt(2 * np.pi) * step for shift in (0.0, mu)]
    positive_L, negative_L = pi * density[1], (1.0 - pi) * density[0]
    p_L = expit(head_logit(spec, x_L))
    log_p, log_q = -np.logaddexp(0, -head_logit(spec, x_L)), -np.logaddexp(0, head_logit(spec, x_L))
    tail_positive, tail_negative = pi * ndtr(mu - x_L), (1.0 - pi) * ndtr(-x_L)
    precision_L = tail_positive / np.maximum(tail_positive + tail_negative, 1e-300)
    bin_L = np.minimum((p_L * N_BINS).astype(np.int64), N_BINS - 1)
    gap_b = np.bincount(bin_L, weights=p_L * (positive_L + negative_L) - positive_L, minlength=N_BINS)
    ece = float(np.abs(gap_b).sum())
    return {
        "auprc": float((positive_L * precision_L).sum() / pi),
        "log_loss": float(-(positive_L * log_p + negative_L * log_q).sum()),
        "brier": float((positive_L * (1 - p_L) ** 2 + negative_L * p_L**2).sum()),
        "ece": ece,
        "ece_debiased": ece,
    }
