"""How a shard is kept: float32, or float16 where rounding costs nothing that matters."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from histotune.embeddings.precision import MIN_TILES, compare_precision

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.embeddings.config import Storage

LOG = logging.getLogger(__name__)
# N tiles, D columns


def stored(
    matrix_ND: NDArray[np.float32], storage: Storage, shard: str = ""
) -> NDArray[np.float32] | NDArray[np.float16]:
    """Return a shard's rows as they are kept.

    Args:
        matrix_ND: float32, a row per tile.
        storage: ``fp16`` rounds to float16 where the error stays within the limits of the precision check.
        shard: Its name, for the log.

    Returns:
        The same rows, float16 or float32. They stay float32 where rounding fails the check (values beyond 65,504,
        a spread that is small beside the mean) or the shard is too small to tell.
    """
    if storage == "fp32":
        return matrix_ND
    if len(matrix_ND) < MIN_TILES:
        LOG.info("shard %s stays in float32: %d rows are too few to check float16", shard, len(matrix_ND))
        return matrix_ND
    with np.errstate(over="ignore"):  # becomes infinite, which never passes
        half_ND = matrix_ND.astype(np.float16)
    check = compare_precision("fp16", matrix_ND, half_ND)
    if check.passed:
        return half_ND
    LOG.warning("shard %s stays in float32: storing %s", shard, check)
    return matrix_ND
