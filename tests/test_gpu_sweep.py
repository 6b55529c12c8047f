"""The GPU benchmark of sweeps runs from end to end with torch on the CPU, and says what it could not measure."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks import gpu_sweep, sweep_exact
from benchmarks.gpu_sweep import ROUNDS, TINY, results, study

ROOT = Path(__file__).parents[1]
HEAVY = ("timm", "transformers", "polars", "pydantic", "peft", "sklearn", "histotune.studies.config")


def test_every_step_runs_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = study(replace(TINY, n_tiles=300, block_dim=8, n_large=500, large_dim=16), "torch:cpu")
    assert len(found.exact_s) == len(found.pcam_s) == ROUNDS
    assert len(found.pcam_norms) == TINY.n_penalties
    exact, pcam, gradient = results(found)
    assert exact.value is not None and exact.value > 0
    assert pcam.value is not None and pcam.value > 0
    assert gradient.met is True
    assert results(replace(found, exact_norm=1e-3))[2].met is False
    monkeypatch.setattr(gpu_sweep, "study", lambda *_: found)
    monkeypatch.setattr(sys, "argv", ["gpu_sweep", "--smoke", "--out", str(tmp_path / "out.json")])
    gpu_sweep.main()
    assert json.loads((tmp_path / "out.json").read_text())["pcam_passes"] == found.pcam_passes


@pytest.mark.slow
def test_it_imports_little() -> None:
    program = (
        "import sys; from benchmarks.gpu_sweep import *; from dataclasses import replace;"
        "study(replace(TINY, n_tiles=100, block_dim=8, n_large=100, large_dim=16), 'torch:cpu');"
        f"sys.exit(', '.join(name for name in {HEAVY} if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_nothing_is_claimed() -> None:
    assert {result.met for result in gpu_sweep.measure()} == {"not measured"}


def test_the_exact_benchmark_finds_a_wrong_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = sweep_exact.make_bench(200, 6, 20)
    solution = sweep_exact._ours(bench)
    assert sweep_exact._largest_gradient(bench, solution) <= 1e-5
    assert sweep_exact._largest_difference(bench, solution) <= 1e-3
    solution.weight_PKD[0, 0, 0] += 0.1
    assert sweep_exact._largest_gradient(bench, solution) > 1e-5
    assert sweep_exact._largest_difference(bench, solution) > 1e-3
