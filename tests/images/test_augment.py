"""What training makes of a tile: exact where it can be, reproducible by key, and never against what a label means."""

from __future__ import annotations

import subprocess
import sys
import warnings
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from scipy import ndimage

from histotune.datasets.tileset import LabelRegion, TileSet, tile_table
from histotune.images.augment import (
    GUTTER_PX,
    Drawn,
    Window,
    apply_drawn,
    augment,
    augment_batch,
    check_augmentation,
    contact_sheet,
    draw,
    keyed_rng,
    save_contact_sheet,
)
from histotune.images.config import AugmentConfig, ViewConfig
from histotune.images.stain import hed_of_rgb, rgb_of_hed
from histotune.images.views import view_inputs
from histotune.tools.errors import UserError
from tests.images.drawn import Drawing

OFF = AugmentConfig(dihedral=False, stain=0)
ALL = AugmentConfig(crop=0.5, stain=0.1, magnification=1.5, blur=1.5)
CENTRE = LabelRegion(left_px=32, top_px=32, width_px=32, height_px=32)
NATURAL = -np.log(1e-6)  # natural optical density of one unit in the space of scikit-image


def noise(size_px: int = 40, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (size_px, size_px, 3), dtype=np.uint8)


def tissue() -> NDArray[np.uint8]:
    return Drawing(diameter_px=12, height_px=112, width_px=112).image_HWC()


def dot(size_px: int, x: float, y: float) -> NDArray[np.uint8]:
    """A bright spot on black whose centre of mass is at (x, y), counted from the upper left corner."""
    at = np.arange(size_px) + 0.5
    plane_HW = np.exp(-((at[None, :] - x) ** 2 + (at[:, None] - y) ** 2) / (2 * 2.0**2))
    return np.rint(255 * plane_HW).astype(np.uint8)[:, :, None].repeat(3, axis=2)


def centre_of(image_HWC: NDArray[np.uint8]) -> tuple[float, float]:
    y, x = ndimage.center_of_mass(image_HWC[:, :, 0].astype(float))
    return x + 0.5, y + 0.5


