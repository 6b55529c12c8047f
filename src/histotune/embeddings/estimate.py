"""What embedding a data set will take: a few timed batches of its own tiles, before anything long starts."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from typing import TYPE_CHECKING, Literal

import numpy as np

from histotune.backbones.catalog import random_twin
from histotune.backbones.weights import weights_are_here
from histotune.embeddings.gather import missing_content
from histotune.embeddings.precision import candidates, remembered_choice
from histotune.embeddings.row_keys import Rows, row_key, with_sizes
from histotune.embeddings.runner import COMPILE_TILES, BatchRunner, compute_threads, resolved_space
from histotune.embeddings.store import Store
from histotune.images.decode import PixelReader, UnreadableTilesError, tile_sources
from histotune.images.hashes import HashIndex
from histotune.images.loader import Wanted, load_views
from histotune.images.view_checks import check_view
from histotune.images.views import view_inputs
from histotune.tools.devices import choose_precision, find_device
from histotune.tools.errors import UserError
from histotune.tools.provenance import cpu_count

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from histotune.backbones.spec import Backbone
    from histotune.datasets.tileset import TileSet
    from histotune.embeddings.space import EmbeddingSpace, EmbedRequest
    from histotune.images.config import LoaderConfig
    from histotune.tools.devices import Computed, ComputeDevice

# B batch, S side, C channels


Stage = Literal["read and decode", "view", "forward"]
WARM_UP, MIN_TIMED, MAX_TIMED, KEPT = 1, 3, 12, 3
MAX_BATCH_S = 4.0  # a batch that takes longer is timed in smaller ones
MANIFEST_BYTES = 72  # per row: its content hash in the manifest


@dataclass(frozen=True)
class StageRate:
    """How fast one stage runs when the others rest."""

    name: Stage
    images_per_s: float


@dataclass(frozen=True)
class EmbeddingEstimate:
    """What embedding the missing tiles will take.

    Attributes:
        n_tiles: Tiles of the data set.
        n_cached: Tiles whose embedding is there already.
        batch_size: Tiles per timed batch.
        batches_s: Seconds per timed batch, reading and computing side by side as a real run does.
        stages: Each stage on its own.
        total_dim: Columns of an embedding.
        download_bytes: Weights to download first, counted as float32; 0 where they are here.
        device: Where it runs.
        precision: Of the matrix products.
        notes: What was assumed, one sentence each.
    """

    n_tiles: int
    n_cached: int
    batch_size: int
    batches_s: tuple[float, ...]
    stages: tuple[StageRate, ...]
    total_dim: int
    download_bytes: int
    device: str
    precision: Computed
    notes: tuple[str, ...] = ()
    value_bytes: int = 4

    @property
    def n_missing(self) -> int:
        """Tiles to compute."""
        return self.n_tiles - self.n_cached

    @property
    def images_per_s(self) -> float:
        """Rate over all timed batches; NaN where nothing was timed."""
        return self.batch_size * len(self.batches_s) / sum(self.batches_s) if self.batches_s else float("nan")

    @property
    def hours(self) -> float:
        """Time for the missing tiles, hours; 0 where none is missing."""
        return self.n_missing / self.images_per_s / 3600 if self.n_missing else 0.0

    @property
    def hours_between(self) -> tuple[float, float]:
        """The same as if every batch were the fastest, or the slowest, of those timed."""
        if not self.n_missing:
            return 0.0, 0.0
        per_batch = self.n_missing / self.batch_size / 3600
        return per_batch * min(self.batches_s), per_batch * max(self.batches_s)

    @property
    def storage_bytes(self) -> int:
        """Room that the missing embeddings take, with their manifests."""
        return self.n_missing * (self.value_bytes * self.total_dim + MANIFEST_BYTES)

    @property
    def limit(self) -> StageRate | None:
        """The slowest stage; None where nothing was timed."""
        return min(self.stages, key=lambda stage: stage.images_per_s, default=None)


def estimate(tiles: TileSet, request: EmbedRequest, budget_s: float = 20.0) -> EmbeddingEstimate:
    """Time a few batches of the tiles that are missing and extrapolate; nothing is written.

    Tiles are told apart by remembered content hashes, so that no data set is read twice: a tile that was never hashed
    counts as missing. Weights that are not here are stood in for by random ones of the same architecture, which cost
    the same time.

    Args:
        tiles: The tiles.
        request: As for :func:`~histotune.embeddings.embed.embed`.
        budget_s: About how long the timed batches may take, seconds; at least three are timed.

    Returns:
        Rates, hours and sizes.

    Raises:
        UserError: No tiles, imported embeddings (nothing can be computed), or tiles that can't be read.
    """
    if len(tiles) == 0:
        raise UserError(
            "there are no tiles to embed",
            value=tiles.name,
            fix="check --data, and --set source.subset.magnifications=... where it is set",
        )
    if request.spec.kind == "external":
        raise UserError(
            "imported embeddings are not computed, so there is nothing to estimate",
            value=request.spec.name,
            fix="take a backbone that runs here",
        )
    device = find_device(request.embedding.device)
    here = weights_are_here(request.spec)
    wanted = _wanted(tiles, request)
    remembered = remembered_choice(request, device, HashIndex(request.cache / INDEX, read_only=True)) if here else None
    precision = remembered.precision if remembered else _unchecked(request, device)
    unchecked = "" if remembered else precision
    missing, n_unknown = _missing(wanted, request, device, precision) if here else (wanted, 0)
    notes = tuple(_first_notes(request, device, n_unknown, unchecked))
    n_cached, batch_size = len(tiles) - len(missing), request.embedding.first_batch_size
    n_bytes = 2 if request.embedding.storage == "fp16" else 4
    known = EmbeddingEstimate(len(tiles), n_cached, batch_size, (), (), 0, 0, device.name, precision, notes, n_bytes)
    while missing:
        try:
            return _timed(known, missing, request, device, budget_s)
        except UnreadableTilesError as error:
            if request.on_bad_image == "fail":
                raise
            bad = {tile.source for tile in error.tiles}
            missing = tuple(one for one in missing if one.source not in bad)
    return known


def _wanted(tiles: TileSet, request: EmbedRequest) -> tuple[Wanted, ...]:
    """Return what is read of every tile, after the view was checked."""
    sources = tile_sources(tiles)
    with PixelReader(request.loader) as reader:
        if request.view.target_mpp is not None:
            tiles = with_sizes(tiles, sources, reader)
    rows = Rows(sources, [str(number) for number in range(len(tiles))], check_view(tiles, request.view), request.view)
    return tuple(rows[key] for key in rows.keys)


def _missing(
    wanted: tuple[Wanted, ...], request: EmbedRequest, device: ComputeDevice, precision: Computed
) -> tuple[tuple[Wanted, ...], int]:
    """Return the tiles without an embedding, and how many of them were never hashed."""
    index = HashIndex(request.cache / INDEX, read_only=True, rehash=request.loader.rehash)
    sources = [one.source for one in wanted]
    content = index.known_tiles(sources)
    key_of = {one: row_key(content[one.source], one.resized_px) for one in wanted if one.source in content}
    keys = tuple(key_of.values())
    store = Store(request.cache, resolved_space(request, device, precision, index, keys))
    absent = set(missing_content(store.inspect().sound, keys))
    missing = tuple(one for one in wanted if one not in key_of or key_of[one] in absent)
    return missing, len(set(sources) - set(content))


def _unchecked(request: EmbedRequest, device: ComputeDevice) -> Computed:
    """Return the precision to time where none was checked: what is likely to pass."""
    if request.embedding.precision != "auto":
        return choose_precision(device, request.embedding.precision)
    half = [one for one in candidates(device) if one == "fp16"]
    return half[0] if half else "fp32"


def _first_notes(request: EmbedRequest, device: ComputeDevice, n_unknown: int, unchecked: str) -> Iterator[str]:
    """Yield what to know before reading an estimate, and what a real run does that it does not."""
    if unchecked:
        yield f"The precision check has not run yet: timed in {unchecked}, which it may replace by another."
    if n_unknown:
        yield (
            f"{n_unknown:,} tiles were never read from this place and count as missing; copies of tiles "
            "that are embedded will cost nothing."
        )
    if not weights_are_here(request.spec):
        yield (
            "The weights are not on this machine: timed with random ones of the same architecture, and "
            "every tile counts as missing."
        )
    if device.kind == "cpu" or request.spec.kind == "colour-histogram":
        return
    searches, compiles = request.embedding.batch_size == "auto", request.embedding.compile != "off"
    faster = ["looks for a faster batch size first"] if searches else []
    faster += [f"compiles the network from about {COMPILE_TILES:,} tiles on"] if compiles else []
    if faster:
        yield f"A real run {' and '.join(faster)}, which may be faster than this."


@dataclass(frozen=True)
class _Bench:
    """What is timed, and with what."""

    request: EmbedRequest
    backbone: Backbone
    runner: BatchRunner
    reader: PixelReader
    sample: tuple[Wanted, ...]
    batch_size: int


def _timed(
    known: EmbeddingEstimate, missing: Sequence[Wanted], request: EmbedRequest, device: ComputeDevice, budget_s: float
) -> EmbeddingEstimate:
    """Load the backbone and time it with the tiles."""
    from histotune.backbones.engine import load_backbone

    here = weights_are_here(request.spec)
    spec = replace(request.spec if here else random_twin(request.spec), size_px=request.view.size_px)
    with compute_threads(request), PixelReader(request.loader) as reader:
        backbone = load_backbone(spec, device, known.precision, request.hashes)
        runner = BatchRunner(backbone, request.embedding.first_batch_size)
        batch_size = _batch_size(runner, reader, missing[0], request)
        n_wanted = batch_size * (WARM_UP + MAX_TIMED)
        bench = _Bench(request, backbone, runner, reader, _spread(missing, n_wanted), batch_size)
        batches_s, kept = _time_together(bench, budget_s)
        stages = _time_apart(bench, kept)
    notes = list(known.notes)
    if batch_size < request.embedding.first_batch_size:
        notes.append(
            f"A batch of {request.embedding.first_batch_size} takes long here; timed in batches of {batch_size}."
        )
    if len(missing) < n_wanted:
        notes.append("Few tiles are missing, so that some were timed more than once.")
    return replace(
        known,
        batch_size=batch_size,
        batches_s=batches_s,
        stages=stages,
        total_dim=backbone.total_dim,
        download_bytes=0 if here else _weight_bytes(backbone),
        notes=tuple(notes),
    )


def _batch_size(runner: BatchRunner, reader: PixelReader, one: Wanted, request: EmbedRequest) -> int:
    """Return the batch size to time: the one asked for, or a smaller one where a batch would take too long."""
    (views,) = load_views([one], [1], request.view, reader)
    size, wanted = 1, request.embedding.first_batch_size
    while True:
        pixels_BSSC = np.repeat(views.pixels_BSSC, size, axis=0)
        seconds_s = min(_seconds(runner, pixels_BSSC), _seconds(runner, pixels_BSSC))  # a size's first pass is slow
        if size == wanted or 2 * seconds_s > MAX_BATCH_S:
            return size
        size = min(2 * size, wanted)


def _seconds(runner: BatchRunner, pixels_BSSC: NDArray[np.uint8]) -> float:
    start = time.perf_counter()
    runner.run(pixels_BSSC)
    return time.perf_counter() - start


def _spread(missing: Sequence[Wanted], n_wanted: int) -> tuple[Wanted, ...]:
    """Return tiles from all over the data set, again from the start where there are too few."""
    places = np.linspace(0, len(missing) - 1, min(len(missing), n_wanted)).round().astype(int)
    return tuple(islice(cycle(missing[place] for place in places), n_wanted))


def _time_together(bench: _Bench, budget_s: float) -> tuple[tuple[float, ...], list[NDArray[np.uint8]]]:
    """Time batches as a real run makes them, decoding ahead of the network; keep the last few views."""
    sizes = [bench.batch_size] * (WARM_UP + MAX_TIMED)
    batches = load_views(bench.sample, sizes, bench.request.view, bench.reader)
    seconds: list[float] = []
    kept: list[NDArray[np.uint8]] = []
    with closing(batches):
        began = last = time.perf_counter()
        for number, views in enumerate(batches):
            bench.runner.run(views.pixels_BSSC)
            now = time.perf_counter()
            if number >= WARM_UP:
                seconds.append(now - last)
            last = now
            kept = [*kept, views.pixels_BSSC][-KEPT:]
            if len(seconds) >= MIN_TIMED and now - began > budget_s:
                break
    return tuple(seconds), kept


def _time_apart(bench: _Bench, kept: Sequence[NDArray[np.uint8]]) -> tuple[StageRate, ...]:
    """Time each stage while the others rest, with as many threads as a real run has."""
    sample = bench.sample[-KEPT * bench.batch_size :]  # read last, so that the fewest are in memory already
    view = bench.request.view
    forward_s = sum(_seconds(bench.runner, pixels_BSSC) for pixels_BSSC in kept)
    with ThreadPoolExecutor(bench.request.loader.workers or cpu_count()) as pool:
        start = time.perf_counter()
        decoded = [
            (image_HWC, one.resized_px)
            for image_HWC, one in zip(pool.map(partial(_decode, bench), sample), sample, strict=True)
            if image_HWC is not None
        ]
        read = time.perf_counter()
        inputs = list(pool.map(lambda item: view_inputs(item[0], view, item[1]), decoded))
        viewed = time.perf_counter()
    return (
        StageRate("read and decode", len(sample) / (read - start)),
        StageRate("view", len(inputs) / (viewed - read)),
        StageRate("forward", len(kept) * bench.batch_size / forward_s),
    )


def _decode(bench: _Bench, one: Wanted) -> NDArray[np.uint8] | None:
    """Return a tile's pixels; None where it can't be read and would be skipped."""
    try:
        return bench.reader.pixels_and_hash(one.source)[0]
    except UserError:
        if bench.request.on_bad_image == "fail":
            raise
        return None


def _weight_bytes(backbone: Backbone) -> int:
    """Return the size of the weights as float32."""
    return 0 if backbone.module is None else 4 * sum(one.numel() for one in backbone.module.parameters())


# ---- The space and the content of a request ----


INDEX = "hashes.sqlite"


def request_space(request: EmbedRequest, keys: Sequence[str] = ()) -> EmbeddingSpace:
    """Return the space that a request's embeddings live in."""
    device = find_device(request.embedding.device)
    index = HashIndex(request.cache / INDEX)
    choice = remembered_choice(request, device, index)
    precision = "fp32" if choice is None else choice.precision  # unchecked: nothing was embedded in another yet
    return resolved_space(request, device, precision, index, keys)


def tile_contents(tiles: TileSet, cache: Path, loader: LoaderConfig) -> tuple[str, ...]:
    """Return the content hash of every tile; bytes are read only where they were never hashed."""
    with PixelReader(loader) as reader:
        return HashIndex(cache / INDEX, rehash=loader.rehash).tiles(tile_sources(tiles), reader, loader.workers)
