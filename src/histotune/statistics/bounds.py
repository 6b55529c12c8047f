"""Interval kernels: percentile, BCa, studentised, t on a transformed scale.

All work on arrays with any axes in front, so that a simulation judges many data sets at once.
"""

# G units, B resamples, H strata; x any axes in front

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from histotune.statistics.evaluators import PairsEvaluator
from histotune.statistics.metrics import metric_kind, ratio

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.statistics.evaluators import Evaluator
    from histotune.statistics.metrics import MetricName

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]


FLAT = 1e-12
"""Values closer than this are the same value."""
T_NODES, T_STEPS = 40, 12
UNSEEN_SKEWNESS = 0.2
"""Lengthening of the skewed side by t times the skewness; chosen on cohorts that the coverage study does not use."""


@dataclass(frozen=True)
class Scale:
    """Where a value can lie, and the scale on which its error is taken to be symmetric.

    The scale is the logit of the value's place between its ends, the logarithm where there is no upper end, the square
    root of the height above the lower end for values that can reach it, and the value itself for differences.

    Attributes:
        low: Least value.
        high: Largest value; may be infinite.
        linear: Take the value itself.
        root: Take the square root.
    """

    low: float = 0.0
    high: float = 1.0
    linear: bool = False
    root: bool = False

    def forward(self, value_x: Float) -> Float:
        """Return the values on the scale; infinite at the ends."""
        if self.linear:
            return value_x
        if self.root:
            return np.asarray(np.sqrt(value_x - self.low))
        with np.errstate(divide="ignore", invalid="ignore"):
            if np.isinf(self.high):
                return np.asarray(np.log(value_x - self.low))
            return np.asarray(np.log(value_x - self.low) - np.log(self.high - value_x))

    def back(self, scaled_x: Float) -> Float:
        """Return values from the scale."""
        if self.linear:
            return np.clip(scaled_x, self.low, self.high)
        if self.root:
            return np.minimum(self.low + np.maximum(scaled_x, 0.0) ** 2, self.high)
        if np.isinf(self.high):
            return np.asarray(self.low + np.exp(scaled_x))
        return np.asarray(self.low + (self.high - self.low) * 0.5 * (1.0 + np.tanh(0.5 * scaled_x)))

    def slope(self, value_x: Float) -> Float:
        """Return the derivative of :meth:`forward`; NaN at the ends."""
        if self.linear:
            return np.ones_like(value_x)
        if self.root:
            return ratio(np.asarray(0.5), np.sqrt(value_x - self.low))
        if np.isinf(self.high):
            return ratio(np.ones(()), value_x - self.low)
        return ratio(np.asarray(self.high - self.low), (value_x - self.low) * (self.high - value_x))


@dataclass(frozen=True)
class Strata:
    """Kinds of units: each is drawn, and left out, among its kind.

    Attributes:
        stratum_G: Kind per unit, from 0.
        holds_GK: Which classes each unit holds.
    """

    stratum_G: Int
    holds_GK: NDArray[np.bool_]

    @classmethod
    def of(cls, holds_GK: NDArray[np.bool_]) -> Strata:
        """Make units that hold the same classes one kind: how many there are of each is then no chance."""
        codes = holds_GK @ (1 << np.arange(holds_GK.shape[1]))
        return cls(np.unique(codes, return_inverse=True)[1].ravel(), holds_GK)

    @classmethod
    def pooled(cls, holds_GK: NDArray[np.bool_]) -> Strata:
        """Make all units one kind: how many hold each class is then chance as well."""
        return cls(np.zeros(len(holds_GK), np.int64), holds_GK)

    @property
    def size_H(self) -> Int:
        """Units of each kind."""
        return np.bincount(self.stratum_G)

    @property
    def per_class_K(self) -> Int:
        """Units that hold each class."""
        return np.asarray(self.holds_GK.sum(axis=0), dtype=np.int64)

    @property
    def rarest(self) -> Int:
        """Units that hold the rarest class."""
        return np.asarray(self.per_class_K.min())

    def centres(self, value_xG: Float, weight_xG: Float | None = None) -> Float:
        """Return each unit's centre: the mean of its kind, or of all units where it is the only one of its kind."""
        weight_xG = np.ones(value_xG.shape[-1]) if weight_xG is None else weight_xG
        # Sums over the units of each kind are one product with their indicators; the divisor is the number of units, so
        # that resampling weights, which add up to it within every kind, give the mean of the resample.
        kind_GH = (self.stratum_G[:, None] == np.arange(len(self.size_H))).astype(np.float64)
        mean_xH = (value_xG * weight_xG) @ kind_GH / self.size_H
        if (self.size_H == 1).any():
            overall_x1 = (value_xG * weight_xG).mean(axis=-1, keepdims=True)
            mean_xH = np.where(self.size_H == 1, overall_x1, mean_xH)
        return np.asarray(mean_xH[..., self.stratum_G])

    @property
    def others_G(self) -> Float:
        """How many other units share a unit's centre."""
        size_G = self.size_H[self.stratum_G]
        return np.where(size_G == 1, len(self.stratum_G) - 1, size_G - 1).astype(np.float64)


