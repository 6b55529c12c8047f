"""The demo from nothing: what a newcomer waits for after the install, stage by stage."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

from benchmarks.harness import (
    Arm,
    Claim,
    Part,
    Result,
    alternate,
    child_environment,
    cores,
    histotune_program,
    measured,
    missing_hardware,
    not_measured,
)

N_CORES = 2
CLAIM = Claim(
    "demo",
    "cold demo, from start to report, on 2 cores",
    "s",
    180.0,
    "at most",
    "Wall time of `histotune demo` with an empty cache, held to 2 cores, median of 5 after 1 warm-up;"
    " parts are the medians of the stages in the run's provenance.json.",
)


def measure() -> tuple[Result, ...]:
    """Run the demo from an empty cache, again and again."""
    lacking = missing_hardware(n_cpus=N_CORES)
    if lacking:
        return (not_measured(CLAIM, lacking),)
    stages: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="histotune-demo-") as name, cores(N_CORES):
        folder = Path(name)

        def run() -> None:
            run_demo(folder)
            stages.append(stage_seconds(folder))

        samples = alternate([Arm("demo", run, prepare=lambda: empty(folder))])["demo"]
    return (measured(CLAIM, samples, medians(stages[-len(samples) :]), N_CORES),)


def run_demo(folder: Path) -> None:
    """Run the demo with its output, cache and user folders below ``folder``."""
    command = [histotune_program(), "demo", "--out", str(folder / "run"), "--cache", str(folder / "cache")]
    environment = child_environment(folder, N_CORES)
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)


def empty(folder: Path) -> None:
    """Remove everything a demo leaves."""
    for path in folder.iterdir():
        shutil.rmtree(path)


def stage_seconds(folder: Path) -> dict[str, float]:
    """Return the stages of the finished demo from its provenance."""
    path = next((folder / "run").rglob("provenance.json"))
    stages = json.loads(path.read_text(encoding="utf-8"))["stages"]
    return {stage["name"]: float(stage["seconds_s"]) for stage in stages}


def medians(runs: list[dict[str, float]]) -> list[Part]:
    """Return each stage's median over the runs, in the order of the stages."""
    return [Part(name, statistics.median(run[name] for run in runs if name in run)) for name in runs[0]]
