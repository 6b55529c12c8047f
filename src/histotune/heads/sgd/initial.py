"""Initial weights and batch orders: torch.nn.Linear's distribution and shuffled epochs, each from a seed of its own."""

# O outputs, I inputs

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histotune.heads.sgd.data import Layer
from histotune.heads.sgd.plan import n_outputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.heads.sgd.data import Job

WEIGHTS, ORDER = 1, 2
"""Streams of random numbers."""


def shuffled_order(seed: int, epoch: int, n_rows: int) -> NDArray[np.int64]:
    """Return the rows of an epoch in their order; the same at any time for the same arguments.

    Args:
        seed: Of the job.
        epoch: From 0.
        n_rows: Training rows.
    """
    return np.random.default_rng((ORDER, seed, epoch)).permutation(n_rows)


def linear_layers(job: Job, n_columns: int, n_classes: int) -> tuple[Layer, ...]:
    """Return initial layers: weights and biases uniform within 1 / sqrt(inputs), as torch.nn.Linear draws them.

    Args:
        job: Its seed draws; its settings shape.
        n_columns: Columns of the pooling.
        n_classes: Number of classes.

    Returns:
        One layer, or two with a hidden layer.
    """
    rng = np.random.default_rng((WEIGHTS, job.seed))
    outputs, hidden = n_outputs(job.settings, n_classes), job.settings.hidden_units
    if not hidden:
        return (_draw(rng, outputs, n_columns),)
    return _draw(rng, hidden, n_columns), _draw(rng, outputs, hidden)


def _draw(rng: np.random.Generator, n_out: int, n_in: int) -> Layer:
    bound = 1.0 / np.sqrt(n_in)
    weight_OI = rng.uniform(-bound, bound, (n_out, n_in)).astype(np.float32)
    return Layer(weight_OI, rng.uniform(-bound, bound, n_out).astype(np.float32))
