"""Every tile of a cohort before any is drawn: where it lies on its case's plane, its scale, label and file name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.datasets.synthetic.cases import Case, Slide, make_cases, make_slides
from histotune.datasets.synthetic.noise import centred_field
from histotune.datasets.synthetic.render import MICROSCOPE, SCANNER, Camera
from histotune.datasets.synthetic.tissue import depth_P, tumour_P

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from histotune.datasets.synthetic.cohort import SyntheticConfig
    from histotune.datasets.synthetic.noise import Field
    from histotune.datasets.synthetic.tissue import Tissue

    Points = NDArray[np.float64]
    Floats = NDArray[np.float64]

MPP_BY_MAGNIFICATION = {40: 2.5, 100: 1.0, 200: 0.5, 400: 0.25}
TILE_PX = (700, 460)
PCAM_MPP, PCAM_PX, PCAM_CENTRE_PX = 0.972, 96, 32
PCAM_PARTS = {"train": 8, "valid": 2, "test": 5}  # tiles and slides in this ratio
TYPE_FOLDERS = {
    "A": "adenosis", "F": "fibroadenoma", "PT": "phyllodes_tumor", "TA": "tubular_adenoma",
    "DC": "ductal_carcinoma", "LC": "lobular_carcinoma", "MC": "mucinous_carcinoma", "PC": "papillary_carcinoma",
}  # fmt: skip
YEAR = "99"
EPITHELIUM_WANTED = 0.55  # share of epithelium in the 200X field that a chain of nested fields is placed on
OTHER_LEVEL = 0.55  # share of epithelium from which a PatchCamelyon tile counts as mostly epithelium
MIMIC_SHARE = 0.7  # negative tiles whose centre holds epithelium too, of the regular kind
PLANE_UM, NEARBY_UM, CANDIDATES = 9000.0, 900.0, 24
BREAKHIS_FIELDS, PCAM_FIELDS, PCAM_LABELS, PCAM_NULL = range(10, 14)


@dataclass(frozen=True)
class Job:
    """One tile to draw.

    Attributes:
        tissue: The case.
        field: The window.
        camera: What takes the picture.
        seed: Seed of the sensor noise.
        path: File below the cohort's folder; empty for tiles that go into an HDF5 file.
    """

    tissue: Tissue
    field: Field
    camera: Camera
    seed: int
    path: str = ""


@dataclass(frozen=True)
class Patch:
    """One PatchCamelyon tile.

    Attributes:
        slide: Its slide.
        x_um: Centre.
        y_um: Centre.
        tumour: Tumour within the centre.
        tumour_anywhere: Tumour anywhere in the tile.
        other: The other tissue property that a shifted label reports.
        label: What the files say.
    """

    slide: Slide
    x_um: float
    y_um: float
    tumour: bool
    tumour_anywhere: bool
    other: bool
    label: bool


def breakhis_jobs(config: SyntheticConfig) -> Iterator[tuple[Case, int, Job]]:
    """Plan the BreakHis tiles: in every case, chains of four nested fields.

    Args:
        config: Sizes and seed.

    Yields:
        The case, the magnification and the tile.
    """
    for case in make_cases(config):
        for chain in range(config.tiles_per_case):
            for magnification, field in nested_fields(config.seed, case, chain).items():
                seed = hash_of(config.seed, case.number, chain, magnification)
                path = breakhis_path(case, chain, magnification)
                yield case, magnification, Job(case.tissue, field, MICROSCOPE, seed, path)


def nested_fields(seed: int, case: Case, chain: int) -> dict[int, Field]:
    """Place one chain: the 400X field within the 200X field, that within the 100X and the 40X field.

    The finest field is put where a pathologist would look, on epithelium: of 24 points the one whose 200X field
    holds closest to the wanted share. The coarser fields are moved off its centre, so that scale is not position.

    Args:
        seed: The cohort's seed.
        case: The case.
        chain: Number of the chain within the case; chains don't overlap.

    Returns:
        Field by magnification.
    """
    rng = np.random.default_rng([seed, BREAKHIS_FIELDS, case.number, chain])
    origin = np.array([4000.0 * (chain % 8), 4000.0 * (chain // 8)]) + 20_000.0
    candidates = origin + rng.uniform(-500, 500, size=(24, 2))
    grid_x, grid_y = np.meshgrid(np.linspace(-150, 150, 10), np.linspace(-100, 100, 7))
    x, y = candidates[:, :1] + grid_x.ravel(), candidates[:, 1:] + grid_y.ravel()
    depth = depth_P(case.tissue, x.ravel(), y.ravel()).reshape(x.shape)
    share = ((depth > 0) & (depth < case.tissue.lumen)).mean(axis=1)
    centre = candidates[int(np.argmin(np.abs(share - EPITHELIUM_WANTED)))]
    fields = {}
    for magnification in sorted(MPP_BY_MAGNIFICATION, reverse=True):
        mpp = MPP_BY_MAGNIFICATION[magnification]
        fields[magnification] = centred_field(float(centre[0]), float(centre[1]), mpp, TILE_PX)
        centre = centre + rng.uniform(-0.2, 0.2, 2) * np.array(TILE_PX) * mpp
    return fields


def breakhis_path(case: Case, chain: int, magnification: int) -> str:
    """Return the official path of a tile below the data set's folder."""
    letter, family = ("M", "malignant") if case.malignant else ("B", "benign")
    slide = case.accession + case.blocks[chain % len(case.blocks)]
    return "/".join((
        "BreaKHis_v1", "histology_slides", "breast", family, "SOB", TYPE_FOLDERS[case.code],
        f"SOB_{letter}_{case.code}_{YEAR}-{slide}", f"{magnification}X",
        f"SOB_{letter}_{case.code}-{YEAR}-{slide}-{magnification}-{chain + 1:03d}.png",
    ))  # fmt: skip


