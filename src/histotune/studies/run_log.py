"""What a finished run or sweep leaves in the table of trials, and on Weights & Biases where that is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import polars as pl

from histotune.evaluation.findings import PROBE
from histotune.report.tables import line_names
from histotune.studies.tracking import Curve, RunLog, SweepFacts, log_run, record_trials, trial_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from histotune.evaluation.external import TargetStudy
    from histotune.evaluation.findings import Findings
    from histotune.evaluation.held_out import ArmSweep, SourceStudy
    from histotune.heads.head import SweepResult
    from histotune.report.run_folder import ReportInputs
    from histotune.studies.config import ExperimentConfig
    from histotune.studies.tracking import TrialRow

ALL = "all"


@dataclass(frozen=True)
class RunToTrack:
    """A finished run, as it is tracked."""

    inputs: ReportInputs
    source: SourceStudy | None
    target: TargetStudy | None


@dataclass(frozen=True)
class SweptSet:
    """One data set's sweeps.

    Attributes:
        run_id: The run.
        data_set: Name of the data set.
        trained_on: The training tiles in words.
        split_hash: Hash of the split that says who trains; empty where all training tiles do.
        folder: Where the run was written.
        sweeps: The arms.
    """

    run_id: str
    data_set: str
    trained_on: str
    split_hash: str
    folder: Path
    sweeps: tuple[ArmSweep, ...]


def track_run(run: RunToTrack, config: ExperimentConfig) -> str:
    """Add every trial of a run to the table, and write the run to W&B where the config says so.

    Args:
        run: The finished run, written to its folder.
        config: Where it was written and is tracked.

    Returns:
        Where else it is tracked, in words; empty where only the table has it.

    Raises:
        UserError: The table can't be written, or W&B failed; the run itself is kept.
    """
    run_id = str(run.inputs.provenance["run id"])
    findings = run.inputs.findings
    rows = [row for swept in _swept_sets(run, run_id, config.out) for row in rows_of(swept, config)]
    heads = {name: config.out / name for name in ("head", "head-direct") if (config.out / name).is_dir()}
    log = run_log(run_id, findings.title, config, run.inputs.artifacts.trials, heads, dict(_scores(findings)))
    chosen = ((swept.trained_on, sweep.result) for swept in _swept_sets(run, run_id, config.out)
              for sweep in swept.sweeps if sweep.arm == PROBE)  # fmt: skip
    more = tuple(curve for trained_on, result in chosen for curve in refit_curves(trained_on, result))
    return track_rows(rows, replace(log, curves=(*log.curves, *more)), config)


def track_rows(rows: Sequence[TrialRow], log: RunLog, config: ExperimentConfig) -> str:
    """Write the table's rows, then W&B; see :func:`track_run`."""
    if rows:
        record_trials(config.ledger, rows)
    return log_run(log, config.tracking, config.ledger)


def rows_of(swept: SweptSet, config: ExperimentConfig) -> Iterator[TrialRow]:
    """Yield every trial of one data set's sweeps: the final ones and those of the outer folds.

    Args:
        swept: The sweeps.
        config: Names the criterion.

    Yields:
        Rows of the table.
    """
    for sweep in swept.sweeps:
        sets = [(ALL, sweep.result), *((f"outer fold {fold}", result) for fold, result in enumerate(sweep.folds))]
        for training_set, result in sets:
            yield from trial_rows(result.trials, _facts(swept, sweep, (training_set, result), config))


def run_log(
    run_id: str,
    name: str,
    config: ExperimentConfig,
    trials: pl.DataFrame,
    heads: dict[str, Path],
    scores: dict[str, float],
) -> RunLog:
    """Return what W&B gets: no path of the data, no tile.

    Args:
        run_id: The run.
        name: The run in words.
        config: Its resolved config.
        trials: Every trial of the final sweeps, with ``trained_on`` and ``arm``.
        heads: Folders of heads by name.
        scores: Final numbers by name.

    Returns:
        The record.
    """
    settings = {**config.choices(), "split": config.evaluation.split}
    curves = tuple(curve for keys, part in trials.group_by("trained_on", "arm", maintain_order=True)
                   if keys[1] == PROBE for curve in _curves(str(keys[0]), part))  # fmt: skip
    return RunLog(run_id, name, settings, scores, curves, trials, heads)


