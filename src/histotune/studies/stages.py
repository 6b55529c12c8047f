"""The steps of an experiment as single commands: embed, sweep, evaluate, report, predict."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from histotune.backbones.catalog import find_backbone, pinned_config
from histotune.datasets.read import read_dataset
from histotune.datasets.splits.split import tile_groups
from histotune.datasets.tileset import require_classes
from histotune.deploy.bundle import Bundle, load_bundle, save_bundle
from histotune.embeddings.space import EmbedRequest, chosen_view
from histotune.evaluation.findings import LEAKY, PROBE, Finding
from histotune.evaluation.held_out import ArmSweep, describe_choice
from histotune.evaluation.ledger import Scoring, record_scoring
from histotune.evaluation.material import head_predictions
from histotune.evaluation.plan import marks_of, part_rows, scored_part, training_domain, training_rows, with_parts
from histotune.evaluation.robustness import EmbeddedArm, RobustnessSettings, score_robustness
from histotune.evaluation.scoring import score_domains, score_parts
from histotune.heads.family import SweepSupport, SweepTask
from histotune.heads.fit_cache import FitCache
from histotune.heads.head import space_note
from histotune.heads.label_efficiency import label_efficiency
from histotune.heads.sweep import require_device, sweep
from histotune.images.config import ViewChoice
from histotune.report.page import save_sweep
from histotune.studies.setup import embed_dataset, single_dataset
from histotune.studies.tracking import (
    SweptSet,
    new_run_id,
    refit_curves,
    require_wandb,
    rows_of,
    run_log,
    track_rows,
    with_origin,
)
from histotune.tools.files import atomic_folder, hash_bytes

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
    from histotune.studies.config import ExperimentConfig


@dataclass(frozen=True)
class SweepOutcome:
    """A sweep over one data set's training tiles, saved.

    Attributes:
        result: What was tried.
        choice: What was chosen.
        folder: Where the head, the trials and the plots are.
        tracked: Where else it is tracked, in words; empty where only the local table has it.
    """

    result: SweepResult
    choice: SweepChoice
    folder: Path
    tracked: str = ""


@dataclass(frozen=True)
class EvaluationOutcome:
    """A saved head scored on one data set."""

    finding: Finding
    ledger: LedgerCount


def embed_only(config: ExperimentConfig) -> Material:
    """Embed a data set and keep the embeddings in the cache.

    Args:
        config: Names one data set and a backbone.

    Returns:
        Tiles and embeddings.
    """
    return _embed(config, read_dataset(single_dataset(config)))


def _embed(config: ExperimentConfig, tiles: TileSet) -> Material:
    spec = find_backbone(config.backbone, config.cache)
    return embed_dataset(config, tiles, spec, single_dataset(config).on_bad_image)


def estimate_only(config: ExperimentConfig) -> EmbeddingEstimate:
    """Time a few batches of a data set and tell what embedding the rest will take.

    Args:
        config: Names one data set and a backbone.

    Returns:
        Rates, hours, sizes; nothing is kept.
    """
    from histotune.embeddings.estimate import estimate

    dataset = single_dataset(config)
    spec = find_backbone(config.backbone, config.cache)
    view = chosen_view(config.view, spec)
    request = EmbedRequest(spec, view, config.embedding, config.loader, config.cache, dataset.on_bad_image)
    return estimate(read_dataset(dataset), request)


def sweep_only(config: ExperimentConfig, watch: Callable[[Tried], None] | None = None) -> SweepOutcome:
    """Sweep heads over a data set's training tiles and save the chosen one.

    BreakHis trains on all cases at the training magnification, PatchCamelyon on its training part; a split named in
    the config gives either its train part.

    Args:
        config: Names one data set, a backbone, the sweep and the folder.
        watch: Called whenever trials are finished.

    Returns:
        What was tried and chosen. The selected score is optimistic: it was the criterion.
    """
    require_wandb(config.tracking)
    require_device(config.sweep)
    tiles, split = with_parts(read_dataset(single_dataset(config)), config.evaluation)
    _sweep_rows(tiles, config)  # a mistake shows before anything is embedded
    material = _embed(config, tiles)
    tiles = material.tiles  # without those that can't be read
    train_N = _sweep_rows(tiles, config)
    has_parts = tiles.table["split"].null_count() == 0
    task = SweepTask(
        labels_N=tiles.labels_N,
        groups=tuple(tile_groups(tiles)),
        class_names=tiles.class_names,
        train_sets_SN=train_N[None, :],
        fold_labels="grouped",
        default_pooling=material.default_pooling,
    )
    support = SweepSupport(FitCache.at(config.cache), watch)
    start = time.perf_counter()
    result = sweep(material.embeddings, task, config.sweep, support)[0]
    sweep_s = time.perf_counter() - start
    growth = None
    if config.sweep.label_efficiency.draws:
        growth = label_efficiency(material.embeddings, task, result.head, config.sweep, config.interval, support)
    domain = f"{tiles.name} train" if has_parts else training_domain(tiles, train_N)
    with atomic_folder(config.out) as folder:
        spec = find_backbone(config.backbone, config.cache)
        view = chosen_view(config.view, spec)
        backbone = pinned_config(config.backbone, spec)
        save_bundle(Bundle(result.head, backbone, view, config.embedding.precision), folder)
        save_sweep(with_origin(result, domain, PROBE), growth, tiles, folder)
    swept = SweptSet(new_run_id(), tiles.name, domain, split.split_hash if split else "", config.out,
                     (ArmSweep(PROBE, result, sweep_s=sweep_s),))  # fmt: skip
    choice = describe_choice(result, domain)
    return SweepOutcome(result, choice, config.out, _track(swept, choice, config))


def _track(swept: SweptSet, choice: SweepChoice, config: ExperimentConfig) -> str:
    """Add the trials to the table, and write the sweep to W&B where that was asked for."""
    result = swept.sweeps[0].result
    name = f"{result.head.backbone} on {swept.trained_on}"
    scores = {"log_loss": choice.log_loss, "log_loss_se": choice.log_loss_se}
    trials = with_origin(result, swept.trained_on, PROBE)
    log = run_log(swept.run_id, name, config, trials, {"head": swept.folder}, scores)
    log = replace(log, curves=(*log.curves, *refit_curves(swept.trained_on, result)))
    return track_rows(tuple(rows_of(swept, config)), log, config)


def _sweep_rows(tiles: TileSet, config: ExperimentConfig) -> NDArray[np.bool_]:
    """Return which tiles a sweep trains on: the training magnification, within the train part where there are parts."""
    train_N = training_rows(tiles, config.evaluation.train_magnification)
    if tiles.table["split"].null_count() == 0:
        in_part_N = np.zeros(len(tiles), dtype=np.bool_)
        in_part_N[part_rows(tiles, "train")] = True
        train_N &= in_part_N
    require_classes(tiles.take(np.flatnonzero(train_N)), "a sweep")
    return train_N


def evaluate_only(head_folder: Path, config: ExperimentConfig) -> EvaluationOutcome:
    """Score a saved head on a data set.

    Args:
        head_folder: Written by ``histotune sweep`` or ``histotune run``.
        config: Names one data set; its backbone and view are replaced by the head's own, but for whether a moved label
            is accepted.

    Returns:
        The scores per domain, marked LEAKY where the head has trained on one of the scored groups, and how often
        this split has been scored.

    Raises:
        UserError: No head there, or the scored part is missing.
    """
    bundle = load_bundle(head_folder)
    embedding = config.embedding.model_copy(update={"precision": bundle.precision})
    view = ViewChoice(**bundle.view.model_dump())
    if config.view is not None and config.view.allow_moved_label is not None:
        view = view.model_copy(update={"allow_moved_label": config.view.allow_moved_label})
    config = config.model_copy(update={"backbone": bundle.backbone, "view": view, "embedding": embedding})
    tiles, split = with_parts(read_dataset(single_dataset(config)), config.evaluation)
    part = scored_part(config.evaluation)
    has_parts = tiles.table["split"].null_count() == 0
    if has_parts:
        part_rows(tiles, part)  # a missing part shows before anything is embedded
    material = _embed(config, tiles)
    tiles = material.tiles  # without those that can't be read
    rows = part_rows(tiles, part) if has_parts else np.flatnonzero(tiles.labels_N >= 0)
    scored_tiles = tiles.take(rows)
    split_hash = hash_bytes(scored_tiles.label_fingerprint, part)
    leaky = _shares_groups(bundle, scored_tiles)
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
    read = EmbeddedArm(PROBE, material, bundle.head.pooling)
    settings = RobustnessSettings(config.evaluation.robustness_k, config.evaluation.seed, config.interval)
    index = score_robustness([read], predictions, arms, settings)
    how = "The saved head as it is."
    finding = Finding("external", title, how, arms, notes, parts, robustness=index)
    return EvaluationOutcome(finding, ledger)


def _shares_groups(bundle: Bundle, scored: TileSet) -> bool:
    return bool(set(bundle.head.train_groups) & set(tile_groups(scored)))
