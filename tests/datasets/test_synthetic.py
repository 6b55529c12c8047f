"""The synthetic cohort: deterministic, in the real layouts, physically scaled, and each knob turns one thing."""

from __future__ import annotations

import csv
import functools
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from histotune.datasets.breakhis import NAME_PATTERN
from histotune.datasets.config import DatasetConfig
from histotune.datasets.read import read_dataset
from histotune.datasets.synthetic import cohort as cohort_module
from histotune.datasets.synthetic import cohort_folder as cohort_folder_module
from histotune.datasets.synthetic.cohort import (
    MPP_BY_MAGNIFICATION,
    TYPE_CODES,
    SyntheticConfig,
    breakhis_jobs,
    make_cases,
    nested_fields,
    patch_job,
)
from histotune.datasets.synthetic.cohort_folder import MARK, CohortPaths, write_cohort
from histotune.datasets.synthetic.render import MICROSCOPE, densities_HW, density_HW, epithelial_nuclei, render
from histotune.datasets.synthetic.tissue import FieldWindow, Stain, Tissue, centred_field, depth_P, noise_HW, noise_P
from histotune.tools.errors import UserError
from histotune.tools.files import hash_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMALL = SyntheticConfig(seed=3, n_groups=4, n_tiles_breakhis=16, n_tiles_pcam=45)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> CohortPaths:
    return write_cohort(SMALL, tmp_path_factory.mktemp("synthetic") / "cohort", workers=1)


def hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hash_file(path) for path in folder.rglob("*") if path.is_file()}


def tissue(**changes: object) -> Tissue:
    plain = Stain(haematoxylin=(1.05, 1.15, 0.55), eosin=(0.12, 0.75, 0.42), white=(239.0, 239.0, 239.0))
    return replace(make_cases(SMALL)[0].tissue, stain=plain, chromatin=1.0, cytoplasm=1.0, **changes)  # type: ignore[arg-type]


# --- files ---------------------------------------------------------------------------------------------------------


def test_same_config_gives_the_same_bytes_with_any_number_of_workers(cohort: CohortPaths, tmp_path: Path) -> None:
    again = write_cohort(SMALL, tmp_path / "again", workers=2)
    assert hashes(again.oracle.parent) == hashes(cohort.oracle.parent)


def test_another_seed_gives_other_tissue() -> None:
    other = SMALL.model_copy(update={"seed": 4})
    assert {job.tissue.seed for _, _, job in breakhis_jobs(SMALL)}.isdisjoint(
        job.tissue.seed for _, _, job in breakhis_jobs(other)
    )


def test_breakhis_tree_is_the_official_one(cohort: CohortPaths) -> None:
    paths = sorted(cohort.breakhis.rglob("*.png"))
    assert len(paths) == 16
    for path in paths:
        match = NAME_PATTERN.fullmatch(path.name)
        assert match is not None
        family, code = ("benign", match["benign"]) if match["b"] else ("malignant", match["malignant"])
        parents = path.relative_to(cohort.breakhis).parts
        letter = "B" if family == "benign" else "M"
        assert parents[:5] == ("BreaKHis_v1", "histology_slides", "breast", family, "SOB")
        assert parents[6:8] == (f"SOB_{letter}_{code}_99-{match['slide']}", f"{match['magnification']}X")
    with Image.open(paths[0]) as image:
        assert (image.size, image.mode) == ((700, 460), "RGB")


def test_breakhis_is_read_by_the_reader_of_the_real_data(cohort: CohortPaths) -> None:
    tiles = read_dataset(DatasetConfig(name="breakhis", path=cohort.breakhis))
    assert tiles.synthetic
    assert len(tiles) == 16
    assert tiles.n_groups == 4
    assert Counter(tiles.table["magnification"]) == {f"{name}X": 4 for name in MPP_BY_MAGNIFICATION}
    for magnification, mpp in zip(tiles.table["magnification"], tiles.table["mpp"], strict=True):
        assert 0.75 < mpp / MPP_BY_MAGNIFICATION[int(magnification[:-1])] < 1.33
    assert tiles.table.select("group_id", "label").n_unique() == 4


