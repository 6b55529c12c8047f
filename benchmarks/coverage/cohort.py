"""Simulated cohorts whose true scores are known.

A tile's score is x = mu y + group effect + noise, with variance 1 within a class; the group effect has the share
``icc`` of it. Where a group holds both classes, half of its effect is shared by the two. The head's logit is 1.5 times
the log-odds that normal scores would have: it is overconfident.

Worlds:

- ``plain``: effects and noise are normal, groups hold 10 to 40 tiles, and each group is positive with probability 0.6.
- ``fixed``: the same, but the number of positive groups is always that share (of 10 and 14 groups 5 and 8): what an
  interval conditional on the mix of classes is about.
- ``rough``: effects are skewed (sums of gamma variables, skewness 1.4 each), noise is heavy-tailed (Student's t with 4
  degrees of freedom), sizes of groups are skewed too (a negative binomial's, 1 to 120 tiles, mean about 20), and each
  group is positive with probability 0.7.

Designs: *one-class* groups are like BreakHis's cases: each holds one class. *Mixed* ones are like PatchCamelyon's
slides: every tile is positive with a probability of its group's own. *Both*: every second group is mixed.

True values are those of a population of infinitely many groups. They depend on the distribution of (x, y) of a single
tile alone, whose density is a convolution on a fine grid.
"""

# N tiles of all repeats, R repeats, G groups, U groups of all repeats, L points of a grid

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.optimize import brentq
from scipy.signal import fftconvolve
from scipy.special import expit
from scipy.stats import gamma, nbinom, norm
from scipy.stats import t as student

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]

Design = Literal["one-class", "mixed", "both"]
World = Literal["plain", "fixed", "rough"]
GROUPS = (10, 14, 20, 50, 200)
AUROCS = (0.75, 0.90, 0.97)
SETTINGS: tuple[tuple[World, Design, tuple[float, ...]], ...] = (
    ("plain", "one-class", (0.1, 0.5)),
    ("plain", "mixed", (0.1, 0.5)),
    ("fixed", "one-class", (0.1, 0.5)),
    ("rough", "one-class", (0.2, 0.7)),
    ("rough", "both", (0.2, 0.7)),
)
"""World, design and shares of the group effect."""
PREVALENCE: dict[World, float] = {"plain": 0.6, "fixed": 0.6, "rough": 0.7}
TILES = (10, 40)
ROUGH_TILES, ROUGH_SHAPE, ROUGH_MEAN = 120, 1.2, 20.0
"""Most tiles of a group, and the negative binomial's shape and mean before it is cut off."""
SHAPE = 2.0
"""Of a skewed effect's gamma distribution."""
CONCENTRATION = 4.0
"""Sum of the two parameters of the beta distribution of a mixed group's share."""
OVERCONFIDENCE = 1.5
N_BINS = 15
HELD = 0.95
STEP, REACH = 0.004, 80.0


