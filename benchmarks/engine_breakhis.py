"""How near embedding large PNG files comes to the slower of its halves, decoding and the network, on shared cores."""

from __future__ import annotations

import shutil
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.engine_pcam import BATCH, N_CORES, Pass, cold, float_batches, forward, found_backbone, load
from benchmarks.harness import (
    BOUND_REPEATS,
    Arm,
    Claim,
    Part,
    Result,
    alternate,
    cores,
    measured,
    missing_hardware,
    not_measured,
)
from benchmarks.hashing import N_TILES, rendered_tiles

if TYPE_CHECKING:
    from histotune.backbones.network import Network
    from histotune.backbones.spec import BackboneSpec
    from histotune.datasets.tileset import TileSet

CLAIM = Claim(
    "engine_breakhis",
    "embedding PNG of 700x460 with EfficientNet-Lite0 in fp32, images per second over those of its slower half (bare"
    " forward, or decoding alone), on 2 cores",
    "x",
    0.9,
    "at least",
    f"{N_TILES} rendered PNG, hashed, decoded, resized, embedded, written, verified and read back into an empty cache,"
    " without loading the network, which is timed beside it and subtracted; over the smaller of two rates: the network"
    f" with its batch norms folded and in channels-last memory called on float32 tensors, batches of {BATCH}, torch's 2"
    " threads; and decoding plus view in 2 threads, nothing else running; in turns, median and 95 % bound of 7 rounds"
    " after 1 warm-up. Both halves need the same two cores, so 1 is out of reach.",
    by_bound=True,
)


def measure() -> tuple[Result, ...]:
    """Time the pass, loading, both halves, and the network as timm builds it, in turns."""
    import torch

    from histotune.backbones.network import build_network

    lacking = missing_hardware(n_cpus=N_CORES)
    if lacking:
        return (not_measured(CLAIM, lacking),)
    with tempfile.TemporaryDirectory(prefix="histotune-engine-") as name, cores(N_CORES):
        folder = Path(name)
        tiles, spec, cache = rendered_tiles(folder), found_backbone("lite0"), folder / "cache"
        plain, folded, batches = build_network(spec), _folded(spec), float_batches(N_TILES, spec.size_px)
        channels_last = [x_BCSS.contiguous(memory_format=torch.channels_last) for x_BCSS in batches]
        arms = [
            Arm("engine", lambda: cold(tiles, Pass(spec, cache)), lambda: shutil.rmtree(cache, ignore_errors=True)),
            Arm("load", lambda: load(spec)),
            Arm("bare forward", lambda: forward(folded, channels_last)),
            Arm("decoding and view", lambda: _decode(tiles, spec)),
            Arm("bare forward as timm builds it", lambda: forward(plain, batches)),
        ]
        seconds = alternate(arms, repeats=BOUND_REPEATS)
    engine = [whole - loading for whole, loading in zip(seconds["engine"], seconds.pop("load"), strict=True)]
    slower = [max(pair) for pair in zip(seconds["bare forward"], seconds["decoding and view"], strict=True)]
    shares = [limit / ours for limit, ours in zip(slower, engine, strict=True)]
    rates = {arm: N_TILES / statistics.median(values) for arm, values in {**seconds, "engine": engine}.items()}
    one_core_s = 1 / rates["bare forward"] + 1 / rates["decoding and view"]
    parts = [*(Part(f"{arm}, images/s", rate) for arm, rate in rates.items()),
             Part("both halves one after the other, images/s", 1 / one_core_s)]  # fmt: skip
    return (measured(CLAIM, shares, parts, N_CORES),)


def _folded(spec: BackboneSpec) -> Network:
    """Return the network as the engine runs it."""
    import torch

    from histotune.backbones.engine import fuse_batch_norms
    from histotune.backbones.network import build_network

    network = build_network(spec)
    fuse_batch_norms(network.module)
    network.module.to(memory_format=torch.channels_last)
    return network


def _decode(tiles: TileSet, spec: BackboneSpec) -> None:
    """Read, decode and resize every tile in as many threads as there are cores."""
    from histotune.backbones.catalog import documented_view
    from histotune.images.decode import PixelReader, tile_sources
    from histotune.images.views import view_inputs

    view = documented_view(spec)
    with PixelReader() as reader, ThreadPoolExecutor(N_CORES) as pool:
        for inputs in pool.map(lambda source: view_inputs(reader.pixels(source), view), tile_sources(tiles)):
            assert len(inputs) == 1
