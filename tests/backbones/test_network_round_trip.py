"""Each catalog entry's format, tiny: from a hub cache without a network, embeddings equal the library's own forward."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from histotune.backbones.catalog import find_backbone, random_twin
from histotune.backbones.engine import load_backbone
from histotune.backbones.entries import BackboneConfig, CatalogEntry, catalog_entries
from histotune.backbones.model_files import timm_arguments
from histotune.backbones.spec import BackboneSpec
from histotune.backbones.weights import weights_hash
from histotune.tools.devices import ComputeDevice
from histotune.tools.errors import UserError
from tests.backbones.test_entries import available

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TINY_TIMM = {"embed_dim": 48, "depth": 2, "num_heads": 2}
TINY_TRANSFORMERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TOKENS = [e for e in catalog_entries() if e.spec.kind == "timm" and e.name != "resnet50" and available(e)]
TRANSFORMERS = [e for e in catalog_entries() if e.spec.kind == "transformers" and not e.spec.adapter]


def tiny(spec: BackboneSpec) -> BackboneSpec:
    """Return an entry's spec, narrow and shallow; heads and MLP keep their proportions."""
    arguments = dict(spec.model_args) | (TINY_TIMM if spec.kind == "timm" else TINY_TRANSFORMERS)
    if spec.kind == "timm" and "img_size" in arguments:
        arguments["img_size"] = 4 * patch_px(spec)
    if "intermediate_size" in arguments:
        arguments["intermediate_size"] = 64
    if spec.kind == "transformers":
        arguments["image_size"] = 4 * int(arguments["patch_size"])
    return replace(spec, model_args=tuple(arguments.items()), size_px=4 * patch_px(spec))


def patch_px(spec: BackboneSpec) -> int:
    given = dict(spec.model_args).get("patch_size")
    return int(given) if given else int(re.findall(r"patch(\d+)", spec.source)[0])


def put_in_hub_cache(hub: Path, repository: str, revision: str) -> Path:
    """Return the snapshot folder of a repository in a hub cache."""
    place = hub / f"models--{repository.replace('/', '--')}"
    snapshot = place / "snapshots" / (revision or COMMIT)
    snapshot.mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(revision or COMMIT, encoding="utf-8")
    return snapshot


def original_dinov2(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a timm DINOv2's tensors under the names of the original code."""
    tensors = dict(model.state_dict())
    if "reg_token" in tensors:
        tensors["register_tokens"] = tensors.pop("reg_token")
        zero = torch.zeros(1, 1, tensors["pos_embed"].shape[2])
        tensors["pos_embed"] = torch.cat([zero, tensors["pos_embed"]], dim=1)  # the class token has a place there
    tensors["mask_token"] = torch.zeros(1, tensors["cls_token"].shape[2])
    swiglu = hasattr(model.blocks[0].mlp, "gate_last")
    renamed = {}
    for name, tensor in tensors.items():
        renamed[name.replace(".mlp.fc1.", ".mlp.w12.").replace(".mlp.fc2.", ".mlp.w3.") if swiglu else name] = tensor
    return renamed


def normalised(pixels: np.ndarray, spec: BackboneSpec) -> torch.Tensor:
    from torchvision.transforms.functional import normalize, to_tensor

    return torch.stack([normalize(to_tensor(tile), spec.mean, spec.std) for tile in pixels])


def noise(spec: BackboneSpec) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (2, spec.size_px, spec.size_px, 3), dtype=np.uint8)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty hub cache in offline mode, as HF_HUB_OFFLINE=1 sets it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def timm_model(spec: BackboneSpec) -> nn.Module:
    """Return timm's own model by an explicit call, layer classes written out."""
    import timm
    from timm.layers import SwiGLUPacked

    classes: dict[object, object] = {"SwiGLUPacked": SwiGLUPacked, "SiLU": nn.SiLU}
    arguments = {name: classes.get(value, value) for name, value in spec.model_args}
    torch.manual_seed(4)
    model = timm.create_model(spec.source.split(".")[0], num_classes=0, **arguments).eval()
    for tensor in model.parameters():  # zero-initialised tokens would hide a lost one
        nn.init.normal_(tensor, std=0.1)
    return model


