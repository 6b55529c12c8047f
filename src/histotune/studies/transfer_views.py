"""The target embedded again: at the source's scale, in the source's colours, and both."""

# N tiles

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.backbones.catalog import find_backbone
from histotune.embeddings.space import chosen_view
from histotune.images.stain import INSTALL, has_torchstain, restain
from histotune.images.view_checks import check_view
from histotune.studies.setup import embed_dataset, single_dataset
from histotune.tools.errors import UserError
from histotune.transfer.case import RemedyPlan, RemedyView
from histotune.transfer.scales import scale_candidates, scale_readings

if TYPE_CHECKING:
    from histotune.datasets.tileset import TileSet
    from histotune.deploy.bundle import Bundle
    from histotune.evaluation.predict import Material
    from histotune.images.config import ViewChoice
    from histotune.studies.config import ExperimentConfig
    from histotune.transfer.case import Physical


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
    scales = [_possible(plan, request) for plan in _scale_plans(request)]
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
    notes += [
        f"Not tried: {plan.what}{f' ({plan.candidate})' if plan.candidate else ''}; it needs {plan.needs}."
        for plan in plans
        if plan.needs
    ]
    if any("scale" in plan.undone for plan in plans if not plan.needs):
        notes.append("At another scale a tile's label may speak about another part of what the network sees.")
    return Remedied(tuple(views), tuple(plan for plan in plans if plan.needs), tuple(notes))


def _scale_plans(request: ViewRequest) -> list[RemedyPlan]:
    """Return a plan per candidate pair of scales, the stated one first; none where the scales agree for sure."""
    scale: frozenset[Physical] = frozenset({"scale"})
    readings = [scale_readings(side.tiles, side.input_mpp_N) for side in (request.source, request.target)]
    if any(np.isnan(side[0].input_mpp) for side in readings):
        return [RemedyPlan(scale, "an mpp-matched view", "the um/px of both data sets (--set source.mpp=...)")]
    one_data_set = request.source.tiles.name == request.target.tiles.name
    found = scale_candidates(readings[0], readings[1], one_data_set=one_data_set)
    if all(candidate.matched for candidate in found):
        return []
    return [
        RemedyPlan(
            scale,
            f"a view in which the target reaches the network at {candidate.source_mpp:.3g} um/px, as the source does",
            "",
            candidate.words,
            candidate.mpp_factor,
            candidate.matched,
        )
        for candidate in found
    ]


def _embed(plan: RemedyPlan, tiles: TileSet, request: ViewRequest) -> tuple[RemedyView, Material]:
    config = request.config
    if "scale" in plan.undone and not plan.matched:
        tiles, view = _matched_view(plan, tiles, request)
        config = config.model_copy(update={"view": view})
    spec = find_backbone(config.backbone, config.cache)
    material = embed_dataset(config, tiles, spec, single_dataset(config).on_bad_image)
    columns = np.asarray(request.bundle.head.columns)
    x_ND = np.asarray(material.embeddings.matrix_ND[:, columns], np.float64)
    return RemedyView(plan.undone, x_ND, plan.candidate), material


def _matched_view(plan: RemedyPlan, tiles: TileSet, request: ViewRequest) -> tuple[TileSet, ViewChoice]:
    """Return the target at the scale of this candidate, and the view that shows it at the source's."""
    table = tiles.table.with_columns(pl.col("mpp") * plan.mpp_factor)
    assert request.config.view is not None
    update = {"target_mpp": _median(request.source.input_mpp_N), "allow_moved_label": True}
    return replace(tiles, table=table, pixel_fingerprint=None), request.config.view.model_copy(update=update)


def _possible(plan: RemedyPlan, request: ViewRequest) -> RemedyPlan:
    """Return the plan, with what is in its way where these tiles can't be shown at that scale."""
    if plan.needs or plan.matched:
        return plan
    tiles, view = _matched_view(plan, request.target.tiles, request)
    try:
        check_view(tiles, chosen_view(view, find_backbone(request.config.backbone, request.config.cache)))
    except UserError as problem:
        return replace(plan, needs=f"larger tiles or another scale ({str(problem).splitlines()[0]})")
    return plan


def _view_notes(plan: RemedyPlan, material: Material, plain: Material) -> list[str]:
    """Return what a scale view pads, cuts or enlarges beyond what the head's own view does."""
    if plan.undone != frozenset({"scale"}):
        return []
    if plan.matched:
        return [f"At {plan.candidate} the scales agree already: there the scale remedy changes nothing."]
    where = f" ({plan.candidate})" if plan.candidate else ""
    found = [
        note
        for note in material.tiles.notes
        if note.startswith(("The view ", "LABEL MOVED")) and note not in plain.tiles.notes
    ]
    if not found:
        return []
    return [
        f"Scale undone{where}: {' '.join(found)} What the remedy gives back or takes is then not the scale's alone."
    ]


def _median(mpp_N: object) -> float:
    known = np.asarray(mpp_N)[np.isfinite(np.asarray(mpp_N))]
    return float(np.round(np.median(known), 4)) if len(known) else float("nan")
