"""``python -m benchmarks.coverage.robustness``: how often the robustness index's interval holds the truth.

Groups hold one class and one site each; embeddings are normal, with an effect of the class, of the site and of the
group. The truth of a setting is the mean index over its repeats: with k fixed the index depends on how many tiles there
are, so there is no other one.
"""

# G groups, N tiles, R repeats

from __future__ import annotations

import argparse
import csv
import io
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from histotune.evaluation.robustness import Square, tally_interval, tally_square
from histotune.statistics.bounds import Strata
from histotune.tools.devices import one_blas_thread
from histotune.tools.files import write_text

RESULTS = Path(__file__).parents[1] / "results" / "robustness_coverage.csv"
K, DIM, TILES_PER_GROUP, LEVEL = 11, 16, 8, 0.95
N_GROUPS = (12, 20, 40, 80)
EFFECTS = ((1.0, 1.0), (1.5, 0.5), (0.5, 1.5), (2.5, 0.5))  # of class and site
GROUP_SDS = (0.3, 1.0)


@dataclass(frozen=True)
class Setting:
    """One cell of the study."""

    n_groups: int
    class_effect: float
    site_effect: float
    group_sd: float


def main() -> None:
    """Simulate every setting and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage.robustness", description=__doc__)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    settings = [Setting(n, *effects, sd) for n, effects, sd in product(N_GROUPS, EFFECTS, GROUP_SDS)]
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow([*vars(settings[0]), "repeats", "truth", "sd", "coverage", "truth_below", "mean_width"])
    for number, setting in enumerate(settings):
        found = judge(setting, options.repeats, np.random.default_rng([options.seed, number]))
        table.writerow([*vars(setting).values(), options.repeats, *(f"{value:.4f}" for value in found)])
        print(setting, *(f"{value:.3f}" for value in found), flush=True)
    write_text(RESULTS, stream.getvalue())


def judge(setting: Setting, repeats: int, rng: np.random.Generator) -> tuple[float, ...]:
    """Return truth, SD of the index, coverage, share of truths below the interval, and mean width."""
    with one_blas_thread():
        value_R, low_R, high_R = np.array([repeat(setting, rng) for _ in range(repeats)]).T
    truth = value_R.mean()
    below_R, above_R = truth < low_R, truth > high_R
    return truth, value_R.std(ddof=1), 1.0 - (below_R | above_R).mean(), below_R.mean(), (high_R - low_R).mean()


def repeat(setting: Setting, rng: np.random.Generator) -> tuple[float, float, float]:
    """Draw one data set; return its index with its interval."""
    group_N = np.repeat(np.arange(setting.n_groups), TILES_PER_GROUP)
    class_N, site_N = group_N % 2, group_N // 2 % 2
    x_ND = rng.normal(size=(len(group_N), DIM)) + setting.group_sd * rng.normal(size=(setting.n_groups, DIM))[group_N]
    x_ND[:, 0] += setting.class_effect * (2 * class_N - 1)
    x_ND[:, 1] += setting.site_effect * (2 * site_N - 1)
    tally = tally_square(Square(x_ND.astype(np.float32), class_N, site_N, group_N), K, setting.n_groups)
    kind_G = np.arange(setting.n_groups) % 4
    holds_G4 = np.stack([kind_G % 2 == 0, kind_G % 2 == 1, kind_G < 2, kind_G >= 2], axis=1)
    interval = tally_interval(tally, Strata(kind_G, holds_G4), LEVEL, "")
    return tally.index, interval.low, interval.high


if __name__ == "__main__":
    main()
