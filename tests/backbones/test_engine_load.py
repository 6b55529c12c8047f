"""Loaded backbones equal the libraries' own forward passes; odd checkpoints are refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from histotune.backbones.catalog import colour_histogram, find_backbone, random_twin
from histotune.backbones.engine import load_backbone
from histotune.backbones.entries import BackboneConfig
from histotune.backbones.spec import BackboneSpec
from histotune.backbones.weights import lite0_file, read_lite0, timm_name
from histotune.tools.devices import ComputeDevice
from histotune.tools.errors import UserError

Pixels = NDArray[np.uint8]


def find(name: object, **options: str) -> BackboneSpec:
    return find_backbone(BackboneConfig(name=str(name), **options))


def normalised(pixels: Pixels, spec: BackboneSpec) -> torch.Tensor:
    """Return what torchvision's ToTensor and Normalize make of the pixels."""
    from torchvision.transforms.functional import normalize, to_tensor

    return torch.stack([normalize(to_tensor(tile), spec.mean, spec.std) for tile in pixels])


def gradients() -> Pixels:
    y, x = np.mgrid[0:224, 0:224]
    return np.stack([x, y, (x * y // 224 + x) % 256], -1).astype(np.uint8)[None]


def test_lite0_logits_equal_those_of_its_own_package() -> None:
    """Golden values: efficientnet-lite-pytorch 0.1.0 on the same weights and image, torch 2.15."""
    import timm

    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(read_lite0(lite0_file()))
    with torch.inference_mode():
        logits = model(normalised(gradients(), find("lite0")))[0]
    assert logits.topk(5).indices.tolist() == [644, 470, 818, 626, 619]
    assert logits.topk(5).values.tolist() == pytest.approx([7.1734, 6.5702, 6.3436, 5.4924, 5.2248], abs=2e-3)
    assert logits[:5].tolist() == pytest.approx([-0.1174, 0.0893, -0.4606, -0.4309, 1.4710], abs=2e-3)


def test_lite0_embedding_is_the_pooled_output_of_its_own_package(cpu: ComputeDevice) -> None:
    backbone = load_backbone(find("lite0"), cpu, "fp32")
    row_D = backbone.embed(gradients())[0]
    assert [(block.name, block.start, block.stop) for block in backbone.blocks] == [("pooled", 0, 1280)]
    assert row_D.dtype == np.float32
    assert row_D[:5] == pytest.approx([0.0, 0.2508, 1.1577, 0.0200, 0.0], abs=1e-3)
    assert (row_D.mean(), row_D.std()) == pytest.approx((0.1474, 0.4232), abs=1e-3)
    half_D = load_backbone(find("lite0"), cpu, "bf16").embed(gradients())[0]
    assert np.corrcoef(row_D, half_D)[0, 1] > 0.97  # 8 bits of mantissa over 50 layers
    assert not np.array_equal(row_D, half_D)


def test_every_lite0_name_maps_onto_its_own_timm_name() -> None:
    import timm

    names = torch.load(lite0_file(), weights_only=True).keys()
    assert sorted(map(timm_name, names)) == sorted(timm.create_model("tf_efficientnet_lite0").state_dict())
    with pytest.raises(KeyError):
        timm_name("_blocks.16._bn0.weight")


def test_dinov2_equals_transformers(dinov2: Path, pixels: Pixels, cpu: ComputeDevice) -> None:
    from transformers import Dinov2Model

    spec = find(dinov2)
    backbone = load_backbone(spec, cpu, "fp32")
    with torch.inference_mode():
        tokens_BTD = Dinov2Model.from_pretrained(dinov2)(normalised(pixels, spec)).last_hidden_state
    expected_BD = torch.cat([tokens_BTD[:, 0], tokens_BTD[:, 1:].mean(1)], dim=1).numpy()
    assert [(block.name, block.stop) for block in backbone.blocks] == [("cls", 32), ("patch_mean", 64)]
    np.testing.assert_allclose(backbone.embed(pixels), expected_BD, rtol=1e-5, atol=1e-5)


def test_registers_stay_out_of_the_patch_mean(registers: Path, pixels: Pixels, cpu: ComputeDevice) -> None:
    from transformers import Dinov2WithRegistersModel

    spec = find(registers)
    with torch.inference_mode():
        tokens_BTD = Dinov2WithRegistersModel.from_pretrained(registers)(normalised(pixels, spec)).last_hidden_state
    assert tokens_BTD.shape[1] == 1 + 4 + 16
    result_BD = load_backbone(spec, cpu, "fp32").embed(pixels)
    np.testing.assert_allclose(result_BD[:, 32:], tokens_BTD[:, 5:].mean(1).numpy(), rtol=1e-5, atol=1e-5)


def test_a_model_without_class_token_gives_its_pooler(tmp_path: Path, pixels: Pixels, cpu: ComputeDevice) -> None:
    from transformers import ConvNextConfig, ConvNextModel

    model = ConvNextModel(ConvNextConfig(hidden_sizes=[4, 8, 12, 16], depths=[1, 1, 1, 1])).eval()
    model.save_pretrained(tmp_path)
    spec = replace(find(tmp_path), size_px=56)
    backbone = load_backbone(spec, cpu, "fp32")
    with torch.inference_mode():
        expected_BD = model(normalised(pixels, spec)).pooler_output.numpy()
    assert [block.name for block in backbone.blocks] == ["pooled"] == list(spec.default_pooling)
    np.testing.assert_allclose(backbone.embed(pixels), expected_BD, rtol=1e-5, atol=1e-5)


def test_timm_format_equals_timm(timm_folder: Path, cpu: ComputeDevice) -> None:
    import timm
    from safetensors.torch import load_file

    spec = find(timm_folder)
    pixels = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    arguments = json.loads((timm_folder / "config.json").read_text(encoding="utf-8"))["model_args"]
    model = timm.create_model("vit_tiny_patch16_224", num_classes=4, **arguments).eval()
    model.load_state_dict(load_file(timm_folder / "model.safetensors"))
    with torch.inference_mode():
        tokens_BTD = model.forward_features(normalised(pixels, spec))
    assert tokens_BTD.shape[1] == 1 + 2 + 16
    expected_BD = torch.cat([tokens_BTD[:, 0], tokens_BTD[:, 3:].mean(1)], dim=1).numpy()
    np.testing.assert_allclose(load_backbone(spec, cpu, "fp32").embed(pixels), expected_BD, rtol=1e-5, atol=1e-5)


def test_a_local_checkpoint_for_a_timm_name(tmp_path: Path, pixels: Pixels, cpu: ComputeDevice) -> None:
    import timm

    model = timm.create_model("resnet10t", num_classes=0).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    spec = replace(find("timm/resnet10t", weights=str(tmp_path / "weights.pth")), size_px=56)
    with torch.inference_mode():
        expected_BD = model(normalised(pixels, spec)).numpy()
    np.testing.assert_allclose(load_backbone(spec, cpu, "fp32").embed(pixels), expected_BD, rtol=1e-4, atol=1e-5)


def test_checkpoints_that_do_not_fit_are_refused(tmp_path: Path, dinov2: Path, cpu: ComputeDevice) -> None:
    import timm
    from safetensors.torch import load_file, save_file

    tensors = timm.create_model("resnet10t", num_classes=0).state_dict()
    tensors.pop("conv1.0.weight")
    save_file(tensors, tmp_path / "short.safetensors")
    with pytest.raises(UserError, match=r"(?s)does not fit.*conv1\.0\.weight"):
        load_backbone(find("timm/resnet10t", weights=str(tmp_path / "short.safetensors")), cpu, "fp32")
    copy = shutil.copytree(dinov2, tmp_path / "copy")
    kept = {name: tensor for name, tensor in load_file(copy / "model.safetensors").items() if "layer.1" not in name}
    save_file(kept, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="does not hold all weights"):
        load_backbone(find(copy), cpu, "fp32")
    (tmp_path / "torn.safetensors").write_bytes((dinov2 / "model.safetensors").read_bytes()[:500])
    with pytest.raises(UserError, match="can't be read"):
        load_backbone(find("timm/resnet10t", weights=str(tmp_path / "torn.safetensors")), cpu, "fp32")


def test_pickled_objects_are_never_loaded(tmp_path: Path, cpu: ComputeDevice) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "sprung",)

    torch.save({"state_dict": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(UserError, match="can't be read"):
        load_backbone(find("timm/resnet10t", weights=str(tmp_path / "trap.pth")), cpu, "fp32")
    assert not (tmp_path / "sprung").exists()


def test_remote_code_is_never_run(dinov2: Path, tmp_path: Path, cpu: ComputeDevice) -> None:
    copy = shutil.copytree(dinov2, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    config.update(model_type="their_own", auto_map={"AutoConfig": "code.Config", "AutoModel": "code.Model"})
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (copy / "code.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')", encoding="utf-8")
    with pytest.raises(UserError, match="never run"):
        load_backbone(find(copy), cpu, "fp32")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["random/timm/resnet10t", "random/{dinov2}"])
def test_random_twins_follow_their_seed_alone(name: str, dinov2: Path, pixels: Pixels, cpu: ComputeDevice) -> None:
    spec = replace(find(name.format(dinov2=dinov2)), size_px=56)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    first_BD = load_backbone(spec, cpu, "fp32").embed(pixels)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert np.array_equal(load_backbone(spec, cpu, "fp32").embed(pixels), first_BD)
    assert not np.allclose(load_backbone(replace(spec, seed=1), cpu, "fp32").embed(pixels), first_BD)
    assert first_BD.std(axis=0).max() > 0


@pytest.mark.parametrize("name", ["lite0", "{dinov2}"])
def test_values_that_overflow_are_run_again_in_fp32(
    name: str, dinov2: Path, pixels: Pixels, cpu: ComputeDevice, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    spec = replace(find(name.format(dinov2=dinov2)), size_px=56)
    expected_BD = load_backbone(spec, cpu, "fp32").embed(pixels)
    backbone = load_backbone(spec, cpu, "bf16")
    original = type(backbone.embed)._run

    def overflowing(runner: object, network: object, x_BCSS: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        result_BD = original(runner, network, x_BCSS, dtype)
        return result_BD if dtype == torch.float32 else result_BD * float("inf")

    monkeypatch.setattr(type(backbone.embed), "_run", overflowing)
    np.testing.assert_allclose(backbone.embed(pixels), expected_BD, rtol=1e-4, atol=1e-5)
    assert backbone.reruns.n_batches == 1
    assert "again in fp32" in caplog.text


def test_weights_that_are_not_finite_are_refused(dinov2: Path, tmp_path: Path, cpu: ComputeDevice) -> None:
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(dinov2, tmp_path / "copy")
    tensors = load_file(copy / "model.safetensors")
    tensors["layernorm.weight"][0] = float("nan")
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="not finite"):
        load_backbone(find(copy), cpu, "fp32").embed(np.zeros((1, 56, 56, 3), np.uint8))


def test_colour_histogram_equals_numpy(pixels: Pixels, cpu: ComputeDevice) -> None:
    backbone = load_backbone(colour_histogram(), cpu, "fp32")
    result_BD = backbone.embed(pixels)
    for row, tile in enumerate(pixels):
        for channel in range(3):
            counts, _ = np.histogram(tile[..., channel], bins=32, range=(0, 256))
            assert result_BD[row, 32 * channel : 32 * (channel + 1)] == pytest.approx(counts / 56**2)
    assert backbone.total_dim == 96
    assert random_twin(find("lite0")).kind == "lite0"


def test_embedding_a_batch_equals_one_by_one(dinov2: Path, pixels: Pixels, cpu: ComputeDevice) -> None:
    backbone = load_backbone(find(dinov2), cpu, "fp32")
    single_BD = np.concatenate([backbone.embed(pixels[row : row + 1]) for row in range(3)])
    np.testing.assert_allclose(backbone.embed(pixels), single_BD, rtol=1e-5, atol=1e-5)
