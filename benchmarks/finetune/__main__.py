"""``python -m benchmarks.finetune gain`` and ``never-below``: fine-tuning helps where it should and harms nowhere.

Each cell (a task, a number of cases, a seed) is written when it is done and never run again; ``write`` makes the
tables.

- ``gain``: the planted task (the probe's AUROC lies between .55 and .75 on average) with 32 cases of 6 tiles, and the
  null task (labels dealt again among cases). *helped*: the paired interval lies above 0.
- ``never-below``: 2, 4, 8 and 16 cases per class of the planted and of the easy task, scored on the rest of 60 cases.
  Adapters are left out: the one backbone with weights here is convolutional.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.finetune.planted import PlantedCohort, Task
from benchmarks.finetune.trial import TrialOutcome, cohort_tiles, run_trial, train_rows
from histotune.finetune.config import FinetuneConfig, LoopConfig
from histotune.heads.config import SweepConfig
from histotune.images.config import AugmentConfig
from histotune.tools.files import write_json, write_text

RESULTS = Path(__file__).parents[1] / "results"
PER_CLASS = (2, 4, 8, 16)
N_SEEDS = 20
LOOP = LoopConfig(epochs=24, batch_size=16, lr=2e-3)
CONFIG = FinetuneConfig(loop=LOOP, views=1, inner_folds=5, augment=AugmentConfig(dihedral=False, stain=0.0))


@dataclass(frozen=True)
class Cell:
    """One fine-tuning.

    Attributes:
        study: ``gain`` or ``never-below``.
        task: What is rendered.
        n_train: Cases that train.
        n_tiles: Tiles of a case.
        seed: Seed of the cohort.
        n_test: Cases that are scored.
    """

    study: str
    task: Task
    n_train: int
    n_tiles: int
    seed: int
    n_test: int

    @property
    def name(self) -> str:
        """File name of its result."""
        return f"{self.study}-{self.task}-{self.n_train}x{self.n_tiles}-{self.seed}"


def cells_of(study: str, n_seeds: int) -> list[Cell]:
    """Return every cell of a study, seeds last, so that a part of it is a smaller study."""
    if study == "gain":
        kinds: tuple[tuple[Task, int, int, int], ...] = (("planted", 32, 6, 40), ("permuted", 32, 6, 40))
    else:
        tasks: tuple[Task, ...] = ("planted", "easy")
        kinds = tuple((task, 2 * n, 6, 60 - 2 * n) for task in tasks for n in PER_CLASS)
    return [Cell(study, task, n, tiles, seed, test) for seed in range(n_seeds) for task, n, tiles, test in kinds]


def run_cell(cell: Cell, folder: Path) -> None:
    """Run one cell unless it is there already."""
    path = folder / f"{cell.name}.json"
    if path.exists():
        return
    folds = min(4, cell.n_train // 2)
    bench = cohort_tiles(PlantedCohort(cell.task, cell.n_train + cell.n_test, cell.n_tiles, cell.seed), CONFIG, folder)
    outcome: TrialOutcome = run_trial(bench, train_rows(bench, cell.n_train), SweepConfig(folds=max(folds, 2)))
    write_json(path, {**cell.__dict__, **outcome.row()})
    print(cell.name, outcome.row(), flush=True)


def write(study: str, n_seeds: int, folder: Path) -> None:
    """Write the table of all finished cells and print what they say."""
    paths = [folder / f"{cell.name}.json" for cell in cells_of(study, n_seeds)]
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(RESULTS / f"finetune_{study.replace('-', '_')}.csv", out.getvalue())
    for kind in dict.fromkeys((row["task"], row["n_train"], row["n_tiles"]) for row in rows):
        own = [row for row in rows if (row["task"], row["n_train"], row["n_tiles"]) == kind]
        n, probe, returned = len(own), sum(r["probe"] for r in own), sum(r["returned"] for r in own)
        helped, hurt = sum(r["low"] > 0 for r in own), sum(r["high"] < 0 for r in own)
        worst = min(r["returned"] - r["probe"] for r in own)
        slowest = max(r["seconds"] for r in own)
        print(
            f"{kind}: {n} seeds, probe {probe / n:.3f}, returned {returned / n:.3f}, helped {helped}, hurt {hurt}, "
            f"worst {worst:+.3f}, slowest {slowest:.0f} s"
        )


def main() -> None:
    """Run a study, or write its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.finetune", description=__doc__)
    parser.add_argument("study", choices=["gain", "never-below"])
    parser.add_argument("command", choices=["run", "write"])
    parser.add_argument("--cells", type=Path, required=True, help="folder of finished cells")
    parser.add_argument("--seeds", type=int, default=N_SEEDS)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.command == "write":
        write(options.study, options.seeds, options.cells)
        return
    options.cells.mkdir(parents=True, exist_ok=True)
    for cell in cells_of(options.study, options.seeds):
        run_cell(cell, options.cells)


if __name__ == "__main__":
    main()