def test_block_letters_join_into_one_group() -> None:
    config = SyntheticConfig(n_groups=30)
    slides = {re.search(r"99-(\d+)([A-Z]*)-40-", job.path).groups() for _, m, job in breakhis_jobs(config) if m == 40}  # type: ignore[union-attr]
    per_accession = Counter(accession for accession, _ in slides)
    assert len(per_accession) == 30
    assert set(per_accession.values()) == {1, 2}


def test_pcam_files_have_the_shapes_and_types_of_the_real_ones(cohort: CohortPaths) -> None:
    sizes = {}
    for part in ("train", "valid", "test"):
        stem = f"camelyonpatch_level_2_split_{part}"
        with h5py.File(cohort.pcam / f"{stem}_x.h5") as x, h5py.File(cohort.pcam / f"{stem}_y.h5") as y:
            sizes[part] = n = len(x["x"])
            assert (x["x"].shape, x["x"].dtype) == ((n, 96, 96, 3), np.uint8)
            assert (y["y"].shape, y["y"].dtype) == ((n, 1, 1, 1), np.uint8)
            labels = y["y"][:].ravel()
        with (cohort.pcam / f"{stem}_meta.csv").open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert list(rows[0]) == ["coord_y", "coord_x", "tumor_patch", "center_tumor_patch", "wsi"]
        assert [row["center_tumor_patch"] == "True" for row in rows] == (labels == 1).tolist()
        assert all(row["tumor_patch"] == "True" for row in rows if row["center_tumor_patch"] == "True")
    assert sizes == {"train": 24, "valid": 6, "test": 15}


def test_pcam_is_read_by_the_reader_of_the_real_data_and_slides_stay_in_their_part(cohort: CohortPaths) -> None:
    tiles = read_dataset(DatasetConfig(name="patch_camelyon", path=cohort.pcam))
    assert tiles.synthetic
    assert len(tiles) == 45
    assert tiles.table.select("group_id", "split").n_unique() == tiles.n_groups >= 6


def test_marks_say_synthetic_and_keep_the_oracle_to_itself(cohort: CohortPaths) -> None:
    for folder in (cohort.breakhis, cohort.pcam):
        mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
        assert set(mark) == {"what", "seed", "config_hash", "generator_version"}
        assert "SYNTHETIC" in mark["what"]
    oracle = json.loads(cohort.oracle.read_text(encoding="utf-8"))
    assert oracle["pcam"]["mpp"] == pytest.approx(0.972)
    assert len(oracle["breakhis"]["cases"]) == 4
    assert {len(tiles) for tiles in oracle["pcam"]["tiles"].values()} == {24, 6, 15}


def test_an_existing_cohort_returns_at_once(cohort: CohortPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("rendered again")

    monkeypatch.setattr(cohort_folder_module, "write_breakhis", refuse)
    assert write_cohort(SMALL, cohort.oracle.parent) == cohort


def test_an_existing_cohort_needs_no_heavy_import(cohort: CohortPaths) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from histotune.datasets.synthetic.cohort import SyntheticConfig\n"
        "from histotune.datasets.synthetic.cohort_folder import write_cohort\n"
        f"write_cohort(SyntheticConfig(**{SMALL.model_dump()!r}), Path({str(cohort.oracle.parent)!r}))\n"
        "heavy = {'torch', 'timm', 'sklearn', 'scipy', 'h5py', 'PIL', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_rendering_imports_no_torch() -> None:
    room = "histotune.datasets.synthetic"
    code = f"import sys, {room}.cohort; assert not {{'torch', 'sklearn'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_another_config_replaces_the_cohort(tmp_path: Path) -> None:
    tiny = SyntheticConfig(n_groups=4, n_tiles_breakhis=16, n_tiles_pcam=30)
    first = write_cohort(tiny, tmp_path / "cohort", workers=1)
    before = hashes(first.pcam)
    other = tiny.model_copy(update={"scale": 1.5})
    write_cohort(other, tmp_path / "cohort", workers=1)
    assert hashes(first.pcam) != before
    taken = next(first.breakhis.rglob("*.png"))
    taken.unlink()
    write_cohort(other, tmp_path / "cohort", workers=1)  # a cohort that lost a file is no finished cohort
    assert taken.is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["cohort"]


def test_a_script_without_a_main_guard_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from histotune.datasets.synthetic.cohort import SyntheticConfig\n"
        "from histotune.datasets.synthetic.cohort_folder import write_cohort\n"
        f"write_cohort(SyntheticConfig(n_groups=4, n_tiles_breakhis=16, n_tiles_pcam=30), "
        f"Path({str(tmp_path / 'cohort')!r}), workers=2)\n",
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "main guard" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]