def join_trials(source: SourceStudy | None, target: TargetStudy | None) -> pl.DataFrame:
    """Return the trials of all arms' final sweeps, with what trained them.

    Args:
        source: Study of held-out cases.
        target: Study of the second data set.

    Returns:
        Columns of ``SweepResult.trials`` plus ``trained_on``, ``backbone`` and ``arm``.
    """
    tables = []
    for study, sweeps in ((source, source.finals if source else ()), (target, target.direct if target else ())):
        if study is None or study.choice is None:
            continue
        tables += [with_origin(sweep.result, study.choice.trained_on, sweep.arm) for sweep in sweeps]
    return pl.concat(tables)


def with_origin(result: SweepResult, trained_on: str, arm: str) -> pl.DataFrame:
    """Return a sweep's trials with what trained them."""
    backbone = pl.lit(result.head.backbone)
    return result.trials.with_columns(trained_on=pl.lit(trained_on), backbone=backbone, arm=pl.lit(arm))


def _swept_sets(run: RunToTrack, run_id: str, folder: Path) -> Iterator[SweptSet]:
    """Yield the sweeps of both studies."""
    names = [dataset.name for dataset in run.inputs.findings.datasets]
    if run.source is not None:
        leaky = () if run.source.leaky is None else (run.source.leaky,)
        yield SweptSet(run_id, names[0], run.source.choice.trained_on, run.source.split_hash, folder,
                       (*run.source.finals, *leaky))  # fmt: skip
    if run.target is not None and run.target.choice is not None:
        trained_on = run.target.choice.trained_on
        yield SweptSet(run_id, names[-1], trained_on, run.target.split_hash, folder, run.target.direct)


def _facts(swept: SweptSet, sweep: ArmSweep, one: tuple[str, SweepResult], config: ExperimentConfig) -> SweepFacts:
    training_set, result = one
    head = result.head
    selection = head.selection
    honest = [] if selection is None else [score.value for score in selection.honest if score.name == "log_loss"]
    return SweepFacts(
        run_id=swept.run_id,
        data_set=swept.data_set,
        trained_on=swept.trained_on,
        training_set=training_set,
        split_hash=swept.split_hash,
        backbone=head.backbone,
        space_key=head.space_key,
        arm=sweep.arm,
        family=head.family,
        criterion=config.sweep.selection,
        honesty="none" if selection is None else selection.honesty,
        honest_score=honest[0] if honest and math.isfinite(honest[0]) else None,
        n_tiles=head.n_tiles,
        n_groups=head.n_groups,
        sweep_s=round(sweep.sweep_s, 3),
        folder=str(swept.folder),
    )


def _scores(findings: Findings) -> Iterator[tuple[str, float]]:
    """Yield the probe's scores with their limits."""
    for finding in findings.findings:
        for row in (row for row in finding.rows if row.arm == PROBE):
            for score in row.scores:
                name = f"{finding.id}/{row.domain}/{score.name}"
                yield name, score.value
                if score.interval is not None:
                    yield f"{name} low", score.interval.low
                    yield f"{name} high", score.interval.high


def refit_curves(trained_on: str, result: SweepResult) -> tuple[Curve, ...]:
    """Return the training loss of a chosen head by epoch; none where it was solved in closed form or exactly.

    Args:
        trained_on: The training tiles in words.
        result: The sweep.
    """
    if result.refit_loss_E is None:
        return ()
    points = ((float(epoch), float(loss)) for epoch, loss in enumerate(result.refit_loss_E, start=1))
    finite = tuple(point for point in points if math.isfinite(point[1]))
    return (Curve(f"{trained_on}: chosen head", "epoch", "train_loss", finite),)


def _curves(trained_on: str, trials: pl.DataFrame) -> Iterator[Curve]:
    """Yield log-loss against penalty, or learning rate for trained heads: a curve per pooling, weighting, optimizer."""
    x_name, lines = "penalty", line_names(trials)
    if "lr" in trials.columns:
        x_name = "lr"
        lines = [f"{line}, {optimizer}" for line, optimizer in zip(lines, trials["optimizer"], strict=True)]
    if x_name not in trials.columns:
        return
    for (line,), part in trials.with_columns(line=pl.Series(lines)).group_by("line", maintain_order=True):
        points = part.sort(x_name).select(x_name, "log_loss").iter_rows()
        finite = tuple((x, y) for x, y in points if y is not None and math.isfinite(y))
        yield Curve(f"{trained_on}: {line}", x_name, "log_loss", finite)
