"""What it costs to know every tile by its content: hashing as a share of the embedding pass it belongs to."""

from __future__ import annotations

import shutil
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import Arm, Claim, Part, Result, alternate, cores, measured, missing_hardware, not_measured

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histotune.datasets.tileset import TileSet
    from histotune.embeddings.space import Embeddings

N_CORES, N_TILES = 2, 240
CLAIM = Claim(
    "hashing",
    "content hashing, share of a cold embedding pass over 240 PNG of 700x460 with EfficientNet-Lite0, on 2 cores",
    "%",
    5.0,
    "at most",
    "Reading and hashing all files once (the index) and hashing their bytes once more (as the loader does), over the"
    " time of the whole embedding pass, which does both; rendered tissue, files in the page cache; in turns, median of"
    " 5 after 1 warm-up.",
)


def measure() -> tuple[Result, ...]:
    """Time the pass and its hashing in turns."""
    lacking = missing_hardware(n_cpus=N_CORES)
    if lacking:
        return (not_measured(CLAIM, lacking),)
    with tempfile.TemporaryDirectory(prefix="histotune-hashing-") as name, cores(N_CORES):
        folder = Path(name)
        tiles = rendered_tiles(folder)
        paths = [Path(path) for path in tiles.table["path"]]
        cache = folder / "cache"
        seconds = alternate(
            [
                Arm("embed", lambda: cold_pass(tiles, cache), prepare=lambda: shutil.rmtree(cache, ignore_errors=True)),
                Arm("hash", lambda: _hash(paths)),
            ]
        )
    shares = [100.0 * ours / whole for ours, whole in zip(seconds["hash"], seconds["embed"], strict=True)]
    parts = [Part(f"{arm}, s", statistics.median(values)) for arm, values in seconds.items()]
    return (measured(CLAIM, shares, parts, N_CORES),)


def rendered_tiles(folder: Path) -> TileSet:
    """Render tissue in BreakHis's layout and read it.

    Args:
        folder: Takes the rendered cohort.

    Returns:
        240 tiles of 700 x 460 px.
    """
    from histotune.datasets.config import DatasetConfig
    from histotune.datasets.read import read_dataset
    from histotune.datasets.synthetic.cohort import SyntheticConfig
    from histotune.datasets.synthetic.cohort_folder import write_cohort

    written = write_cohort(SyntheticConfig(n_tiles_breakhis=N_TILES, n_tiles_pcam=30), folder / "cohort")
    return read_dataset(DatasetConfig(name="breakhis", path=written.breakhis))


def cold_pass(tiles: TileSet, cache: Path) -> Embeddings:
    """Embed every tile with the default backbone into an empty cache.

    Args:
        tiles: What is embedded.
        cache: Empty, or not there.

    Returns:
        The embeddings.
    """
    from histotune.backbones.catalog import documented_view, find_backbone
    from histotune.backbones.entries import BackboneConfig
    from histotune.embeddings.embed import embed
    from histotune.embeddings.space import EmbeddingConfig, EmbedRequest
    from histotune.images.config import LoaderConfig

    spec = find_backbone(BackboneConfig(), cache)
    request = EmbedRequest(spec, documented_view(spec), EmbeddingConfig(threads=N_CORES), LoaderConfig(), cache)
    embeddings = embed(tiles, request)
    if embeddings.n_computed != len(tiles):
        raise RuntimeError("the pass was not cold")
    return embeddings


def _hash(paths: Sequence[Path]) -> None:
    """Do what the pass does beyond embedding: the index hashes files, the loader the bytes it has read."""
    from histotune.images.decode import content_hash
    from histotune.images.hashes import HashIndex

    HashIndex(None).files(paths)
    for path in paths:
        content_hash(path.read_bytes())
