"""The cross-magnification study from files to folder: embed each experiment's view, fill the matrices, write them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.datasets.splits.folds import fold_per_tile, grouped_folds
from histotune.evaluation.held_out import StudySettings
from histotune.evaluation.ledger import Scoring, record_scoring
from histotune.evaluation.magnifications import (
    MATCHED,
    MatrixStudy,
    Seen,
    magnification_matrix,
    magnifications_of,
    matched_view,
    matrix_answer,
    seen_scales,
)
from histotune.evaluation.plan import CrossFitPlan, choose_split, marks_of
from histotune.heads.family import SweepSupport
from histotune.heads.fit_cache import FitCache
from histotune.images.config import ViewChoice
from histotune.images.view_checks import check_view
from histotune.report.result_tables import tables_of
from histotune.report.study_pages import save_matrices
from histotune.studies.setup import claimed_folder, read_single, set_up
from histotune.tools.atomic import atomic_folder
from histotune.tools.errors import UserError
from histotune.tools.files import hash_json
from histotune.tools.marks import TOO_NARROW
from histotune.tools.table import ShownAsTables, Table

if TYPE_CHECKING:
    from pathlib import Path

    from histotune.datasets.splits.split import Split
    from histotune.datasets.tileset import TileSet
    from histotune.evaluation.findings import LedgerCount
    from histotune.evaluation.magnifications import Experiment, MagnificationMatrix, TrainingSize
    from histotune.studies.config import ExperimentConfig
    from histotune.studies.setup import Setup

RAW: Experiment = "as the network sees it"
SIZES: tuple[TrainingSize, ...] = ("equal", "all data")


@dataclass(frozen=True)
class MatrixOutcome(ShownAsTables):
    """A finished cross-magnification study: its matrices, how often its split has been scored, where it was written."""

    study: MatrixStudy
    ledger: LedgerCount
    folder: Path

    def tables(self) -> tuple[Table, ...]:
        """Return the matrices."""
        return tables_of(self.study)


def run_matrix(config: ExperimentConfig, command: str, *, matched: bool) -> MatrixOutcome:
    """Train at every magnification, score every magnification, groups disjoint everywhere; write the folder.

    Args:
        config: Names one data set with magnifications, a backbone and the sweep.
        command: The command line, for the page.
        matched: Also embed and study the two matched views.

    Returns:
        The study, how often this split has been scored, and the folder.

    Raises:
        UserError: The data set has fewer than two magnifications, or anything else the user can mend.
    """
    with claimed_folder(config):
        tiles = read_single(config)
        magnifications_of(tiles)
        split = _folds(tiles, config)
        setup = set_up(config, tiles, split)
        config = setup.config
        experiments = (RAW, *MATCHED) if matched else (RAW,)
        for experiment in experiments:  # a mistake shows before anything is embedded
            check_view(tiles, matched_view(tiles, setup.view, experiment))
        matrices = [matrix for experiment in experiments for matrix in _matrices(setup, split, experiment)]
        study = _study(setup, split, matrices)
        choice_hash = hash_json([config.choices(), "matrix"])
        ledger = record_scoring(config.ledger, Scoring(split.split_hash, f"{tiles.name} cross-fit", choice_hash))
        with atomic_folder(config.out) as folder:
            save_matrices(study, (config.model_dump(mode="json"), command, str(ledger)), folder)
        return MatrixOutcome(study, ledger, config.out)


def _folds(tiles: TileSet, config: ExperimentConfig) -> Split:
    split = choose_split(tiles, config.evaluation)
    if split is None:
        return grouped_folds(tiles, config.evaluation.outer_folds, config.evaluation.seed)
    if split.kind == "parts" or split.leaky:
        raise UserError(
            "the matrix is cross-fitted over folds of groups",
            value=split.name,
            allowed="splits such as grouped-5-seed0",
            fix="leave out --split",
        )
    return split


def _matrices(setup: Setup, split: Split, experiment: Experiment) -> list[MagnificationMatrix]:
    """Fill both matrices of one experiment."""
    config, view = setup.config, matched_view(setup.tiles, setup.view, experiment)
    material = setup.with_view(ViewChoice(**view.model_dump(exclude_none=True))).embed()
    settings = StudySettings(
        config.evaluation, config.sweep, config.interval, support=SweepSupport(FitCache.at(config.cache))
    )
    fold_N = fold_per_tile(material.tiles, split)
    plan = CrossFitPlan(fold_N >= 0, fold_N, split.split_hash, "grouped", config.evaluation.seed)
    seen = Seen(experiment, seen_scales(material.tiles, view), _notes(material.tiles))
    return [magnification_matrix(material, plan, seen, settings, size) for size in SIZES]


def _notes(tiles: TileSet) -> tuple[str, ...]:
    sources = sorted(set(tiles.table["mpp_source"].drop_nulls()))
    return (f"Scales rest on {' and '.join(sources)} pixel sizes.",) if sources else ()


def _study(setup: Setup, split: Split, matrices: list[MagnificationMatrix]) -> MatrixStudy:
    tiles, sweep = setup.tiles, setup.config.sweep
    protocol = (
        f"Split {split.title}: {len(split.sides)} outer folds over the groups of all magnifications, so that no group"
        f" trains a head and is scored by it at any magnification; inside each, {len(sweep.penalties)} penalties chosen"
        f" by {sweep.folds}-fold grouped cross-validation (seed {sweep.seed}). AUROC counts pairs within a fold."
        " Differences are paired by tile and group with the heads trained at the scored magnification. Intervals are"
        " conditional on the trained heads."
    )
    narrow = (TOO_NARROW,) if setup.config.interval.cluster == "tile" else ()
    return MatrixStudy(
        data_set=tiles.name,
        backbone=setup.backbone.name,
        protocol=protocol,
        matrices=tuple(matrices),
        marks=(*marks_of(tiles, split), *narrow),
        answer=matrix_answer(matrices),
        licence=tiles.licence,
        citation=tiles.citation,
        split_hash=split.split_hash,
    )
