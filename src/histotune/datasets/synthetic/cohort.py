"""Settings of the synthetic cohort: its size, and one knob per thing that can differ between two data sets."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from histotune.datasets.synthetic.render import MICROSCOPE, SCANNER, Camera, render
from histotune.datasets.synthetic.tissue import Stain, Tissue, centred_field, depth_P, tumour_P
from histotune.tools.errors import UserError
from histotune.tools.files import atomic_folder, hash_json, write_json
from histotune.tools.progress import track
from histotune.tools.provenance import cpu_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

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


# ------------------------------------------------------------------------------
# Which cases exist: each one's tissue and signature, drawn from the seed; the label is drawn apart.
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


# ------------------------------------------------------------------------------
# Every tile of a cohort before any is drawn: where it lies on its case's plane, its scale, label and file name.


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
    return "/".join((
        "BreaKHis_v1", "histology_slides", "breast", family, "SOB", TYPE_FOLDERS[case.code],
        f"SOB_{letter}_{case.code}_{YEAR}-{slide}", f"{magnification}X",
        f"SOB_{letter}_{case.code}-{YEAR}-{slide}-{magnification}-{chain + 1:03d}.png",
    ))  # fmt: skip


def pcam_patches(config: SyntheticConfig) -> dict[str, tuple[Patch, ...]]:
    """Plan the PatchCamelyon tiles of every part."""
    n_by_part = _share_out(config.n_tiles_pcam)
    slides = make_slides(
        config, {part: max(2, min(4 * ratio, n_by_part[part] // 4)) for part, ratio in PCAM_PARTS.items()}
    )
    return {
        part: _plan_part(config, [slide for slide in slides if slide.part == part], n_by_part[part])
        for part in PCAM_PARTS
    }  # fmt: skip


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


# ------------------------------------------------------------------------------
# A cohort on disk: rendered by all cores, complete or absent, and not rendered twice.


GENERATOR_VERSION = "4"
MARK = "SYNTHETIC.json"
ORACLE = "oracle.json"
COHORT_FILE = re.compile(
    rf"{re.escape(ORACLE)}|(breakhis|pcam)/{re.escape(MARK)}|breakhis/BreaKHis_v1/histology_slides/breast/.*/SOB_[^/]+\.png"
    r"|pcam/camelyonpatch_level_2_split_(train|valid|test)_(x\.h5|y\.h5|meta\.csv)"
)
WARNING = "SYNTHETIC: rendered by a program from random numbers; shows no patient and no real tissue."


@dataclass(frozen=True)
class CohortPaths:
    """Where a cohort lies.

    Attributes:
        breakhis: Folder in the layout of BreakHis.
        pcam: Folder in the layout of PatchCamelyon.
        oracle: JSON file with everything that is true of the cohort and that no reader may know.
    """

    breakhis: Path
    pcam: Path
    oracle: Path


def write_cohort(config: SyntheticConfig, folder: Path, workers: int | None = None) -> CohortPaths:
    """Render a cohort, unless the folder already holds this one.

    Args:
        config: What to render.
        folder: Where it goes; an older cohort there is replaced, anything else is left alone.
        workers: Processes that render; None takes one per core. The files don't depend on it.

    Returns:
        Where its parts lie.

    Raises:
        UserError: The folder holds something that is not a cohort, the disk is full, or nothing can be written.

    Example:
        >>> paths = write_cohort(SyntheticConfig(seed=1), Path("cohort"))  # doctest: +SKIP
    """
    paths = CohortPaths(folder / "breakhis", folder / "pcam", folder / ORACLE)
    mark = cohort_mark(config)
    if _holds(paths, mark, n_png=4 * config.n_groups * config.tiles_per_case):
        return paths
    _require_replaceable(folder)
    _refuse_starting_child()
    with atomic_folder(folder) as temporary:
        with Renderer(workers) as renderer:
            write_breakhis(config, temporary / "breakhis", renderer)
            patches_by_part = write_pcam(config, temporary / "pcam", renderer)
        write_oracle(config, patches_by_part, temporary / ORACLE, mark)
        for part in ("breakhis", "pcam"):
            write_json(temporary / part / MARK, mark)
    return paths


def cohort_files(folder: Path) -> tuple[Path, ...]:
    """Return the files of a rendered cohort, told by their names; no link is followed."""
    marked = {part for part in ("breakhis", "pcam") if _is_mark(folder / part / MARK)}
    if not marked or folder.is_symlink():
        return ()
    found = (Path(place) / name for place, _, names in os.walk(folder) for name in sorted(names))
    if _is_mark(folder / ORACLE):
        marked.add(ORACLE)
    own = [path for path in found if not path.is_symlink() and _is_cohort_name(path.relative_to(folder), marked)]
    return tuple(own)


def _is_cohort_name(path: Path, marked: set[str]) -> bool:
    """Whether a path below the cohort's folder is one that rendering writes, in a part that has its mark."""
    return path.parts[0] in marked and COHORT_FILE.fullmatch(path.as_posix()) is not None


