"""The target embedded again: at the source's scale, in the source's colours, and both."""

# N tiles

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.arms import embed_dataset
from histotune.backbones.catalog import find_backbone
from histotune.evaluation.transfer.records import RemedyPlan, RemedyView
from histotune.experiment import single_dataset
from histotune.images.restain import restain
from histotune.images.stain_transfer import INSTALL, has_torchstain

if TYPE_CHECKING:
    from histotune.config import ExperimentConfig
    from histotune.datasets.records import TileSet
    from histotune.deploy.bundle import Bundle
    from histotune.evaluation.material import Material
    from histotune.evaluation.transfer.records import Physical

SAME_SCALE = 1.05
"""Scales closer than this factor are matched already."""


@dataclass(frozen=True)
class ViewRequest:
    """What the remedies that need images work on.

    Attributes:
        config: Names the target; holds the head's view.
        bundle: The head.
        source_tiles: Training tiles.
        source: The same, embedded.
        target: The target, embedded as it is.
    """

    config: ExperimentConfig
    bundle: Bundle
    source_tiles: TileSet
    source: Material
    target: Material


@dataclass(frozen=True)
class Remedied:
    """The target embedded again.

    Attributes:
        views: What could be made.
        plans: What could not, and what it needs.
        notes: What a reader must know.
    """

    views: tuple[RemedyView, ...] = ()
    plans: tuple[RemedyPlan, ...] = ()
    notes: tuple[str, ...] = ()


def plan_views(request: ViewRequest) -> tuple[RemedyPlan, ...]:
    """Return which versions of the target the remedies need.

    Args:
        request: Source, target and head.

    Returns:
        Plans; those with ``needs`` can't be done here, and say what is missing.
    """
    source_mpp, target_mpp = (_median(material.input_mpp_N) for material in (request.source, request.target))
    factors = (_factor(request.source.tiles), _factor(request.target.tiles))
    if request.source.tiles.name == request.target.tiles.name:
        factors = (1.0, 1.0)  # two magnifications of one data set are wrong by the same factor, and their ratio is not
    scales = scale_plans((source_mpp, target_mpp), factors)
    method = request.config.transfer.stain
    stain = RemedyPlan(frozenset({"stain"}), f"{method.capitalize()} stain normalisation to the source",
                       "" if has_torchstain() else INSTALL)  # fmt: skip
    plans = [*scales, stain]
    if not stain.needs:
        plans += [
            replace(plan, undone=plan.undone | stain.undone, what=f"{plan.what}; {stain.what}")
            for plan in scales
            if not plan.needs
        ]
    return tuple(plans)


def remedy_views(request: ViewRequest) -> Remedied:
    """Embed the target again for every plan that can be done.

    Args:
        request: Source, target and head.

    Returns:
        Views, plans that could not be done, and notes.
    """
    plans = plan_views(request)
    views, notes = [], []
    restained = None
    if any("stain" in plan.undone and not plan.needs for plan in plans):
        how = (request.config.transfer.stain, request.config.loader)
        restained = restain(request.target.tiles, request.source_tiles, how, request.config.cache)  # type: ignore[arg-type]
        if restained.n_kept:
            notes.append(f"{restained.n_kept:,} of {len(request.target.tiles):,} target tiles hold too little tissue "
                         "for stain normalisation and keep their colours.")  # fmt: skip
    for plan in plans:
        if plan.needs:
            continue
        tiles = restained.tiles if restained is not None and "stain" in plan.undone else request.target.tiles
        view, material = _embed(plan, tiles, request)
        views.append(view)
        notes += _view_notes(plan, material, request.target)
    notes += [f"Not tried: {plan.what}; it needs {plan.needs}." for plan in plans if plan.needs]
    if any("scale" in plan.undone for plan in plans if not plan.needs):
        notes.append("At another scale a tile's label may speak about another part of what the network sees.")
    return Remedied(tuple(views), tuple(plan for plan in plans if plan.needs), tuple(notes))


def scale_plans(mpp: tuple[float, float], factors: tuple[float, float]) -> list[RemedyPlan]:
    """Return a plan per candidate pair of scales, the stated one first.

    Only the ratio of the two scales matters to the view, so that the candidates are the stated ratio and the ends of
    what both uncertainties together allow.

    Args:
        mpp: Median input_mpp of source and target, um/px; NaN where unknown.
        factors: Multiplicative uncertainty of the um/px of source and target, 1 = exact.

    Returns:
        Plans; none where the scales agree already.
    """
    scale: frozenset[Physical] = frozenset({"scale"})
    (source_mpp, target_mpp), (source_factor, target_factor) = mpp, factors
    factor = source_factor * target_factor
    if np.isnan(source_mpp) or np.isnan(target_mpp):
        return [RemedyPlan(scale, "an mpp-matched view", "the um/px of both data sets (--set source.mpp=...)")]
    signs = (0, 1, -1) if factor > SAME_SCALE else (0,)
    plans = [
        RemedyPlan(
            scale,
            f"a view in which the target reaches the network at {source_mpp:.3g} um/px, as the source does",
            "",
            f"source {source_mpp * source_factor**-sign:.3g}, target {target_mpp * target_factor**sign:.3g} um/px"
            if len(signs) > 1
            else "",
            factor**sign,
        )
        for sign in signs
    ]
    ratio = source_mpp / target_mpp
    if len(signs) == 1 and 1.0 / SAME_SCALE < ratio < SAME_SCALE:
        return []  # the scales agree already
    return plans


def _embed(plan: RemedyPlan, tiles: TileSet, request: ViewRequest) -> tuple[RemedyView, Material]:
    config = request.config
    if "scale" in plan.undone:
        table = tiles.table.with_columns(pl.col("mpp") * plan.mpp_factor)
        tiles = replace(tiles, table=table, pixel_fingerprint=None)
        update = {"target_mpp": _median(request.source.input_mpp_N), "allow_moved_label": True}
        assert config.view is not None
        config = config.model_copy(update={"view": config.view.model_copy(update=update)})
    spec = find_backbone(config.backbone, config.cache)
    material = embed_dataset(config, tiles, spec, single_dataset(config).on_bad_image)
    columns = np.asarray(request.bundle.head.columns)
    x_ND = np.asarray(material.embeddings.matrix_ND[:, columns], np.float64)
    return RemedyView(plan.undone, x_ND, plan.candidate), material


def _view_notes(plan: RemedyPlan, material: Material, plain: Material) -> list[str]:
    """Return what a scale view pads, cuts or enlarges beyond what the head's own view does."""
    if plan.undone != frozenset({"scale"}):
        return []
    where = f" ({plan.candidate})" if plan.candidate else ""
    return [
        f"Scale undone{where}: {note} What the remedy gives back or takes is then not the scale's alone."
        for note in material.tiles.notes
        if note.startswith("The view ") and note not in plain.tiles.notes
    ]


def _median(mpp_N: object) -> float:
    known = np.asarray(mpp_N)[np.isfinite(np.asarray(mpp_N))]
    return float(np.round(np.median(known), 4)) if len(known) else float("nan")


def _factor(tiles: TileSet) -> float:
    value = tiles.table["mpp_factor"].drop_nulls().drop_nans().median()
    return 1.0 if value is None else float(value)  # type: ignore[arg-type]
