"""``python -m benchmarks.coverage.bands run`` simulates how often a band holds the true curve at a place.

The cohorts are the study's; the true curves follow from the density of the scores. A setting that was finished is never
run again.
"""

# M places, R repeats

from __future__ import annotations

import argparse
import csv
import io
import json
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.coverage.cohort import CellSpec, all_cells, class_masses, simulate
from benchmarks.coverage.judge import BLOCK, LEAST_GROUPS, LEVEL, Tally
from histotune.statistics import bounds
from histotune.statistics.curves import Places, Thresholds, place_bounds, rising_limits
from histotune.statistics.sample import class_signatures, draw_counts
from histotune.tools.files import write_json, write_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from benchmarks.coverage.cohort import Cohorts
    from histotune.statistics.bounds import Method

    Float = NDArray[np.float64]
    Row = dict[str, str | float | int]

RESULTS = Path(__file__).parents[1] / "results" / "band_coverage.csv"
TABLE = Path(__file__).parents[2] / "src" / "histotune" / "statistics" / "band_coverage.csv"
PAGE = Path(__file__).parents[2] / "docs" / "intervals.md"
BEGIN, END = "<!-- begin: written by python -m benchmarks.coverage.bands write -->", "<!-- end of bands -->"
DRAWN: Method = "resampled-t"
"""What the package draws."""
GROUPS = (10, 20, 50, 200)
PLACES = Places(np.linspace(0.0, 1.0, 41), np.array([0.25, 0.5, 0.75]))
"""Limits of a ROC curve rise over all its places, so that more are read than judged."""
JUDGED = {("roc", 0.05): 2, ("roc", 0.1): 4, ("roc", 0.2): 8, ("roc", 0.5): 20, ("precision-recall", 0.25): 41,
          ("precision-recall", 0.5): 42, ("precision-recall", 0.75): 43}  # fmt: skip
CANDIDATES: tuple[Method, ...] = ("percentile", "jackknife-t", "resampled-t")
FIELDS = (
    "curve", "place", "world", "design", "n_groups", "auroc", "icc", "truth", "method", "seed", "repeats", "coverage",
    "truth_below", "median_width",
)  # fmt: skip


def true_curves(spec: CellSpec) -> Float:
    """Return the true sensitivity at the false positive rates, then the true precision at the recalls."""
    _, positive_L, negative_L = class_masses(spec)
    hit_L, false_L = (np.append(np.cumsum(mass_L[::-1])[::-1], 0.0) for mass_L in (positive_L, negative_L))
    sensitivity_M = np.interp(PLACES.fpr_M, false_L[::-1], hit_L[::-1])
    recall_M, pi = PLACES.recall_M, spec.prevalence
    false_M = np.interp(recall_M, hit_L[::-1], false_L[::-1])
    return np.concatenate([sensitivity_M, pi * recall_M / (pi * recall_M + (1 - pi) * false_M)])


def judge_bands(spec: CellSpec, n_repeats: int, n_resamples: int, seed: int) -> dict[tuple[int, Method], Tally]:
    """Simulate one setting and count, by place and method.

    Args:
        spec: The setting.
        n_repeats: Cohorts.
        n_resamples: Resamples of each; the cohorts of a block share how often each group was drawn.
        seed: Seed of the study.

    Returns:
        Tallies.
    """
    rng = np.random.default_rng([seed, *spec.name.encode()])
    truth_M = true_curves(spec)
    tallies: dict[tuple[int, Method], Tally] = defaultdict(Tally)
    n_roc = len(PLACES.fpr_M)
    for start in range(0, n_repeats, BLOCK):
        n = min(BLOCK, n_repeats - start)
        cohorts = simulate(spec, n, rng)
        counts = list(draw_counts(np.zeros(spec.n_groups, np.int64), n_resamples, int(rng.integers(2**31))))
        for repeat in range(n):
            strata = _strata(cohorts, repeat, spec.n_groups)
            if strata.rarest < LEAST_GROUPS:
                continue
            evidence = _thresholds(cohorts, repeat, strata).read(PLACES, counts, without_each=True)
            for method in CANDIDATES:
                low_M, high_M = place_bounds(method, evidence, strata, LEVEL)
                low_M[:n_roc], high_M[:n_roc] = rising_limits(low_M[:n_roc], high_M[:n_roc])
                for place in JUDGED.values():
                    one = slice(place, place + 1)
                    tallies[place, method].add(low_M[one], high_M[one], float(truth_M[place]))
    return tallies


