"""What a protocol is given and what it gives back."""

# N tiles, n scored tiles, D columns, K classes, R runs

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]


ProtocolMetric = Literal["balanced_accuracy", "macro_f1"]
TIE = 1e-9
WORDS = tomllib.loads(resources.files(__package__).joinpath("weaknesses.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class ProtocolData:
    """Embeddings of a data set with the protocol's own parts.

    Attributes:
        x_ND: Embeddings of one pooling, float16 or float32; may be memory-mapped.
        y_N: Labels.
        n_classes: Number of classes.
        train_rows: What heads learn from.
        valid_rows: What chooses epochs, heads and k.
        scored_rows: What the numbers are reported on; in eva's BreakHis the same tiles as ``valid_rows``.
    """

    x_ND: NDArray[np.floating[Any]]
    y_N: Int
    n_classes: int
    train_rows: Int
    valid_rows: Int
    scored_rows: Int

    def take(self, rows: Int) -> NDArray[np.floating[Any]]:
        """Return embeddings of some rows: a view where they lie together, so that a mapped file stays on disk."""
        together = len(rows) > 0 and bool((np.diff(rows) == 1).all())
        return self.x_ND[rows[0] : rows[-1] + 1] if together else self.x_ND[rows]


@dataclass(frozen=True)
class ProtocolRun:
    """One run of one head: its number as the protocol counts it, and its predictions.

    Attributes:
        value: The protocol's metric on the scored tiles; NaN where the head diverged.
        probability_nK: Probability (or share of the vote) per scored tile and class; NaN where it diverged.
        chosen: What the protocol chose, in words, such as "epoch 57 of 557" or "k = 5".
    """

    value: float
    probability_nK: Float
    chosen: str = ""


@dataclass(frozen=True)
class ProtocolArm:
    """One row of a protocol's table.

    Attributes:
        name: Such as "linear probe", "kNN" or "SimpleShot, 16 shots".
        metric: What the protocol reports.
        runs: One or several.
        spread_over: What the runs differ in, such as "initial weights and batch order"; empty for a single run.
        value_B: Further values that the protocol averages (one per draw); empty where the runs are all there is.
        note: What a reader must know about this row.
    """

    name: str
    metric: ProtocolMetric
    runs: tuple[ProtocolRun, ...]
    spread_over: str = ""
    value_B: tuple[float, ...] = ()
    note: str = ""

    @property
    def values(self) -> tuple[float, ...]:
        """The values whose mean and spread are reported."""
        return self.value_B or tuple(run.value for run in self.runs)

    @property
    def mean(self) -> float:
        """Mean value; NaN where a run diverged."""
        return float(np.mean(self.values))

    @property
    def sd(self) -> float:
        """Standard deviation over the values (n - 1); NaN for a single one."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else float("nan")


def decided(share_nK: Float) -> Float:
    """Return shares whose ties go to the lower class, as the argmax of a vote does, whatever reads them later."""
    n_classes = share_nK.shape[1]
    shifted_nK = share_nK + TIE * np.arange(n_classes, 0, -1)
    return np.asarray(shifted_nK / shifted_nK.sum(axis=1, keepdims=True))


def metric_value(metric: ProtocolMetric, y_n: Int, predicted_n: Int, n_classes: int) -> float:
    """Return the protocol's metric of one set of predictions."""
    from histotune.statistics.metrics import balanced_accuracy, macro_f1

    return (balanced_accuracy if metric == "balanced_accuracy" else macro_f1)(y_n, predicted_n, n_classes)


def metric_of_counts(metric: ProtocolMetric, confusion_BKK: Int) -> Float:
    """Return the metric of many confusion matrices (true by predicted) at once; NaN where a class has no tile."""
    hit_BK = np.diagonal(confusion_BKK, axis1=1, axis2=2).astype(np.float64)
    true_BK, guessed_BK = confusion_BKK.sum(axis=2), confusion_BKK.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall_BK = hit_BK / true_BK
        f1_BK = np.where(true_BK > 0, 2.0 * hit_BK / (true_BK + guessed_BK), np.nan)
    return np.asarray((recall_BK if metric == "balanced_accuracy" else f1_BK).mean(axis=1))


# ------------------------------------------------------------------------------
# Settings of the published protocols; the defaults are the published values


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


# ------------------------------------------------------------------------------
# The settings that published protocols were run with, where they differ from a config's defaults


def eva_pcam_settings() -> EvaConfig:
    """Return eva's settings on PatchCamelyon: patience 3 epochs."""
    return EvaConfig(patience=3)


def eva_ten_shot_settings() -> EvaConfig:
    """Return eva's settings on PatchCamelyon with ten tiles per class: 50 runs, looked at every tenth epoch."""
    return EvaConfig(runs=50, shots=10, check_every=10, patience=125, min_delta=1e-4)