def pcam_patches(config: SyntheticConfig) -> dict[str, tuple[Patch, ...]]:
    """Plan the PatchCamelyon tiles of every part.

    Args:
        config: Sizes, prevalence, label meaning, null labels, seed.

    Returns:
        Tiles by part, in file order.
    """
    n_by_part = _share_out(config.n_tiles_pcam)
    slides = make_slides(
        config, {part: max(2, min(4 * ratio, n_by_part[part] // 4)) for part, ratio in PCAM_PARTS.items()}
    )
    return {
        part: _plan_part(config, [slide for slide in slides if slide.part == part], n_by_part[part])
        for part in PCAM_PARTS
    }  # fmt: skip


def patch_job(config: SyntheticConfig, patch: Patch, number: int) -> Job:
    """Return the drawing of a PatchCamelyon tile at its true scale.

    Args:
        config: Scale and seed.
        patch: The tile.
        number: Its number over all parts.

    Returns:
        The job.
    """
    field = centred_field(patch.x_um, patch.y_um, PCAM_MPP * config.scale, (PCAM_PX, PCAM_PX))
    return Job(patch.slide.tissue, field, SCANNER, hash_of(config.seed, 7, number, 0))


def hash_of(*numbers: int) -> int:
    """Return a 64-bit seed from integers."""
    return int(np.random.SeedSequence(list(numbers)).generate_state(1, np.uint64)[0])


def _plan_part(config: SyntheticConfig, slides: list[Slide], n: int) -> tuple[Patch, ...]:
    part_number = list(PCAM_PARTS).index(slides[0].part)
    rng = np.random.default_rng([config.seed, PCAM_LABELS, part_number])
    prevalence = config.prevalence if slides[0].part == "test" else 0.5
    rank, mix = rng.permutation(n), rng.random(n)
    tumour, other = rank < round(prevalence * n), rng.permutation(rank) < round(prevalence * n)
    label = np.where(mix < config.label_meaning, other, tumour)
    if config.null_labels:
        label = np.random.default_rng([config.seed, PCAM_NULL, part_number]).permutation(label)
    patches = []
    for number in range(n):
        slide = slides[number % len(slides)]
        spot = np.random.default_rng([config.seed, PCAM_FIELDS, part_number, number])
        x, y = _find_patch(slide.tissue, bool(tumour[number]), bool(other[number]), spot)
        anywhere = bool((_tumour_share(slide.tissue, np.array([[x, y]]), PCAM_PX) > 0).any())
        patches.append(Patch(slide, x, y, bool(tumour[number]), anywhere, bool(other[number]), bool(label[number])))
    return tuple(patches)


def _find_patch(tissue: Tissue, tumour: bool, other: bool, rng: np.random.Generator) -> tuple[float, float]:
    """Draw points and take the first as wanted: tumour fills half the inner 16 px, or keeps off the inner 56 px.

    The margins keep the label true when the scale knob changes how much tissue the centre covers.
    """
    mimic = tumour or rng.random() < MIMIC_SHARE
    while True:
        points = rng.uniform(0, PLANE_UM, 2) + rng.uniform(0, NEARBY_UM, (CANDIDATES, 2))
        wanted = _tumour_share(tissue, points, 16) >= 0.5 if tumour else _tumour_share(tissue, points, 56) == 0
        inner, whole = _epithelium_share(tissue, points, 16), _epithelium_share(tissue, points, PCAM_PX)
        score = 3.0 * wanted + 1.0 * ((inner >= 0.5) == mimic) + ((whole > OTHER_LEVEL) == other)
        best = points[int(np.argmax(score))]
        if score.max() >= 3.0:  # the label is never wrong; the rest is a preference
            return float(best[0]), float(best[1])


def _epithelium_share(tissue: Tissue, points: Points, side_px: int) -> Floats:
    depth = depth_P(tissue, *_squares(points, side_px)).reshape(len(points), -1)
    return np.asarray((depth > 0).mean(axis=1), np.float64)


def _tumour_share(tissue: Tissue, points: Points, side_px: int) -> Floats:
    inside = tumour_P(tissue, *_squares(points, side_px)).reshape(len(points), -1)
    return np.asarray(inside.mean(axis=1), np.float64)


def _squares(points: Points, side_px: int) -> tuple[Floats, Floats]:
    """Seven by seven points over the square around each point, flat."""
    half = side_px * PCAM_MPP / 2
    grid_x, grid_y = np.meshgrid(np.linspace(-half, half, 7), np.linspace(-half, half, 7))
    return (points[:, :1] + grid_x.ravel()).ravel(), (points[:, 1:] + grid_y.ravel()).ravel()


def _share_out(n: int) -> dict[str, int]:
    total = sum(PCAM_PARTS.values())
    valid, test = n * PCAM_PARTS["valid"] // total, n * PCAM_PARTS["test"] // total
    return {"train": n - valid - test, "valid": valid, "test": test}