def percentile_bounds(values_xB: Float, level: float) -> tuple[Float, Float]:
    """Return the central quantiles of the resampled values, NaN left out."""
    tail = (1.0 - level) / 2.0
    quantile = np.nanquantile if np.isnan(values_xB).any() else np.quantile
    low_x, high_x = quantile(values_xB, [tail, 1.0 - tail], axis=-1)
    return np.asarray(low_x), np.asarray(high_x)


def bca_bounds(
    values_xB: Float, point_x: Float, without_xG: Float, strata: Strata, level: float
) -> tuple[Float, Float]:
    """Return bias-corrected and accelerated quantiles (Efron, JASA 1987; stratified as Davison & Hinkley 1997, 5.4)."""
    from scipy.special import ndtr, ndtri

    # z0 = Phi^-1(share of resamples below the value, ties half) corrects the bias; a = sum u^3 / (6 (sum u^2)^1.5), u
    # being what each unit adds to the value (its jackknife pull), the skewness. The limit of tail z is the quantile at
    # Phi(z0 + (z0 + z) / (1 - a (z0 + z))).
    ordered_xB = np.sort(values_xB, axis=-1)
    n_x = np.isfinite(ordered_xB).sum(axis=-1)
    below_x = (values_xB < point_x[..., None]).sum(axis=-1) + 0.5 * (values_xB == point_x[..., None]).sum(axis=-1)
    bias_x = ndtri(np.clip(below_x / np.maximum(n_x, 1), 1.0 / (n_x + 1), n_x / (n_x + 1)))
    pull_xG = (strata.centres(without_xG) - without_xG) * strata.others_G / (strata.others_G + 1.0)
    acceleration_x = np.nan_to_num(ratio((pull_xG**3).sum(axis=-1), 6.0 * (pull_xG**2).sum(axis=-1) ** 1.5))
    bounds = []
    for tail in ((1.0 - level) / 2.0, (1.0 + level) / 2.0):
        shifted_x = bias_x + ndtri(tail)
        room_x = np.maximum(1.0 - acceleration_x * shifted_x, 1e-6)
        bounds.append(row_quantile(ordered_xB, n_x, ndtr(bias_x + shifted_x / room_x)))
    return bounds[0], bounds[1]


def row_quantile(ordered_xB: Float, n_x: Int, share_x: Float) -> Float:
    """Return a quantile of its own for each row, linear between order statistics."""
    # A share s of n values stands at place s (n - 1) of the sorted row, as in numpy.quantile; NaN lie behind the n.
    place_x = np.clip(share_x, 0.0, 1.0) * np.maximum(n_x - 1, 0)
    lower_x = np.floor(place_x).astype(np.int64)
    upper_x = np.minimum(lower_x + 1, np.maximum(n_x - 1, 0))
    low_x = np.take_along_axis(ordered_xB, lower_x[..., None], axis=-1)[..., 0]
    high_x = np.take_along_axis(ordered_xB, upper_x[..., None], axis=-1)[..., 0]
    return np.asarray(low_x + (place_x - lower_x) * (high_x - low_x))


def jackknife_variance(without_xG: Float, strata: Strata) -> tuple[Float, Float]:
    """Return the delete-one-unit variance and its degrees of freedom (stratified; Efron & Tibshirani 1993, 11)."""
    pull_xG = without_xG - strata.centres(without_xG)
    variance_x = (pull_xG**2 * strata.others_G / (strata.others_G + 1.0)).sum(axis=-1)
    return np.asarray(variance_x), degrees_of_freedom(pull_xG, strata)


