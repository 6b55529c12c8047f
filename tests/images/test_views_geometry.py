"""Sizes, corners and scales: vectorised equals one by one, and what geometry says is where the pixels are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histotune.datasets.tileset import TileSet, tile_table
from histotune.images.config import ViewConfig
from histotune.images.views import input_mpp, place, resized_sizes, view_geometry, view_inputs
from histotune.tools.errors import UserError

NAMES = ["short-side-crop", "square", "letterbox", "tiles"]
VIEWS = [ViewConfig(name=name, target_mpp=target, size_px=56) for name in NAMES for target in (None, 0.5, 1.7)]
SIDES = st.integers(1, 400)


def tile_set(sizes: list[tuple[int | None, int | None]], mpp: list[float | None]) -> TileSet:
    table = tile_table({
        "tile_id": [f"{number:04d}" for number in range(len(sizes))], "path": ["p"] * len(sizes), "mpp": mpp,
        "width_px": [width for width, _ in sizes], "height_px": [height for _, height in sizes],
    })  # fmt: skip
    return TileSet("t", table, ("a", "b"), "", "")


def resized_by_hand(width: int, height: int, mpp: float, view: ViewConfig) -> tuple[int, int]:
    """Each view's definition in plain Python, one tile at a time."""
    size = view.size_px
    if view.target_mpp is not None:
        wanted = [mpp * side / view.target_mpp for side in (width, height)]
        if view.name == "square":
            wanted = [mpp * (width * height) ** 0.5 / view.target_mpp] * 2
        return max(int(wanted[0] + 0.5), 1), max(int(wanted[1] + 0.5), 1)
    if view.name == "square":
        return size, size
    if view.name == "letterbox":
        long = max(width, height)
        return max(int(size * width / long + 0.5), 1), max(int(size * height / long + 0.5), 1)
    return (size, int(size * height / width)) if width <= height else (int(size * width / height), size)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.words)
def test_scale_and_field_equal_brute_force(view: ViewConfig) -> None:
    rng = np.random.default_rng(3)
    sizes = [(int(a), int(b)) for a, b in rng.integers(40, 500, (40, 2))]
    mpp = rng.uniform(0.1, 0.8, len(sizes)).tolist()
    tiles = tile_set(sizes, mpp)
    geometry, mpp_N2 = view_geometry(tiles, view), input_mpp(tiles, view)
    for row, ((width, height), native) in enumerate(zip(sizes, mpp, strict=True)):
        resized = resized_by_hand(width, height, native, view)
        assert tuple(geometry.resized_px_N2[row]) == resized
        assert mpp_N2[row] == pytest.approx([native * width / resized[0], native * height / resized[1]])
        corners = (
            place(width, height, view, resized).corners_px if view.target_mpp else place(width, height, view).corners_px
        )
        assert len(corners) == geometry.n_inputs_N[row]
        seen = np.zeros((resized[1], resized[0]), np.bool_)
        for left, top in corners:
            seen[max(top, 0) : top + view.size_px, max(left, 0) : left + view.size_px] = True
        assert geometry.seen_share_N[row] == pytest.approx(seen.mean())
        field_um = [seen.any(axis=0).sum() * mpp_N2[row, 0], seen.any(axis=1).sum() * mpp_N2[row, 1]]
        assert geometry.field_um_N2[row] == pytest.approx(field_um)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.words)
def test_the_order_of_tiles_changes_nothing(view: ViewConfig) -> None:
    rng = np.random.default_rng(4)
    tiles = tile_set([(int(a), int(b)) for a, b in rng.integers(1, 900, (40, 2))], rng.uniform(0.1, 2.5, 40).tolist())
    order = rng.permutation(40)
    assert np.array_equal(input_mpp(tiles.take(order), view), input_mpp(tiles, view)[order])


def test_a_target_scale_is_reached_up_to_whole_pixels() -> None:
    sizes = [(700, 460)] * 4 + [(96, 96)]
    tiles = tile_set(sizes, [2.5, 1.0, 0.5, 0.25, 0.972])
    for name in NAMES:
        mpp_N2 = input_mpp(tiles, ViewConfig(name=name, target_mpp=0.5))
        assert np.sqrt(mpp_N2.prod(axis=1)) == pytest.approx([0.5] * 5, rel=0.004)
        assert name == "square" or mpp_N2 == pytest.approx(np.full((5, 2), 0.5), rel=0.004)


