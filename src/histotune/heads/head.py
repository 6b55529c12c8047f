"""A trained head, and the sweep that chose it."""

# K classes, D columns of the pooling, H hidden units, N tiles, n tiles of a block, M draws, J = M x logits

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from histotune.heads.config import ClassWeight, Honesty, SelectionRule, ThresholdRule  # noqa: TC001  (a saved record is read by its types)
from histotune.statistics.predictions import Interval  # noqa: TC001  (a saved record is read by its types)
from histotune.tools.atomic import atomic_path
from histotune.tools.errors import UserError
from histotune.tools.files import hash_file, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import polars as pl
    from numpy.typing import NDArray

    from histotune.embeddings.space import Embeddings

    Tensors = Mapping[str, NDArray[np.float64]]


Activation = Literal["relu", "gelu"]
FORMAT = "histotune-head"
FORMAT_VERSION = 3
OLD_VERSION = 2
"""Version 2 held a temperature and a threshold and nothing about them; it is read as version 3."""
WEIGHTS_FILE = "head.safetensors"
FACTS_FILE = "head.json"
LISTS = ("pooling", "columns", "class_names", "train_groups")
LINEAR, HIDDEN = {"weight_KD", "bias_K"}, {"weight_HD", "bias_H"}
BLOCK_ROWS = 8192


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
            self.weight_KD.tobytes(),
            self.bias_K.tobytes(),
            "\n".join(self.pooling),
            self.space_key,
            repr((self.temperature, self.threshold)),
        ]
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


# ------------------------------------------------------------------------------
# A head on disk: safetensors for the numbers, JSON for what they mean


NESTED: dict[str, Any] = {"calibration": Calibration, "decision": Decision, "selection": Selection | None}
PLAIN = ("backbone", "space_key", "compatibility_key", "penalty", "n_tiles", "n_groups", "family")
KEYS = {name: name for name in (*LISTS, *PLAIN, *NESTED)} | {"compatibility_key": "meaning_key"}
"""Fields of a head and the keys that its file keeps them under."""


def save_head(head: Head, folder: Path) -> None:
    """Write a head; other files of the folder stay as they are.

    The facts are written last and name the hash of the weights, so a half-written head is never read as whole.

    Args:
        head: The head.
        folder: Where ``head.safetensors`` and ``head.json`` belong; made when missing.

    Raises:
        UserError: The folder can't be written or the disk is full.
    """
    from safetensors.numpy import save

    tensors = {"weight_KD": head.weight_KD, "bias_K": head.bias_K}
    if head.hidden is not None:
        tensors |= {"weight_HD": head.hidden.weight_HD, "bias_H": head.hidden.bias_H}
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        temporary.write_bytes(save({name: np.ascontiguousarray(values) for name, values in tensors.items()}))
    plain = asdict(head)
    written = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "activation": None if head.hidden is None else head.hidden.activation,
        "head_id": head.head_id,
        "weights_sha256": hash_file(folder / WEIGHTS_FILE),
    }
    write_json(folder / FACTS_FILE, written | {key: plain[name] for name, key in KEYS.items()})


def load_head(folder: Path) -> Head:
    """Read a head that :func:`save_head` wrote, or one of format version 2.

    Args:
        folder: The head's folder.

    Returns:
        The same head, with the same ``head_id``.

    Raises:
        UserError: The folder holds no head, one of another format version, or a damaged one.
    """
    facts = _read_facts(folder)
    tensors = _read_weights(folder, facts)
    try:
        hidden = None
        if facts["activation"]:
            hidden = HiddenLayer(tensors["weight_HD"], tensors["bias_H"], facts["activation"])
        head = Head(tensors["weight_KD"], tensors["bias_K"], hidden=hidden, **_typed(facts))
    except (KeyError, TypeError, ValidationError) as error:
        raise _damaged(folder, f"{FACTS_FILE} is incomplete: {error}") from error
    _check_shapes(head, folder)
    if head.head_id != facts["head_id"]:
        raise _damaged(folder, "its identity does not match its content")
    return head


