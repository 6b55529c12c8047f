"""Metrics of many heads on the same held-out tiles at once."""

# T heads, n tiles, C classes, L = C - 1 logits relative to class 0

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from histotune.heads.sgd.config import CurveMetric


@dataclass(frozen=True)
class HeldOut:
    """Labels of held-out tiles.

    Attributes:
        y_n: Labels.
        weight_n: Weights of the log-loss, summing to 1.
        n_classes: Number of classes.
    """

    y_n: Tensor
    weight_n: Tensor
    n_classes: int


def measure(z_TLn: Tensor, held: HeldOut, metrics: Sequence[CurveMetric]) -> Tensor:
    """Return metrics of every head.

    Args:
        z_TLn: Logits relative to class 0; a tie between classes goes to the lower one.
        held: Labels.
        metrics: Which ones. Balanced accuracy means over the classes that occur, macro-F1 over those that occur or
            are predicted, as scikit-learn does; AUROC is NaN with fewer than two classes.

    Returns:
        (M, T), in the order of ``metrics``.
    """
    import torch

    z_TCn = torch.nn.functional.pad(z_TLn, (0, 0, 1, 0))
    counts_TCC = _confusion(z_TCn, held) if set(metrics) & {"balanced_accuracy", "macro_f1", "accuracy"} else None
    values = []
    for metric in metrics:
        if metric == "log_loss":
            values.append(_log_loss(z_TCn, held))
        elif metric == "auroc":
            values.append(_auroc(z_TCn, held))
        else:
            assert counts_TCC is not None
            values.append(_from_counts(counts_TCC, metric))
    return torch.stack(values) if values else z_TLn.new_empty(0, len(z_TLn))


def _log_loss(z_TCn: Tensor, held: HeldOut) -> Tensor:
    import torch

    own_Tn = z_TCn.gather(1, held.y_n.expand(len(z_TCn), 1, -1))[:, 0]
    return (torch.logsumexp(z_TCn, 1) - own_Tn) @ held.weight_n


def _confusion(z_TCn: Tensor, held: HeldOut) -> Tensor:
    """Return counts (T, true, predicted)."""
    import torch

    n_classes = held.n_classes
    code_Tn = held.y_n * n_classes + z_TCn.argmax(1)
    counts = torch.zeros(len(z_TCn), n_classes**2, dtype=z_TCn.dtype, device=z_TCn.device)
    return counts.scatter_add_(1, code_Tn, torch.ones_like(code_Tn, dtype=z_TCn.dtype)).view(-1, n_classes, n_classes)


def _from_counts(counts_TCC: Tensor, metric: CurveMetric) -> Tensor:
    hit_TC = counts_TCC.diagonal(dim1=1, dim2=2)
    true_TC, guessed_TC = counts_TCC.sum(2), counts_TCC.sum(1)
    if metric == "accuracy":
        return hit_TC.sum(1) / true_TC.sum(1)
    if metric == "balanced_accuracy":
        return _mean_where(hit_TC / true_TC.clamp(min=1), true_TC > 0)
    return _mean_where(2 * hit_TC / (true_TC + guessed_TC).clamp(min=1), true_TC + guessed_TC > 0)


def _mean_where(value_TC: Tensor, counted_TC: Tensor) -> Tensor:
    return (value_TC * counted_TC).sum(1) / counted_TC.sum(1)


def _auroc(z_TCn: Tensor, held: HeldOut) -> Tensor:
    """Mean over classes of one against the rest (class 1 alone in binary tasks), ties half, from mid-ranks."""
    import torch

    binary = held.n_classes == 2
    score_TCn = z_TCn[:, 1:] if binary else torch.softmax(z_TCn, 1)
    is_Cn = torch.stack([held.y_n == label for label in ([1] if binary else range(held.n_classes))])
    sorted_TCn = score_TCn.sort(dim=2).values
    score_TCn = score_TCn.contiguous()
    below = torch.searchsorted(sorted_TCn, score_TCn)
    upto = torch.searchsorted(sorted_TCn, score_TCn, right=True)
    rank_TCn = (below + upto + 1).double() / 2
    n_own, n_rest = is_Cn.sum(1).double(), (~is_Cn).sum(1).double()
    wins_TC = (rank_TCn * is_Cn).sum(2) - n_own * (n_own + 1) / 2
    both = (n_own > 0) & (n_rest > 0)
    value_TC = torch.where(both, wins_TC / (n_own * n_rest).clamp(min=1), torch.zeros_like(wins_TC))
    mean_T = value_TC.sum(1) / both.sum()
    return torch.where(torch.isfinite(z_TCn).all(2).all(1), mean_T, torch.nan).to(z_TCn.dtype)
