"""``python -m benchmarks.coverage.paired run`` simulates how often the test of a difference rejects, and its power.

Two heads score the same tiles of the study's cohorts; half of the variance of a group's effect is shared by the two.
Under the null they are exchangeable; for the power the first head's classes lie further apart. A third comparison is
with a constant arm of known value: under its null the head's scores do not know the class. A setting that was finished
is never run again; ``write`` makes the table of results.
"""

# N tiles, G groups, R repeats

from __future__ import annotations

import argparse
import csv
import io
import json
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl

from benchmarks.coverage.cohort import SHAPE, CellSpec, head_logit, simulate
from benchmarks.coverage.judge import LEAST_GROUPS
from histotune.statistics.bounds import metric_scale
from histotune.statistics.evaluators import make_evaluator
from histotune.statistics.intervals import PointEstimate, make_intervals, resampling_units
from histotune.statistics.predictions import IntervalConfig
from histotune.statistics.sample import Sample
from histotune.statistics.scores import point_value
from histotune.statistics.swaps import draw_swaps, permute
from histotune.tools.files import write_json, write_text

if TYPE_CHECKING:
    from histotune.statistics.metrics import MetricName

RESULTS = Path(__file__).parents[1] / "results" / "paired_tests.csv"
FIELDS = ("test", "metric", "world", "design", "n_groups", "repeats", "rejected", "low", "high", "power", "seconds")
GROUPS = (20, 50, 100)
METRICS: tuple[MetricName, ...] = ("auroc", "balanced_accuracy", "log_loss")
AUROC, ICC, ALPHA, FURTHER = 0.9, 0.5, 0.05, 0.5
CONFIG = IntervalConfig()


@dataclass(frozen=True)
class Setting:
    """One cell: two arms (``swaps``) or one against a constant (``known``)."""

    test: Literal["swaps", "known"]
    metric: MetricName
    spec: CellSpec

    @property
    def name(self) -> str:
        """File name of its results."""
        return f"{self.test}-{self.metric}-{self.spec.name}"


def all_settings() -> tuple[Setting, ...]:
    """Return every setting, small ones first."""
    worlds = (("plain", "one-class"), ("rough", "one-class"), ("rough", "both"))
    return tuple(
        Setting(test, metric, CellSpec(world, design, n_groups, AUROC, ICC))  # type: ignore[arg-type]
        for n_groups, (world, design) in product(GROUPS, worlds)
        for test, metrics in (("swaps", METRICS), ("known", ("auroc", "balanced_accuracy")))
        for metric in metrics
    )


def draw(setting: Setting, rng: np.random.Generator, *, null: bool) -> tuple[Sample, Sample] | None:
    """Draw one cohort as two heads see it; None where a class has fewer groups than an interval needs."""
    spec = setting.spec
    one = simulate(spec, 1, rng)
    rough, mu = spec.world == "rough", spec.separation
    # Of the variance within a class, half of the group's share belongs to both heads, and the noise to each its own.
    shared_G = rng.standard_normal(spec.n_groups)
    if rough:
        shared_G = (rng.standard_gamma(SHAPE, spec.n_groups) - SHAPE) / np.sqrt(SHAPE)
    samples = []
    for number in range(2):
        own_G = rng.standard_normal(spec.n_groups)
        noise_N = rng.standard_t(4, len(one.y_N)) / np.sqrt(2.0) if rough else rng.standard_normal(len(one.y_N))
        effect_G = np.sqrt(0.5 * ICC) * (shared_G + own_G)
        further = 0.0 if null or number else FURTHER
        distance = mu * (1.0 + further) if setting.test == "swaps" else (0.0 if null else 0.5 * mu)
        x_N = distance * one.y_N + effect_G[one.group_N] + np.sqrt(1.0 - ICC) * noise_N
        x_N += 0.0 if setting.test == "swaps" else 0.5 * mu
        samples.append(_sample(spec, one.y_N, one.group_N, x_N))
    holds_2 = [len(np.unique(one.group_N[one.y_N == label])) for label in (0, 1)]
    return (samples[0], samples[1]) if min(holds_2) >= LEAST_GROUPS else None