def grey(image_HWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    return image_HWC.mean(axis=2)


def many(config: AugmentConfig, n: int) -> list[Drawn]:
    rng = np.random.default_rng(7)
    return [draw(config, rng) for _ in range(n)]


# ---- Config ----


@pytest.mark.parametrize(
    "fields",
    [{"crop": 0}, {"crop": 1.1}, {"stain": -0.1}, {"stain": 0.6}, {"magnification": 0.8}, {"magnification": 5},
     {"blur": -1}, {"blur": float("nan")}, {"stains": 0.1}],
    ids=str,
)  # fmt: skip
def test_settings_out_of_range_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        AugmentConfig(**fields)


def test_identity_names_what_has_an_effect() -> None:
    assert OFF.is_off and OFF.identity() == {}
    assert AugmentConfig(dihedral=False, stain=0, moves_label=True).is_off
    assert not AugmentConfig().is_off
    assert AugmentConfig().identity() == {"dihedral": True, "stain": 0.05}
    assert AugmentConfig(moves_label=True).identity() == AugmentConfig().identity()
    for change in ({"crop": 0.9}, {"stain": 0.1}, {"magnification": 1.1}, {"blur": 0.1}, {"dihedral": False}):
        assert AugmentConfig(**change).identity() != AugmentConfig().identity()
    assert ALL.identity() == {"dihedral": True, "crop": 0.5, "stain": 0.1, "magnification": 1.5, "blur": 1.5}


# ---- Drawing ----


def test_nothing_turned_on_leaves_every_byte() -> None:
    rng = np.random.default_rng(0)
    for number in range(20):
        tile_SSC = noise(seed=number)
        assert np.array_equal(augment(tile_SSC, OFF, rng), tile_SSC)


def test_neutral_numbers_leave_every_byte_and_give_a_new_array() -> None:
    tile_SSC = noise()
    found_SSC = apply_drawn(tile_SSC, Drawn())
    assert np.array_equal(found_SSC, tile_SSC)
    assert not np.shares_memory(found_SSC, tile_SSC)
    assert Drawn().window(40) == Window(0, 0, 40)


def test_draws_lie_in_their_ranges_and_fill_them() -> None:
    drawn = many(ALL, 4000)
    area = np.array([one.kept_side**2 for one in drawn])
    assert 0.5 <= area.min() < 0.51 and 0.99 < area.max() <= 1 and abs(area.mean() - 0.75) < 0.01
    zoom = np.log([one.zoom for one in drawn]) / np.log(1.5)
    assert -1 <= zoom.min() < -0.98 and 0.98 < zoom.max() <= 1 and abs(zoom.mean()) < 0.05
    for values in (np.array([one.dye_factors for one in drawn]) - 1, np.array([one.dye_shifts for one in drawn])):
        assert (
            (np.abs(values) <= 0.1).all() and (values.max(axis=0) > 0.098).all() and (values.min(axis=0) < -0.098).all()
        )
        assert np.abs(np.corrcoef(values.T) - np.eye(3)).max() < 0.06
    sigma = np.array([one.sigma_px for one in drawn])
    assert sigma.min() >= 0 and 1.48 < sigma.max() <= 1.5 and abs(sigma.mean() - 0.75) < 0.03
    places = np.array([(one.across, one.down) for one in drawn])
    assert places.min() < 0.01 and places.max() > 0.99 and abs(np.corrcoef(places.T)[0, 1]) < 0.06


def test_no_number_of_a_draw_depends_on_another() -> None:
    drawn = many(ALL, 4000)
    columns = [[one.dihedral, one.kept_side, one.across, one.down, one.zoom, one.sigma_px] for one in drawn]
    numbers = np.array([[*row, *one.dye_factors, *one.dye_shifts] for row, one in zip(columns, drawn, strict=True)])
    assert np.abs(np.corrcoef(numbers.T) - np.eye(12)).max() < 0.08


def test_the_eight_symmetries_are_equally_frequent() -> None:
    counts = np.bincount([one.dihedral for one in many(AugmentConfig(), 8000)], minlength=8)
    assert len(counts) == 8
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000 * 7 / 8)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"dihedral": False}, ("dihedral",)),
        ({"crop": 1.0}, ("kept_side",)),
        ({"stain": 0.0}, ("dye_factors", "dye_shifts")),
        ({"magnification": 1.0}, ("zoom",)),
        ({"blur": 0.0}, ("sigma_px",)),
    ],
    ids=str,
)
def test_a_setting_turned_off_leaves_the_other_draws(change: dict[str, float], names: tuple[str, ...]) -> None:
    changed, neutral = set(), asdict(Drawn())
    for with_it, without in zip(many(ALL, 20), many(ALL.model_copy(update=change), 20), strict=True):
        changed |= {name for name, value in asdict(without).items() if value != asdict(with_it)[name]}
        assert all(asdict(without)[name] == neutral[name] for name in names)
    assert changed == set(names)


# ---- A batch ----


def test_a_tiles_draw_depends_on_seed_and_key_alone() -> None:
    tiles_BSSC = np.stack([noise(seed=number) for number in range(5)])
    keys = ["a", "b", 3, "d", "e"]
    whole_BSSC = augment_batch(tiles_BSSC, ALL, 1, keys)
    order = np.array([4, 2, 0, 3, 1])
    assert np.array_equal(augment_batch(tiles_BSSC[order], ALL, 1, [keys[row] for row in order]), whole_BSSC[order])
    for row, key in enumerate(keys):
        assert np.array_equal(augment_batch(tiles_BSSC[row : row + 1], ALL, 1, [key])[0], whole_BSSC[row])
        assert np.array_equal(augment(tiles_BSSC[row], ALL, keyed_rng(1, key)), whole_BSSC[row])
    assert not np.array_equal(augment_batch(tiles_BSSC, ALL, 2, keys), whole_BSSC)


def test_seeds_and_keys_give_different_draws() -> None:
    drawn = {draw(ALL, keyed_rng(seed, key)) for seed in (0, 1, 11) for key in ("", "1", "1 1", 11, "a")}
    assert len(drawn) == 15
    assert draw(ALL, keyed_rng(0, 7)) == draw(ALL, keyed_rng(0, "7"))


