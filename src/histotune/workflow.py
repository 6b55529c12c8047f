"""The steps of an experiment as single commands: embed, sweep, evaluate, report, predict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.backbones.catalog import find_backbone
from histotune.datasets.read import read_dataset
from histotune.datasets.records import require_classes
from histotune.datasets.splits.folds import tile_groups
from histotune.deploy.bundle import Bundle, load_bundle, save_bundle
from histotune.embeddings.choice import chosen_view
from histotune.evaluation.ledger import Scoring, record_scoring
from histotune.evaluation.material import ScoredRows, build_predictions
from histotune.evaluation.records import Finding
from histotune.evaluation.scoring import LEAKY, score_domains
from histotune.evaluation.source import PROBE, describe_choice, marks_of, training_domain, training_rows
from histotune.evaluation.target import part_rows
from histotune.experiment import embed_dataset, single_dataset
from histotune.files import atomic_folder, hash_bytes
from histotune.heads.apply import class_probabilities, head_logits
from histotune.heads.sweep import SweepTask, sweep
from histotune.images.config import ViewChoice

if TYPE_CHECKING:
    from pathlib import Path

    from histotune.config import ExperimentConfig
    from histotune.datasets.records import TileSet
    from histotune.evaluation.material import Material
    from histotune.evaluation.records import LedgerCount, SweepChoice
    from histotune.heads.records import SweepResult


@dataclass(frozen=True)
class SweepOutcome:
    """A sweep over one data set's training tiles, saved."""

    result: SweepResult
    choice: SweepChoice
    folder: Path


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
    dataset = single_dataset(config)
    spec = find_backbone(config.backbone, config.cache)
    return embed_dataset(config, read_dataset(dataset), spec, dataset.on_bad_image)


def sweep_only(config: ExperimentConfig) -> SweepOutcome:
    """Sweep heads over a data set's training tiles and save the chosen one.

    BreakHis trains on all cases at the training magnification; PatchCamelyon on its training part.

    Args:
        config: Names one data set, a backbone, the sweep and the folder.

    Returns:
        What was tried and chosen. The selected score is optimistic: it was the criterion.
    """
    material = embed_only(config)
    tiles = material.tiles
    train_N = training_rows(tiles, config.evaluation.train_magnification)
    has_parts = tiles.table["split"].null_count() == 0
    if has_parts:
        train_N = np.zeros(len(tiles), dtype=np.bool_)
        train_N[part_rows(tiles, "train")] = True
    require_classes(tiles.take(np.flatnonzero(train_N)), "a sweep")
    task = SweepTask(
        labels_N=tiles.labels_N,
        groups=tuple(tile_groups(tiles)),
        class_names=tiles.class_names,
        train_sets_SN=train_N[None, :],
        fold_labels="grouped",
        default_pooling=material.default_pooling,
    )
    result = sweep(material.embeddings, task, config.sweep)[0]
    domain = f"{tiles.name} train" if has_parts else training_domain(tiles, train_N)
    with atomic_folder(config.out) as folder:
        view = chosen_view(config.view, find_backbone(config.backbone, config.cache))
        save_bundle(Bundle(result.head, config.backbone, view, config.embedding.precision), folder)
        result.trials.write_parquet(folder / "trials.parquet")
    return SweepOutcome(result, describe_choice(result, domain), config.out)


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
    material = embed_only(config)
    tiles = material.tiles
    part = "test" if config.evaluation.final else "valid"
    has_parts = tiles.table["split"].null_count() == 0
    rows = part_rows(tiles, part) if has_parts else np.flatnonzero(tiles.labels_N >= 0)
    scored_tiles = tiles.take(rows)
    split_hash = hash_bytes(scored_tiles.label_fingerprint, part)
    logit_NK = head_logits(bundle.head, material.embeddings.take(rows))
    scored = ScoredRows(
        rows,
        logit_NK,
        class_probabilities(bundle.head, logit_NK),
        [bundle.head.head_id] * len(rows),
        np.zeros(len(rows), dtype=np.int64),
        0,
        split_hash,
        bundle.head.threshold,
    )
    leaky = _shares_groups(bundle, scored_tiles)
    marks = (*marks_of(tiles), *((LEAKY,) if leaky else ()))
    predictions = build_predictions(material, scored)
    arms = score_domains(PROBE, predictions, f"head {bundle.head.head_id}", config.interval, marks)
    target = f"{tiles.name} {part}" if has_parts else tiles.name
    ledger = record_scoring(config.ledger, Scoring(split_hash, target, bundle.head.head_id))
    notes = ("Some of the scored cases trained this head: these are no held-out scores.",) if leaky else ()
    title = f"Head {bundle.head.head_id} on {target}"
    return EvaluationOutcome(Finding("external", title, "The saved head as it is.", arms, notes), ledger)


def _shares_groups(bundle: Bundle, scored: TileSet) -> bool:
    return bool(set(bundle.head.train_groups) & set(tile_groups(scored)))
