"""Embeddings of a tile set: what the cache holds is read, only the rest is computed.

An image changes its form five times on its way from the disk to the result; each form is a record:

1. ``PixelSource`` (images/decode.py): where its pixels are, in a file of their own or in a row of a larger one.
2. ``Wanted`` (images/loader.py): what is to be made of it: the size it is resized to, the row of the cache it fills.
3. ``Views`` (images/loader.py): the network's inputs in uint8, of this tile and then of its whole batch.
4. ``Pending`` (backbones/engine.py): a batch that the device computes while the next one is decoded.
5. ``Embeddings`` (embeddings/space.py): the finished rows, read back from the cache in the order of the tiles.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from itertools import chain, groupby, islice
from typing import TYPE_CHECKING, Literal

import numpy as np

from histotune.backbones.engine import CompilationError
from histotune.embeddings.gather import gather, missing_content
from histotune.embeddings.precision import checked_choice, remembered_choice, stored
from histotune.embeddings.row_keys import Rows, plan_shards, with_sizes
from histotune.embeddings.runner import (
    BatchRunner,
    compute_threads,
    is_compiled,
    resizing_device,
    resolved_space,
    with_batch_size,
)
from histotune.embeddings.store import Store
from histotune.embeddings.workers import LeaveOutError, Workers, shard_files
from histotune.images.decode import PixelReader, UnreadableTilesError, tile_sources
from histotune.images.loader import load_views
from histotune.images.view_checks import check_view
from histotune.tools.devices import ComputeDevice, find_device
from histotune.tools.errors import UserError
from histotune.tools.files import hash_bytes, lock
from histotune.tools.progress import track

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from histotune.backbones.spec import Backbone
    from histotune.datasets.tileset import TileSet
    from histotune.embeddings.space import Embeddings, EmbeddingSpace, EmbedRequest
    from histotune.embeddings.store import ShardPlan
    from histotune.images.hashes import HashIndex
    from histotune.images.loader import Views


LOG = logging.getLogger(__name__)
WAIT_S = 7 * 24 * 3600.0  # another process may be embedding a large data set
MAX_ATTEMPTS = 3


@dataclass(frozen=True)
class _Job:
    """A request with everything resolved.

    Attributes:
        request: The request.
        device: Where the backbone runs.
        precision: Chosen precision.
        space: The embedding space.
        store: Its shards.
        index: Remembered content hashes.
        reader: Open image files.
        rows: What to read for each row key.
        workers: The processes that embed together; this one alone, most often.
    """

    request: EmbedRequest
    device: ComputeDevice
    precision: Literal["fp32", "bf16", "fp16"]
    space: EmbeddingSpace
    store: Store
    index: HashIndex
    reader: PixelReader
    rows: Rows
    workers: Workers


def embed(tiles: TileSet, request: EmbedRequest) -> Embeddings:
    """Return the embedding of every tile, computing only content that the cache lacks.

    A tile is known by the hash of its bytes, and under a view with ``target_mpp`` by the size it is resized to as
    well: renamed files and changed labels cost nothing, ten new tiles cost ten forward passes. Shards appear one by one
    and whole, so an interrupted run goes on where it was, with the same batches. Several processes that ask for the
    same under different ranks share the shards; each of them returns when all are there.

    Args:
        tiles: The tiles.
        request: Backbone, view, device, cache.

    Returns:
        One row per tile, in tile order, as read back from the cache: a cold and a warm run give equal bytes. float32,
        or float16 where that is asked for and costs nothing. With ``on_bad_image="skip"`` tiles that can't be read have
        no row and stand in ``unreadable``.

    Raises:
        UnreadableTilesError: Tiles that can't be read, listed together.
        UserError: No tiles, a view that can't be made of them, missing weights, a full disk, a read-only cache, another
            rank that has stopped.

    Example:
        >>> from histotune.backbones.catalog import find_backbone  # doctest: +SKIP
        >>> embeddings = embed(tiles, EmbedRequest(spec, view, embedding, loader, cache))  # doctest: +SKIP
        >>> embeddings.matrix_ND.shape  # doctest: +SKIP
        (1900, 1280)
    """
    if len(tiles) == 0:
        raise UserError(
            "there are no tiles to embed",
            value=tiles.name,
            fix="check --data, and --set source.subset.magnifications=... where it is set",
        )
    workers = Workers(request.rank, tiles, request.embedding.wait_s)
    not_compiled = ""
    while True:
        rest = tiles.without(workers.unreadable)
        try:
            done = _embed_readable(rest, request, workers)
            return replace(done, unreadable=workers.unreadable, precision_reason=done.precision_reason + not_compiled)
        except LeaveOutError as error:
            workers.unreadable = error.unreadable
        except UnreadableTilesError as error:
            found = _name_bad(rest, error)
            if request.on_bad_image == "fail" or not found or len(found) == len(rest):
                raise
            LOG.warning("leaving out %d of %d tiles that can't be read", len(found), len(rest))
            workers.leave_out(found, error.tiles)
        except CompilationError as error:
            request, not_compiled = _without_compiling(request, error), f"; not compiled: {error}"


def _without_compiling(request: EmbedRequest, error: CompilationError) -> EmbedRequest:
    """Return the request for the plain network; several ranks must agree on it, so there it is the user's to say."""
    if request.rank.world_size > 1:
        raise UserError(
            f"torch.compile failed on {request.rank}: {error}",
            fix="run again with --set embedding.compile=off, on all ranks",
        ) from error
    LOG.warning("the network can't be compiled here, going on without: %s", error)
    return replace(request, embedding=request.embedding.model_copy(update={"compile": "off"}))


