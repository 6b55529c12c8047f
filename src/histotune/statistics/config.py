"""Settings of the statistics room."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class IntervalConfig(BaseModel):
    """How confidence intervals are made.

    Attributes:
        method: ``auto`` takes the method that each metric earned in the coverage study (docs/intervals.md).
            ``percentile``, ``bca`` and ``studentised`` are class-stratified bootstraps over groups. The others are t
            intervals on the logit scale (log-loss: log scale; calibration errors: square root), the error from leaving
            out one group at a time (``jackknife-t``; ``skewed-t`` lengthens the side of the long tail), from resamples
            (``resampled-t``), or from DeLong's components summed by group (``obuchowski-t``: AUROC of two classes;
            others take the jackknife).
        level: Nominal coverage.
        n_resamples: Bootstrap resamples.
        cluster: ``group`` resamples whole groups; ``tile`` pretends tiles are independent and is marked TOO NARROW.
        min_groups_per_class: Below this many groups in a class the interval is refused.
        seed: Seed of the resamples.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal[
        "auto", "percentile", "bca", "studentised", "jackknife-t", "skewed-t", "resampled-t", "obuchowski-t"
    ] = "auto"
    level: float = Field(0.95, gt=0, lt=1)
    n_resamples: int = Field(2000, ge=100)
    cluster: Literal["group", "tile"] = "group"
    min_groups_per_class: int = Field(5, ge=2)
    seed: int = 0


class ComparisonConfig(BaseModel):
    """Which arms are compared, declared before anyone sees the scores, and how p values are made.

    Attributes:
        family: ``all pairs``; ``against the first`` arm; or pairs of names. p values are adjusted over all of it.
        n_permutations: Most permutations; where the groups allow fewer assignments, all are listed.
        seed: Seed of the permutations.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Literal["all pairs", "against the first"] | tuple[tuple[str, str], ...] = "all pairs"
    n_permutations: int = Field(9999, ge=99)
    seed: int = 0
