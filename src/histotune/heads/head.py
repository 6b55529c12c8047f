"""A trained head, and the sweep that chose it."""

# K classes, D columns of the pooling, H hidden units, N tiles

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from histotune.heads.config import ClassWeight, Honesty, SelectionRule, ThresholdRule  # noqa: TC001
from histotune.statistics.predictions import Interval  # noqa: TC001  (a saved record is read by its types)

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

Activation = Literal["relu", "gelu"]


@dataclass(frozen=True)
class HiddenLayer:
    """The hidden layer of a small MLP head.

    Attributes:
        weight_HD: float64; acts on raw columns of the pooling, standardisation folded in.
        bias_H: float64.
        activation: ``relu``, or ``gelu`` (the exact one, by the error function).
    """

    weight_HD: NDArray[np.float64]
    bias_H: NDArray[np.float64]
    activation: Activation = "relu"


@dataclass(frozen=True)
class Calibration:
    """How logits become probabilities: softmax(logit / temperature), or softmax(scale * logit + shift).

    Attributes:
        temperature: Divides the logits; 1 leaves them as they are.
        interval: Interval of the temperature; None where none can be given.
        scale_K: Vector scaling's factor per class; empty without it (then the temperature counts).
        shift_K: Vector scaling's shift per class.
        nll_before: Cross-validated group-balanced log-loss of the logits as they are; None where not computed.
        nll_after: The same for what is stored.
        reason: Why it is what it is, in words.
    """

    temperature: float = 1.0
    interval: Interval | None = None
    scale_K: tuple[float, ...] = ()
    shift_K: tuple[float, ...] = ()
    nll_before: float | None = None
    nll_after: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Decision:
    """From which probability of class 1 a binary head says class 1.

    Attributes:
        threshold: That probability, calibrated.
        rule: What the threshold was chosen for.
        interval: Group-jackknife interval; None where none can be given.
        reason: Why it is what it is, in words.
    """

    threshold: float = 0.5
    rule: ThresholdRule = "0.5"
    interval: Interval | None = None
    reason: str = ""


@dataclass(frozen=True)
class TrialRecord:
    """A trial as selection saw it.

    Attributes:
        pooling: Column blocks.
        class_weight: Class weighting.
        settings: The family's settings in words, "penalty 0.1"; without those that all trials share.
        log_loss: Group-balanced out-of-fold log-loss.
        standard_error: Its standard error over groups.
        difference: Log-loss above the lowest of all trials, paired by group.
        difference_se: Group-jackknife standard error of that difference.
    """

    pooling: tuple[str, ...]
    class_weight: ClassWeight
    settings: str
    log_loss: float
    standard_error: float | None
    difference: float
    difference_se: float | None


@dataclass(frozen=True)
class HonestScore:
    """What the whole procedure (try, choose, refit) is worth on groups it never saw."""

    name: str
    value: float
    interval: Interval | None = None


@dataclass(frozen=True)
class Selection:
    """How a head was chosen.

    Attributes:
        criterion: What was compared, in words.
        rule: How the choice followed from it.
        honesty: How ``honest`` was found; ``none`` where it is empty.
        n_trials: Trials that competed.
        n_diverged: How many of them diverged.
        chosen: The chosen trial; its score is optimistic, because it was the criterion.
        runners_up: The next best trials.
        honest: Estimates that are free of this optimism.
        note: What ``honest`` covers, in words.
    """

    criterion: str
    rule: SelectionRule
    honesty: Honesty
    n_trials: int
    n_diverged: int
    chosen: TrialRecord
    runners_up: tuple[TrialRecord, ...]
    honest: tuple[HonestScore, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Head:
    """A linear map, or a small MLP, from raw embeddings to class logits, standardisation folded in.

    Attributes:
        weight_KD: float64; acts on raw (unstandardised) columns of the pooling, or on the hidden units (K, H) where
            there is a hidden layer. Binary heads hold zeros in row 0, so that logit 1 is the margin.
        bias_K: float64.
        pooling: Names of the column blocks, in order.
        columns: Column numbers of the pooling within the backbone's total_dim.
        class_names: Names by logit index.
        backbone: Backbone name.
        space_key: Embedding space the head was trained in.
        meaning_key: Meaning of that space (weights, adapter, view, normalisation); in spaces of another meaning the
            head is refused, in others of the same meaning it is applied with a note.
        penalty: L2 penalty it was trained with (lambda of the mean loss); 0 for families without one.
        n_tiles: Training tiles.
        n_groups: Training groups.
        train_groups: Group keys that trained it, so that scoring one of them later is found and marked LEAKY.
        hidden: Hidden layer; None for linear heads.
        calibration: Logits to probabilities.
        decision: Probabilities to class names, in binary tasks.
        family: Kind of head.
        selection: How it was chosen; None for heads that no sweep chose.
    """

    weight_KD: NDArray[np.float64]
    bias_K: NDArray[np.float64]
    pooling: tuple[str, ...]
    columns: tuple[int, ...]
    class_names: tuple[str, ...]
    backbone: str
    space_key: str
    meaning_key: str
    penalty: float
    n_tiles: int = 0
    n_groups: int = 0
    train_groups: tuple[str, ...] = ()
    hidden: HiddenLayer | None = None
    calibration: Calibration = field(default_factory=Calibration)
    decision: Decision = field(default_factory=Decision)
    family: str = "logistic"
    selection: Selection | None = None

    @property
    def temperature(self) -> float:
        """What divides the logits before the softmax."""
        return self.calibration.temperature

    @property
    def threshold(self) -> float:
        """Probability of class 1 from which class 1 is predicted in binary tasks."""
        return self.decision.threshold

    @property
    def head_id(self) -> str:
        """First 16 hexadecimal digits of a hash over everything that makes its predictions."""
        from histotune.tools.files import hash_bytes

        parts: list[bytes | str] = [
            self.weight_KD.tobytes(), self.bias_K.tobytes(), "\n".join(self.pooling), self.space_key,
            repr((self.temperature, self.threshold)),
        ]  # fmt: skip
        if self.hidden is not None:
            parts += [self.hidden.weight_HD.tobytes(), self.hidden.bias_H.tobytes(), self.hidden.activation]
        if self.calibration.scale_K:
            parts.append(repr((self.calibration.scale_K, self.calibration.shift_K)))
        return hash_bytes(*parts)[:16]


@dataclass(frozen=True)
class SweepResult:
    """What a sweep tried, what it chose and why.

    Attributes:
        head: The chosen head, refitted on all training tiles.
        trials: A row per trial: pooling (blocks joined by "+"), class_weight, penalty and the family's other settings,
            log_loss (group-balanced, out-of-fold), log_loss_se (over groups), auroc (out-of-fold; NaN outside binary
            tasks), converged, diverged, chosen.
        out_of_fold_logit_NK: Logits of the chosen trial for the training tiles, each from folds that excluded its
            group; NaN for tiles outside the training set.
        n_fits: Fits solved.
        refit_loss_E: Training loss of the chosen head after every epoch; None where it was solved, not trained.
    """

    head: Head
    trials: pl.DataFrame
    out_of_fold_logit_NK: NDArray[np.float64]
    n_fits: int
    refit_loss_E: NDArray[np.float64] | None = None