def _name_bad(tiles: TileSet, error: UnreadableTilesError) -> dict[str, str]:
    """Return tile id and reason of every tile whose file or row can't be read."""
    reasons = {(source.path, source.row): tile.error.what for tile in error.tiles for source in (tile.source,)}
    places = ((source.path, source.row) for source in tile_sources(tiles))
    return {tile_id: reasons[place] for tile_id, place in zip(tiles.tile_ids, places, strict=True) if place in reasons}


def _embed_readable(tiles: TileSet, request: EmbedRequest, workers: Workers) -> Embeddings:
    """Embed tiles of which none may be unreadable."""
    device = find_device(request.embedding.device)
    index = request.hashes
    choice = remembered_choice(request, device, index)
    sources = tile_sources(tiles)
    with PixelReader(request.loader) as reader:
        if request.view.target_mpp is not None:
            tiles = with_sizes(tiles, sources, reader)
        geometry = check_view(tiles, request.view)
        content = index.tiles(sources, reader, request.loader.workers)
        rows = Rows(sources, content, geometry, request.view)
        choice = choice or checked_choice(request, device, index, reader, rows)
        space = resolved_space(request, device, choice.precision, index, rows.keys)
        job = _Job(request, device, choice.precision, space, Store(request.cache, space), index, reader, rows, workers)
        found = _read_or_compute(job, rows.keys)
    pixels = hash_bytes(*(one for _, one in sorted(zip(tiles.tile_ids, content, strict=True))))  # whatever their order
    return replace(
        found,
        tile_ids=tiles.tile_ids,
        pixel_fingerprint=pixels,
        precision_reason=choice.reason,
        sha256_N32=np.frombuffer(bytes.fromhex("".join(content)), dtype=np.uint8).reshape(-1, 32),
    )


def _read_or_compute(job: _Job, keys: Sequence[str]) -> Embeddings:
    """Read the matrix; compute what is missing first, and again where a shard turns out to be damaged."""
    n_computed = 0
    for _ in range(MAX_ATTEMPTS):
        if missing := missing_content(job.store.manifests(), keys):
            if job.space.external:
                raise _no_rows(job, missing)
            n_computed += _lead(job, keys) if job.workers.rank.leads else _follow(job, keys)
        elif n_computed == 0:
            LOG.debug("all %s embeddings of %s are in the cache already", f"{len(keys):,}", job.space.backbone)
        gathered = gather(job.store, job.store.manifests(), keys)
        if gathered is not None:
            job.store.mark_used(gathered.blocks)
            return replace(gathered, n_computed=n_computed)
    raise UserError(
        "the cache gives back other bytes than were written",
        value=job.store.folder,
        fix="check the disk, or choose another folder with --cache",
    )


