"""An ONNX model takes stored pixels of any size, and says what ``predict`` says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import histotune as ht
from histotune.deploy.bundle import Bundle
from histotune.tools.errors import UserError
from tests.deploy.conftest import MLP, SCALED, Trained

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")
Predicted = Callable[..., NDArray[np.float64]]


def of_onnx(folder: Path, images: list[Path]) -> NDArray[np.float64]:
    """Return probabilities of images, those of one size as one batch."""
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    pixels = [np.asarray(Image.open(path).convert("RGB")) for path in images]
    found = np.full((len(images), 2), np.nan)
    for size in {one.shape for one in pixels}:
        rows = [row for row, one in enumerate(pixels) if one.shape == size]
        found[rows] = session.run(["probabilities"], {"pixels": np.stack([pixels[row] for row in rows])})[0]
        alone = session.run(["probabilities"], {"pixels": pixels[rows[0]][None]})[0]
        np.testing.assert_allclose(found[rows[:1]], alone, atol=1e-5)
    return found


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dinov2", {}),
        pytest.param("lite0", {}, marks=pytest.mark.slow),
        pytest.param("timm", {}, marks=pytest.mark.slow),
        pytest.param("vit", MLP, marks=pytest.mark.slow),
        pytest.param("convnext", {"view__name": "letterbox"}, marks=pytest.mark.slow),
        pytest.param("registers", SCALED, marks=pytest.mark.slow),
        pytest.param("dinov2", {"view__resize_px": 0}, marks=pytest.mark.slow),
    ],
)
def test_onnxruntime_says_what_predict_says(
    name: str, options: dict[str, object], networks: dict[str, str], trained: Trained, predicted: Predicted,
    twenty: list[Path], tmp_path: Path,
) -> None:  # fmt: skip
    bundle: Bundle = trained(networks[name], **options)
    mpp = 0.49 if bundle.view.target_mpp else None
    ht.export(bundle, "onnx", out=tmp_path / "out", for_own_use=True, mpp=mpp)
    expected = predicted(bundle, mpp=mpp)
    np.testing.assert_allclose(of_onnx(tmp_path / "out", twenty), expected, rtol=0, atol=1e-4)
    facts = json.loads((tmp_path / "out" / "histotune_export.json").read_text(encoding="utf-8"))
    assert facts["input"]["shape"] == ["batch", "height", "width", 3] and facts["input"]["type"] == "uint8"


def test_a_view_with_a_scale_needs_that_of_the_images(
    networks: dict[str, str], trained: Trained, tmp_path: Path
) -> None:
    bundle = trained(networks["registers"], **SCALED)
    with pytest.raises(UserError, match="depends on the scale") as error:
        ht.export(bundle, "onnx", out=tmp_path / "out", for_own_use=True)
    assert "--mpp" in str(error.value) and not (tmp_path / "out").exists()


def test_missing_packages_are_named(
    networks: dict[str, str], trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histotune.deploy.export.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"onnx, onnxscript, onnxruntime") as error:
        ht.export(trained(networks["lite0"]), "onnx", out=tmp_path / "out")
    assert "histotune[onnx]" in str(error.value)
