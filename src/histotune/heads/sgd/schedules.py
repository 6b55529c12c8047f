"""Learning-rate schedules: the product of pieces, each a factor of the step or of the epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.heads.sgd.config import Hold, WarmUp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histotune.heads.sgd.config import SchedulePiece


@dataclass(frozen=True)
class Clock:
    """Where a training stands.

    Attributes:
        step: Steps done.
        epoch: Epochs done.
        n_steps: Steps of the whole training.
        n_epochs: Epochs of the whole training.
    """

    step: int
    epoch: int
    n_steps: int
    n_epochs: int


def lr_factor(schedule: Sequence[SchedulePiece], clock: Clock) -> float:
    """Return what multiplies the learning rate in the coming step.

    Args:
        schedule: Pieces; none gives 1.
        clock: Where the training stands.

    Returns:
        The product of all pieces' factors.

    Example:
        >>> from histotune.heads.sgd.config import Hold
        >>> round(lr_factor((Hold(),), Clock(0, 4, 100, 10)), 3), lr_factor((Hold(),), Clock(0, 5, 100, 10))
        (0.333, 1.0)
    """
    factor = 1.0
    for piece in schedule:
        done, total = (clock.step, clock.n_steps) if piece.unit == "step" else (clock.epoch, clock.n_epochs)
        factor *= _piece_factor(piece, done, total)
    return factor


def _piece_factor(piece: SchedulePiece, done: int, total: int) -> float:
    if isinstance(piece, Hold):
        return piece.factor if done < piece.length else 1.0
    if isinstance(piece, WarmUp):
        return piece.start + (1.0 - piece.start) * min(done, piece.length) / piece.length
    share = min(max(done - piece.after, 0) / max(total - piece.after, 1), 1.0)
    return piece.final + (1.0 - piece.final) * (1.0 + math.cos(math.pi * share)) / 2.0
