"""Whether a lower precision changes what an embedding says: measured on the data's own tiles, never assumed.

Cosine similarity hides the answer: embeddings share a large common mean, so that two of different tiles are alike to
0.99 anyway. What a head sees is how tiles differ, so the error of every dimension is held against that dimension's own
spread between tiles.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.embeddings.probe_error import probe_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from histotune.tools.devices import Computed, ComputeDevice


MEDIAN_LIMIT, P99_LIMIT = 0.01, 0.05
PROBE_LIMIT = 0.005
"""Of a probe's scores' spread. The AUROC of n tiles moves by 0.7 to 3 times the error over sqrt(n) (docs/log.md): 0.005
keeps it below 1e-3 from 400 tiles on."""
MIN_TILES, CHECK_TILES, WISH_TILES, PROBE_TILES = 16, 64, 16, 128


# N tiles, D columns
@dataclass(frozen=True)
class PrecisionCheck:
    """How far a precision is from fp32 on some tiles.

    Attributes:
        precision: What was tried.
        n_tiles: Tiles it was tried on.
        median_error: Median over dimensions of RMS error over between-tile standard deviation.
        p99_error: 99th percentile of the same.
        probe_error: RMS change of a probe's scores over their spread between tiles.
        passed: Whether all are within the limits.
    """

    precision: Computed
    n_tiles: int
    median_error: float
    p99_error: float
    probe_error: float
    passed: bool

    def __str__(self) -> str:
        """Return the sentence that logs and reports print."""
        verdict = "kept" if self.passed else "refused"
        return (
            f"{self.precision} {verdict}: on {self.n_tiles} tiles the error is {self.median_error:.2g} of a dimension's"
            f" spread (median; 99th percentile {self.p99_error:.2g}; allowed {MEDIAN_LIMIT:g} and {P99_LIMIT:g}) and"
            f" {self.probe_error:.2g} of a probe's scores' spread (allowed {PROBE_LIMIT:g})"
        )


@dataclass(frozen=True)
class PrecisionChoice:
    """Which precision embeds, and why.

    Attributes:
        precision: The choice.
        checks: What was tried, in order.
        reason: One sentence.
    """

    precision: Computed
    checks: tuple[PrecisionCheck, ...]
    reason: str

    def as_dict(self) -> dict[str, object]:
        """Return a JSON-ready dict."""
        return asdict(self)


def candidates(device: ComputeDevice) -> tuple[Computed, ...]:
    """Return the precisions worth trying on a device, fastest first; fp32 always ends the list.

    Args:
        device: Where the backbone runs.

    Returns:
        bf16 where it is fast, fp16 on GPUs with matrix units for it, fp32.
    """
    half: list[Computed] = ["bf16"] if device.fast_bf16 else []
    if device.kind == "cuda" and float(device.capability) >= 7.0:
        half.append("fp16")
    return (*half, "fp32")


def compare_precision(
    precision: Computed, reference_ND: NDArray[np.floating], candidate_ND: NDArray[np.floating]
) -> PrecisionCheck:
    """Hold the error of every dimension, and of a probe's scores, against their spread between tiles.

    Args:
        precision: What the candidate was computed in.
        reference_ND: fp32 embeddings.
        candidate_ND: The same tiles in the other precision, or stored in another type.

    Returns:
        The check. A dimension without spread counts as exact where it is exact, as infinitely wrong otherwise; values
        that are not finite never pass.

    Raises:
        ValueError: Shapes differ, or there are fewer than two tiles.
    """
    if reference_ND.shape != candidate_ND.shape or len(reference_ND) < 2:
        raise ValueError(f"shapes {reference_ND.shape} and {candidate_ND.shape}: the same tiles, two or more")
    a_ND, b_ND = reference_ND.astype(np.float64), candidate_ND.astype(np.float64)
    median, p99 = _dimension_errors(a_ND, b_ND)
    rows = spread_rows(len(a_ND), PROBE_TILES)
    finite = bool(np.isfinite(a_ND[rows]).all() and np.isfinite(b_ND[rows]).all())
    of_probe = probe_error(a_ND[rows], b_ND[rows]) if finite else float("inf")
    passed = median <= MEDIAN_LIMIT and p99 <= P99_LIMIT and of_probe <= PROBE_LIMIT
    return PrecisionCheck(precision, len(a_ND), median, p99, of_probe, passed)


def _dimension_errors(reference_ND: NDArray[np.float64], candidate_ND: NDArray[np.float64]) -> tuple[float, float]:
    """Return the median and the 99th percentile over dimensions of RMS error over spread."""
    rms_D = np.sqrt(np.mean((candidate_ND - reference_ND) ** 2, axis=0))
    spread_D = reference_ND.std(axis=0)
    inexact_D = np.where(rms_D == 0, 0.0, np.inf)
    error_D = np.divide(rms_D, spread_D, out=inexact_D, where=spread_D > 0)
    error_D = np.where(np.isnan(error_D), np.inf, error_D)
    # The order statistic above the quantile, so that an infinite error never turns into NaN by interpolation.
    median, p99 = (float(np.quantile(error_D, q, method="higher")) for q in (0.5, 0.99))
    return median, p99


def choose_by_check(
    tried: Sequence[Computed], embed_with: Callable[[Computed], NDArray[np.float32]], n_tiles: int
) -> PrecisionChoice:
    """Return the first precision that passes; fp32 where none does or too few tiles can tell.

    Args:
        tried: Precisions, fastest first, fp32 last.
        embed_with: Embeds the tiles of the check in a precision.
        n_tiles: How many they are.

    Returns:
        The choice with every check made.
    """
    if tried[0] == "fp32":
        return PrecisionChoice("fp32", (), "nothing faster than fp32 here")
    if n_tiles < MIN_TILES:
        return PrecisionChoice("fp32", (), f"{n_tiles} tiles are too few to check a faster precision")
    reference_ND = embed_with("fp32")
    checks: list[PrecisionCheck] = []
    for precision in tried[:-1]:
        checks.append(compare_precision(precision, reference_ND, embed_with(precision)))
        if checks[-1].passed:
            return PrecisionChoice(precision, tuple(checks), str(checks[-1]))
    return PrecisionChoice("fp32", tuple(checks), "; ".join(str(check) for check in checks))


def spread_rows(n_rows: int, n_wanted: int = CHECK_TILES) -> NDArray[np.int64]:
    """Return evenly spaced row numbers, so that a check sees more than the first slide.

    Args:
        n_rows: Rows there are.
        n_wanted: Rows wanted.

    Returns:
        At most ``n_wanted`` row numbers, ascending.
    """
    return np.unique(np.linspace(0, n_rows - 1, min(n_rows, n_wanted)).round().astype(np.int64))
