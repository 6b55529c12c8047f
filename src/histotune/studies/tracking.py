"""What was tried, kept for good: a local table of every trial, and Weights & Biases where it is asked for.

Every sweep adds one Parquet file to a folder, and no file is ever changed, so that sweeps may run side by side and a
crash loses nothing that was finished. The folder is one table: ``polars.scan_parquet("FOLDER/*.parquet")``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import math
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from histotune.report.tables import line_names, setting_names
from histotune.tools.atomic import atomic_path, remove_if_abandoned, unfinished_name
from histotune.tools.errors import UserError
from histotune.tools.files import canonical_json
from histotune.tools.marks import PROBE, TUNED
from histotune.tools.provenance import redact
from histotune.tools.tabular import TableError, read_parquet

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from histotune.evaluation.external import TargetStudy
    from histotune.evaluation.findings import Findings
    from histotune.evaluation.held_out import ArmSweep, SourceStudy
    from histotune.evaluation.tuned import TunedCrossFit
    from histotune.finetune.tuning import TuningDecision
    from histotune.heads.head import SweepResult
    from histotune.report.run_folder import ReportInputs
    from histotune.studies.config import ExperimentConfig, TrackingConfig


TABLE_VERSION = "v1"
"""Name of the table's folder; a table with other columns takes another name."""
"""Columns of a sweep's trials that say what came out; the others say what was tried."""


WANDB_INSTALL = 'pip install "histotune[wandb]"'
INIT_TIMEOUT_S = 30


@dataclass(frozen=True)
class SweepFacts:
    """What all trials of one sweep share.

    Attributes:
        run_id: From :func:`new_run_id`.
        data_set: Name of the data set.
        trained_on: The training tiles in words, such as "breakhis 100X".
        training_set: ``all``, or which outer fold was left out, such as "outer fold 0".
        split_hash: Hash of the split that says who may train; empty where all tiles train.
        backbone: Backbone name.
        space_key: Embedding space.
        arm: ``probe``, or the floor whose sweep this is.
        family: Family of heads, such as ``logistic``.
        criterion: What the choice went by; lower is better.
        honesty: How the whole procedure was estimated: ``none``, ``nested`` or ``bias-corrected``. The score of a
            chosen trial is optimistic either way: it was the criterion.
        honest_score: That estimate of the criterion; None without one.
        n_tiles: Training tiles.
        n_groups: Training groups.
        sweep_s: Seconds for the whole sweep; its trials are solved together and have no times of their own.
        folder: Where the head was written.
    """

    run_id: str
    data_set: str
    trained_on: str
    training_set: str
    split_hash: str
    backbone: str
    space_key: str
    arm: str
    family: str
    criterion: str
    honesty: str
    honest_score: float | None
    n_tiles: int
    n_groups: int
    sweep_s: float
    folder: str


KINDS = {"str": pl.String(), "int": pl.Int64(), "float": pl.Float64(), "float | None": pl.Float64()}
SHARED = {item.name: KINDS[str(item.type)] for item in fields(SweepFacts)}
SCHEMA = {
    **SHARED,
    "time": pl.Datetime("us", "UTC"),  # when the sweep was recorded
    "settings": pl.String(),  # what was tried, as JSON
    "score": pl.Float64(),  # value of the criterion; null where the trial diverged, which is never a score
    "score_se": pl.Float64(),  # its standard error over groups
    "auroc": pl.Float64(),  # out of fold; null where undefined
    "converged": pl.Boolean(),  # whether every fit met its tolerance
    "diverged": pl.Boolean(),  # whether a fit ended in numbers that are not finite
    "chosen": pl.Boolean(),  # whether the sweep chose it
}
"""The columns of the table: what the trials of one sweep share, then each trial's own."""


