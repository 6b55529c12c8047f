"""A second data set: heads carried over as they are (external), and heads trained on its own split (direct)."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.datasets.splits.split import require_groups, tile_groups
from histotune.datasets.tileset import TileSet, require_classes
from histotune.evaluation.choice import describe_choice
from histotune.evaluation.crossfit import sweep_task
from histotune.evaluation.decisions import with_decisions
from histotune.evaluation.findings import Finding, FindingId, Scored, SweepChoice
from histotune.evaluation.floors import majority_predictions
from histotune.evaluation.held_out import (
    ArmMaterial,
    ArmSweep,
    SourceStudy,
    StudySettings,
    score_arms,
    with_details,
)
from histotune.evaluation.material import head_predictions
from histotune.evaluation.plan import CrossFitPlan, marks_of, part_rows
from histotune.evaluation.robustness import EmbeddedArm, map_embeddings, score_robustness
from histotune.evaluation.scoring import over_present
from histotune.evaluation.seen import find_seen, mark_seen
from histotune.heads.family import SweepTask, check_inner_folds
from histotune.heads.outliers import find_far
from histotune.heads.sweep import sweep
from histotune.tools.devices import SMALL_ROWS, map_small
from histotune.tools.files import hash_bytes
from histotune.tools.marks import LEAKY, MAJORITY, TUNED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.evaluation.material import Material
    from histotune.evaluation.tuned import TunedCrossFit, TuningTools
    from histotune.heads.config import SweepConfig
    from histotune.heads.head import Head, SweepResult
    from histotune.statistics.predictions import Predictions


@dataclass(frozen=True)
class TargetStudy:
    """Findings on a second data set.

    Attributes:
        findings: External and direct, where they apply.
        scored: The predictions behind them.
        direct: Final sweep per arm on the target's own training part; empty without one.
        choice: What the direct sweep chose; None without one.
        split_hash: Hash of the scored part's tiles, labels and groups.
        part: Name of the scored part.
        embedding_map: Where the scored tiles lie on a map of what the direct probe reads; None beside a source, whose
            own map is shown, and where it was not asked for.
        tuned: The model fine-tuned on its own training part; None where nothing was.
    """

    findings: tuple[Finding, ...]
    scored: tuple[Scored, ...]
    direct: tuple[ArmSweep, ...]
    choice: SweepChoice | None
    split_hash: str
    part: str
    embedding_map: pl.DataFrame | None = None
    tuned: TunedCrossFit | None = None


@dataclass(frozen=True)
class _Table:
    """One finding in the making: heads of one origin on the scored part; the first is the probe's."""

    finding: FindingId
    trained_on: str
    train_labels: NDArray[np.int64]
    scored: list[tuple[str, Predictions]]
    head: Head


def study_target(
    arms: tuple[ArmMaterial, ...], source: SourceStudy | None, settings: StudySettings, part: str
) -> TargetStudy:
    """Score the source's heads and heads trained here on one official part of the target.

    Args:
        arms: The target as each arm's backbone sees it, the probe first.
        source: Study whose final heads are carried over; None skips external validation.
        settings: What to score and how.
        part: Official part that is scored, "valid" or "test".

    Returns:
        The findings.

    Raises:
        UserError: The part holds no labelled tiles, or the training part one class only.
    """
    tiles = arms[0].material.tiles
    scored_N = part_rows(tiles, part)
    split_hash = hash_bytes(tiles.take(scored_N).label_fingerprint, part)
    tables: list[_Table] = []
    if source is not None:
        own = [(final.arm, final.result.head) for final in source.finals]
        carried = (own[0], *source.carried, *own[1:])
        name = f"{source.choice.trained_on}, all training cases"
        scored = _score_heads(arms, carried, scored_N, split_hash)
        tables.append(_Table("external", name, source.train_labels, scored, carried[0][1]))
    here = tuple(arm for arm in arms if arm.arm != TUNED)  # the tuned backbone came from the source
    direct = _train_here(here, settings)
    tuned = None
    if direct:
        heads = tuple((arm.arm, arm.result.head) for arm in direct)
        scored = _score_heads(arms, heads, scored_N, split_hash)
        if source is None and settings.tuning is not None:
            tuned = _tune_here(arms[0].material, scored_N, settings.tuning, direct[0].result)
            scored.insert(1, (TUNED, tuned.predictions))
        labels = tiles.labels_N[_train_rows(tiles)]
        tables.append(_Table("direct", f"{tiles.name} train", labels, scored, heads[0][1]))
    findings = [_finding(arms[0], table, scored_N, settings) for table in tables]
    shown = None
    if direct:
        findings[-1], shown = _look_at_embeddings(here, direct, (findings[-1], tables[-1]), settings, source is None)
    kept = [Scored(table.finding, arm, predictions) for table in tables for arm, predictions in table.scored]
    choice = describe_choice(direct[0].result, f"{tiles.name} train", tiles) if direct else None
    return TargetStudy(tuple(findings), tuple(kept), direct, choice, split_hash, part, shown, tuned)