def _no_rows(job: _Job, missing: Sequence[str]) -> UserError:
    """Return the error for tiles that imported embeddings have no row for: nothing here can compute them."""
    places, n_rows = [str(job.rows[one].source) for one in missing], len(set(job.rows.keys))
    return UserError(
        f"{len(places):,} of {n_rows:,} tiles have no row in the imported embeddings {job.space.backbone}, "
        "whose network is not here to make one",
        value=", ".join(places[:20]) + (", ..." if len(places) > 20 else ""),
        fix="`histotune cache import` files that hold them, or take a backbone that runs here: --backbone lite0",
    )


def _lead(job: _Job, keys: Sequence[str]) -> int:
    """Plan what is missing and compute it, under the space's lock; return the forward passes of all ranks, by tile."""
    with _exclusive(job.store):
        missing = missing_content(job.store.manifests(), keys)  # another process may just have done it
        if missing:
            request = with_batch_size(job.request, job.device, job.precision, job.space, len(missing))
            job = replace(job, request=request)
        earlier = job.store.read_plan()
        n_inputs = {one: job.rows[one].n_inputs for one in missing}
        plans = plan_shards(earlier, missing, job.request.embedding, n_inputs)
        if not plans:
            return 0
        if set(plans) & set(earlier):
            LOG.info("an earlier run was interrupted; going on where it stopped")
        job.store.sweep_up()
        job.store.write_plan(plans)
        with job.workers.announced(job.store, plans):
            _compute(job, plans, job.workers.rank.share(plans))
            job.workers.wait_for_shards(job.store, plans)
        job.store.drop_plan()
    return len(missing)


def _follow(job: _Job, keys: Sequence[str]) -> int:
    """Compute this rank's share of the leader's plan, until nothing is missing; return its own forward passes."""
    n_computed = 0
    while True:
        seen = shard_files(job.store)
        if not missing_content(job.store.manifests(), keys):
            return n_computed
        found = job.workers.next_round(job.store, seen)
        if found is None:
            continue
        with job.workers.serving(job.store, found):
            plans = job.store.read_plan()
            if tuple(plan.name for plan in plans) != found.shards:
                continue  # the leader has just gone, or planned anew
            if not set(job.rows.keys).issuperset(one for plan in plans for one in plan.content):
                raise UserError(
                    "the ranks do not see the same images",
                    value=str(job.workers.rank),
                    fix="give all of them the same data set, and let nothing write into it",
                )
            done = job.store.inspect().sound
            mine = [plan for plan in job.workers.rank.share(plans) if plan.name not in done]
            _compute(job, plans, mine)
            n_computed += sum(len(plan.content) for plan in mine)


def _load(job: _Job, plans: Sequence[ShardPlan]) -> Generator[Views, None, None]:
    """Decode the planned batches, ahead of the network; shards of one batch size in one go, to bound what is held."""
    find_all_bad = job.request.on_bad_image == "skip"
    for _, group in groupby(plans, key=lambda plan: plan.batch_size):
        alike = list(group)
        wanted = [job.rows[one] for plan in alike for one in plan.content]
        batch_sizes = [size for plan in alike for size in plan.batch_sizes]
        yield from load_views(
            wanted,
            batch_sizes,
            job.request.view,
            job.reader,
            find_all_bad=find_all_bad,
            device=resizing_device(job.device, job.request.spec),
        )


def _compute(job: _Job, plans: Sequence[ShardPlan], mine: Sequence[ShardPlan]) -> None:
    """Embed and write this rank's shards of a plan."""
    if not mine:
        return
    with closing(_load(job, mine)) as views:
        first = next(views)  # a tile that can't be read shows before a network is loaded
        with compute_threads(job.request) as threads:
            _run(job, mine, chain([first], views), _inputs_per_pass(job, plans), threads)


