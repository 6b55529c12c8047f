"""Who trains and who is scored: the training tiles and the split of a study, and the words for both."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.datasets.splits.folds import fold_per_tile, grouped_folds
from histotune.datasets.splits.named import find_split
from histotune.datasets.splits.split import require_groups
from histotune.datasets.tileset import TileSet, require_classes
from histotune.evaluation.findings import domain_order
from histotune.evaluation.material import domains_of
from histotune.tools.errors import UserError, closest_name
from histotune.tools.marks import LABEL_MOVED, LEAKY, SYNTHETIC, skipped_mark

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.datasets.splits.split import Split
    from histotune.evaluation.config import EvaluationConfig
    from histotune.heads.config import SweepConfig
    from histotune.heads.family import FoldLabels


RANDOM_IMAGES = "random-images"


@dataclass(frozen=True)
class SourcePlan:
    """The split of a study and what follows from it.

    Attributes:
        split: Folds that are held out in turn, or parts.
        part: The scored part; empty for folds.
        fit: Training tiles and the fold of every scored tile.
    """

    split: Split
    part: str
    fit: CrossFitPlan

    @property
    def prices_leak(self) -> bool:
        """Whether a random image split can be set beside it: grouped folds of tiles whose groups are all known."""
        return not self.part and self.split.unit == "group" and not self.split.leaky

    def trained(self) -> str:
        """Return how the heads were trained, to follow the name of the training tiles."""
        if self.part:
            return f"train part of {self.split.name}"
        return f"cross-fitted over {len(self.split.sides)} folds"

    def protocol(self, sweep: SweepConfig) -> str:
        """Return how the numbers were made, with the split's name and hash and all seeds."""
        criterion = "AUROC within folds (two classes)" if sweep.selection_rule == "auroc" else "group-balanced log-loss"
        inside = (
            f"{len(sweep.penalties)} penalties chosen by {sweep.folds}-fold "
            f"{'image' if self.fit.fold_labels == 'image' else 'grouped'} cross-validation on {criterion} "
            f"(seed {sweep.seed}), {_finish(sweep)}"
        )
        leak = f" {LEAKY}: tiles of one case stand, or may stand, on both sides." if self.split.leaky else ""
        if self.part:
            return (
                f"Split {self.split.title}: trained on its train part, inside it {inside}, scored on its {self.part} "
                f"part, which takes no part in any choice.{leak}"
            )
        return (
            f"Nested cross-validation over split {self.split.title}: {len(self.split.sides)} outer folds, inside each "
            f"{inside}. AUROC counts pairs within a fold; other scores pool the folds.{leak}"
        )

    def notes(self, leak_price: bool) -> tuple[str, ...]:
        """Return the split's notes, and why there is no leak's price where one was asked for."""
        if not leak_price or self.prices_leak:
            return self.split.notes
        return (*self.split.notes, "The leak's price is not measured: it needs grouped folds to compare with.")


def plan_source(tiles: TileSet, evaluation: EvaluationConfig) -> SourcePlan:
    """Return who trains and who is scored; cheap, so that a mistake shows before anything is embedded."""
    train_N = training_rows(tiles, evaluation.train_magnification)
    require_classes(tiles.take(np.flatnonzero(train_N)), "training")
    split = choose_split(tiles, evaluation)
    if split is None:
        split = grouped_folds(tiles, evaluation.outer_folds, evaluation.seed)
    if split.kind == "parts":
        return _plan_parts(tiles, evaluation, split, train_N)
    fold_N = fold_per_tile(tiles, split)
    train_N &= fold_N >= 0
    _require_training(tiles, train_N, split, evaluation)
    inner: FoldLabels = "image" if RANDOM_IMAGES in split.name else "grouped"
    if inner == "grouped":
        require_groups(tiles.take(np.flatnonzero(train_N)))
    return SourcePlan(split, "", CrossFitPlan(train_N, fold_N, split.split_hash, inner, evaluation.seed))


def choose_split(tiles: TileSet, evaluation: EvaluationConfig) -> Split | None:
    """Return the split that the settings name, or None where they leave it to the default."""
    if evaluation.split is None:
        return None
    return find_split(evaluation.split, tiles, allow_leaky=evaluation.allow_leaky)


def scored_part(evaluation: EvaluationConfig) -> str:
    """Return the part that is scored: valid, or test with ``--final``."""
    return "test" if evaluation.final else "valid"


def with_parts(tiles: TileSet, evaluation: EvaluationConfig) -> tuple[TileSet, Split | None]:
    """Put the parts of the split that the settings name in the place of the data set's own."""
    split = choose_split(tiles, evaluation)
    if split is None:
        return tiles, None
    if split.kind == "folds":
        raise UserError(
            f"{tiles.name} is studied by its parts here, and this split has folds",
            value=split.name,
            allowed="splits with a train part, such as pcam-official or holdout-20-seed0",
        )
    sides = pl.Series("split", split.side_of_tiles(tiles), pl.String)
    table = tiles.table.with_columns(sides).filter(pl.col("split").is_not_null())
    return replace(tiles, table=table, pixel_fingerprint=None), split