@pytest.mark.parametrize("entry", TOKENS, ids=lambda entry: entry.name)
def test_timm_entries_load_from_the_hub_cache_and_equal_timm(
    entry: CatalogEntry, hub: Path, cpu: ComputeDevice
) -> None:
    spec = tiny(entry.spec)
    model = timm_model(spec)
    folder = put_in_hub_cache(hub, spec.hub_id, spec.revision)
    if spec.layout == "dinov2":
        torch.save(original_dinov2(model), folder / spec.weights_file)
    else:
        save_file(model.state_dict(), folder / "model.safetensors")
    found = find_backbone(BackboneConfig(name=entry.name))
    assert found.revision == (entry.spec.revision or COMMIT)
    backbone = load_backbone(replace(spec, revision=found.revision), cpu, "fp32")
    pixels = noise(spec)
    with torch.inference_mode():
        tokens_BTD = model.forward_features(normalised(pixels, spec))
    n_prefix = 1 + (entry.registers or 0)
    assert tokens_BTD.shape[1:] == (n_prefix + 16, 48)
    expected_BD = torch.cat([tokens_BTD[:, 0], tokens_BTD[:, n_prefix:].mean(1)], dim=1).numpy()
    assert [(b.name, b.start, b.stop) for b in backbone.blocks] == [("cls", 0, 48), ("patch_mean", 48, 96)]
    assert set(entry.spec.default_pooling) <= {"cls", "patch_mean"}
    np.testing.assert_allclose(backbone.embed(pixels), expected_BD, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("entry", TRANSFORMERS, ids=lambda entry: entry.name)
def test_transformers_entries_load_from_the_hub_cache_and_equal_transformers(
    entry: CatalogEntry, hub: Path, cpu: ComputeDevice
) -> None:
    from transformers import AutoConfig, AutoModel

    spec = tiny(entry.spec)
    settings = dict(spec.model_args)
    torch.manual_seed(4)
    model = AutoModel.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings)).eval()
    folder = put_in_hub_cache(hub, spec.source, spec.revision)
    model.save_pretrained(folder)
    found = find_backbone(BackboneConfig(name=entry.name))
    backbone = load_backbone(replace(spec, revision=found.revision), cpu, "fp32")
    pixels = noise(spec)
    with torch.inference_mode():
        answer = model(pixel_values=normalised(pixels, spec))
    tokens_BTD = answer.last_hidden_state
    expected_BD = torch.cat([tokens_BTD[:, 0], tokens_BTD[:, 1:].mean(1)], dim=1)
    if entry.name == "plip":
        expected_BD = answer.pooler_output
    assert {block.name for block in backbone.blocks} >= set(entry.spec.default_pooling)
    assert [block.name for block in entry.blocks] == [block.name for block in backbone.blocks]
    np.testing.assert_allclose(backbone.embed(pixels), expected_BD.numpy(), rtol=1e-4, atol=1e-5)


def test_plip_is_the_vision_tower_of_a_whole_clip(hub: Path, cpu: ComputeDevice) -> None:
    from transformers import CLIPConfig, CLIPModel

    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    vision = {**small, "image_size": 64, "patch_size": 32}
    model = CLIPModel(CLIPConfig(vision_config=vision, text_config=small, projection_dim=16)).eval()
    folder = put_in_hub_cache(hub, "vinid/plip", "")
    model.save_pretrained(folder)
    spec = replace(find_backbone(BackboneConfig(name="plip")), size_px=64)
    pixels = noise(spec)
    with torch.inference_mode():
        expected_BD = model.vision_model(pixel_values=normalised(pixels, spec)).pooler_output.numpy()
    np.testing.assert_allclose(load_backbone(spec, cpu, "fp32").embed(pixels), expected_BD, rtol=1e-4, atol=1e-5)


