"""Settings of the published protocols; the defaults are the published values."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Device = Literal["auto", "cpu", "cuda"]


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, ge=0)
    device: Device = "auto"


class EvaConfig(_Config):
    """eva's offline classification (kaiko-eva 0.4.5): a linear layer by AdamW, stopped and scored by its runs' best.

    Attributes:
        seed: Of the first run; the others follow.
        device: Where heads train.
        runs: Runs whose mean and SD are reported.
        lr: Learning rate; a third of it in the first ``slow_epochs`` epochs.
        slow_epochs: eva configures no scheduler and gets torch's ConstantLR, which holds lr / 3 for 5 epochs.
        weight_decay: AdamW's default.
        batch_size: Tiles per step; the last batch of an epoch may be smaller.
        max_steps: Steps at most.
        patience: Epochs (checks, with ``check_every``) without a better balanced accuracy after which a run stops.
        min_delta: By how much a check must be better to postpone the stop.
        check_every: Epochs between two looks at the valid part.
        shots: Training tiles per class, drawn anew for each run; None takes all.
    """

    name: Literal["eva"] = "eva"
    runs: int = Field(5, ge=1)
    lr: float = Field(3e-4, gt=0)
    slow_epochs: int = Field(5, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    batch_size: int = Field(256, ge=1)
    max_steps: int = Field(12_500, ge=1)
    patience: int = Field(500, ge=1)
    min_delta: float = Field(0.0, ge=0)
    check_every: int = Field(1, ge=1)
    shots: int | None = Field(None, ge=1)


class ThunderConfig(_Config):
    """THUNDER's classification tasks (thunder-bench 0.2.2): nine linear heads, k nearest neighbours, SimpleShot.

    Attributes:
        seed: Of initial weights, batch order and draws.
        device: Where heads train.
        lr: Learning rates of the grid.
        weight_decay: Weight decays of the grid.
        epochs: Passes over the train part.
        batch_size: Tiles per step.
        k: Values of k; the tuning part chooses.
        shots: Tiles per class of SimpleShot.
        draws: Draws of each number of shots.
    """

    name: Literal["thunder"] = "thunder"
    lr: tuple[float, ...] = Field((1e-3, 1e-4, 1e-5), min_length=1)
    weight_decay: tuple[float, ...] = Field((0.0, 1e-3, 1e-4), min_length=1)
    epochs: int = Field(200, ge=1)
    batch_size: int = Field(64, ge=1)
    k: tuple[int, ...] = Field((1, 3, 5, 10, 20, 30, 40, 50), min_length=1)
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    draws: int = Field(1000, ge=1)


class UniConfig(_Config):
    """UNI's ROI tasks (MahmoodLab/UNI): logistic regression, k nearest neighbours, prototypes and few shots.

    Attributes:
        seed: Of the draws.
        device: Where heads are fitted.
        max_iterations: Of L-BFGS.
        k: Neighbours.
        shots: Tiles per class of few-shot classification.
        draws: Draws of each number of shots.
    """

    name: Literal["uni"] = "uni"
    max_iterations: int = Field(1000, ge=1)
    k: int = Field(20, ge=1)
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    draws: int = Field(1000, ge=1)


ProtocolConfig = Annotated[EvaConfig | ThunderConfig | UniConfig, Field(discriminator="name")]
