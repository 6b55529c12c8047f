"""Batches through a backbone: halved where memory runs out, counted, on a fixed number of threads."""

from __future__ import annotations

import logging
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.backbones.engine import Engine, Pending
from histotune.embeddings.manifest import RunFacts
from histotune.embeddings.rows import average_inputs
from histotune.tools.devices import halve_on_out_of_memory, out_of_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from histotune.backbones.spec import Backbone, BackboneSpec
    from histotune.embeddings.space import EmbedRequest
    from histotune.images.device_resize import ResizePlan
    from histotune.images.loader import Views
    from histotune.tools.devices import ComputeDevice

LOG = logging.getLogger(__name__)
# B batch, S side, D columns


@dataclass(frozen=True)
class Submitted:
    """A batch on its way through the backbone.

    Attributes:
        pixels_BSSC: Its pixels, to repeat it where memory runs out.
        n_inputs: Inputs of each tile; empty where every tile has one.
        limit: Most inputs per forward pass.
        parts: What the backbone returned for each forward pass.
        plan: How the device makes the inputs, where the pixels are stored images.
    """

    pixels_BSSC: NDArray[np.uint8]
    n_inputs: tuple[int, ...]
    limit: int
    parts: tuple[Pending | NDArray[np.float32], ...]
    plan: ResizePlan | None = None


