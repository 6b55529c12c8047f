"""Predicting more images takes hardly more memory: what grows is the list of their names."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.harness import Claim, Part, Result, child_environment, measured

FEW, MANY, PAIRS = 30_000, 60_000, 3
BACKBONE, SIZE_PX, SIDE_PX = "random/timm/test_resnet", 32, 24
N_CASES, TILES_PER_CASE = 40, 4
METHOD = (
    f"Folders of {FEW:,} and {MANY:,} PNG of {SIDE_PX} px, no two alike, predicted into parquet with an"
    f" empty cache and a head of {N_CASES} cases on {BACKBONE.removeprefix('random/timm/')} (random weights,"
    f" {SIZE_PX} px), with sets and distances, by a process of its own on 2 threads."
)
CLAIM = Claim(
    "predict_memory",
    f"memory per further image of predicting {MANY:,} images instead of {FEW:,}, names and rows included",
    "KiB",
    1.0,
    "at most",
    f"{METHOD} Difference of the largest resident sets over that of the images; in turns, median of {PAIRS} pairs."
    " The pixels would be 1.7 KiB, the embeddings 2 KiB an image. Over the first three parts of 8,192 images the"
    " allocator still takes new memory: 1.2 KiB an image from 10,000 to 30,000.",
)
CHILD = """
import json, resource, sys, time
from histotune.studies.head_verbs import predict_files
start = time.perf_counter()
done = predict_files(sys.argv[1], sys.argv[2], sys.argv[3], cache=sys.argv[4], set={"embedding.device": "cpu"})
scale = 2**20 if sys.platform == "darwin" else 2**10
print(json.dumps({"n_images": done.n_images, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale,
                  "seconds_s": time.perf_counter() - start}))
"""


def measure() -> tuple[Result, ...]:
    """Predict few and many images in turns, each time in a new process."""
    with tempfile.TemporaryDirectory(prefix="histotune-predict-") as name:
        folder = Path(name)
        head = train_head(folder)
        for n_images in (FEW, MANY):
            write_images(folder / str(n_images), n_images)
        runs = [(predicted(folder, head, FEW), predicted(folder, head, MANY)) for _ in range(PAIRS)]
    slopes = [(many["peak_mib"] - few["peak_mib"]) * 1024 / (MANY - FEW) for few, many in runs]
    parts = [
        Part(f"{n_images:,} images: {what}", statistics.median(run[key] for run in alike))
        for n_images, alike in zip((FEW, MANY), zip(*runs, strict=True), strict=True)
        for what, key in (("peak, MiB", "peak_mib"), ("seconds", "seconds_s"))
    ]
    return (measured(CLAIM, slopes, parts, 2),)


def write_images(folder: Path, n_images: int) -> None:
    """Write small PNG files, no two alike.

    Args:
        folder: Made.
        n_images: How many.
    """
    from PIL import Image

    folder.mkdir(parents=True)
    rng = np.random.default_rng(n_images)
    for number in range(n_images):
        pixels = rng.integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"tile_{number:06d}.png", compress_level=1)


def train_head(folder: Path) -> Path:
    """Train a head on made-up cases.

    Args:
        folder: Takes the tiles and the head.

    Returns:
        The head's folder.
    """
    from PIL import Image

    import histotune as ht

    rng, lines = np.random.default_rng(0), ["path,label,group"]
    (folder / "train").mkdir()
    for number in range(N_CASES * TILES_PER_CASE):
        case = number // TILES_PER_CASE
        pixels = rng.normal(150 - 30 * (case % 2), 30, (SIDE_PX, SIDE_PX, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "train" / f"{number}.png")
        lines.append(f"{number}.png,{'ab'[case % 2]},case{case}")
    table = folder / "train" / "tiles.csv"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    fields = {"sweep.folds": 3, "view.size_px": SIZE_PX, "embedding.device": "cpu", "sweep.penalties": [0.1]}
    embedded = ht.embed("tiles", BACKBONE, data=table, cache=folder / "train-cache", set=fields)
    ht.sweep(embedded, out=folder / "head", set=fields)
    return folder / "head"


def predicted(folder: Path, head: Path, n_images: int) -> dict[str, float]:
    """Predict one folder in a process of its own, into an empty cache.

    Args:
        folder: Holds the images in a folder named after their number.
        head: The head.
        n_images: How many.

    Returns:
        Images, the largest resident set in MiB, seconds.
    """
    with tempfile.TemporaryDirectory(prefix="cache-", dir=folder) as cache:
        table = str(Path(cache) / "p.parquet")
        command = [sys.executable, "-c", CHILD, str(head), str(folder / str(n_images)), table, cache]
        environment = child_environment(Path(cache), 2)
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    assert found["n_images"] == n_images
    return found