def test_interrupted_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cohort_folder_module, "patch_job", stop)
    with pytest.raises(KeyboardInterrupt):
        write_cohort(SMALL, tmp_path / "cohort", workers=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["notes.txt", "breakhis/BreaKHis_v1/real.png"])
def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path, content: str) -> None:
    (tmp_path / content).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / content).write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"left alone|replace it"):
        write_cohort(SMALL, tmp_path, workers=1)
    assert (tmp_path / content).read_text(encoding="utf-8") == "mine"


# --- physics -------------------------------------------------------------------------------------------------------


def test_noise_is_one_function_of_the_plane() -> None:
    field = FieldWindow(left_um=-37.0, top_um=911.0, mpp=0.5, width_px=60, height_px=40)
    pixels = noise_HW(field, 6.0, seed=5)
    x, y = np.meshgrid(field.x_W, field.y_H)
    np.testing.assert_allclose(pixels.ravel(), noise_P(x.ravel(), y.ravel(), 6.0, seed=5), atol=2e-5)


def test_noise_has_unit_variance_and_vanishes_below_the_pixel() -> None:
    wide = noise_HW(FieldWindow(0, 0, 1.0, 600, 600), 6.0, seed=1)
    assert abs(float(wide.mean())) < 0.05
    assert 0.93 < float(wide.std()) < 1.07
    assert not noise_HW(FieldWindow(0, 0, 8.0, 50, 50), 6.0, seed=1).any()


def nuclear_diameter_px(image: NDArray[np.uint8]) -> float:
    """Median diameter of the round blobs that absorb red light: touching nuclei make longer ones and don't count."""
    absorbed = -np.log((image[:, :, 0].astype(float) + 1) / 240)
    blobs, _ = ndimage.label(absorbed > 0.7)
    area = np.bincount(blobs.ravel())[1:]
    height, width = np.array([[part.stop - part.start for part in box] for box in ndimage.find_objects(blobs)]).T
    fits = (np.maximum(height, width) < 1.35 * np.minimum(height, width)) & (area > 0.7 * height * width) & (area > 40)
    assert fits.sum() > 20
    return float(np.median(2 * np.sqrt(area[fits] / np.pi)))


def test_nuclei_measure_the_same_micrometres_at_every_scale() -> None:
    regular = tissue(atypia=0.0, infiltrate=99.0, nucleus_um=8.0, lumen=9.0, epithelium=-9.0, cords=False)
    micrometres = {}
    for mpp in (0.25, 0.4, 0.5):
        size_px = (int(150 / mpp), int(150 / mpp))
        image = render(regular, centred_field(5000.0, 5000.0, mpp, size_px), MICROSCOPE, seed=1)
        micrometres[mpp] = nuclear_diameter_px(image) * mpp
    assert all(6.5 < value < 11.0 for value in micrometres.values()), micrometres
    assert max(micrometres.values()) / min(micrometres.values()) < 1.12, micrometres


def test_nuclei_at_400X_measure_24_to_48_pixels() -> None:
    for atypia in (0.0, 0.5, 1.0):
        found = epithelial_nuclei(tissue(atypia=atypia, nucleus_um=8.0), centred_field(9000, 9000, 2.5, (400, 400)))
        diameter_px = 2 * np.sqrt(found.long_um * found.short_um) / 0.25
        assert 24 <= np.median(diameter_px) <= 48


