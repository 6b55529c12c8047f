"""Synthetic transfers at the level of embeddings: classes, groups, and causes that are known.

No image is rendered and no network runs: an embedding is class signal + group effect + tile noise in a space whose
axes differ in spread. A cause acts on the target's embeddings; the remedied view is what the generator gives with the
cause undone, up to noise that stands for everything a real re-embedding gets wrong.
"""

# N tiles, D dimensions, G groups

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from histotune.datasets.splits.folds import assign_group_folds
from histotune.heads.calibrate import fit_temperatures
from histotune.heads.solver.logistic import fit_batch
from histotune.heads.solver.problems import FitProblems
from histotune.transfer.case import HeadMap, RemedyView, Side, TransferCase
from histotune.transfer.corrections import side_predictions, two_class_margins

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.statistics.predictions import Predictions
    from histotune.transfer.case import Physical

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]

Case = Literal[
    "none", "scale", "stain", "covariance", "threshold", "prevalence", "calibration",
    "scale + prevalence", "stain + threshold", "scale or stain", "scale, um/px unknown",
]  # fmt: skip
CASES: tuple[Case, ...] = Case.__args__  # type: ignore[attr-defined]
TRUTH: dict[Case, str] = {
    "none": "none",
    "scale": "scale",
    "stain": "stain",
    "covariance": "mean and covariance",
    "threshold": "threshold",
    "prevalence": "prevalence",
    "calibration": "calibration",
    "scale + prevalence": "scale",
    "stain + threshold": "stain",
    "scale or stain": "can't be told",
    "scale, um/px unknown": "can't be told",
}
FOLDS = 5
PENALTY = 0.03


@dataclass(frozen=True)
class Strengths:
    """How strong the causes are drawn, each uniformly from a range.

    Attributes:
        scale: Share of the class signal lost at another scale, and spread of the structure that appears in its place.
        stain: Spread of colour along the stain direction, half between and half within groups, in tile standard
            deviations.
        covariance: Log-spread of the factors by which axes stretch and shrink.
        threshold: Shift of the log-odds, along the head.
        prevalence: Share of positive groups in the target; the source has one half.
        calibration: Factor by which embeddings spread from their mean.
        groups: Groups per side.
        tiles: Tiles per group.
        dim: Dimensions of the space.
    """

    scale: tuple[float, float]
    stain: tuple[float, float]
    covariance: tuple[float, float]
    threshold: tuple[float, float]
    prevalence: tuple[float, float]
    calibration: tuple[float, float]
    groups: tuple[int, int] = (60, 80)
    tiles: int = 20
    dim: int = 24


DEVELOPMENT = Strengths((0.55, 0.65), (2.8, 3.4), (1.3, 1.5), (2.0, 2.4), (0.14, 0.16), (3.2, 3.6))
"""The rule was first written looking at these."""
MODERATE = Strengths((0.4, 0.55), (2.0, 2.8), (1.0, 1.3), (1.4, 2.0), (0.16, 0.22), (2.4, 3.2), (45, 60))
"""Weaker, on fewer groups: the rule was revised looking at these ranges, on other seeds than the published ones."""
HELD_OUT = Strengths((0.65, 0.85), (3.4, 5.0), (1.5, 1.9), (2.4, 3.4), (0.10, 0.14), (3.6, 5.0))
"""Stronger than any that the rule was written with."""
OTHER_WORLD = Strengths(
    (0.45, 0.8), (2.4, 4.5), (1.1, 1.7), (1.6, 3.0), (0.12, 0.2), (2.6, 4.5), (50, 70), tiles=12, dim=48
)
"""Twice the dimensions, fewer tiles per group: drawn once, after the rule was fixed."""
WEAK = Strengths((0.15, 0.35), (0.8, 1.6), (0.5, 0.9), (0.5, 1.2), (0.25, 0.4), (1.4, 2.2), (30, 40))
"""Weak causes on few groups: what the rule says where it can know little."""


@dataclass(frozen=True)
class World:
    """What all data of one seed share.

    Attributes:
        signal_D: Where class 1 lies relative to class 0.
        spread_D: Tile spread per axis.
        scale_D: Unit direction along which another scale shows structure.
        stain_D: Unit direction along which colour moves.
    """

    signal_D: Float
    spread_D: Float
    scale_D: Float
    stain_D: Float


