"""Settings of a transfer diagnosis."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class TransferConfig(BaseModel):
    """How a transfer is diagnosed.

    Attributes:
        folds: Folds over the target's groups: what a remedy learns from the target it learns from the other folds.
        error: Chance of naming a cause where there is none, shared by all the tests of the rule.
        min_auroc: Ranking losses and recoveries below this are not called a cause.
        open_auroc: Where a ranking loss can't be shown, but one so large can't be excluded either, no cause is named.
        min_log_loss: The same for the parts of the decision loss, nats.
        min_share: A remedy names a cause only if it recovers this share of the ranking loss.
        few_shot: Labelled target groups per class on the few-shot curve.
        draws: Draws of groups per point of the curve.
        components: Principal components of the source in which the Frechet distance is measured.
        stain: Stain normaliser of the stain remedy.
        max_tiles: Tiles per side that are diagnosed, spread over the groups; 0 takes all.
        seed: Seed of folds and draws.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    folds: int = Field(4, ge=2)
    error: float = Field(0.05, gt=0, lt=1)
    min_auroc: float = Field(0.02, ge=0, lt=0.5)
    open_auroc: float = Field(0.1, gt=0, lt=1)
    min_log_loss: float = Field(0.02, ge=0)
    min_share: float = Field(0.25, ge=0, le=1)
    few_shot: tuple[int, ...] = (1, 2, 4, 8, 16)
    draws: int = Field(10, ge=2)
    components: int = Field(32, ge=1)
    stain: str = Field("macenko", pattern="^(macenko|reinhard)$")
    max_tiles: int = Field(4000, ge=0)
    seed: int = 0
