"""``histotune embed`` a second time: every embedding is there, so only looking them up is left."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from benchmarks.harness import (
    Arm,
    Claim,
    Result,
    alternate,
    child_environment,
    cores,
    histotune_program,
    measured,
    missing_hardware,
    not_measured,
)

N_CORES, N_TILES = 2, 960
CLAIM = Claim(
    "warm_embed",
    "second `histotune embed` over 960 PNG of 700x460 with EfficientNet-Lite0, on 2 cores",
    "s",
    2.0,
    "at most",
    "One cold pass fills the cache; then wall time of the same command, interpreter and imports included, held to 2"
    " cores; rendered tissue, files in the page cache; median of 7 after 1 warm-up.",
)


def measure() -> tuple[Result, ...]:
    """Fill the cache once, then run the command over it."""
    lacking = missing_hardware(n_cpus=N_CORES)
    if lacking:
        return (not_measured(CLAIM, lacking),)
    with tempfile.TemporaryDirectory(prefix="histotune-warm-embed-") as name, cores(N_CORES):
        folder = Path(name)
        data = _rendered(folder)
        _embed(folder, data)
        samples = alternate([Arm("warm embed", lambda: _embed(folder, data, warm=True))], repeats=7)["warm embed"]
    return (measured(CLAIM, samples, threads=N_CORES),)


def _rendered(folder: Path) -> Path:
    """Render tissue in BreakHis's layout."""
    from histotune.datasets.synthetic.cohort import SyntheticConfig
    from histotune.datasets.synthetic.cohort_folder import write_cohort

    return write_cohort(SyntheticConfig(n_tiles_breakhis=N_TILES, n_tiles_pcam=30), folder / "cohort").breakhis


def _embed(folder: Path, data: Path, *, warm: bool = False) -> None:
    command = [histotune_program(), "embed", "breakhis", "--data", str(data), "--cache", str(folder / "cache")]
    environment = child_environment(folder, N_CORES)
    done = subprocess.run(
        command, check=True, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if warm and "no forward pass was needed" not in done.stdout:
        raise RuntimeError("the command was not warm")
