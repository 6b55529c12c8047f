"""Heads open as a transformers pipeline, by transformers' own classes, and say what ``predict`` says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import histotune as ht
from histotune.backbones.catalog import find_backbone
from histotune.backbones.entries import BackboneConfig
from histotune.backbones.network import build_network
from histotune.backbones.tuned_weights import save_tuned
from histotune.deploy.bundle import Bundle
from histotune.tools.errors import UserError
from tests.deploy.conftest import MLP, Trained

Predicted = Callable[[Bundle], NDArray[np.float64]]
CLASSES = {
    "dinov2": "Dinov2ForImageClassification",
    "registers": "Dinov2WithRegistersForImageClassification",
    "vit": "ViTForImageClassification",
    "convnext": "ConvNextV2ForImageClassification",
    "lite0": "TimmWrapperForImageClassification",
    "timm": "TimmWrapperForImageClassification",
}
POOLINGS = {"vit": [["cls"]], "timm": [["cls"]]}


def of_pipeline(folder: Path, images: list[Path], class_names: tuple[str, ...]) -> NDArray[np.float64]:
    """Return what a pipeline says of images, its answers in the order of the classes."""
    from transformers import pipeline

    classify = pipeline("image-classification", str(folder), device="cpu")
    answers = classify([str(path) for path in images], top_k=None)
    scores = [{one["label"]: one["score"] for one in answer} for answer in answers]
    assert all(score.keys() == set(class_names) for score in scores)
    return np.array([[score[name] for name in class_names] for score in scores])


@pytest.mark.parametrize("name", CLASSES)
def test_a_pipeline_says_what_predict_says(
    name: str, networks: dict[str, str], trained: Trained, predicted: Predicted, twenty: list[Path], tmp_path: Path
) -> None:
    more = {"sweep__poolings": POOLINGS[name]} if name in POOLINGS else {}
    bundle = trained(networks[name], **more)
    done = ht.export(bundle, "transformers", out=tmp_path / "out", for_own_use=True)
    assert done.largest_difference is not None and done.largest_difference <= 1e-4
    facts = json.loads((tmp_path / "out" / "histotune_export.json").read_text(encoding="utf-8"))
    assert facts["model_class"] == CLASSES[name]
    expected = predicted(bundle)
    found = of_pipeline(tmp_path / "out", twenty, bundle.head.class_names)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert np.ptp(expected[:, 0]) > 0.05  # the head tells these tiles apart, so that agreement says something


@pytest.mark.parametrize("poolings", [[["patch_mean"]], [["cls"]]])
def test_dinov2_takes_a_head_on_one_block_and_timm_the_mean_of_patches(
    poolings: list[list[str]], networks: dict[str, str], trained: Trained, predicted: Predicted, twenty: list[Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    for name in ("dinov2", "timm"):
        bundle = trained(networks[name], sweep__poolings=poolings)
        ht.export(bundle, "transformers", out=tmp_path / name, for_own_use=True)
        found = of_pipeline(tmp_path / name, twenty, bundle.head.class_names)
        np.testing.assert_allclose(found, predicted(bundle), rtol=0, atol=1e-4)


def test_fine_tuned_weights_are_merged(
    networks: dict[str, str], trained: Trained, predicted: Predicted, twenty: list[Path], tmp_path: Path
) -> None:
    spec = find_backbone(BackboneConfig(name=networks["dinov2"]))
    held = build_network(spec).module.state_dict()
    moved = {name: value * 1.3 + 0.02 for name, value in held.items() if "layer.1." in name}
    save_tuned(moved, tmp_path / "tuned", spec, "last-blocks")
    bundle = trained(networks["dinov2"], adapter=tmp_path / "tuned")
    assert bundle.backbone.adapter
    ht.export(bundle, "transformers", out=tmp_path / "out", for_own_use=True)
    found = of_pipeline(tmp_path / "out", twenty, bundle.head.class_names)
    np.testing.assert_allclose(found, predicted(bundle), rtol=0, atol=1e-4)
    assert np.abs(found - predicted(trained(networks["dinov2"]))).max() > 1e-3


@pytest.mark.parametrize("name", ["timm", "vit"])
def test_both_cls_and_mean_is_one_message_where_the_family_pools_one(
    name: str, networks: dict[str, str], trained: Trained, tmp_path: Path
) -> None:
    bundle = trained(networks[name], sweep__poolings=[["cls", "patch_mean"]])
    with pytest.raises(UserError, match=r"reads both|pools otherwise") as error:
        ht.export(bundle, "transformers", out=tmp_path / "out", for_own_use=True)
    assert "--format onnx" in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("view", "shown"),
    [
        ({"view__name": "letterbox"}, "letterbox"),
        ({"view__target_mpp": 1.0}, "1 um/px"),
        ({"view__resize_px": 0}, "stored pixels"),
        ({"view__resize_px": 40}, "40 px"),
    ],
)
def test_a_view_that_no_processor_expresses_is_one_message(
    view: dict[str, object], shown: str, networks: dict[str, str], trained: Trained, tmp_path: Path
) -> None:
    bundle = trained(networks["dinov2"], **view)
    with pytest.raises(UserError, match="can't express this head's view") as error:
        ht.export(bundle, "transformers", out=tmp_path / "out", for_own_use=True)
    assert shown in str(error.value) and str(error.value).count("fix:") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("view", [{"view__name": "square"}, {"view__interpolation": "bilinear", "view__resize_px": 57}])
def test_other_views_that_a_processor_does_express(
    view: dict[str, object], networks: dict[str, str], trained: Trained, predicted: Predicted, twenty: list[Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    bundle = trained(networks["dinov2"], **view)
    ht.export(bundle, "transformers", out=tmp_path / "out", for_own_use=True)
    found = of_pipeline(tmp_path / "out", twenty, bundle.head.class_names)
    np.testing.assert_allclose(found, predicted(bundle), rtol=0, atol=1e-4)


def test_a_hidden_layer_is_refused(networks: dict[str, str], trained: Trained, tmp_path: Path) -> None:
    bundle = trained(networks["dinov2"], **MLP)
    with pytest.raises(UserError, match="hidden one"):
        ht.export(bundle, "transformers", out=tmp_path / "out", for_own_use=True)
