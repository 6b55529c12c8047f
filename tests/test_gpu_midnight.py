"""The GPU benchmark runs from end to end on a tiny network on the CPU, and says what it could not measure."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks import gpu_midnight
from benchmarks.gpu_midnight import MIDNIGHT, ROUNDS, TINY, Plan, Shape, plan_for, results, study

from histotune.backbones import engine
from histotune.backbones.catalog import find_backbone
from histotune.backbones.entries import BackboneConfig
from histotune.backbones.model_files import without_memory

ROOT = Path(__file__).parents[1]
HEAVY = ("timm", "polars", "pydantic", "peft", "histotune.studies.config", "histotune.embeddings.embed")


def linear_flop(shape: Shape) -> float:
    """Count the products of the real network, without its attention, from its own weights."""
    from transformers import AutoModel

    from histotune.backbones.model_files import transformers_config

    with without_memory():
        model = AutoModel.from_config(transformers_config(find_backbone(BackboneConfig(name="midnight")), None))
    tokens = (shape.size_px // shape.patch_px) ** 2 + 1
    linears = sum(part.weight.numel() for part in model.modules() if isinstance(part, torch.nn.Linear))
    patches = model.embeddings.patch_embeddings.projection.weight.numel()
    return 2.0 * tokens * linears + 2.0 * (tokens - 1) * patches


def test_the_formula_counts_the_catalog_s_midnight() -> None:
    attention = 4.0 * 257**2 * 1536 * 40
    assert MIDNIGHT.flop_per_image == linear_flop(MIDNIGHT) + attention
    assert 65e12 / MIDNIGHT.flop_per_image == pytest.approx(108.6, abs=0.1)  # a T4's limit, images/s


@pytest.mark.slow
def test_every_step_runs_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.compiler.reset()
    monkeypatch.setattr(engine, "COMPILER", "eager")
    plan = Plan(TINY, "cpu", "bf16", 2, n_check=8, matmul_side=64)
    found = study(plan)
    assert set(found.seconds) == {"engine", "compiled engine", "plain"} and found.compile_failure == ""
    assert all(len(values) == ROUNDS == len(found.matmul_flop_s) for values in found.seconds.values())
    assert set(found.checks) == {"bf16, smooth", "bf16, noise", "fp16, smooth", "fp16, noise"}
    assert found.checks["fp16, smooth"].median_error < found.checks["bf16, smooth"].median_error < 0.1
    share, speedup, memory, precision = results(plan, found)
    assert share.value is not None and 0 < share.value < 1.5 and len(share.samples) == ROUNDS
    assert speedup.value is not None and min(speedup.samples) <= speedup.parts[-1].value <= speedup.value
    assert memory.met == "not measured" and precision.value is not None
    assert results(plan, replace(found, peak_gb=16.0))[2].met is False
    monkeypatch.setattr(gpu_midnight, "study", lambda plan: found)
    monkeypatch.setattr(sys, "argv", ["gpu_midnight", "--smoke", "--out", str(tmp_path / "out.json")])
    gpu_midnight.main()
    written = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert written["checks"]["fp16, smooth"]["passed"] is found.checks["fp16, smooth"].passed


def test_without_a_gpu_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = gpu_midnight.measure()
    assert len(found) == 4 and {result.met for result in found} == {"not measured"}
    assert {result.reason for result in found} == {"needs an NVIDIA GPU"}


def test_cards_are_measured_in_their_own_half_precision() -> None:
    t4, h100 = plan_for((7, 5), 14.6), plan_for((9, 0), 79.0)
    assert (t4.precision, t4.batch_size, h100.precision, h100.batch_size) == ("fp16", 64, "bf16", 256)


@pytest.mark.slow
def test_the_script_needs_torch_and_transformers_alone() -> None:
    code = (
        "import sys\nfrom benchmarks import gpu_midnight as g\n"
        "g._engine(g.Plan(g.TINY, 'cpu', 'bf16', 2), g._random_network(g.TINY), 'bf16')\n"
        "import histotune.embeddings.precision\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
