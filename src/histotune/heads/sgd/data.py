"""What the batched loop is given and what it gives back."""

# N tiles, n tiles of a split, D columns, K classes, H hidden units, E epochs

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from histotune.heads.sgd.config import SgdSettings, Stopping

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from histotune.heads.sgd.config import CurveMetric

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Which tiles train a head and which ones judge its epochs.

    Attributes:
        train_rows: Tiles it learns from.
        held_rows: Tiles its curves are measured on; none gives no curves.
        held_weight_n: Weight of each held-out tile in the log-loss; None weighs all alike.
    """

    train_rows: Int
    held_rows: Int = field(default_factory=lambda: np.zeros(0, np.int64))
    held_weight_n: Float | None = None


@dataclass(frozen=True)
class TrainData:
    """What all jobs share.

    Attributes:
        x_ND: Raw columns, any float type, in memory or mapped.
        y_N: Labels.
        n_classes: Number of classes.
        splits: Splits that jobs refer to by number.
        standardise: Whether each split's columns are standardised by its training tiles.
    """

    x_ND: NDArray[np.floating]
    y_N: Int
    n_classes: int
    splits: tuple[Split, ...]
    standardise: bool = True


@dataclass(frozen=True)
class Job:
    """One head to train.

    Attributes:
        settings: How.
        split: On which split.
        seed: Of its initial weights and its batch order: jobs of one seed share both.
        stop_after: Epochs after which it ends, its schedule notwithstanding; None trains to the end.
    """

    settings: SgdSettings
    split: int = 0
    seed: int = 0
    stop_after: int | None = None


@dataclass(frozen=True)
class Layer:
    """One linear layer as torch.nn.Linear holds it.

    Attributes:
        weight_OI: A row per output.
        bias_O: One per output.
    """

    weight_OI: NDArray[np.floating]
    bias_O: NDArray[np.floating]


@dataclass(frozen=True)
class TrainOptions:
    """How the loop runs; none of it changes a head beyond rounding, save ``stopping``.

    Attributes:
        metrics: What is measured on the held-out tiles after every epoch.
        stopping: Which epoch's weights are kept.
        device: Where it runs.
        checkpoint: Folder of the state to go on from; None keeps none.
        checkpoint_every_s: Seconds between two states.
        order: Rows of an epoch in their order, given seed, epoch and number of rows; None shuffles by the seed.
        initial: Initial layers of a job; None draws torch.nn.Linear's distribution by the seed.
    """

    metrics: tuple[CurveMetric, ...] = ("log_loss",)
    stopping: Stopping = Stopping()  # noqa: RUF009  (frozen)
    device: Literal["cpu", "cuda"] = "cpu"
    checkpoint: Path | None = None
    checkpoint_every_s: float = 30.0
    order: Callable[[int, int, int], Int] | None = None
    initial: Callable[[Job], tuple[Layer, ...]] | None = None

    def measured(self) -> tuple[CurveMetric, ...]:
        """Return the metrics with the monitored one among them."""
        monitor = self.stopping.monitor
        return self.metrics if monitor is None or monitor in self.metrics else (*self.metrics, monitor)


@dataclass(frozen=True)
class Curve:
    """A metric after every epoch.

    Attributes:
        metric: Its name; ``train_loss`` is the loss that was minimised, averaged over the epoch's steps.
        value_E: One value per epoch that was trained.
    """

    metric: str
    value_E: Float


@dataclass(frozen=True)
class TrainedHead:
    """One job's outcome.

    Attributes:
        layers: One layer, or the hidden and the output layer, on raw columns (standardisation folded in), float64;
            NaN where it diverged.
        curves: The training loss, then the metrics.
        kept_epoch: Number of epochs behind the kept weights.
        n_epochs: Epochs begun.
        n_steps: Steps taken.
        diverged: Whether a loss or a weight left all bounds: such a head has no score.
    """

    layers: tuple[Layer, ...]
    curves: tuple[Curve, ...]
    kept_epoch: int
    n_epochs: int
    n_steps: int
    diverged: bool

    def curve(self, metric: str) -> Float:
        """Return the values of one curve, one per epoch.

        Args:
            metric: Its name.

        Raises:
            KeyError: It was not measured.
        """
        for curve in self.curves:
            if curve.metric == metric:
                return curve.value_E
        raise KeyError(metric)
