"""A head as other programs apply it: one or two linear layers whose softmax is the calibrated probability."""

# K classes, C columns of the pooling, D columns of the backbone, H hidden units

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.backbones.spec import ColumnBlock
    from histotune.heads.head import Activation, Head

    Float = NDArray[np.float64]

NOT_ONE_MAP = {
    "knn": "nearest neighbours answer by the training tiles themselves, so that its file would pass on embeddings of "
    "those tiles",
    "prototypes": "prototypes answer by the cosine to class means, which no linear layer of these formats computes",
}


@dataclass(frozen=True)
class FoldedHead:
    """A head with standardisation and calibration in its weights: softmax(logits) is what ``predict`` says.

    Attributes:
        weight_KD: float64; acts on all columns of the backbone (K, D), or on the hidden units (K, H).
        bias_K: float64.
        hidden_weight_HD: float64; the hidden layer's weights on all columns of the backbone; None for linear heads.
        hidden_bias_H: float64; None for linear heads.
        activation: Of the hidden layer; None for linear heads.
    """

    weight_KD: Float
    bias_K: Float
    hidden_weight_HD: Float | None = None
    hidden_bias_H: Float | None = None
    activation: Activation | None = None

    @property
    def is_linear(self) -> bool:
        """Whether there is no hidden layer."""
        return self.hidden_weight_HD is None


def fold_head(head: Head, total_dim: int) -> FoldedHead:
    """Fold the calibration into a head's last layer, and spread its columns over all those of the backbone.

    The probability is softmax(W x + b) with W = diag(s) W0 and b = s b0 + t: s is 1 / temperature and t is 0, or both
    come from vector scaling. Columns that the head does not read get the weight 0.

    Args:
        head: A linear head or a small MLP.
        total_dim: Columns of the backbone.

    Returns:
        The head for other programs.

    Raises:
        UserError: A head that answers by its training tiles.

    Example:
        >>> import numpy as np
        >>> from histotune.heads.head import Calibration, Head
        >>> rows = np.array([[0.0, 0.0], [2.0, 4.0]])
        >>> head = Head(rows, np.zeros(2), ("b",), (1, 2), ("no", "yes"), "x", "", "", 1, calibration=Calibration(2.0))
        >>> fold_head(head, 3).weight_KD.tolist()
        [[0.0, 0.0, 0.0], [0.0, 1.0, 2.0]]
    """
    refuse_other_families(head)
    calibration = head.calibration
    n_classes = len(head.class_names)
    factor_K = np.array(calibration.scale_K) if calibration.scale_K else np.full(n_classes, 1 / calibration.temperature)
    shift_K = np.array(calibration.shift_K) if calibration.scale_K else np.zeros(n_classes)
    weight, bias_K = head.weight_KD * factor_K[:, None], head.bias_K * factor_K + shift_K
    if head.hidden is None:
        return FoldedHead(_spread(weight, head.columns, total_dim), bias_K)
    hidden_HD = _spread(head.hidden.weight_HD, head.columns, total_dim)
    return FoldedHead(weight, bias_K, hidden_HD, head.hidden.bias_H, head.hidden.activation)


def refuse_other_families(head: Head) -> None:
    """Refuse a head that is no linear layer and no small MLP, with the reason."""
    reason = NOT_ONE_MAP.get(head.family)
    if reason is not None:
        raise UserError(
            f"this head can't be exported: {reason}",
            value=head.family,
            allowed="linear heads (logistic, ridge, sgd, fine-tuned) and small MLPs",
            fix="histotune sweep DATASET --data DIR --out HEAD trains a linear head on the same embeddings",
        )


def columns_in(names: Sequence[str], blocks: Sequence[ColumnBlock]) -> NDArray[np.int64]:
    """Return the numbers of some blocks' columns, in the order of the names.

    Example:
        >>> from histotune.backbones.spec import ColumnBlock
        >>> columns_in(["b", "a"], (ColumnBlock("a", 0, 2), ColumnBlock("b", 2, 3))).tolist()
        [2, 0, 1]
    """
    by_name = {block.name: block for block in blocks}
    return np.concatenate([np.arange(by_name[name].start, by_name[name].stop) for name in names])


def _spread(weight_RC: Float, columns: Sequence[int], total_dim: int) -> Float:
    """Return weights on all columns of the backbone; 0 for those that the head does not read."""
    spread_RD = np.zeros((len(weight_RC), total_dim))
    spread_RD[:, np.asarray(columns)] = weight_RC
    return spread_RD
