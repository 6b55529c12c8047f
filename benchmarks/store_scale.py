"""The store at 10 thousand to 10 million rows: listing, lookup and gathering, time and memory against n.

Rows are few columns wide, so that the figures are those of names, manifests and files, not of the disk's throughput:
a wide row adds its bytes. Every size is looked at by a process of its own, whose peak memory is read from the system::

    python -m benchmarks.store_scale --sizes 10000 100000 1000000 10000000 --out benchmarks/results/store_scale.json
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.harness import Claim, Part, Result, measured, save

if TYPE_CHECKING:
    from histotune.embeddings.store import Store

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
SHARD_ROWS, DIM, SAMPLED = 4096, 8, 2_000
STEPS = ("list manifests", "look up every row", "gather 2,000 rows", "gather every row")
CLAIM = Claim(
    "store_scale",
    "store of 10 thousand to 10 million rows: steepest slope of log time against log n: listing, lookup, gathering",
    "",
    1.15,
    "at most",
    "Rows of 8 float16 columns in shards of 4,096; a process per size, each step once, files in memory;"
    " slope by least squares from 100 thousand rows on. Parts: seconds per step and size, and peak memory, GB.",
)


def hashes(start: int, stop: int) -> tuple[str, ...]:
    """Return contents of rows as they are named: 64 digits, of no order."""
    rng = np.random.default_rng(start)
    text = rng.bytes(32 * (stop - start)).hex()
    return tuple(text[64 * row : 64 * row + 64] for row in range(stop - start))


def all_hashes(n_rows: int) -> list[str]:
    """Return the contents of every row, in the order of the shards."""
    return [one for start in range(0, n_rows, SHARD_ROWS) for one in hashes(start, min(start + SHARD_ROWS, n_rows))]


def open_store(folder: Path) -> Store:
    """Open the space that is simulated."""
    from histotune.embeddings.space import EmbeddingSpace, with_key
    from histotune.embeddings.store import Store

    space = with_key(EmbeddingSpace("", "simulated", "0" * 64, "", "{}", "fp16", "{}", "{}"))
    return Store(folder, space)


def write(folder: Path, n_rows: int) -> None:
    """Write the shards of a space."""
    from histotune.backbones.spec import ColumnBlock
    from histotune.embeddings.store import RunFacts, ShardPlan

    store, blocks = open_store(folder), (ColumnBlock("pooled", 0, DIM),)
    store.describe(blocks)
    for start in range(0, n_rows, SHARD_ROWS):
        plan = ShardPlan(hashes(start, min(start + SHARD_ROWS, n_rows)), 64)
        rows_ND = np.full((len(plan.content), DIM), start % 1000, dtype=np.float16)
        store.write_shard(plan, rows_ND, RunFacts(blocks, plan.batch_sizes, 0, 1))


def look(folder: Path, n_rows: int) -> dict[str, float]:
    """Time every step once; for a process that did nothing before."""
    from histotune.embeddings.gather import gather, missing_content

    store, keys = open_store(folder), all_hashes(n_rows)
    base_gb = _peak_gb()
    seconds: dict[str, float] = {}
    began = time.perf_counter()
    manifests = store.manifests()
    seconds[STEPS[0]] = time.perf_counter() - began
    began = time.perf_counter()
    missing = missing_content(manifests, keys)
    seconds[STEPS[1]] = time.perf_counter() - began
    sampled = keys[:: max(1, n_rows // SAMPLED)][:SAMPLED]
    for name, wanted in ((STEPS[2], sampled), (STEPS[3], keys)):
        began = time.perf_counter()
        found = gather(store, manifests, wanted)
        seconds[name] = time.perf_counter() - began
        if missing or found is None or found.matrix_ND.shape != (len(wanted), DIM):
            raise RuntimeError("the store does not give back what was written")
    return {**seconds, "peak GB": _peak_gb(), "peak GB of the names alone": base_gb}


def slope(sizes: list[int], seconds: list[float]) -> float:
    """Return the slope of log time against log n, by least squares from 100 thousand rows on."""
    pairs = [(math.log(n), math.log(one)) for n, one in zip(sizes, seconds, strict=True) if n >= 100_000]
    x, y = np.array(pairs).T
    return float(np.polyfit(x, y, 1)[0])


def measure(sizes: tuple[int, ...] = SIZES) -> tuple[Result, ...]:
    """Simulate every size."""
    found: dict[int, dict[str, float]] = {}
    for n_rows in sizes:
        with tempfile.TemporaryDirectory(prefix="histotune-store-scale-") as name:
            write(Path(name), n_rows)
            command = [sys.executable, "-m", "benchmarks.store_scale", "--look", name, str(n_rows)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[n_rows] = json.loads(done.stdout)
            sys.stderr.write(f"{n_rows:,}: {done.stdout}\n")
    slopes = {step: slope([*found], [one[step] for one in found.values()]) for step in STEPS}
    slopes.pop(STEPS[2])  # of a fixed number of rows: what grows there is the look-up of their places
    parts = [Part(f"{step}, slope", value) for step, value in slopes.items()]
    parts += [Part(f"{n_rows:,} rows: {name}", value) for n_rows, one in found.items() for name, value in one.items()]
    return (measured(CLAIM, [max(slopes.values())], parts, 1),)


def _peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    """Simulate, or look at one size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--look", nargs=2, metavar=("FOLDER", "ROWS"))
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument("--out", type=Path, help="folder of the JSON")
    given = parser.parse_args()
    if given.look is not None:
        print(json.dumps(look(Path(given.look[0]), int(given.look[1]))))
        return
    for result in measure(tuple(given.sizes)):
        print(json.dumps(result.as_dict(), indent=2))
        if given.out is not None:
            save(result, given.out)


if __name__ == "__main__":
    main()
