"""One experiment from files to report; the stages stand in the order of the data."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import polars as pl

from histotune.arms import arm_backbones, embed_arms
from histotune.backbones.catalog import find_backbone, pinned_config
from histotune.datasets.read import read_dataset
from histotune.deploy.bundle import Bundle, save_bundle
from histotune.embeddings.choice import chosen_view
from histotune.errors import UserError, collect, raise_together
from histotune.evaluation.answer import write_answer
from histotune.evaluation.ledger import Scoring, record_scoring
from histotune.evaluation.plan import plan_source, scored_part, with_parts
from histotune.evaluation.records import Artifacts, DatasetFacts, Findings, LedgerCount
from histotune.evaluation.source import ArmMaterial, StudySettings, study_source
from histotune.evaluation.target import part_rows, study_target
from histotune.files import atomic_folder, explained_os_errors, hash_json, lock, make_folder
from histotune.heads.families import SweepSupport
from histotune.heads.fit_cache import FitCache
from histotune.heads.sweep import require_device
from histotune.images.view_checks import check_view
from histotune.progress import Stopwatch
from histotune.provenance import collect_provenance
from histotune.report.folder import save_run
from histotune.report.growth_figures import growth_figure
from histotune.report.page import write_report
from histotune.report.records import ReportInputs
from histotune.report.sweep_figures import plot_name, sweep_figure
from histotune.report.sweep_folder import save_plots
from histotune.report.thumbnails import largest_errors
from histotune.run_log import RunToTrack, join_trials, track_run
from histotune.tracking import new_run_id, require_wandb

if TYPE_CHECKING:
    from pathlib import Path

    from histotune.config import ExperimentConfig
    from histotune.datasets.config import DatasetConfig
    from histotune.datasets.records import TileSet
    from histotune.datasets.splits.records import Split
    from histotune.evaluation.material import Material
    from histotune.evaluation.records import Scored
    from histotune.evaluation.source import ArmSweep, SourceStudy
    from histotune.evaluation.target import TargetStudy

log = logging.getLogger(__name__)
RUN_NAMES = frozenset({
    "added", "bundle.json", "config.json", "embedding_map.parquet", "head", "head-direct", "head.json",
    "head.safetensors", "label_efficiency.parquet", "matrix.csv", "matrix.html", "matrix.json", "plots",
    "predictions.parquet", "protocol.json", "provenance.json", "report.html", "scores.json", "thumbnails",
    "thumbnails.json", "trials.parquet",
})  # fmt: skip


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        inputs: Everything its report was made from.
        folder: Where it was written.
        n_computed: Embeddings that needed a forward pass; 0 on a warm run.
        tracked: Where else it is tracked, in words; empty where only the local table has it.
    """

    inputs: ReportInputs
    folder: Path
    n_computed: int
    tracked: str = ""


@dataclass(frozen=True)
class Studies:
    """What was found on the source and on the target."""

    source: SourceStudy | None
    target: TargetStudy | None


@dataclass(frozen=True)
class Embedded:
    """An experiment's data, embedded: the config with its backbone pinned, the arms, the target's split."""

    config: ExperimentConfig
    source_arms: tuple[ArmMaterial, ...]
    target_arms: tuple[ArmMaterial, ...]
    target_split: Split | None


def run_experiment(config: ExperimentConfig, command: str) -> RunResult:
    """Read, embed, sweep, score and report one experiment.

    Args:
        config: What to do; see :class:`~histotune.config.ExperimentConfig`.
        command: The command line, for the report.

    Returns:
        The finished run; its folder appears only when everything is done.

    Raises:
        UserError: Anything the user can mend; nothing is left half-written.
    """
    refuse_foreign_folder(config.out)
    require_wandb(config.tracking)
    require_device(config.sweep)
    watch = Stopwatch()
    embedded = embed_experiment(config, watch)
    config, source_arms, target_arms = embedded.config, embedded.source_arms, embedded.target_arms
    support = SweepSupport(FitCache.at(config.cache))
    settings = StudySettings(config.evaluation, config.sweep, config.interval, embedded.target_split, support)
    studies = _study(settings, source_arms, target_arms, watch)
    findings = _findings(config, studies, source_arms, target_arms)
    ledger = _count_scorings(config, studies, findings)
    inputs = _report_inputs(config, studies, findings, (source_arms, target_arms), ledger, command)
    return _write(config, inputs, studies, (source_arms, target_arms), watch)


