"""Embedding more patches takes no more memory: what grows is the result, never pixels or activations."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.engine_pcam import write_patches
from benchmarks.harness import BOUND_REPEATS, Claim, Part, Result, child_environment, measured

FEW, MANY = 10_000, 40_000
BACKBONE, SIZE_PX = "random/timm/resnet10t", 32
METHOD = (
    f"HDF5 files in PatchCamelyon's layout with {FEW:,} and {MANY:,} patches, embedded into an empty cache with"
    f" {BACKBONE.removeprefix('random/timm/')} (random weights, {SIZE_PX} px, 512 columns) by a process of its own on 2"
    " threads, the embeddings returned and held in memory. The pixels would be 264 and 1,055 MiB, the matrix is 20 and"
    " 78 MiB; beyond 256 MiB it would be a mapped file."
)
CLAIM = Claim(
    "engine_memory",
    f"peak memory of embedding {MANY:,} patches over that of {FEW:,}, the returned matrix left out",
    "x",
    1.05,
    "at most",
    f"{METHOD} Ratio of the largest resident sets less the matrix, which is the result; a second matrix, or what a"
    " patch leaves behind, would show; in turns, median and 95 % bound of 7 pairs.",
    by_bound=True,
)
PEAK = Claim("engine_memory_peak", f"peak memory of embedding {MANY:,} patches", "MiB", 1024.0, "at most",
             f"{METHOD} Largest resident set; parts say what of it is there before the first patch.")  # fmt: skip
CHILD = """
import json, resource, sys
from pathlib import Path

def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)

from benchmarks.engine_pcam import Pass, cold, found_backbone, load
from histotune.datasets.config import DatasetConfig
from histotune.datasets.read import read_dataset
spec = found_backbone(sys.argv[3])
load(spec)
loaded = peak_mib()
tiles = read_dataset(DatasetConfig(name="patch_camelyon", path=Path(sys.argv[1])))
embeddings = cold(tiles, Pass(spec, Path(sys.argv[2]), size_px=int(sys.argv[4])))
print(json.dumps({"n_tiles": len(embeddings), "loaded_mib": loaded, "peak_mib": peak_mib(),
                  "matrix_mib": embeddings.matrix_ND.nbytes / 2**20}))
"""


def measure() -> tuple[Result, ...]:
    """Embed few and many patches in turns, each time in a new process."""
    with tempfile.TemporaryDirectory(prefix="histotune-engine-") as name:
        folder = Path(name)
        for n_rows in (FEW, MANY):
            write_patches(folder / str(n_rows), n_rows)
        runs = [(embedded(folder, FEW), embedded(folder, MANY)) for _ in range(BOUND_REPEATS)]
    ratios = [_beyond_matrix(many) / _beyond_matrix(few) for few, many in runs]
    parts = [
        Part(f"{n_rows:,} patches, the matrix included, MiB", statistics.median(run["peak_mib"] for run in alike))
        for n_rows, alike in zip((FEW, MANY), zip(*runs, strict=True), strict=True)
    ]
    loaded = Part("interpreter, torch and the network, MiB", runs[0][1]["loaded_mib"])
    return (
        measured(CLAIM, ratios, [*parts, loaded], 2),
        measured(PEAK, [many["peak_mib"] for _, many in runs], [loaded], 2),
    )


def _beyond_matrix(run: dict[str, float]) -> float:
    return run["peak_mib"] - run["matrix_mib"]


def embedded(folder: Path, n_rows: int) -> dict[str, float]:
    """Embed one file in a process of its own.

    Args:
        folder: Holds the data in a folder named after the number of patches.
        n_rows: Patches.

    Returns:
        Tiles, and in MiB the resident sets with the network loaded and at the peak, and the matrix.
    """
    with tempfile.TemporaryDirectory(prefix="cache-", dir=folder) as cache:
        command = [sys.executable, "-c", CHILD, str(folder / str(n_rows)), cache, BACKBONE, str(SIZE_PX)]
        environment = child_environment(Path(cache), 2)
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    assert found["n_tiles"] == n_rows
    return found
