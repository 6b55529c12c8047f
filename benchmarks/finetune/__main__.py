"""``python -m benchmarks.finetune gain`` and ``never-below``: fine-tuning helps where it should and harms nowhere.

Every part of a cell (a task, a number of cases, a seed) is written when it is done and never run again, finished
trainings of a cell that was stopped included; ``write`` makes the table and prints what it says.

- ``gain``: the planted task (the probe's AUROC lies between .55 and .75 on average) with 32 cases of 6 tiles and with
  24 of 8, and the null task (labels dealt again among cases). *helped*: the paired interval lies above 0.
- ``never-below``: 2, 4, 8 and 16 cases per class of the planted and of the easy task, scored on the rest of 72 cases,
  and all 14 cases of the real sample, each scored by the training set of three that leaves it out. Beside every cell
  stands LoRA from a fresh head (`benchmarks/finetune/fresh.py`). The one backbone with weights here is convolutional,
  so the fine-tuning itself trains the last stage.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.finetune.fresh import fresh_lora_auroc
from benchmarks.finetune.planted import PlantedCohort
from benchmarks.finetune.trial import cohort_tiles, cross_fitted_rows, real_sample, real_tiles, run_trial, train_rows
from histotune.finetune.config import FinetuneConfig, LoopConfig
from histotune.heads.config import SweepConfig
from histotune.images.config import AugmentConfig
from histotune.tools.files import write_json, write_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.finetune.workbench import TuningBench

RESULTS = Path(__file__).parents[1] / "results"
PER_CLASS = (16, 8, 4, 2)
N_SEEDS = 20
N_CASES = 72
OUTER_FOLDS = 3
LOOP = LoopConfig(epochs=24, batch_size=16, lr=2e-3)
CONFIG = FinetuneConfig(loop=LOOP, views=1, inner_folds=5, augment=AugmentConfig(dihedral=False, stain=0.0))


@dataclass(frozen=True)
class Cell:
    """One fine-tuning, or on the real sample one per outer fold.

    Attributes:
        task: What is rendered, or ``real``.
        n_train: Cases that train.
        n_tiles: Tiles of a case; 0 for the real sample, whose cases have different numbers.
        seed: Seed of the cohort, or of the dealing into outer folds.
    """

    task: str
    n_train: int
    n_tiles: int
    seed: int

    @property
    def kind(self) -> str:
        """What it shares with the cells of other seeds."""
        return f"{self.task}-{self.n_train}x{self.n_tiles}"

    @property
    def name(self) -> str:
        """File name of its result."""
        return f"{self.kind}-{self.seed}"

    @property
    def sweep(self) -> SweepConfig:
        """How its probes are found: by their ranking, as fine-tuning has it; few cases make few folds."""
        return SweepConfig(folds=max(min(4, self.n_train // 2), 2), selection_rule="auroc")

    def tiles(self, folder: Path) -> tuple[TuningBench, list[NDArray[np.bool_]]]:
        """Return what fine-tunes on it, and the tiles of its training sets."""
        if self.task == "real":
            bench = real_tiles(CONFIG, folder)
            return bench, cross_fitted_rows(bench, OUTER_FOLDS, self.seed)
        cohort = PlantedCohort(self.task, N_CASES, self.n_tiles, self.seed)  # type: ignore[arg-type]
        bench = cohort_tiles(cohort, CONFIG, folder)
        return bench, [train_rows(bench, self.n_train)]


def cells_of(study: str, n_seeds: int) -> list[Cell]:
    """Return every cell of a study, seeds last, so that a part of it is a smaller study."""
    if study == "gain":
        kinds = [("planted", 32, 6), ("permuted", 32, 6), ("planted", 24, 8)]
    else:
        kinds = [(task, 2 * n, 6) for task in ("planted", "easy") for n in PER_CLASS]
        kinds += [("real", 14, 0)] if real_sample().is_dir() else []
    return [Cell(*kind, seed) for seed in range(n_seeds) for kind in kinds]


def run_cell(cell: Cell, folder: Path, *, fresh: bool) -> None:
    """Run what is missing of one cell."""
    trial, beside = folder / f"{cell.name}.json", folder / f"{cell.name}.fresh.json"
    if trial.exists() and (beside.exists() or not fresh):
        return
    bench, train_sets = cell.tiles(folder)
    if not trial.exists():
        outcome = run_trial(bench, train_sets, cell.sweep, folder / "state" / cell.name)
        write_json(trial, {**cell.__dict__, **outcome.row()})
        print(cell.name, outcome.row(), flush=True)
    if fresh and not beside.exists():
        write_json(beside, {"fresh_lora": round(fresh_lora_auroc(bench, train_sets, cell.sweep), 4)})


def finished_rows(study: str, n_seeds: int, folder: Path) -> list[dict[str, object]]:
    """Return the rows of all finished cells of a study."""
    rows = []
    for cell in cells_of(study, n_seeds):
        parts = [folder / f"{cell.name}.json", *([folder / f"{cell.name}.fresh.json"] if study != "gain" else [])]
        if all(path.exists() for path in parts):
            rows.append({k: v for path in parts for k, v in json.loads(path.read_text(encoding="utf-8")).items()})
    return rows


def write(study: str, n_seeds: int, folder: Path) -> None:
    """Write the table of all finished cells and print what they say."""
    rows = finished_rows(study, n_seeds, folder)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(RESULTS / f"finetune_{study.replace('-', '_')}.csv", out.getvalue())
    cells = [Cell(str(row["task"]), *(int(str(row[name])) for name in ("n_train", "n_tiles", "seed"))) for row in rows]
    for kind in dict.fromkeys(cell.kind for cell in cells):
        own = [row for row, cell in zip(rows, cells, strict=True) if cell.kind == kind]
        column = {name: np.array([row[name] for row in own], float) for name in own[0] if name != "task"}
        gap = column["returned"] - column["probe"]
        said = (
            f"probe {column['probe'].mean():.3f}, returned {column['returned'].mean():.3f}, mean gap {gap.mean():+.4f}"
        )
        said += f", worst {gap.min():+.3f}, tuned {int((column['n_tuned'] > 0).sum())}"
        said += f", helped {int((column['low'] > 0).sum())}, hurt {int((column['high'] < 0).sum())}"
        if "fresh_lora" in column:
            below = column["fresh_lora"] - column["probe"]
            said += f", fresh LoRA {column['fresh_lora'].mean():.3f}, its worst gap {below.min():+.3f}"
        print(f"{kind}: {len(own)} seeds, {said}, slowest search {column['seconds'].max():.0f} s")


def main() -> None:
    """Run a study, or write its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.finetune", description=__doc__)
    parser.add_argument("study", choices=["gain", "never-below"])
    parser.add_argument("command", choices=["run", "write"])
    parser.add_argument("--cells", type=Path, required=True, help="folder of finished cells")
    parser.add_argument("--seeds", type=int, default=N_SEEDS)
    parser.add_argument("--kinds", nargs="*", help="run these alone, such as planted-32x6 easy-4x6")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.command == "write":
        write(options.study, options.seeds, options.cells)
        return
    options.cells.mkdir(parents=True, exist_ok=True)
    for cell in cells_of(options.study, options.seeds):
        if options.kinds and cell.kind not in options.kinds:
            continue
        run_cell(cell, options.cells, fresh=options.study == "never-below")


if __name__ == "__main__":
    main()
