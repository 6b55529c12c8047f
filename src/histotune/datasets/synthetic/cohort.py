"""Settings of the synthetic cohort: its size, and one knob per thing that can differ between two data sets."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


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
