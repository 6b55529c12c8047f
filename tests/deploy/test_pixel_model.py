"""The view as a torch module equals Pillow's to the last bit, for images of every size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from histotune.deploy.pixel_model import AnySizeView, FixedSizeView
from histotune.images.config import ViewConfig
from histotune.images.views import resized_sizes, view_inputs

SIDES = st.integers(14, 150)


def resized(view: ViewConfig, width: int, height: int, mpp: float) -> tuple[int, int] | None:
    if view.target_mpp is None:
        return None
    found = resized_sizes(width, height, view, mpp)
    return int(found[0]), int(found[1])


@st.composite
def views(draw: st.DrawFn) -> ViewConfig:
    size = draw(st.integers(14, 64))
    return ViewConfig(
        name=draw(st.sampled_from(["short-side-crop", "square", "letterbox"])),
        size_px=size,
        resize_px=draw(st.sampled_from([None, 0, size + 5, max(size - 3, 1)])),
        interpolation=draw(st.sampled_from(["bilinear", "bicubic"])),
        target_mpp=draw(st.sampled_from([None, 0.7])),
        pad_rgb=(255, 0, 128),
    )


@settings(max_examples=60)
@given(view=views(), width=SIDES, height=SIDES, mpp=st.sampled_from([0.25, 0.5, 1.3]), seed=st.integers(0, 99))
def test_any_size_equals_pillow(view: ViewConfig, width: int, height: int, mpp: float, seed: int) -> None:
    image_HWC = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image_HWC[:, : width // 2] = np.where(image_HWC[:, : width // 2] < 128, 0, 255)
    size = resized(view, width, height, mpp)
    expected_SSC = view_inputs(image_HWC, view, size)[0]
    module = AnySizeView(view, mpp if view.target_mpp else None)
    found_SSC = module(torch.from_numpy(image_HWC)[None])[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(found_SSC, expected_SSC)


@settings(max_examples=40)
@given(view=views(), side=SIDES, mpp=st.sampled_from([0.25, 0.5, 1.3]), seed=st.integers(0, 99))
def test_one_size_equals_pillow(view: ViewConfig, side: int, mpp: float, seed: int) -> None:
    image_TTC = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    expected_SSC = view_inputs(image_TTC, view, resized(view, side, side, mpp))[0]
    module = FixedSizeView(view, side, mpp if view.target_mpp else None)
    x_BCTT = torch.from_numpy(image_TTC).permute(2, 0, 1)[None].float() / 255
    np.testing.assert_array_equal(module(x_BCTT)[0].permute(1, 2, 0).numpy(), expected_SSC)


@pytest.mark.parametrize("batch", [1, 5])
def test_a_batch_is_its_images(batch: int) -> None:
    pixels_BHWC = torch.randint(0, 256, (batch, 40, 61, 3), dtype=torch.uint8)
    module = AnySizeView(ViewConfig(size_px=28, resize_px=30))
    alone = torch.cat([module(one[None]) for one in pixels_BHWC])
    assert torch.equal(module(pixels_BHWC), alone)
