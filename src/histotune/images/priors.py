"""How large nuclei are in micrometres: the ruler that turns pixels into a scale, with its own uncertainty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from histotune.images.config import ScaleConfig


@dataclass(frozen=True)
class NuclearPrior:
    """A typical nuclear diameter in H&E sections.

    Attributes:
        tissue: Where it holds.
        diameter_um: Typical diameter of a nuclear profile.
        factor: Multiplicative uncertainty: the tissue of a data set is taken to lie between diameter / factor and
            diameter * factor, with about 95 % confidence.
        source: Where the numbers come from.
    """

    tissue: str
    diameter_um: float
    factor: float
    source: str


PRIORS = {
    "breast": NuclearPrior(
        "breast tumours, benign and malignant",
        9.0,
        1.25,
        "Tan et al., Modern Pathology 14(10), 2001: mean nuclear areas of 44, 48 and 72 um2 in ductal carcinoma in "
        "situ of low, intermediate and high grade, which are 7.5, 7.8 and 9.6 um as circles; invasive tumour "
        "epithelium is commonly given as 8 to 12 um, and lymphocytes between, 6 to 7 um, pull down.",
    ),
    "lymph-node": NuclearPrior(
        "lymph nodes, with and without metastases",
        7.0,
        1.25,
        "A small lymphocyte's nucleus is about as wide as a red cell, 6 to 7 um; tumour nuclei of 8 to 12 um in a "
        "part of the tiles pull up.",
    ),
}
TISSUE_BY_DATASET = {"breakhis": "breast", "patch_camelyon": "lymph-node"}
# BreakHis was photographed by one camera through four objectives, so its pixels are inverse to the label.
RATIO_DATASETS = ("breakhis",)


def find_prior(dataset: str, config: ScaleConfig) -> NuclearPrior:
    """Return the nuclear diameter that a data set is measured with.

    Args:
        dataset: Name of the data set.
        config: The user's own diameter or tissue, which win.

    Returns:
        The prior.

    Raises:
        UserError: Nothing says what tissue the data set shows.
    """
    if config.nucleus_um is not None:
        return NuclearPrior("the user's own", config.nucleus_um, config.nucleus_factor, "given by the user")
    tissue = config.tissue or TISSUE_BY_DATASET.get(dataset)
    if tissue is None:
        raise UserError(
            "nothing says how large nuclei are in this data set",
            value=dataset,
            allowed=f"--tissue {' or '.join(PRIORS)}, or --nucleus-um with your own typical diameter",
            fix="add --tissue or --nucleus-um",
        )
    return PRIORS[tissue]


def known_ratios(dataset: str, magnifications: tuple[str, ...]) -> Mapping[str, float]:
    """Return um/px of each magnification over that of a 1X label, where a data set's optics fix the ratios.

    Args:
        dataset: Name of the data set.
        magnifications: Its labels, such as "40X".

    Returns:
        Magnification -> 1 / number; empty where the ratios are not known.

    Example:
        >>> known_ratios("breakhis", ("100X", "400X"))
        {'100X': 0.01, '400X': 0.0025}
    """
    if dataset not in RATIO_DATASETS or not all(name.endswith("X") and name[:-1].isdigit() for name in magnifications):
        return {}
    return {name: 1 / int(name[:-1]) for name in magnifications}
