"""Many heads of one shape as stacked tensors: their logits and gradients are a few large products.

Weights are stored divided by their job's learning rate. Adam's and momentum's steps are proportional to the learning
rate, so that in these units every job takes the same step and one call of torch.optim's kernel serves them all.
A softmax sees only differences of logits: those to class 0 are computed, and class 0's gradient is minus the others'.
"""

# S streams, T jobs per stream, B rows of a batch, V columns with the bias (padded), K output rows, C classes,
# L = C - 1 relative logits, H hidden units, G = H + 1 with the bias

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Stack(Protocol):
    """Stacked heads.

    Attributes:
        scaled: Weights divided by learning rates; every tensor begins with axes S and T.
        lr_ST: Learning rates.
    """

    scaled: list[Tensor]
    lr_ST: Tensor

    def logits(self, x_SBV: Tensor) -> Tensor:
        """Return logits relative to class 0 (S, T, L, B), remembering what :meth:`gradients` needs."""

    def gradients(self, slope_STLB: Tensor, x_SBV: Tensor) -> list[Tensor]:
        """Return the gradient by weight, one tensor for each of ``scaled``; the same buffers every time."""


def make_stack(scaled: list[Tensor], lr_ST: Tensor, activation: Literal["relu", "gelu"]) -> Stack:
    """Return linear heads for one tensor, small MLPs for two.

    Args:
        scaled: Weights (S, T, K, V), or (S, T, H, V) and (S, T, K, G), divided by the learning rates.
        lr_ST: Learning rates.
        activation: Of the hidden layer.
    """
    return LinearStack(scaled, lr_ST) if len(scaled) == 1 else MlpStack(scaled, lr_ST, activation)


class LinearStack:
    """Linear heads."""

    def __init__(self, scaled: list[Tensor], lr_ST: Tensor) -> None:
        self.scaled, self.lr_ST = scaled, lr_ST
        self._gradient: Tensor | None = None

    def logits(self, x_SBV: Tensor) -> Tensor:
        """See :class:`Stack`."""
        return _project(_relative(self.scaled[0]), x_SBV).mul_(self.lr_ST[:, :, None, None])

    def gradients(self, slope_STLB: Tensor, x_SBV: Tensor) -> list[Tensor]:
        """See :class:`Stack`."""
        import torch

        if self._gradient is None:
            self._gradient = torch.empty_like(self.scaled[0])
        _fill_absolute(self._gradient, _collect(slope_STLB, x_SBV))
        return [self._gradient]


class MlpStack:
    """Heads with one hidden layer."""

    def __init__(self, scaled: list[Tensor], lr_ST: Tensor, activation: Literal["relu", "gelu"]) -> None:
        self.scaled, self.lr_ST, self._activation = scaled, lr_ST, activation
        self._gradients: list[Tensor] = []
        self._before_STHB: Tensor | None = None
        self._after_STGB: Tensor | None = None

    def logits(self, x_SBV: Tensor) -> Tensor:
        """See :class:`Stack`."""
        import torch

        lr = self.lr_ST[:, :, None, None]
        self._before_STHB = _project(self.scaled[0], x_SBV).mul_(lr)
        after = activate(self._before_STHB, self._activation)
        self._after_STGB = torch.nn.functional.pad(after, (0, 0, 0, 1), value=1.0)
        return torch.matmul(_relative(self.scaled[1]), self._after_STGB).mul_(lr)

    def gradients(self, slope_STLB: Tensor, x_SBV: Tensor) -> list[Tensor]:
        """See :class:`Stack`."""
        import torch

        before, after = self._before_STHB, self._after_STGB
        assert before is not None and after is not None
        self._gradients = self._gradients or [torch.empty_like(part) for part in self.scaled]
        hidden, output = self._gradients
        _fill_absolute(output, torch.matmul(slope_STLB, after.transpose(2, 3)))
        weight = _relative(self.scaled[1])[..., :-1]
        back = torch.matmul(weight.transpose(2, 3), slope_STLB).mul_(self.lr_ST[:, :, None, None])
        back = _activation_slope(before, back, self._activation)
        hidden.copy_(_collect(back, x_SBV))
        return self._gradients


def activate(before: Tensor, activation: Literal["relu", "gelu"]) -> Tensor:
    """Return the activation of the hidden layer; GELU is the exact one, as torch.nn.GELU's default."""
    import torch

    return torch.relu(before) if activation == "relu" else torch.nn.functional.gelu(before)


def _activation_slope(before: Tensor, back: Tensor, activation: Literal["relu", "gelu"]) -> Tensor:
    import torch

    if activation == "relu":
        return back.mul_(before > 0)
    return torch.ops.aten.gelu_backward(back, before)  # type: ignore[no-any-return]


def _relative(weight_STKX: Tensor) -> Tensor:
    """Return output rows minus row 0; a single row is relative already."""
    if weight_STKX.shape[2] == 1:
        return weight_STKX
    return weight_STKX[:, :, 1:] - weight_STKX[:, :, :1]


def _project(weight_STYV: Tensor, x_SBV: Tensor) -> Tensor:
    """Return (S, T, Y, B): one product per stream for all its jobs."""
    import torch

    n_streams, n_jobs, rows, width = weight_STYV.shape
    flat = weight_STYV.reshape(n_streams, n_jobs * rows, width)
    return torch.bmm(flat, x_SBV.transpose(1, 2)).view(n_streams, n_jobs, rows, -1)


def _collect(slope_STYB: Tensor, x_SBV: Tensor) -> Tensor:
    """Return (S, T, Y, V): slopes summed over the rows of the batch."""
    import torch

    n_streams, n_jobs, rows, n_batch = slope_STYB.shape
    flat = torch.bmm(slope_STYB.reshape(n_streams, n_jobs * rows, n_batch), x_SBV)
    return flat.view(n_streams, n_jobs, rows, -1)


def _fill_absolute(out_STKX: Tensor, relative_STLX: Tensor) -> None:
    """Write the gradient of every output row: class 0's is minus the sum of the others'."""
    import torch

    if out_STKX.shape[2] == 1:
        out_STKX.copy_(relative_STLX)
        return
    out_STKX[:, :, 1:] = relative_STLX
    torch.sum(relative_STLX, 2, out=out_STKX[:, :, 0]).neg_()
