"""How many inputs a forward pass takes: as asked for, remembered, or found by timing blank tiles on a GPU."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from histotune.embeddings.config import FIRST_BATCH
from histotune.tools.errors import UserError
from histotune.tools.files import write_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from histotune.embeddings.records import EmbeddingSpace
    from histotune.embeddings.space import EmbedRequest
    from histotune.tools.devices import Computed, ComputeDevice

LOG = logging.getLogger(__name__)
WORTH_GAIN = 1.05  # a doubled batch that is not this much faster is not worth its memory
TIMED_BATCHES = 3
SEARCH_TILES = 2_000  # below, the search would take longer than it saves
# B batch, S side, C channels, D columns


@dataclass(frozen=True)
class BatchRate:
    """How fast a batch size is."""

    batch_size: int
    images_per_s: float


def with_batch_size(
    request: EmbedRequest, device: ComputeDevice, precision: Computed, space: EmbeddingSpace, n_missing: int
) -> EmbedRequest:
    """Return the request with ``batch_size="auto"`` replaced by a number.

    Args:
        request: The request.
        device: Where the backbone runs; 32 off CUDA, where larger batches gain nothing.
        precision: Precision of its matrix products.
        space: The space whose rows are computed; the answer is remembered for it in the cache.
        n_missing: Tiles to compute; with few, and nothing remembered, 32 is taken unsought.

    Returns:
        The request with a number. It enters the plan of each new shard; shards that are planned already keep theirs.
    """
    if request.embedding.batch_size != "auto":
        return request
    size: int | None = FIRST_BATCH
    if device.kind == "cuda" and request.spec.kind not in ("colour-histogram", "external"):
        size = remembered_batch_size(request, space)
        if size is None:
            size = _search(request, device, precision, space) if n_missing >= SEARCH_TILES else FIRST_BATCH
    return replace(request, embedding=request.embedding.model_copy(update={"batch_size": size}))


def remembered_batch_size(request: EmbedRequest, space: EmbeddingSpace) -> int | None:
    """Return the batch size found earlier for a space.

    Args:
        request: Names the cache, and the shard size that bounds a batch.
        space: The space.

    Returns:
        None where there was no search, or its record is damaged.
    """
    try:
        size = json.loads(_record(request, space).read_text(encoding="utf-8"))["batch_size"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return size if isinstance(size, int) and 1 <= size <= max(request.embedding.shard_tiles, FIRST_BATCH) else None


def find_batch_size(
    embed: Callable[[NDArray[np.uint8]], object],
    size_px: int,
    most: int,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[BatchRate, ...]:
    """Double the batch from 32 until throughput gains less than 5 %, or memory runs out.

    Args:
        embed: Runs one forward pass and waits for its result.
        size_px: Side of the input.
        most: Largest batch worth trying.
        clock: Seconds.

    Returns:
        The rate of each size tried, the best one last; 32 alone where even that does not fit, to be halved later.
    """
    rates: list[BatchRate] = []
    size = FIRST_BATCH
    while size <= max(most, FIRST_BATCH):
        rate = _rate(embed, np.zeros((size, size_px, size_px, 3), np.uint8), clock)
        if rate == 0 or (rates and rate < WORTH_GAIN * rates[-1].images_per_s):
            break
        rates.append(BatchRate(size, rate))
        size *= 2
    return tuple(rates) or (BatchRate(FIRST_BATCH, 0.0),)


def _rate(
    embed: Callable[[NDArray[np.uint8]], object], blank_BSSC: NDArray[np.uint8], clock: Callable[[], float]
) -> float:
    """Return images per second after one warm-up; 0 where memory runs out."""
    import torch

    from histotune.tools.devices import out_of_memory

    try:
        embed(blank_BSSC)
        start = clock()
        for _ in range(TIMED_BATCHES):
            embed(blank_BSSC)
        return TIMED_BATCHES * len(blank_BSSC) / (clock() - start)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return 0.0


def _search(request: EmbedRequest, device: ComputeDevice, precision: Computed, space: EmbeddingSpace) -> int:
    """Load the backbone, find its batch size and remember it."""
    from histotune.backbones.load import load_backbone

    spec = replace(request.spec, size_px=request.view.size_px)
    backbone = load_backbone(spec, device, precision)
    rates = find_batch_size(backbone.embed, spec.size_px, request.embedding.shard_tiles)
    LOG.info("batches of %d: %s", rates[-1].batch_size,
             ", ".join(f"{one.images_per_s:.0f} images/s at {one.batch_size}" for one in rates))  # fmt: skip
    try:
        write_json(
            _record(request, space), {"batch_size": rates[-1].batch_size, "rates": [asdict(one) for one in rates]}
        )
    except UserError as error:
        LOG.warning("the batch size found can't be kept (%s)", error.what)
    return rates[-1].batch_size


def _record(request: EmbedRequest, space: EmbeddingSpace) -> Path:
    return request.cache / "batches" / f"{space.key[:32]}.json"