def _typed(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts as the fields of a head."""
    lists = {name: tuple(facts[name]) for name in LISTS}
    nested: dict[str, Any] = {name: TypeAdapter(kind).validate_python(facts[name]) for name, kind in NESTED.items()}
    return {name: facts[key] for name, key in KEYS.items()} | lists | nested


def _check_shapes(head: Head, folder: Path) -> None:
    """Refuse tensors that don't fit each other or the facts."""
    n_classes, n_inputs = len(head.class_names), len(head.columns)
    if head.hidden is not None:
        n_hidden = len(head.hidden.bias_H)
        if head.hidden.weight_HD.shape != (n_hidden, n_inputs):
            raise _damaged(folder, f"hidden weights {head.hidden.weight_HD.shape} do not fit {n_inputs} columns")
        n_inputs = n_hidden
    if head.weight_KD.shape != (n_classes, n_inputs) or head.bias_K.shape != (n_classes,):
        raise _damaged(folder, f"weights {head.weight_KD.shape} do not fit {n_classes} classes and {n_inputs} inputs")
    if len(head.calibration.scale_K) not in {0, n_classes} or len(head.calibration.shift_K) != len(
        head.calibration.scale_K
    ):
        raise _damaged(folder, f"its calibration does not fit {n_classes} classes")


def _read_facts(folder: Path) -> dict[str, Any]:
    """Read and check head.json."""
    path = folder / FACTS_FILE
    if not path.is_file():
        raise UserError(
            "this folder holds no head",
            value=folder,
            allowed=f"a folder with {FACTS_FILE} and {WEIGHTS_FILE}",
            fix="pass the folder that `histotune sweep` or `histotune run` wrote",
        )
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(folder, f"{FACTS_FILE} is not JSON") from error
    facts: dict[str, Any] = read if isinstance(read, dict) else {}
    if facts.get("format") != FORMAT:
        raise UserError(f"{FACTS_FILE} does not describe a histotune head", value=folder)
    if facts.get("format_version") == OLD_VERSION:
        facts = _from_version_2(facts)
    if facts.get("format_version") != FORMAT_VERSION:
        raise UserError(
            "this head was saved in another format version",
            value=facts.get("format_version"),
            allowed=f"{OLD_VERSION}, {FORMAT_VERSION}",
            fix="install the histotune version that saved it, or train it anew",
        )
    wanted = (*KEYS.values(), "activation", "head_id", "weights_sha256")
    missing = [name for name in wanted if name not in facts]
    if missing:
        raise _damaged(folder, f"{FACTS_FILE} lacks {', '.join(missing)}")
    return facts


def _from_version_2(facts: dict[str, Any]) -> dict[str, Any]:
    """Return version 2's facts in today's form; its heads were linear logistic regressions."""
    told = dict(facts)
    if "temperature" in told:
        told["calibration"] = {"temperature": told.pop("temperature")}
    if "threshold" in told:
        told["decision"] = {"threshold": told.pop("threshold")}
    return {**told, "family": "logistic", "activation": None, "selection": None, "format_version": FORMAT_VERSION}


def _read_weights(folder: Path, facts: dict[str, Any]) -> Tensors:
    """Read the tensors, after their hash has been checked."""
    from safetensors.numpy import load_file

    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise _damaged(folder, f"{WEIGHTS_FILE} is missing")
    if hash_file(path) != str(facts["weights_sha256"]):
        raise _damaged(folder, f"{WEIGHTS_FILE} is not the file that {FACTS_FILE} describes")
    tensors: Tensors = load_file(path)
    expected = LINEAR | HIDDEN if facts["activation"] else LINEAR
    if set(tensors) != expected or any(values.dtype != np.float64 for values in tensors.values()):
        raise _damaged(folder, f"{WEIGHTS_FILE} holds other tensors: {', '.join(sorted(tensors))}")
    return tensors


def _damaged(folder: Path, detail: str) -> UserError:
    return UserError(f"this head is damaged ({detail})", value=folder, fix="copy it again, or train it anew")


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
        f"from {space.precision} on {json.loads(space.signature).get('device', 'another device')}: the same up to "
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
    # Standardised by the training tiles, so that w . x has variance 1; all draws are one product.
    x_ND = embeddings.matrix_ND[:, columns].astype(np.float64)
    train_nD = x_ND[train_rows]
    std_D = train_nD.std(axis=0)
    x_ND = (x_ND - train_nD.mean(axis=0)) / np.where(std_D > 0, std_D, 1.0)
    rng = np.random.Generator(np.random.PCG64(seed))
    n_logits = 1 if n_classes == 2 else n_classes
    weight_DJ = rng.standard_normal((len(columns), n_draws * n_logits)) / np.sqrt(len(columns))
    logit_MNK = (x_ND @ weight_DJ).reshape(len(x_ND), n_draws, n_logits).transpose(1, 0, 2)
    if n_logits == 1:
        logit_MNK = np.concatenate([np.zeros_like(logit_MNK), logit_MNK], axis=2)
    return np.ascontiguousarray(logit_MNK)
