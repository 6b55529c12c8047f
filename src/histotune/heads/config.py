"""Settings of the heads room."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Float = NDArray[np.float64]


# ------------------------------------------------------------------------------
# Settings of heads trained by gradient steps: one trial, its schedule, when it stops, and the search over trials


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


class _Range(_Config):
    low: float
    high: float

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if not self.low < self.high:
            raise ValueError("low must lie below high")
        return self


class Uniform(_Range):
    """A number between two bounds."""

    kind: Literal["uniform"] = "uniform"


class LogUniform(_Range):
    """A number between two positive bounds, its logarithm uniform."""

    kind: Literal["log-uniform"] = "log-uniform"
    low: float = Field(gt=0)
    high: float = Field(gt=0)


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
    """Return the searches that ``--set sweep.sgd=NAME`` takes."""
    return {"common-wandb": common_wandb_search()}


ClassWeight = Literal["none", "balanced"]
FamilyName = Literal["logistic", "ridge", "sgd"]
SelectionRule = Literal["best", "one-se", "auroc"]
Honesty = Literal["none", "nested", "bias-corrected"]
CalibrationKind = Literal["none", "temperature", "vector"]
ThresholdRule = Literal["0.5", "balanced-accuracy", "youden", "sensitivity"]


def default_penalties() -> tuple[float, ...]:
    """Return 16 penalties from 1e-4 to 1e3, log-spaced (lambda of the mean loss on standardised columns)."""
    return tuple(float(f"{value:.4g}") for value in np.logspace(-4, 3, 16))


class LabelEfficiencyConfig(_Config):
    """Whether a sweep also tells how its score depends on the number of training groups.

    Attributes:
        draws: Random orders of the training groups, whose beginnings are the subsets; 0 leaves it out, since it takes
            folds x draws x sizes x penalties more fits.
        sizes: Numbers of training groups; empty takes 4, 8, 16, ... and all there are.
        seed: Seed of the draws.
    """

    draws: int = Field(0, ge=0)
    sizes: tuple[int, ...] = ()
    seed: int = 0


class SweepConfig(_Config):
    """Which heads are tried and how one is chosen.

    Attributes:
        family: Kind of head: ``logistic`` (L2 logistic regression), ``ridge`` (least squares on -1 and 1, in closed
            form, scores scaled to logits out of fold) or ``sgd``.
        penalties: L2 penalties lambda; the objective is mean log-loss + lambda / 2 * |w|^2 on standardised columns,
            so scikit-learn's C is 1 / (n * lambda). For ``ridge`` half the mean squared error stands for the
            log-loss, so alpha is n * lambda.
        poolings: Sets of column blocks; empty tries the backbone's default pooling.
        class_weights: Class weightings to try: ``none``, ``balanced`` (classes weigh the same in the training loss),
            or both.
        folds: Folds of the grouped cross-validation that chooses.
        selection: Criterion, lower is better.
        selection_rule: ``best`` takes the lowest loss; ``one-se`` the strongest penalty, within the best trial's
            pooling and weighting, whose paired loss difference from the best is at most one standard error; ``auroc``
            the highest AUROC within inner folds, and of equal ones the lowest loss, where there are two classes. With
            few groups the lowest loss is often that of a head which says next to nothing; its ranking is poor, too.
        honesty: How the whole procedure's own performance is estimated, since the selected score is optimistic:
            ``bias-corrected`` resamples groups and scores each resample's choice on the groups left out, which costs
            next to nothing; ``nested`` repeats the sweep inside every fold; ``none`` leaves the score optimistic.
        calibration: ``temperature`` where it improves the cross-validated log-loss, else none; ``vector`` scales and
            shifts each class, with 50 groups or more.
        threshold: What the threshold of a binary head is chosen for, on out-of-fold predictions; ``0.5`` is the
            most probable class. ``youden`` is the same cut as ``balanced-accuracy``.
        sensitivity: Sensitivity that the rule ``sensitivity`` keeps, at the highest specificity.
        sgd: What the family ``sgd`` tries; it has no use for penalties.
        seed: Seed of the folds.
        max_iterations: Iterations after which a fit that has not converged is reported as such.
        device: Where logistic regression is solved; ``auto`` takes a GPU that can be used, for problems large enough
            to gain from it. Ridge is one decomposition per training set and stays on the processor.
        label_efficiency: Score against the number of training groups.
    """

    family: FamilyName = "logistic"
    penalties: tuple[float, ...] = Field(default_factory=default_penalties, min_length=1)
    poolings: tuple[tuple[str, ...], ...] = ()
    class_weights: tuple[ClassWeight, ...] = Field(("none",), min_length=1)
    folds: int = Field(5, ge=2)
    selection: Literal["group-balanced-log-loss"] = "group-balanced-log-loss"
    selection_rule: SelectionRule = "best"
    honesty: Honesty = "bias-corrected"
    calibration: CalibrationKind = "temperature"
    threshold: ThresholdRule = "balanced-accuracy"
    sensitivity: float = Field(0.95, gt=0, le=1)
    sgd: SgdConfig = SgdConfig()
    seed: int = 0
    max_iterations: int = Field(2000, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    label_efficiency: LabelEfficiencyConfig = Field(default_factory=LabelEfficiencyConfig)

    @model_validator(mode="before")
    @classmethod
    def _read_one_weighting(cls, data: object) -> object:
        """Read the configs of older runs, which named a single ``class_weight``."""
        if isinstance(data, dict) and "class_weight" in data and "class_weights" not in data:
            data = {**data, "class_weights": (data["class_weight"],)}
            del data["class_weight"]
        return data


# ------------------------------------------------------------------------------
# Which trials a search tries: every combination, random draws, or Sobol points (T trials, P settings that vary)


MAX_GRID = 100_000


def draw_trials(config: SgdConfig) -> tuple[SgdSettings, ...]:
    """Return the settings of every trial of a search.

    Example:
        >>> config = SgdConfig(method="grid", space={"lr": Choice(values=(1e-3, 1e-4))})
        >>> [trial.lr for trial in draw_trials(config)]
        [0.001, 0.0001]
    """
    names, distributions = tuple(config.space), tuple(config.space.values())
    if config.method == "grid":
        rows = _grid(names, distributions)
    else:
        unit_TP = _unit_points(config.method, config.n_trials, len(names), np.random.default_rng(config.seed))
        rows = [
            tuple(_at(distribution, float(u)) for distribution, u in zip(distributions, point, strict=True))
            for point in unit_TP
        ]
    return tuple(_settings(config.base, dict(zip(names, row, strict=True))) for row in rows)


def _grid(names: Sequence[str], distributions: Sequence[Distribution]) -> list[tuple[float | int | str, ...]]:
    values = []
    for name, distribution in zip(names, distributions, strict=True):
        if not isinstance(distribution, Choice):
            raise UserError(
                "a grid needs the values of every setting it varies",
                value=f"{name}: {distribution.kind}",
                fix="--set sweep.sgd.method=sobol, or give choices",
            )
        values.append(distribution.values)
    size = int(np.prod([len(part) for part in values]))
    if size > MAX_GRID:
        raise UserError(
            "this grid is too large",
            value=f"{size:,} trials",
            allowed=f"at most {MAX_GRID:,}",
            fix="--set sweep.sgd.method=sobol --set sweep.sgd.n_trials=1000",
        )
    return list(itertools.product(*values))


def _unit_points(method: str, n_trials: int, n_settings: int, rng: np.random.Generator) -> Float:
    """Return points of the unit cube (T, P); Sobol's are scrambled (Owen), cut from the next power of two."""
    if method == "random" or not n_settings:
        return rng.random((n_trials, n_settings))
    from scipy.stats import qmc

    sampler = qmc.Sobol(n_settings, scramble=True, seed=rng)
    return np.asarray(sampler.random_base2((n_trials - 1).bit_length())[:n_trials])


def _at(distribution: Distribution, u: float) -> float | int | str:
    """Return the value below which a share ``u`` of the distribution lies."""
    if isinstance(distribution, Choice):
        return distribution.values[min(int(u * len(distribution.values)), len(distribution.values) - 1)]
    low, high = distribution.low, distribution.high
    if isinstance(distribution, LogUniform):
        return float(np.exp(np.log(low) + u * (np.log(high) - np.log(low))))
    return low + u * (high - low)


def _settings(base: SgdSettings, values: dict[str, float | int | str]) -> SgdSettings:
    try:
        return SgdSettings.model_validate({**base.model_dump(), **values})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"the search drew a value that {name or 'a head'} doesn't allow ({first['msg']})",
            value=values.get(name, values),
            fix=f"change sweep.sgd.space.{name}",
        ) from error
