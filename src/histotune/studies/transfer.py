"""A transfer diagnosis from folders to a folder: the run's source, the target, its views, the tables."""

# N tiles, K classes

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.datasets.read import read_dataset
from histotune.datasets.splits.split import tile_groups
from histotune.deploy.bundle import load_bundle
from histotune.evaluation.ledger import LEDGER_FILE, Scoring, record_scoring
from histotune.evaluation.plan import marks_of, part_rows, scored_part, training_domain, training_rows
from histotune.evaluation.seen import find_seen
from histotune.heads.classes import match_classes
from histotune.heads.head import calibrated_logits, column_logits
from histotune.heads.outliers import find_far
from histotune.images.stain import INSTALL, has_torchstain, mean_density, restain
from histotune.images.view_checks import check_view
from histotune.report.result_tables import tables_of
from histotune.statistics.predictions import PREDICTION_COLUMNS, Predictions
from histotune.studies.config import load_config
from histotune.studies.setup import config_of_head, read_with_parts, set_up
from histotune.tools.atomic import bring_back, claimed, require_writable
from histotune.tools.errors import UserError
from histotune.tools.files import hash_bytes, write_json
from histotune.tools.manifest import CLAIM, verify_folder, write_manifest
from histotune.tools.marks import LABEL_MOVED, LEAKY, PROBE, SYNTHETIC, TOO_NARROW
from histotune.tools.provenance import collect_provenance
from histotune.tools.table import ShownAsTables, Table
from histotune.tools.tabular import read_parquet
from histotune.transfer.case import (
    HeadMap,
    RemedyPlan,
    RemedyView,
    Side,
    TransferCase,
    check_every_class,
)
from histotune.transfer.diagnose import diagnose
from histotune.transfer.scales import scale_candidates, scale_readings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from histotune.datasets.tileset import TileSet
    from histotune.deploy.bundle import Bundle
    from histotune.evaluation.findings import LedgerCount
    from histotune.evaluation.material import Material
    from histotune.evaluation.seen import SeenTiles
    from histotune.heads.head import Head
    from histotune.images.config import ViewChoice
    from histotune.studies.config import ExperimentConfig
    from histotune.studies.setup import Setup
    from histotune.transfer.case import Diagnosis, Physical

    Int = NDArray[np.int64]


@dataclass(frozen=True)
class TransferOutcome(ShownAsTables):
    """A finished diagnosis.

    Attributes:
        diagnosis: What was found.
        ledger: How often the target's part has been scored.
        folder: ``transfer.json`` and ``transfer.html``.
    """

    diagnosis: Diagnosis
    ledger: LedgerCount
    folder: Path

    def tables(self) -> tuple[Table, ...]:
        """Return what is lost, and what each remedy gives back."""
        return tables_of(self.diagnosis)


@dataclass(frozen=True)
class _Source:
    """The run that trained the head."""

    bundle: Bundle
    tiles: TileSet
    material: Material
    predictions: Predictions


@dataclass(frozen=True)
class _Target:
    """The part of the target that is scored.

    Attributes:
        name: Its name.
        setup: What embeds it as the head's run did.
        material: Its tiles, or a sample of them, embedded.
        split_hash: Hash of the whole part.
        marks: Warnings.
        n_tiles: Tiles of the whole part.
        notes: How its classes were read.
        seen: Which of its tiles trained the head, or are of a case that did.
    """

    name: str
    setup: Setup
    material: Material
    split_hash: str
    marks: tuple[str, ...]
    n_tiles: int
    notes: tuple[str, ...]
    seen: SeenTiles


def run_transfer(head_folder: Path, config: ExperimentConfig, command: str, *, images: bool = True) -> TransferOutcome:
    """Diagnose how a run's head carries over to another data set.

    Args:
        head_folder: Folder of a finished run, or its head folder.
        config: Names the target; its backbone, view and precision are replaced by the head's own.
        command: The command line, kept with the numbers.
        images: Also try the remedies that embed the target again.

    Returns:
        The diagnosis; ``transfer.json`` and ``transfer.html`` lie in ``config.out``.

    Raises:
        UserError: No finished run there, a target without labels, or one of other classes than the head's.
    """
    with claimed(config.out, folder=True):
        require_writable(config.ledger / LEDGER_FILE)
        return _diagnose_and_save(head_folder, config, command, images=images)