def new_run_id() -> str:
    """Return an id that sorts by time and is never given twice, such as ``20260314T101112-3f9a0c1d``."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"


def trials_folder(state: Path) -> Path:
    """Return the folder of the table below the folder of records to keep."""
    return state / "trials" / TABLE_VERSION


def trial_rows(trials: pl.DataFrame, facts: SweepFacts) -> pl.DataFrame:
    """Return a sweep's trials as rows of the table; a trial that diverged has no score."""
    tried = trials.select(setting_names(trials))
    flagged = pl.col("diverged").fill_null(value=False) if "diverged" in trials.columns else pl.lit(value=False)
    diverged = flagged | ~pl.col("log_loss").cast(pl.Float64).is_finite().fill_null(value=False)

    def finite(name: str) -> pl.Expr:
        """Return a column without the values of trials that diverged."""
        number = pl.col(name).cast(pl.Float64)
        return pl.when(~diverged & number.is_finite()).then(number)

    own = trials.select(
        time=pl.lit(datetime.now(UTC)),
        settings=pl.Series(
            [" ".join(canonical_json(row).split()) for row in tried.iter_rows(named=True)], dtype=pl.String
        ),
        score=finite("log_loss"),
        score_se=finite("log_loss_se"),
        auroc=finite("auroc"),
        converged=pl.col("converged") & ~diverged,
        diverged=diverged,
        chosen=pl.col("chosen"),
    )
    return pl.DataFrame([asdict(facts)], schema=SHARED).join(own, how="cross").cast(SCHEMA)  # type: ignore[arg-type]


def record_trials(state: Path, rows: pl.DataFrame) -> Path:
    """Add the trials of one run to the table: one new file, whole or not at all, named by the run and by its hash."""
    run_ids = rows["run_id"].unique().to_list()
    if len(run_ids) != 1:
        raise ValueError(f"one file holds the trials of one run, not of {len(run_ids)}")
    if rows.filter(pl.col("diverged"))["score"].is_not_null().any():
        raise ValueError("a trial that diverged has no score")
    data = io.BytesIO()
    rows.rechunk().write_parquet(data)
    path = trials_folder(state) / f"{run_ids[0]}.{_digest(data.getvalue())}.parquet"
    for left in path.parent.glob(".*.partial"):  # of killed runs, whose names never come again
        if unfinished_name(left):
            remove_if_abandoned(left)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.getvalue())
    return path


def read_trials(state: Path) -> pl.DataFrame:
    """Return the whole table, the newest run first."""
    folder = trials_folder(state)
    if not any(folder.glob("*.parquet")):
        return pl.DataFrame(schema=SCHEMA)
    try:
        table = pl.concat(_read_run(path) for path in sorted(folder.glob("*.parquet")))
    except (pl.exceptions.PolarsError, TableError) as error:
        damaged = [path for path in sorted(folder.glob("*.parquet")) if not _is_readable(path)]
        raise UserError(
            "the table of trials can't be read",
            value=", ".join(path.name for path in damaged) or error,
            fix=f"move the damaged file out of {folder}; every file is one run",
        ) from error
    return table.sort("run_id", descending=True, maintain_order=True)


@dataclass(frozen=True)
class TrialCurve:
    """One curve of a run, in data units.

    Attributes:
        name: Such as "log-loss against penalty, pooled".
        x_name: Name of the horizontal axis.
        y_name: Name of the vertical axis.
        points: (x, y) in order.
    """

    name: str
    x_name: str
    y_name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class RunLog:
    """What Weights & Biases gets of a finished run. No image, no tile id, no path of the data.

    Attributes:
        run_id: From :func:`new_run_id`.
        name: The run in words.
        config: The resolved config, nested.
        scores: Final numbers by name.
        curves: Curves by name.
        trials: Every trial of the run.
        heads: Folders of trained heads by name; each becomes an artifact.
        tuned: Every candidate of the fine-tuning of all training tiles; None where nothing was fine-tuned.
    """

    run_id: str
    name: str
    config: Mapping[str, object]
    scores: Mapping[str, float]
    curves: tuple[TrialCurve, ...]
    trials: pl.DataFrame
    heads: Mapping[str, Path] = field(default_factory=dict)
    tuned: pl.DataFrame | None = None


def require_wandb(config: TrackingConfig) -> None:
    """Find out before anything long starts whether W&B can be used."""
    if config.wandb != "off" and importlib.util.find_spec("wandb") is None:
        raise UserError("--wandb needs the package wandb, which is not installed", fix=WANDB_INSTALL)


def log_run(log: RunLog, config: TrackingConfig, state: Path) -> str:
    """Write a finished run to Weights & Biases; an upload that fails is kept offline instead."""
    require_wandb(config)
    if config.wandb == "off":
        return ""
    import wandb

    failed = ""
    if config.wandb == "online":
        try:
            return f"wandb: {_write_wandb(wandb, log, config, state)}"
        except (wandb.errors.Error, OSError) as error:
            failed = f"the upload failed ({redact(str(error))}); "
            config = config.model_copy(update={"wandb": "offline"})
    try:
        folder = _write_wandb(wandb, log, config, state)
    except (wandb.errors.Error, OSError) as error:
        raise UserError(
            f"Weights & Biases could not write this run: {redact(str(error))}",
            fix="the run itself is finished and kept; leave out --wandb",
        ) from error
    return f"wandb: {failed}kept offline, nothing was uploaded; to upload: wandb sync {folder}"