def embed_experiment(config: ExperimentConfig, watch: Stopwatch) -> Embedded:
    """Read the data of an experiment and embed it for every arm: all that several processes do together.

    Args:
        config: What to do.
        watch: Times the stages.

    Returns:
        What the rest of the experiment starts from.

    Raises:
        UserError: Anything that would stop the study later, too.
    """
    write_cohort_first(config, watch)
    with watch.stage("read data"):
        source = None if config.source is None else read_dataset(config.source)
        target = None if config.target is None else read_dataset(config.target)
        target_split = None
        if source is None and target is not None:
            target, target_split = with_parts(target, config.evaluation)
        _check_before_embedding(config, source, target)
    pinned = pinned_config(config.backbone, find_backbone(config.backbone, config.cache))
    config = config.model_copy(update={"backbone": pinned})  # what a run repeats from is what it used
    source_arms = embed_arms(config, config.source, source, watch)
    target_arms = embed_arms(config, config.target, target, watch)
    return Embedded(config, source_arms, target_arms, target_split)


def refuse_foreign_folder(out: Path) -> None:
    """Refuse to replace a folder that is no run, and find out early whether it can be written.

    Args:
        out: The run folder to be.

    Raises:
        UserError: Something else lies there, or the place can't be written.
    """
    if out.exists() and not out.is_dir():
        raise UserError("a file lies where the run folder should go", value=out, fix="choose another --out")
    foreign = _foreign_names(out) if out.is_dir() else ()
    if foreign:
        raise UserError("this folder holds other files; a run would replace them",
                        value=f"{out}: {', '.join(foreign[:10])}{', ...' if len(foreign) > 10 else ''}",
                        fix="choose another --out, or move them away")  # fmt: skip
    with explained_os_errors(out):
        make_folder(out.parent)
        probe = out.parent / f".{out.name}.probe"
        probe.mkdir(exist_ok=True)
        probe.rmdir()


def _foreign_names(folder: Path) -> tuple[str, ...]:
    """Return what lies in a folder and is no part of a run, matrix, protocol or head."""
    names = sorted(path.name for path in folder.iterdir())
    is_own = any((folder / name).is_file() for name in ("bundle.json", "protocol.json")) or _is_run_config(folder)
    return tuple(name for name in names if not (is_own and name in RUN_NAMES))


def _is_run_config(folder: Path) -> bool:
    """Whether ``config.json`` is histotune's: a model saved for transformers has one, too."""
    try:
        data = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and {"recipe", "backbone", "evaluation"} <= data.keys()


def write_cohort_first(config: ExperimentConfig, watch: Stopwatch) -> None:
    """Write the synthetic cohort where the config asks for one.

    Args:
        config: The experiment.
        watch: Times the stage.
    """
    if config.cohort is None or config.cohort_path is None:
        return
    from histotune.datasets.synthetic.write import write_cohort

    beside = config.cohort_path.with_name(f".{config.cohort_path.name}.lock")
    with watch.stage("write synthetic tissue"), lock(beside):  # several processes may want it
        write_cohort(config.cohort, config.cohort_path)


def _study(
    settings: StudySettings,
    source_arms: tuple[ArmMaterial, ...],
    target_arms: tuple[ArmMaterial, ...],
    watch: Stopwatch,
) -> Studies:
    source, target = None, None
    if source_arms:
        with watch.stage(f"sweep and score {source_arms[0].material.tiles.name}"):
            source = study_source(source_arms, settings)
    if target_arms:
        with watch.stage(f"sweep and score {target_arms[0].material.tiles.name}"):
            target = study_target(target_arms, source, settings, scored_part(settings.evaluation))
    return Studies(source, target)


