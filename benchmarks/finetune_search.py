"""A whole search of a fine-tuning on the kept output of frozen blocks: 20 trials of 10 epochs, by Optuna, from tiles.

Everything that a search does is in it: the frozen blocks of every tile once, a network of its own per trial, training,
and scoring after every epoch. Trials of the arm without kept output are alike, so two of them stand for twenty.
"""

# N tiles, B batch, S side of the input

from __future__ import annotations

import logging
import os
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.finetune_loop import vit_small
from benchmarks.harness import (
    Arm,
    Claim,
    Part,
    Result,
    alternate,
    cores,
    measured,
    missing_hardware,
    not_measured,
    ratios,
)

if TYPE_CHECKING:
    from histotune.datasets.tileset import TileSet
    from histotune.finetune.candidates import Candidates
    from histotune.finetune.workbench import TunedTiles, TuningBench

N_THREADS, N_TILES, BATCH, SIDE_PX = 1, 12, 8, 112
N_TRIALS, N_EPOCHS, N_PLAIN = 20, 10, 2
OLD_NS = 1_000_000_000_000_000_000  # 2001: settled, so that content hashes are remembered
SEARCH = Claim(
    "finetune_search", f"a search of {N_TRIALS} trials x {N_EPOCHS} epochs on kept output of frozen blocks, share of "
    "the speed-up that counted operations allow", "x", 0.9, "at least",
    "ViT-S/16 at 112 px, random weights, fp32, one thread, the last of 12 blocks trained, 12 tiles of 6 groups, two of "
    "which judge after every epoch; everything a search does from tiles on disk, the frozen blocks of all tiles too. "
    f"The arm without kept output runs {N_PLAIN} trials, taken {N_TRIALS // N_PLAIN} times. The allowed ratio is that "
    "of torch's FlopCounterMode over training, scoring and frozen blocks. Seconds of the processor, so that other work "
    "on the machine counts little; in turns, median of 5 after 1 warm-up.",
)  # fmt: skip


def measure() -> tuple[Result, ...]:
    """Time the claim."""
    lacking = missing_hardware(n_cpus=N_THREADS)
    if lacking:
        return (not_measured(SEARCH, lacking),)
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(N_THREADS)
    logging.getLogger("histotune").setLevel(logging.WARNING)
    try:
        with cores(N_THREADS), tempfile.TemporaryDirectory() as folder:
            tiles = random_tiles(Path(folder) / "tiles")
            kept, plain = (Searched(tiles, Path(folder), kept=kept) for kept in (True, False))
            seconds = alternate(
                [Arm("plain", plain.run, plain.prepare), Arm("kept", kept.run, kept.prepare)], clock=time.process_time
            )
            allowed = allowed_ratio(kept, plain)
    finally:
        torch.set_num_threads(threads)
    scaled = {**seconds, "plain": tuple(one * N_TRIALS / N_PLAIN for one in seconds["plain"])}
    shares = tuple(one / allowed for one in ratios(scaled, "plain", "kept"))
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    parts = [
        Part("allowed by operations, x", allowed),
        Part("on kept output, s", float(np.median(seconds["kept"]))),
        Part("without, s", float(np.median(scaled["plain"]))),
        Part("load of the machine at the end, processes", load),
    ]
    return (measured(SEARCH, shares, parts, N_THREADS),)


@dataclass
class Searched:
    """One way to search; every round starts without kept output and without a study.

    Attributes:
        tiles: The tiles.
        folder: Takes a cache per round.
        kept: Whether the output of frozen blocks is kept.
    """

    tiles: TileSet
    folder: Path
    kept: bool
    n_rounds: int = 0
    candidates: Candidates | None = None

    def prepare(self) -> None:
        """Embed the tiles and find the probes of a new round: what a search begins with."""
        from histotune.finetune.candidates import Candidates, StatePlace
        from histotune.finetune.tuning import TuningRequest, find_probes, tuning_parts
        from histotune.heads.config import SweepConfig

        self.n_rounds += 1
        bench = bench_of(self.tiles, self.folder / f"{self.kept}-{self.n_rounds}", kept=self.kept)
        all_N = np.ones(len(self.tiles), dtype=bool)
        parts, _ = tuning_parts(bench, all_N)
        request = TuningRequest(SweepConfig(penalties=(1.0,), poolings=(("cls",),), folds=2, honesty="none"))
        probes, _ = find_probes(bench, [part.train_N for part in parts], request)
        self.candidates = Candidates(bench, parts, probes, StatePlace(None, "all"))

    def run(self) -> None:
        """Search."""
        from histotune.finetune.tuning import try_candidates

        assert self.candidates is not None
        trials = try_candidates(self.candidates)
        if len(trials) != (N_TRIALS if self.kept else N_PLAIN):
            raise RuntimeError(f"{len(trials)} trials came to an end")