def _diagnose_and_save(head_folder: Path, config: ExperimentConfig, command: str, *, images: bool) -> TransferOutcome:
    from histotune.report.pictures import cross_gallery
    from histotune.report.study_pages import write_transfer_page

    run = _run_folder(head_folder)
    verify_folder(run, f"histotune run --from {run} --out NEW repeats the run")
    bundle = load_bundle(run)
    config = config_of_head(config, bundle)
    target = _read_target(config, bundle.head)
    source = _read_source(run, bundle, config)
    found = _diagnose(source, target, config, images=images)
    ledger = record_scoring(config.ledger, Scoring(target.split_hash, target.name, bundle.head.head_id))
    facts = {
        "command": command,
        "ledger": str(ledger),
        "settings": config.transfer.model_dump(mode="json"),
        "provenance": {**collect_provenance().as_dict(), **CLAIM},
    }
    write_json(config.out / "transfer.json", {**found.as_dict(), **facts})
    gallery = cross_gallery(found, source.material.tiles, target.material.tiles, config.loader) if images else None
    write_transfer_page(found, command, str(ledger), config.out / "transfer.html", gallery)
    write_manifest(config.out, "transfer.json")
    return TransferOutcome(found, ledger, config.out)


def _diagnose(source: _Source, target: _Target, config: ExperimentConfig, *, images: bool) -> Diagnosis:
    """Diagnose, and add what needs pixels or the tile tables."""
    head, material = source.bundle.head, target.material
    remedied = Remedied()
    if images:
        remedied = remedy_views(ViewRequest(target.setup, source.bundle, source.tiles, source.material, material))
    seen = target.seen.in_words()
    domain = training_domain(source.tiles, np.ones(len(source.tiles), dtype=np.bool_))
    case = TransferCase(
        _head_map(head),
        _side(source.material, head, domain),
        source.predictions,
        _side(material, head, target.name),
        remedied.views,
        (*remedied.notes, *dict.fromkeys(_facts(source, target, config.interval.cluster))),
    )
    found = diagnose(case, config.transfer, config.interval)
    marks = (
        *target.marks,
        *((SYNTHETIC,) if source.tiles.synthetic else ()),
        *((LEAKY,) if seen else ()),
        *((TOO_NARROW,) if config.interval.cluster == "tile" else ()),
    )
    found = replace(found, marks=tuple(dict.fromkeys(marks)), plans=remedied.plans)
    if seen:
        warning = f"{LEAKY}: of the target, {seen}, so nothing here is held out. "
        found = replace(found, paragraph=warning + found.paragraph)
    if not images:
        return found
    colours = [mean_density(tiles, config.loader) for tiles in (source.material.tiles, material.tiles)]
    return replace(found, shift=replace(found.shift, stain_source=colours[0], stain_target=colours[1]))


def _read_target(config: ExperimentConfig, head: Head) -> _Target:
    """Read and embed the scored part of the target, or a sample of it, labelled in the order of the head's classes."""
    part = scored_part(config.evaluation)
    tiles, split = read_with_parts(config)
    match = match_classes(tiles, head.class_names, config.evaluation.classes, head.class_mapping)
    tiles, name = _scored_tiles(match.tiles, part)
    kept = _spread(tiles, config.transfer.max_tiles)
    sample = tiles.take(kept)
    sampled = (
        f", sampled to {len(kept):,} tiles (--set transfer.max_tiles=0 takes all)," if len(kept) < len(tiles) else ""
    )
    check_every_class(sample.labels_N, head.class_names, name + sampled)
    setup = set_up(config, sample, split)
    material = setup.embed()
    split_hash = hash_bytes(match.fingerprint(tiles.tile_ids), part)
    seen = find_seen(head, material)
    return _Target(name, setup, material, split_hash, marks_of(material.tiles, split), len(tiles), match.notes, seen)


def _run_folder(folder: Path) -> Path:
    """Return the run folder of a head: the diagnosis compares with the source's held-out scores."""
    bring_back(folder)
    for place in (folder, folder.parent):
        if (place / "predictions.parquet").is_file() and (place / "config.json").is_file():
            return place
    raise UserError(
        "a diagnosis compares with held-out scores of the source, and this folder holds none",
        value=folder,
        allowed="the folder of a finished run (histotune run)",
        fix="histotune run RECIPE --data DIR --out DIR, then pass that folder",
    )