def _write_wandb(wandb: Any, log: RunLog, config: TrackingConfig, state: Path) -> str:  # noqa: ANN401
    """Write one run; return its address, or its folder where it is offline."""
    state.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project=config.wandb_project,
        entity=config.wandb_entity,
        mode=config.wandb,
        dir=str(state),
        name=log.name,
        id=log.run_id,
        config=_without_secrets(log.config),
        settings=_quiet_settings(wandb),
    )
    try:
        _fill(wandb, run, log)
    finally:
        run.finish()
    return str(run.url) if config.wandb == "online" else str(run.dir).removesuffix("/files")


def _quiet_settings(wandb: Any) -> Any:  # noqa: ANN401  (an optional package)
    """Settings under which W&B records what it is given: no output, source, host, command line or hardware."""
    return wandb.Settings(
        silent=True,
        console="off",
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        save_code=False,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_disable_stats=True,
        x_save_requirements=False,
        init_timeout=INIT_TIMEOUT_S,
    )


def _fill(wandb: Any, run: Any, log: RunLog) -> None:  # noqa: ANN401
    """Give W&B the scores, the curves, the table and the heads."""
    run.summary.update({name: value for name, value in log.scores.items() if math.isfinite(value)})
    for curve in log.curves:
        x_name, y_name = f"{curve.name}/{curve.x_name}", f"{curve.name}/{curve.y_name}"
        run.define_metric(x_name, hidden=True)
        run.define_metric(y_name, step_metric=x_name)
        for x, y in curve.points:
            run.log({x_name: x, y_name: y})
    for name, table in (("trials", log.trials), ("fine-tuning", log.tuned)):
        if table is not None and not table.is_empty():
            run.log({name: wandb.Table(columns=table.columns, data=[list(row) for row in table.rows()])})
    for name, folder in log.heads.items():
        artifact = wandb.Artifact(f"{name}-{log.run_id}", type="head")
        for path in sorted(item for item in folder.iterdir() if item.is_file()):
            artifact.add_file(str(path))
        run.log_artifact(artifact)


def _without_secrets(value: object) -> Any:  # noqa: ANN401  (nested JSON)
    """The value with anything shaped like a token as ``***``."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {str(key): _without_secrets(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(item) for item in value]
    return value


def _read_run(path: Path) -> pl.DataFrame:
    """Read the trials of one run; files of earlier versions have no hash in their name."""
    digest = path.stem.partition(".")[2]
    table = read_parquet(path)
    if digest and digest != _digest(path.read_bytes()):
        raise TableError("it has changed since it was written")
    return table


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _is_readable(path: Path) -> bool:
    with suppress(TableError):
        return _read_run(path).schema == pl.Schema(SCHEMA)
    return False


# ------------------------------------------------------------------------------
# What a finished run or sweep leaves in the table of trials, and on Weights & Biases where that is asked for.


ALL = "all"


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


def track_run(
    inputs: ReportInputs, source: SourceStudy | None, target: TargetStudy | None, config: ExperimentConfig
) -> str:
    """Add every trial of a run to the table, and write the run to W&B where the config says so."""
    run_id, findings = str(inputs.provenance["run id"]), inputs.findings
    names = [dataset.name for dataset in findings.datasets]
    swept = []
    if source is not None:
        sweeps = (*source.finals, *(() if source.leaky is None else (source.leaky,)))
        swept.append(SweptSet(run_id, names[0], source.choice.trained_on, source.split_hash, config.out, sweeps))
    if target is not None and target.choice is not None:
        trained_on = target.choice.trained_on
        swept.append(SweptSet(run_id, names[-1], trained_on, target.split_hash, config.out, target.direct))
    heads = {name: config.out / name for name in ("head", "head-direct") if (config.out / name).is_dir()}
    settings = {**config.choices(), "split": config.evaluation.split}
    curves, trials = _all_curves(inputs.artifacts.trials, swept), inputs.artifacts.trials
    fit = next((study.tuned for study in (source, target) if study is not None), None)
    tuned, more = None, []
    if fit is not None and swept:
        tuned, more = fit.final.decided.table(), list(tuned_rows(swept[0], fit, config))
        curves = (*curves, *tuned_curves(swept[0].trained_on, fit.final.decided))
    log = RunLog(run_id, findings.title, settings, dict(_scores(findings)), curves, trials, heads, tuned)
    return track(swept, log, config, more)


def track_sweep(swept: SweptSet, scores: Mapping[str, float], config: ExperimentConfig) -> str:
    """Do the same for a sweep by itself."""
    result = swept.sweeps[0].result
    trials = with_origin(result, swept.trained_on, PROBE)
    settings = {**config.choices(), "split": config.evaluation.split}
    name = f"{result.head.backbone} on {swept.trained_on}"
    curves = _all_curves(trials, (swept,))
    log = RunLog(swept.run_id, name, settings, scores, curves, trials, {"head": swept.folder})
    return track((swept,), log, config)


def track(swept: Sequence[SweptSet], log: RunLog, config: ExperimentConfig, more: Sequence[pl.DataFrame] = ()) -> str:
    """Write the table's rows, further ones included, then W&B."""
    tables = [*(table for one in swept for table in _rows_of(one, config)), *more]
    if tables:
        record_trials(config.ledger, pl.concat(tables))
    return log_run(log, config.tracking, config.ledger)


