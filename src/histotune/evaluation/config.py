"""Settings of the evaluation room."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Floor = Literal["majority", "random-weights", "colour-histogram", "untuned"]


class EvaluationConfig(BaseModel):
    """What is scored, and against which floors.

    Attributes:
        train_magnification: Magnification of the training tiles, such as "100X"; every magnification is scored.
            None trains on all tiles.
        outer_folds: Folds of the grouped cross-fit; made once over the groups of all magnifications.
        floors: What stands beside the probe in every table.
        untuned_draws: Random heads drawn for the "untuned head" floor.
        leak_price: Also measure what a random image split would have claimed.
        final: Score the test split; without it only the tuning split is scored. Every scoring is counted.
        seed: Seed of folds and draws.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    train_magnification: str | None = None
    outer_folds: int = Field(5, ge=2)
    floors: tuple[Floor, ...] = ("majority", "random-weights", "colour-histogram", "untuned")
    untuned_draws: int = Field(100, ge=10)
    leak_price: bool = True
    final: bool = False
    seed: int = 0