def _scored_tiles(tiles: TileSet, part: str) -> tuple[TileSet, str]:
    """Return the labelled tiles of the scored part, and its name."""
    if tiles.table["split"].null_count() == 0:
        return tiles.take(part_rows(tiles, part)), f"{tiles.name} {part}"
    labelled = tiles.take(np.flatnonzero(tiles.labels_N >= 0))
    return labelled, training_domain(labelled, np.ones(len(labelled), dtype=np.bool_))


def _read_source(run: Path, bundle: Bundle, config: ExperimentConfig) -> _Source:
    """Read the run's training tiles, their embeddings from the cache, and their held-out predictions."""
    made = load_config(run, checked=True)
    dataset = made.source
    if dataset is None:
        raise UserError(
            "this run has no source that was scored on held-out groups",
            value=run,
            fix="pass a run of histotune run breakhis, tiles, midnight or demo",
        )
    if not Path(dataset.path).exists():
        raise UserError(
            "the data that trained this head are not there any more",
            value=dataset.path,
            fix=f"put them back, or repeat the run: histotune run --from {run}",
        )
    tiles = read_dataset(dataset)
    groups = np.array(tile_groups(tiles))
    tiles = match_classes(tiles, bundle.head.class_names, known=bundle.head.class_mapping).tiles
    used_N = training_rows(tiles, made.evaluation.train_magnification) & np.isin(groups, bundle.head.train_groups)
    tiles = tiles.take(np.flatnonzero(used_N))
    predictions = _held_out(run, tiles)
    own = made.model_copy(
        update={
            "cache": config.cache,
            "loader": config.loader,
            "embedding": config.embedding,
            "backbone": bundle.backbone,
            "view": config.view,
        }
    )
    kept = _spread(tiles, config.transfer.max_tiles)
    return _Source(bundle, tiles, set_up(own, tiles.take(kept)).embed(), predictions)


def _held_out(run: Path, tiles: TileSet) -> Predictions:
    """Return the probe's cross-fitted or held-out predictions on the domain that trained it."""
    table = read_parquet(run / "predictions.parquet").filter(
        (pl.col("finding") == "cross-magnification") & (pl.col("arm") == PROBE)
    )
    own = table.filter(pl.col("tile_id").is_in(list(tiles.tile_ids)))
    if own.is_empty():  # a split with parts: the scored part shares no tile with the one that trained
        magnifications = set(tiles.table["magnification"].drop_nulls())
        words = [domain for domain in table["domain"].unique() if domain.rpartition(" ")[2] in magnifications]
        own = table.filter(pl.col("domain").is_in(words)) if words else table
    if own.is_empty():
        raise UserError("this run scored no held-out tiles of its source", value=run, fix="repeat the run")
    return Predictions(own.select(*PREDICTION_COLUMNS, "threshold"), tiles.class_names, ranking="pairs")


def _spread(tiles: TileSet, most: int) -> Int:
    """Return rows of at most so many tiles, spread over the groups, in tile order."""
    if not most or len(tiles) <= most:
        return np.arange(len(tiles))
    keys = [hash_bytes(tile_id) for tile_id in tiles.tile_ids]
    table = pl.DataFrame({"row": np.arange(len(tiles)), "group": tile_groups(tiles), "key": keys})
    dealt = table.with_columns(pl.col("key").rank("ordinal").over("group").alias("turn"))
    return np.sort(dealt.sort("turn", "key")["row"].to_numpy()[:most])


def _side(material: Material, head: Head, name: str) -> Side:
    tiles = material.tiles
    return Side(
        name,
        head_columns(material, head),
        tiles.labels_N,
        tile_groups(tiles),
        tiles.tile_ids,
        tiles.has_groups,
        _median(material.input_mpp_N),
    )


def head_columns(material: Material, head: Head) -> NDArray[np.float64]:
    """Return the columns of the head's pooling, float64."""
    return np.asarray(material.embeddings.matrix_ND[:, np.asarray(head.columns)], dtype=np.float64)


