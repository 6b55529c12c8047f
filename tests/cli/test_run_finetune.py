"""Fine-tuning as a user types it: probe and tuned model side by side, and a head that every other command takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch
from transformers import ViTConfig, ViTModel

from tests.cli.test_run import assert_clear
from tests.conftest import CommandResult, write_pcam

Histotune = Callable[..., CommandResult]
QUICK = ("--set", "sweep.penalties=[0.01,1]", "--set", "sweep.folds=2", "--set", "evaluation.outer_folds=3",
         "--set", "interval.n_resamples=200", "--set", "finetune.loop.epochs=2", "--set", "finetune.inner_folds=2",
         "--set", "finetune.views=2", "--train-magnification", "100X")  # fmt: skip
METHODS = ("lora", "dora", "last-blocks", "full", "norm")


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    """Return a tiny vision transformer as ``save_pretrained`` writes it."""
    torch.manual_seed(0)
    config = ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32)
    folder = tmp_path / "vit"
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({
        "do_resize": True, "size": {"height": 32, "width": 32}, "do_normalize": True, "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3, "resample": 3, "image_processor_type": "ViTImageProcessor",
    }))  # fmt: skip
    return folder


def tune(histotune: Histotune, data: Path, backbone: Path, out: Path, *more: object) -> CommandResult:
    return histotune("finetune", "breakhis", "--data", data, "--backbone", backbone, "--out", out, *QUICK, *more)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_writes_probe_and_tuned_model_side_by_side(
    histotune: Histotune, breakhis: Path, backbone: Path, tmp_path: Path, method: str
) -> None:
    out = tmp_path / "run"
    done = tune(histotune, breakhis, backbone, out, "--method", method, "--set", "finetune.keep_tuned=true")
    assert done.code == 0, done.err
    scores = json.loads((out / "scores.json").read_text())
    assert scores["tuned"]["method"] == method
    assert scores["tuned"]["verdict"] == "tuned"
    rows = scores["findings"][0]["rows"]
    varied = ["probe on varied tiles"] if method == "last-blocks" else []  # where the frozen output is kept
    assert [row["arm"] for row in rows][: 2 + len(varied)] == ["probe", "fine-tuned", *varied]
    assert len(rows) == 3 + len(varied)
    paired = {one["against"] for one in scores["findings"][0]["paired"]}
    assert "fine-tuned" in paired
    table = pl.read_parquet(out / "predictions.parquet")
    probe, tuned = (table.filter(pl.col("arm") == arm).sort("tile_id") for arm in ("probe", "fine-tuned"))
    assert probe["tile_id"].to_list() == tuned["tile_id"].to_list()
    assert probe["fold"].to_list() == tuned["fold"].to_list()
    assert probe["probability"].to_list() != tuned["probability"].to_list()
    files = {path.name for path in (out / "head-tuned" / "adapter").iterdir()}
    assert ("adapter_model.safetensors" if method in ("lora", "dora") else "tuned_weights.safetensors") in files
    assert "fine-tuned" in (out / "report.html").read_text()
    assert "fine-tuned or probe" in done.out
    assert (out / "plots" / "augmented-tiles.png").stat().st_size > 0
    assert json.loads((out / "provenance.json").read_text())["fine-tuning"]["outer folds"] == 3


def test_the_tuned_head_goes_wherever_a_head_goes(
    histotune: Histotune, breakhis: Path, pcam: Path, backbone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    done = tune(histotune, breakhis, backbone, out, "--set", "finetune.keep_tuned=true", "--pcam", pcam)
    assert done.code == 0, done.err
    external = next(one for one in json.loads((out / "scores.json").read_text())["findings"] if one["id"] == "external")
    assert [row["arm"] for row in external["rows"]][:2] == ["probe", "fine-tuned"]
    moved = tmp_path / "elsewhere" / "head"
    moved.parent.mkdir()
    (out / "head-tuned").rename(moved)
    evaluated = histotune("evaluate", moved, "pcam", "--data", pcam)
    assert evaluated.code == 0, evaluated.err
    probe, tuned = (row for row in external["rows"] if row["arm"] in ("probe", "fine-tuned"))
    said = next(score["value"] for score in tuned["scores"] if score["name"] == "auroc")
    assert f"{said:.3f}" in evaluated.out
    assert probe["domain"] == tuned["domain"]
    table = tmp_path / "said.csv"
    predicted = histotune("predict", moved, breakhis / "BreaKHis_v1", "--out", table)
    assert predicted.code == 0, predicted.err
    assert pl.read_csv(table).height > 0


def test_a_changed_adapter_is_refused(histotune: Histotune, breakhis: Path, backbone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert tune(histotune, breakhis, backbone, out, "--set", "finetune.keep_tuned=true").code == 0
    weights = out / "head-tuned" / "adapter" / "tuned_weights.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(bytes(raw))
    assert_clear(histotune("evaluate", out / "head-tuned", "breakhis", "--data", breakhis), "tuned_weights")


def test_where_the_probe_is_kept_there_is_no_tuned_head(
    histotune: Histotune, breakhis: Path, backbone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    done = tune(histotune, breakhis, backbone, out, "--set", "finetune.standard_errors=1000")
    assert done.code == 0, done.err
    scores = json.loads((out / "scores.json").read_text())
    assert scores["tuned"]["verdict"] == "kept"
    assert scores["tuned"]["n_folds_tuned"] == 0
    assert not (out / "head-tuned").exists()
    table = pl.read_parquet(out / "predictions.parquet")
    probe, tuned = (table.filter(pl.col("arm") == arm).sort("tile_id") for arm in ("probe", "fine-tuned"))
    assert probe["probability"].to_list() == tuned["probability"].to_list()
    assert "Fine-tuning changed nothing" in scores["answer"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--method", "lor"), ("lor", "lora")),
        (("--method", "lora", "--set", 'finetune.method.targets=["w"]'), ("w", "q")),
        (("--set", "finetune.method.n_blocks=9"), ("9", "1 to 2")),
        (("--set", "finetune.views=0", "--set", "finetune.prefix.storage=fp32"), ("views=0", "prefix")),
        (("--view", "tiles"), ("one input per tile",)),
    ],
)
def test_a_mistake_is_one_message_and_nothing_is_written(
    histotune: Histotune, breakhis: Path, backbone: Path, tmp_path: Path, more: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert_clear(tune(histotune, breakhis, backbone, tmp_path / "run", *more), *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--set", "finetune.method.n_blocks=9"), ("1 to 2",)),
        (("--set", "finetune.search.space.n_blocks=[1,9]"), ("1 to 2",)),
        (("--method", "full", "--fit", "300kB"), ("not even one tile", "300kB", "--method last-blocks")),
        (("--fit", "3kB"), ("not even one tile", "3kB", "choose a smaller --backbone")),
        (("--set", "finetune.search.space.n_blocks=[1,2]", "--fit", "3kB"), ("the most that the search may draw: 2",)),
        (("--view", "tiles"), ("one input per tile",)),
    ],
)
def test_what_can_not_be_trained_is_told_before_anything_is_embedded(
    histotune: Histotune, breakhis: Path, backbone: Path, tmp_path: Path, more: tuple[str, ...], words: tuple[str, ...]
) -> None:
    cache = tmp_path / "cache"
    assert_clear(tune(histotune, breakhis, backbone, tmp_path / "run", "--cache", cache, *more), *words)
    assert not (tmp_path / "run").exists()
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_an_adapter_on_an_adapter_is_refused(
    histotune: Histotune, breakhis: Path, backbone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert tune(histotune, breakhis, backbone, out, "--set", "finetune.keep_tuned=true").code == 0
    adapter = out / "head-tuned" / "adapter"
    again = tune(histotune, breakhis, backbone, tmp_path / "b", "--set", f"backbone.adapter={adapter}")
    assert_clear(again, "adapter on an adapter", "merge")


def test_the_convolutional_demo_backbone_refuses_lora(histotune: Histotune, breakhis: Path, tmp_path: Path) -> None:
    done = histotune("finetune", "breakhis", "--data", breakhis, "--method", "lora", "--out", tmp_path / "r", *QUICK)
    assert_clear(done, "last-blocks", "norm", "full")


def test_one_outer_training_holds_groups_out_once(
    histotune: Histotune, breakhis: Path, backbone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    done = tune(histotune, breakhis, backbone, out, "--outer", "1", "--final")
    assert done.code == 0, done.err
    assert json.loads((out / "scores.json").read_text())["tuned"]["n_folds"] == 1


# ---- A share of the slides of PatchCamelyon ----


def shared(histotune: Histotune, data: Path, backbone: Path, out: Path, *more: object) -> CommandResult:
    return histotune("run", "finetune-pcam", "--data", data, "--backbone", backbone, "--out", out, *QUICK[:-2], *more)


def test_pcam_learns_from_a_share_of_the_slides_of_its_training_part(
    histotune: Histotune, backbone: Path, tmp_path: Path
) -> None:
    data, out = write_pcam(tmp_path / "pcam", 80, 40), tmp_path / "run"
    done = shared(histotune, data, backbone, out, "--fraction", "0.25")
    assert done.code == 0, done.err
    assert "Subset groups0.25-seed0: kept 180 of 240 tiles, 90 of 120 groups" in done.err
    assert json.loads((out / "config.json").read_text())["target"]["subset"]["group_fraction"] == 0.25
    learned = json.loads((out / "head-direct" / "head.json").read_text())
    assert (learned["n_groups"], learned["n_tiles"]) == (10, 20)
    assert all(group.startswith("train_") or "train" in group for group in learned["train_groups"])
    assert pl.read_parquet(out / "predictions.parquet")["group_id"].n_unique() == 40  # the scored part is whole
    again = histotune("run", "--from", out, "--data", data, "--out", tmp_path / "again")
    assert again.code == 0, again.err
    repeated = json.loads((tmp_path / "again" / "head-direct" / "head.json").read_text())
    assert repeated["train_groups"] == learned["train_groups"]


@pytest.mark.parametrize(("fraction", "kept"), [("0.1", "4 of 40"), ("0.5", "20 of 40"), ("1", "40 of 40")])
def test_an_estimate_says_which_share_it_is_of(
    histotune: Histotune, backbone: Path, tmp_path: Path, fraction: str, kept: str
) -> None:
    data = write_pcam(tmp_path / "pcam", 80, 40)
    n_train = int(kept.partition(" ")[0])
    done = histotune("finetune", "pcam", "--data", data, "--backbone", backbone, "--fraction", fraction, "--estimate",
                     "--set", "sweep.folds=2", "--set", "finetune.loop.epochs=1")  # fmt: skip
    assert done.code == 0, done.err
    words = " ".join(done.out.split())
    assert (
        f"Subset groups{fraction}-seed0: kept {160 + 2 * n_train} of 240 tiles, {80 + n_train} of 120 groups" in words
    )


@pytest.mark.parametrize("fraction", ["0", "2", "-1"])
def test_a_share_that_is_none_is_one_message(
    histotune: Histotune, backbone: Path, tmp_path: Path, fraction: str
) -> None:
    data = write_pcam(tmp_path / "pcam", 8, 4)
    done = shared(histotune, data, backbone, tmp_path / "run", "--fraction", fraction)
    assert_clear(done, "target.subset.group_fraction", fraction)
    assert not (tmp_path / "run").exists()
