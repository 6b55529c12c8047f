"""Names become facts; mistakes are answered with the closest name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from histotune.backbones import model_files
from histotune.backbones.catalog import colour_histogram, documented_view, find_backbone, random_twin
from histotune.backbones.engine import load_backbone
from histotune.backbones.entries import BackboneConfig, catalog_entries
from histotune.backbones.spec import BackboneSpec
from histotune.tools.devices import ComputeDevice
from histotune.tools.errors import UserError


def find(name: str, **options: str) -> BackboneSpec:
    return find_backbone(BackboneConfig(name=name, **options))


def test_entries_are_complete() -> None:
    assert len({entry.name for entry in catalog_entries()}) == len(catalog_entries())
    for entry in catalog_entries():
        assert entry.about and entry.spec.licence and entry.spec.citation and entry.spec.overlap, entry.name


def test_midnight_is_pinned_and_found_by_hub_id_too() -> None:
    midnight = find("midnight")
    assert midnight == find("kaiko-ai/midnight")
    assert (midnight.mean, midnight.std, midnight.size_px) == ((0.5,) * 3, (0.5,) * 3, 224)
    assert midnight.default_pooling == ("cls", "patch_mean")
    assert len(midnight.revision) == 40
    assert find("midnight", revision="main").revision == "main"
    assert documented_view(midnight).interpolation == "bilinear"


@pytest.mark.parametrize(
    ("name", "closest"), [("midnigth", "midnight"), ("lite", "lite0"), ("color-histogram", "colour-histogram")]
)
def test_unknown_names_get_the_closest(name: str, closest: str) -> None:
    with pytest.raises(UserError, match="unknown backbone") as caught:
        find(name)
    assert caught.value.closest == closest


def test_unknown_timm_names_get_the_closest() -> None:
    with pytest.raises(UserError, match="no such model") as caught:
        find("timm/vit_smal_patch16_224")
    assert caught.value.closest == "timm/vit_small_patch16_224"
    with pytest.raises(UserError, match="no such model"):
        find("timm/resnet18.no_such_tag")


def test_missing_folders_and_folders_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        find(str(tmp_path / "absent"))
    with pytest.raises(UserError, match=r"no config\.json"):
        find(str(tmp_path))
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="neither"):
        find(str(tmp_path))
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="not readable JSON"):
        find(str(tmp_path))


def test_a_saved_dinov2_states_its_transform(dinov2: Path) -> None:
    spec = find(str(dinov2))
    assert (spec.kind, spec.size_px, spec.interpolation) == ("transformers", 56, "bilinear")
    assert (spec.mean, spec.std) == ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    assert spec.default_pooling == ("cls", "patch_mean")


def test_a_folder_without_a_preprocessor_says_what_is_assumed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "convnext"}), encoding="utf-8")
    spec = find(str(tmp_path))
    assert (spec.size_px, spec.mean, spec.default_pooling) == (224, (0.5, 0.5, 0.5), ("pooled",))
    assert "assuming" in caplog.text


def test_timm_format_states_its_transform(timm_folder: Path) -> None:
    spec = find(str(timm_folder))
    assert (spec.kind, spec.source, spec.size_px) == ("timm", "vit_tiny_patch16_224", 64)
    assert (spec.mean, spec.interpolation) == ((0.1, 0.2, 0.3), "bilinear")


def test_timm_names_carry_the_documented_transform() -> None:
    spec = find("timm/resnet18.a1_in1k")
    assert spec.hub_id == "timm/resnet18.a1_in1k"
    assert spec.mean == (0.485, 0.456, 0.406)
    assert spec.default_pooling == ("pooled",)
    assert find("timm/resnet18").hub_id == "timm/resnet18.a1_in1k"


def test_timm_is_asked_once_per_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = find_backbone(BackboneConfig(name="timm/resnet10t"), tmp_path)
    monkeypatch.setattr("histotune.backbones.catalog.describe_timm", lambda _: pytest.fail("asked again"))
    assert find_backbone(BackboneConfig(name="timm/resnet10t"), tmp_path) == first
    assert find_backbone(BackboneConfig(name="random/timm/resnet10t"), tmp_path) == random_twin(first)


def test_random_twins_keep_the_transform() -> None:
    spec, twin = find("lite0"), find("random/lite0")
    assert twin == random_twin(spec)
    assert (twin.name, twin.weights, twin.mean, twin.source) == ("random/lite0", "random", spec.mean, spec.source)
    assert random_twin(spec, seed=4).seed == 4
    with pytest.raises(UserError, match="no weights"):
        random_twin(colour_histogram())


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_relpos_small_patch16_224", "pit_ti_224", "resnet10t"])
def test_the_default_pooling_of_a_timm_model_is_what_it_gives(name: str, cpu: ComputeDevice) -> None:
    spec = find(f"random/timm/{name}")
    backbone = load_backbone(spec, cpu, "fp32")
    assert tuple(block.name for block in backbone.blocks) == spec.default_pooling
    assert model_files._pooling_by_name(name, {}) == spec.default_pooling
    assert backbone.embed(np.zeros((1, 224, 224, 3), np.uint8)).shape == (1, backbone.total_dim)