def _sample(spec: CellSpec, y_N: np.ndarray, group_N: np.ndarray, x_N: np.ndarray) -> Sample:
    margin_N = head_logit(spec, x_N)
    p_N = 1.0 / (1.0 + np.exp(-margin_N))
    return Sample(
        y_N, np.stack([1.0 - p_N, p_N], axis=1), np.stack([np.zeros(len(x_N)), margin_N], axis=1),
        (p_N >= 0.5).astype(np.int64), np.zeros(len(y_N), np.int64), None, group_N, ("negative", "positive"),
        np.arange(len(y_N)), pl.Series("tile_id", np.arange(len(y_N))),
    )  # fmt: skip


def rejects(setting: Setting, arms: tuple[Sample, Sample], n_swaps: int, rng: np.random.Generator) -> bool:
    """Test one cohort."""
    units, metric = resampling_units(arms[0], CONFIG), setting.metric
    if setting.test == "swaps":
        swaps = draw_swaps(np.ones(units.n_units, bool), n_swaps, rng)
        return permute(metric, arms, units, swaps).p_value <= ALPHA
    evaluator = make_evaluator(metric, arms[0], units.unit_N, units.n_units, within_folds=False)
    estimate = PointEstimate(metric, evaluator, point_value(evaluator, units), metric_scale(metric))
    interval = make_intervals([estimate], units)[0][0]  # p of the known value is this interval's own
    return interval is not None and not interval.low <= 0.5 <= interval.high


def rate(setting: Setting, repeats: int, n_swaps: int, seed: int, *, null: bool) -> float:
    """Return the share of cohorts in which the test rejects."""
    rng = np.random.default_rng([seed, null, *setting.name.encode()])
    n_rejected = n_drawn = 0
    while n_drawn < repeats:
        arms = draw(setting, rng, null=null)
        if arms is not None:
            n_drawn += 1
            n_rejected += rejects(setting, arms, n_swaps, rng)
    return n_rejected / repeats


def run(setting: Setting, options: argparse.Namespace) -> None:
    """Simulate one setting unless it is there already."""
    path = options.cells / f"{setting.name}.json"
    if path.exists():
        return
    start = time.perf_counter()
    rejected = rate(setting, options.repeats, options.swaps, options.seed, null=True)
    power = rate(setting, options.repeats // 8, options.swaps, options.seed, null=False)
    reach = 1.96 * np.sqrt(rejected * (1.0 - rejected) / options.repeats)
    spec, seconds = setting.spec, round(time.perf_counter() - start, 1)
    row = dict(zip(FIELDS, (
        setting.test, setting.metric, spec.world, spec.design, spec.n_groups, options.repeats, round(rejected, 4),
        round(float(rejected - reach), 4), round(float(rejected + reach), 4), round(power, 4), seconds,
    ), strict=True))  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, row)
    print(row, flush=True)


def main() -> None:
    """Run or write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage.paired", description=__doc__)
    parser.add_argument("command", choices=["run", "write"])
    parser.add_argument("--repeats", type=int, default=4000, help="of the null; an eighth of it for the power")
    parser.add_argument("--swaps", type=int, default=399)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--groups", nargs="+", type=int, choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--cells", type=Path, required=True, help="folder of finished settings")
    options = parser.parse_args()
    settings = [setting for setting in all_settings() if setting.spec.n_groups in options.groups]
    if options.command == "run":
        for setting in settings:
            run(setting, options)
        return
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
    writer.writeheader()
    paths = [options.cells / f"{setting.name}.json" for setting in settings]
    writer.writerows(json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists())
    write_text(RESULTS, out.getvalue())


if __name__ == "__main__":
    main()