def _is_mark(path: Path) -> bool:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and data.get("what") == WARNING and not path.parent.is_symlink()


def cohort_mark(config: SyntheticConfig) -> dict[str, object]:
    """Return the content of the mark that says what a folder holds; it tells nothing about the tissue."""
    return {
        "what": WARNING,
        "seed": config.seed,
        "config_hash": hash_json(config.model_dump(mode="json")),
        "generator_version": GENERATOR_VERSION,
    }


def _holds(paths: CohortPaths, mark: dict[str, object], n_png: int) -> bool:
    """Whether a cohort with this mark is there and no file of it was taken away."""
    try:
        marks = [json.loads((part / MARK).read_text(encoding="utf-8")) for part in (paths.breakhis, paths.pcam)]
    except (OSError, ValueError):
        return False
    if not paths.oracle.is_file() or any(found != mark for found in marks):
        return False
    return sum(1 for _ in paths.breakhis.rglob("*.png")) == n_png and len(list(paths.pcam.glob("*.h5"))) == 6


def _refuse_starting_child() -> None:
    """Stop a worker that runs a script without a main guard once more, before it writes beside its parent."""
    import multiprocessing

    if getattr(multiprocessing.current_process(), "_inheriting", False):  # what multiprocessing itself goes by
        raise RuntimeError("a script without a main guard starts itself again in every process that renders")


