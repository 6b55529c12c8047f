"""A catalog entry: a backbone's facts with their sources, its licence as answers, and what stops it, if anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from histotune.backbones.spec import BackboneSpec, ColumnBlock

Seen = Literal["yes", "no", "unknown"]
Status = Literal["shape-verified", "listed", "no weights"]


@dataclass(frozen=True)
class Licence:
    """What a licence lets one do; None where its text does not say, or was not read clause by clause.

    Attributes:
        name: Its name.
        commercial: Commercial use.
        share_weights: Passing the weights on.
        share_derivatives: Passing on changed weights: fine-tuned, or with an adapter merged in.
        outputs_restricted: Whether what was computed with the model (embeddings, heads trained on them) is bound too.
        source: Where its text stands.
    """

    name: str
    commercial: bool | None
    share_weights: bool | None
    share_derivatives: bool | None
    outputs_restricted: bool | None
    source: str


@dataclass(frozen=True)
class Overlap:
    """Whether the pretraining data, as its authors describe it, holds the images of known benchmarks.

    Attributes:
        tcga: TCGA slides, which many benchmarks are cut from.
        camelyon16: Camelyon16 slides, which PatchCamelyon is cut from.
        breakhis: BreakHis.
    """

    tcga: Seen = "unknown"
    camelyon16: Seen = "unknown"
    breakhis: Seen = "unknown"


@dataclass(frozen=True)
class Source:
    """Where figures were read.

    Attributes:
        figures: Names of the figures, as :data:`FIGURES` lists them.
        where: A page, a file at a commit, or a paper.
    """

    figures: tuple[str, ...]
    where: str


@dataclass(frozen=True)
class OwnCode:
    """Why a backbone is listed only.

    Attributes:
        reason: What it needs that is not run here.
        fix: What to install or allow to use it elsewhere.
    """

    reason: str
    fix: str


@dataclass(frozen=True)
class CatalogEntry:
    """A backbone that has a name.

    Attributes:
        spec: What the loader needs.
        about: One line for people.
        licence: Of the weights.
        params_m: Parameters of the tile encoder in millions, as cited; None without a source.
        params_step_m: One unit of the last digit cited: 100 for "1.1 B", 0.1 for "21.7 M".
        with_classifier: Whether the source counts a classifier that the encoder goes without.
        dim: Width of one column block.
        registers: Register tokens, which are never averaged into ``patch_mean``.
        overlap: With benchmark data.
        sources: Where the figures were read.
        needs: Requirement that an older installation may lack, such as ``timm>=1.0.20``.
        notes: What a user should know: departures from the authors' transform, doubts.
        own_code: Why it can't be loaded here; None for those that can.
        verified: Whether its architecture was built at full size and found to have the cited figures; the tests
            build it and compare.
    """

    spec: BackboneSpec
    about: str
    licence: Licence
    params_m: float | None = None
    params_step_m: float = 1.0
    with_classifier: bool = False
    dim: int | None = None
    registers: int | None = None
    overlap: Overlap = Overlap()
    sources: tuple[Source, ...] = ()
    needs: str = ""
    notes: tuple[str, ...] = ()
    own_code: OwnCode | None = None
    verified: bool = False

    @property
    def name(self) -> str:
        """What the user types."""
        return self.spec.name

    @property
    def status(self) -> Status:
        """How far it was checked without its weights."""
        if self.spec.kind == "colour-histogram":
            return "no weights"
        return "shape-verified" if self.verified else "listed"

    @property
    def blocks(self) -> tuple[ColumnBlock, ...]:
        """Column blocks of its embedding; empty where the width has no source."""
        if self.dim is None:
            return ()
        if "pooled" in self.spec.default_pooling:
            return (ColumnBlock("pooled", 0, self.dim),)
        return ColumnBlock("cls", 0, self.dim), ColumnBlock("patch_mean", self.dim, 2 * self.dim)


FIGURES = (
    "hub", "revision", "gated", "params", "dim", "registers", "architecture", "normalisation", "size", "pooling",
    "mpp", "overlap",
)  # fmt: skip


def cite(where: str, *figures: str) -> Source:
    """Return a source."""
    odd = set(figures) - set(FIGURES)
    if odd:
        raise ValueError(f"no such figures: {sorted(odd)}")
    return Source(figures, where)


def stated_figures(entry: CatalogEntry) -> tuple[str, ...]:
    """Return the figures that an entry states, each of which needs a source."""
    spec, o = entry.spec, entry.overlap
    loadable = entry.own_code is None and spec.kind != "colour-histogram"
    stated = {
        "hub": bool(spec.repository),
        "revision": bool(spec.revision),
        "gated": spec.gated,
        "params": entry.params_m is not None,
        "dim": entry.dim is not None,
        "registers": bool(entry.registers),
        "architecture": bool(spec.model_args),
        "normalisation": loadable,
        "size": loadable,
        "pooling": loadable and spec.default_pooling != ("pooled",),
        "mpp": bool(spec.training_mpp),
        "overlap": {o.tcga, o.camelyon16, o.breakhis} != {"unknown"},
    }
    return tuple(name for name in FIGURES if stated[name])