def test_a_batch_needs_a_key_for_each_tile() -> None:
    with pytest.raises(ValueError, match="1 keys for 2 tiles"):
        augment_batch(np.zeros((2, 8, 8, 3), np.uint8), ALL, 0, ["a"])
    assert augment_batch(np.zeros((0, 8, 8, 3), np.uint8), ALL, 0, []).shape == (0, 8, 8, 3)


@pytest.mark.parametrize(
    "tile",
    [np.zeros((8, 9, 3), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3))],
    ids=lambda tile: f"{tile.dtype}{tile.shape}",
)
def test_what_is_no_square_tile_of_bytes_is_refused(tile: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"takes uint8 \(S, S, 3\)"):
        apply_drawn(tile, Drawn())


# ---- Geometry ----


def test_symmetries_are_the_eight_of_pillow() -> None:
    tile_SSC = noise(9)
    flips = [None, *Image.Transpose]
    expected = [np.asarray(Image.fromarray(tile_SSC) if flip is None else Image.fromarray(tile_SSC).transpose(flip))
                for flip in flips]  # fmt: skip
    found = [apply_drawn(tile_SSC, Drawn(dihedral=number)) for number in range(8)]
    assert len({one.tobytes() for one in found}) == 8
    assert {one.tobytes() for one in found} == {one.tobytes() for one in expected}


@pytest.mark.parametrize("zoom", [0.6, 0.8, 1.25, 1.7])
@pytest.mark.parametrize(("x", "y"), [(48.0, 48.0), (60.5, 40.0), (33.25, 58.5)])
def test_a_zoom_moves_a_dot_away_from_the_centre_by_its_factor(zoom: float, x: float, y: float) -> None:
    window_SSC = apply_drawn(dot(96, x, y), Drawn(zoom=zoom))
    # Reflections of the dot lie beyond the tile's own share of the picture; they are left out.
    half_px = round(48 * min(zoom, 1))
    own_SSC = window_SSC[48 - half_px : 48 + half_px, 48 - half_px : 48 + half_px]
    expected = (half_px + (x - 48) * zoom, half_px + (y - 48) * zoom)
    assert centre_of(own_SSC) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(("across", "down"), [(0.0, 0.0), (1.0, 0.3), (0.5, 1.0)])
def test_a_crop_is_a_window_resized_to_the_whole_tile(across: float, down: float) -> None:
    drawn = Drawn(kept_side=0.5, across=across, down=down)
    left, top = across * 48, down * 48
    window = drawn.window(96)
    assert (window.left_px, window.top_px, window.side_px) == pytest.approx((left, top, 48))
    found = centre_of(apply_drawn(dot(96, left + 20, top + 30), drawn))
    assert found == pytest.approx((40, 60), abs=0.1)


def test_crop_and_zoom_equal_pillows_resize_of_the_box() -> None:
    tile_SSC = noise(64)
    expected = Image.fromarray(tile_SSC).resize((64, 64), Image.Resampling.BICUBIC, box=(8, 16, 40, 48))
    assert np.array_equal(apply_drawn(tile_SSC, Drawn(kept_side=0.5, across=0.25, down=0.5)), np.asarray(expected))
    doubled = Image.fromarray(tile_SSC).resize((64, 64), Image.Resampling.BICUBIC, box=(16, 16, 48, 48))
    assert np.array_equal(apply_drawn(tile_SSC, Drawn(zoom=2.0)), np.asarray(doubled))


def test_beyond_the_border_a_zoom_shows_the_mirror_image() -> None:
    found_SSC = apply_drawn(dot(64, 10.5, 32), Drawn(zoom=0.5))
    # The mirror stands at the centre of the first pixel, 0.5: 10.5 is seen again at -9.5, and both halve their
    # distances from the centre.
    left, right = found_SSC[:, :16], found_SSC[:, 16:32]
    assert centre_of(left)[0] == pytest.approx(32 + (-9.5 - 32) / 2, abs=0.15)
    assert centre_of(right)[0] + 16 == pytest.approx(32 + (10.5 - 32) / 2, abs=0.15)


def test_a_zoom_out_takes_real_pixels_where_a_crop_left_some() -> None:
    tile_SSC = noise(64)
    drawn = Drawn(kept_side=0.5, zoom=0.5)  # the crop's centre, seen from twice as far, is the whole tile
    assert np.array_equal(apply_drawn(tile_SSC, drawn), tile_SSC)