def _strata(cohorts: Cohorts, repeat: int, n_groups: int) -> bounds.Strata:
    rows = cohorts.repeat_N == repeat
    return bounds.Strata.pooled(class_signatures(cohorts.y_N[rows], cohorts.group_N[rows], n_groups, 2))


def _thresholds(cohorts: Cohorts, repeat: int, strata: bounds.Strata) -> Thresholds:
    rows = cohorts.repeat_N == repeat
    n_units = len(strata.stratum_G)
    return Thresholds.of(cohorts.y_N[rows] == 1, cohorts.x_N[rows], cohorts.group_N[rows], n_units)


def run_cell(spec: CellSpec, options: argparse.Namespace) -> None:
    """Judge one setting unless it is there already."""
    path = options.cells / f"{spec.name}.json"
    if path.exists():
        return
    start = time.perf_counter()
    tallies = judge_bands(spec, options.repeats, options.resamples, options.seed)
    truth_M, names = true_curves(spec), {place: name for name, place in JUDGED.items()}
    rows = [
        {
            "curve": names[place][0], "place": names[place][1], "world": spec.world,
            "design": spec.design, "n_groups": spec.n_groups,
            "auroc": spec.auroc, "icc": spec.icc, "truth": round(float(truth_M[place]), 4), "method": method,
            "seed": options.seed, "repeats": tally.n, "coverage": round(tally.n_held / tally.n, 4),
            "truth_below": round(tally.n_below / tally.n, 4), "median_width": round(median(tally.widths), 4),
        }
        for (place, method), tally in tallies.items()
    ]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"rows": rows, "seconds": round(time.perf_counter() - start, 1)})
    print(f"{spec.name}: {time.perf_counter() - start:.0f} s", flush=True)


def main() -> None:
    """Run or write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage.bands", description=__doc__)
    parser.add_argument("command", choices=["run", "write"])
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--groups", nargs="+", type=int, choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--cells", type=Path, required=True, help="folder of finished settings")
    options = parser.parse_args()
    cells = [spec for spec in all_cells() if spec.n_groups in options.groups and spec.world != "fixed"]
    if options.command == "run":
        for spec in cells:
            run_cell(spec, options)
        return
    found = [json.loads((options.cells / f"{spec.name}.json").read_text(encoding="utf-8")) for spec in cells]
    rows = [row for one in found for row in one["rows"]]
    write_text(RESULTS, _csv(FIELDS, rows))
    write_text(TABLE, _csv(("design", "n_groups", "least", "most"), _summary(rows)))
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    write_text(PAGE, before + BEGIN + "\n" + page_table(rows) + "\n" + END + rest.split(END)[1])


def _csv(fields: Sequence[str], rows: Sequence[Row]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _summary(rows: Sequence[Row]) -> list[Row]:
    """Return the least and the most coverage of what is drawn, by kind and number of groups."""
    by_kind: dict[tuple[str, int], list[float]] = defaultdict(list)
    for row in rows:
        if row["method"] == DRAWN:
            by_kind["one-class" if row["design"] == "one-class" else "mixed", int(row["n_groups"])].append(
                float(row["coverage"])
            )
    return [
        {"design": design, "n_groups": n_groups, "least": min(values), "most": max(values)}
        for (design, n_groups), values in sorted(by_kind.items())
    ]


def page_table(rows: Sequence[Row]) -> str:
    """Return the least coverage over the settings (in brackets the mean) by curve, place, groups and method.

    Args:
        rows: Every setting, place and method.

    Returns:
        A Markdown table.
    """
    found: dict[tuple[str, float, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        key = (str(row["curve"]), float(row["place"]), int(row["n_groups"]))
        found[key][str(row["method"])].append(100 * float(row["coverage"]))
    lines = ["| curve | at | groups | " + " | ".join(CANDIDATES) + " |", "|---" * (len(CANDIDATES) + 3) + "|"]
    for (curve, place, n_groups), values in sorted(found.items(), key=lambda item: (item[0][0] != "roc", item[0][1:])):
        what = "ROC | FPR" if curve == "roc" else "precision-recall | recall"
        told = " | ".join(f"{min(values[one]):.1f} ({mean(values[one]):.1f})" for one in CANDIDATES)
        lines.append(f"| {what} {place:g} | {n_groups} | {told} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
