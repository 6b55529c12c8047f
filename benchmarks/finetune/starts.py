"""Which criterion chooses the better probe to start from: ``python -m benchmarks.finetune.starts --cells FOLDER``.

Every penalty of a sweep is cross-fitted on some training cases; several criteria choose among the same out-of-fold
logits; each choice is refitted, calibrated as a sweep does it, and scored on all cases that took no part:

- ``loss``: least log-loss, every group alike; what sweeps do.
- ``one-se``: the strongest penalty whose loss lies within a standard error of the least, paired by group.
- ``calibrated``: least log-loss at the temperature that suits each trial's own out-of-fold logits best, as heads are
  calibrated anyway.
- ``auroc``: highest AUROC within inner folds; the least loss where it is equal.
- ``loss-in-auroc``: least loss among those whose AUROC lies within a standard error of the highest (jackknife over
  groups, paired).
- ``auroc-in-loss``: highest AUROC among those whose loss lies within a standard error of the least.

Rendered: the cohorts of this folder (planted and easy, 60 cases of 6 tiles) and tissue in BreakHis' layout (30 cases at
100X). Real: all splits of the 14 cases of the sample at 100X that a seed draws, which no criterion is chosen by.
"""

# N tiles, n training tiles, K classes, T trials, G groups

from __future__ import annotations

import argparse
import csv
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from benchmarks.finetune.planted import SIDE_PX, PlantedCohort, write_planted
from histotune.backbones.catalog import find_backbone
from histotune.backbones.entries import BackboneConfig
from histotune.datasets import SyntheticConfig, write_cohort
from histotune.datasets.config import DatasetConfig, SubsetConfig
from histotune.datasets.read import read_dataset
from histotune.datasets.splits.split import tile_groups
from histotune.embeddings.embed import embed
from histotune.embeddings.space import EmbeddingConfig, EmbedRequest, chosen_view
from histotune.finetune.judge import TuningJudge
from histotune.heads.calibrate import CrossFitted, calibrate
from histotune.heads.config import SweepConfig
from histotune.heads.family import FoldPlan, SweepData, SweepTask, training_set
from histotune.heads.head import calibrated_logits
from histotune.heads.select import (
    choose_trial,
    group_means,
    paired_differences,
    ranking_scores,
    score_trials,
    tile_losses,
)
from histotune.heads.sweep import make_family
from histotune.images.config import LoaderConfig, ViewChoice
from histotune.statistics.metrics import auroc
from histotune.tools.files import write_json, write_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.datasets.tileset import TileSet
    from histotune.embeddings.space import Embeddings
    from histotune.heads.family import OutOfFold, TrainingSet, Trial

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]

Source = Literal["planted", "easy", "tissue", "real"]
CRITERIA = ("loss", "one-se", "calibrated", "auroc", "loss-in-auroc", "auroc-in-loss")
RESULTS = Path(__file__).parents[1] / "results"
PER_CLASS = {"planted": (2, 4, 8, 16), "easy": (2, 4, 8, 16), "tissue": (2, 4, 8), "real": (2, 3, 4)}
FOLDS = 4


@dataclass(frozen=True)
class StartCell:
    """One training set.

    Attributes:
        source: Where its tiles come from.
        per_class: Training cases of each class.
        seed: Seed of the cohort, or of the split of the real cases.
    """

    source: Source
    per_class: int
    seed: int

    @property
    def name(self) -> str:
        """File name of its result."""
        return f"start-{self.source}-{self.per_class}-{self.seed}"


