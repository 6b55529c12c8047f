"""What widens the range of a measured scale, what refuses it, and that the truth lies inside."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image, ImageFilter

from histotune.datasets.synthetic.cohort import SyntheticConfig, make_cases
from histotune.datasets.synthetic.render import SCANNER, render
from histotune.datasets.synthetic.tissue import FieldWindow
from histotune.datasets.tileset import TileSet, tile_table
from histotune.images.config import ScaleConfig
from histotune.images.nuclei import missing_detail
from histotune.images.scale import PRIORS, ScaleEstimate, estimate_scale, find_prior
from histotune.images.scale_doubts import MOST, NO_RULER, classes_apart, doubts_of
from tests.images.drawn import Drawing

BREAST = ScaleConfig(tissue="breast", n_resamples=100)


def measured(diameters_px: list[float], labels: list[str]) -> pl.DataFrame:
    reason = ["" if math.isfinite(value) else "too few nuclei" for value in diameters_px]
    return pl.DataFrame({"label": labels, "diameter_px": diameters_px, "reason": reason})


def words(here: pl.DataFrame, diameter_px: float = 20.0) -> str:
    return "; ".join(doubt.words for doubt in doubts_of(here, diameter_px))


def test_each_doubt_is_named() -> None:
    sure = measured([20.0] * 30, ["a"] * 30)
    assert words(sure) == ""
    assert words(measured([20.0] * 8, ["a"] * 8)) == "only 8 of 8 tiles could be measured"
    assert "only 30 of 70" in words(measured([20.0] * 30 + [math.nan] * 40, ["a"] * 70))
    assert "near the limit of the pixels" in words(sure, 6.5)
    assert "differ by a factor of 1.44" in words(measured([20.0] * 15 + [28.8] * 15, ["a"] * 15 + ["b"] * 15))
    assert doubts_of(sure, math.nan) == ()


def test_a_class_with_few_measured_tiles_or_no_label_tells_nothing() -> None:
    assert classes_apart(measured([20.0] * 20 + [60.0] * 4, ["a"] * 20 + ["b"] * 4)) == 1.0
    unlabelled = measured([20.0] * 20, ["a"] * 20).with_columns(label=pl.lit(None, pl.String))
    assert classes_apart(unlabelled) == 1.0
    assert classes_apart(measured([20.0] * 20 + [30.0] * 20, ["a"] * 20 + ["b"] * 20)) == pytest.approx(1.5)


def tiles_of(folder: Path, images: list[np.ndarray], labels: list[int], groups: list[str | None]) -> TileSet:
    names = [f"{number:03d}" for number in range(len(images))]
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(folder / f"{name}.png")
    paths = [str(folder / f"{name}.png") for name in names]
    table = tile_table({"tile_id": names, "path": paths, "label": labels, "group_id": groups})
    return TileSet("mine", table, ("lymphocytes", "tumour"), "", "")


def test_classes_of_other_nuclei_have_no_common_ruler(tmp_path: Path) -> None:
    drawn = [Drawing(px, 160, 200, seed=seed).image_HWC() for seed in range(9) for px in (9, 20)]
    tiles = tiles_of(tmp_path, drawn, [0, 1] * 9, [f"g{number // 2}" for number in range(18)])
    found = estimate_scale(tiles, BREAST)
    assert (found.magnifications[0].how, found.magnifications[0].reason) == ("not estimable", NO_RULER)
    assert found.settings("source") == ()
    alone = estimate_scale(tiles.where(pl.col("label") == 1), BREAST)
    assert alone.magnifications[0].how == "measured"


def test_a_ruler_is_wider_on_other_data_than_its_own() -> None:
    assert find_prior("breakhis", ScaleConfig()) == PRIORS["breast"]
    assert find_prior("mine", BREAST).factor > PRIORS["breast"].factor
    assert find_prior("mine", ScaleConfig(nucleus_um=8.0)).factor == ScaleConfig().nucleus_factor


@pytest.mark.parametrize("how", ["BICUBIC", "BILINEAR", "LANCZOS", "NEAREST"])
def test_images_enlarged_twice_look_so(how: str) -> None:
    rng = np.random.default_rng(0)
    small = np.clip(Drawing(9, 160, 200, seed=1).image_HWC() + rng.normal(0, 4, (160, 200, 3)), 0, 255).astype(np.uint8)
    large = Image.fromarray(small).resize((400, 320), getattr(Image.Resampling, how))
    assert not missing_detail(small)
    assert missing_detail(np.asarray(large))


def test_enlarged_images_are_said_in_the_notes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = []
    for seed in range(3):
        drawn = Drawing(9, 160, 200, seed=seed).image_HWC() + rng.normal(0, 4, (160, 200, 3))
        images.append(np.clip(drawn, 0, 255).astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1))
    found = estimate_scale(tiles_of(tmp_path, images, [0] * 3, ["a", "b", "c"]), BREAST)
    assert any("look as if they had been enlarged" in note for note in found.notes)


def rendered(folder: Path, nucleus_um: float, blur_px: float, mpp: float) -> TileSet:
    """Write 12 tiles of six cases whose nuclei have a size of our choice, blurred."""
    folder.mkdir()
    rng, images = np.random.default_rng([int(10 * nucleus_um), int(10 * blur_px), int(100 * mpp)]), []
    for case in make_cases(SyntheticConfig(seed=5, n_groups=8))[:6]:
        tissue = replace(case.tissue, nucleus_um=nucleus_um * case.tissue.nucleus_um / 8.0)
        for _ in range(2):
            left_um, top_um = rng.uniform(-3000, 3000, 2)
            tile = render(tissue, FieldWindow(left_um, top_um, mpp, 224, 224), SCANNER, int(rng.integers(2**31)))
            images.append(np.asarray(Image.fromarray(tile).filter(ImageFilter.GaussianBlur(blur_px))))
    return tiles_of(folder, images, [0] * 12, [f"g{number // 2}" for number in range(12)])


def inside(found: ScaleEstimate, true_mpp: float) -> bool | None:
    """Whether the truth lies in an answer's range; None where none was given."""
    scale = found.magnifications[0]
    if scale.how == "not estimable":
        return None
    assert scale.mpp_factor <= MOST  # upper over lower end at most 4
    return abs(math.log(scale.mpp / true_mpp)) <= math.log(scale.mpp_factor)