class BatchRunner:
    """Runs batches, in halves once the device's memory has run out, and keeps count.

    Args:
        backbone: The backbone.
        batch_size: Most network inputs per forward pass.
    """

    def __init__(self, backbone: Backbone, batch_size: int) -> None:
        self._backbone = backbone
        self._engine = backbone.embed if isinstance(backbone.embed, Engine) else None
        self._limit = batch_size
        self._sizes: list[int] = []
        self._reruns_before = 0

    def start_shard(self) -> None:
        """Begin counting for a new shard; batches count for the shard in which they are collected."""
        self._sizes = []
        self._reruns_before = self._backbone.reruns.n_batches

    def compile(self) -> None:
        """Compile the network for full batches.

        Raises:
            CompilationError: It can't be; the runner goes on with the plain network.
        """
        if (engine := self._engine) is not None:
            _, limit = halve_on_out_of_memory(self._limit, engine.compile)
            self._lower(limit)

    def run(self, pixels_BSSC: NDArray[np.uint8], n_inputs: tuple[int, ...] = ()) -> NDArray[np.float32]:
        """Embed a batch.

        Args:
            pixels_BSSC: uint8 (B, S, S, 3), the inputs of one tile after those of another.
            n_inputs: Inputs of each tile, whose embeddings are averaged; empty where every tile has one.

        Returns:
            float32, (tiles, total_dim).
        """
        return self.collect(self.submit(pixels_BSSC, n_inputs))

    def run_all(self, batches: Iterator[Views]) -> Iterator[NDArray[np.float32]]:
        """Embed batches in order; on a GPU the next one is on its way before the results of one are read back.

        Args:
            batches: The inputs. Where they end in an error, the batches before it are given first: a shard that is
                complete is written.

        Yields:
            float32, (tiles, total_dim), per batch.
        """
        ahead = 0 if self._engine is None else self._engine.ahead
        waiting: deque[Submitted] = deque()
        failure: Exception | None = None
        while failure is None:
            try:
                views = next(batches)
            except StopIteration:
                break
            except Exception as error:
                failure = error
                break
            waiting.append(self.submit(views.pixels_BSSC, views.n_inputs, views.plan))
            if len(waiting) > ahead:
                yield self.collect(waiting.popleft())
        while waiting:
            yield self.collect(waiting.popleft())
        if failure is not None:
            raise failure

    def submit(
        self, pixels_BSSC: NDArray[np.uint8], n_inputs: tuple[int, ...] = (), plan: ResizePlan | None = None
    ) -> Submitted:
        """Start embedding a batch, in halves where memory runs out.

        Args:
            pixels_BSSC: As for :meth:`run`.
            n_inputs: As for :meth:`run`.
            plan: How the device makes the inputs, where the pixels are stored images.

        Returns:
            To be given to :meth:`collect`, in the order of submission.
        """
        if self._backbone.module is None:  # numpy only; importing torch for its error class would cost seconds
            return Submitted(pixels_BSSC, n_inputs, len(pixels_BSSC), (self._backbone.embed(pixels_BSSC),))
        parts, limit = halve_on_out_of_memory(self._limit, lambda size: self._submit_parts(pixels_BSSC, size, plan))
        self._lower(limit)
        return Submitted(pixels_BSSC, n_inputs, limit, parts, plan)

    def collect(self, submitted: Submitted) -> NDArray[np.float32]:
        """Return the embeddings of a batch; where memory runs out in a second pass, this batch is repeated in halves.

        Args:
            submitted: From :meth:`submit`.

        Returns:
            float32, (tiles, total_dim).
        """
        result_BD, limit = self._collect_parts(submitted)
        n_tiles = len(submitted.n_inputs) or len(submitted.pixels_BSSC)
        tiles_per_pass = max(limit * n_tiles // len(submitted.pixels_BSSC), 1)
        full, rest = divmod(n_tiles, tiles_per_pass)
        self._sizes += [tiles_per_pass] * full + ([rest] if rest else [])
        return average_inputs(result_BD, submitted.n_inputs)

    def _submit_parts(
        self, pixels_BSSC: NDArray[np.uint8], size: int, plan: ResizePlan | None
    ) -> tuple[Pending | NDArray[np.float32], ...]:
        parts = _in_parts(pixels_BSSC, size)
        if self._engine is None:
            return tuple(self._backbone.embed(part) for part in parts)
        return tuple(self._engine.submit(part, size, plan) for part in parts)

    def _collect_parts(self, submitted: Submitted) -> tuple[NDArray[np.float32], int]:
        """Return the rows and the inputs per forward pass that worked."""
        engine = self._engine
        if engine is None:
            return np.concatenate([part for part in submitted.parts if isinstance(part, np.ndarray)]), submitted.limit
        parts, reruns = [part for part in submitted.parts if isinstance(part, Pending)], self._backbone.reruns.n_batches
        try:
            return np.concatenate([engine.collect(part) for part in parts]), submitted.limit
        except RuntimeError as error:
            if not out_of_memory(error):
                raise

        def attempt(size: int) -> NDArray[np.float32]:
            self._backbone.reruns.n_batches = reruns  # what is repeated counts once
            parts = _in_parts(submitted.pixels_BSSC, size)
            return np.concatenate([engine.collect(engine.submit(part, size, submitted.plan)) for part in parts])

        result_BD, limit = halve_on_out_of_memory(max(submitted.limit // 2, 1), attempt)
        self._lower(limit)
        return result_BD, limit

    def _lower(self, limit: int) -> None:
        if limit < self._limit:
            LOG.warning("the device's memory ran out; going on with batches of %d instead of %d", limit, self._limit)
            self._limit = limit

    def facts(self, threads: int) -> RunFacts:
        """Return how the current shard was computed."""
        fp32_batches = self._backbone.reruns.n_batches - self._reruns_before
        return RunFacts(self._backbone.blocks, tuple(self._sizes), fp32_batches, threads)


def _in_parts(pixels_BSSC: NDArray[np.uint8], size: int) -> list[NDArray[np.uint8]]:
    return [pixels_BSSC[start : start + size] for start in range(0, len(pixels_BSSC), size)]


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


def resizing_device(device: ComputeDevice, spec: BackboneSpec) -> str:
    """Return the torch device that may resize images in Pillow's stead.

    Args:
        device: Where the backbone runs.
        spec: The backbone.

    Returns:
        Empty where the network shares its processor with Pillow, which is the faster of the two there.
    """
    return device.kind if device.kind == "cuda" and spec.kind not in ("colour-histogram", "external") else ""
