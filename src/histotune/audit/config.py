"""Settings of the audit."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class AuditConfig(BaseModel):
    """What the audit looks at, and from where on it speaks.

    Attributes:
        quick: Judge names and tables only; no pixel is read.
        near_bits: Perceptual hashes that differ in at most this many of 63 bits are looked at as near duplicates.
        near_correlation: Correlation that three quarters of a thumbnail's parts need to be called a near duplicate.
        orientations: Also find mirrored and turned copies (all eight orientations).
        tissue_free: A tile with a smaller share of stained pixels counts as free of tissue.
        tile_z: Robust z from which a tile's stain is called unusual.
        group_z: The same for a group's median; 3.5 is the usual limit (Iglewicz, Hoaglin: How to detect and handle
            outliers, 1993).
        few_groups: A class with fewer groups gets no interval over groups and no grouped folds.
        max_listed: Affected tiles listed per finding; all are counted, and unreadable files are always all listed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    quick: bool = False
    near_bits: int = Field(7, ge=0, le=7)
    near_correlation: float = Field(0.9, gt=0, le=1)
    orientations: bool = True
    tissue_free: float = Field(0.005, ge=0, lt=1)
    tile_z: float = Field(6.0, gt=0)
    group_z: float = Field(3.5, gt=0)
    few_groups: int = Field(5, ge=2)
    max_listed: int = Field(100, ge=1)