def _run(job: _Job, plans: Sequence[ShardPlan], views: Iterator[Views], inputs_per_pass: int, threads: int) -> None:
    """Embed and write shard by shard."""
    workers, storage = job.workers, job.request.embedding.storage
    backbone = _loaded(job)
    runner = BatchRunner(backbone, inputs_per_pass)
    if is_compiled(job.space):
        _compile(job, runner)
    if workers.rank.leads:
        job.store.describe(backbone.blocks)
    batch_sizes = [size for plan in plans for size in plan.batch_sizes]
    words = f"embedding {sum(batch_sizes):,} tiles with {job.space.backbone} ({job.space.precision}, {job.device.kind})"
    words += f", {workers.rank}" if workers.rank.world_size > 1 else ""
    LOG.info(words)
    shown = iter(track(views, words, total=len(batch_sizes))) if workers.rank.leads else views
    batches = runner.run_all(_checked(job, plans, shown))
    for plan in plans:
        runner.start_shard()
        rows = list(islice(batches, len(plan.batch_sizes)))
        matrix_ND = stored(np.concatenate(rows), storage, plan.name)
        job.store.write_shard(plan, matrix_ND, runner.facts(threads))
        workers.check(job.store)
    next(batches, None)  # lets the bar end


def _loaded(job: _Job) -> Backbone:
    """Load the network, or take the one that was kept for requests like this one; a compiled one is never kept."""
    from histotune.backbones.engine import load_backbone

    spec, kept = replace(job.request.spec, size_px=job.request.view.size_px), job.request.loaded
    if kept is None or is_compiled(job.space):
        return load_backbone(spec, job.device, job.precision, job.index)
    asked = (spec, job.device.kind, job.device.name, job.precision)
    if kept.backbone is None or kept.asked != asked:
        kept.backbone, kept.asked = load_backbone(spec, job.device, job.precision, job.index), asked
    return kept.backbone


def _compile(job: _Job, runner: BatchRunner) -> None:
    """Compile the network; where that fails, the space of compiled rows is left as if it had not been asked for."""
    LOG.info("compiling the network, which takes a minute or more")
    try:
        runner.compile()
    except CompilationError:
        job.store.drop_plan()
        raise


def _checked(job: _Job, plans: Sequence[ShardPlan], views: Iterator[Views]) -> Iterator[Views]:
    """Pass on the planned batches, refusing tiles that have changed."""
    for plan in plans:
        first = 0
        for size in plan.batch_sizes:
            batch = next(views)
            _check_content(job, plan.content[first : first + size], batch.content)
            yield batch
            first += size
    next(views, None)


def _inputs_per_pass(job: _Job, plans: Sequence[ShardPlan]) -> int:
    """Network inputs per forward pass: the largest planned batch; as configured where one tile has more."""
    most = 1
    for plan in plans:
        n_inputs = max(job.rows[one].n_inputs for one in plan.content)
        most = max(most, min(plan.batch_size * n_inputs, max(plan.batch_size, job.request.embedding.first_batch_size)))
    return most


def _check_content(job: _Job, expected: Sequence[str], found: Sequence[str]) -> None:
    """Refuse tiles whose bytes are not the hashed ones: their embeddings would be filed under the wrong hash."""
    rows = [job.rows[key] for key in expected]
    changed = [row.source for row, other in zip(rows, found, strict=True) if row.content != other]
    for source in changed:
        job.index.forget(source.path)
    if changed:
        raise UserError(
            "images changed while they were read",
            value=", ".join(str(source) for source in changed[:5]),
            fix="run again when nothing writes into the data set",
        )


@contextmanager
def _exclusive(store: Store) -> Iterator[None]:
    """Hold the space's lock, saying so when another process has it."""
    with ExitStack() as stack:
        try:
            stack.enter_context(lock(store.lock_path, timeout_s=1))
        except UserError as error:
            if not isinstance(error.__cause__, TimeoutError):  # a full disk, a folder that can't be written
                raise
            LOG.info("another process is embedding into the same space; waiting for it")
            stack.enter_context(lock(store.lock_path, timeout_s=WAIT_S))
        yield