def _head_map(head: Head) -> HeadMap:
    def margin(x_nD: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return calibrated logits less that of class 0."""
        logit_nK = calibrated_logits(head.calibration, column_logits(head, x_nD))
        return np.asarray(logit_nK - logit_nK[:, :1])

    return HeadMap(margin, head.threshold, head.penalty, head.class_names, head.head_id)


def _facts(source: _Source, target: _Target, cluster: str) -> Iterator[str]:
    """Yield what a reader must know about both sides."""
    tiles = target.material.tiles
    yield from (f"{side.name}: {note}" for side in (source.material.tiles, tiles) for note in side.notes)
    yield from target.notes
    if far := find_far(source.bundle.head, target.material.embeddings).note():
        yield far
    if words := target.seen.in_words():
        yield f"Of the target, {words}: the two sides are not independent."
    yield from target.seen.untold_notes()
    if len(tiles) + tiles.n_skipped < target.n_tiles:
        yield (
            f"{len(tiles):,} of {target.n_tiles:,} target tiles were diagnosed, spread over the groups "
            "(--set transfer.max_tiles=0 takes all)."
        )
    if not tiles.has_groups and cluster == "group":
        yield "Groups of the target are unknown, so group intervals are refused and no cause is named."


# ------------------------------------------------------------------------------
# The target embedded again: at the source's scale, in the source's colours, and both.
#
# N tiles


@dataclass(frozen=True)
class ViewRequest:
    """What the remedies that need images work on.

    Attributes:
        setup: What embeds the target as the head's run did.
        bundle: The head.
        source_tiles: Training tiles.
        source: The same, embedded.
        target: The target, embedded as it is.
    """

    setup: Setup
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
    """Return which versions of the target the remedies need."""
    scales = [_possible(plan, request) for plan in _scale_plans(request)]
    method = request.setup.config.transfer.stain
    stain = RemedyPlan(
        frozenset({"stain"}),
        f"{method.capitalize()} stain normalisation to the source",
        "" if has_torchstain() else INSTALL,
    )
    plans = [*scales, stain]
    if not stain.needs:
        plans += [
            replace(plan, undone=plan.undone | stain.undone, what=f"{plan.what}; {stain.what}")
            for plan in scales
            if not plan.needs
        ]
    return tuple(plans)


def remedy_views(request: ViewRequest) -> Remedied:
    """Embed the target again for every plan that can be done."""
    plans = plan_views(request)
    views, notes = [], []
    restained = None
    if any("stain" in plan.undone and not plan.needs for plan in plans):
        config = request.setup.config
        how = (config.transfer.stain, config.loader)
        restained = restain(request.target.tiles, request.source_tiles, how, config.cache)  # type: ignore[arg-type]
        if restained.n_kept:
            notes.append(
                f"{restained.n_kept:,} of {len(request.target.tiles):,} target tiles hold too little tissue "
                "for stain normalisation and keep their colours."
            )
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
    setup = request.setup
    if "scale" in plan.undone and not plan.matched:
        tiles, view = _matched_view(plan, tiles, request)
        setup = setup.with_view(view)
    material = setup.embed(tiles)
    return RemedyView(plan.undone, head_columns(material, request.bundle.head), plan.candidate), material


def _matched_view(plan: RemedyPlan, tiles: TileSet, request: ViewRequest) -> tuple[TileSet, ViewChoice]:
    """Return the target at the scale of this candidate, and the view that shows it at the source's."""
    table = tiles.table.with_columns(pl.col("mpp") * plan.mpp_factor)
    view = request.setup.config.view
    assert view is not None
    update = {"target_mpp": _median(request.source.input_mpp_N), "allow_moved_label": True}
    return replace(tiles, table=table, pixel_fingerprint=None), view.model_copy(update=update)


def _possible(plan: RemedyPlan, request: ViewRequest) -> RemedyPlan:
    """Return the plan, with what is in its way where these tiles can't be shown at that scale."""
    if plan.needs or plan.matched:
        return plan
    tiles, view = _matched_view(plan, request.target.tiles, request)
    try:
        check_view(tiles, request.setup.with_view(view).view)
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
        if note.startswith(("The view ", LABEL_MOVED)) and note not in plain.tiles.notes
    ]
    if not found:
        return []
    return [
        f"Scale undone{where}: {' '.join(found)} What the remedy gives back or takes is then not the scale's alone."
    ]


def _median(mpp_N: object) -> float:
    known = np.asarray(mpp_N)[np.isfinite(np.asarray(mpp_N))]
    return float(np.round(np.median(known), 4)) if len(known) else float("nan")