def jackknife_skewness(without_xG: Float, strata: Strata) -> Float:
    """Return the skewness of the value's error, from what each unit does to it.

    The third cumulant of a sum over units is the sum of theirs, each n^2 / ((n - 1) (n - 2)) times the mean cube
    within its kind.
    """
    size_G = strata.others_G + 1.0
    pull_xG = (strata.centres(without_xG) - without_xG) * strata.others_G / size_G
    variance_x = (pull_xG**2 * size_G / strata.others_G).sum(axis=-1)
    third_x = (pull_xG**3 * size_G**2 / (strata.others_G * np.maximum(size_G - 2.0, 1.0))).sum(axis=-1)
    return np.nan_to_num(ratio(third_x, variance_x**1.5))


def resampled_variance(values_xB: Float, without_xG: Float, strata: Strata) -> Float:
    """Return the variance over resamples, with the part that drawing from few units lacks.

    Where a metric has kinks (a threshold read off the tiles, an absolute value), leaving out one unit moves it by steps
    that do not average out, however many units there are; over resamples they do (Efron & Tibshirani 1993, 11.6;
    Shao & Wu, Ann. Statist. 1989). A resample of n units varies by (n - 1) / n of what n units vary; kinds weigh in by
    their share of the jackknife's variance.
    """
    size_G = strata.others_G + 1.0
    square_xG = (without_xG - strata.centres(without_xG)) ** 2 * strata.others_G / size_G
    drawn_x = (square_xG * strata.others_G / size_G).sum(axis=-1)
    lacking_x = np.where(drawn_x > 0.0, ratio(square_xG.sum(axis=-1), drawn_x), 1.0)
    return np.asarray(np.nanvar(values_xB, axis=-1, ddof=1) * lacking_x)


def obuchowski_variance(positive_xG: Float, negative_xG: Float, strata: Strata) -> Float:
    """Return the variance of an AUROC from clustered structural components (Obuchowski, Biometrics 1997).

    DeLong's components of the tiles are summed by cluster; clusters are independent, tiles inside them are not.
    """
    n_units = len(strata.stratum_G)
    n_negative, n_positive = (int(n) for n in strata.per_class_K)
    # With I+ (I-) units that hold positive (negative) tiles and I units in all, the variance is I+ / (I+ - 1) sum p^2 +
    # I- / (I- - 1) sum q^2 + 2 I / (I - 1) sum p q, p and q being a unit's summed components.
    own = n_positive / (n_positive - 1.0) * (positive_xG**2).sum(axis=-1)
    own = own + n_negative / (n_negative - 1.0) * (negative_xG**2).sum(axis=-1)
    shared = n_units / (n_units - 1.0) * (positive_xG * negative_xG).sum(axis=-1)
    return np.asarray(np.maximum(own + 2.0 * shared, 0.0))


def degrees_of_freedom(pull_xG: Float, strata: Strata) -> Float:
    """Return Satterthwaite's degrees of freedom, at most the least number of units over classes, less one.

    A variance V that sums V_h over kinds has 2 V^2 / var(V) degrees of freedom (Satterthwaite, Biometrics Bulletin
    1946). var(V_h) follows from the kurtosis of the units' pulls: where a few units carry the variance, as they do for
    scores near 1, it is known worse than the number of units says, and the interval must be wider.
    """
    # V = sum_h V_h with V_h the sum of squared pulls of a kind; a sum of n independent squares has about the variance
    # sum of fourth powers - (sum of squares)^2 / n, so the degrees of freedom are 2 V^2 / sum_h of these.
    total_x, spread_x = np.zeros(pull_xG.shape[:-1]), np.zeros(pull_xG.shape[:-1])
    for kind, size in enumerate(strata.size_H):
        square_xg = pull_xG[..., strata.stratum_G == kind] ** 2
        sum_x = square_xg.sum(axis=-1)
        total_x += sum_x
        spread_x += np.maximum((square_xg**2).sum(axis=-1) - sum_x**2 / size, 0.0)
    most = np.maximum(strata.rarest - 1.0, 1.0)
    found_x = ratio(2.0 * total_x**2, spread_x)
    return np.clip(np.where(np.isnan(found_x), most, found_x), 1.0, most)


