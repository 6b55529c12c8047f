"""How much memory the fits of a sweep take, told and limited before the first of them: many classes take much."""

# K logits, V coordinates with the bias

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from histotune.tools.errors import UserError
from histotune.tools.files import readable_bytes
from histotune.tools.provenance import memory_gib

if TYPE_CHECKING:
    from histotune.heads.config import SweepConfig
    from histotune.heads.family import SweepTask

LOG = logging.getLogger(__name__)
MANY_CLASSES = 10  # from more of which on the estimate is told
COEFFICIENT_BYTES, LOGIT_BYTES = 200, 40
"""Measured for 6 to 100 classes: of a coefficient, mostly the solver's memory of past steps, and of a tile's logit."""
CURVATURE_BYTES = 2**28  # what the solver gives to exact curvature at most
SHARE_OF_MEMORY = 0.5


def fit_bytes(task: SweepTask, n_columns: int, config: SweepConfig) -> int:
    """Estimate the memory of the fits that are solved together.

    Args:
        task: Classes and training sets.
        n_columns: Columns of the widest pooling.
        config: Penalties, weightings, folds, and whether the procedure is itself estimated.

    Returns:
        Bytes; what the embeddings themselves take is not among them.
    """
    n_sets = len(task.train_sets_SN)
    nested = n_sets if task.nested_estimate_sets is None else len(task.nested_estimate_sets)
    n_masks = config.folds * (n_sets + (config.folds * nested if config.honesty == "nested" else 0))
    n_problems = n_masks * len(config.penalties) * len(config.class_weights)
    n_classes = len(task.class_names)
    n_logits = 1 if n_classes == 2 else n_classes  # K
    n_tiles = int(task.train_sets_SN.sum(axis=1).max())
    width = 1 + min(n_columns, n_tiles)  # V
    curvature = min(n_problems * n_logits * width**2 * 8, CURVATURE_BYTES)
    return n_problems * n_logits * (width * COEFFICIENT_BYTES + n_tiles * LOGIT_BYTES) + curvature


def check_memory(task: SweepTask, n_columns: int, config: SweepConfig) -> None:
    """Tell what a sweep over many classes takes, and refuse it where that is more than half of the memory.

    Args:
        task: Classes and training sets.
        n_columns: Columns of the widest pooling.
        config: What is tried.

    Raises:
        UserError: With what to try less of.
    """
    n_classes = len(task.class_names)
    if n_classes <= MANY_CLASSES or config.family == "sgd":
        return
    need, there = fit_bytes(task, n_columns, config), memory_gib() * 2**30
    LOG.debug("%d classes: the fits take about %s of memory", n_classes, readable_bytes(need))
    if need > SHARE_OF_MEMORY * there:  # never where the memory is not known
        raise UserError(
            f"the fits of {n_classes:,} classes would take about {readable_bytes(need)} of memory",
            value=f"{len(config.penalties)} penalties, {config.folds} folds, {n_columns:,} columns",
            allowed=f"{readable_bytes(int(SHARE_OF_MEMORY * there))}, half of what this machine has",
            fix="try less at once: --set 'sweep.penalties=[0.01,1]' --set sweep.folds=3; or keep fewer classes: "
            f'--set \'source.subset.classes=["{task.class_names[0]}","{task.class_names[1]}"]\'',
        )
