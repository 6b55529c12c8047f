"""Several processes run one command: rank 0 speaks and goes on, the others leave after embedding."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histotune.embeddings.upkeep import stores
from tests.conftest import CommandResult

Histotune = Callable[..., CommandResult]
QUICK = ("--set", "sweep.penalties=[0.01,1]", "--set", "sweep.folds=3", "--set", "evaluation.outer_folds=3",
         "--set", 'evaluation.floors=["majority"]', "--set", "interval.n_resamples=200", "--backbone",
         "colour-histogram", "--set", "embedding.shard_tiles=6", "--set", "embedding.wait_s=60")  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return class folders: 12 groups of 3 tiles, and their table."""
    rng, lines = np.random.default_rng(0), ["path,label,group"]
    for label, name in enumerate(("benign", "malignant")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(18):
            pixels = rng.normal(160 - 20 * label, 30, (24, 32, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
            lines.append(f"{name}/{number}.png,{name},{name}{number // 3}")
    (tmp_path / "data" / "tiles.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "data" / "tiles.csv"


def together(folder: Path, *arguments: object, size: int = 2) -> list[subprocess.CompletedProcess[str]]:
    """Run a command as several ranks, as torchrun does."""
    runs = []
    for rank in range(size):
        known = {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "XDG_STATE_HOME": str(folder)}
        command = [sys.executable, "-m", "histotune", *map(str, arguments)]
        runs.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                     env={**os.environ, **known}))  # fmt: skip
    answers = [run.communicate(timeout=120) for run in runs]
    return [subprocess.CompletedProcess([], run.returncode, *answer) for run, answer in zip(runs, answers, strict=True)]


@pytest.mark.slow
def test_a_run_of_two_processes_is_told_once(tmp_path: Path, data: Path) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    first, second = together(tmp_path, "run", "tiles", "--data", data, "--out", out, "--cache", cache, *QUICK)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "report: " in first.stdout and (out / "report.html").is_file()
    assert (second.stdout, second.stderr) == ("", "")
    (store,) = stores(cache)
    assert len(store.manifests()) == 6
    first, second = together(tmp_path, "embed", "tiles", "--data", data, "--cache", cache, *QUICK[-6:])
    assert "36 tiles, 0 computed, 36 from the cache" in first.stdout
    assert (second.returncode, second.stdout) == (0, "")


def test_commands_for_one_process_say_so(histotune: Histotune, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    result = histotune("predict", tmp_path, tmp_path)
    assert result.code == 2
    assert "rank 1: error: this command runs in one process" in result.err
    assert "embed, run, sweep, demo" in result.err


@pytest.mark.slow
def test_torchrun_starts_it(tmp_path: Path, data: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29611", "-m",
               "histotune", "embed", "tiles", "--data", data, "--cache", tmp_path / "cache", *QUICK[-6:]]  # fmt: skip
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("36 tiles, 36 computed, 0 from the cache") == 1