def _tune_here(material: Material, rows: NDArray[np.int64], tools: TuningTools, probe: SweepResult) -> TunedCrossFit:
    """Fine-tune on the target's training part and score the other part."""
    from histotune.evaluation.tuned import tuned_cross_fit  # with torch, which no other study needs by now

    fold_N = np.full(len(material.tiles), -1, dtype=np.int64)
    fold_N[rows] = 0
    plan = CrossFitPlan(_train_rows(material.tiles), fold_N, material.tiles.take(rows).label_fingerprint, "grouped", 0)
    return tuned_cross_fit(material, plan, tools, (probe,))


def _train_rows(tiles: TileSet) -> NDArray[np.bool_]:
    return (tiles.table["split"].fill_null("") == "train").to_numpy() & (tiles.labels_N >= 0)


def check_direct_training(tiles: TileSet, config: SweepConfig) -> None:
    """Refuse a training part that the sweep could not learn from, before anything is embedded."""
    train_N = _train_rows(tiles)
    if train_N.any():
        require_classes(tiles.take(np.flatnonzero(train_N)), "direct training")
        task = SweepTask(tiles.labels_N, tuple(tile_groups(tiles)), tiles.class_names, train_N[None, :])
        check_inner_folds(tiles.tile_ids, task, config)


def _train_here(arms: tuple[ArmMaterial, ...], settings: StudySettings) -> tuple[ArmSweep, ...]:
    """Sweep each arm on the target's training part; nothing where it has none."""
    tiles = arms[0].material.tiles
    train_N = _train_rows(tiles)
    if not train_N.any():
        return ()
    require_classes(tiles.take(np.flatnonzero(train_N)), "direct training")
    require_groups(tiles.take(np.flatnonzero(train_N)))
    small = int(train_N.sum()) <= SMALL_ROWS
    return tuple(map_small(lambda arm: _sweep_once(arm, train_N, settings), arms, small))


def _sweep_once(arm: ArmMaterial, train_N: NDArray[np.bool_], settings: StudySettings) -> ArmSweep:
    task, start = sweep_task(arm.material, [train_N]), time.perf_counter()
    result = sweep(arm.material.embeddings, task, settings.sweep, settings.support)[0]
    return ArmSweep(arm.arm, result, sweep_s=time.perf_counter() - start)


def _score_heads(
    arms: tuple[ArmMaterial, ...], heads: tuple[tuple[str, Head], ...], rows: NDArray[np.int64], split_hash: str
) -> list[tuple[str, Predictions]]:
    """Apply each arm's head to the scored part."""
    by_arm = {arm.arm: arm.material for arm in arms}
    return [(name, head_predictions(by_arm[name], rows, head, split_hash)) for name, head in heads]


def _look_at_embeddings(
    arms: tuple[ArmMaterial, ...],
    direct: tuple[ArmSweep, ...],
    found: tuple[Finding, _Table],
    settings: StudySettings,
    with_map: bool,
) -> tuple[Finding, pl.DataFrame | None]:
    """Return the direct finding with the robustness index of what its heads read, and the map of its tiles."""
    finding, table = found
    probes = [row for row in finding.rows if row.arm == arms[0].arm]
    read = [EmbeddedArm(arm.arm, arm.material, own.result.head.pooling) for arm, own in zip(arms, direct, strict=True)]
    predictions = table.scored[0][1]
    index = score_robustness(read, predictions, probes, settings.robustness)
    shown = map_embeddings(read[0], predictions, probes, settings.evaluation) if with_map else None
    return replace(finding, robustness=index), shown