def slope_se(slope_xBG: Float, counts_BG: Float, strata: Strata) -> Float:
    """Return the standard error on every resample from the slopes there (infinitesimal jackknife)."""
    pull_xBG = slope_xBG - strata.centres(slope_xBG, counts_BG)
    factor_G = (strata.others_G + 1.0) / strata.others_G
    return np.asarray(np.sqrt((counts_BG * factor_G * pull_xBG**2).sum(axis=-1)))


def t_bounds(
    point_x: Float, se_x: Float, df_x: Float, scale: Scale, level: float, skewness_x: Float | float = 0.0
) -> tuple[Float, Float]:
    """Return a t interval on the scale, mapped back; longer towards a long tail.

    On the logit or log scale the skewness that a sample shows is nearly made up for by the scale's own curvature. But
    few units show too little of a long tail, and where none of them comes from it the error looks small as well, so
    that t intervals miss on that side alone. There the reach t becomes t (1 + 0.2 t |skewness|): the leading term of
    Hall's correction for skewness (J. R. Statist. Soc. B 1992), taken only where it lengthens.
    """
    t_x = t_quantile(df_x, (1.0 + level) / 2.0)
    unit_x, centre_x = se_x * scale.slope(point_x), scale.forward(point_x)
    longer_x = 1.0 + UNSEEN_SKEWNESS * t_x * np.abs(skewness_x)
    down_x, up_x = np.where(skewness_x < 0.0, longer_x, 1.0), np.where(skewness_x > 0.0, longer_x, 1.0)
    return scale.back(centre_x - t_x * down_x * unit_x), scale.back(centre_x + t_x * up_x * unit_x)


def t_quantile(df_x: Float, share: float) -> Float:
    """Return a quantile of Student's t; scipy's import would cost a warm run more than all its intervals.

    With t = sqrt(df) tan(a) the distribution function is 1/2 + c times the integral of cos(a)^(df - 1), which is smooth
    and concave: Newton's steps from the normal quantile approach the root from one side.
    """
    # F(a) = 1/2 + c int_0^a cos^(df - 1), c = Gamma((df + 1) / 2) / (sqrt(pi) Gamma(df / 2)); the integral by
    # Gauss-Legendre nodes moved from [-1, 1] to [0, a], the root of F(a) = share by Newton with F'(a) = c cos(a)^(df -
    # 1).
    node_L, weight_L = np.polynomial.legendre.leggauss(T_NODES)
    df_x = np.asarray(df_x, dtype=np.float64)
    log_gamma = np.vectorize(math.lgamma, otypes=[np.float64])
    scale_x = np.exp(log_gamma((df_x + 1.0) / 2.0) - log_gamma(df_x / 2.0)) / math.sqrt(math.pi)
    angle_x = np.arctan(NormalDist().inv_cdf(share) / np.sqrt(df_x))
    for _ in range(T_STEPS):
        inside_xL = np.cos(0.5 * angle_x[..., None] * (node_L + 1.0)) ** (df_x[..., None] - 1.0)
        reached_x = scale_x * 0.5 * angle_x * (inside_xL @ weight_L)
        angle_x = angle_x + (share - 0.5 - reached_x) / (scale_x * np.cos(angle_x) ** (df_x - 1.0))
    return np.asarray(np.sqrt(df_x) * np.tan(angle_x))


@dataclass(frozen=True)
class Resampled:
    """Values and standard errors on resamples, (..., B) each."""

    values_xB: Float
    se_xB: Float


