"""Which cases exist: each one's tissue and signature, drawn from the seed; the label is drawn apart.

A case's signature (stain, texture, nuclear size) never depends on its label. The label's tissue effect is atypia
alone, and its distributions overlap, so that no head can be perfect.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from histotune.datasets.synthetic.tissue import Stain, Tissue

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.datasets.synthetic.cohort import SyntheticConfig

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
    """Draw the BreakHis cases.

    Args:
        config: Size, signature strength, null labels, seed.

    Returns:
        The cases: tissue benign and malignant in turn, so that architectures are spread alike over both.
    """
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
    """Draw the PatchCamelyon slides.

    Args:
        config: Stain shift, signature strength, seed.
        n_by_part: Slides per part.

    Returns:
        The slides, part by part.
    """
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