def _finding(probe: ArmMaterial, table: _Table, rows: NDArray[np.int64], settings: StudySettings) -> Finding:
    """Score a table's arms and put the floors below them."""
    tiles = probe.material.tiles
    marks = marks_of(tiles, settings.target_split)
    if table.finding == "direct" and LEAKY not in marks and _parts_share_groups(tiles):
        marks = (*marks, LEAKY)
    if "majority" in settings.evaluation.floors:
        like = table.scored[0][1]
        table.scored.append((MAJORITY, majority_predictions(probe.material, rows, [table.train_labels], like)))
    among = [(arm, *over_present(predictions)) for arm, predictions in table.scored]
    scored = [(arm, predictions) for arm, predictions, _ in among]
    arms = score_arms(probe.material, scored, table.trained_on, marks, rows, settings)
    arms = with_decisions(arms, table.scored[0][1], settings.interval)
    notes = [*_notes(tiles, table.finding), *([among[0][2]] if among[0][2] else [])]
    if table.finding == "external":
        seen = find_seen(table.head, probe.material).take(rows)
        arms = mark_seen(arms, scored[0][1], seen.seen_ids)
        notes += (*seen.leaky_notes(), *seen.untold_notes())
    if far := find_far(table.head, probe.material.embeddings, rows).note():
        notes.append(far)
    title, protocol = _words(table, tiles, settings)
    split_notes = settings.target_split.notes if settings.target_split else ()
    finding = Finding(table.finding, title, protocol, arms, (*notes, *split_notes))
    return with_details(finding, scored, tiles, settings)


def _parts_share_groups(tiles: TileSet) -> bool:
    known = tiles.table.drop_nulls(["group_id", "split"])
    return not known.group_by("group_id").agg(pl.col("split").n_unique()).filter(pl.col("split") > 1).is_empty()


def _words(table: _Table, tiles: TileSet, settings: StudySettings) -> tuple[str, str]:
    """Title and protocol of a finding."""
    if table.finding == "external":
        return (
            f"External validation: {table.trained_on.partition(',')[0]} -> {tiles.name}",
            "The head trained on all training cases of the source is applied as it is: no retraining, no new "
            f"threshold. {_read_by_name(table.head.class_names, tiles.class_names)}",
        )
    sweep_config, split = settings.sweep, settings.target_split
    origin = f"the train part of split {split.title}" if split else "the official training part"
    leak = f" {LEAKY}: tiles of one group stand on both sides." if split and split.leaky else ""
    return (
        f"Direct training on {tiles.name}",
        f"Trained on {origin}, {len(sweep_config.penalties)} penalties chosen by "
        f"{sweep_config.folds}-fold cross-validation over its {'groups' if split else 'slides'} (seed "
        f"{sweep_config.seed}), scored once on another {'part of it' if split else 'official part'}. The scored part "
        f"takes no part in any choice.{leak}",
    )


def _read_by_name(head_names: tuple[str, ...], names: tuple[str, ...]) -> str:
    """Return how the target's classes were read; both lists are in one order."""
    differ = [(name, other) for name, other in zip(names, head_names, strict=True) if name != other]
    if not differ:
        return "Classes are matched by name."
    return f"Of the target's classes, {' and '.join(f'{name} is read as {other}' for name, other in differ)}."


def _notes(tiles: TileSet, finding_id: FindingId) -> tuple[str, ...]:
    notes = []
    if finding_id == "external" and tiles.label_region is not None:
        size = tiles.label_region
        notes.append(
            f"The labels differ in meaning: a target label speaks of the centre {size.width_px} x {size.height_px} px "
            "of its tile, a source label of the whole case."
        )
    if tiles.table.filter(pl.col("group_id").is_null()).height:
        notes.append("Slides are unknown in this copy, so group intervals are refused.")
    return tuple(notes)
