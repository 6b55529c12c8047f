"""Settings of the heads room."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field


def default_penalties() -> tuple[float, ...]:
    """Return 16 penalties from 1e-4 to 1e3, log-spaced (lambda of the mean loss on standardised columns)."""
    return tuple(float(f"{value:.4g}") for value in np.logspace(-4, 3, 16))


class SweepConfig(BaseModel):
    """Which heads are tried and how one is chosen.

    Attributes:
        penalties: L2 penalties lambda; the objective is mean log-loss + lambda / 2 * |w|^2 on standardised columns,
            so scikit-learn's C is 1 / (n * lambda).
        poolings: Sets of column blocks; empty tries the backbone's default pooling.
        folds: Folds of the grouped cross-validation that chooses.
        class_weight: ``none``, or ``balanced`` (classes weigh the same in the training loss).
        selection: Criterion, lower is better.
        seed: Seed of the folds.
        max_iterations: Iterations after which a fit that has not converged is reported as such.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    penalties: tuple[float, ...] = Field(default_factory=default_penalties, min_length=1)
    poolings: tuple[tuple[str, ...], ...] = ()
    folds: int = Field(5, ge=2)
    class_weight: Literal["none", "balanced"] = "none"
    selection: Literal["group-balanced-log-loss"] = "group-balanced-log-loss"
    seed: int = 0
    max_iterations: int = Field(2000, ge=1)