def random_tiles(folder: Path) -> TileSet:
    """Write noise tiles, darker by class, two per group."""
    from PIL import Image

    from histotune.datasets.tileset import TileSet, tile_table

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    paths, labels = [], [number // 2 % 2 for number in range(N_TILES)]
    for number, label in enumerate(labels):
        path = folder / f"{number:03d}.png"
        pixels_SSC = rng.normal(160 - 20 * label, 40, (SIDE_PX, SIDE_PX, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels_SSC).save(path)
        os.utime(path, ns=(OLD_NS, OLD_NS))
        paths.append(str(path))
    table = tile_table({
        "tile_id": [Path(path).name for path in paths], "path": paths, "label": labels,
        "group_id": [f"case {number // 2:02d}" for number in range(N_TILES)],
    })  # fmt: skip
    return TileSet("noise", table, ("a", "b"), "", "")


def bench_of(tiles: TileSet, cache: Path, *, kept: bool) -> TuningBench:
    """Return the network and the tiles, embedded; nothing is varied, so that there is one view."""
    from histotune.finetune.config import FinetuneConfig
    from histotune.finetune.workbench import TuningBench

    config = FinetuneConfig.model_validate({
        "loop": {"epochs": N_EPOCHS, "batch_size": BATCH, "precision": "fp32", "sampling": "tiles"},
        "augment": {"dihedral": False, "stain": 0.0}, "inner": "hold-out",
        "prefix": {"storage": "fp32" if kept else "off"},
        "search": {"n_trials": N_TRIALS if kept else N_PLAIN, "prune_after": None},
    })  # fmt: skip
    return TuningBench(embedded(tiles, cache), config)


def embedded(tiles: TileSet, cache: Path) -> TunedTiles:
    """Return the tiles as the frozen backbone sees them."""
    from histotune.embeddings.embed import embed
    from histotune.embeddings.space import EmbeddingConfig, EmbedRequest
    from histotune.finetune.workbench import TunedTiles
    from histotune.images.config import LoaderConfig, ViewConfig

    spec, view, loader = replace(vit_small(), size_px=SIDE_PX), ViewConfig(size_px=SIDE_PX), LoaderConfig()
    config = EmbeddingConfig(device="cpu", precision="fp32", batch_size=BATCH)
    return TunedTiles(tiles, embed(tiles, EmbedRequest(spec, view, config, loader, cache)), spec, view, loader, cache)


# ---- Operations ----


def allowed_ratio(kept: Searched, plain: Searched) -> float:
    """Return the operations of the search without kept output over those of the search with it."""
    prefix, on_tokens = operations(kept)
    _, on_pixels = operations(plain)
    return N_TRIALS * on_pixels / (prefix + N_TRIALS * on_tokens)


def operations(one: Searched) -> tuple[int, int]:
    """Return the operations of the frozen blocks for all tiles, and those of a trial: its training and its scoring."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    assert one.candidates is not None
    bench, part = one.candidates.bench, one.candidates.parts[0]
    start = bench.start(one.candidates.probes[0].head)
    rows = np.flatnonzero(part.train_N)[:BATCH]
    x = start.inputs.tensor(rows, 0)
    with FlopCounterMode(display=False) as stepped:
        torch.nn.functional.cross_entropy(start.model(x), torch.zeros(len(x), dtype=torch.int64)).backward()  # type: ignore[no-untyped-call]
    with FlopCounterMode(display=False) as scored, torch.no_grad():
        start.model(x)
    step, score = stepped.get_total_flops() / BATCH, scored.get_total_flops() / BATCH
    trial = N_EPOCHS * int(part.train_N.sum()) * step + (N_EPOCHS + 1) * len(part.rows) * score
    frozen = 0.0
    if one.kept:
        from histotune.finetune.cut import Prefix

        names = bench.sections.names
        with FlopCounterMode(display=False) as counter:
            Prefix(bench.base, names[-1])(bench.pixels.tensor(rows, 0))
        frozen = N_TILES * counter.get_total_flops() / BATCH
    return round(frozen), round(trial)