def test_unknown_scale_and_size_stay_unknown() -> None:
    tiles = tile_set([(96, 96), (96, 96), (None, 96)], [0.5, None, 0.5])
    for view in VIEWS:
        geometry = view_geometry(tiles, view)
        assert np.isnan(geometry.input_mpp_N2[1:]).all() and np.isnan(geometry.field_um_N2[1:]).all()
        assert geometry.known_N.tolist() == [True, view.target_mpp is None, False]
        assert np.isnan(geometry.seen_share_N[2]) and np.isnan(geometry.padded_share_N[2])
        assert geometry.n_inputs_N[2] == 0 and not geometry.enlarged_N[2]


@settings(max_examples=50)
@given(SIDES, SIDES, st.integers(26, 90))
def test_crops_cover_every_pixel_with_as_few_as_possible(width: int, height: int, size_px: int) -> None:
    view = ViewConfig(name="tiles", size_px=size_px, target_mpp=1.0)
    corners = place(width, height, view, (width, height)).corners_px
    seen = np.zeros((height, width), np.bool_)
    for left, top in corners:
        assert left + size_px <= width or width < size_px
        assert top + size_px <= height or height < size_px
        seen[max(top, 0) : top + size_px, max(left, 0) : left + size_px] = True
    assert seen.all()
    assert len(corners) == -(-width // size_px) * -(-height // size_px)


@settings(max_examples=30)
@given(SIDES, SIDES, st.sampled_from(VIEWS), st.tuples(*[st.integers(0, 255)] * 3))
def test_a_constant_image_stays_constant(width: int, height: int, view: ViewConfig, rgb: tuple[int, int, int]) -> None:
    view = view.model_copy(update={"pad_rgb": rgb})
    width, height = max(width, height // 20, 1), max(height, width // 20, 1)
    resized_px = None
    if view.target_mpp is not None:
        resized_px = tuple(int(side) for side in resized_sizes(width, height, view, 0.7))
    inputs_KSSC = view_inputs(np.full((height, width, 3), rgb, np.uint8), view, resized_px)
    assert inputs_KSSC.shape[1:] == (56, 56, 3)
    assert (inputs_KSSC == np.array(rgb, np.uint8)).all()


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.words)
@pytest.mark.parametrize(("width_px", "height_px"), [(70, 46), (46, 70), (64, 64)])
def test_a_marked_place_lands_where_geometry_says(width_px: int, height_px: int, view: ViewConfig) -> None:
    image_HWC = np.zeros((height_px, width_px, 3), np.uint8)
    x, y, side = width_px // 2 - 4, height_px // 2 - 3, 6
    image_HWC[y : y + side, x : x + side] = 255
    view = view.model_copy(update={"pad_rgb": (0, 0, 0)})
    resized_px = None
    if view.target_mpp is not None:
        resized_px = tuple(int(length) for length in resized_sizes(width_px, height_px, view, 0.6))
    placement = place(width_px, height_px, view, resized_px)
    centre = ((x + side / 2) * placement.resized_px[0] / width_px, (y + side / 2) * placement.resized_px[1] / height_px)
    n_seen = 0
    for (left, top), pixels_SSC in zip(placement.corners_px, view_inputs(image_HWC, view, resized_px), strict=True):
        light_SS = pixels_SSC[..., 0].astype(float)
        if light_SS[[0, -1]].any() or light_SS[:, [0, -1]].any() or not light_SS.any():
            continue  # the mark lies across the crop's edge, or outside
        n_seen += 1
        rows, columns = np.indices(light_SS.shape) + 0.5
        found = ((light_SS * columns).sum() / light_SS.sum(), (light_SS * rows).sum() / light_SS.sum())
        assert found == pytest.approx((centre[0] - left, centre[1] - top), abs=0.15)
    assert n_seen or view.name == "tiles"


def test_the_centre_of_an_image_stays_the_centre_of_the_one_input() -> None:
    for view in VIEWS:
        for width, height in [(70, 46), (46, 70), (64, 64), (33, 97)]:
            resized_px = None
            if view.target_mpp is not None:
                resized_px = tuple(int(side) for side in resized_sizes(width, height, view, 0.6))
            placement = place(width, height, view, resized_px)
            if len(placement.corners_px) == 1:
                (left, top), (new_width, new_height) = placement.corners_px[0], placement.resized_px
                assert abs(new_width / 2 - left - 28) <= 0.5 and abs(new_height / 2 - top - 28) <= 0.5


def test_images_too_large_for_a_view_are_refused() -> None:
    with pytest.raises(UserError, match="would become"):
        place(1, 60_000, ViewConfig())
    with pytest.raises(UserError, match="needs 300 crops"):
        place(100, 30_000, ViewConfig(name="tiles"))
    with pytest.raises(ValueError, match="target_mpp"):
        place(100, 100, ViewConfig(target_mpp=0.5))