def training_rows(tiles: TileSet, magnification: str | None) -> NDArray[np.bool_]:
    """Return which labelled tiles may train."""
    labelled_N: NDArray[np.bool_] = tiles.labels_N >= 0
    if magnification is None:
        return labelled_N
    train_N: NDArray[np.bool_] = labelled_N & (tiles.table["magnification"].fill_null("") == magnification).to_numpy()
    if not train_N.any():
        present = magnifications_in(tiles.table)
        raise UserError(
            "no labelled tiles at this training magnification",
            value=magnification,
            allowed=", ".join(present) or "none: this data set has no magnifications",
            closest=closest_name(magnification, present),
            fix="--train-magnification " + (present[0] if present else "none"),
        )
    return train_N


def magnifications_in(table: pl.DataFrame) -> list[str]:
    """Return the magnifications of some tiles, lowest first."""
    return sorted(set(table["magnification"].drop_nulls()), key=lambda name: domain_order(f" {name}"))


def training_domain(tiles: TileSet, train_N: NDArray[np.bool_]) -> str:
    """Return the domain of the training tiles, "breakhis 100X"; the data set's name where there are several."""
    domains = set(domains_of(tiles.take(np.flatnonzero(train_N))))
    return domains.pop() if len(domains) == 1 else tiles.name


def marks_of(tiles: TileSet, split: Split | None = None) -> tuple[str, ...]:
    """Return the marks that a data set and a split put on every number made with them."""
    skipped = (skipped_mark(tiles.n_skipped),) if tiles.n_skipped else ()
    leaky = (LEAKY,) if split is not None and split.leaky else ()
    moved = (LABEL_MOVED,) if tiles.label_moved else ()
    return (*((SYNTHETIC,) if tiles.synthetic else ()), *tiles.marks, *leaky, *moved, *skipped)


def _plan_parts(tiles: TileSet, evaluation: EvaluationConfig, split: Split, train_N: NDArray[np.bool_]) -> SourcePlan:
    part = scored_part(evaluation)
    side_N = np.array([side or "" for side in split.side_of_tiles(tiles)])
    train_N = train_N & (side_N == "train")
    _require_training(tiles, train_N, split, evaluation)
    require_groups(tiles.take(np.flatnonzero(train_N)))
    fold_N = np.where((side_N == part) & (tiles.labels_N >= 0), 0, -1).astype(np.int64)
    if not (fold_N >= 0).any():
        has_other = ("test" if part == "valid" else "valid") in split.sides
        raise UserError(
            f"the split {split.name} has no labelled tiles in its {part} part",
            value=part,
            allowed=", ".join(split.sides),
            fix=None
            if not has_other
            else "add --final to score the test part; every scoring is counted"
            if part == "valid"
            else "leave out --final: this split is scored on its valid part",
        )
    return SourcePlan(split, part, CrossFitPlan(train_N, fold_N, split.split_hash, "grouped", evaluation.seed))


def _require_training(tiles: TileSet, train_N: NDArray[np.bool_], split: Split, evaluation: EvaluationConfig) -> None:
    """Refuse a split that leaves nothing to train on at the training magnification."""
    inside_N = np.array([side is not None for side in split.side_of_tiles(tiles)])
    if not train_N.any():
        present = magnifications_in(tiles.table.filter(inside_N))
        raise UserError(
            f"the split {split.name} has no training tiles at this magnification",
            value=evaluation.train_magnification or "any",
            allowed=", ".join(present) or "none",
            fix=f"--train-magnification {present[0]}" if present else None,
        )
    require_classes(tiles.take(np.flatnonzero(train_N)), f"training with the split {split.name}")


def _finish(sweep: SweepConfig) -> str:
    """Return what else comes from the out-of-fold logits, in words."""
    scaled = "no calibration" if sweep.calibration == "none" else f"{sweep.calibration} scaling"
    rule = "the most probable class" if sweep.threshold == "0.5" else f"a threshold for {sweep.threshold}"
    return f"{scaled} and {rule} from the same out-of-fold logits"


def part_rows(tiles: TileSet, part: str) -> NDArray[np.int64]:
    """Return the labelled rows of an official part."""
    rows = np.flatnonzero((tiles.table["split"].fill_null("") == part).to_numpy() & (tiles.labels_N >= 0))
    if len(rows) == 0:
        present = sorted(set(tiles.table["split"].drop_nulls()))
        raise UserError(
            f"{tiles.name} has no labelled tiles in its {part} part",
            value=part,
            allowed=", ".join(present) or "none: no official parts",
            fix="add --final to score the test part" if part == "valid" else f"put the {part} files into the folder",
        )
    return rows


# N tiles, S training sets, K classes
@dataclass(frozen=True)
class CrossFitPlan:
    """Who trains and who is scored.

    Attributes:
        train_N: Tiles that may train (the training magnification).
        fold_N: Outer fold of every tile, over the groups of all magnifications; -1 is never scored. A scored part
            is fold 0, and its train part -1.
        split_hash: Hash of the split.
        fold_labels: ``grouped`` also for the inner folds; ``image`` is the leaky arm.
        seed: Seed of the folds.
    """

    train_N: NDArray[np.bool_]
    fold_N: NDArray[np.int64]
    split_hash: str
    fold_labels: FoldLabels
    seed: int