def make_case(case: Case, strengths: Strengths, seed: int) -> TransferCase:
    """Draw a source, train a head on it, and carry it to a target with a known cause.

    Args:
        case: The cause.
        strengths: Ranges its strength is drawn from.
        seed: Seed of everything.

    Returns:
        What the diagnosis takes.
    """
    rng = np.random.default_rng([seed, CASES.index(case)])
    world = _world(strengths.dim, rng)
    n_groups = int(rng.integers(*strengths.groups, endpoint=True))
    source = _side("source", world, _labels(n_groups, 0.5), strengths.tiles, rng)
    head, predictions = _train(source)
    share = rng.uniform(*strengths.prevalence) if "prevalence" in case else 0.5
    clean = _side("target", world, _labels(n_groups, share), strengths.tiles, rng)
    versions = _versions(case, clean, world, strengths, (head, rng))
    target = _with(clean, versions[frozenset()])
    views = tuple(
        RemedyView(undone, x_ND + 0.15 * world.spread_D * rng.normal(size=x_ND.shape))
        for undone, x_ND in versions.items()
        if undone
    )
    if case == "scale, um/px unknown":  # under one candidate scale of the target the remedy works, under the other not
        views = tuple(_under_candidates(views, target, (world, rng)))
    return TransferCase(head, source, predictions, target, views)


def _under_candidates(
    views: tuple[RemedyView, ...], target: Side, made: tuple[World, np.random.Generator]
) -> list[RemedyView]:
    world, rng = made
    out = []
    for view in views:
        if "scale" not in view.undone:
            out.append(view)
            continue
        other_ND = target.x_ND + 0.15 * world.spread_D * rng.normal(size=target.x_ND.shape)
        out += [RemedyView(view.undone, view.x_ND, "0.5 um/px"), RemedyView(view.undone, other_ND, "1 um/px")]
    return out


def _world(dim: int, rng: np.random.Generator) -> World:
    spread_D = np.exp(rng.normal(0.0, 0.3, dim))
    signal_D = rng.normal(size=dim)
    signal_D *= 2.6 / np.linalg.norm(signal_D)
    along = signal_D / np.linalg.norm(signal_D)
    directions: list[Float] = []
    for _ in range(2):  # each overlaps with the signal, or it could not hurt the ranking
        other = rng.normal(size=dim)
        other -= (other @ along) * along
        for earlier in directions:
            across = earlier - (earlier @ along) * along
            other -= (other @ across) * across / (across @ across)
        direction = 0.6 * along + 0.8 * other / np.linalg.norm(other)
        directions.append(direction)
    return World(signal_D * spread_D, spread_D, directions[0] * spread_D, directions[1] * spread_D)


def _labels(n_groups: int, share: float) -> Int:
    n_positive = max(round(share * n_groups), 6)
    return np.repeat([0, 1], [n_groups - n_positive, n_positive]).astype(np.int64)


def _side(name: str, world: World, label_G: Int, tiles: int, rng: np.random.Generator) -> Side:
    group_N = np.repeat(np.arange(len(label_G)), tiles)
    y_N = label_G[group_N]
    effect_GD = 0.35 * world.spread_D * rng.normal(size=(len(label_G), len(world.spread_D)))
    x_ND = (y_N[:, None] - 0.5) * world.signal_D + effect_GD[group_N]
    x_ND = x_ND + world.spread_D * rng.normal(size=x_ND.shape)
    groups = tuple(f"{name}-{group:03d}" for group in group_N)
    return Side(name, x_ND, y_N, groups, tuple(f"{name}-{row:05d}" for row in range(len(y_N))))


