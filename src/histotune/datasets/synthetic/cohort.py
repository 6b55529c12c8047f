"""The synthetic cohort before anything is drawn: its settings, its cases and slides, and where every tile lies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from histotune.datasets.synthetic.render import MICROSCOPE, SCANNER, Camera
from histotune.datasets.synthetic.tissue import Stain, Tissue, centred_field, depth_P, tumour_P

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from histotune.datasets.synthetic.tissue import FieldWindow

    Points = NDArray[np.float64]
    Floats = NDArray[np.float64]


class SyntheticConfig(BaseModel):
    """What is rendered. Every knob works alone: it changes what it names and nothing else.

    Attributes:
        seed: Another seed gives other cases.
        n_groups: BreakHis cases, half of them benign; multiples of 10 give five folds of equal class balance.
        n_tiles_breakhis: Tiles over the four magnifications and all cases, rounded up to equal counts per case and
            magnification.
        n_tiles_pcam: PatchCamelyon tiles over train, valid and test.
        scale: True over claimed micrometres per pixel of the PatchCamelyon tiles; 1 means that the claim holds.
        stain: Strength of the stain shift of the PatchCamelyon slides against the BreakHis cases; 0 is none.
        prevalence: Share of positive tiles in the PatchCamelyon test part.
        label_meaning: Probability that a PatchCamelyon label reports whether the tile is mostly epithelium of any
            kind, instead of tumour in its centre: the same word for another thing.
        group_strength: Strength of each case's own signature in stain, texture and nuclear size; 0 makes all alike.
        null_labels: Labels are dealt out independently of the tissue: to whole cases in BreakHis, to tiles in
            PatchCamelyon.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, ge=0)
    n_groups: int = Field(30, ge=4)
    n_tiles_breakhis: int = Field(720, ge=16)
    n_tiles_pcam: int = Field(1200, ge=30)
    scale: float = Field(1.0, ge=0.5, le=2.0)
    stain: float = Field(0.5, ge=0.0, le=2.0)
    prevalence: float = Field(0.5, ge=0.05, le=0.95)
    label_meaning: float = Field(0.0, ge=0.0, le=1.0)
    group_strength: float = Field(1.0, ge=0.0, le=3.0)
    null_labels: bool = False

    @property
    def tiles_per_case(self) -> int:
        """BreakHis tiles of one case at one magnification."""
        return -(-self.n_tiles_breakhis // (4 * self.n_groups))


# ---- Cases and slides ----
#
# A case's signature (stain, texture, nuclear size) never depends on its label. The label's tissue effect is atypia
# alone, and its distributions overlap, so that no head can be perfect.


HAEMATOXYLIN, EOSIN = np.array([1.05, 1.15, 0.55]), np.array([0.12, 0.75, 0.42])
STAIN_SHIFT_H, STAIN_SHIFT_E = np.array([0.10, 0.05, 0.40]), np.array([0.25, -0.10, 0.30])  # log, at strength 1
ATYPIA_BENIGN, ATYPIA_MALIGNANT, ATYPIA_SPREAD = 0.13, 0.87, 0.14
HUE, AMOUNT, TEXTURE, SIZE, ARCHITECTURE = 0.22, 0.32, 0.50, 0.05, 0.15  # deviations of the logarithms
NODE_BENIGN, NODE_TUMOUR = 0.25, 0.72  # mean atypia of epithelium in lymph nodes
SCANNER_HUE = 0.4  # slides of one scanner differ less in hue than cases under a microscope
WHITE = 10.0  # grey levels
TYPE_CODES = (("A", "DC"), ("F", "LC"), ("PT", "PC"), ("TA", "MC"))  # benign, malignant of one architecture
SIGNATURE, ATYPIA, LABEL, PCAM = range(4)  # independent streams of the seed


@dataclass(frozen=True)
class Case:
    """One BreakHis case.

    Attributes:
        number: 0 to n_groups - 1.
        accession: Five digits, as in the file names.
        blocks: Block letters of the case's ids; one id per entry.
        architecture: Row of :data:`TYPE_CODES`.
        tissue_malignant: What the tissue is.
        malignant: What the label says; differs from the tissue only under null labels.
        tissue: Its tissue.
    """

    number: int
    accession: str
    blocks: tuple[str, ...]
    architecture: int
    tissue_malignant: bool
    malignant: bool
    tissue: Tissue

    @property
    def code(self) -> str:
        """Tumour type in the file names, such as "DC"."""
        return TYPE_CODES[self.architecture][int(self.malignant)]


@dataclass(frozen=True)
class Slide:
    """One PatchCamelyon slide.

    Attributes:
        part: train, valid or test.
        name: As in the meta file.
        tissue: Its tissue, with a tumour mask.
    """

    part: str
    name: str
    tissue: Tissue


def make_cases(config: SyntheticConfig) -> tuple[Case, ...]:
    """Draw the BreakHis cases."""
    n = config.n_groups
    accessions = np.random.default_rng([config.seed, LABEL, 1]).choice(np.arange(10_000, 100_000), n, replace=False)
    tissue_malignant = [number % 2 == 1 for number in range(n)]
    labels = _null_labels(tissue_malignant, config.seed) if config.null_labels else tissue_malignant
    return tuple(
        Case(
            number=number,
            accession=str(accessions[number]),
            blocks=(("AB", "CD"), ("G",), ("",), ("",), ("",))[(number // 2) % 5],
            architecture=(number // 2) % 4,
            tissue_malignant=tissue_malignant[number],
            malignant=labels[number],
            tissue=_breast(config, number, tissue_malignant[number]),
        )
        for number in range(n)
    )


def make_slides(config: SyntheticConfig, n_by_part: dict[str, int]) -> tuple[Slide, ...]:
    """Draw the PatchCamelyon slides."""
    parts = [part for part, n in n_by_part.items() for _ in range(n)]
    return tuple(
        Slide(part, f"synthetic_{part}_{number:03d}", _node(config, number)) for number, part in enumerate(parts)
    )


def _null_labels(tissue_malignant: list[bool], seed: int) -> list[bool]:
    """Deal labels out at random, half of either tissue each: then atypia can't tell them apart even by chance."""
    rng = np.random.default_rng([seed, LABEL, 2])
    shuffled = rng.permutation(len(tissue_malignant))
    by_tissue = sorted(shuffled.tolist(), key=lambda number: tissue_malignant[number])
    first = int(rng.integers(2))
    rank = {number: place for place, number in enumerate(by_tissue)}
    return [(rank[number] + first) % 2 == 1 for number in range(len(tissue_malignant))]


def _breast(config: SyntheticConfig, number: int, malignant: bool) -> Tissue:
    rng = np.random.default_rng([config.seed, SIGNATURE, number])
    drawn = np.random.default_rng([config.seed, ATYPIA, number])
    cords, island, epithelium, lumen = (
        (False, 95.0, 0.05, 1.05),
        (True, 110.0, 0.38, 9.0),
        (False, 150.0, 0.00, 0.80),
        (False, 60.0, 0.10, 1.00),
    )[(number // 2) % 4]
    return replace(
        _signed(rng, config.group_strength, island, 1.0),
        kind="breast",
        cords=cords,
        epithelium=epithelium,
        lumen=lumen,
        atypia=_atypia(drawn, ATYPIA_MALIGNANT if malignant else ATYPIA_BENIGN),
    )


def _node(config: SyntheticConfig, number: int) -> Tissue:
    rng = np.random.default_rng([config.seed, PCAM, number])
    drawn = np.random.default_rng([config.seed, PCAM, ATYPIA, number])
    tissue = _signed(rng, config.group_strength, 75.0, SCANNER_HUE)
    shifted = replace(
        tissue.stain,
        haematoxylin=_triple(np.array(tissue.stain.haematoxylin) * np.exp(config.stain * STAIN_SHIFT_H)),
        eosin=_triple(np.array(tissue.stain.eosin) * np.exp(config.stain * STAIN_SHIFT_E)),
    )
    return replace(
        tissue,
        kind="node",
        stain=shifted,
        epithelium=0.10,
        lumen=9.0,
        atypia=_atypia(drawn, NODE_BENIGN),
        tumour_atypia=_atypia(drawn, NODE_TUMOUR),
    )


def _atypia(rng: np.random.Generator, mean: float) -> float:
    return float(np.clip(mean + ATYPIA_SPREAD * rng.standard_normal(), 0.0, 1.0))


def _signed(rng: np.random.Generator, strength: float, island_um: float, hue_share: float) -> Tissue:
    """A tissue that looks like its case; every draw is made whatever the strength, so that knobs stay apart."""
    seed = int(rng.integers(2**32))
    # Every property is its usual value times exp(strength x deviation x normal draw), so that it is positive and
    # strength 0 leaves the usual value.
    hue_h, hue_e, white = (np.clip(rng.standard_normal(3), -1.6, 1.6) for _ in range(3))
    amount_h, amount_e, island, size, chromatin, cytoplasm, fibre, waviness, infiltrate = rng.standard_normal(9)
    h = HAEMATOXYLIN * np.exp(strength * (HUE * hue_share * hue_h + AMOUNT * amount_h))
    e = EOSIN * np.exp(strength * (1.3 * HUE * hue_share * hue_e + 1.2 * AMOUNT * amount_e))
    return Tissue(
        seed=seed,
        kind="breast",
        stain=Stain(_triple(h), _triple(e), _triple(np.clip(238 + WHITE * strength * white, 200, 254))),
        island_um=float(island_um * np.exp(ARCHITECTURE * strength * island)),
        cords=False,
        epithelium=0.0,
        lumen=1.0,
        fibre_um=float(13.0 * np.exp(TEXTURE * strength * fibre)),
        waviness=float(np.exp(TEXTURE * strength * waviness)),
        fibre_angle=float(rng.uniform(0, np.pi)),
        nucleus_um=float(8.0 * np.exp(SIZE * strength * size)),
        chromatin=float(np.exp(TEXTURE * strength * chromatin)),
        cytoplasm=float(np.exp(TEXTURE * strength * cytoplasm)),
        infiltrate=float(1.35 + 0.35 * strength * infiltrate),
        atypia=0.0,
    )


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    red, green, blue = values.tolist()
    return red, green, blue


# ---- Tiles ----


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
class RenderJob:
    """One tile to draw.

    Attributes:
        tissue: The case.
        field: The window.
        camera: What takes the picture.
        seed: Seed of the sensor noise.
        path: File below the cohort's folder; empty for tiles that go into an HDF5 file.
    """

    tissue: Tissue
    field: FieldWindow
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


def breakhis_jobs(config: SyntheticConfig) -> Iterator[tuple[Case, int, RenderJob]]:
    """Plan the BreakHis tiles: in every case, chains of four nested fields."""
    for case in make_cases(config):
        for chain in range(config.tiles_per_case):
            for magnification, field in nested_fields(config.seed, case, chain).items():
                seed = hash_of(config.seed, case.number, chain, magnification)
                path = breakhis_path(case, chain, magnification)
                yield case, magnification, RenderJob(case.tissue, field, MICROSCOPE, seed, path)


def nested_fields(seed: int, case: Case, chain: int) -> dict[int, FieldWindow]:
    """Place one chain: the 400X field within the 200X field, that within the 100X and the 40X field.

    The finest field is put where a pathologist would look, on epithelium: of 24 points the one whose 200X field
    holds closest to the wanted share. The coarser fields are moved off its centre, so that scale is not position.
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
    name = f"SOB_{letter}_{case.code}"
    parents = f"BreaKHis_v1/histology_slides/breast/{family}/SOB/{TYPE_FOLDERS[case.code]}"
    return f"{parents}/{name}_{YEAR}-{slide}/{magnification}X/{name}-{YEAR}-{slide}-{magnification}-{chain + 1:03d}.png"


def pcam_patches(config: SyntheticConfig) -> dict[str, tuple[Patch, ...]]:
    """Plan the PatchCamelyon tiles of every part."""
    n_by_part = _share_out(config.n_tiles_pcam)
    slides = make_slides(
        config, {part: max(2, min(4 * ratio, n_by_part[part] // 4)) for part, ratio in PCAM_PARTS.items()}
    )
    return {
        part: _plan_part(config, [slide for slide in slides if slide.part == part], n_by_part[part])
        for part in PCAM_PARTS
    }


def patch_job(config: SyntheticConfig, patch: Patch, number: int) -> RenderJob:
    """Return the drawing of a PatchCamelyon tile at its true scale."""
    field = centred_field(patch.x_um, patch.y_um, PCAM_MPP * config.scale, (PCAM_PX, PCAM_PX))
    return RenderJob(patch.slide.tissue, field, SCANNER, hash_of(config.seed, 7, number, 0))


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


def _share(inside_P: NDArray[np.bool_], points: Points) -> Floats:
    """Share of the points in each square that lie inside."""
    return np.asarray(inside_P.reshape(len(points), -1).mean(axis=1), np.float64)


def _epithelium_share(tissue: Tissue, points: Points, side_px: int) -> Floats:
    return _share(depth_P(tissue, *_squares(points, side_px)) > 0, points)


def _tumour_share(tissue: Tissue, points: Points, side_px: int) -> Floats:
    return _share(tumour_P(tissue, *_squares(points, side_px)), points)


def _squares(points: Points, side_px: int) -> tuple[Floats, Floats]:
    """Seven by seven points over the square around each point, flat."""
    half = side_px * PCAM_MPP / 2
    grid_x, grid_y = np.meshgrid(np.linspace(-half, half, 7), np.linspace(-half, half, 7))
    return (points[:, :1] + grid_x.ravel()).ravel(), (points[:, 1:] + grid_y.ravel()).ravel()


def _share_out(n: int) -> dict[str, int]:
    total = sum(PCAM_PARTS.values())
    valid, test = n * PCAM_PARTS["valid"] // total, n * PCAM_PARTS["test"] // total
    return {"train": n - valid - test, "valid": valid, "test": test}
