"""``python -m benchmarks.coverage run`` simulates, cell by cell; ``write`` makes the table that the package reads.

A cell that was finished is never run again; each is written whole or not at all. With ``--methods`` only these are
judged, and ``write --keep`` takes the other methods' rows from the table that is there, each with its own seed.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.coverage.cohort import GROUPS, PREVALENCE, CellSpec, all_cells, true_values
from benchmarks.coverage.judge import JUDGED, Plan, judge_cell
from benchmarks.coverage.markdown import fill
from histotune.statistics.bounds import METHODS
from histotune.tools.files import write_json, write_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.coverage.judge import Judged
    from histotune.statistics.bounds import Method

    Row = dict[str, str | float | int]

RESULTS = Path(__file__).parents[1] / "results" / "coverage.csv"
COUNTED = ("seed", "repeats", "coverage", "truth_below", "truth_above", "median_width", "true_width")
SETTING = ("metric", "world", "design", "n_groups", "auroc", "icc", "truth")
DEFAULT: tuple[Method, ...] = ("percentile", "jackknife-t", "skewed-t", "resampled-t", "resampled-skewed-t")
"""Methods of the published table; ``--methods`` judges others."""
PAGE = Path(__file__).parents[2] / "docs" / "intervals.md"
TABLE = Path(__file__).parents[2] / "src" / "histotune" / "statistics" / "coverage.csv"


def main() -> None:
    """Run or write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("command", choices=["run", "write"])
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=400, help="of each bootstrap")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(DEFAULT))
    parser.add_argument("--metrics", nargs="+", choices=JUDGED, default=list(JUDGED))
    parser.add_argument("--worlds", nargs="+", choices=PREVALENCE, default=list(PREVALENCE))
    parser.add_argument("--groups", nargs="+", type=int, choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--keep", action="store_true", help="write: keep the rows of methods that were not judged")
    parser.add_argument(
        "--pool", action="store_true", help="write: add these cells, of another seed, to the table that is there"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes; give each one BLAS thread")
    parser.add_argument(
        "--cells", type=Path, nargs="+", required=True, help="folder of finished cells; write: further ones are pooled"
    )
    parser.add_argument("--stop-after-s", type=float, default=float("inf"), help="begin no further cell after this")
    options = parser.parse_args()
    if options.command == "run":
        cells = [one for one in all_cells() if one.n_groups in options.groups and one.world in options.worlds]
        run = partial(run_cell, options=options, until=time.monotonic() + options.stop_after_s)
        with ProcessPoolExecutor(options.workers) as pool:
            list(pool.map(run, cells))
        return
    rows = finished_rows(options.cells, RESULTS if options.keep or options.pool else None, pool=options.pool)
    write_text(RESULTS, long_table(rows))
    write_text(TABLE, wide_table(rows))
    write_text(PAGE, fill(PAGE.read_text(encoding="utf-8"), rows))


def run_cell(spec: CellSpec, options: argparse.Namespace, until: float) -> None:
    """Judge one setting unless it is there already, or time is up."""
    path = options.cells[0] / f"{spec.name}.json"
    if path.exists() or time.monotonic() > until:
        return
    start = time.perf_counter()
    plan = Plan(options.repeats, options.resamples, options.seed, tuple(options.methods), tuple(options.metrics))
    judged = judge_cell(spec, plan)
    path.parent.mkdir(parents=True, exist_ok=True)
    truths = true_values(spec)
    found = [key for key, tally in judged.tallies.items() if tally.n]
    rows = [{**_row(spec, truths, judged, key), "seed": options.seed} for key in found]
    settings = {"repeats": options.repeats, "resamples": options.resamples, "seed": options.seed}
    write_json(path, {**settings, "seconds": round(time.perf_counter() - start, 1), "rows": rows})
    print(f"{spec.name}: {time.perf_counter() - start:.0f} s", flush=True)


def _row(spec: CellSpec, truths: dict[str, float], judged: Judged, key: tuple[str, Method]) -> Row:
    metric, method = key
    tally = judged.tallies[key]
    above = tally.n - tally.n_held - tally.n_below
    return {
        "metric": metric, "world": spec.world, "design": spec.design, "n_groups": spec.n_groups, "auroc": spec.auroc,
        "icc": spec.icc, "truth": round(truths[metric], 4), "method": method, "repeats": tally.n,
        "coverage": round(tally.n_held / tally.n, 4), "truth_below": round(tally.n_below / tally.n, 4),
        "truth_above": round(above / tally.n, 4), "median_width": round(median(tally.widths), 4),
        "true_width": round(judged.true_width(metric), 4),
    }  # fmt: skip


def finished_rows(folders: Sequence[Path], kept: Path | None = None, *, pool: bool = False) -> list[Row]:
    """Return the rows of every cell, sorted by metric and setting.

    Args:
        folders: Finished cells; the first holds all, others what was simulated further.
        kept: A table written earlier, for rows that these cells lack.
        pool: Add the cells to the rows of that table, which simulated other cohorts; they need not be all there.

    Returns:
        A row per metric, setting and method.
    """
    paths = [folder / f"{spec.name}.json" for folder in folders for spec in all_cells()]
    needed = set() if pool else {folders[0]}
    texts = [path.read_text(encoding="utf-8") for path in paths if path.exists() or path.parent in needed]
    found: dict[tuple[str, ...], Row] = {}
    for row in (row for text in texts for row in json.loads(text)["rows"]):
        key = tuple(str(row[name]) for name in (*SETTING, "method"))
        found[key] = _pooled(found[key], row) if key in found else row
    if kept is not None:
        for row in csv.DictReader(io.StringIO(kept.read_text(encoding="utf-8"))):
            key = tuple(row[name] for name in (*SETTING, "method"))
            numbered: Row = {**row, **{name: float(row[name]) for name in ("auroc", "icc", "truth")}}
            numbered |= {"n_groups": int(row["n_groups"])}
            if key not in found:
                found[key] = numbered
            elif pool and row["seed"] not in str(found[key]["seed"]).split("+"):
                found[key] = _pooled(numbered, found[key])
    return sorted(found.values(), key=lambda row: [*(row[name] for name in SETTING), METHODS.index(row["method"])])


def _pooled(one: Row, other: Row) -> Row:
    """Return two runs of one setting as one."""
    n, m = int(one["repeats"]), int(other["repeats"])
    means = {name: round((n * float(one[name]) + m * float(other[name])) / (n + m), 4) for name in COUNTED[2:]}
    return {**one, **means, "repeats": n + m, "seed": f"{one['seed']}+{other['seed']}"}


def long_table(rows: list[Row]) -> str:
    """Return a line per metric, setting and method, with everything that was counted."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [*SETTING, "method", *COUNTED], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def wide_table(rows: list[Row]) -> str:
    """Return a line per metric and setting with the coverage of every method; empty where one was not judged."""
    found: dict[tuple[str | float | int, ...], dict[str | float | int, str | float | int]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in SETTING), {})[row["method"]] = row["coverage"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*SETTING, *METHODS])
    for setting, by_method in found.items():
        writer.writerow([*setting, *(by_method.get(method, "") for method in METHODS)])
    return out.getvalue()


if __name__ == "__main__":
    main()
