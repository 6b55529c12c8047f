"""What the coverage study found: the method that each metric earned, and the coverage simulated nearest to a case."""

# G groups, K classes

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from histotune.statistics.methods import Method
    from histotune.statistics.metrics import MetricName

STUDENTISED_FROM = 35
"""Groups from which the studentised bootstrap holds the AUROC better than the jackknife."""
EARNED: dict[MetricName, Method] = {
    "auprc": "skewed-t",
    "log_loss": "skewed-t",
    "sensitivity_at_95_specificity": "resampled-t",
    "specificity_at_95_sensitivity": "resampled-t",
    "ece_debiased": "resampled-t",
}
"""Every other metric earned the jackknife's t."""


def default_method(name: MetricName, n_groups: int) -> Method:
    """Return the method that a metric earned in the coverage study.

    Args:
        name: The metric.
        n_groups: Number of groups.

    Returns:
        The method.
    """
    if name == "auroc" and n_groups >= STUDENTISED_FROM:
        return "studentised"
    return EARNED.get(name, "jackknife-t")


@dataclass(frozen=True)
class StudiedCell:
    """Simulated coverage of one metric in one setting.

    Attributes:
        metric: The metric.
        design: ``one-class``: every group holds one class; ``mixed``: every group holds both.
        n_groups: Number of groups.
        auroc: True AUROC of the setting.
        icc: Share of the group effect in a score's variance.
        truth: The metric's true value.
        coverage: By method; a method that was not judged is missing.
    """

    metric: MetricName
    design: str
    n_groups: int
    auroc: float
    icc: float
    truth: float
    coverage: dict[str, float]


@cache
def studied_cells() -> tuple[StudiedCell, ...]:
    """Return every cell of the study, in the order of the file."""
    text = files("histotune.statistics").joinpath("coverage.csv").read_text(encoding="utf-8")
    fixed = ("metric", "design", "n_groups", "auroc", "icc", "truth")
    return tuple(
        StudiedCell(
            cast("MetricName", row["metric"]), row["design"], int(row["n_groups"]), float(row["auroc"]),
            float(row["icc"]), float(row["truth"]),
            {name: float(value) for name, value in row.items() if name not in fixed and value},
        )
        for row in csv.DictReader(text.splitlines())
    )  # fmt: skip


def kind_of_groups(holds_GK: NDArray[np.bool_]) -> str:
    """Return the study's kind that is nearest: most groups hold one class, or most hold both.

    Args:
        holds_GK: Which classes each group holds.
    """
    return "one-class" if (holds_GK.sum(axis=1) == 1).mean() >= 0.5 else "mixed"


def simulated_coverage(name: MetricName, method: Method, value: float, holds_GK: NDArray[np.bool_]) -> float | None:
    """Return the coverage simulated nearest to a case.

    Nearest means the same kind of groups (most hold one class, or most hold both), then the nearest number of groups,
    then the nearest true value; of the correlations within groups, which nobody knows, the worse one.

    Args:
        name: The metric.
        method: How the interval is made.
        value: The metric's value.
        holds_GK: Which classes each group holds.

    Returns:
        A share; None where the study did not judge this metric with this method.
    """
    design = kind_of_groups(holds_GK)
    if name == "specificity_at_95_sensitivity":
        name = "sensitivity_at_95_specificity"  # its mirror image
    cells = [
        cell for cell in studied_cells() if cell.metric == name and cell.design == design and method in cell.coverage
    ]
    if not cells:
        return None
    least = min(abs(math.log(cell.n_groups / len(holds_GK))) for cell in cells)
    near = [cell for cell in cells if abs(math.log(cell.n_groups / len(holds_GK))) <= least + 1e-9]
    gap = min(abs(cell.truth - value) for cell in near)
    return min(cell.coverage[method] for cell in near if abs(cell.truth - value) <= gap + 1e-3)


@dataclass(frozen=True)
class BandCoverage:
    """Simulated coverage of bands around ROC and precision-recall curves, over places and settings.

    Attributes:
        design: Kind of groups, as in :class:`StudiedCell`.
        n_groups: Number of groups.
        least: Of the place and setting that is covered least.
        most: Of the one that is covered most.
    """

    design: str
    n_groups: int
    least: float
    most: float


@cache
def studied_bands() -> tuple[BandCoverage, ...]:
    """Return what was simulated of bands, by kind and number of groups."""
    text = files("histotune.statistics").joinpath("band_coverage.csv").read_text(encoding="utf-8")
    return tuple(
        BandCoverage(row["design"], int(row["n_groups"]), float(row["least"]), float(row["most"]))
        for row in csv.DictReader(text.splitlines())
    )


def simulated_band_coverage(holds_GK: NDArray[np.bool_]) -> BandCoverage:
    """Return what was simulated of bands with the same kind and the nearest number of groups.

    Args:
        holds_GK: Which classes each group holds.
    """
    design = kind_of_groups(holds_GK)
    bands = [band for band in studied_bands() if band.design == design]
    return min(bands, key=lambda band: abs(math.log(band.n_groups / len(holds_GK))))