def _require_replaceable(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError("the synthetic cohort needs a folder, and this is a file", value=folder,
                        fix="choose another path")  # fmt: skip
    names = {entry.name for entry in folder.iterdir()}
    if names and not names <= {"breakhis", "pcam", ORACLE}:
        raise UserError(
            "this folder holds something else, and writing the cohort would replace it",
            value=folder,
            allowed="a new or empty folder, or an older synthetic cohort",
            fix="choose another folder",
        )
    for part in ("breakhis", "pcam"):
        if (folder / part).exists() and not (folder / part / MARK).is_file():
            raise UserError(f"the {part} folder here has no {MARK}, so it may be real data and is left alone",
                            value=folder / part, fix="choose another folder")  # fmt: skip
    foreign = _foreign_file(folder)
    if foreign is not None:
        raise UserError("a file in this cohort's folder was not rendered, and replacing the cohort would lose it",
                        value=foreign, fix="move the file away, or choose another folder")  # fmt: skip


def _foreign_file(folder: Path) -> Path | None:
    """Return a file below an older cohort's folder that is not the cohort's; None where there is none."""
    own = set(cohort_files(folder))
    found = (Path(place) / name for place, folders, names in os.walk(folder) for name in (*names, *folders))
    return next((path for path in found if path not in own and (path.is_symlink() or not path.is_dir())), None)


# ------------------------------------------------------------------------------
# The cohort's files in the layouts of BreakHis and PatchCamelyon, and the oracle's facts beside them.


LEVEL_0_MPP = 0.243  # the scale in whose pixels PatchCamelyon's meta file gives positions


def write_breakhis(config: SyntheticConfig, folder: Path, renderer: Renderer) -> None:
    """Write the PNG tree."""
    jobs = [job for _, _, job in breakhis_jobs(config)]
    for parent in sorted({(folder / job.path).parent for job in jobs}):
        parent.mkdir(parents=True, exist_ok=True)
    renderer.save_all(folder, jobs, "rendering synthetic BreakHis")


def write_pcam(config: SyntheticConfig, folder: Path, renderer: Renderer) -> dict[str, tuple[Patch, ...]]:
    """Write pixels, labels and slides of train, valid and test."""
    folder.mkdir(parents=True, exist_ok=True)
    patches_by_part = pcam_patches(config)
    patches = [patch for part in patches_by_part.values() for patch in part]
    jobs = [patch_job(config, patch, number) for number, patch in enumerate(patches)]
    pixels = renderer.draw_all(jobs, "rendering synthetic PatchCamelyon")
    start = 0
    for part, part_patches in patches_by_part.items():
        stem = f"camelyonpatch_level_2_split_{part}"
        labels = np.array([patch.label for patch in part_patches], np.uint8).reshape(-1, 1, 1, 1)
        _write_h5(folder / f"{stem}_x.h5", "x", pixels[start : start + len(part_patches)])
        _write_h5(folder / f"{stem}_y.h5", "y", labels)
        (folder / f"{stem}_meta.csv").write_text(_meta_csv(part_patches), encoding="utf-8", newline="\n")
        start += len(part_patches)
    return patches_by_part


def write_oracle(
    config: SyntheticConfig, patches_by_part: dict[str, tuple[Patch, ...]], path: Path, mark: dict[str, object]
) -> None:
    """Write what is true of the cohort and stands in none of its files."""
    cases = [
        {**asdict(case), "code": case.code} for case in make_cases(config)
    ]  # fmt: skip
    slides = {patch.slide.name: asdict(patch.slide) for part in patches_by_part.values() for patch in part}
    write_json(
        path,
        {
            **mark,
            "config": config.model_dump(mode="json"),
            "breakhis": {
                "mpp": {f"{key}X": value for key, value in MPP_BY_MAGNIFICATION.items()},
                "label": "nothing" if config.null_labels else "atypia of the case's epithelium",
                "cases": cases,
            },
            "pcam": {
                "mpp": PCAM_MPP * config.scale,
                "claimed_mpp": PCAM_MPP,
                "label": _pcam_meaning(config),
                "label_region_px": PCAM_CENTRE_PX,
                "slides": slides,
                "tiles": {part: [_facts(patch) for patch in tiles] for part, tiles in patches_by_part.items()},
            },
        },
    )


def _pcam_meaning(config: SyntheticConfig) -> str:
    if config.null_labels:
        return "nothing"
    other = f"; with probability {config.label_meaning:g} instead: mostly epithelium of any kind in the whole tile"
    return "tumour within the centre" + (other if config.label_meaning else "")


def _facts(patch: Patch) -> dict[str, object]:
    return {
        "tumour_in_centre": patch.tumour,
        "mostly_epithelium": patch.other,
        "label": patch.label,
        "x_um": patch.x_um,
        "y_um": patch.y_um,
    }


def _meta_csv(patches: tuple[Patch, ...]) -> str:
    rows = ["coord_y,coord_x,tumor_patch,center_tumor_patch,wsi"]
    for patch in patches:
        y, x = round(patch.y_um / LEVEL_0_MPP), round(patch.x_um / LEVEL_0_MPP)
        rows.append(f"{y},{x},{patch.tumour_anywhere or patch.label},{patch.label},{patch.slide.name}")
    return "\n".join(rows) + "\n"


def _write_h5(path: Path, name: str, values: NDArray[np.uint8]) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file.create_dataset(name, data=values)


# ------------------------------------------------------------------------------
# Rendering by several processes; the result does not depend on how many.


S = TypeVar("S")
T = TypeVar("T")
CHUNK = 8
Z_RLE = 3  # zlib's run-length strategy: three times as fast as its default on noisy images, and no larger


class Renderer:
    """Worker processes that draw tiles, started when first needed and gone with the block.

    Args:
        workers: Number of processes; None takes one per core, 1 draws in this process.
    """

    def __init__(self, workers: int | None = None) -> None:
        self._workers = cpu_count() if workers is None else workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Renderer:
        """Start the processes afresh (spawn), as Windows and macOS do."""
        if self._workers > 1:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._workers, mp_context=context, initializer=_leave_interrupts_to_parent)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the processes; after an error, without drawing what was still to come."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=kind is not None)
        if isinstance(error, BrokenProcessPool):
            raise UserError(
                "a process that renders synthetic tissue died (out of memory, or a script without a main guard)",
                fix='call write_cohort(..., workers=1), or put the script below `if __name__ == "__main__":`',
            ) from error

    def save_all(self, folder: Path, jobs: Sequence[RenderJob], description: str) -> None:
        """Draw tiles and save each as PNG at its path below a folder."""
        results = self._map(_save, [(str(folder), job) for job in jobs])
        for _ in track(results, description, total=len(jobs)):
            pass

    def draw_all(self, jobs: Sequence[RenderJob], description: str) -> NDArray[np.uint8]:
        """Draw tiles of one size."""
        return np.stack(list(track(self._map(_draw, list(jobs)), description, total=len(jobs))))

    def _map(self, work: Callable[[S], T], items: Sequence[S]) -> Iterator[T]:
        return map(work, items) if self._pool is None else self._pool.map(work, items, chunksize=CHUNK)


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _draw(job: RenderJob) -> NDArray[np.uint8]:
    return render(job.tissue, job.field, job.camera, job.seed)


def _save(task: tuple[str, RenderJob]) -> None:
    from PIL import Image

    folder, job = task
    Image.fromarray(_draw(job)).save(Path(folder) / job.path, "PNG", compress_level=1, compress_type=Z_RLE)
