"""Run folders as contenders of a comparison: probes of runs, rows of published protocols."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import polars as pl

from histotune.evaluation.run_comparison import Contender, RunComparison, compare_runs
from histotune.report.figures import class_names_of
from histotune.report.result_tables import tables_of
from histotune.report.run_folder import load_run
from histotune.report.study_pages import write_comparison_page
from histotune.statistics.metrics import METRIC_NAMES, MetricName
from histotune.statistics.predictions import PREDICTION_COLUMNS, ComparisonConfig, IntervalConfig, Predictions
from histotune.tools.atomic import bring_back, claimed
from histotune.tools.errors import UserError, closest_name
from histotune.tools.files import read_json, write_json
from histotune.tools.manifest import verify_folder
from histotune.tools.marks import PROBE
from histotune.tools.table import ShownAsTables, Table
from histotune.tools.tabular import read_parquet

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from histotune.evaluation.findings import Findings

PROTOCOL = "protocol"
COMPARED = ("in-domain", "cross-magnification", "external", "direct")


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
    """

    runs: tuple[Path, ...]
    metrics: tuple[str, ...]
    pairs: tuple[str, ...]
    first: bool
    permutations: int
    seed: int


@dataclass(frozen=True)
class ComparisonOutcome(ShownAsTables):
    """A finished comparison of runs, and the folder of its page; None where none was asked for."""

    comparison: RunComparison
    folder: Path | None

    def tables(self) -> tuple[Table, ...]:
        """Return scores, paired differences and ranks."""
        return tables_of(self.comparison)


def compare_folders(asked: CompareRequest, out: Path | None, command: str) -> ComparisonOutcome:
    """Compare runs on the same tiles and groups, paired, and rank them over data sets; write the page where asked."""
    with claimed(out, folder=True):
        return _compare(asked, out, command)


def _compare(asked: CompareRequest, out: Path | None, command: str) -> ComparisonOutcome:
    metrics = _metrics(asked.metrics)
    contenders = read_contenders(asked.runs)
    config = ComparisonConfig(
        family=_family(asked, tuple(dict.fromkeys(one.name for one in contenders))),
        n_permutations=asked.permutations,
        seed=asked.seed,
    )
    found = compare_runs(contenders, metrics, config, IntervalConfig())
    if out is not None:
        write_json(out / "comparison.json", {**found.as_dict(), "comparison": config.model_dump(mode="json")})
        write_comparison_page(found, command, out / "comparison.html")
    return ComparisonOutcome(found, out)


def _metrics(names: Sequence[str]) -> tuple[MetricName, ...]:
    for name in names:
        if name not in METRIC_NAMES:
            raise UserError(
                "unknown metric", value=name, allowed=", ".join(METRIC_NAMES), closest=closest_name(name, METRIC_NAMES)
            )
    return tuple(names or DEFAULT_METRICS)  # type: ignore[arg-type]  # checked above


def _family(asked: CompareRequest, names: tuple[str, ...]) -> str | tuple[tuple[str, str], ...]:
    if not asked.pairs:
        return "against the first" if asked.first else "all pairs"
    pairs = []
    for pair in asked.pairs:
        two = tuple(name.strip() for name in pair.split(","))
        wrong = next((name for name in two if name not in names), None)
        if len(two) != 2 or wrong is not None:
            raise UserError(
                "a pair names two of the runs, with a comma between",
                value=pair,
                allowed=", ".join(names),
                closest=closest_name(wrong or pair, names),
            )
        pairs.append((two[0], two[1]))
    return tuple(pairs)


def read_contenders(folders: Sequence[Path]) -> tuple[Contender, ...]:
    """Read what can be compared from run folders.

    Args:
        folders: Folders of ``histotune run``, with recipes or published protocols.

    Returns:
        A contender per run and scored domain. They are named after their backbones where no two runs of one backbone
        scored the same domain, and after their folders elsewhere.

    Raises:
        UserError: A folder is no finished run.
    """
    found = [_contenders(folder, name) for folder, name in zip(folders, _folder_names(folders), strict=True)]
    by_backbone = [(one.domain, one.finding, backbone) for backbone, ones in found for one in ones]
    if len(set(by_backbone)) < len(by_backbone) or any(not backbone for backbone, _ in found):
        return tuple(one for _, ones in found for one in ones)
    return tuple(replace(one, name=backbone) for backbone, ones in found for one in ones)


def _folder_names(folders: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the folders' paths that tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError("a run can't be compared with itself", value=", ".join(map(str, folders)), fix="name each run once")


def _contenders(folder: Path, name: str) -> tuple[str, tuple[Contender, ...]]:
    """Return a run's backbone and its arms; no backbone where a folder holds several arms of one."""
    bring_back(folder)
    if (folder / "protocol.json").is_file():
        verify_folder(folder, f"histotune run --from {folder} --out NEW repeats the protocol")
        return "", tuple(_protocol_arms(folder, name))
    run = load_run(folder)
    return run.findings.backbone, tuple(_probes(run.findings, run.artifacts.predictions, name))


def _probes(findings: Findings, table: pl.DataFrame, name: str) -> Iterator[Contender]:
    probes = table.filter((pl.col("arm") == PROBE) & pl.col("finding").is_in(COMPARED))
    inside = findings.finding("in-domain")
    trained = inside.rows[0].domain if inside is not None and inside.rows else None
    for (finding, domain), part in probes.group_by("finding", "domain", maintain_order=True):
        place = "in-domain" if domain == trained and finding in ("in-domain", "cross-magnification") else str(finding)
        shown = findings.finding(place)  # type: ignore[arg-type]  # ids from a saved table are plain text
        row = shown.row(PROBE, str(domain)) if shown is not None else None
        names = class_names_of(findings, str(domain), len(part["probability"][0]))
        data_set = findings.dataset_of(str(domain))
        whose = data_set.name if data_set is not None else str(domain)
        yield Contender(name, place, str(domain), whose, _predictions(part, names), row.marks if row else ())


def _protocol_arms(folder: Path, name: str) -> Iterator[Contender]:
    try:
        marks = tuple(read_json(folder / "protocol.json").get("marks", ()))
        table = read_parquet(folder / "predictions.parquet")
        if missing := {"row", "pooling", "domain", *PREDICTION_COLUMNS} - set(table.columns):
            raise ValueError(f"predictions.parquet lacks {', '.join(sorted(missing))}")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"this run folder is damaged: {error}", value=folder, fix="run the protocol again") from error
    for (row, pooling, domain), part in table.group_by("row", "pooling", "domain", maintain_order=True):
        names = tuple(str(label) for label in range(len(part["probability"][0])))
        arm = f"{name}: {row}, {pooling}"
        yield Contender(arm, PROTOCOL, str(domain), str(domain), _predictions(part, names), marks)


def _predictions(part: pl.DataFrame, names: tuple[str, ...]) -> Predictions:
    own = ("threshold",) if "threshold" in part.columns else ()
    return Predictions(part.select(*PREDICTION_COLUMNS, *own).filter(pl.col("y_true").is_not_null()), names)
