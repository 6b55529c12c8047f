"""Adapters: merged deltas equal those computed by hand under any version's names; what is left over is refused."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from histotune.backbones.adapters import SIDECAR, adapter_hash, save_adapter
from histotune.backbones.catalog import find_backbone, find_entry, pinned_config, random_twin
from histotune.backbones.engine import load_backbone
from histotune.backbones.entries import BackboneConfig
from histotune.backbones.merge import FUSED, GATE, UP, LoraLayer, canonical, merge_adapter, place, split_key
from histotune.backbones.network import build_network
from histotune.backbones.spec import BackboneSpec
from histotune.backbones.weights import weights_hash
from histotune.tools.devices import ComputeDevice
from histotune.tools.errors import UserError

OLD = (  # as transformers named them up to 5.10: (layer, rows, columns)
    ("attention.attention.query", 32, 32), ("attention.attention.key", 32, 32), ("attention.attention.value", 32, 32),
    ("attention.output.dense", 32, 32), ("mlp.weights_in", 176, 32), ("mlp.weights_out", 32, 88),
)  # fmt: skip
SETTINGS = {
    "peft_type": "LORA", "r": 4, "lora_alpha": 6, "lora_dropout": 0.1, "bias": "none",
    "target_modules": ["query", "key", "value", "attention.output.dense", "mlp.weights_in", "mlp.weights_out"],
    "base_model_name_or_path": None, "init_lora_weights": True, "task_type": None,
}  # fmt: skip


def spec_of(folder: Path, **options: str) -> BackboneSpec:
    return find_backbone(BackboneConfig(name=str(folder), **options))


def old_tensors(prefix: str = "base_model.model.") -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for block in (0, 1):
        for layer, rows, columns in OLD:
            name = f"{prefix}encoder.layer.{block}.{layer}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(4, columns, generator=generator)
            tensors[f"{name}.lora_B.weight"] = torch.randn(rows, 4, generator=generator)
    return tensors


def write(folder: Path, tensors: dict[str, torch.Tensor], **changed: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({**SETTINGS, **changed}), encoding="utf-8")
    return folder


@pytest.fixture
def old_adapter(tmp_path: Path) -> Path:
    """Return an adapter of a tiny Midnight, as transformers up to 5.10 named its layers."""
    return write(tmp_path / "old", old_tensors())


def weights_by_canonical_name(spec: BackboneSpec) -> dict[str, torch.Tensor]:
    """Return linear weights by the name all versions share, SwiGLU halves joined as on disk."""
    module = build_network(spec).module
    weights = {canonical(name): part.weight.detach() for name, part in module.named_modules()
               if isinstance(part, torch.nn.Linear)}  # fmt: skip
    for name in [name for name in weights if name.endswith(GATE)]:
        stem = name.removesuffix(GATE)
        weights[stem + FUSED] = torch.cat([weights.pop(name), weights.pop(stem + UP)])
    return weights


def test_an_adapter_under_old_names_changes_the_weights_by_b_a_on_this_transformers(
    dinov2: Path, old_adapter: Path
) -> None:
    before = weights_by_canonical_name(spec_of(dinov2))
    after = weights_by_canonical_name(spec_of(dinov2, adapter=str(old_adapter)))
    tensors = old_tensors("")
    for block in (0, 1):
        for layer, _, _ in OLD:
            a_RI = tensors[f"encoder.layer.{block}.{layer}.lora_A.weight"]
            b_OR = tensors[f"encoder.layer.{block}.{layer}.lora_B.weight"]
            name = canonical(f"encoder.layer.{block}.{layer}")
            torch.testing.assert_close(after[name] - before[name], 6 / 4 * b_OR @ a_RI, rtol=1e-4, atol=1e-5)


def test_an_adapter_without_alpha_is_scaled_as_peft_scales_it(dinov2: Path, tmp_path: Path) -> None:
    from peft import LoraConfig

    stated = write(tmp_path / "stated", old_tensors(), lora_alpha=LoraConfig().lora_alpha)
    silent = write(tmp_path / "silent", old_tensors())
    settings = {name: value for name, value in SETTINGS.items() if name != "lora_alpha"}
    (silent / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    one, other = (weights_by_canonical_name(spec_of(dinov2, adapter=str(folder))) for folder in (stated, silent))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_adapter_that_this_peft_saved_embeds_as_peft_does(
    dinov2: Path, tmp_path: Path, cpu: ComputeDevice, pixels: np.ndarray
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import Dinov2Model

    torch.manual_seed(1)
    base = Dinov2Model.from_pretrained(dinov2).eval()
    linears = {name.split(".")[-1] for name, part in base.named_modules() if isinstance(part, torch.nn.Linear)}
    model = get_peft_model(base, LoraConfig(r=3, lora_alpha=5, target_modules=sorted(linears), use_rslora=True,
                                            init_lora_weights=False)).eval()  # fmt: skip
    spec = spec_of(dinov2)
    save_adapter(model, tmp_path / "a", spec)
    x_BCSS = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    with torch.inference_mode():
        tokens_BTD = model(pixel_values=(x_BCSS - mean) / std).last_hidden_state
    expected_BD = torch.cat([tokens_BTD[:, 0], tokens_BTD[:, 1:].mean(1)], dim=1).numpy()
    result_BD = load_backbone(spec_of(dinov2, adapter=str(tmp_path / "a")), cpu, "fp32").embed(pixels)
    np.testing.assert_allclose(result_BD, expected_BD, rtol=1e-4, atol=1e-4)
    assert not np.allclose(load_backbone(spec, cpu, "fp32").embed(pixels), expected_BD, atol=1e-2)


def test_an_adapter_of_a_timm_backbone(timm_folder: Path, tmp_path: Path, cpu: ComputeDevice) -> None:
    from peft import LoraConfig, get_peft_model

    network = build_network(spec_of(timm_folder))
    config = LoraConfig(r=2, target_modules=["qkv", "attn.proj", "mlp.fc1", "mlp.fc2"], init_lora_weights=False)
    tiles = np.random.default_rng(3).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    plain_BD = load_backbone(spec_of(timm_folder), cpu, "fp32").embed(tiles)
    model = get_peft_model(network.module, config).eval()
    save_adapter(model, tmp_path / "a", spec_of(timm_folder))
    spec = spec_of(timm_folder, adapter=str(tmp_path / "a"))
    x_BCSS = torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    with torch.inference_mode():
        tokens_BTD = model.base_model.model.forward_features((x_BCSS - mean) / std)
    expected_BD = torch.cat([tokens_BTD[:, 0], tokens_BTD[:, 3:].mean(1)], dim=1).numpy()
    result_BD = load_backbone(spec, cpu, "fp32").embed(tiles)
    np.testing.assert_allclose(result_BD, expected_BD, rtol=1e-4, atol=1e-4)
    assert not np.allclose(result_BD, plain_BD, atol=1e-2)


def test_patterns_of_rank_and_alpha_follow_their_layers(dinov2: Path, tmp_path: Path) -> None:
    tensors = old_tensors()
    name = "base_model.model.encoder.layer.1.mlp.weights_in"
    tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = torch.ones(2, 32), torch.ones(176, 2)
    patterns = {"rank_pattern": {"layer.1.mlp.weights_in": 2}, "alpha_pattern": {"layer.1.mlp.weights_in": 10}}
    folder = write(tmp_path / "a", tensors, **patterns)
    before, after = (weights_by_canonical_name(spec_of(dinov2, adapter=adapter)) for adapter in ("", str(folder)))
    change = after["1.mlp.weights_in"] - before["1.mlp.weights_in"]
    torch.testing.assert_close(change, torch.full((176, 32), 10 / 2 * 2.0), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(after["0.mlp.weights_in"] - before["0.mlp.weights_in"], torch.full((176, 32), 10.0))


def layer(module: str, rows: int, rank: int, scale: float, seed: int = 0) -> LoraLayer:
    generator = torch.Generator().manual_seed(seed)
    parts = {
        "lora_A.weight": torch.randn(rank, 8, generator=generator),
        "lora_B.weight": torch.randn(rows, rank, generator=generator),
    }
    return LoraLayer(module, parts, rank, scale)


def delta(one: LoraLayer) -> torch.Tensor:
    return one.scale * one.parts["lora_B.weight"] @ one.parts["lora_A.weight"]


@settings(max_examples=30)
@given(rank=st.integers(1, 5), scale=st.floats(0.1, 4), rows=st.integers(1, 6))
def test_splitting_the_fused_layer_and_joining_it_again_changes_no_delta(rank: int, scale: float, rows: int) -> None:
    fused = layer("encoder.layer.0.mlp.weights_in", 2 * rows, rank, scale)
    split, lost = place([fused], ["encoder.layer.0.mlp.gate_proj", "encoder.layer.0.mlp.up_proj"])
    assert lost == [] and [one.module.rsplit(".", 1)[1] for one in split] == ["gate_proj", "up_proj"]
    torch.testing.assert_close(torch.cat([delta(one) for one in split]), delta(fused))
    joined, lost = place(split, ["encoder.layer.0.mlp.weights_in"])
    assert lost == [] and len(joined) == 1
    torch.testing.assert_close(delta(joined[0]), delta(fused), rtol=1e-4, atol=1e-5)


def test_halves_trained_apart_join_exactly_and_one_alone_leaves_the_other_unchanged() -> None:
    gate = layer("layers.0.mlp.gate_proj", 3, 2, 0.5, seed=1)
    up = layer("layers.0.mlp.up_proj", 3, 4, 2.0, seed=2)
    fused = ["encoder.layer.0.mlp.weights_in"]
    joined, _ = place([gate, up], fused)
    torch.testing.assert_close(delta(joined[0]), torch.cat([delta(gate), delta(up)]), rtol=1e-4, atol=1e-5)
    alone, _ = place([up], fused)
    torch.testing.assert_close(delta(alone[0]), torch.cat([torch.zeros(3, 8), delta(up)]), rtol=1e-4, atol=1e-5)


def test_names_of_all_versions_meet() -> None:
    pairs = [
        ("encoder.layer.7.attention.attention.key", "layers.7.attention.k_proj"),
        ("vit.encoder.layer.7.attention.output.dense", "layers.7.attention.o_proj"),
        ("encoder.layer.7.intermediate.dense", "layers.7.mlp.fc1"),
        ("encoder.layer.7.output.dense", "layers.7.mlp.fc2"),
        ("vision_model.encoder.layers.7.self_attn.q_proj", "encoder.layers.7.self_attn.q_proj"),
        ("layer.7.mlp.up_proj", "model.layer.7.mlp.up_proj"),
    ]
    for old, new in pairs:
        assert canonical(old) == canonical(new), (old, canonical(old), canonical(new))
    assert len({canonical(old) for old, _ in pairs}) == len(pairs)
    assert split_key("base_model.model.classifier.weight") is None


def test_a_phikon_adapter_of_an_older_transformers(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
                       image_size=32, patch_size=16)  # fmt: skip
    ViTModel(config).save_pretrained(tmp_path / "vit")
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, rows, columns in (("attention.attention.query", 32, 32), ("intermediate.dense", 64, 32),
                                ("output.dense", 32, 64)):  # fmt: skip
        full = f"base_model.model.vit.encoder.layer.0.{name}"
        tensors[f"{full}.lora_A.weight"] = torch.randn(4, columns, generator=generator)
        tensors[f"{full}.lora_B.weight"] = torch.randn(rows, 4, generator=generator)
    folder = write(tmp_path / "a", tensors, target_modules=["query", "intermediate.dense", "output.dense"])
    before, after = (weights_by_canonical_name(spec_of(tmp_path / "vit", adapter=adapter))
                     for adapter in ("", str(folder)))  # fmt: skip
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"0.attention.q_proj", "0.mlp.fc1", "0.mlp.fc2"}


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("base_model.model.classifier.weight", "1 tensors or layers"),
        ("base_model.model.encoder.layer.9.mlp.weights_in.lora_A.weight", "have no place"),
        ("base_model.model.encoder.layer.0.attention.nothing.lora_B.weight", "have no place"),
        (
            "base_model.model.encoder.layer.0.mlp.weights_in.lora_magnitude_vector",
            "can't put this adapter|have no place",
        ),
    ],
)
def test_every_tensor_must_be_used(dinov2: Path, tmp_path: Path, extra: str, words: str) -> None:
    folder = write(tmp_path / "a", {**old_tensors(), extra: torch.zeros(4, 4)})
    with pytest.raises(UserError, match=words) as caught:
        build_network(spec_of(dinov2, adapter=str(folder)))
    assert "choose the backbone it was made for" in str(caught.value)


def test_a_missing_half_and_an_odd_shape_are_refused(dinov2: Path, tmp_path: Path) -> None:
    tensors = old_tensors()
    del tensors["base_model.model.encoder.layer.0.attention.attention.query.lora_B.weight"]
    with pytest.raises(UserError, match="lacks tensors"):
        build_network(spec_of(dinov2, adapter=str(write(tmp_path / "a", tensors))))
    tensors = old_tensors()
    name = "base_model.model.encoder.layer.0.attention.attention.query.lora_B.weight"
    tensors[name] = torch.zeros(31, 4)
    with pytest.raises(UserError, match="can't put this adapter"):
        build_network(spec_of(dinov2, adapter=str(write(tmp_path / "b", tensors))))
    tensors[name] = torch.full((32, 4), float("nan"))
    with pytest.raises(UserError, match="not finite"):
        build_network(spec_of(dinov2, adapter=str(write(tmp_path / "c", tensors))))


def test_adapters_that_change_the_base_at_their_start_are_refused(dinov2: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "a", old_tensors(), init_lora_weights="pissa")
    with pytest.raises(UserError, match="pissa, which changes the base weights"):
        build_network(spec_of(dinov2, adapter=str(folder)))


def test_settings_of_a_newer_peft_are_said_not_choked_on(
    dinov2: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write(tmp_path / "a", old_tensors(), from_the_future=True, left_at_nothing=None)
    build_network(spec_of(dinov2, adapter=str(folder)))
    assert "from_the_future" in caplog.text and "left_at_nothing" not in caplog.text


def test_no_warning_of_the_libraries_becomes_an_error(dinov2: Path, old_adapter: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        build_network(spec_of(dinov2, adapter=str(old_adapter)))


def test_an_adapter_that_cannot_be_merged_is_applied_beside_the_weights(
    dinov2: Path, old_adapter: Path, cpu: ComputeDevice, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    from peft.tuners.lora.layer import Linear

    spec = spec_of(dinov2, adapter=str(old_adapter))
    merged_BD = load_backbone(spec, cpu, "fp32").embed(pixels)

    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError("no merging here")

    monkeypatch.setattr(Linear, "merge", refuse)
    backbone = load_backbone(spec, cpu, "fp32")
    assert "can't be merged (no merging here)" in caplog.text
    assert any("lora_A" in name for name, _ in backbone.module.named_modules())  # type: ignore[union-attr]
    np.testing.assert_allclose(backbone.embed(pixels), merged_BD, rtol=1e-3, atol=1e-4)


def test_other_kinds_of_adapters_are_used_under_their_own_names(dinov2: Path, tmp_path: Path) -> None:
    from peft import IA3Config, get_peft_model

    network = build_network(spec_of(dinov2)).module
    target = next(name.split(".")[-1] for name, part in network.named_modules() if isinstance(part, torch.nn.Linear))
    model = get_peft_model(network, IA3Config(target_modules=[target], feedforward_modules=[]))
    for name, tensor in model.named_parameters():
        if "ia3" in name:
            torch.nn.init.constant_(tensor, 2.0)
    save_adapter(model, tmp_path / "a", spec_of(dinov2))
    before, after = (weights_by_canonical_name(spec_of(dinov2, adapter=adapter))
                     for adapter in ("", str(tmp_path / "a")))  # fmt: skip
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed and all(torch.allclose(after[name], 2 * before[name]) for name in changed)


def test_prompts_are_no_adapters_of_images(dinov2: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "a", {"prompt_embeddings": torch.zeros(2, 4)}, peft_type="PROMPT_TUNING")
    config = {"peft_type": "PROMPT_TUNING", "task_type": "FEATURE_EXTRACTION", "num_virtual_tokens": 2}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match="do not fit an image backbone"):
        build_network(spec_of(dinov2, adapter=str(folder)))


def test_the_hash_counts_what_an_adapter_computes_and_nothing_else(
    dinov2: Path, old_adapter: Path, tmp_path: Path
) -> None:
    def hash_of(folder: Path) -> str:
        return adapter_hash(spec_of(dinov2, adapter=str(folder)))

    copy = shutil.copytree(old_adapter, tmp_path / "copy")
    assert adapter_hash(spec_of(dinov2)) == ""
    assert len(hash_of(copy)) == 64
    assert hash_of(copy) == hash_of(old_adapter)
    order = list(reversed(SETTINGS["target_modules"]))  # type: ignore[call-overload]
    described = write(tmp_path / "b", old_tensors(), target_modules=order, peft_version="9", revision=None)
    assert hash_of(described) == hash_of(old_adapter)
    assert hash_of(write(tmp_path / "c", old_tensors(), lora_alpha=7)) != hash_of(old_adapter)
    tensors = {name: tensor * 2 for name, tensor in old_tensors().items()}
    assert hash_of(write(tmp_path / "d", tensors)) != hash_of(old_adapter)
    assert weights_hash(spec_of(dinov2, adapter=str(copy))) == weights_hash(spec_of(dinov2))


def test_an_adapter_is_part_of_the_space(dinov2: Path, old_adapter: Path, cpu: ComputeDevice) -> None:
    from histotune.embeddings.space import embedding_space
    from histotune.images.config import ViewConfig

    plain, adapted = (
        embedding_space(spec_of(dinov2, adapter=adapter), ViewConfig(size_px=56), cpu, "fp32")
        for adapter in ("", str(old_adapter))
    )
    assert plain.weights_hash == adapted.weights_hash
    assert (plain.adapter_hash, len(adapted.adapter_hash)) == ("", 64)
    assert plain.key != adapted.key


def test_what_we_write_declares_its_naming_and_its_base(dinov2: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    spec = spec_of(dinov2)
    names = [name for name, part in build_network(spec).module.named_modules() if isinstance(part, torch.nn.Linear)]
    model = get_peft_model(build_network(spec).module, LoraConfig(r=2, target_modules=names[:1]))
    save_adapter(model, tmp_path / "a", spec)
    sidecar = json.loads((tmp_path / "a" / SIDECAR).read_text(encoding="utf-8"))
    assert sidecar["base"]["weights_hash"] == weights_hash(spec)
    assert sidecar["naming"]["library"] == "transformers"
    assert sidecar["naming"]["layers"] == [names[0].replace(".0.", ".N.")]
    assert str(tmp_path) not in (tmp_path / "a" / "adapter_config.json").read_text(encoding="utf-8").replace(
        str(dinov2), "")  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", SIDECAR,
    ]  # fmt: skip
    (tmp_path / "a" / SIDECAR).write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="not readable JSON"):
        adapter_hash(spec_of(dinov2, adapter=str(tmp_path / "a")))


def test_an_adapter_of_ours_on_other_weights_is_refused(dinov2: Path, registers: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    spec = spec_of(dinov2)
    name = next(n for n, part in build_network(spec).module.named_modules() if isinstance(part, torch.nn.Linear))
    save_adapter(get_peft_model(build_network(spec).module, LoraConfig(r=2, target_modules=[name])),
                 tmp_path / "a", spec)  # fmt: skip
    with pytest.raises(UserError, match="trained on other weights"):
        adapter_hash(spec_of(registers, adapter=str(tmp_path / "a")))
    assert adapter_hash(spec_of(dinov2, adapter=str(tmp_path / "a")))


def test_an_adapter_that_names_another_base_is_refused_by_name(dinov2: Path, tmp_path: Path) -> None:
    spec = replace(spec_of(dinov2), source="kaiko-ai/midnight", adapter=str(tmp_path / "a"))
    write(tmp_path / "a", old_tensors(), base_model_name_or_path="owkin/phikon-v2")
    with pytest.raises(UserError, match=r"made for owkin/phikon-v2, not for kaiko-ai/midnight"):
        merge_adapter(torch.nn.Linear(1, 1), spec)


def test_an_unknown_base_or_another_revision_is_warned_of(
    dinov2: Path, old_adapter: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build_network(spec_of(dinov2, adapter=str(old_adapter)))
    assert "can't be told" in caplog.text
    spec = replace(spec_of(dinov2), source="kaiko-ai/midnight", revision="1" * 40, adapter=str(tmp_path / "a"))
    write(tmp_path / "a", old_tensors(), base_model_name_or_path="kaiko-ai/midnight", revision="2" * 40)
    with pytest.raises(UserError):
        merge_adapter(torch.nn.Linear(1, 1), spec)
    assert f"made for revision {'2' * 40}" in caplog.text


def test_pickled_and_missing_adapters(dinov2: Path, tmp_path: Path, old_adapter: Path) -> None:
    torch.save(old_tensors(), old_adapter / "adapter_model.bin")
    (old_adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"pickled adapter_model\.bin, which is never loaded"):
        build_network(spec_of(dinov2, adapter=str(old_adapter)))
    with pytest.raises(UserError, match="does not exist"):
        spec_of(dinov2, adapter="/no/such/folder")
    with pytest.raises(UserError, match=r"no adapter_config\.json"):
        build_network(spec_of(dinov2, adapter=str(tmp_path)))
    (old_adapter / "adapter_config.json").write_text("{", encoding="utf-8")
    (old_adapter / "adapter_model.bin").rename(old_adapter / "adapter_model.safetensors")
    with pytest.raises(UserError, match="not readable JSON"):
        build_network(spec_of(dinov2, adapter=str(old_adapter)))
    (old_adapter / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="names no peft_type"):
        build_network(spec_of(dinov2, adapter=str(old_adapter)))
    write(old_adapter, {})
    (old_adapter / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="can't be read"):
        build_network(spec_of(dinov2, adapter=str(old_adapter)))


def test_a_folder_of_seeds_says_which_there_are(dinov2: Path, tmp_path: Path) -> None:
    for seed in ("seed0", "seed1"):
        write(tmp_path / "all" / seed, old_tensors())
    with pytest.raises(UserError, match="seed0, seed1"):
        build_network(spec_of(dinov2, adapter=str(tmp_path / "all")))


def test_backbones_without_weights_take_no_adapter(old_adapter: Path) -> None:
    with pytest.raises(UserError, match="takes no adapter"):
        find_backbone(BackboneConfig(name="colour-histogram", adapter=str(old_adapter)))
    twin = find_backbone(BackboneConfig(name="random/lite0", adapter=str(old_adapter)))
    assert twin.adapter == ""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty hub cache in offline mode."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_public_adapter_of_midnight_from_the_hub_cache(
    hub: Path, dinov2: Path, cpu: ComputeDevice, pixels: np.ndarray
) -> None:
    commit = "a" * 40
    base = hub / "models--kaiko-ai--midnight"
    entry = find_entry("midnight-spectra")
    assert entry is not None and entry.spec.adapter == "medarc/spectra-midnight-12k-lora/seed0"
    shutil.copytree(dinov2, base / "snapshots" / entry.spec.revision)
    place = hub / "models--medarc--spectra-midnight-12k-lora"
    write(place / "snapshots" / commit / "seed0", old_tensors(), base_model_name_or_path="kaiko-ai/midnight",
          revision=entry.spec.revision)  # fmt: skip
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit, encoding="utf-8")
    spec = find_backbone(BackboneConfig(name="midnight-spectra"))
    assert spec.adapter_revision == commit
    pinned = pinned_config(BackboneConfig(name="midnight-spectra"), spec)
    assert (pinned.revision, pinned.adapter_revision) == (entry.spec.revision, commit)
    assert find_backbone(pinned) == spec
    small = replace(spec, size_px=56)
    adapted_BD = load_backbone(small, cpu, "fp32").embed(pixels)
    plain = find_backbone(BackboneConfig(name="midnight-spectra", adapter="none"))
    assert (plain.adapter, random_twin(spec).adapter) == ("", "")
    assert not np.allclose(load_backbone(replace(plain, size_px=56), cpu, "fp32").embed(pixels), adapted_BD)
    with pytest.raises(UserError, match="seed7"):
        find_backbone(BackboneConfig(name="midnight", adapter="medarc/spectra-midnight-12k-lora/seed7"))


def test_a_repository_without_an_adapter_says_where_to_look(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import EntryNotFoundError

    def absent(*_: object, **__: object) -> None:
        raise EntryNotFoundError("404")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", absent)
    with pytest.raises(UserError, match="--adapter org/name/FOLDER"):
        find_backbone(BackboneConfig(name="midnight", adapter="org/name"))


def test_saved_tensors_are_those_of_the_model(dinov2: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    network: Any = build_network(spec_of(dinov2)).module
    name = next(n for n, part in network.named_modules() if isinstance(part, torch.nn.Linear))
    model = get_peft_model(network, LoraConfig(r=2, target_modules=[name], init_lora_weights=False))
    save_adapter(model, tmp_path / "a", spec_of(dinov2))
    saved = load_file(tmp_path / "a" / "adapter_model.safetensors")
    expected = get_peft_model_state_dict(model)
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[key], expected[key]) for key in saved)