def studentised_bounds(
    point_x: Float, se_x: Float, drawn: Resampled, scale: Scale, level: float
) -> tuple[Float, Float]:
    """Return the bootstrap-t interval on the scale (Efron & Tibshirani 1993, 12.5).

    Resamples without error or at an end of the scale have no t and are left out.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        shift_xB = scale.forward(drawn.values_xB) - scale.forward(point_x)[..., None]
        t_xB = shift_xB / (drawn.se_xB * scale.slope(drawn.values_xB))
    t_xB = np.where(np.isfinite(t_xB) & (drawn.se_xB > FLAT), t_xB, np.nan)
    t_xB = np.where(np.isnan(t_xB).all(axis=-1, keepdims=True), 0.0, t_xB)
    low_t_x, high_t_x = percentile_bounds(t_xB, level)
    unit_x, centre_x = se_x * scale.slope(point_x), scale.forward(point_x)
    return scale.back(centre_x - high_t_x * unit_x), scale.back(centre_x - low_t_x * unit_x)


# ------------------------------------------------------------------------------
# The candidate methods of an interval, side by side: what each needs and the bounds it gives


Method = Literal[
    "percentile", "bca", "studentised", "jackknife-t", "skewed-t", "resampled-t", "resampled-skewed-t", "obuchowski-t"
]
METHODS: tuple[Method, ...] = get_args(Method)
FROM_RESAMPLES: tuple[Method, ...] = ("resampled-t", "resampled-skewed-t")
"""t intervals whose error comes from resamples."""
LENGTHENED: tuple[Method, ...] = ("skewed-t", "resampled-skewed-t")
"""t intervals that are longer towards the long tail."""
BOOTSTRAPS: tuple[Method, ...] = ("percentile", "bca", "studentised", *FROM_RESAMPLES)


@dataclass(frozen=True)
class IntervalEvidence:
    """What intervals are made from.

    Attributes:
        point_x: The value.
        without_xG: The value without each unit; None where only resamples count.
        drawn: Values, and errors for the studentised bootstrap, on resamples; None where none were drawn.
        components_xG: DeLong's structural components of an AUROC, centred and summed by unit, of positive and of
            negative tiles; None where the metric has none.
        more: A variance from elsewhere that is added, such as that of the draws that a value is the mean of, and its
            degrees of freedom.
    """

    point_x: Float
    without_xG: Float | None = None
    drawn: Resampled | None = None
    components_xG: tuple[Float, Float] | None = None
    more: tuple[float, float] | None = None


def method_bounds(
    method: Method, evidence: IntervalEvidence, strata: Strata, scale: Scale, level: float
) -> tuple[Float, Float]:
    """Return the bounds that a method gives; equal bounds where all units agree."""
    if method == "percentile" and evidence.drawn is not None:
        return percentile_bounds(evidence.drawn.values_xB, level)
    if evidence.without_xG is None:
        raise ValueError(f"{method} needs the value without each unit")
    if method == "bca" and evidence.drawn is not None:
        return bca_bounds(evidence.drawn.values_xB, evidence.point_x, evidence.without_xG, strata, level)
    variance_x, df_x = jackknife_variance(evidence.without_xG, strata)
    if method == "studentised" and evidence.drawn is not None:
        return studentised_bounds(evidence.point_x, np.sqrt(variance_x), evidence.drawn, scale, level)
    skewness_x = np.zeros_like(variance_x)
    if method == "obuchowski-t" and evidence.components_xG is not None:
        variance_x = obuchowski_variance(*evidence.components_xG, strata)
        df_x = degrees_of_freedom(np.add(*evidence.components_xG), strata)
    elif method in FROM_RESAMPLES and evidence.drawn is not None:
        variance_x = resampled_variance(evidence.drawn.values_xB, evidence.without_xG, strata)
    elif method not in ("jackknife-t", "skewed-t", "obuchowski-t"):
        raise ValueError(f"{method} needs resamples")
    if method in LENGTHENED:
        skewness_x = jackknife_skewness(evidence.without_xG, strata)
    variance_x, df_x = _with_more(variance_x, df_x, evidence)
    return _t_bounds(evidence.point_x, np.sqrt(variance_x), df_x, scale, level, skewness_x)


def _with_more(variance_x: Float, df_x: Float, evidence: IntervalEvidence) -> tuple[Float, Float]:
    """Add a variance from elsewhere, with the degrees of freedom of the sum (Satterthwaite 1946)."""
    if evidence.more is None or not evidence.more[0] > 0.0:
        return variance_x, df_x
    added, added_df = evidence.more
    total_x = variance_x + added
    return total_x, total_x**2 / (variance_x**2 / df_x + added**2 / added_df)


def _t_bounds(
    point_x: Float, se_x: Float, df_x: Float, scale: Scale, level: float, skewness_x: Float
) -> tuple[Float, Float]:
    """Return t bounds; at an end of the range, where the scale is infinite, on the value's own scale."""
    low_x, high_x = t_bounds(point_x, se_x, df_x, scale, level, skewness_x)
    at_end_x = (point_x <= scale.low) | (point_x >= scale.high)
    if at_end_x.any():
        plain = t_bounds(point_x, se_x, df_x, Scale(scale.low, scale.high, linear=True), level, skewness_x)
        low_x, high_x = np.where(at_end_x, plain[0], low_x), np.where(at_end_x, plain[1], high_x)
    return low_x, high_x


