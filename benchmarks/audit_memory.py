"""Auditing PatchCamelyon: memory grows by a few hundred bytes a patch, not by its pixels."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.harness import Claim, Part, Result, child_environment, measured

ROWS = (8_000, 32_000, 128_000)
BLOCK = 1_000
METHOD = (
    "HDF5 files in PatchCamelyon's layout (96 x 96 patches, 5 % exact copies, 216 slides in meta.csv) with 8,000,"
    " 32,000 and 128,000 rows; each is read, described and audited by a process of its own on 2 threads."
)
PEAK = Claim("audit_memory", "peak memory of describing and auditing 128,000 patches", "MB", 1000.0, "at most",
             f"{METHOD} Largest resident set of the process; parts are the three sizes.")  # fmt: skip
SLOPE = Claim("audit_memory_slope", "growth of the audit's peak memory from 8,000 to 128,000 patches", "bytes/row",
              1500.0, "at most", f"{METHOD} Difference of largest resident sets over difference of rows; parts are the"
              " two steps and what the audit itself keeps of a patch. A patch's pixels are 27,648 bytes.")  # fmt: skip
CHILD = """
import json, resource, sys, time
from pathlib import Path
from histotune.datasets.config import DatasetConfig
from histotune.datasets.describe import describe, render_text
from histotune.datasets.read import read_dataset
from histotune.audit.pixels import empty_fingerprints
from histotune.audit.audit import AuditRequest, audit
from histotune.images.config import LoaderConfig
start = time.perf_counter()
tiles = read_dataset(DatasetConfig(name="patch_camelyon", path=Path(sys.argv[1])))
text = render_text(describe(tiles))
found = audit(AuditRequest(tiles, loader=LoaderConfig(workers=2)))
unit = 1 if sys.platform == "darwin" else 1024
print(json.dumps({
    "n_tiles": len(tiles), "n_copied": found.finding("exact-duplicates").n_tiles,
    "kept_bytes": empty_fingerprints(1).bytes_per_tile, "seconds_s": time.perf_counter() - start,
    "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
}))
"""


def measure() -> tuple[Result, ...]:
    """Audit three sizes, each in a process of its own."""
    runs = [audited(n_rows) for n_rows in ROWS]
    peaks = [run["peak_bytes"] for run in runs]
    steps = [
        Part(f"{low:,} to {high:,} rows", (peak_high - peak_low) / (high - low))
        for (low, high), (peak_low, peak_high) in zip(pairwise(ROWS), pairwise(peaks), strict=True)
    ]
    slope = (peaks[-1] - peaks[0]) / (ROWS[-1] - ROWS[0])
    return (
        measured(
            PEAK, [peaks[-1] / 1e6], [Part(f"{n:,} rows", peak / 1e6) for n, peak in zip(ROWS, peaks, strict=True)], 2
        ),
        measured(SLOPE, [slope], [*steps, Part("kept by the audit", runs[0]["kept_bytes"])], 2),
    )


def audited(n_rows: int) -> dict[str, float]:
    """Write a part of ``n_rows`` patches and audit it."""
    with tempfile.TemporaryDirectory(prefix="histotune-audit-") as name:
        folder = Path(name)
        write_part(folder / "data", n_rows)
        command = [sys.executable, "-c", CHILD, str(folder / "data")]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=child_environment(folder, 2))
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    assert found["n_tiles"] == n_rows
    assert found["n_copied"] == n_rows // 10, "every copy and its original"
    return found


def write_part(folder: Path, n_rows: int) -> None:
    """Write x, y and meta; every patch is a coarse pattern of its own under one fine grain, and 5 % are copies."""
    import h5py

    folder.mkdir(parents=True)
    rng = np.random.default_rng(n_rows)
    grain_HWC = rng.integers(0, 30, (96, 96, 3), dtype=np.uint8)
    stem = "camelyonpatch_level_2_split_train"
    with h5py.File(folder / f"{stem}_x.h5", "w") as file:
        x = file.create_dataset("x", (n_rows, 96, 96, 3), np.uint8, chunks=(32, 96, 96, 3))
        for start in range(0, n_rows, BLOCK):
            coarse_NTTC = rng.integers(60, 220, (BLOCK, 16, 16, 3), dtype=np.uint8)
            block_NHWC = coarse_NTTC.repeat(6, axis=1).repeat(6, axis=2) + grain_HWC
            block_NHWC[: BLOCK // 20] = block_NHWC[BLOCK // 20 : BLOCK // 10]
            x[start : start + BLOCK] = block_NHWC
    labels = (np.arange(n_rows) % 2).astype(np.uint8)
    with h5py.File(folder / f"{stem}_y.h5", "w") as file:
        file["y"] = labels.reshape(-1, 1, 1, 1)
    lines = ["coord_y,coord_x,tumor_patch,center_tumor_patch,wsi"]
    lines += [f"0,0,True,{bool(label)},camelyon16_train_{row % 216:03d}" for row, label in enumerate(labels.tolist())]
    (folder / f"{stem}_meta.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
