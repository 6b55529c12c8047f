"""Batches through a backbone: halved where memory runs out, counted, on a fixed number of threads."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from histotune.devices import halve_on_out_of_memory
from histotune.embeddings.rows import average_inputs
from histotune.embeddings.store import RunFacts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from histotune.backbones.records import Backbone
    from histotune.embeddings.extract import EmbedRequest

LOG = logging.getLogger(__name__)
# B batch, S side, D columns


class BatchRunner:
    """Runs batches, in halves once the device's memory has run out, and keeps count.

    Args:
        backbone: The backbone.
        batch_size: Most network inputs per forward pass.
    """

    def __init__(self, backbone: Backbone, batch_size: int) -> None:
        self._backbone = backbone
        self._limit = batch_size
        self._sizes: list[int] = []
        self._reruns_before = 0

    def start_shard(self) -> None:
        """Begin counting for a new shard."""
        self._sizes = []
        self._reruns_before = self._backbone.reruns.n_batches

    def run(self, pixels_BSSC: NDArray[np.uint8], n_inputs: tuple[int, ...] = ()) -> NDArray[np.float32]:
        """Embed a batch.

        Args:
            pixels_BSSC: uint8 (B, S, S, 3), the inputs of one tile after those of another.
            n_inputs: Inputs of each tile, whose embeddings are averaged; empty where every tile has one.

        Returns:
            float32, (tiles, total_dim).
        """
        n_tiles = len(n_inputs) or len(pixels_BSSC)
        if self._backbone.module is None:  # numpy only; importing torch for its error class would cost seconds
            self._sizes.append(n_tiles)
            return average_inputs(self._backbone.embed(pixels_BSSC), n_inputs)

        def attempt(size: int) -> NDArray[np.float32]:
            starts = range(0, len(pixels_BSSC), size)
            return np.concatenate([self._backbone.embed(pixels_BSSC[start : start + size]) for start in starts])

        result_BD, limit = halve_on_out_of_memory(self._limit, attempt)
        if limit < self._limit:
            LOG.warning("the device's memory ran out; going on with batches of %d instead of %d", limit, self._limit)
            self._limit = limit
        tiles_per_pass = max(limit * n_tiles // len(pixels_BSSC), 1)
        full, rest = divmod(n_tiles, tiles_per_pass)
        self._sizes += [tiles_per_pass] * full + ([rest] if rest else [])
        return average_inputs(result_BD, n_inputs)

    def facts(self, threads: int) -> RunFacts:
        """Return how the current shard was computed."""
        fp32_batches = self._backbone.reruns.n_batches - self._reruns_before
        return RunFacts(self._backbone.blocks, tuple(self._sizes), fp32_batches, threads)


@contextmanager
def compute_threads(request: EmbedRequest) -> Iterator[int]:
    """Set torch's compute threads for the block and yield how many there are.

    Args:
        request: Names the backbone and the number of threads; 0 leaves torch's choice.

    Yields:
        The number of threads; 1 where torch is not needed.
    """
    if request.spec.kind == "colour-histogram":
        yield 1
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(request.embedding.threads or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
