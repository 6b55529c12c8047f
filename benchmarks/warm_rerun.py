"""The demo a second time: nothing is embedded twice, so it answers in seconds."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.demo import N_CORES, medians, run_demo, stage_seconds
from benchmarks.harness import Arm, Claim, Result, alternate, cores, measured, missing_hardware, not_measured

CLAIM = Claim(
    "warm_rerun",
    "second demo over the same cache, on 2 cores",
    "s",
    5.0,
    "at most",
    "One cold demo fills the cache; then wall time of the same command, held to 2 cores, median of 7 after 1 warm-up.",
)


def measure() -> tuple[Result, ...]:
    """Fill the cache once, then repeat the demo over it."""
    lacking = missing_hardware(n_cpus=N_CORES)
    if lacking:
        return (not_measured(CLAIM, lacking),)
    stages: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="histotune-warm-") as name, cores(N_CORES):
        folder = Path(name)
        run_demo(folder)

        def rerun() -> None:
            run_demo(folder)
            stages.append(stage_seconds(folder))

        samples = alternate([Arm("warm rerun", rerun)], repeats=7)["warm rerun"]
    return (measured(CLAIM, samples, medians(stages[-len(samples) :]), N_CORES),)
