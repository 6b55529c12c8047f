"""What a measurement of scale found, ready for the terminal, for JSON and for a config."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import polars as pl

    from histotune.images.priors import NuclearPrior

How = Literal["measured", "joint fit", "not estimable"]
METHOD = (
    "Haematoxylin by two dyes estimated per image (Macenko et al. 2009) and least squares (Ruifrok and Johnston 2001); "
    "round maxima of the scale-normalised Laplacian of "
    "Gaussian over place and scale (Lindeberg 1998); diameter-weighted median per tile, median over the tiles of a "
    "group, median over groups; bootstrap over groups."
)


@dataclass(frozen=True)
class MagnificationScale:
    """The scale of one magnification.

    Attributes:
        magnification: Label; "" for tiles without one.
        n_tiles: Tiles looked at.
        n_estimable: Tiles whose nuclei could be measured.
        n_groups: Groups with such tiles, or with nuclei too small to measure.
        diameter_px: Typical nuclear diameter as measured, a little less than true; NaN where not estimable.
        low_px: Lower end of its 95 % interval over groups.
        high_px: Upper end.
        mpp_alone: um/px from this magnification alone; NaN where not estimable.
        mpp: um/px to use: from the joint fit where the ratios between magnifications are known.
        mpp_factor: Multiplicative uncertainty of ``mpp``: prior, method and sampling.
        how: Where ``mpp`` comes from.
        reason: Why the magnification is not estimable alone, or not trusted; empty where it is.
    """

    magnification: str
    n_tiles: int
    n_estimable: int
    n_groups: int
    diameter_px: float
    low_px: float
    high_px: float
    mpp_alone: float
    mpp: float
    mpp_factor: float
    how: How
    reason: str = ""


@dataclass(frozen=True)
class RatioCheck:
    """A measured ratio of nuclear diameters beside what the optics demand.

    Attributes:
        fine: The stronger magnification.
        coarse: The weaker one.
        measured: Diameter at ``fine`` over diameter at ``coarse``.
        low: Lower end of the 95 % interval over groups.
        high: Upper end.
        expected: From the magnifications.
    """

    fine: str
    coarse: str
    measured: float
    low: float
    high: float
    expected: float


@dataclass(frozen=True)
class CandidateCheck:
    """What a scale on record would make of the measured nuclei.

    Attributes:
        source: ``nominal`` or ``estimated``.
        magnification: Label; "" for tiles without one.
        mpp: um/px of the candidate.
        nucleus_um: Measured diameter at that scale.
        supported: Whether that is a nucleus, within the uncertainties of prior, method, sampling and candidate.
    """

    source: str
    magnification: str
    mpp: float
    nucleus_um: float
    supported: bool


@dataclass(frozen=True)
class ScaleEstimate:
    """The measured scale of a data set.

    Attributes:
        dataset: Its name.
        synthetic: Whether the tiles were rendered by a program.
        prior: The nuclear diameter that served as the ruler.
        magnifications: One entry per magnification.
        ratios: Every pair of measured magnifications with a known ratio.
        candidates: The scales on record, judged.
        notes: What was assumed or left out.
        tiles: tile_id, magnification, group_id, diameter_px, n_nuclei, reason: one row per tile looked at.
    """

    dataset: str
    synthetic: bool
    prior: NuclearPrior
    magnifications: tuple[MagnificationScale, ...]
    ratios: tuple[RatioCheck, ...]
    candidates: tuple[CandidateCheck, ...]
    notes: tuple[str, ...]
    tiles: pl.DataFrame

    @property
    def adopted(self) -> tuple[MagnificationScale, ...]:
        """The magnifications with a value."""
        return tuple(scale for scale in self.magnifications if scale.how != "not estimable")

    def settings(self, part: str) -> tuple[str, ...]:
        """Return the config fields that adopt this scale.

        Args:
            part: ``source`` or ``target``, where the data set stands in a config.

        Returns:
            Assignments for ``--set``; empty where nothing could be measured.
        """
        if len(self.adopted) < len(self.magnifications) or not self.magnifications:
            return ()
        factor = f"{part}.mpp_factor={max(scale.mpp_factor for scale in self.adopted):.3g}"
        if [scale.magnification for scale in self.adopted] == [""]:
            return f"{part}.mpp={self.adopted[0].mpp:.4g}", factor
        mapping = {scale.magnification: float(f"{scale.mpp:.4g}") for scale in self.adopted}
        return f"{part}.mpp_by_magnification={json.dumps(mapping, separators=(',', ':'))}", factor

    def as_dict(self) -> dict[str, object]:
        """Return everything as a JSON-ready dict."""
        return {
            "dataset": self.dataset,
            "synthetic": self.synthetic,
            "method": METHOD,
            "prior": asdict(self.prior),
            "magnifications": [asdict(scale) for scale in self.magnifications],
            "ratios": [asdict(ratio) for ratio in self.ratios],
            "candidates": [asdict(candidate) for candidate in self.candidates],
            "notes": list(self.notes),
            "tiles": self.tiles.to_dicts(),
        }