def _check_before_embedding(config: ExperimentConfig, source: TileSet | None, target: TileSet | None) -> None:
    """Find what would stop the study now, not after hours of embedding; report it all together."""
    errors: list[UserError] = []
    if source is not None:
        with collect(errors):
            plan_source(source, config.evaluation)
    if target is not None:
        with collect(errors):
            part_rows(target, scored_part(config.evaluation))
    with collect(errors):
        _check_labels_match(source, target)
    with collect(errors):
        _check_views(config, source, target)
    raise_together(errors)


def _check_views(config: ExperimentConfig, source: TileSet | None, target: TileSet | None) -> None:
    """Find tiles that a view can't be made of, for every arm's view."""
    views = dict.fromkeys(chosen_view(config.view, spec) for _, spec in arm_backbones(config))
    for tiles in (source, target):
        for view in views:
            if tiles is not None:
                check_view(tiles, view)


def _check_labels_match(source: TileSet | None, target: TileSet | None) -> None:
    if source is not None and target is not None and len(source.class_names) != len(target.class_names):
        raise UserError(
            "a head can't be carried to a data set with another number of classes",
            value=f"{len(source.class_names)} classes in {source.name}",
            allowed=f"{len(target.class_names)} classes, as in {target.name}",
            fix="--set source.labels=binary",
        )


def _findings(
    config: ExperimentConfig,
    studies: Studies,
    source_arms: tuple[ArmMaterial, ...],
    target_arms: tuple[ArmMaterial, ...],
) -> Findings:
    present = [study for study in (studies.source, studies.target) if study is not None]
    tables = tuple(finding for study in present for finding in study.findings)
    if not tables:
        raise UserError("there is nothing to score", fix="give a data set with labels: histotune run --help")
    choices = tuple(study.choice for study in present if study.choice is not None)
    materials = [arms[0].material for arms in (source_arms, target_arms) if arms]
    heads = [choice.head_id for choice in choices]
    return Findings(
        title=_title(materials),
        answer=write_answer(tables),
        backbone=materials[0].embeddings.space.backbone,
        view=materials[0].view,
        datasets=tuple(_facts(material.tiles) for material in materials),
        findings=tables,
        choices=choices,
        split_hash=present[0].split_hash,
        choice_hash=hash_json([config.choices(), heads]),
    )


def _title(materials: list[Material]) -> str:
    names = " and ".join(material.tiles.name for material in materials)
    return f"{materials[0].embeddings.space.backbone} on {names}"


def _facts(tiles: TileSet) -> DatasetFacts:
    return DatasetFacts(
        name=tiles.name,
        n_tiles=len(tiles),
        n_groups=tiles.n_groups,
        class_names=tiles.class_names,
        licence=tiles.licence,
        citation=tiles.citation,
        synthetic=tiles.synthetic,
        pixel_fingerprint=tiles.pixel_fingerprint or "",
        label_fingerprint=tiles.label_fingerprint,
        notes=tiles.notes,
        n_skipped=tiles.n_skipped,
    )


def _count_scorings(config: ExperimentConfig, studies: Studies, findings: Findings) -> tuple[LedgerCount, ...]:
    """Enter every scored split in the ledger (law 2)."""
    scorings = []
    if studies.source is not None:
        target = f"{findings.datasets[0].name} {studies.source.scored_words}"
        scorings.append(Scoring(studies.source.split_hash, target, findings.choice_hash))
    if studies.target is not None:
        target = f"{findings.datasets[-1].name} {studies.target.part}"
        scorings.append(Scoring(studies.target.split_hash, target, findings.choice_hash))
    return tuple(record_scoring(config.ledger, scoring) for scoring in scorings)


