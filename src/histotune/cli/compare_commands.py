"""What ``histotune compare`` does: runs on the same tiles and groups, paired, and ranked over data sets."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from histotune.statistics.metrics import MetricName

DEFAULT_METRICS = ("auroc", "balanced_accuracy")


@dataclass(frozen=True)
class CompareRequest:
    """What was asked for.

    Attributes:
        runs: Folders of finished runs.
        metrics: Names of metrics; empty takes AUROC and balanced accuracy.
        pairs: The declared family, as "A,B"; empty compares all pairs.
        first: Compare all with the first run only.
        permutations: Most permutations behind a p value.
        seed: Seed of the permutations.
        out: Folder for ``comparison.json`` and ``comparison.html``; None only prints.
    """

    runs: tuple[Path, ...]
    metrics: tuple[str, ...]
    pairs: tuple[str, ...]
    first: bool
    permutations: int
    seed: int
    out: Path | None


def compare_and_print(request: CompareRequest) -> None:
    """Compare runs, print the tables, and save them where asked.

    Args:
        request: What was asked for.

    Raises:
        UserError: Fewer than two arms, an unknown metric or name, or runs over other tiles or folds.
    """
    from rich.console import Console

    from histotune.evaluation.comparison import compare_runs
    from histotune.report.study_pages import comparison_notes, comparison_tables
    from histotune.report.study_tables import printed_tables
    from histotune.statistics.predictions import ComparisonConfig, IntervalConfig
    from histotune.studies.compare import read_contenders

    metrics = _metrics(request.metrics)
    contenders = read_contenders(request.runs)
    config = ComparisonConfig(
        family=_family(request, tuple(dict.fromkeys(one.name for one in contenders))),
        n_permutations=request.permutations,
        seed=request.seed,
    )
    found = compare_runs(contenders, metrics, config, IntervalConfig())
    console = Console(width=None if sys.stdout.isatty() else 160)
    for table in printed_tables(comparison_tables(found)):
        console.print(table)
    for note in comparison_notes(found):
        print(note)
    if request.out is not None:
        from histotune.report.study_pages import write_comparison_page
        from histotune.tools.files import write_json

        command = " ".join(["histotune", *sys.argv[1:]])
        write_json(request.out / "comparison.json", {**found.as_dict(), "comparison": config.model_dump(mode="json")})
        write_comparison_page(found, command, request.out / "comparison.html")
        print(f"saved: {request.out}")


def _metrics(names: Sequence[str]) -> tuple[MetricName, ...]:
    from histotune.statistics.metrics import METRIC_NAMES
    from histotune.tools.errors import UserError, closest_name

    for name in names:
        if name not in METRIC_NAMES:
            raise UserError("unknown metric", value=name, allowed=", ".join(METRIC_NAMES),
                            closest=closest_name(name, METRIC_NAMES))  # fmt: skip
    return tuple(names or DEFAULT_METRICS)  # type: ignore[arg-type]  # checked above


def _family(request: CompareRequest, names: tuple[str, ...]) -> str | tuple[tuple[str, str], ...]:
    from histotune.tools.errors import UserError, closest_name

    if not request.pairs:
        return "against the first" if request.first else "all pairs"
    pairs = []
    for pair in request.pairs:
        two = tuple(name.strip() for name in pair.split(","))
        wrong = next((name for name in two if name not in names), None)
        if len(two) != 2 or wrong is not None:
            raise UserError("a pair names two of the runs, with a comma between", value=pair, allowed=", ".join(names),
                            closest=closest_name(wrong or pair, names))  # fmt: skip
        pairs.append((two[0], two[1]))
    return tuple(pairs)