# ---- Stain and blur ----


def test_stain_jitter_is_done_in_the_space_of_the_dyes() -> None:
    amounts_HWC = np.random.default_rng(3).uniform(0, 0.06, (40, 40, 3))
    tile_SSC = np.rint(255 * rgb_of_hed(amounts_HWC)).astype(np.uint8)
    hed_HWC = hed_of_rgb(tile_SSC)
    mixed_HW = (hed_HWC > 0).all(axis=2)  # elsewhere scikit-image's space clips negative amounts
    assert mixed_HW.mean() > 0.9
    factors, shifts = (1.2, 0.85, 1.1), (0.1, -0.05, 0.02)
    expected_HWC = 255 * rgb_of_hed(hed_HWC * factors + np.array(shifts) / NATURAL)
    found_SSC = apply_drawn(tile_SSC, Drawn(dye_factors=factors, dye_shifts=shifts))
    assert np.abs(found_SSC - expected_HWC)[mixed_HW].max() < 2
    assert np.abs(found_SSC - tile_SSC.astype(float)).mean() > 5


def test_a_shift_stains_what_is_white_as_well() -> None:
    white_SSC = np.full((8, 8, 3), 255, np.uint8)
    found_SSC = apply_drawn(white_SSC, Drawn(dye_shifts=(0.2, 0.0, 0.0)))
    expected_C = 255 * rgb_of_hed(np.array([0.2, 0.0, 0.0]) / NATURAL)
    assert np.abs(found_SSC - expected_C).max() < 1.5
    assert np.array_equal(apply_drawn(white_SSC, Drawn(dye_factors=(1.2, 0.8, 1.1))), white_SSC)


def test_a_dyes_factor_changes_that_dye_alone() -> None:
    amounts_HWC = np.full((16, 16, 3), (0.04, 0.03, 0.02))
    tile_SSC = np.rint(255 * rgb_of_hed(amounts_HWC)).astype(np.uint8)
    for dye in range(3):
        factors = [1.0, 1.0, 1.0]
        factors[dye] = 1.4
        found = hed_of_rgb(apply_drawn(tile_SSC, Drawn(dye_factors=tuple(factors))))
        assert found == pytest.approx(amounts_HWC * factors, abs=0.0015)


def test_stain_jitter_changes_colours_and_keeps_structure() -> None:
    tile_SSC = tissue()
    for number in range(20):
        found_SSC = augment(tile_SSC, OFF.model_copy(update={"stain": 0.2}), np.random.default_rng(number))
        assert np.corrcoef(grey(found_SSC).ravel(), grey(tile_SSC).ravel())[0, 1] > 0.98
        moved_C = (found_SSC.astype(float) - tile_SSC).mean(axis=(0, 1))
        assert np.abs(moved_C).max() > 1
    small_SSC = augment(tile_SSC, OFF.model_copy(update={"stain": 0.001}), np.random.default_rng(0))
    assert np.abs(small_SSC.astype(int) - tile_SSC).max() <= 1


def test_blur_is_a_gaussian_and_lowers_the_energy_of_gradients() -> None:
    tile_SSC = tissue()

    def energy(image_HWC: NDArray[np.uint8]) -> float:
        return sum(float((np.diff(grey(image_HWC), axis=axis) ** 2).mean()) for axis in (0, 1))

    blurred = [apply_drawn(tile_SSC, Drawn(sigma_px=sigma)) for sigma in (0.0, 0.5, 1.0, 2.0, 4.0)]
    energies = [energy(one) for one in blurred]
    assert all(later < 0.9 * earlier for earlier, later in pairwise(energies))
    for sigma, found_SSC in zip((1.0, 2.0, 4.0), blurred[2:], strict=True):
        exact_HWC = ndimage.gaussian_filter(tile_SSC.astype(float), (sigma, sigma, 0), mode="nearest")
        away = np.abs(found_SSC - exact_HWC)
        assert away.mean() < 0.05 * np.abs(tile_SSC - exact_HWC).mean() + 0.5


# ---- Any settings, any pixels ----