def embedded_tiles(source: Source, seed: int, folder: Path) -> tuple[TileSet, Embeddings, tuple[str, ...]]:
    """Return the tiles of a cohort, their embeddings by Lite0, and the pooling of its probes."""
    cache, choice = folder / "cache", ViewChoice()
    if source in ("planted", "easy"):
        cohort = PlantedCohort("easy" if source == "easy" else "planted", 60, 6, seed)
        place = folder / f"{cohort.task}-{seed}-{cohort.n_groups}-{cohort.n_tiles}"
        config = DatasetConfig(name="tiles", path=write_planted(cohort, place))
        choice = ViewChoice(size_px=SIDE_PX, resize_px=SIDE_PX)
    else:
        real = os.environ.get("HISTOTUNE_REAL_DATA", str(Path(__file__).parents[3] / "shared" / "data"))
        path = Path(real) / "breakhis_sample" / "BreaKHis_v1"
        if source == "tissue":
            path = write_cohort(SyntheticConfig(seed=seed), folder / f"tissue-{seed}").breakhis
        config = DatasetConfig(name="breakhis", path=path, subset=SubsetConfig(magnifications=("100X",)))
    tiles = read_dataset(config, "source")
    spec = find_backbone(BackboneConfig(name="lite0"), cache)
    view = chosen_view(choice, spec)
    found = embed(tiles, EmbedRequest(spec, view, EmbeddingConfig(precision="fp32"), LoaderConfig(), cache))
    return tiles, found, spec.default_pooling


def drawn_rows(tiles: TileSet, cell: StartCell) -> NDArray[np.bool_]:
    """Return the tiles of as many cases of each class as train; the first of planted cohorts, else drawn by seed."""
    groups, labels_N = tile_groups(tiles), tiles.labels_N
    if cell.source in ("planted", "easy"):
        chosen = set(sorted(set(groups))[: 2 * cell.per_class])
    else:
        rng, chosen = np.random.default_rng(cell.seed), set()
        for label in (0, 1):
            own = sorted({group for group, one in zip(groups, labels_N, strict=True) if one == label})
            chosen |= set(rng.permutation(own)[: cell.per_class].tolist())
    return np.array([group in chosen for group in groups])


def choose_by(criterion: str, found: OutOfFold, y_n: Int, part: TrainingSet, trials: Sequence[Trial]) -> int:
    """Return the trial that a criterion chooses."""
    scores = score_trials(found, y_n, part)
    least = choose_trial(scores, trials, "best")
    if criterion in ("loss", "one-se"):
        return least if criterion == "loss" else choose_trial(scores, trials, "one-se")
    if criterion == "calibrated":
        judge = TuningJudge(y_n, part.group_n, part.n_groups)
        usable = np.flatnonzero(scores.usable_T).tolist()
        return min(usable, key=lambda t: (judge.mean(found.logit_TnK[t]), -trials[t].strength))
    auroc_T, usable_T = ranking_scores(found, y_n, part), scores.usable_T
    if not np.isfinite(auroc_T[usable_T]).all():
        return least  # no fold holds both classes
    best = max(np.flatnonzero(usable_T), key=lambda t: (auroc_T[t], -scores.log_loss_T[t]))
    if criterion == "auroc":
        return int(best)
    if criterion == "loss-in-auroc":
        within = [t for t in np.flatnonzero(usable_T) if _auroc_within(found, y_n, part, (int(t), int(best)))]
        return int(min(within, key=lambda t: scores.log_loss_T[t]))
    difference_T, error_T = paired_differences(scores.loss_TG, least)
    within = [t for t in np.flatnonzero(usable_T) if t == least or difference_T[t] <= error_T[t]]
    return int(max(within, key=lambda t: (auroc_T[t], -scores.log_loss_T[t])))


def _auroc_within(found: OutOfFold, y_n: Int, part: TrainingSet, pair: tuple[int, int]) -> bool:
    """Return whether a trial's AUROC lies within a standard error of the best one's."""
    one_nK, best_nK = (found.logit_TnK[t] for t in pair)
    if pair[0] == pair[1]:
        return True
    # Jackknife: SE^2 = (G - 1) / G * sum over groups of (difference without it - their mean)^2.
    gaps = [auroc(y_n, best_nK, part.fold_n) - auroc(y_n, one_nK, part.fold_n)]
    for group in range(part.n_groups):
        kept = part.group_n != group
        values = [auroc(y_n[kept], logit_nK[kept], part.fold_n[kept]) for logit_nK in (best_nK, one_nK)]
        gaps.append(values[0] - values[1])
    without_G = np.array(gaps[1:])[np.isfinite(gaps[1:])]
    n = len(without_G)
    error = float(np.sqrt((n - 1) / n * ((without_G - without_G.mean()) ** 2).sum())) if n > 1 else 0.0
    return gaps[0] <= error


