"""The script in every run folder computes its scores again, and says where they differ."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import CommandResult, write_breakhis
from tests.studies.test_transfer_classes import write_tissues

Histotune = Callable[..., CommandResult]
QUICK = ("--backbone", "colour-histogram", "--set", "sweep.folds=2", "--set", "sweep.penalties=[0.1,1]",
         "--set", "evaluation.outer_folds=3", "--set", "sweep.label_efficiency.draws=0",
         "--set", "interval.n_resamples=200")  # fmt: skip


def recompute(run: Path) -> subprocess.CompletedProcess[str]:
    """Run the script as a user does: alone, from another folder, with nothing of histotune on its path."""
    script = run / "recompute.py"
    assert "histotune" not in [line.split()[1] for line in script.read_text().splitlines() if "import " in line]
    return subprocess.run(
        [sys.executable, "-I", str(script)], capture_output=True, text=True, check=False, cwd=run.parent
    )


def run_of_two_classes(histotune: Histotune, folder: Path) -> Path:
    data = write_breakhis(folder / "breakhis")
    done = histotune(
        "run", "breakhis", "--data", data, "--train-magnification", "100X", "--out", folder / "run", *QUICK
    )
    assert done.code == 0, done.err
    return folder / "run"


def run_of_three_classes(histotune: Histotune, folder: Path) -> Path:
    done = histotune("run", "tiles", "--data", write_tissues(folder / "data", 2), "--out", folder / "run", *QUICK)
    assert done.code == 0, done.err
    return folder / "run"


@pytest.mark.parametrize("make", [run_of_two_classes, run_of_three_classes])
def test_scikit_learn_finds_the_same_scores(
    histotune: Histotune, tmp_path: Path, make: Callable[[Histotune, Path], Path]
) -> None:
    run = make(histotune, tmp_path)
    again = recompute(run)
    assert again.returncode == 0, again.stdout + again.stderr
    n_equal = int(again.stdout.split()[0])
    names = {score["name"] for finding in json.loads((run / "scores.json").read_text())["findings"]
             for row in finding["rows"] if row["arm"] == "probe" for score in row["scores"]}  # fmt: skip
    assert n_equal >= len(names - {"ece_debiased"})
    changed = json.loads((run / "scores.json").read_text())
    changed["findings"][0]["rows"][0]["scores"][0]["value"] += 1e-6
    (run / "scores.json").write_text(json.dumps(changed))
    told = recompute(run)
    assert told.returncode == 1
    assert "differs" in told.stdout and f"{n_equal - 1} scores are equal" in told.stdout