@st.composite
def configs(draw_one: st.DrawFn) -> AugmentConfig:
    return AugmentConfig(
        dihedral=draw_one(st.booleans()),
        crop=draw_one(st.floats(0.05, 1)),
        stain=draw_one(st.floats(0, 0.5)),
        magnification=draw_one(st.floats(1, 4)),
        blur=draw_one(st.floats(0, 10)),
    )


@settings(max_examples=150)
@given(configs(), st.integers(1, 40), st.integers(0, 10**6), st.sampled_from(["noise", "black", "white", "red"]))
def test_any_settings_give_a_tile_of_the_same_kind(config: AugmentConfig, size_px: int, seed: int, kind: str) -> None:
    flat = {"black": (0, 0, 0), "white": (255, 255, 255), "red": (255, 0, 0)}
    tile_SSC = noise(size_px, seed) if kind == "noise" else np.full((size_px, size_px, 3), flat[kind], np.uint8)
    before = tile_SSC.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found_SSC = augment(tile_SSC, config, np.random.default_rng(seed))
    assert found_SSC.dtype == np.uint8 and found_SSC.shape == tile_SSC.shape
    assert np.array_equal(tile_SSC, before)
    if kind != "noise":  # one colour stays one colour
        assert len(np.unique(found_SSC.reshape(-1, 3), axis=0)) == 1


