"""``histotune backbones``: the table, everything about one, and checks, on the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from histotune.backbones.entries import catalog_entries

Histotune = Callable[..., "object"]


def test_the_table_has_a_row_per_backbone(histotune: Histotune) -> None:
    result = histotune("backbones")
    assert result.code == 0
    for entry in catalog_entries():
        assert re.search(rf"^│ *{re.escape(entry.name)} ", result.out, re.MULTILINE), entry.name
    assert "shape-verified" in result.out and "listed" in result.out
    uni = next(line for line in result.out.splitlines() if "│uni2-h" in line)
    assert all(part in uni for part in ("681 M", "1536", "gated", "CC-BY-NC-ND-4.0", "no", "? ? ?", "shape-verified"))
    midnight = next(line for line in result.out.splitlines() if "│midnight " in line)
    assert all(part in midnight for part in ("1.1 B", "0.25, 0.5, 1, 2", "MIT", "yes", "● - -"))


def test_everything_about_one_has_its_sources(histotune: Histotune) -> None:
    result = histotune("backbones", "show", "virchow2")
    assert result.code == 0
    for part in (
        "hub: paige-ai/Virchow2", "gated: accept the licence", "parameters: 632 M", "register tokens: 4",
        "cls 1280, patch_mean 1280", "recommended pooling: cls + patch_mean", "SwiGLUPacked", "arXiv 2408.00738",
        "commercial use: no", "embeddings and heads bound too: yes", "unpinned: the commit found at first load",
        "mean 0.485/0.456/0.406", "training mpp: 0.25, 0.5, 1, 2",
    ):  # fmt: skip
        assert part in result.out, part
    figures = [
        line for line in result.out.splitlines() if re.match(r"  (hub|parameters|input|normalisation|column)", line)
    ]
    assert all(re.search(r"\[\d+(, \d+)*\]$", line) for line in figures)


@pytest.mark.parametrize("entry", catalog_entries(), ids=lambda entry: entry.name)
def test_all_can_be_shown(entry: object, histotune: Histotune) -> None:
    from histotune.backbones.access import entry_text

    text = entry_text(entry)  # type: ignore[arg-type]
    assert "sources:" in text and "commercial use" in text


def test_show_says_why_one_is_only_listed(histotune: Histotune) -> None:
    result = histotune("backbones", "show", "MahmoodLab/CONCH")
    assert "why it is only listed" in result.out and "histotune cache import" in result.out
    result = histotune("backbones", "show", "cronch")
    assert (result.code, "did you mean: conch" in result.err) == (2, True)


def test_check_exits_with_1_where_something_is_in_the_way(
    histotune: Histotune, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    result = histotune("backbones", "check", "lite0", "midnight")
    assert result.code == 1
    assert "can be used" in result.out and "can't be used yet" in result.out
    assert histotune("backbones", "check", "lite0").code == 0
    assert histotune("backbones", "check").code == 2


def test_a_listed_backbone_is_one_clear_message_and_exit_code_2(histotune: Histotune, breakhis: Path) -> None:
    result = histotune("embed", "breakhis", "--data", breakhis, "--backbone", "conch")
    assert result.code == 2
    assert result.err.startswith("error: its attentional pooler is code of the package conch")
    assert "Traceback" not in result.err


def test_embed_takes_an_adapter_and_keys_it(
    histotune: Histotune, breakhis: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import ViTConfig, ViTModel

    from histotune.backbones.adapters import save_adapter
    from histotune.backbones.catalog import find_backbone
    from histotune.backbones.entries import BackboneConfig
    from histotune.backbones.network import build_network

    torch.manual_seed(0)
    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
                       image_size=28, patch_size=14)  # fmt: skip
    ViTModel(config).save_pretrained(tmp_path / "vit")
    processor = '{"size": 28, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}'
    (tmp_path / "vit" / "preprocessor_config.json").write_text(processor, encoding="utf-8")
    spec = find_backbone(BackboneConfig(name=str(tmp_path / "vit")))
    module = build_network(spec).module
    layers = [name for name, part in module.named_modules() if isinstance(part, torch.nn.Linear)]
    save_adapter(get_peft_model(module, LoraConfig(r=2, target_modules=layers[:2], init_lora_weights=False)),
                 tmp_path / "adapter", spec)  # fmt: skip
    arguments = ("embed", "breakhis", "--data", breakhis, "--backbone", tmp_path / "vit", "--cache", tmp_path / "cache")
    plain, adapted = histotune(*arguments), histotune(*arguments, "--adapter", tmp_path / "adapter")
    spaces = [re.search(r"space (\w+)", result.out)[1] for result in (plain, adapted)]  # type: ignore[index]
    assert (plain.code, adapted.code) == (0, 0)
    assert spaces[0] != spaces[1]
    assert "no forward pass was needed" in histotune(*arguments, "--adapter", tmp_path / "adapter").out


def test_a_hub_backbone_works_offline_and_its_commit_stays_with_the_head(
    histotune: Histotune, breakhis: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the hub cache alone, as with HF_HUB_OFFLINE=1; the branch moves on afterwards, the head does not."""
    import shutil

    from huggingface_hub import constants
    from transformers import ViTConfig, ViTModel

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    place = tmp_path / "hub" / "models--org--tiny"
    snapshot = place / "snapshots" / ("a" * 40)
    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
                       image_size=28, patch_size=14)  # fmt: skip
    ViTModel(config).save_pretrained(snapshot)
    processor = '{"size": 28, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}'
    (snapshot / "preprocessor_config.json").write_text(processor, encoding="utf-8")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("a" * 40, encoding="utf-8")
    head, cache = tmp_path / "head", ("--cache", tmp_path / "cache")
    swept = histotune("sweep", "breakhis", "--data", breakhis, "--backbone", "org/tiny", "--out", head, *cache)
    assert swept.code == 0, swept.err
    assert json.loads((head / "bundle.json").read_text(encoding="utf-8"))["backbone"]["revision"] == "a" * 40
    shutil.copytree(snapshot, place / "snapshots" / ("b" * 40))
    (place / "snapshots" / ("b" * 40) / "model.safetensors").write_bytes(b"other weights")
    (place / "refs" / "main").write_text("b" * 40, encoding="utf-8")
    predicted = histotune("predict", head, next(breakhis.rglob("*.png")), *cache)
    assert predicted.code == 0, predicted.err