def test_magnifications_are_nested_fields_of_one_tissue() -> None:
    case = make_cases(SMALL)[0]
    fields = nested_fields(SMALL.seed, case, chain=0)
    for coarse, fine in ((40, 100), (100, 200), (200, 400)):
        outer, inner = fields[coarse], fields[fine]
        assert outer.left_um <= inner.left_um
        assert outer.top_um <= inner.top_um
        assert inner.left_um + inner.width_px * inner.mpp <= outer.left_um + outer.width_px * outer.mpp
        assert inner.top_um + inner.height_px * inner.mpp <= outer.top_um + outer.height_px * outer.mpp


def test_the_finer_image_shows_what_the_coarser_shows_there() -> None:
    case = make_cases(SMALL)[0]
    coarse = centred_field(20_000.0, 20_000.0, 0.5, (240, 200))
    fine = FieldWindow(coarse.left_um + 20, coarse.top_um + 10, 0.25, 240, 200)
    dark_coarse = render(case.tissue, coarse, MICROSCOPE, 1)[:, :, 0].astype(float)[20:120, 40:160]
    dark_fine = render(case.tissue, fine, MICROSCOPE, 2)[:, :, 0].astype(float)
    pooled = dark_fine.reshape(100, 2, 120, 2).mean(axis=(1, 3))
    assert np.corrcoef(pooled.ravel(), dark_coarse.ravel())[0, 1] > 0.95


def test_atypia_changes_form_and_not_colour() -> None:
    field = centred_field(30_000.0, 30_000.0, 1.0, (500, 500))
    dye = {level: densities_HW(tissue(atypia=level), field) for level in (0.1, 0.9)}
    for low, high in zip(dye[0.1], dye[0.9], strict=True):
        assert abs(float(high.mean() / low.mean()) - 1) < 0.06
    spread = {
        level: np.log(epithelial_nuclei(tissue(atypia=level), field).short_um).std() for level in (0.1, 0.9)
    }  # fmt: skip
    assert spread[0.9] > 1.8 * spread[0.1]


def test_nuclei_lie_in_epithelium() -> None:
    case = tissue(atypia=0.5)
    found = epithelial_nuclei(case, centred_field(8000, 8000, 1.0, (400, 400)))
    depth = depth_P(case, found.x_um, found.y_um)
    assert len(depth) > 100
    assert ((depth > 0) & (depth < case.lumen)).all()


def test_a_window_without_nuclei_is_empty() -> None:
    empty = tissue(epithelium=99.0, cords=False)
    field = centred_field(8000, 8000, 1.0, (50, 50))
    assert not density_HW(epithelial_nuclei(empty, field), field).any()


# --- knobs ---------------------------------------------------------------------------------------------------------

BASE = SyntheticConfig(seed=1, n_groups=10, n_tiles_breakhis=40, n_tiles_pcam=90)
pcam_patches = functools.cache(cohort_module.pcam_patches)


def turned(**changes: object) -> SyntheticConfig:
    return BASE.model_copy(update=changes)


def breakhis_drawings(config: SyntheticConfig) -> list[object]:
    return [(job.tissue, job.field, job.seed) for _, _, job in breakhis_jobs(config)]


def breakhis_names(config: SyntheticConfig) -> list[str]:
    return [job.path for _, _, job in breakhis_jobs(config)]


def pcam_drawings(config: SyntheticConfig, *parts: str) -> list[object]:
    patches = [(part, patch) for part, found in pcam_patches(config).items() for patch in found]
    jobs = [(part, patch_job(config, patch, number)) for number, (part, patch) in enumerate(patches)]
    return [job for part, job in jobs if not parts or part in parts]


def pcam_labels(config: SyntheticConfig, *parts: str) -> list[bool]:
    found = pcam_patches(config)
    return [patch.label for part in parts or found for patch in found[part]]


@pytest.mark.parametrize("knob", [{"scale": 1.6}, {"stain": 1.5}, {"prevalence": 0.2}, {"label_meaning": 0.8}])
def test_pcam_knobs_leave_breakhis_alone(knob: dict[str, float]) -> None:
    assert breakhis_drawings(turned(**knob)) == breakhis_drawings(BASE)
    assert breakhis_names(turned(**knob)) == breakhis_names(BASE)