def test_neither_torch_nor_torchvision_is_loaded() -> None:
    code = (
        "import sys, numpy as np; from histotune.images.augment import augment_batch; "
        "from histotune.images.config import AugmentConfig; "
        "config = AugmentConfig(crop=0.5, stain=0.1, magnification=2, blur=1); "
        "augment_batch(np.zeros((1, 8, 8, 3), np.uint8), config, 0, ['a']); "
        "print({'torch', 'torchvision'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# ---- The region of a label ----


def tile_set(region: LabelRegion | None = CENTRE, width_px: int | None = 96) -> TileSet:
    table = tile_table({
        "tile_id": ["a", "b", "c"], "path": ["p"] * 3, "mpp": [0.972] * 3,
        "width_px": [width_px] * 3, "height_px": [96] * 3,
    })  # fmt: skip
    return TileSet("made up", table, ("a", "b"), "", "", label_region=region)


def test_what_keeps_the_region_in_its_place_passes() -> None:
    kept = AugmentConfig(stain=0.3, blur=3, magnification=3)  # the middle third stays whole up to three times
    check_augmentation(tile_set(), ViewConfig(), kept)
    wider = kept.model_copy(update={"magnification": 4.0, "crop": 0.2})
    check_augmentation(tile_set(region=None), ViewConfig(), wider)
    check_augmentation(tile_set(), ViewConfig(), wider.model_copy(update={"moves_label": True}))


@pytest.mark.parametrize(
    ("change", "words", "fix"),
    [
        ({"crop": 0.9}, "crops at random places move it", "crop=1"),
        ({"magnification": 3.01}, "a factor above 3 cuts it", "magnification=3"),
    ],
    ids=str,
)
def test_what_moves_or_cuts_the_region_is_refused(change: dict[str, float], words: str, fix: str) -> None:
    config = AugmentConfig(**change)
    with pytest.raises(UserError, match=f"32 x 32 px at .*{words}") as caught:
        check_augmentation(tile_set(), ViewConfig(), config)
    assert f"--set finetune.augment.{fix}, or accept it" in str(caught.value)
    assert "moves_label=true" in str(caught.value)
    name, value = fix.split("=")
    check_augmentation(tile_set(), ViewConfig(), config.model_copy(update={name: float(value)}))


def test_all_that_moves_the_region_is_reported_together() -> None:
    with pytest.raises(UserError, match=r"(?s)crops at random.*a factor above 3"):
        check_augmentation(tile_set(), ViewConfig(), AugmentConfig(crop=0.5, magnification=4))


@pytest.mark.parametrize(("target_mpp", "most"), [(0.5, 224 / (32 * 0.972 / 0.5)), (0.2, 224 / (32 * 0.972 / 0.2))])
def test_the_views_scale_decides_how_far_a_zoom_may_go(target_mpp: float, most: float) -> None:
    view = ViewConfig(target_mpp=target_mpp)
    check_augmentation(tile_set(), view, AugmentConfig(magnification=0.98 * most))
    with pytest.raises(UserError, match="cuts it"):
        check_augmentation(tile_set(), view, AugmentConfig(magnification=1.02 * most))


@pytest.mark.parametrize(("zoom", "seen"), [(2.9, True), (3.3, False)])
def test_the_limit_is_where_the_pixels_of_the_region_leave_the_picture(zoom: float, seen: bool) -> None:
    image_HWC = np.zeros((96, 96, 3), np.uint8)
    image_HWC[32:64, 32:64] = 255
    image_HWC[33:63, 33:63] = 0  # the outermost pixels of the region alone are white
    (tile_SSC,) = view_inputs(image_HWC, ViewConfig())
    found_SSC = apply_drawn(tile_SSC, Drawn(zoom=zoom))
    assert (found_SSC.max() > 200) == seen


def test_turns_move_a_region_that_is_no_square_at_the_centre() -> None:
    for region in (LabelRegion(10, 32, 32, 32), LabelRegion(32, 10, 32, 32), LabelRegion(28, 32, 40, 32)):
        with pytest.raises(UserError, match="no square at the centre") as caught:
            check_augmentation(tile_set(region), ViewConfig(), AugmentConfig())
        assert "augment.dihedral=false" in str(caught.value)
        check_augmentation(tile_set(region), ViewConfig(), AugmentConfig(dihedral=False))
    with pytest.raises(UserError, match="magnification=1, or"):  # a region up to the border allows no zoom at all
        check_augmentation(tile_set(LabelRegion(0, 0, 96, 96)), ViewConfig(), AugmentConfig(magnification=1.1))


def test_tiles_that_the_view_has_cut_or_that_have_no_size_are_not_judged() -> None:
    zooms = AugmentConfig(magnification=4)
    check_augmentation(tile_set(), ViewConfig(target_mpp=0.1, allow_moved_label=True), zooms)
    check_augmentation(tile_set(), ViewConfig(name="tiles", target_mpp=0.2, allow_moved_label=True), zooms)
    check_augmentation(tile_set(width_px=None), ViewConfig(), zooms)
    with pytest.raises(UserError, match="crops at random places"):
        check_augmentation(tile_set(width_px=None), ViewConfig(), AugmentConfig(crop=0.5))


# ---- The sheet ----


def test_a_contact_sheet_shows_each_tile_and_then_its_draws(tmp_path: Path) -> None:
    tiles = [noise(24, seed) for seed in range(3)]
    sheet_HWC = np.asarray(contact_sheet(tiles, ALL, seed=5, n_views=4))
    pitch_px = 24 + GUTTER_PX
    assert sheet_HWC.shape == (3 * pitch_px - GUTTER_PX, 5 * pitch_px - GUTTER_PX, 3)
    for row, tile_SSC in enumerate(tiles):
        cells = [sheet_HWC[row * pitch_px :, column * pitch_px :][:24, :24] for column in range(5)]
        assert np.array_equal(cells[0], tile_SSC)
        for number, cell in enumerate(cells[1:]):
            assert np.array_equal(cell, augment(tile_SSC, ALL, keyed_rng(5, f"{row} {number}")))
        assert len({cell.tobytes() for cell in cells}) == 5
    inside = np.arange(sheet_HWC.shape[1]) % pitch_px < 24
    assert (sheet_HWC[:, ~inside] == 255).all()
    save_contact_sheet(tmp_path / "new" / "sheet.png", tiles, ALL, 5, 4)
    with Image.open(tmp_path / "new" / "sheet.png") as saved:
        assert saved.format == "PNG"
        assert np.array_equal(np.asarray(saved), sheet_HWC)


def test_a_contact_sheet_needs_tiles_of_one_size() -> None:
    for tiles in ([], [noise(24), noise(25)]):
        with pytest.raises(ValueError, match="tiles of one size"):
            contact_sheet(tiles, ALL, 0)


def test_a_drawn_record_says_what_it_does() -> None:
    drawn = replace(Drawn(), kept_side=0.5, across=0.0, down=1.0, zoom=2.0)
    assert drawn.window(80) == Window(left_px=10.0, top_px=50.0, side_px=20.0)