def structural_components(evaluator: Evaluator, n_units: int) -> tuple[Float, Float] | None:
    """Return DeLong's components of an AUROC of two classes, summed by unit; None for any other metric."""
    if not isinstance(evaluator, PairsEvaluator):
        return None
    positive_x1G, negative_x1G = evaluator.components(np.ones((1, n_units)))
    return positive_x1G[..., 0, :], negative_x1G[..., 0, :]


def metric_scale(name: MetricName, n_classes: int = 2) -> Scale:
    """Return the range of a metric and the scale of its t intervals."""
    kind = metric_kind(name, n_classes)
    return Scale(kind.low, kind.high, root=name in ("ece", "ece_debiased"))


def all_agree(evidence: IntervalEvidence) -> NDArray[np.bool_]:
    """Return where no unit changes the value, and no resample does: its error can't be read off its spread."""
    if evidence.without_xG is not None:
        return np.asarray((np.abs(evidence.without_xG - evidence.point_x[..., None]) <= FLAT).all(axis=-1))
    if evidence.drawn is None:
        raise ValueError("neither resamples nor values without each unit")
    spread_x = np.nanmax(evidence.drawn.values_xB, axis=-1) - np.nanmin(evidence.drawn.values_xB, axis=-1)
    return np.asarray(spread_x <= FLAT)


def independent_units(name: MetricName, strata: Strata) -> Int:
    """Return how many independent units speak for a metric where all agree.

    A metric that sets classes against one another needs a unit of every class at a time: disjoint tuples count.
    """
    n_units, n_classes = len(strata.stratum_G), len(strata.per_class_K)
    if metric_kind(name).needs_every_class or name == "mcc":
        return np.maximum(np.minimum(strata.rarest, n_units // n_classes), 1)
    return np.asarray(n_units)


def agreed_bounds(
    name: MetricName, point_x: Float, strata: Strata, level: float, prevalence_x: Float, scale: Scale
) -> tuple[Float, Float]:
    """Return the exact bounds where all units agree."""
    n = independent_units(name, strata)
    low_x, high_x = flat_bounds(point_x, n, scale, level)
    if name == "auprc" and scale.low == 0.0:
        lost = flat_average_precision(1.0 - (1.0 - level) ** (1.0 / n), prevalence_x)
        low_x = np.where(point_x >= 1.0, lost, low_x)
    return np.asarray(low_x), np.asarray(high_x)


# ------------------------------------------------------------------------------
# Exact bounds where every unit agrees, as for a perfect score: no spread says how wrong it is


def flat_bounds(value_x: Float, n_units: Int | int, scale: Scale, level: float) -> tuple[Float, Float]:
    """Return the exact bound where every unit agrees, such as for a perfect score.

    Let d be the share of units (or of disjoint tuples with a unit of every class) that would not agree. All n
    independent ones agree with probability (1 - d)^n, so d is below 1 - (1 - level)^(1/n), about 3 / n at 95 %: the
    one-sided bound of Clopper and Pearson (Biometrika 1934), the rule of three. A value that lies anywhere in its range
    on a share d of units, and at ``value`` on the others, lies within d times the room on each side. Units count as
    equally large.
    """
    share = 1.0 - (1.0 - level) ** (1.0 / n_units)
    return value_x - share * (value_x - scale.low), value_x + share * (scale.high - value_x)


def flat_average_precision(share: Float | float, prevalence_x: Float) -> Float:
    """Return the average precision of a perfect ranking but for a share of the negatives above every positive.

    Of all ways to lose that share of the pairs this costs the average precision most: at recall r the precision is
    r / (r + c) with c = share (1 - prevalence) / prevalence, whose mean over r is 1 - c log((1 + c) / c).
    """
    c_x = np.maximum(share * (1.0 - prevalence_x) / prevalence_x, 1e-12)
    return np.asarray(1.0 - c_x * np.log((1.0 + c_x) / c_x))
