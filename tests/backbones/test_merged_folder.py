"""A merged folder embeds as backbone and adapter do, under the same view; licences are asked first."""

from __future__ import annotations

import doctest
import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from histotune.backbones import merged_folder
from histotune.backbones.adapters import save_adapter
from histotune.backbones.catalog import documented_view, find_backbone, find_entry
from histotune.backbones.engine import load_backbone
from histotune.backbones.entries import BackboneConfig, catalog_entries
from histotune.backbones.merged_folder import (
    NOTICE,
    licence_of,
    processor_facts,
    refuse_derivatives,
    save_merged,
    timm_facts,
)
from histotune.backbones.model_files import PROCESSOR
from histotune.backbones.network import build_network
from histotune.backbones.spec import BackboneSpec
from histotune.backbones.transforms import processor_transform, timm_transform
from histotune.backbones.tuned_weights import save_tuned
from histotune.tools.devices import ComputeDevice
from histotune.tools.errors import UserError


def spec_of(folder: Path, **options: str) -> BackboneSpec:
    return find_backbone(BackboneConfig(name=str(folder), **options))


def save_lora(spec: BackboneSpec, folder: Path) -> BackboneSpec:
    """Return a spec with a random LoRA adapter of its linear layers."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(2)
    module = build_network(spec).module
    linears = [name for name, part in module.named_modules() if isinstance(part, torch.nn.Linear)]
    save_adapter(get_peft_model(module, LoraConfig(r=2, target_modules=linears, init_lora_weights=False)), folder, spec)
    return replace(spec, adapter=str(folder))


def save_changed(spec: BackboneSpec, folder: Path) -> BackboneSpec:
    """Return a spec with an adapter that changes every tensor."""
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: tensor * (1 + 0.2 * torch.rand(tensor.shape, generator=generator)) + 0.01
        for name, tensor in build_network(spec).module.state_dict().items()
        if tensor.is_floating_point()
    }
    save_tuned(tensors, folder, spec, "full")
    return replace(spec, adapter=str(folder))


def assert_same(spec: BackboneSpec, merged: Path, cpu: ComputeDevice) -> BackboneSpec:
    """Assert that a folder embeds as a backbone with its adapter does, and not as the backbone alone."""
    again = spec_of(merged)
    assert documented_view(again) == documented_view(spec)
    tiles = np.random.default_rng(3).integers(0, 256, (3, spec.size_px, spec.size_px, 3), dtype=np.uint8)
    expected_BD = load_backbone(spec, cpu, "fp32").embed(tiles)
    np.testing.assert_allclose(load_backbone(again, cpu, "fp32").embed(tiles), expected_BD, rtol=1e-5, atol=1e-5)
    assert not np.allclose(load_backbone(replace(spec, adapter=""), cpu, "fp32").embed(tiles), expected_BD, atol=1e-3)
    return again


@pytest.mark.parametrize("adapt", [save_lora, save_changed])
@pytest.mark.parametrize("kind", ["dinov2", "registers", "timm_folder"])
def test_the_merged_folder_embeds_as_backbone_and_adapter(
    kind: str, adapt: Callable[[BackboneSpec, Path], BackboneSpec], request: pytest.FixtureRequest, tmp_path: Path,
    cpu: ComputeDevice,
) -> None:  # fmt: skip
    spec = adapt(spec_of(request.getfixturevalue(kind)), tmp_path / "a")
    merged = save_merged(spec, tmp_path / "merged", for_own_use=True)
    again = assert_same(spec, merged, cpu)
    assert again.default_pooling == spec.default_pooling
    words = "".join(path.read_text(encoding="utf-8") for path in merged.iterdir() if path.suffix in (".json", ".txt"))
    assert str(tmp_path) not in words and str(request.getfixturevalue(kind)) not in words
    assert "FOR OWN USE ONLY" in (merged / NOTICE).read_text(encoding="utf-8")


def test_the_default_backbone_may_be_passed_on(tmp_path: Path, cpu: ComputeDevice) -> None:
    spec = save_changed(find_backbone(BackboneConfig(name="lite0")), tmp_path / "a")
    merged = save_merged(spec, tmp_path / "merged")
    assert_same(spec, merged, cpu)
    notice = (merged / NOTICE).read_text(encoding="utf-8")
    assert "Apache-2.0" in notice and "FOR OWN USE" not in notice and str(tmp_path) not in notice
    assert licence_of(spec_of(merged)).share_derivatives  # its files carry the licence on


def test_another_adapter_is_trained_on_the_merged_folder(dinov2: Path, tmp_path: Path, cpu: ComputeDevice) -> None:
    first = save_merged(save_lora(spec_of(dinov2), tmp_path / "a"), tmp_path / "first", for_own_use=True)
    spec = save_changed(spec_of(first), tmp_path / "b")
    assert_same(spec, save_merged(spec, tmp_path / "second", for_own_use=True), cpu)


def test_the_library_itself_opens_the_folder(dinov2: Path, timm_folder: Path, tmp_path: Path) -> None:
    import timm
    from transformers import AutoImageProcessor, AutoModel

    x_BCSS = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    spec = save_changed(spec_of(dinov2), tmp_path / "a")
    merged = save_merged(spec, tmp_path / "dinov2", for_own_use=True)
    with torch.inference_mode():
        tokens_BTD = AutoModel.from_pretrained(merged).eval()(pixel_values=x_BCSS).last_hidden_state
        torch.testing.assert_close(tokens_BTD[:, 0], build_network(spec).outputs(x_BCSS)["cls"])
    processor = AutoImageProcessor.from_pretrained(merged)
    assert list(processor.image_mean) == [0.4, 0.5, 0.6]
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    assert processor(noise, return_tensors="pt")["pixel_values"].shape == (1, 3, 56, 56)
    if "local-dir" not in inspect.getsource(timm.models._factory):  # of an older timm
        return
    spec = save_changed(spec_of(timm_folder), tmp_path / "b")
    merged = save_merged(spec, tmp_path / "timm", for_own_use=True)
    x_BCSS = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        model = timm.create_model(f"local-dir:{merged}", pretrained=True).eval()
        torch.testing.assert_close(model.forward_features(x_BCSS)[:, 0], build_network(spec).outputs(x_BCSS)["cls"])
    assert tuple(timm.data.resolve_model_data_config(model)["mean"]) == (0.1, 0.2, 0.3)


def test_the_vision_tower_of_a_clip_is_saved_by_itself(tmp_path: Path, cpu: ComputeDevice) -> None:
    from transformers import CLIPConfig, CLIPModel

    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    vision = {**small, "image_size": 64, "patch_size": 32}
    CLIPModel(CLIPConfig(vision_config=vision, text_config=small, projection_dim=16)).save_pretrained(tmp_path / "clip")
    spec = replace(spec_of(tmp_path / "clip"), size_px=64)
    module = build_network(spec).module
    if not hasattr(module, "save_pretrained"):  # before transformers 5
        with pytest.raises(UserError, match="can't save this part"):
            save_merged(save_changed(spec, tmp_path / "a"), tmp_path / "merged", for_own_use=True)
        return
    spec = save_changed(spec, tmp_path / "a")
    assert_same(spec, save_merged(spec, tmp_path / "merged", for_own_use=True), cpu)


@pytest.mark.parametrize("entry", catalog_entries(), ids=lambda entry: entry.name)
def test_every_documented_view_survives_both_formats(entry: object) -> None:
    spec: BackboneSpec = entry.spec  # type: ignore[attr-defined]
    both = (processor_transform(processor_facts(spec), ""), timm_transform(timm_facts(spec), ""))
    for found in both if spec.resize_px != 0 else both[:1]:
        assert documented_view(replace(spec, **vars(found))) == documented_view(spec)
        np.testing.assert_allclose((found.mean, found.std), (spec.mean, spec.std), rtol=1e-12)


@pytest.mark.parametrize("resize_px", [None, 0, 60, 224, 256, 257, 518])
@pytest.mark.parametrize("name", ["square", "short-side-crop"])
def test_every_view_survives_or_can_not_be_written(name: str, resize_px: int | None) -> None:
    spec = BackboneSpec("x", "timm", "x", view_name=name, resize_px=resize_px)  # type: ignore[arg-type]
    resize_px = None if resize_px == spec.size_px else resize_px
    if resize_px != 0:
        found = timm_transform(timm_facts(spec), "")
        assert (found.view_name, found.resize_px, found.size_px) == (name, resize_px, 224)
    if (name, resize_px) != ("square", 0):
        found = processor_transform(processor_facts(spec), "")
        assert (found.view_name, found.resize_px, found.size_px) == (name, resize_px, 224)


def test_a_view_that_the_format_lacks_is_refused(timm_folder: Path, tmp_path: Path) -> None:
    spec = replace(save_changed(spec_of(timm_folder), tmp_path / "a"), resize_px=0)
    with pytest.raises(UserError, match="the resizing of this backbone can't be written in the format of timm"):
        save_merged(spec, tmp_path / "merged", for_own_use=True)
    assert not (tmp_path / "merged").exists()


# ---- Licences ----


@pytest.mark.parametrize("entry", catalog_entries(), ids=lambda entry: entry.name)
def test_only_licences_that_say_so_let_changed_weights_be_passed_on(entry: object) -> None:
    spec, licence = entry.spec, entry.licence  # type: ignore[attr-defined]
    assert licence_of(spec) == licence
    if licence.share_derivatives:
        refuse_derivatives(spec, licence)
        return
    with pytest.raises(UserError, match="one pass on changed weights") as caught:
        refuse_derivatives(spec, licence)
    assert licence.name in str(caught.value) and "--for-own-use" in str(caught.value)


def test_a_refusal_names_licence_and_clause_before_anything_is_loaded(tmp_path: Path) -> None:
    entry = find_entry("uni2-h")
    assert entry is not None
    with pytest.raises(UserError, match=r"CC-BY-NC-ND-4\.0.*section 2\(a\)\(1\)\(B\)") as caught:
        save_merged(replace(entry.spec, adapter=str(tmp_path)), tmp_path / "merged")
    words = "produce and reproduce, but not Share, Adapted Material for NonCommercial purposes only"
    assert words in str(caught.value)  # of the licence, https://creativecommons.org/licenses/by-nc-nd/4.0/legalcode
    assert "the adapter's folder alone" in str(caught.value)


def test_a_folder_without_a_licence_is_for_own_use(dinov2: Path, tmp_path: Path) -> None:
    spec = save_lora(spec_of(dinov2), tmp_path / "a")
    with pytest.raises(UserError, match="not stated, is not known to let one"):
        save_merged(spec, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_licence_in_the_files_of_a_folder_counts(timm_folder: Path, tmp_path: Path) -> None:
    spec = spec_of(timm_folder)
    assert licence_of(replace(spec, licence="mit")).share_derivatives is True
    assert licence_of(replace(spec, licence="cc-by-nc-nd-4.0")).share_derivatives is None
    assert licence_of(replace(spec, licence="")).name == "not stated"


# ---- What can't be merged ----


def test_without_an_adapter_there_is_nothing_to_merge(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no adapter to merge"):
        save_merged(find_backbone(BackboneConfig(name="lite0")), tmp_path / "merged")
    assert doctest.testmod(merged_folder).failed == 0


def test_an_adapter_that_peft_only_applies_beside_the_weights_is_refused(
    dinov2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft.tuners.lora.layer import Linear

    spec = save_lora(spec_of(dinov2), tmp_path / "a")

    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError("no merging here")

    monkeypatch.setattr(Linear, "merge", refuse)
    with pytest.raises(UserError, match="only apply it beside them"):
        save_merged(spec, tmp_path / "merged", for_own_use=True)
    assert not (tmp_path / "merged").exists()


def test_only_a_folder_of_its_own_kind_is_replaced(dinov2: Path, tmp_path: Path, cpu: ComputeDevice) -> None:
    spec = save_lora(spec_of(dinov2), tmp_path / "a")
    other = tmp_path / "other"
    other.mkdir()
    save_merged(spec, other, for_own_use=True)  # nothing is lost with an empty folder
    save_merged(spec, other, for_own_use=True)
    with pytest.raises(UserError, match="what is to be merged lies there"):
        save_merged(save_changed(spec_of(other), tmp_path / "b"), other, for_own_use=True)
    with pytest.raises(UserError, match="what is to be merged lies there"):
        save_merged(spec, tmp_path, for_own_use=True)
    (other / "mine.txt").touch()
    with pytest.raises(UserError, match=r"holds other files.*mine\.txt"):
        save_merged(spec, other, for_own_use=True)
    (other / "mine.txt").unlink()
    (other / NOTICE).write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="holds other files"):
        save_merged(spec, other, for_own_use=True)
    assert_same(spec, other, cpu)


def test_a_folder_that_opens_as_another_network_never_appears(
    dinov2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = save_lora(spec_of(dinov2), tmp_path / "a")
    monkeypatch.setattr(merged_folder, "processor_facts", lambda spec: {**processor_facts(spec), "resample": 3})
    with pytest.raises(UserError, match="the interpolation of this backbone"):
        save_merged(spec, tmp_path / "merged", for_own_use=True)
    monkeypatch.undo()
    write = merged_folder.write_transformers

    def lose(module: torch.nn.Module, folder: Path, spec: BackboneSpec) -> None:
        torch.nn.init.normal_(module.layernorm.bias)  # type: ignore[union-attr, arg-type]
        write(module, folder, spec)

    monkeypatch.setattr(merged_folder, "write_transformers", lose)
    with pytest.raises(UserError, match="the cls and the patch_mean of this backbone"):
        save_merged(spec, tmp_path / "merged", for_own_use=True)
    assert not (tmp_path / "merged").exists()
    assert json.loads((dinov2 / PROCESSOR).read_text(encoding="utf-8"))["resample"] == 2