def _report_inputs(
    config: ExperimentConfig,
    studies: Studies,
    findings: Findings,
    arms: tuple[tuple[ArmMaterial, ...], ...],
    ledger: tuple[LedgerCount, ...],
    command: str,
) -> ReportInputs:
    present = [study for study in (studies.source, studies.target) if study is not None]
    scored = [item for study in present for item in study.scored]
    provenance = {
        **collect_provenance().as_dict(),
        "run id": new_run_id(),
        "embeddings": [
            {
                "data set": material.tiles.name,
                "arm": arm.arm,
                "backbone": material.embeddings.space.backbone,
                "precision": material.embeddings.space.precision,
                "precision check": material.embeddings.precision_reason,
                "provenance": material.embeddings.provenance,
                "computed": material.embeddings.n_computed,
                "equivalent": material.embeddings.n_equivalent,
                "from the cache": len(material.tiles) - material.embeddings.n_computed,
                "space": material.embeddings.space.key,
            }
            for group in arms
            for arm in group
            for material in (arm.material,)
        ],
    }
    tiles = tuple(group[0].material.tiles for group in arms if group)
    growth = studies.source.growth if studies.source else None
    placed = next((study.embedding_map for study in present if study.embedding_map is not None), None)
    return ReportInputs(
        findings=findings,
        artifacts=Artifacts(_join_predictions(scored), join_trials(studies.source, studies.target), growth, placed),
        provenance=provenance,
        stages=(),
        ledger=ledger,
        config=config.model_dump(mode="json"),
        thumbnails=largest_errors(scored, tiles, config.loader),
        command=command,
    )


def _join_predictions(scored: list[Scored]) -> pl.DataFrame:
    return pl.concat(
        item.predictions.table.with_columns(finding=pl.lit(item.finding), arm=pl.lit(item.arm)) for item in scored
    )


def _write(
    config: ExperimentConfig,
    inputs: ReportInputs,
    studies: Studies,
    arms: tuple[tuple[ArmMaterial, ...], ...],
    watch: Stopwatch,
) -> RunResult:
    """Write the run folder; it appears whole or not at all."""
    with atomic_folder(config.out) as folder:
        with watch.stage("report"):
            for name, sweeps in (
                ("head", studies.source.finals if studies.source else ()),
                ("head-direct", studies.target.direct if studies.target else ()),
            ):
                if sweeps:
                    _save_probe(config, sweeps, folder / name)
            write_report(replace(inputs, stages=tuple(watch.stages)), folder / "report.html")
        inputs = replace(inputs, stages=tuple(watch.stages))
        save_run(inputs, folder)
        save_plots(sweep_figure(inputs.findings, inputs.artifacts), plot_name(inputs.artifacts.trials), folder)
        if inputs.artifacts.label_efficiency is not None:
            growth = growth_figure(inputs.artifacts.label_efficiency, synthetic=inputs.findings.synthetic)
            save_plots(growth, "training-groups", folder)
    n_computed = sum(arm.material.embeddings.n_computed for group in arms for arm in group)
    tracked = track_run(RunToTrack(inputs, studies.source, studies.target), config)
    return RunResult(inputs, config.out, n_computed, tracked)


def _save_probe(config: ExperimentConfig, sweeps: tuple[ArmSweep, ...], folder: Path) -> None:
    """Save the probe's head with what it needs to embed new images."""
    view = chosen_view(config.view, find_backbone(config.backbone, config.cache))
    save_bundle(Bundle(sweeps[0].result.head, config.backbone, view, config.embedding.precision), folder)


def single_dataset(config: ExperimentConfig) -> DatasetConfig:
    """Return the one data set that ``embed``, ``sweep`` and ``evaluate`` work on.

    Args:
        config: Built from a data set's recipe.

    Returns:
        Its settings.

    Raises:
        UserError: The config names none.
    """
    dataset = config.source or config.target
    if dataset is None:
        raise UserError("no data set was given", fix="add --data DIR")
    return dataset