def _versions(
    case: Case, clean: Side, world: World, strengths: Strengths, made: tuple[HeadMap, np.random.Generator]
) -> dict[frozenset[Physical], Float]:
    """Return the target as it is and with scale, stain, and both undone."""
    head, rng = made
    group_N = np.unique(np.array(clean.groups), return_inverse=True)[1]
    base_ND = _decision_cause(case, clean.x_ND, strengths, (head, rng))
    by_group_N = rng.normal(size=group_N.max() + 1)[group_N]  # a slide's batch, and uneven staining within it
    colour_N1 = rng.uniform(*strengths.stain) * (by_group_N + rng.normal(size=len(clean)))[:, None] / np.sqrt(2.0)
    lost = rng.uniform(*strengths.scale)
    along = world.scale_D / np.linalg.norm(world.scale_D)
    structure_N1 = 3.0 * lost * rng.normal(size=(len(clean), 1))

    def scaled(x_ND: Float) -> Float:
        mean_D = x_ND.mean(axis=0)
        faded_ND = x_ND - lost * ((x_ND - mean_D) @ along)[:, None] * along
        faded_ND = faded_ND - lost * (clean.y_N[:, None] - clean.y_N.mean()) * world.signal_D
        return np.asarray(faded_ND + structure_N1 * world.scale_D)

    def stained(x_ND: Float) -> Float:
        return np.asarray(x_ND + colour_N1 * world.stain_D)

    scale: frozenset[Physical] = frozenset({"scale"})
    stain: frozenset[Physical] = frozenset({"stain"})
    both = scale | stain
    if case == "scale or stain":  # one movement that either remedy takes back
        return {frozenset(): stained(base_ND), scale: base_ND, stain: base_ND, both: base_ND}
    shown_ND = scaled(base_ND) if case.startswith("scale") else base_ND
    shown_ND = stained(shown_ND) if case.startswith("stain") else shown_ND
    return {
        frozenset(): shown_ND,
        scale: base_ND if case.startswith("scale") else shown_ND,
        stain: base_ND if case.startswith("stain") else shown_ND,
        both: base_ND,
    }


def _decision_cause(case: Case, x_ND: Float, strengths: Strengths, made: tuple[HeadMap, np.random.Generator]) -> Float:
    """Apply causes that no re-embedding undoes."""
    (head, rng), dim = made, strengths.dim
    shift, factor = rng.uniform(*strengths.threshold), rng.uniform(*strengths.calibration)
    stretch_D = np.exp(rng.uniform(*strengths.covariance) * rng.permutation(np.repeat([-1.0, 1.0], dim // 2)))
    mean_D = x_ND.mean(axis=0)
    if "threshold" in case:
        zero = head.margin(np.zeros((1, dim)))[:, 1]
        slope_D = head.margin(np.eye(dim))[:, 1] - zero
        return np.asarray(x_ND + shift * slope_D / (slope_D @ slope_D))
    if case == "calibration":
        return np.asarray(mean_D + factor * (x_ND - mean_D))
    if case == "covariance":
        return np.asarray(mean_D + stretch_D * (x_ND - mean_D))
    return x_ND


def _train(source: Side) -> tuple[HeadMap, Predictions]:
    """Train a head and score the source with heads of its folds; one temperature from those scores."""
    fold_by_group = assign_group_folds(source.groups, source.y_N, 2, FOLDS, 0)
    fold_N = np.array([fold_by_group[group] for group in source.groups], np.int64)
    mask_FN = np.concatenate([fold_N != np.arange(FOLDS)[:, None], np.ones((1, len(source)), bool)])
    problems = FitProblems(mask_FN, np.arange(FOLDS + 1), np.full(FOLDS + 1, PENALTY), n_classes=2)
    found = fit_batch(source.x_ND, source.y_N, problems)
    weight_FD, bias_F = found.weight_PKD[:, 0], found.bias_PK[:, 0]
    held_N = np.einsum("nd,nd->n", source.x_ND, weight_FD[fold_N]) + bias_F[fold_N]
    logit_N2 = two_class_margins(held_N)
    temperature = float(fit_temperatures(logit_N2, source.y_N, np.ones((1, len(source))))[0])
    head = HeadMap(
        lambda x_ND: two_class_margins((x_ND @ weight_FD[-1] + bias_F[-1]) / temperature),
        0.5,
        PENALTY,
        ("benign", "malignant"),
        "study",
    )
    return head, side_predictions(source, head, logit_N2 / temperature, fold_N, np.full(len(source), 0.5))


def _with(side: Side, x_ND: Float) -> Side:
    return Side(side.domain, x_ND, side.y_N, side.groups, side.tile_ids)