@dataclass(frozen=True)
class CellSpec:
    """One setting of the simulation."""

    world: World
    design: Design
    n_groups: int
    auroc: float
    icc: float

    @property
    def name(self) -> str:
        """File name of its results."""
        return f"{self.world}-{self.design}-{self.n_groups}-{self.auroc:g}-{self.icc:g}"

    @property
    def prevalence(self) -> float:
        """Share of positive tiles in the population."""
        share = PREVALENCE[self.world]
        return self.n_positive / self.n_groups if self.world == "fixed" else share

    @property
    def n_positive(self) -> int:
        """Positive groups where their number is fixed; five negative ones are there, so that there is an interval."""
        return min(round(PREVALENCE[self.world] * self.n_groups), self.n_groups - 5)

    @property
    def separation(self) -> float:
        """Distance mu of the classes."""
        return separation(self.world, self.icc, self.auroc)


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
    return tuple(
        CellSpec(world, design, n_groups, auroc, icc)
        for n_groups, (world, design, iccs) in product(GROUPS, SETTINGS)
        for auroc, icc in product(AUROCS, iccs)
    )


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
    size_U = _sizes(spec, n_units, rng)
    unit_N = np.repeat(np.arange(n_units), size_U)
    y_N = _labels(spec, unit_N, n_units, rng)
    rough = spec.world == "rough"
    effect_U3 = rng.standard_normal((n_units, 3))
    if rough:
        effect_U3 = (rng.standard_gamma(SHAPE, (n_units, 3)) - SHAPE) / np.sqrt(SHAPE)
    effect_U3 *= np.sqrt(0.5 * spec.icc)
    noise_N = rng.standard_t(4, len(unit_N)) / np.sqrt(2.0) if rough else rng.standard_normal(len(unit_N))
    x_N = spec.separation * y_N + effect_U3[unit_N, y_N] + effect_U3[unit_N, 2] + np.sqrt(1.0 - spec.icc) * noise_N
    return Cohorts(y_N, x_N, head_logit(spec, x_N), unit_N // spec.n_groups, unit_N % spec.n_groups)


def _sizes(spec: CellSpec, n_units: int, rng: np.random.Generator) -> Int:
    """Draw how many tiles each group holds."""
    if spec.world != "rough":
        return rng.integers(TILES[0], TILES[1] + 1, n_units)
    share = ROUGH_SHAPE / (ROUGH_SHAPE + ROUGH_MEAN)
    ends = nbinom.cdf([0, ROUGH_TILES], ROUGH_SHAPE, share)
    drawn_U = nbinom.ppf(ends[0] + (ends[1] - ends[0]) * rng.random(n_units), ROUGH_SHAPE, share)
    return np.asarray(np.clip(drawn_U, 1, ROUGH_TILES)).astype(np.int64)


def _labels(spec: CellSpec, unit_N: Int, n_units: int, rng: np.random.Generator) -> Int:
    """Draw the class of every group, and of every tile of a mixed one."""
    place_U = np.arange(n_units) % spec.n_groups
    fixed = spec.world == "fixed"
    positive_U = place_U < spec.n_positive if fixed else rng.random(n_units) < spec.prevalence
    if spec.design == "one-class":
        return positive_U[unit_N].astype(np.int64)
    shares = CONCENTRATION * spec.prevalence, CONCENTRATION * (1.0 - spec.prevalence)
    share_U = rng.beta(*shares, n_units)
    if spec.design == "both":
        share_U = np.where(place_U % 2 == 0, share_U, positive_U)
    return (rng.random(len(unit_N)) < share_U[unit_N]).astype(np.int64)


def head_logit(spec: CellSpec, x_N: Float) -> Float:
    """Return the overconfident logit of a score."""
    prior = np.log(spec.prevalence / (1.0 - spec.prevalence))
    return np.asarray(OVERCONFIDENCE * (spec.separation * (x_N - 0.5 * spec.separation) + prior))


# ------------------------------------------------------------------------------
# True values


@cache
def score_density(world: World, icc: float) -> tuple[Float, Float]:
    """Return a grid and the probability of each of its steps, for a tile of class 0."""
    x_L = np.arange(-REACH, REACH + STEP / 2.0, STEP)
    wide, sd, noise_sd = np.append(x_L - STEP / 2.0, x_L[-1] + STEP / 2.0), np.sqrt(0.5 * icc), np.sqrt(1.0 - icc)
    if world == "rough":
        effect_L = np.diff(gamma.cdf(wide / sd * np.sqrt(SHAPE) + SHAPE, SHAPE))
        noise_L = np.diff(student.cdf(wide * np.sqrt(2.0) / noise_sd, 4))
    else:
        effect_L, noise_L = np.diff(norm.cdf(wide / sd)), np.diff(norm.cdf(wide / noise_sd))
    both_L = fftconvolve(fftconvolve(effect_L, effect_L, mode="same"), noise_L, mode="same")
    both_L = np.maximum(both_L, 0.0)
    return x_L, both_L / both_L.sum()


@cache
def separation(world: World, icc: float, auroc: float) -> float:
    """Return the distance of the classes that gives an AUROC."""
    x_L, share_L = score_density(world, icc)
    below_L = np.cumsum(share_L) - 0.5 * share_L

    def gap(mu: float) -> float:
        return float(share_L @ np.interp(x_L + mu, x_L, below_L, left=0.0, right=1.0)) - auroc

    return float(brentq(gap, 0.0, 20.0, xtol=1e-10))


def true_values(spec: CellSpec) -> dict[str, float]:
    """Return the population's value of every metric.

    Args:
        spec: The setting.

    Returns:
        By metric name.
    """
    pi = spec.prevalence
    x_L, positive_L, negative_L = class_masses(spec)
    logit_L = head_logit(spec, x_L)
    # A step of the grid whose middle is nearest to the threshold lies on both sides of it.
    over_L = np.clip((x_L - np.interp(0.0, logit_L, x_L)) / STEP + 0.5, 0.0, 1.0)
    sens, held = float(positive_L @ over_L), 1.0 - float(negative_L @ over_L)
    tp, fn, tn, fp = pi * sens, pi * (1 - sens), (1 - pi) * held, (1 - pi) * (1 - held)
    f1 = 0.5 * (2 * tp / (2 * tp + fp + fn) + 2 * tn / (2 * tn + fp + fn))
    mcc = (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return {
        "accuracy": tp + tn,
        "patient_recognition_rate": tp + tn,
        "balanced_accuracy": 0.5 * (sens + held),
        "macro_f1": float(f1),
        "mcc": float(mcc),
        "auroc": spec.auroc,
        **_along_thresholds(spec),
        **_of_probabilities(spec),
    }


def class_masses(spec: CellSpec) -> tuple[Float, Float, Float]:
    """Return a grid of scores and the probability of its steps among positive and among negative tiles."""
    x_L, negative_L = score_density(spec.world, spec.icc)
    upper_L = np.interp(x_L + STEP / 2.0 - spec.separation, x_L + STEP / 2.0, np.cumsum(negative_L), left=0.0)
    return x_L, np.diff(upper_L, prepend=0.0), negative_L


def _along_thresholds(spec: CellSpec) -> dict[str, float]:
    pi = spec.prevalence
    _, positive_L, negative_L = class_masses(spec)
    hit_L = np.cumsum(positive_L[::-1])[::-1] - 0.5 * positive_L
    false_L = np.cumsum(negative_L[::-1])[::-1] - 0.5 * negative_L
    precision_L = pi * hit_L / np.maximum(pi * hit_L + (1.0 - pi) * false_L, 1e-300)
    at = np.interp(1.0 - HELD, false_L[::-1], hit_L[::-1])
    return {"auprc": float(positive_L @ precision_L), "sensitivity_at_95_specificity": float(at)}


def _of_probabilities(spec: CellSpec) -> dict[str, float]:
    pi = spec.prevalence
    x_L, positive_L, negative_L = class_masses(spec)
    logit_L = head_logit(spec, x_L)
    positive_L, negative_L, p_L = pi * positive_L, (1.0 - pi) * negative_L, expit(logit_L)
    # The log-loss clips a probability at the precision of numbers, as scikit-learn does.
    most = -np.log(np.finfo(np.float64).eps)
    log_p, log_q = np.minimum(np.logaddexp(0, -logit_L), most), np.minimum(np.logaddexp(0, logit_L), most)
    bin_L = np.minimum((p_L * N_BINS).astype(np.int64), N_BINS - 1)
    gap_b = np.bincount(bin_L, weights=p_L * (positive_L + negative_L) - positive_L, minlength=N_BINS)
    ece = float(np.abs(gap_b).sum())
    return {
        "log_loss": float((positive_L * log_p + negative_L * log_q).sum()),
        "brier": float((positive_L * (1 - p_L) ** 2 + negative_L * p_L**2).sum()),
        "ece": ece,
        "ece_debiased": ece,
    }
