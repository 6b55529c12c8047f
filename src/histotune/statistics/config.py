"""Settings of the statistics room."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class IntervalConfig(BaseModel):
    """How confidence intervals are made.

    Attributes:
        method: ``percentile``: class-stratified percentile bootstrap over groups.
        level: Nominal coverage.
        n_resamples: Bootstrap resamples.
        cluster: ``group`` resamples whole groups; ``tile`` pretends tiles are independent and is marked TOO NARROW.
        min_groups_per_class: Below this many groups in a class the interval is refused.
        seed: Seed of the resamples.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["percentile"] = "percentile"
    level: float = Field(0.95, gt=0, lt=1)
    n_resamples: int = Field(2000, ge=100)
    cluster: Literal["group", "tile"] = "group"
    min_groups_per_class: int = Field(5, ge=2)
    seed: int = 0
