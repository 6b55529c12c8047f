"""A trained head, the sweep that chose it, and what it says of embeddings; ``saved_head.py`` keeps it on disk."""

# K classes, D columns of the pooling, H hidden units, N tiles, n tiles of a block, M draws, J = M x logits

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from histotune.heads.config import ClassWeight, Honesty, SelectionRule, ThresholdRule  # noqa: TC001  (a saved record is read by its types)
from histotune.heads.solver.problems import divisors
from histotune.statistics.predictions import Interval  # noqa: TC001  (a saved record is read by its types)
from histotune.tools.errors import UserError
from histotune.tools.files import hash_bytes, hash_json, parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl
    from numpy.typing import NDArray

    from histotune.embeddings.space import Embeddings


Activation = Literal["relu", "gelu"]
BLOCK_ROWS = 8192
OPTIONAL_TENSORS = ("scale_floor_D", "train_mean_D", "train_std_D")
NO_HASHES = np.empty((0, 32), dtype=np.uint8)


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
class NestedEstimate:
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
    honest: tuple[NestedEstimate, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class TrainingColumns:
    """What the training tiles say of the columns of a pooling.

    Attributes:
        mean_D: float64; their weighted mean.
        std_D: float64; their standard deviation, 0 where a column is constant.
        is_floored: Whether columns were divided by that or the floor; False where they were taken as they are.
    """

    mean_D: NDArray[np.float64]
    std_D: NDArray[np.float64]
    is_floored: bool = True


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
        compatibility_key: What that space means (weights, adapter, view, normalisation); with another meaning the
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
        train_sha256_N32: uint8; content hashes of its training tiles, sorted, each once. Empty where they are unknown:
            in heads of format 3 and earlier.
        class_mapping: Names that labels had -> names of classes; empty where they are the same.
        scale_floor_D: float64; the least standard deviation that each column was divided by; None without one.
        train_mean_D: float64; mean of the training tiles' columns; None where unknown.
        train_std_D: float64; their standard deviation, 0 where a column is constant; None where unknown.
        saved_id: The id of a head of format 3 or earlier, which results of that time name; empty for all others.
    """

    weight_KD: NDArray[np.float64]
    bias_K: NDArray[np.float64]
    pooling: tuple[str, ...]
    columns: tuple[int, ...]
    class_names: tuple[str, ...]
    backbone: str
    space_key: str
    compatibility_key: str
    penalty: float
    n_tiles: int = 0
    n_groups: int = 0
    train_groups: tuple[str, ...] = ()
    hidden: HiddenLayer | None = None
    calibration: Calibration = field(default_factory=Calibration)
    decision: Decision = field(default_factory=Decision)
    family: str = "logistic"
    selection: Selection | None = None
    train_sha256_N32: NDArray[np.uint8] = field(default_factory=NO_HASHES.copy)
    class_mapping: Mapping[str, str] = field(default_factory=dict)
    scale_floor_D: NDArray[np.float64] | None = None
    train_mean_D: NDArray[np.float64] | None = None
    train_std_D: NDArray[np.float64] | None = None
    saved_id: str = ""

    @property
    def temperature(self) -> float:
        """What divides the logits before the softmax."""
        return self.calibration.temperature

    @property
    def threshold(self) -> float:
        """Probability of class 1 from which class 1 is predicted in binary tasks."""
        return self.decision.threshold

    @property
    def tensors(self) -> dict[str, NDArray[np.float64] | NDArray[np.uint8]]:
        """Its arrays by name, without those that it does not have."""
        found: dict[str, NDArray[np.float64] | NDArray[np.uint8]] = {
            "weight_KD": self.weight_KD,
            "bias_K": self.bias_K,
            "train_sha256_N32": self.train_sha256_N32,
        }
        if self.hidden is not None:
            found |= {"weight_HD": self.hidden.weight_HD, "bias_H": self.hidden.bias_H}
        optional = {name: getattr(self, name) for name in OPTIONAL_TENSORS}
        return found | {name: values for name, values in optional.items() if values is not None}

    @property
    def head_id(self) -> str:
        """First 16 hexadecimal digits of a hash over everything that decides what it says, and of whom."""
        return self.saved_id or hash_bytes(hash_json(self._deciding()), *self._array_bytes())[:16]

    def _deciding(self) -> dict[str, object]:
        calibration, decision = self.calibration, self.decision
        return {
            "activation": None if self.hidden is None else self.hidden.activation,
            "calibration": (calibration.temperature, calibration.scale_K, calibration.shift_K),
            "class_mapping": dict(self.class_mapping),
            "class_names": self.class_names,
            "columns": self.columns,
            "compatibility_key": self.compatibility_key,
            "decision": (decision.threshold, decision.rule),
            "pooling": self.pooling,
            "space_key": self.space_key,
            "train_groups": self.train_groups,
        }

    def _array_bytes(self) -> list[bytes | str]:
        """Return name, shape and bytes of every tensor, in the order of their names."""
        named = sorted(self.tensors.items())
        return [part for name, values in named for part in (name, str(values.shape), values.tobytes())]


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


# ------------------------------------------------------------------------------
# Apply a head to embeddings of its own space


def head_logits(head: Head, embeddings: Embeddings) -> NDArray[np.float64]:
    """Return the logit of every tile and class."""
    if embeddings.space.compatibility_key != head.compatibility_key:
        raise UserError(
            f"this head was trained on embeddings of {head.backbone} (space {head.space_key[:12]}) and can't be "
            f"applied to embeddings of {embeddings.space.backbone} (space {embeddings.space.key[:12]}): "
            "backbone weights, adapter, view and normalisation must all be the same",
            value=f"view {embeddings.space.view}",
            fix=f"embed these tiles as the head's run did (--backbone {head.backbone}), or train a head on this space",
        )
    columns = np.asarray(head.columns)
    out_NK = np.empty((len(embeddings), len(head.class_names)))
    for start in range(0, len(embeddings), BLOCK_ROWS):
        block_nD = embeddings.matrix_ND[start : start + BLOCK_ROWS][:, columns].astype(np.float64)
        out_NK[start : start + BLOCK_ROWS] = column_logits(head, block_nD)
    return out_NK


def column_logits(head: Head, x_nD: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logits of columns, whatever space they come from: the caller answers for their meaning."""
    features_n = x_nD if head.hidden is None else hidden_units(head.hidden, x_nD)
    return np.asarray(features_n @ head.weight_KD.T + head.bias_K)


def hidden_units(layer: HiddenLayer, x_nD: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the activations of a hidden layer."""
    return activated(x_nD @ layer.weight_HD.T + layer.bias_H, layer.activation)


def activated(z_nH: NDArray[np.float64], activation: str) -> NDArray[np.float64]:
    """Return ``relu`` or ``gelu`` of hidden units."""
    if activation == "relu":
        return np.maximum(z_nH, 0.0)
    from scipy.special import ndtr  # the exact GELU (Hendrycks & Gimpel 2016): z times the normal distribution at z

    return np.asarray(z_nH * ndtr(z_nH))


def space_note(head: Head, embeddings: Embeddings) -> str:
    """Return what differs between a head's own space and these embeddings of the same meaning."""
    if embeddings.space.key == head.space_key:
        return ""
    space = embeddings.space
    return (
        f"The head was trained on embeddings computed elsewhere or otherwise (space {head.space_key[:12]}); these come "
        f"from {space.precision} on {parse_json(space.signature).get('device', 'another device')}: the same up to "
        "rounding."
    )


def class_probabilities(head: Head, logit_NK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return calibrated probabilities: the softmax of logits after the head's temperature or vector scaling."""
    return softmax(calibrated_logits(head.calibration, logit_NK))


def calibrated_logits(calibration: Calibration, logit_NK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return logits after temperature or vector scaling; a softmax makes probabilities of them."""
    if calibration.scale_K:
        return np.asarray(logit_NK * np.array(calibration.scale_K) + np.array(calibration.shift_K))
    return np.asarray(logit_NK / calibration.temperature)


def softmax(logit_NK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the softmax over the last axis."""
    e_NK = np.exp(logit_NK - logit_NK.max(axis=-1, keepdims=True))
    return np.asarray(e_NK / e_NK.sum(axis=-1, keepdims=True))


def decide(head: Head, probability_NK: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the class index that a head says."""
    if len(head.class_names) == 2:
        return np.asarray(probability_NK[:, 1] >= head.threshold).astype(np.int64)
    return np.asarray(probability_NK.argmax(axis=1))


# ------------------------------------------------------------------------------
# Heads that were never trained: the floor that shows what a draw of random weights already scores


def untuned_logits(
    embeddings: Embeddings,
    columns: NDArray[np.int64],
    n_classes: int,
    n_draws: int,
    seed: int,
    train_rows: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return the logits of random linear heads on standardised embeddings.

    Weights are drawn from a normal distribution with variance 1 / D, so that logits have unit scale; there is no bias.
    """
    # Standardised by the training tiles, so that w . x has about variance 1; all draws are one product.
    x_ND = embeddings.matrix_ND[:, columns].astype(np.float64)
    train_nD = x_ND[train_rows]
    x_ND = (x_ND - train_nD.mean(axis=0)) / divisors(train_nD.std(axis=0))
    rng = np.random.Generator(np.random.PCG64(seed))
    n_logits = 1 if n_classes == 2 else n_classes
    weight_DJ = rng.standard_normal((len(columns), n_draws * n_logits)) / np.sqrt(len(columns))
    logit_MNK = (x_ND @ weight_DJ).reshape(len(x_ND), n_draws, n_logits).transpose(1, 0, 2)
    if n_logits == 1:
        logit_MNK = np.concatenate([np.zeros_like(logit_MNK), logit_MNK], axis=2)
    return np.ascontiguousarray(logit_MNK)
