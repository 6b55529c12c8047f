"""Choose from which probability a binary head says class 1, on out-of-fold predictions.

A rule gives every cut between two neighbouring probabilities an integer value, so that equal cuts are equal exactly.
The threshold is the middle of a run of best cuts: the run whose middle lies nearest to 0.5 where there are several. It
depends on the tiles alone, not on their order.
"""

# n tiles, G groups, C cuts (cut c predicts class 1 from the c-th smallest distinct probability on)

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.heads.head import Decision
from histotune.heads.jackknife import MIN_GROUPS, group_chunks, group_interval, jackknife_interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.heads.config import ThresholdRule

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]

RULE_WORDS = {
    "balanced-accuracy": "highest balanced accuracy",
    "youden": "highest Youden index",
    "sensitivity": "highest specificity at a sensitivity of at least {sensitivity:g}",
}
MIN_SPREAD = 1e-12
EDGE = 1e-6
"""Thresholds stay this far from 0 and 1 on the logit scale of their interval."""


@dataclass(frozen=True)
class BinaryTiles:
    """Out-of-fold predictions of a binary head.

    Attributes:
        probability_n: Calibrated probability of class 1.
        positive_n: Whether the tile is of class 1.
        group_n: Group number per tile.
        n_groups: Number of groups.
    """

    probability_n: Float
    positive_n: NDArray[np.bool_]
    group_n: Int
    n_groups: int


def choose_threshold(tiles: BinaryTiles, rule: ThresholdRule, sensitivity: float) -> Decision:
    """Return the threshold of a rule with its group-jackknife interval.

    The interval is a t interval on the logit scale; a threshold is no smooth function of the data, so the interval
    tells how far it moves when a group goes, and is no better than that.

    Args:
        tiles: Out-of-fold predictions.
        rule: What it is chosen for; balanced accuracy and Youden's index are best at the same cut, as
            J = 2 * balanced accuracy - 1 (Youden 1950).
        sensitivity: For the rule ``sensitivity``.

    Returns:
        The decision; 0.5 with the reason where a class has too few groups to choose on.
    """
    if rule == "0.5":
        return Decision(0.5, rule, None, "not tuned: the most probable class")
    positive_G = np.bincount(tiles.group_n, weights=tiles.positive_n, minlength=tiles.n_groups)
    negative_G = np.bincount(tiles.group_n, weights=~tiles.positive_n, minlength=tiles.n_groups)
    fewest = int(min((positive_G > 0).sum(), (negative_G > 0).sum()))
    if fewest < MIN_GROUPS:
        return Decision(0.5, "0.5", None, f"not tuned: a class lies in {fewest} groups, and {MIN_GROUPS} are needed")
    whole, left_out_G = _thresholds(tiles, rule, sensitivity)
    words = f"{RULE_WORDS[rule].format(sensitivity=sensitivity)}, out of fold"
    if np.ptp(left_out_G) <= MIN_SPREAD:
        return Decision(whole, rule, None, f"{words}; no interval: it is the same whichever group is left out")
    ends = jackknife_interval(float(_logit(np.array([whole]))[0]), _logit(left_out_G))
    low, high = _expit(np.array(ends))
    return Decision(whole, rule, group_interval((low, high), tiles.n_groups), words)


def _thresholds(tiles: BinaryTiles, rule: ThresholdRule, sensitivity: float) -> tuple[float, Float]:
    """Return the threshold on all groups, and with each group left out (G,)."""
    distinct, code_n = np.unique(tiles.probability_n, return_inverse=True)
    code_n = np.asarray(code_n).ravel()
    n_distinct = len(distinct)
    all_pos = np.bincount(code_n[tiles.positive_n], minlength=n_distinct)
    all_neg = np.bincount(code_n[~tiles.positive_n], minlength=n_distinct)
    whole = _best_cuts(distinct, all_pos[None], all_neg[None], (rule, sensitivity))[0]
    left_out_G = np.empty(tiles.n_groups)
    for groups in group_chunks(tiles.n_groups, n_distinct):
        inside = np.flatnonzero((tiles.group_n >= groups[0]) & (tiles.group_n <= groups[-1]))
        flat = (tiles.group_n[inside] - groups[0]) * n_distinct + code_n[inside]
        positive = tiles.positive_n[inside]
        shape = (len(groups), n_distinct)
        own_pos = np.bincount(flat[positive], minlength=len(groups) * n_distinct).reshape(shape)
        own_neg = np.bincount(flat[~positive], minlength=len(groups) * n_distinct).reshape(shape)
        left_out_G[groups] = _best_cuts(distinct, all_pos - own_pos, all_neg - own_neg, (rule, sensitivity))
    return float(whole), left_out_G


def _best_cuts(distinct: Float, pos_BC: Int, neg_BC: Int, rule: tuple[ThresholdRule, float]) -> Float:
    """Return the threshold for every row of counts per distinct probability."""
    n_pos_B1, n_neg_B1 = pos_BC.sum(axis=1, keepdims=True), neg_BC.sum(axis=1, keepdims=True)
    zero_B1 = np.zeros_like(n_pos_B1)
    true_pos_BC = n_pos_B1 - np.concatenate([zero_B1, np.cumsum(pos_BC, axis=1)], axis=1)
    true_neg_BC = np.concatenate([zero_B1, np.cumsum(neg_BC, axis=1)], axis=1)
    if rule[0] == "sensitivity":
        needed_B1 = np.ceil(rule[1] * n_pos_B1 - 1e-9)
        value_BC = np.where(true_pos_BC >= needed_B1, true_neg_BC, -1)
    else:
        value_BC = true_pos_BC * n_neg_B1 + true_neg_BC * n_pos_B1
    best_BC = value_BC == value_BC.max(axis=1, keepdims=True)
    edges = np.r_[0.0, distinct, 1.0]
    return np.array([_middle(edges, best_C) for best_C in best_BC])


def _middle(edges: Float, best_C: NDArray[np.bool_]) -> float:
    """Return the middle of the run of best cuts nearest to 0.5; cut c lies in (edges[c], edges[c + 1]].

    A run is open at its lower end, where the probability below it still says class 0. With a group left out, cuts that
    only its tiles separated have equal values, so runs span them.
    """
    change = np.diff(np.r_[False, best_C, False].astype(np.int8))
    starts, stops = np.flatnonzero(change == 1), np.flatnonzero(change == -1)
    middles = (edges[starts] + edges[stops]) / 2.0
    middles = np.where(middles > edges[starts], middles, edges[stops])
    return float(middles[np.argmin(np.abs(middles - 0.5))])


def _logit(p: Float) -> Float:
    p = np.clip(p, EDGE, 1.0 - EDGE)
    return np.asarray(np.log(p / (1.0 - p)))


def _expit(z: Float) -> Float:
    return np.asarray(1.0 / (1.0 + np.exp(-z)))