def test_a_torch_checkpoint_of_a_transformers_entry_is_read_as_plain_tensors(
    hub: Path, cpu: ComputeDevice, tmp_path: Path
) -> None:
    from safetensors.torch import load_file
    from transformers import ViTConfig, ViTModel

    model = ViTModel(ViTConfig(**TINY_TRANSFORMERS, intermediate_size=64, image_size=32, patch_size=16)).eval()
    folder = put_in_hub_cache(hub, "owkin/phikon", "")
    model.save_pretrained(folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    pixels = noise(spec := replace(find_backbone(BackboneConfig(name="phikon")), size_px=32))
    expected_BD = load_backbone(spec, cpu, "fp32").embed(pixels)
    (folder / "model.safetensors").unlink()
    np.testing.assert_array_equal(load_backbone(spec, cpu, "fp32").embed(pixels), expected_BD)

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "sprung",)

    torch.save({"embeddings.cls_token": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="can't be read"):
        load_backbone(spec, cpu, "fp32")
    assert not (tmp_path / "sprung").exists()


def test_resnet50_loads_from_the_hub_cache(hub: Path, cpu: ComputeDevice) -> None:
    import timm

    torch.manual_seed(0)
    model = timm.create_model("resnet50", num_classes=1000).eval()
    spec = find_backbone(BackboneConfig(name="resnet50"))
    save_file(model.state_dict(), put_in_hub_cache(hub, spec.hub_id, spec.revision) / "model.safetensors")
    pixels = noise(replace(spec, size_px=64))
    backbone = load_backbone(replace(spec, size_px=64), cpu, "fp32")
    with torch.inference_mode():
        expected_BD = model.forward_head(model.forward_features(normalised(pixels, spec)), pre_logits=True).numpy()
    assert [(b.name, b.stop) for b in backbone.blocks] == [("pooled", 2048)]
    np.testing.assert_allclose(backbone.embed(pixels), expected_BD, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["virchow2", "uni2-h"])
def test_huge_registers_do_not_reach_the_patch_mean(
    name: str, hub: Path, cpu: ComputeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(tiny(find_backbone(BackboneConfig(name=f"random/{name}"))), seed=7)
    n_registers = 4 if name == "virchow2" else 8
    plain_BD = load_backbone(spec, cpu, "fp32").embed(noise(spec))
    import timm.models.vision_transformer as vit

    original = vit.VisionTransformer.forward_features

    def with_huge_registers(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        tokens_BTD = original(self, x).clone()
        tokens_BTD[:, 1 : 1 + n_registers] = 1e12
        return tokens_BTD

    monkeypatch.setattr(vit.VisionTransformer, "forward_features", with_huge_registers)
    np.testing.assert_array_equal(load_backbone(spec, cpu, "fp32").embed(noise(spec)), plain_BD)


def test_huge_registers_of_transformers_do_not_reach_the_patch_mean(
    registers: Path, cpu: ComputeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = find_backbone(BackboneConfig(name=str(registers)))
    backbone = load_backbone(spec, cpu, "fp32")
    plain_BD = backbone.embed(noise(spec))
    assert backbone.module is not None
    original = type(backbone.module).forward

    def with_huge_registers(self: nn.Module, **inputs: torch.Tensor) -> object:
        answer = original(self, **inputs)
        answer.last_hidden_state = answer.last_hidden_state.clone()
        answer.last_hidden_state[:, 1:5] = 1e12
        return answer

    monkeypatch.setattr(type(backbone.module), "forward", with_huge_registers)
    np.testing.assert_array_equal(backbone.embed(noise(spec)), plain_BD)


def test_a_checkpoint_of_another_width_is_refused(hub: Path, cpu: ComputeDevice) -> None:
    spec = tiny(find_backbone(BackboneConfig(name="random/virchow2")))
    model = timm_model(replace(spec, model_args=(*spec.model_args, ("reg_tokens", 2))))
    save_file(model.state_dict(), put_in_hub_cache(hub, spec.hub_id, "") / "model.safetensors")
    with pytest.raises(UserError, match=r"(?s)does not fit.*pos_embed"):
        load_backbone(replace(spec, weights="pretrained", revision=COMMIT), cpu, "fp32")


def test_what_a_config_json_states_counts_and_layers_come_from_the_catalog() -> None:
    import timm.layers

    spec = find_backbone(BackboneConfig(name="random/h0-mini"))
    arguments = timm_arguments(spec, {"mlp_ratio": 4.0, "num_classes": 0, "act_layer": "ReLU"})
    assert arguments["mlp_ratio"] == 4.0
    assert arguments["mlp_layer"] is timm.layers.SwiGLUPacked
    assert arguments["act_layer"] is nn.SiLU
    assert "num_classes" not in arguments
    with pytest.raises(UserError, match="no such layer"):
        timm_arguments(replace(spec, model_args=(("mlp_layer", "NoSuch"),)), {})


def test_arguments_and_layout_are_part_of_the_identity(hub: Path) -> None:
    spec = tiny(find_backbone(BackboneConfig(name="random/virchow2")))
    save_file({"x": torch.zeros(1)}, put_in_hub_cache(hub, spec.hub_id, "") / "model.safetensors")
    spec = replace(spec, weights="pretrained", revision=COMMIT)
    variants = (
        spec,
        replace(spec, model_args=tuple(pair for pair in spec.model_args if pair[0] != "act_layer")),
        replace(spec, layout="dinov2"),
        random_twin(spec),
    )
    assert len({weights_hash(one) for one in variants}) == len(variants)


@pytest.mark.parametrize("name", ["midnight", "uni2-h", "phikon", "openmidnight"])
def test_random_twins_of_gated_and_absent_backbones_need_no_file(name: str, hub: Path, cpu: ComputeDevice) -> None:
    twin = tiny(find_backbone(BackboneConfig(name=f"random/{name}")))
    assert not hub.exists()
    result_BD = load_backbone(twin, cpu, "fp32").embed(noise(twin))
    assert np.isfinite(result_BD).all() and result_BD.std() > 0
    assert weights_hash(twin) != weights_hash(replace(twin, seed=1))


def test_an_unpinned_backbone_that_is_nowhere_says_what_to_run(hub: Path) -> None:
    with pytest.raises(UserError, match="hf download MahmoodLab/UNI2-h"):
        find_backbone(BackboneConfig(name="uni2-h"))


def test_a_local_folder_stands_in_for_a_gated_hub(
    tmp_path: Path, hub: Path, cpu: ComputeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tiny(find_backbone(BackboneConfig(name="random/uni2-h")))
    torch.save(timm_model(spec).state_dict(), tmp_path / "pytorch_model.bin")
    found = find_backbone(BackboneConfig(name="uni2-h", weights=str(tmp_path)))
    small = replace(found, model_args=spec.model_args, size_px=spec.size_px)
    from_folder = load_backbone(small, cpu, "fp32").embed(noise(spec))
    shutil.copy(tmp_path / "pytorch_model.bin", put_in_hub_cache(hub, "MahmoodLab/UNI2-h", "") / "pytorch_model.bin")
    from_hub = replace(find_backbone(BackboneConfig(name="uni2-h")), model_args=spec.model_args, size_px=spec.size_px)
    np.testing.assert_array_equal(load_backbone(from_hub, cpu, "fp32").embed(noise(spec)), from_folder)
    assert weights_hash(from_hub) == weights_hash(small)


@pytest.mark.parametrize("kind", ["Dinov2WithRegisters", "DINOv3ViT"])
def test_metas_own_repositories_load_by_their_hub_id(kind: str, hub: Path, cpu: ComputeDevice) -> None:
    import transformers

    settings = {**TINY_TRANSFORMERS, "image_size": 56, "patch_size": 14, "num_register_tokens": 4}
    torch.manual_seed(4)
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**settings)).eval()
    folder = put_in_hub_cache(hub, "facebook/tiny", "")
    model.save_pretrained(folder)
    processor = '{"size": 56, "resample": 3, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}'
    (folder / "preprocessor_config.json").write_text(processor, encoding="utf-8")
    spec = find_backbone(BackboneConfig(name="facebook/tiny"))
    assert (spec.revision, spec.default_pooling) == (COMMIT, ("cls", "patch_mean"))
    pixels = noise(spec)
    with torch.inference_mode():
        tokens_BTD = model(pixel_values=normalised(pixels, spec)).last_hidden_state
    assert tokens_BTD.shape[1] == 1 + 4 + 16
    expected_BD = torch.cat([tokens_BTD[:, 0], tokens_BTD[:, 5:].mean(1)], dim=1).numpy()
    np.testing.assert_allclose(load_backbone(spec, cpu, "fp32").embed(pixels), expected_BD, rtol=1e-4, atol=1e-5)