def rows_of(cache: Path, space: str) -> np.ndarray:
    """Return the rows that are kept of an embedding space."""
    shards = sorted(cache.glob(f"embeddings/*{space}*/shards/*.npy"))
    return np.concatenate([np.load(shard) for shard in shards])


def test_merge_writes_a_folder_that_embeds_as_backbone_and_adapter(
    histotune: Histotune, breakhis: Path, tmp_path: Path
) -> None:
    import torch

    from histotune.backbones.catalog import find_backbone
    from histotune.backbones.entries import BackboneConfig
    from histotune.backbones.tuned_weights import save_tuned

    spec = find_backbone(BackboneConfig(name="lite0"))
    save_tuned({"bn2.bias": torch.linspace(0, 1, 1280)}, tmp_path / "tuned", spec, "norms")
    adapted = ("--backbone", "lite0", "--adapter", tmp_path / "tuned")
    merged = histotune("backbones", "merge", *adapted, "--out", tmp_path / "merged")
    assert merged.code == 0, merged.err
    assert "NOTICE.txt" in merged.out and f"--backbone {tmp_path / 'merged'}" in merged.out
    assert not merged.err
    arguments = ("embed", "breakhis", "--data", breakhis, "--cache", tmp_path / "cache")
    results = [histotune(*arguments, *which) for which in ((), adapted, ("--backbone", tmp_path / "merged"))]
    assert [result.code for result in results] == [0, 0, 0], results[-1].err
    spaces = [re.search(r"space (\w+)", result.out)[1] for result in results]  # type: ignore[index]
    assert len(set(spaces)) == 3
    assert "no forward pass was needed" in histotune(*arguments, *adapted).out
    plain_ND, adapted_ND, merged_ND = (rows_of(tmp_path / "cache", space) for space in spaces)
    np.testing.assert_allclose(merged_ND, adapted_ND, rtol=1e-5, atol=1e-5)
    assert not np.allclose(plain_ND, adapted_ND, atol=1e-2)


def test_merge_asks_for_what_it_needs_and_for_the_licence(histotune: Histotune, tmp_path: Path) -> None:
    import torch

    from histotune.backbones.catalog import find_backbone
    from histotune.backbones.entries import BackboneConfig
    from histotune.backbones.tuned_weights import save_tuned

    for words in ((), ("--backbone", "lite0"), ("--out", tmp_path / "m")):
        result = histotune("backbones", "merge", *words)
        assert (result.code, "backbones merge needs" in result.err) == (2, True)
    plain = histotune("backbones", "merge", "--backbone", "lite0", "--out", tmp_path / "m")
    assert (plain.code, "no adapter to merge" in plain.err) == (2, True)
    spec = find_backbone(BackboneConfig(name="lite0"))
    save_tuned({"bn2.bias": torch.ones(1280)}, tmp_path / "tuned", spec, "norms")
    first = ("backbones", "merge", "--backbone", "lite0", "--adapter", tmp_path / "tuned", "--out", tmp_path / "open")
    assert histotune(*first).code == 0
    config = json.loads((tmp_path / "open" / "config.json").read_text(encoding="utf-8"))
    config["pretrained_cfg"]["license"] = "cc-by-nc-nd-4.0"
    (tmp_path / "open" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    spec = find_backbone(BackboneConfig(name=str(tmp_path / "open")))
    save_tuned({"bn2.bias": torch.ones(1280)}, tmp_path / "second", spec, "norms")
    again = ("backbones", "merge", "--backbone", tmp_path / "open", "--adapter", tmp_path / "second", "--out",
             tmp_path / "closed")  # fmt: skip
    refused = histotune(*again)
    assert refused.code == 2 and "cc-by-nc-nd-4.0" in refused.err and "--for-own-use" in refused.err
    assert not (tmp_path / "closed").exists()
    assert histotune(*again, "--for-own-use").code == 0
    assert "FOR OWN USE ONLY" in (tmp_path / "closed" / "NOTICE.txt").read_text(encoding="utf-8")
