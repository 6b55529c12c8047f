"""The scale of rendered tissue, whose truth is known, and of the real sample; nothing here was tuned to the latter."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from histotune.datasets.config import DatasetConfig
from histotune.datasets.read import read_dataset
from histotune.datasets.synthetic.cohort import RenderJob, SyntheticConfig, breakhis_jobs, patch_job, pcam_patches
from histotune.datasets.synthetic.cohort_folder import CohortPaths, write_cohort
from histotune.datasets.synthetic.render import epithelial_nuclei, lymphocyte_nuclei
from histotune.datasets.tileset import TileSet, tile_table
from histotune.images.config import ScaleConfig
from histotune.images.nuclei import TOO_SMALL
from histotune.images.scale import MagnificationScale, ScaleEstimate, choose_tiles, estimate_scale
from histotune.tools.errors import UserError
from tests.images.drawn import Drawing

COHORT = SyntheticConfig(seed=2, n_groups=4, n_tiles_breakhis=16, n_tiles_pcam=30)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> CohortPaths:
    return write_cohort(COHORT, tmp_path_factory.mktemp("scale") / "cohort", workers=1)


@pytest.fixture(scope="module")
def breast(cohort: CohortPaths) -> TileSet:
    return read_dataset(DatasetConfig(name="breakhis", path=cohort.breakhis))


@pytest.fixture(scope="module")
def estimate(breast: TileSet) -> ScaleEstimate:
    return estimate_scale(breast)


@dataclass(frozen=True)
class Truth:
    """Median diameter of the round nuclei of a rendered tile."""

    diameter_um: float
    mpp: float

    @property
    def diameter_px(self) -> float:
        return self.diameter_um / self.mpp


def truth(job: RenderJob) -> Truth:
    field = job.field
    diameters = []
    for nuclei in (epithelial_nuclei(job.tissue, field), lymphocyte_nuclei(job.tissue, field)):
        x_px, y_px = (nuclei.x_um - field.left_um) / field.mpp, (nuclei.y_um - field.top_um) / field.mpp
        inside = (x_px > 0) & (x_px < field.width_px) & (y_px > 0) & (y_px < field.height_px)
        diameters.append(2 * np.sqrt(nuclei.long_um * nuclei.short_um)[inside])
    return Truth(float(np.median(np.concatenate(diameters))), field.mpp)


def breast_truth(config: SyntheticConfig) -> dict[str, Truth]:
    return {Path(job.path).stem: truth(job) for _, _, job in breakhis_jobs(config)}


def by_label(estimate: ScaleEstimate) -> dict[str, MagnificationScale]:
    return {scale.magnification: scale for scale in estimate.magnifications}


def test_measured_diameters_are_the_rendered_ones(estimate: ScaleEstimate) -> None:
    known = breast_truth(COHORT)
    for label in ("100X", "200X", "400X"):
        rows = estimate.tiles.filter((pl.col("magnification") == label) & (pl.col("reason") == ""))
        errors = [d / known[tile].diameter_px - 1 for tile, d in rows.select("tile_id", "diameter_px").iter_rows()]
        assert len(errors) >= 4
        assert np.median(np.abs(errors)) <= 0.2


def test_scale_of_rendered_breast_tissue_is_right_within_a_fifth(estimate: ScaleEstimate, cohort: CohortPaths) -> None:
    true_mpp = json.loads(cohort.oracle.read_text())["breakhis"]["mpp"]
    errors = [abs(scale.mpp / true_mpp[scale.magnification] - 1) for scale in estimate.magnifications]
    assert np.median(errors) <= 0.2
    for scale in estimate.magnifications:
        assert abs(np.log(scale.mpp / true_mpp[scale.magnification])) < np.log(scale.mpp_factor)
    assert estimate.synthetic


def test_what_is_too_small_follows_from_the_others_and_says_so(estimate: ScaleEstimate) -> None:
    scales = by_label(estimate)
    assert list(scales) == ["40X", "100X", "200X", "400X"]
    assert scales["40X"].reason == TOO_SMALL
    assert np.isnan(scales["40X"].diameter_px)
    assert {scale.how for scale in scales.values()} == {"joint fit"}
    assert scales["40X"].mpp == pytest.approx(10 * scales["400X"].mpp)
    assert any("40X is not estimable alone" in note for note in estimate.notes)


def test_ratios_stand_beside_what_the_optics_demand(estimate: ScaleEstimate) -> None:
    checks = {(check.coarse, check.fine): check for check in estimate.ratios}
    assert set(checks) == {("100X", "200X"), ("100X", "400X"), ("200X", "400X")}
    check = checks["100X", "400X"]
    assert check.expected == pytest.approx(4)
    assert check.low <= check.measured <= check.high
    assert check.measured == pytest.approx(4, rel=0.2)


def test_scales_on_record_are_judged(estimate: ScaleEstimate) -> None:
    verdicts = {(check.source, check.magnification): check.supported for check in estimate.candidates}
    assert len(verdicts) == 8
    assert all(verdicts["estimated", label] for label in ("40X", "100X", "200X", "400X"))
    assert not any(verdicts["nominal", label] for label in ("40X", "100X", "200X", "400X"))


def test_the_order_of_tiles_changes_nothing(tmp_path: Path) -> None:
    tiles = drawn_tiles(tmp_path, {"20X": 9, "40X": 18}, n_groups=4)
    config = ScaleConfig(tissue="breast", max_tiles=6)
    first = estimate_scale(tiles, config)
    other = estimate_scale(tiles.take(np.random.default_rng(0).permutation(len(tiles))), config)
    assert repr(first.as_dict()) == repr(other.as_dict())  # repr, because NaN differs from itself
    assert len(first.tiles) == 6


def test_scale_of_rendered_lymph_nodes_whatever_is_claimed(tmp_path: Path) -> None:
    scale = 0.8
    config = SyntheticConfig(seed=2, n_groups=4, n_tiles_breakhis=16, n_tiles_pcam=45, scale=scale)
    tiles, errors = rendered_nodes(config, tmp_path)
    estimate = estimate_scale(tiles)
    assert [found.how for found in estimate.magnifications] == ["measured"]
    assert estimate.magnifications[0].mpp == pytest.approx(0.972 * scale, rel=0.2)
    measured = dict(estimate.tiles.filter(pl.col("reason") == "").select("tile_id", "diameter_px").iter_rows())
    assert np.median([abs(d / errors[tile].diameter_px - 1) for tile, d in measured.items()]) <= 0.2
    assert estimate.settings("target")[0].startswith("target.mpp=")


def rendered_nodes(config: SyntheticConfig, folder: Path) -> tuple[TileSet, dict[str, Truth]]:
    """Render the patches of PatchCamelyon alone, as image files with slides as groups."""
    from histotune.datasets.synthetic.render import render

    rows: dict[str, list[object]] = {"tile_id": [], "path": [], "group_id": []}
    known = {}
    patches = [patch for part in pcam_patches(config).values() for patch in part]
    for number, patch in enumerate(patches):
        job = patch_job(config, patch, number)
        path = folder / f"{number:04d}.png"
        Image.fromarray(render(job.tissue, job.field, job.camera, job.seed)).save(path)
        known[path.stem] = truth(job)
        for name, value in zip(rows, (path.stem, str(path), patch.slide.name), strict=True):
            rows[name].append(value)
    return TileSet("patch_camelyon", tile_table(dict(rows)), ("normal", "tumour"), "", "", synthetic=True), known


def drawn_tiles(folder: Path, diameters_px: dict[str, float], n_groups: int = 3, **columns: object) -> TileSet:
    names, paths, groups, labels = [], [], [], []
    for label, diameter in diameters_px.items():
        for group in range(n_groups):
            path = folder / f"{label}-{group}.png"
            Image.fromarray(Drawing(diameter, 160, 200, seed=group).image_HWC()).save(path)
            names.append(path.stem)
            paths.append(str(path))
            groups.append(f"g{group}")
            labels.append(label or None)
    table = {"tile_id": names, "path": paths, "group_id": groups, "magnification": labels, **columns}
    return TileSet("mine", tile_table(table), ("a", "b"), "", "")


def test_a_users_own_tiles_are_measured_label_by_label(tmp_path: Path) -> None:
    tiles = drawn_tiles(tmp_path, {"20X": 9, "40X": 18})
    estimate = estimate_scale(tiles, ScaleConfig(nucleus_um=9))
    scales = by_label(estimate)
    assert scales["20X"].mpp == pytest.approx(1.0, rel=0.2)
    assert scales["40X"].mpp == pytest.approx(0.5, rel=0.2)
    assert {scale.how for scale in scales.values()} == {"measured"}
    assert not estimate.ratios  # another camera may hang on another objective
    assert not estimate.candidates
    assert estimate.prior.source == "given by the user"


def test_an_unknown_tissue_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--tissue breast or lymph-node"):
        estimate_scale(drawn_tiles(tmp_path, {"": 9}, 1))


def test_tiles_without_groups_count_as_one(tmp_path: Path) -> None:
    tiles = drawn_tiles(tmp_path, {"": 9}, group_id=[None] * 3)
    estimate = estimate_scale(tiles, ScaleConfig(tissue="breast"))
    assert estimate.magnifications[0].n_groups == 0
    assert estimate.magnifications[0].mpp_factor > 1.4
    assert any("Groups are unknown" in note for note in estimate.notes)


def test_a_data_set_without_nuclei_has_no_scale_to_adopt(tmp_path: Path) -> None:
    Image.new("RGB", (96, 96), "white").save(tmp_path / "a.png")
    tiles = TileSet("mine", tile_table({"tile_id": ["a"], "path": [str(tmp_path / "a.png")]}), ("a", "b"), "", "")
    estimate = estimate_scale(tiles, ScaleConfig(tissue="breast"))
    assert estimate.magnifications[0].how == "not estimable"
    assert estimate.magnifications[0].reason == "no tissue"
    assert np.isnan(estimate.magnifications[0].mpp)
    assert estimate.settings("source") == ()


def test_unreadable_tiles_are_listed_together(tmp_path: Path) -> None:
    tiles = drawn_tiles(tmp_path, {"": 9})
    for name in ("-0.png", "-1.png"):
        (tmp_path / name).write_bytes(b"not an image")
    with pytest.raises(UserError) as caught:
        estimate_scale(tiles, ScaleConfig(tissue="breast"))
    assert "-0.png" in str(caught.value)
    assert "-1.png" in str(caught.value)


def test_chosen_tiles_are_spread_over_magnifications_and_groups(breast: TileSet) -> None:
    chosen = choose_tiles(breast, 8, seed=0).table
    assert chosen.group_by("magnification").len()["len"].to_list() == [2, 2, 2, 2]
    one_each = choose_tiles(breast.where(pl.col("magnification") == "40X"), 4, seed=0).table
    assert one_each["group_id"].n_unique() == breast.n_groups == 4
    assert len(choose_tiles(breast, 0, seed=0)) == len(breast)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [11, 12, 13])
def test_larger_cohorts_and_every_claimed_scale(tmp_path: Path, seed: int) -> None:
    config = SyntheticConfig(seed=seed, n_groups=20, n_tiles_breakhis=160, n_tiles_pcam=300)
    paths = write_cohort(config, tmp_path / "cohort")
    estimate = estimate_scale(read_dataset(DatasetConfig(name="breakhis", path=paths.breakhis)))
    known = breast_truth(config)
    rows = estimate.tiles.filter((pl.col("reason") == "") & (pl.col("magnification") != "40X"))
    errors = [d / known[tile].diameter_px - 1 for tile, d in rows.select("tile_id", "diameter_px").iter_rows()]
    assert np.median(np.abs(errors)) <= 0.12
    assert by_label(estimate)["400X"].mpp == pytest.approx(0.25, rel=0.2)
    errors = []
    for scale in (0.6, 0.8, 1.0, 1.15):
        folder = tmp_path / f"{scale}"
        folder.mkdir()
        tiles, _ = rendered_nodes(replace_scale(config, scale), folder)
        found = estimate_scale(tiles).magnifications[0]
        errors.append(abs(found.mpp / (0.972 * scale) - 1))
        assert errors[-1] < found.mpp_factor - 1
    assert np.median(errors) <= 0.2


def replace_scale(config: SyntheticConfig, scale: float) -> SyntheticConfig:
    return config.model_copy(update={"scale": scale})


@pytest.mark.real_data
@pytest.mark.slow
def test_real_nuclei_contradict_the_nominal_scale(real_data: Path) -> None:
    tiles = read_dataset(DatasetConfig(name="breakhis", path=real_data / "breakhis_sample"))
    estimate = estimate_scale(tiles, ScaleConfig(max_tiles=40))
    verdicts = {(check.source, check.magnification): check.supported for check in estimate.candidates}
    assert verdicts["estimated", "400X"]
    assert not verdicts["nominal", "400X"]
    ratio = next(check for check in estimate.ratios if (check.coarse, check.fine) == ("100X", "400X"))
    assert ratio.low <= ratio.expected <= ratio.high
    assert ratio.measured == pytest.approx(4, rel=0.35)
