"""What the frozen defaults of the synthetic cohort promise, over ten seeds with the default backbone."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING

import numpy as np
import pytest

from histotune.datasets.config import DatasetConfig
from histotune.datasets.synthetic.cohort import SyntheticConfig
from histotune.evaluation.config import EvaluationConfig
from histotune.statistics.predictions import IntervalConfig
from histotune.studies.config import ExperimentConfig
from histotune.studies.experiment import run_experiment
from histotune.tools.marks import COLOUR_HISTOGRAM, PROBE, RANDOM_SPLIT, RANDOM_WEIGHTS
from histotune.tools.provenance import cpu_count

if TYPE_CHECKING:
    from pathlib import Path

    from histotune.evaluation.findings import FindingId, Findings

TRAIN, EXTREME = "200X", "40X"
N_SEEDS = 10


@dataclass(frozen=True)
class Measured:
    """AUROCs of one seed."""

    grouped: float
    random_split: float
    at_40x: float
    at_100x: float
    at_400x: float
    random_weights: float
    colour_histogram: float
    transfer: float
    direct: float
    null_grouped: float
    null_random_split: float


def auroc(findings: Findings, finding: FindingId, arm: str, domain: str) -> float:
    table = findings.finding(finding)
    assert table is not None
    row = table.row(arm, domain)
    assert row is not None, [(row.arm, row.domain) for row in table.rows]
    score = row.score("auroc")
    assert score is not None
    return score.value


def run(cohort: SyntheticConfig, folder: Path, name: str) -> Findings:
    """Run the demo's experiment on one cohort; null labels need neither floors nor the second data set."""
    floors = () if cohort.null_labels else ("random-weights", "colour-histogram")
    written = folder / f"{name}-cohort"
    config = ExperimentConfig(
        recipe="synthetic-statistics",
        cohort=cohort,
        cohort_path=written,
        source=DatasetConfig(name="breakhis", path=written / "breakhis"),
        target=None if cohort.null_labels else DatasetConfig(name="patch_camelyon", path=written / "pcam"),
        evaluation=EvaluationConfig(train_magnification=TRAIN, floors=floors, final=True),
        interval=IntervalConfig(n_resamples=100),
        out=folder / f"{name}-run",
        cache=folder / "cache",
        ledger=folder / "ledger",
    )
    return run_experiment(config, "pytest").inputs.findings


def measure(seed: int, folder: Path) -> Measured:
    real = run(SyntheticConfig(seed=seed), folder, "real")
    null = run(SyntheticConfig(seed=seed, null_labels=True, n_tiles_pcam=30), folder, "null")
    here = f"breakhis {TRAIN}"
    across = {name: auroc(real, "cross-magnification", PROBE, f"breakhis {name}") for name in ("40X", "100X", "400X")}
    return Measured(
        grouped=auroc(real, "in-domain", PROBE, here),
        random_split=auroc(real, "leak-price", RANDOM_SPLIT, here),
        at_40x=across["40X"],
        at_100x=across["100X"],
        at_400x=across["400X"],
        random_weights=auroc(real, "in-domain", RANDOM_WEIGHTS, here),
        colour_histogram=auroc(real, "in-domain", COLOUR_HISTOGRAM, here),
        transfer=auroc(real, "external", PROBE, "patch_camelyon test"),
        direct=auroc(real, "direct", PROBE, "patch_camelyon test"),
        null_grouped=auroc(null, "in-domain", PROBE, here),
        null_random_split=auroc(null, "leak-price", RANDOM_SPLIT, here),
    )


@pytest.mark.slow
@pytest.mark.long
def test_ten_seeds_keep_the_promises(tmp_path_factory: pytest.TempPathFactory) -> None:
    folders = [tmp_path_factory.mktemp(f"seed{seed}") for seed in range(N_SEEDS)]
    with ProcessPoolExecutor(cpu_count(), get_context("spawn")) as pool:
        seeds = list(pool.map(measure, range(N_SEEDS), folders))
    mean = Measured(*(float(np.mean([getattr(one, name) for one in seeds])) for name in Measured.__dataclass_fields__))
    assert 0.75 <= mean.grouped <= 0.92
    assert mean.random_split - mean.grouped >= 0.08
    assert mean.grouped - mean.at_40x >= 0.10
    assert mean.grouped - mean.random_weights >= 0.05
    assert mean.colour_histogram <= 0.65
    assert 0.45 <= mean.null_grouped <= 0.55
    assert mean.null_random_split >= 0.80
    assert 0.80 <= mean.direct <= 0.97
    assert 0.60 <= mean.transfer <= mean.direct - 0.10