def run_start(cell: StartCell, folder: Path) -> None:
    """Score every criterion's choice on the cases that took no part; what is there already stays."""
    path = folder / f"{cell.name}.json"
    if path.exists():
        return
    tiles, embeddings, pooling = embedded_tiles(cell.source, cell.seed, folder)
    train_N = drawn_rows(tiles, cell)
    used, rest = np.flatnonzero(train_N), np.flatnonzero(~train_N)
    config = SweepConfig(folds=min(FOLDS, cell.per_class))
    family = make_family(config)
    trials = tuple(family.trials([pooling]))
    task = SweepTask(tiles.labels_N, tile_groups(tiles), tiles.class_names, train_N[None])
    data = SweepData(embeddings, used, tiles.labels_N[used], 2)
    part = training_set(embeddings.tile_ids, task, used, used, FoldPlan(config.folds, config.seed))
    found, y_n = family.out_of_fold(data, [part], trials)[0], tiles.labels_N[used][part.rows]
    judge = TuningJudge.of(tiles, rest)
    x_ND = embeddings.matrix_ND[rest][:, embeddings.columns(pooling)].astype(np.float64)
    row: dict[str, object] = {"source": cell.source, "per_class": cell.per_class, "seed": cell.seed}
    for criterion in CRITERIA:
        choice = choose_by(criterion, found, y_n, part, trials)
        refit = family.refit(data, [(part, trials[choice])])[0]
        logit_nK = x_ND @ refit.weight_KD.T + refit.bias_K
        crossfitted = CrossFitted(found.logit_TnK[choice], y_n, part.group_n, part.n_groups, part.fold_n)
        calibrated_nK = calibrated_logits(calibrate(crossfitted, config.calibration), logit_nK)
        means = group_means(judge.group_n, judge.n_groups)
        row[f"{criterion} penalty"] = trials[choice].strength
        row[f"{criterion} auroc"] = round(auroc(judge.y_n, logit_nK), 4)
        row[f"{criterion} loss"] = round(float((tile_losses(calibrated_nK[None], judge.y_n)[0] @ means).mean()), 4)
    write_json(path, row)
    print(row, flush=True)


def cells(n_seeds: int) -> list[StartCell]:
    """Return every cell, seeds last."""
    return [
        StartCell(source, n, seed)  # type: ignore[arg-type]
        for seed in range(n_seeds)
        for source, sizes in PER_CLASS.items()
        for n in sizes
    ]


def write(n_seeds: int, folder: Path) -> None:
    """Write the table of finished cells, and print each criterion's mean less that of ``loss``, by source."""
    paths = [folder / f"{cell.name}.json" for cell in cells(n_seeds)]
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(RESULTS / "finetune_starts.csv", out.getvalue())
    for kind in dict.fromkeys([*((row["source"], 0) for row in rows), *((r["source"], r["per_class"]) for r in rows)]):
        own = [row for row in rows if row["source"] == kind[0] and kind[1] in (0, row["per_class"])]
        said = []
        for criterion in CRITERIA:
            values = {what: np.array([row[f"{criterion} {what}"] for row in own]) for what in ("auroc", "loss")}
            gaps = values["auroc"] - np.array([row["loss auroc"] for row in own])
            error = gaps.std(ddof=1) / np.sqrt(len(gaps)) if len(gaps) > 1 else np.nan
            said.append(f"{criterion} {values['auroc'].mean():.3f} ({gaps.mean():+.3f} +- {error:.3f})"
                        f" {values['loss'].mean():.3f}")  # fmt: skip
        print(kind[0], kind[1] or "all", len(own), "; ".join(said))


def main() -> None:
    """Run the study, or write its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.finetune.starts", description=__doc__)
    parser.add_argument("command", choices=["run", "write"])
    parser.add_argument("--cells", type=Path, required=True, help="folder of finished cells")
    parser.add_argument("--seeds", type=int, default=20)
    options = parser.parse_args()
    if options.command == "write":
        write(options.seeds, options.cells)
        return
    options.cells.mkdir(parents=True, exist_ok=True)
    for cell in cells(options.seeds):
        run_start(cell, options.cells)


if __name__ == "__main__":
    main()
