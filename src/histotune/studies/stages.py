"""The steps of an experiment as single commands: embed, sweep, evaluate, report, predict."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from histotune.datasets.dataset_spec import group_word
from histotune.datasets.splits.split import tile_groups
from histotune.deploy.bundle import Bundle, save_bundle
from histotune.evaluation.choice import describe_choice
from histotune.evaluation.decisions import with_decisions
from histotune.evaluation.findings import Finding
from histotune.evaluation.held_out import ArmSweep
from histotune.evaluation.ledger import LEDGER_FILE, Scoring, record_scoring
from histotune.evaluation.material import head_predictions
from histotune.evaluation.plan import marks_of, part_rows, scored_part, training_domain
from histotune.evaluation.robustness import EmbeddedArm, RobustnessSettings, score_robustness
from histotune.evaluation.scoring import over_present, score_domains, score_parts
from histotune.evaluation.seen import find_seen, mark_seen, prediction_table
from histotune.heads.classes import match_classes
from histotune.heads.family import SweepSupport, SweepTask, check_inner_folds
from histotune.heads.fit_cache import FitCache
from histotune.heads.head import space_note
from histotune.heads.label_efficiency import check_label_efficiency, label_efficiency
from histotune.heads.outliers import find_far
from histotune.heads.reference import training_reference
from histotune.heads.sweep import require_device, sweep
from histotune.report.page import save_sweep
from histotune.report.result_tables import tables_of
from histotune.studies.setup import (
    claimed_folder,
    config_of_head,
    read_single,
    read_with_parts,
    rows_that_train,
    set_up,
)
from histotune.studies.tracking import (
    SweptSet,
    new_run_id,
    require_wandb,
    track_sweep,
    with_origin,
)
from histotune.tools.atomic import atomic_folder, require_writable
from histotune.tools.errors import UserError
from histotune.tools.files import hash_bytes
from histotune.tools.manifest import write_manifest
from histotune.tools.marks import PROBE
from histotune.tools.table import ShownAsTables, Table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import polars as pl
    from numpy.typing import NDArray

    from histotune.datasets.tileset import TileSet
    from histotune.embeddings.estimate import EmbeddingEstimate
    from histotune.evaluation.findings import LedgerCount, SweepChoice
    from histotune.evaluation.material import Material
    from histotune.evaluation.seen import SeenTiles
    from histotune.heads.family import Tried
    from histotune.heads.head import SweepResult
    from histotune.statistics.predictions import Predictions
    from histotune.studies.config import ExperimentConfig


@dataclass(frozen=True)
class SweepOutcome(ShownAsTables):
    """A sweep over one data set's training tiles, saved.

    Attributes:
        head: The head with its backbone and view, as it was saved.
        result: What was tried.
        choice: What was chosen.
        folder: Where the head, the trials and the plots are.
        tracked: Where else it is tracked, in words; empty where only the local table has it.
    """

    head: Bundle
    result: SweepResult
    choice: SweepChoice
    folder: Path
    tracked: str = ""

    def tables(self) -> tuple[Table, ...]:
        """Return the trials."""
        return tables_of(self.result)


@dataclass(frozen=True)
class EvaluationOutcome(ShownAsTables):
    """A saved head scored on one data set.

    Attributes:
        finding: The scores.
        predictions: The predictions behind them, among the classes that have tiles.
        ledger: How often these tiles have been scored.
        table: A row per scored tile for people: label, what the head says, and whether it has seen the tile.
    """

    finding: Finding
    predictions: Predictions
    ledger: LedgerCount
    table: pl.DataFrame

    def tables(self) -> tuple[Table, ...]:
        """Return the scores, by domain, site and scanner."""
        return tables_of(self.finding)


def embed_only(config: ExperimentConfig) -> Material:
    """Embed a data set and keep the embeddings in the cache.

    Args:
        config: Names one data set and a backbone.

    Returns:
        Tiles and embeddings.
    """
    return set_up(config, read_single(config)).embed()


def estimate_only(config: ExperimentConfig) -> EmbeddingEstimate:
    """Time a few batches of a data set and tell what embedding the rest will take.

    Args:
        config: Names one data set and a backbone.

    Returns:
        Rates, hours, sizes; nothing is kept.
    """
    from histotune.embeddings.estimate import estimate

    setup = set_up(config, read_single(config))
    return estimate(setup.tiles, setup.request())


def sweep_tiles(
    config: ExperimentConfig, read: TileSet | None = None, watch: Callable[[Tried], None] | None = None
) -> SweepOutcome:
    """Sweep heads over a data set's training tiles and save the chosen one.

    BreakHis trains on all cases at the training magnification, PatchCamelyon on its training part; a split named in
    the config gives either its train part.

    Args:
        config: Names one data set, a backbone, the sweep and the folder.
        read: The data set's tiles; None reads them.
        watch: Called whenever trials are finished.

    Returns:
        What was tried and chosen. The selected score is optimistic: it was the criterion.
    """
    with claimed_folder(config):
        require_wandb(config.tracking)
        require_device(config.sweep)
        return _sweep_and_save(config, read, watch)


def _sweep_and_save(
    config: ExperimentConfig, read: TileSet | None, watch: Callable[[Tried], None] | None
) -> SweepOutcome:
    tiles, split = read_with_parts(config, read)
    task = _task(tiles, rows_that_train(tiles, config))  # a mistake shows before anything is embedded
    check_inner_folds(tiles.tile_ids, task, config.sweep)
    check_label_efficiency(tiles.tile_ids, task, config.sweep)
    setup = set_up(config, tiles, split)
    material = setup.embed()
    tiles = material.tiles  # without those that can't be read
    train_N = rows_that_train(tiles, config)
    has_parts = tiles.table["split"].null_count() == 0
    task = replace(_task(tiles, train_N), default_pooling=material.default_pooling)
    support = SweepSupport(FitCache.at(config.cache), watch)
    start = time.perf_counter()
    result = sweep(material.embeddings, task, config.sweep, support)[0]
    sweep_s = time.perf_counter() - start
    efficiency = None
    if config.sweep.label_efficiency.draws:
        efficiency = label_efficiency(material.embeddings, task, result.head, config.sweep, config.interval, support)
    domain = f"{tiles.name} train" if has_parts else training_domain(tiles, train_N)
    with atomic_folder(config.out) as folder:
        reference = training_reference(result, material.embeddings, tiles, material.input_mpp_N)
        head = Bundle(result.head, setup.config.backbone, setup.view, config.embedding.precision, reference)
        save_bundle(head, folder)
        save_sweep(with_origin(result, domain, PROBE), efficiency, tiles, folder)
        write_manifest(folder)
    swept = SweptSet(
        new_run_id(),
        tiles.name,
        domain,
        split.split_hash if split else "",
        config.out,
        (ArmSweep(PROBE, result, sweep_s=sweep_s),),
    )
    choice = describe_choice(result, domain, tiles)
    scores = {"log_loss": choice.log_loss, "log_loss_se": choice.log_loss_se}
    return SweepOutcome(head, result, choice, config.out, track_sweep(swept, scores, config))


def _task(tiles: TileSet, train_N: NDArray[np.bool_]) -> SweepTask:
    """Return the task of choosing a head on one training set."""
    return SweepTask(tiles.labels_N, tuple(tile_groups(tiles)), tiles.class_names, train_N[None, :])


@dataclass(frozen=True)
class _Scored:
    """A head on the tiles that are scored.

    Attributes:
        material: The data set as the head sees it, labels in the order of its classes.
        rows: The scored tiles.
        seen: Which of them trained the head, or are of a case that did.
        target: The data set and its part.
        split_hash: Hash of the scored tiles.
        marks: Warnings that all of them carry.
        notes: What a reader must know.
    """

    material: Material
    rows: NDArray[np.int64]
    seen: SeenTiles
    target: str
    split_hash: str
    marks: tuple[str, ...]
    notes: tuple[str, ...]


def evaluate_head(
    bundle: Bundle, config: ExperimentConfig, read: TileSet | None = None, *, exclude_seen: bool = False
) -> EvaluationOutcome:
    """Score a saved head on a data set.

    Args:
        bundle: The head, its backbone and view.
        config: Names one data set; its backbone and view are replaced by the head's own, but for whether a moved label
            is accepted.
        read: The data set's tiles; None reads them.
        exclude_seen: Leave out tiles that trained the head, and tiles of cases that did.

    Returns:
        The scores per domain, each marked LEAKY where it holds tiles that trained the head, or of cases that did; and
        how often this split has been scored.

    Raises:
        UserError: The scored part is missing, its classes are not the head's, or every tile trained the head.
    """
    require_writable(config.ledger / LEDGER_FILE)
    config = config_of_head(config, bundle)
    head, scored = bundle.head, _scored_tiles(bundle, config, read, exclude_seen=exclude_seen)
    whole = head_predictions(scored.material, scored.rows, head, scored.split_hash)
    predictions, among = over_present(whole)
    tiles, seen_ids, interval = scored.material.tiles, scored.seen.seen_ids, config.interval
    plain = score_domains(PROBE, predictions, f"head {head.head_id}", interval, scored.marks)
    parts = score_parts(predictions, tiles, interval, plain, seen_ids)
    rows = with_decisions(mark_seen(plain, predictions, seen_ids), whole, interval)
    ledger = record_scoring(config.ledger, Scoring(scored.split_hash, scored.target, head.head_id))
    settings = RobustnessSettings(config.evaluation.robustness_k, config.evaluation.seed, interval)
    index = score_robustness([EmbeddedArm(PROBE, scored.material, head.pooling)], predictions, rows, settings)
    embeddings = scored.material.embeddings
    told = (*scored.notes, among, find_far(head, embeddings, scored.rows).note(), space_note(head, embeddings))
    finding = Finding(
        "external",
        f"Head {head.head_id} on {scored.target}",
        "The saved head as it is.",
        rows,
        tuple(note for note in told if note),
        parts,
        robustness=index,
    )
    return EvaluationOutcome(finding, predictions, ledger, prediction_table(whole, scored.seen))


def _scored_tiles(bundle: Bundle, config: ExperimentConfig, read: TileSet | None, *, exclude_seen: bool) -> _Scored:
    """Read, match and embed the tiles that are scored."""
    evaluation, head = config.evaluation, bundle.head
    tiles, split = read_with_parts(config, read)
    match = match_classes(tiles, head.class_names, evaluation.classes, head.class_mapping)
    tiles, part = match.tiles, scored_part(evaluation)
    has_parts = tiles.table["split"].null_count() == 0
    if has_parts:
        part_rows(tiles, part)  # a missing part shows before anything is embedded
    material = set_up(config, tiles, split).embed()
    tiles = material.tiles  # without those that can't be read
    rows = part_rows(tiles, part) if has_parts else np.flatnonzero(tiles.labels_N >= 0)
    found = find_seen(head, material)
    seen = found.take(rows)
    if exclude_seen:
        rows = rows[~seen.seen_N]
        if not len(rows):
            word = group_word(tiles.name)
            raise UserError(
                f"every one of these tiles trained this head, or is of a {word} that did",
                value=f"{tiles.name}: {len(seen.tile_ids):,} tiles",
                fix=f"score tiles of other {word}s; without --exclude-seen these are scored and marked LEAKY",
            )
    scored_words = f"{split.name} {part}" if split else part
    return _Scored(
        material,
        rows,
        found.take(rows),
        f"{tiles.name} {scored_words}" if has_parts else tiles.name,
        hash_bytes(match.fingerprint(tiles.take(rows).tile_ids), part),
        marks_of(tiles, split),
        (*seen.notes(excluded=exclude_seen, word=group_word(tiles.name)), *match.notes),
    )
