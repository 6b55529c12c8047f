"""The steps of an experiment as single commands: embed, sweep, evaluate, report, predict."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from histotune.datasets.disk import name_some
from histotune.datasets.splits.split import tile_groups
from histotune.deploy.bundle import Bundle, save_bundle
from histotune.evaluation.choice import describe_choice
from histotune.evaluation.findings import Finding
from histotune.evaluation.held_out import ArmSweep
from histotune.evaluation.ledger import LEDGER_FILE, Scoring, record_scoring
from histotune.evaluation.material import head_predictions
from histotune.evaluation.plan import marks_of, part_rows, scored_part, training_domain
from histotune.evaluation.robustness import EmbeddedArm, RobustnessSettings, score_robustness
from histotune.evaluation.scoring import score_domains, score_parts
from histotune.heads.family import SweepSupport, SweepTask, check_inner_folds
from histotune.heads.fit_cache import FitCache
from histotune.heads.head import space_note
from histotune.heads.label_efficiency import check_label_efficiency, label_efficiency
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
from histotune.tools.marks import LEAKY, PROBE
from histotune.tools.table import ShownAsTables, Table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from histotune.datasets.tileset import TileSet
    from histotune.embeddings.estimate import EmbeddingEstimate
    from histotune.evaluation.findings import LedgerCount, SweepChoice
    from histotune.evaluation.material import Material
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
    """A saved head scored on one data set: the scores, the predictions behind them, the ledger's count."""

    finding: Finding
    predictions: Predictions
    ledger: LedgerCount

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
        head = Bundle(result.head, setup.config.backbone, setup.view, config.embedding.precision)
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


def _require_same_number(bundle: Bundle, tiles: TileSet) -> None:
    """Refuse a data set whose classes can't be the head's, before anything is embedded."""
    names = bundle.head.class_names
    if len(tiles.class_names) != len(names):
        raise UserError(
            f"this head tells {len(names):,} classes apart, and {tiles.name} has {len(tiles.class_names):,}",
            value=name_some(list(tiles.class_names), 10),
            allowed=name_some(list(names), 10),
            fix="label the tiles with the head's classes, or train a head on theirs: histotune sweep",
        )


def evaluate_head(bundle: Bundle, config: ExperimentConfig, read: TileSet | None = None) -> EvaluationOutcome:
    """Score a saved head on a data set.

    Args:
        bundle: The head, its backbone and view.
        config: Names one data set; its backbone and view are replaced by the head's own, but for whether a moved label
            is accepted.
        read: The data set's tiles; None reads them.

    Returns:
        The scores per domain, marked LEAKY where the head has trained on one of the scored groups, and how often
        this split has been scored.

    Raises:
        UserError: The scored part is missing.
    """
    require_writable(config.ledger / LEDGER_FILE)
    config = config_of_head(config, bundle)
    tiles, split = read_with_parts(config, read)
    _require_same_number(bundle, tiles)
    part = scored_part(config.evaluation)
    has_parts = tiles.table["split"].null_count() == 0
    if has_parts:
        part_rows(tiles, part)  # a missing part shows before anything is embedded
    material = set_up(config, tiles, split).embed()
    tiles = material.tiles  # without those that can't be read
    rows = part_rows(tiles, part) if has_parts else np.flatnonzero(tiles.labels_N >= 0)
    scored_tiles = tiles.take(rows)
    split_hash = hash_bytes(scored_tiles.label_fingerprint, part)
    leaky = not set(bundle.head.train_groups).isdisjoint(tile_groups(scored_tiles))
    marks = tuple(dict.fromkeys((*marks_of(tiles, split), *((LEAKY,) if leaky else ()))))
    predictions = head_predictions(material, rows, bundle.head, split_hash)
    arms = score_domains(PROBE, predictions, f"head {bundle.head.head_id}", config.interval, marks)
    scored_words = f"{split.name} {part}" if split else part
    target = f"{tiles.name} {scored_words}" if has_parts else tiles.name
    ledger = record_scoring(config.ledger, Scoring(split_hash, target, bundle.head.head_id))
    shared = "Some of the scored cases trained this head: these are no held-out scores." if leaky else ""
    notes = tuple(note for note in (shared, space_note(bundle.head, material.embeddings)) if note)
    title = f"Head {bundle.head.head_id} on {target}"
    parts = score_parts(predictions, tiles, config.interval, arms)
    arm = EmbeddedArm(PROBE, material, bundle.head.pooling)
    settings = RobustnessSettings(config.evaluation.robustness_k, config.evaluation.seed, config.interval)
    index = score_robustness([arm], predictions, arms, settings)
    how = "The saved head as it is."
    finding = Finding("external", title, how, arms, notes, parts, robustness=index)
    return EvaluationOutcome(finding, predictions, ledger)