def test_scale_changes_only_the_true_scale() -> None:
    for before, after in zip(pcam_drawings(BASE), pcam_drawings(turned(scale=1.6)), strict=True):
        assert after.field.mpp == pytest.approx(0.972 * 1.6)  # type: ignore[attr-defined]
        assert after.tissue == before.tissue  # type: ignore[attr-defined]
    assert pcam_labels(turned(scale=1.6)) == pcam_labels(BASE)


def test_stain_changes_only_colour() -> None:
    for before, after in zip(pcam_drawings(BASE), pcam_drawings(turned(stain=1.5)), strict=True):
        assert after.tissue.stain != before.tissue.stain  # type: ignore[attr-defined]
        assert replace(after, tissue=before.tissue) == before  # type: ignore[type-var]
        assert replace(after.tissue, stain=before.tissue.stain) == before.tissue  # type: ignore[attr-defined]
    assert pcam_labels(turned(stain=1.5)) == pcam_labels(BASE)


@pytest.mark.parametrize("prevalence", [0.1, 0.5, 0.9])
def test_prevalence_changes_only_the_test_part(prevalence: float) -> None:
    config = turned(prevalence=prevalence)
    assert np.mean(pcam_labels(config, "test")) == pytest.approx(prevalence, abs=0.02)
    assert pcam_drawings(config, "train", "valid") == pcam_drawings(BASE, "train", "valid")
    assert pcam_labels(config, "train", "valid") == pcam_labels(BASE, "train", "valid")


def test_label_meaning_changes_only_labels() -> None:
    patches = [patch for part in pcam_patches(BASE).values() for patch in part]
    assert [patch.tumour for patch in patches] == pcam_labels(BASE)
    assert [patch.other for patch in patches] == pcam_labels(turned(label_meaning=1.0))
    assert pcam_drawings(turned(label_meaning=1.0)) == pcam_drawings(BASE)
    half = pcam_labels(turned(label_meaning=0.5))
    assert 0 < sum(a != b for a, b in zip(half, pcam_labels(BASE), strict=True)) < len(half)


def test_group_strength_changes_only_the_signature() -> None:
    for before, after in zip(make_cases(BASE), make_cases(turned(group_strength=0.0)), strict=True):
        assert (after.malignant, after.accession, after.tissue.seed) == (
            before.malignant, before.accession, before.tissue.seed,
        )  # fmt: skip
        assert after.tissue.atypia == before.tissue.atypia
        assert after.tissue.stain != before.tissue.stain
    assert len({case.tissue.stain for case in make_cases(turned(group_strength=0.0))}) == 1
    assert len({case.tissue.nucleus_um for case in make_cases(turned(group_strength=0.0))}) == 1
    assert pcam_labels(turned(group_strength=0.0)) == pcam_labels(BASE)


def test_null_labels_change_only_labels_and_deal_them_to_whole_cases() -> None:
    null = turned(null_labels=True)
    assert breakhis_drawings(null) == breakhis_drawings(BASE)
    assert pcam_drawings(null) == pcam_drawings(BASE)
    assert breakhis_names(null) != breakhis_names(BASE)
    assert sum(pcam_labels(null)) == sum(pcam_labels(BASE))
    assert sum(case.malignant for case in make_cases(null)) == 5
    cases = make_cases(turned(null_labels=True, n_groups=20))
    assert sum(case.malignant for case in cases if case.tissue_malignant) == 5
    dealt = {tuple(case.malignant for case in make_cases(turned(null_labels=True, seed=seed))) for seed in range(9)}
    assert len(dealt) > 5


def test_classes_are_balanced_over_tumour_types() -> None:
    cases = make_cases(SyntheticConfig())
    assert len(cases) >= 24
    assert sum(case.malignant for case in cases) * 2 == len(cases)
    for benign, malignant in TYPE_CODES:
        counts = Counter(case.code for case in cases)
        assert counts[benign] == counts[malignant] >= 3


def test_pcam_label_speaks_of_the_centre() -> None:
    patches = [patch for part in pcam_patches(BASE).values() for patch in part]
    assert all(patch.tumour_anywhere for patch in patches if patch.tumour)
    assert any(patch.tumour_anywhere for patch in patches if not patch.tumour)
