"""Settings of heads trained by gradient steps: one trial, its schedule, when it stops, and the search over trials."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Optimizer = Literal["AdamW", "Adam", "SGD"]
CurveMetric = Literal["log_loss", "balanced_accuracy", "macro_f1", "accuracy", "auroc"]
Unit = Literal["step", "epoch"]
Searchable = Literal[
    "optimizer", "lr", "weight_decay", "momentum", "epochs", "batch_size", "label_smoothing", "class_weight",
    "hidden_units", "activation",
]  # fmt: skip


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Hold(_Config):
    """A constant factor at first (torch's ConstantLR): eva's runs train at lr / 3 for their first 5 epochs.

    Attributes:
        factor: Multiplies the learning rate while it holds.
        length: For how many steps or epochs.
        unit: What ``length`` counts.
    """

    kind: Literal["hold"] = "hold"
    factor: float = Field(1.0 / 3.0, ge=0)
    length: int = Field(5, ge=0)
    unit: Unit = "epoch"


class WarmUp(_Config):
    """A linear rise to the full learning rate (torch's LinearLR).

    Attributes:
        start: Factor of the first step or epoch.
        length: After how many steps or epochs the full rate is reached.
        unit: What ``length`` counts.
    """

    kind: Literal["warmup"] = "warmup"
    start: float = Field(0.0, ge=0)
    length: int = Field(5, ge=1)
    unit: Unit = "epoch"


class Cosine(_Config):
    """Half a cosine from 1 down to ``final`` over the rest of the training (torch's CosineAnnealingLR).

    Attributes:
        final: Factor at the end.
        after: Steps or epochs before it begins.
        unit: Whether the rate changes at every step or every epoch.
    """

    kind: Literal["cosine"] = "cosine"
    final: float = Field(0.0, ge=0)
    after: int = Field(0, ge=0)
    unit: Unit = "step"


SchedulePiece = Annotated[Hold | WarmUp | Cosine, Field(discriminator="kind")]


class SgdSettings(_Config):
    """How one head is trained.

    Attributes:
        optimizer: AdamW (decoupled weight decay), Adam (weight decay added to the gradient) or SGD.
        lr: Learning rate before the schedule.
        weight_decay: As torch.optim means it; biases decay too.
        momentum: Of SGD.
        nesterov: Whether SGD looks ahead.
        betas: Of Adam and AdamW.
        eps: Of Adam and AdamW.
        epochs: Passes over the training tiles.
        max_steps: Steps instead of epochs; the last pass may be cut short.
        batch_size: Tiles per step.
        drop_last: Whether an incomplete last batch is left out.
        schedule: Factors of the learning rate; all of them multiply.
        label_smoothing: As torch's cross-entropy means it.
        class_weight: ``none``, or ``balanced`` (classes weigh the same in the training loss).
        hidden_units: Width of one hidden layer; 0 for a linear head.
        activation: Of the hidden layer.
        one_logit: Whether a binary head has one logit and sigmoid loss instead of two and softmax.
    """

    optimizer: Optimizer = "AdamW"
    lr: float = Field(1e-3, gt=0, allow_inf_nan=False)
    weight_decay: float = Field(0.01, ge=0, allow_inf_nan=False)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    epochs: int = Field(20, ge=1)
    max_steps: int | None = Field(None, ge=1)
    batch_size: int = Field(256, ge=1)
    drop_last: bool = False
    schedule: tuple[SchedulePiece, ...] = ()
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    class_weight: Literal["none", "balanced"] = "none"
    hidden_units: int = Field(0, ge=0)
    activation: Literal["relu", "gelu"] = "relu"
    one_logit: bool = False

    @model_validator(mode="after")
    def _check_momentum(self) -> SgdSettings:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum above 0")
        return self


class Stopping(_Config):
    """Which epoch's weights are kept, and when a trial stops early; without a monitor the last epoch's are kept.

    Attributes:
        monitor: Metric on the held-out tiles whose best epoch is kept; the first of equal ones.
        patience: Checks in a row without a better value after which a trial stops; None trains to the end.
        min_delta: By how much a value must be better to count.
        check_every: Epochs from one check of the held-out tiles to the next; in between curves are NaN.
    """

    monitor: CurveMetric | None = None
    patience: int | None = Field(None, ge=1)
    min_delta: float = Field(0.0, ge=0)
    check_every: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _check_monitor(self) -> Stopping:
        if self.patience is not None and self.monitor is None:
            raise ValueError("patience needs a metric to monitor")
        return self


class Choice(_Config):
    """One of several values, each as likely as the others; a grid takes all."""

    kind: Literal["choice"] = "choice"
    values: tuple[float | int | str, ...] = Field(min_length=1)


class Uniform(_Config):
    """A number between two bounds."""

    kind: Literal["uniform"] = "uniform"
    low: float
    high: float

    @model_validator(mode="after")
    def _check_order(self) -> Uniform:
        if not self.low < self.high:
            raise ValueError("low must lie below high")
        return self


class LogUniform(_Config):
    """A number between two positive bounds, its logarithm uniform."""

    kind: Literal["log-uniform"] = "log-uniform"
    low: float = Field(gt=0)
    high: float = Field(gt=0)

    @model_validator(mode="after")
    def _check_order(self) -> LogUniform:
        if not self.low < self.high:
            raise ValueError("low must lie below high")
        return self


Distribution = Annotated[Choice | Uniform | LogUniform, Field(discriminator="kind")]


def default_space() -> dict[Searchable, Distribution]:
    """Return a learning rate and a weight decay, log-uniform."""
    return {"lr": LogUniform(low=1e-5, high=1e-1), "weight_decay": LogUniform(low=1e-5, high=1e-1)}


class SgdConfig(_Config):
    """Which trials a sweep of SGD heads tries; ``sweep.sgd=common-wandb`` takes a whole search by its name.

    Attributes:
        method: ``grid`` (every combination; choices only), ``random``, or ``sobol`` (evenly spread).
        n_trials: Trials per pooling; a grid ignores it.
        space: Distribution of every setting that varies.
        base: All other settings.
        stopping: Which epoch is kept.
        seed: Seed of the search.
        training_seed: Seed of initial weights and batch order, the same for all trials.
        standardise: Whether columns are standardised on the training tiles; folded into the head.
        device: Where heads are trained; ``auto`` takes a GPU that can be used.
    """

    method: Literal["grid", "random", "sobol"] = "sobol"
    n_trials: int = Field(64, ge=1)
    space: dict[Searchable, Distribution] = Field(default_factory=default_space)
    base: SgdSettings = SgdSettings()
    stopping: Stopping = Stopping()
    seed: int = Field(0, ge=0)
    training_seed: int = Field(0, ge=0)
    standardise: bool = True
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _read_a_named_search(cls, data: object) -> object:
        """Read the name of a search in place of its fields."""
        if not isinstance(data, str):
            return data

        searches = named_searches()
        if data not in searches:
            raise ValueError(f"{data!r} is no search with a name: {', '.join(searches)}")
        return searches[data].model_dump()


def common_wandb_search(n_trials: int = 100, seed: int = 0) -> SgdConfig:
    """Return the search that many first sweeps with W&B run on a frozen backbone.

    A linear head, ``init_lr`` log-uniform from 1e-7 to 1e-3, the optimizer one of AdamW, Adam and SGD, a few lengths
    and batch sizes, drawn at random. Most of its learning rates are too small for 20 epochs, and SGD needs far larger
    ones than Adam: expect many trials near the initial weights.

    Args:
        n_trials: Trials.
        seed: Of the draws.

    Returns:
        The search; weight decay and momentum are torch's defaults of AdamW (0.01) and of SGD (0).
    """
    return SgdConfig(
        method="random",
        n_trials=n_trials,
        seed=seed,
        space={
            "lr": LogUniform(low=1e-7, high=1e-3),
            "optimizer": Choice(values=("AdamW", "Adam", "SGD")),
            "epochs": Choice(values=(5, 10, 20)),
            "batch_size": Choice(values=(32, 64, 128, 256)),
        },
        base=SgdSettings(weight_decay=0.01, momentum=0.0),
    )


def named_searches() -> dict[str, SgdConfig]:
    """Return the searches that ``--set sweep.sgd=NAME`` takes.

    Returns:
        By name.
    """
    return {"common-wandb": common_wandb_search()}
