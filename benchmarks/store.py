"""What it costs to keep embeddings safely: planned, written, hashed and named, as a share of the pass."""

from __future__ import annotations

import shutil
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import Arm, Claim, Part, Result, alternate, cores, measured, missing_hardware, not_measured
from benchmarks.hashing import cold_pass, rendered_tiles

if TYPE_CHECKING:
    from histotune.embeddings.space import Embeddings

N_CORES = 2
CLAIM = Claim(
    "store",
    "writing, hashing and naming embeddings, share of a cold pass over 240 PNG of 700x460 with EfficientNet-Lite0, on"
    " 2 cores",
    "%",
    1.0,
    "at most",
    "Plan, matrix, hash, manifest, and the read that verifies them, for the very rows of the pass, each file flushed"
    " to the disk as in a pass, over the time of the whole pass, which does all of it; in turns, median of 7 after 1"
    " warm-up.",
)


def measure() -> tuple[Result, ...]:
    """Time the pass and what its store does in turns."""
    lacking = missing_hardware(n_cpus=N_CORES)
    if lacking:
        return (not_measured(CLAIM, lacking),)
    with tempfile.TemporaryDirectory(prefix="histotune-store-") as name, cores(N_CORES):
        folder = Path(name)
        tiles = rendered_tiles(folder)
        passed, stored = folder / "cache", folder / "stored"
        embeddings = cold_pass(tiles, passed)
        seconds = alternate(
            [
                Arm("embed", lambda: cold_pass(tiles, passed), prepare=lambda: _empty(passed)),
                Arm("store", lambda: _store(embeddings, stored), prepare=lambda: _empty(stored)),
            ],
            repeats=7,
        )
    shares = [100.0 * ours / whole for ours, whole in zip(seconds["store"], seconds["embed"], strict=True)]
    parts = [Part(f"{arm}, s", statistics.median(values)) for arm, values in seconds.items()]
    return (measured(CLAIM, shares, parts, N_CORES),)


def _empty(cache: Path) -> None:
    shutil.rmtree(cache, ignore_errors=True)


def _store(embeddings: Embeddings, cache: Path) -> None:
    """Do what a pass does with finished rows."""
    from histotune.embeddings.gather import gather
    from histotune.embeddings.row_keys import plan_shards
    from histotune.embeddings.space import EmbeddingConfig
    from histotune.embeddings.store import RunFacts, Store
    from histotune.tools.files import hash_bytes

    content = tuple(hash_bytes(tile_id) for tile_id in embeddings.tile_ids)
    store = Store(cache, embeddings.space)
    plans = plan_shards((), content, EmbeddingConfig())
    store.write_plan(plans)
    store.describe(embeddings.blocks)
    first = 0
    for plan in plans:
        rows_ND = embeddings.matrix_ND[first : first + len(plan.content)]
        store.write_shard(plan, rows_ND, RunFacts(embeddings.blocks, plan.batch_sizes, 0, N_CORES))
        first += len(plan.content)
    store.drop_plan()
    if gather(store, store.manifests(), content) is None:
        raise RuntimeError("what was written can't be read")
