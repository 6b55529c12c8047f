"""Batches through a backbone: halved where memory runs out, counted, on a fixed number of threads."""

from __future__ import annotations

import logging
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from histotune.backbones.engine import Engine
from histotune.embeddings.gather import missing_content
from histotune.embeddings.row_keys import average_inputs
from histotune.embeddings.space import FIRST_BATCH, embedding_space, with_key
from histotune.embeddings.store import RunFacts, Store
from histotune.images.loader import Views
from histotune.tools.devices import halve_on_out_of_memory, out_of_memory
from histotune.tools.errors import UserError
from histotune.tools.files import canonical_json, parse_json, read_json, unsealed, write_sealed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from histotune.backbones.engine import Pending
    from histotune.backbones.spec import Backbone, BackboneSpec
    from histotune.embeddings.space import EmbeddingSpace, EmbedRequest
    from histotune.images.hashes import HashIndex
    from histotune.tools.devices import Computed, ComputeDevice

# B batch, S side, C channels, D columns


LOG = logging.getLogger(__name__)


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
        """Compile the network for full batches."""
        if (engine := self._engine) is not None:
            _, limit = halve_on_out_of_memory(self._limit, engine.compile)
            self._lower(limit)

    def run(self, pixels_BSSC: NDArray[np.uint8], n_inputs: tuple[int, ...] = ()) -> NDArray[np.float32]:
        """Embed a batch."""
        return self.start(Views(pixels_BSSC, (), n_inputs))()

    def run_all(self, batches: Iterator[Views]) -> Iterator[NDArray[np.float32]]:
        """Embed batches in order; on a GPU the next one is on its way before the results of one are read back."""
        ahead = 0 if self._engine is None else self._engine.ahead
        under_way: deque[Callable[[], NDArray[np.float32]]] = deque()
        failure: Exception | None = None
        while failure is None:
            try:
                views = next(batches)
            except StopIteration:
                break
            except Exception as error:
                failure = error
                break
            under_way.append(self.start(views))
            if len(under_way) > ahead:
                yield under_way.popleft()()
        while under_way:
            yield under_way.popleft()()
        if failure is not None:
            raise failure

    def start(self, views: Views) -> Callable[[], NDArray[np.float32]]:
        """Start embedding a batch, in halves where memory runs out; what is returned waits for its embeddings."""
        engine = self._engine
        if engine is None:
            result_BD, limit = self._at_once(views.pixels_BSSC)
            return lambda: self._averaged(result_BD, limit, views)

        def submit(size: int) -> list[Pending]:
            """Start forward passes of at most so many images."""
            return [engine.submit(part, size, views.plan) for part in _in_parts(views.pixels_BSSC, size)]

        passes, limit = halve_on_out_of_memory(self._limit, submit)
        self._lower(limit)
        return lambda: self._averaged(*self._collect(engine, passes, limit, views), views)

    def _at_once(self, pixels_BSSC: NDArray[np.uint8]) -> tuple[NDArray[np.float32], int]:
        """Embed a batch with a network that has no engine; return the rows and the inputs per pass that worked."""
        embed = self._backbone.embed
        if self._backbone.module is None:  # numpy only; importing torch for its error class would cost seconds
            return embed(pixels_BSSC), len(pixels_BSSC)
        result_BD, limit = halve_on_out_of_memory(
            self._limit, lambda size: np.concatenate([embed(part) for part in _in_parts(pixels_BSSC, size)])
        )
        self._lower(limit)
        return result_BD, limit

    def _collect(
        self, engine: Engine, passes: Sequence[Pending], limit: int, views: Views
    ) -> tuple[NDArray[np.float32], int]:
        """Return the rows of a batch and the inputs per pass that worked; out of memory, it is repeated in halves."""
        reruns = self._backbone.reruns.n_batches
        try:
            return np.concatenate([engine.collect(one) for one in passes]), limit
        except RuntimeError as error:
            if not out_of_memory(error):
                raise

        def attempt(size: int) -> NDArray[np.float32]:
            """Embed once more in smaller parts, waiting for each."""
            self._backbone.reruns.n_batches = reruns  # what is repeated counts once
            parts = _in_parts(views.pixels_BSSC, size)
            return np.concatenate([engine.collect(engine.submit(part, size, views.plan)) for part in parts])

        result_BD, limit = halve_on_out_of_memory(max(limit // 2, 1), attempt)
        self._lower(limit)
        return result_BD, limit

    def _averaged(self, result_BD: NDArray[np.float32], limit: int, views: Views) -> NDArray[np.float32]:
        """Return a row per tile, and count the tiles of every forward pass."""
        n_inputs, n_tiles = len(views.pixels_BSSC), len(views.n_inputs) or len(views.pixels_BSSC)
        tiles_per_pass = max(limit * n_tiles // n_inputs, 1)
        full, rest = divmod(n_tiles, tiles_per_pass)
        self._sizes += [tiles_per_pass] * full + ([rest] if rest else [])
        return average_inputs(result_BD, views.n_inputs)

    def _lower(self, limit: int) -> None:
        if limit < self._limit:
            LOG.warning(
                "the device's memory ran out; going on with batches of %d images instead of %d", limit, self._limit
            )
            self._limit = limit

    def facts(self, threads: int) -> RunFacts:
        """Return how the current shard was computed."""
        fp32_batches = self._backbone.reruns.n_batches - self._reruns_before
        return RunFacts(self._backbone.blocks, tuple(self._sizes), fp32_batches, threads)


def _in_parts(pixels_BSSC: NDArray[np.uint8], size: int) -> list[NDArray[np.uint8]]:
    return [pixels_BSSC[start : start + size] for start in range(0, len(pixels_BSSC), size)]


@contextmanager
def compute_threads(request: EmbedRequest) -> Iterator[int]:
    """Set torch's compute threads for the block and yield how many there are."""
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
    """Return the torch device that may resize images in Pillow's stead."""
    return device.kind if device.kind == "cuda" and spec.kind not in ("colour-histogram", "external") else ""


# ---- Batch size ----


WORTH_GAIN = 1.05  # a doubled batch that is not this much faster is not worth its memory
TIMED_BATCHES = 3
SEARCH_TILES = 2_000  # below, the search would take longer than it saves


@dataclass(frozen=True)
class BatchRate:
    """How fast a batch size is."""

    batch_size: int
    images_per_s: float


def with_batch_size(
    request: EmbedRequest, device: ComputeDevice, precision: Computed, space: EmbeddingSpace, n_missing: int
) -> EmbedRequest:
    """Return the request with ``batch_size="auto"`` replaced by a number."""
    if request.embedding.batch_size != "auto":
        return request
    size: int | None = FIRST_BATCH
    if device.kind == "cuda" and request.spec.kind not in ("colour-histogram", "external"):
        size = remembered_batch_size(request, space)
        if size is None:
            size = _search(request, device, precision, space) if n_missing >= SEARCH_TILES else FIRST_BATCH
    return replace(request, embedding=request.embedding.model_copy(update={"batch_size": size}))


def remembered_batch_size(request: EmbedRequest, space: EmbeddingSpace) -> int | None:
    """Return the batch size found earlier for a space."""
    path = _record(request, space)
    try:
        size = unsealed(read_json(path), ("batch_size", "rates")).get("batch_size")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        LOG.warning("the batch size found earlier can't be read (%s) and is searched again: %s", error, path)
        return None
    return size if isinstance(size, int) and 1 <= size <= max(request.embedding.shard_tiles, FIRST_BATCH) else None


def find_batch_size(
    embed: Callable[[NDArray[np.uint8]], object],
    size_px: int,
    most: int,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[BatchRate, ...]:
    """Double the batch from 32 until throughput gains less than 5 %, or memory runs out."""
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
    from histotune.backbones.engine import load_backbone

    spec = replace(request.spec, size_px=request.view.size_px)
    backbone = load_backbone(spec, device, precision, request.hashes)
    rates = find_batch_size(backbone.embed, spec.size_px, request.embedding.shard_tiles)
    LOG.debug(
        "batches of %d: %s",
        rates[-1].batch_size,
        ", ".join(f"{one.images_per_s:.0f} images/s at {one.batch_size}" for one in rates),
    )
    try:
        found = {"batch_size": rates[-1].batch_size, "rates": [asdict(one) for one in rates]}
        write_sealed(_record(request, space), found)
    except UserError as error:
        LOG.warning("the batch size found can't be kept (%s)", error.what)
    return rates[-1].batch_size


def _record(request: EmbedRequest, space: EmbeddingSpace) -> Path:
    return request.cache / "batches" / f"{space.key[:32]}.json"


# ---- Compiling ----
#
# A compiled network rounds differently, so its rows live in a space of their own (law 3), and a run has to know which
# of the two spaces it belongs to before anything is computed. Nothing is remembered for that: what the spaces hold
# decides.


COMPILE_TILES = 20_000
"""Tiles from which on a fresh run is compiled."""
GAIN = 0.2
"""Time that compilation is expected to save per tile; its own time is that of ``GAIN x COMPILE_TILES`` tiles."""
COMPILER = "compiler"  # in the signature of a space whose network was compiled


def resolved_space(
    request: EmbedRequest, device: ComputeDevice, precision: Computed, index: HashIndex, keys: Sequence[str]
) -> EmbeddingSpace:
    """Return the space that a request's rows belong to."""
    storage = request.embedding.storage
    plain = embedding_space(request.spec, request.view, device, precision, index, storage)
    return chosen_space(request, device, plain, keys)


def chosen_space(
    request: EmbedRequest, device: ComputeDevice, plain: EmbeddingSpace, keys: Sequence[str]
) -> EmbeddingSpace:
    """Return the space of the plain network, or of the compiled one where that finishes sooner."""
    wish = request.embedding.compile
    if wish == "off" or request.spec.kind in ("colour-histogram", "external"):
        return plain
    compiled = compiled_space(plain)
    if wish == "on":
        return compiled
    if device.kind != "cuda":
        return plain
    held = [Store(request.cache, space).inspect().sound for space in (plain, compiled)]
    here, there = (len(missing_content(one, keys)) for one in held)
    if request.rank.world_size > 1:
        return compiled if there == 0 < here else plain
    compiled_cost = (1 - GAIN) * there + (GAIN * COMPILE_TILES if there else 0)
    return compiled if compiled_cost < here else plain


def compiled_space(plain: EmbeddingSpace) -> EmbeddingSpace:
    """Return the space of the same settings with a compiled network."""
    signature = {**parse_json(plain.signature), COMPILER: "inductor"}
    return with_key(replace(plain, signature=canonical_json(signature)))


def is_compiled(space: EmbeddingSpace) -> bool:
    """Return whether a space's rows come from a compiled network."""
    return COMPILER in parse_json(space.signature)
