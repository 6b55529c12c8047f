"""Apply a head to embeddings of its own space."""

# N tiles, n tiles of a block, K classes, D columns, H hidden units

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.embeddings.space import Embeddings
    from histotune.heads.head import Calibration, Head, HiddenLayer

BLOCK_ROWS = 8192


def head_logits(head: Head, embeddings: Embeddings) -> NDArray[np.float64]:
    """Return the logit of every tile and class.

    Args:
        head: A trained head.
        embeddings: Embeddings of the space it was trained in, or of another with the same meaning (see
            :func:`space_note`).

    Returns:
        float64, (n_tiles, n_classes); the temperature is not applied.

    Raises:
        UserError: The embeddings mean something else (other weights, adapter, view or normalisation).
    """
    if embeddings.space.meaning_key != head.meaning_key:
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
    """Return the logits of columns, whatever space they come from: the caller answers for their meaning.

    Args:
        head: A trained head.
        x_nD: The columns of its pooling.

    Returns:
        float64 (n, K); the temperature is not applied.
    """
    features_n = x_nD if head.hidden is None else hidden_units(head.hidden, x_nD)
    return np.asarray(features_n @ head.weight_KD.T + head.bias_K)


def hidden_units(layer: HiddenLayer, x_nD: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the activations of a hidden layer.

    Args:
        layer: The layer.
        x_nD: Raw columns of the pooling.

    Returns:
        float64, (n, H).
    """
    return activated(x_nD @ layer.weight_HD.T + layer.bias_H, layer.activation)


def activated(z_nH: NDArray[np.float64], activation: str) -> NDArray[np.float64]:
    """Return ``relu`` or ``gelu`` of hidden units."""
    if activation == "relu":
        return np.maximum(z_nH, 0.0)
    from scipy.special import ndtr  # the exact GELU (Hendrycks & Gimpel 2016): z times the normal distribution at z

    return np.asarray(z_nH * ndtr(z_nH))


def space_note(head: Head, embeddings: Embeddings) -> str:
    """Return what differs between a head's own space and these embeddings of the same meaning.

    Args:
        head: The head.
        embeddings: What it is applied to.

    Returns:
        One sentence; empty where the spaces are one.
    """
    if embeddings.space.key == head.space_key:
        return ""
    space = embeddings.space
    return (
        f"The head was trained on embeddings computed elsewhere or otherwise (space {head.space_key[:12]}); these come "
        f"from {space.precision} on {json.loads(space.signature).get('device', 'another device')}: the same up to "
        "rounding."
    )


def class_probabilities(head: Head, logit_NK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return calibrated probabilities: the softmax of logits after the head's temperature or vector scaling.

    Args:
        head: Whose calibration to use.
        logit_NK: Logits of :func:`head_logits`.

    Returns:
        float64, (n_tiles, n_classes); rows sum to 1.
    """
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
    """Return the class index that a head says.

    Args:
        head: Whose threshold to use in binary tasks.
        probability_NK: Calibrated probabilities.

    Returns:
        int64 (n_tiles,): class 1 from the threshold on in binary tasks, the most probable class otherwise.
    """
    if len(head.class_names) == 2:
        return np.asarray(probability_NK[:, 1] >= head.threshold).astype(np.int64)
    return np.asarray(probability_NK.argmax(axis=1))
