"""The whole job with a transformers model from a local folder, offline."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import CommandResult


@pytest.fixture
def tiny_dinov2(tmp_path: Path) -> Path:
    """Save a Dinov2 of Midnight's shape, only small: SwiGLU, 14 px patches."""
    import torch
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14,
                          use_swiglu_ffn=True)  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Dinov2Model(config).save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_run_with_a_saved_dinov2(
    histotune: Callable[..., CommandResult], breakhis: Path, tiny_dinov2: Path, tmp_path: Path
) -> None:
    result = histotune("run", "breakhis", "--data", breakhis, "--train-magnification", "100X", "--out",
                       tmp_path / "run",
                       "--backbone", tiny_dinov2, "--set", "view.size_px=56", "--set", "sweep.folds=3",
                       "--set", 'sweep.poolings=[["cls"],["cls","patch_mean"]]', "--set", "evaluation.outer_folds=3",
                       "--set", 'evaluation.floors=["majority","random-weights"]')  # fmt: skip
    assert result.code == 0, result.err
    scores = json.loads((tmp_path / "run/scores.json").read_text())
    arms = {row["arm"] for row in scores["findings"][0]["rows"]}
    drawn = "random-weight backbone + probe"
    assert arms == {"probe", "majority class", drawn, f"{drawn}, three draws of the weights"}
    assert scores["choices"][0]["n_fits"] == 2 * 16 * 3 + 1
    head = json.loads((tmp_path / "run/head/head.json").read_text())
    assert len(head["columns"]) == 24 * len(head["pooling"])


def test_an_unknown_pooling_names_the_blocks(
    histotune: Callable[..., CommandResult], breakhis: Path, tiny_dinov2: Path, tmp_path: Path
) -> None:
    result = histotune("sweep", "breakhis", "--data", breakhis, "--train-magnification", "100X", "--out",
                       tmp_path / "head", "--backbone", tiny_dinov2, "--set", "view.size_px=56",
                       "--set", 'sweep.poolings=[["cls","patch_men"]]')  # fmt: skip
    assert result.code == 2
    assert "did you mean: patch_mean" in result.err