def _rows_of(swept: SweptSet, config: ExperimentConfig) -> Iterator[pl.DataFrame]:
    """Yield the trials of one data set's sweeps: the final ones and those of the outer folds."""
    for sweep in swept.sweeps:
        sets = [(ALL, sweep.result), *((f"outer fold {fold}", result) for fold, result in enumerate(sweep.folds))]
        for training_set, result in sets:
            yield trial_rows(result.trials, _facts(swept, sweep, (training_set, result), config))


def tuned_rows(swept: SweptSet, fit: TunedCrossFit, config: ExperimentConfig) -> Iterator[pl.DataFrame]:
    """Yield the candidates of a fine-tuning as rows of the table: of all training tiles, then of the outer folds."""
    sets = [(ALL, fit.final), *((f"outer fold {fold}", one) for fold, one in enumerate(fit.folds))]
    for training_set, one in sets:
        tried = one.decided.table()
        if tried.is_empty():
            continue
        shared = _facts(swept, swept.sweeps[0], (training_set, one.probe), config)
        facts = replace(
            shared, arm=TUNED, family=TUNED, honesty="none", honest_score=None, sweep_s=round(fit.tune_s, 3)
        )
        unknown = {"auroc": pl.lit(None, pl.Float64), "converged": pl.col("end") == "finished"}
        yield trial_rows(tried.with_columns(**unknown), facts)


def tuned_curves(trained_on: str, decided: TuningDecision) -> Iterator[TrialCurve]:
    """Yield the tuning loss of every finished candidate by epoch; epoch 0 is the probe."""
    for number, curve in enumerate(decided.curves):
        points = tuple((float(epoch), float(loss)) for epoch, loss in enumerate(curve.loss_EG.mean(axis=1)))
        yield TrialCurve(f"{trained_on}: fine-tuning {number}, lr {curve.rate:.2g}", "epoch", "log_loss", points)


def _all_curves(trials: pl.DataFrame, swept: Sequence[SweptSet]) -> tuple[TrialCurve, ...]:
    """Return the probes' losses over what was tried, then those of their last fits."""
    probes = trials.filter(pl.col("arm") == PROBE).group_by("trained_on", maintain_order=True)
    tried = [curve for (trained_on,), part in probes for curve in _curves(str(trained_on), part)]
    refits = [
        curve
        for one in swept
        for sweep in one.sweeps
        if sweep.arm == PROBE
        for curve in refit_curves(one.trained_on, sweep.result)
    ]
    return (*tried, *refits)


def join_trials(source: SourceStudy | None, target: TargetStudy | None) -> pl.DataFrame:
    """Return the trials of all arms' final sweeps, with what trained them."""
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


def refit_curves(trained_on: str, result: SweepResult) -> tuple[TrialCurve, ...]:
    """Return the training loss of a chosen head by epoch; none where it was solved in closed form or exactly."""
    if result.refit_loss_E is None:
        return ()
    points = ((float(epoch), float(loss)) for epoch, loss in enumerate(result.refit_loss_E, start=1))
    finite = tuple(point for point in points if math.isfinite(point[1]))
    return (TrialCurve(f"{trained_on}: chosen head", "epoch", "train_loss", finite),)


def _curves(trained_on: str, trials: pl.DataFrame) -> Iterator[TrialCurve]:
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
        yield TrialCurve(f"{trained_on}: {line}", x_name, "log_loss", finite)