@pytest.mark.slow
def test_the_truth_lies_inside_for_seven_sizes_and_three_blurs(tmp_path: Path) -> None:
    answers = []
    for nucleus_um in (5.0, 6.0, 7.0, 8.0, 9.5, 11.0, 13.0):
        for blur_px in (0.0, 1.0, 2.0):
            for mpp in (0.5, 1.0):
                folder = tmp_path / f"{nucleus_um}-{blur_px}-{mpp}"
                answers.append(inside(estimate_scale(rendered(folder, nucleus_um, blur_px, mpp), BREAST), mpp))
    given = [answer for answer in answers if answer is not None]
    assert len(given) >= 0.8 * len(answers)
    assert sum(given) >= 0.95 * len(given)


@pytest.mark.slow
@pytest.mark.real_data
def test_real_tiles_at_other_scales_keep_their_truth(real_data: Path, tmp_path: Path) -> None:
    answers = []
    for magnification, mpp in (("100X", 1.0), ("400X", 0.25)):
        folder = real_data / "breakhis_sample"
        every = sorted(path for path in folder.rglob("*.png") if path.parent.name == magnification)
        paths = every[:: max(1, len(every) // 20)]
        cases = [path.name.split("-")[2] for path in paths]
        for factor in (0.5, 0.7, 1.0, 1.5, 2.0):
            folder = tmp_path / f"{magnification}-{factor}"
            folder.mkdir()
            images = []
            for path in paths:
                with Image.open(path) as image:
                    size = (round(image.width * factor), round(image.height * factor))
                    images.append(np.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS)))
            found = estimate_scale(tiles_of(folder, images, [0] * len(images), list(cases)), BREAST)
            answers.append(inside(found, mpp / factor))
    given = [answer for answer in answers if answer is not None]
    assert len(given) >= 0.8 * len(answers)
    assert all(given)
