"""The device path gives Pillow's very pixels, or says beforehand that it can't."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from histotune.images import device_resize, views
from histotune.images.config import ViewConfig
from histotune.images.decode import read_pixels
from histotune.images.device_resize import (
    DeviceResizer,
    ResizePlan,
    fixed_weights,
    is_exact,
    passes_vertical_first,
    split_weights,
)
from histotune.images.views import device_plan, device_resizable, resized_sizes, view_inputs

INTERPOLATIONS = ["bilinear", "bicubic"]
SIZES = [(96, 96), (350, 230), (230, 350), (201, 199), (1, 1), (1, 20), (20, 1), (50, 210), (56, 56)]


def noise(width_px: int, height_px: int, n: int = 2) -> np.ndarray:
    """Noise, the last image with nothing between black and white, which overshoots most."""
    images_NHWC = np.random.default_rng(width_px).integers(0, 256, (n, height_px, width_px, 3), dtype=np.uint8)
    images_NHWC[-1] = np.where(images_NHWC[-1] < 128, 0, 255)
    return images_NHWC


def on_device(plan: ResizePlan, images_NHWC: np.ndarray) -> np.ndarray:
    return DeviceResizer(plan)(torch.from_numpy(images_NHWC.copy())).numpy()


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("name", ["short-side-crop", "square", "letterbox", "tiles"])
@pytest.mark.parametrize(("width_px", "height_px"), SIZES)
def test_every_view_equals_pillow(width_px: int, height_px: int, name: str, interpolation: str) -> None:
    view = ViewConfig(name=name, interpolation=interpolation, size_px=56, pad_rgb=(9, 200, 31))
    images_NHWC = noise(width_px, height_px)
    expected = np.concatenate([view_inputs(image_HWC, view) for image_HWC in images_NHWC])
    found = on_device(device_plan(view, (width_px, height_px)), images_NHWC)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(("width_px", "height_px"), [(96, 96), (700, 460)])
def test_the_documented_view_equals_pillow_at_full_size(width_px: int, height_px: int, interpolation: str) -> None:
    view = ViewConfig(interpolation=interpolation)
    images_NHWC = noise(width_px, height_px)
    expected = np.concatenate([view_inputs(image_HWC, view) for image_HWC in images_NHWC])
    assert np.array_equal(on_device(device_plan(view, (width_px, height_px)), images_NHWC), expected)


@settings(max_examples=50)
@given(st.tuples(*[st.integers(1, 90)] * 4), st.sampled_from(INTERPOLATIONS), st.integers(0, 2**32 - 1))
def test_any_size_to_any_size(sides: tuple[int, ...], interpolation: str, seed: int) -> None:
    width, height, new_width, new_height = sides
    image_HWC = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    resized_px = (new_width, new_height)
    order = passes_vertical_first((width, height), resized_px, views._pillow_major())
    plan = ResizePlan((width, height), resized_px, max(resized_px), ((0, 0),), interpolation, vertical_first=order)
    assume(is_exact(plan))
    resample = Image.Resampling[interpolation.upper()]
    expected_HWC = np.asarray(Image.fromarray(image_HWC).resize(resized_px, resample))
    assert np.array_equal(on_device(plan, image_HWC[None])[0, :new_height, :new_width], expected_HWC)


@pytest.mark.parametrize("target_mpp", [0.2, 0.47, 3.0])
def test_a_target_scale_on_the_device(target_mpp: float) -> None:
    view = ViewConfig(name="tiles", size_px=56, target_mpp=target_mpp)
    width_px, height_px = (int(side) for side in resized_sizes(61, 97, view, 0.5))
    images_NHWC = noise(61, 97)
    expected = np.concatenate([view_inputs(image, view, (width_px, height_px)) for image in images_NHWC])
    assert np.array_equal(on_device(device_plan(view, (61, 97), (width_px, height_px)), images_NHWC), expected)


def test_a_batch_equals_one_by_one() -> None:
    images_NHWC = noise(70, 46, 5)
    plan = device_plan(ViewConfig(name="tiles", size_px=28), (70, 46))
    together = on_device(plan, images_NHWC)
    assert together.shape == (5 * len(plan.corners_px), 28, 28, 3)
    assert np.array_equal(together, np.concatenate([on_device(plan, image_HWC[None]) for image_HWC in images_NHWC]))


def test_memory_is_as_a_network_takes_it() -> None:
    inputs_BSSC = DeviceResizer(device_plan(ViewConfig(), (96, 96)))(torch.from_numpy(noise(96, 96)))
    assert inputs_BSSC.permute(0, 3, 1, 2).is_contiguous()


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_split_weights_make_up_the_weights_and_stay_within_tf32(interpolation: str) -> None:
    weights_OI = fixed_weights(96, 224, interpolation)
    parts = split_weights(weights_OI)
    assert np.array_equal(4096 * parts.high_OI.astype(np.int64) + parts.low_OI.astype(np.int64), weights_OI)
    assert max(np.abs(parts.high_OI).max(), np.abs(parts.low_OI).max()) <= 2048  # 11 bits, exact in TF32
    assert np.abs(weights_OI.sum(axis=1) - 2**22).max() <= weights_OI.shape[1]


def test_the_order_of_passes_is_that_of_the_installed_pillow() -> None:
    for source_px, resized_px in [
        ((40, 90), (40, 20)),
        ((40, 90), (30, 71)),
        ((40, 90), (30, 69)),
        ((40, 20), (80, 19)),
    ]:
        image_HWC = noise(*source_px, n=1)[0]
        expected_HWC = np.asarray(Image.fromarray(image_HWC).resize(resized_px, Image.Resampling.BICUBIC))
        order = passes_vertical_first(source_px, resized_px, views._pillow_major())
        plan = ResizePlan(source_px, resized_px, max(resized_px), ((0, 0),), vertical_first=order)
        found = on_device(plan, image_HWC[None])[0, : resized_px[1], : resized_px[0]]
        assert np.array_equal(found, expected_HWC), (source_px, resized_px)
    assert not passes_vertical_first((40, 90), (40, 20), 12)


def test_sums_that_float32_cannot_hold_are_left_to_pillow() -> None:
    plan = ResizePlan((7000, 7000), (224, 224), 224, ((0, 0),))
    assert not is_exact(plan)
    with pytest.raises(ValueError, match="exactly"):
        DeviceResizer(plan)
    verdict = device_resizable(ViewConfig(), [((96, 96), None), ((7000, 7000), None)])
    assert not verdict
    assert "7000 x 7000" in verdict.reason
    assert device_resizable(ViewConfig(), [((96, 96), None), ((2048, 2048), None)])


def test_images_that_a_view_refuses_are_no_matter_for_the_device() -> None:
    verdict = device_resizable(ViewConfig(), [((1, 60_000), None)])
    assert not verdict
    assert "would become" in verdict.reason


def test_a_device_that_computes_otherwise_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [((96, 96), None)]
    assert device_resizable(ViewConfig(), sizes, "cpu")
    exact = device_resize._rounded

    def coarse(high: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
        return exact(high.bfloat16().float(), low)

    monkeypatch.setattr(device_resize, "_rounded", coarse)
    verdict = device_resizable(ViewConfig(), sizes, "cpu")
    assert not verdict
    assert "differently from Pillow" in verdict.reason


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_reduced_float32_products_are_exact_or_found_out(precision: str) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        plan, images_NHWC = device_plan(ViewConfig(), (96, 96)), noise(96, 96)
        equal = np.array_equal(
            on_device(plan, images_NHWC), np.concatenate([view_inputs(i, ViewConfig()) for i in images_NHWC])
        )
        assert equal == bool(device_resizable(ViewConfig(), [((96, 96), None)], "cpu"))
        assert equal or precision == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_other_sizes_and_types_are_refused() -> None:
    resizer = DeviceResizer(device_plan(ViewConfig(), (96, 96)))
    for images in (torch.zeros(1, 96, 95, 3, dtype=torch.uint8), torch.zeros(1, 96, 96, 3)):
        with pytest.raises(ValueError, match="expected uint8"):
            resizer(images)


def test_the_module_stands_alone() -> None:
    code = (
        "import sys, importlib.util as u; s = u.spec_from_file_location('alone', sys.argv[1]);"
        "m = u.module_from_spec(s); sys.modules['alone'] = m; s.loader.exec_module(m);"
        "assert not {'torch', 'numpy', 'histotune', 'PIL'} & set(sys.modules), sorted(sys.modules);"
        "assert m.fixed_weights(2, 1, 'bilinear').tolist() == [[2097152, 2097152]]"
    )
    subprocess.run([sys.executable, "-I", "-c", code, device_resize.__file__], check=True, cwd=Path.home())


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_equals_pillow() -> None:
    for interpolation in INTERPOLATIONS:
        view = ViewConfig(interpolation=interpolation)
        assert device_resizable(view, [((96, 96), None), ((700, 460), None)], "cuda")


@pytest.mark.real_data
def test_real_images_are_resized_as_pillow_does(real_data: Path) -> None:
    paths = sorted(real_data.rglob("*.png"))[::46] + sorted(real_data.rglob("*.tif"))[::9]
    assert len(paths) > 6
    for path in paths:
        image_HWC = read_pixels(path)
        for view in (ViewConfig(), ViewConfig(interpolation="bilinear")):
            plan = device_plan(view, (image_HWC.shape[1], image_HWC.shape[0]))
            assert np.array_equal(on_device(plan, image_HWC[None]), view_inputs(image_HWC, view)), path
