"""One experiment from files to report; the stages stand in the order of the data."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

import polars as pl

from histotune.datasets.dataset_spec import group_word
from histotune.deploy.bundle import Bundle, save_bundle
from histotune.evaluation.answer import write_answer
from histotune.evaluation.external import study_target
from histotune.evaluation.findings import Artifacts, DatasetFacts, Findings, LedgerCount
from histotune.evaluation.held_out import ArmMaterial, StudySettings, study_source
from histotune.evaluation.ledger import Scoring, record_scoring
from histotune.evaluation.plan import scored_part
from histotune.heads.family import SweepSupport
from histotune.heads.fit_cache import FitCache
from histotune.heads.reference import training_reference
from histotune.heads.sweep import require_device
from histotune.report.page import write_report
from histotune.report.pictures import largest_errors
from histotune.report.result_tables import tables_of
from histotune.report.run_folder import ReportInputs, save_run
from histotune.report.svg import PLOTS, Drawings
from histotune.studies.error_maps import explain_errors
from histotune.studies.setup import claimed_folder, embed_arms, embed_twins, set_up_experiment
from histotune.studies.tracking import join_trials, new_run_id, require_wandb, track_run
from histotune.studies.tuned_arm import (
    TUNED_FOLDER,
    carry_tuned,
    cost_of,
    plan_tuning,
    save_shown_tiles,
    save_tuned_head,
    start_tuned_arm,
    tuned_choice,
    tuning_worker,
)
from histotune.tools.atomic import atomic_folder
from histotune.tools.errors import UserError
from histotune.tools.files import hash_json
from histotune.tools.marks import PROBE
from histotune.tools.progress import Stopwatch
from histotune.tools.provenance import collect_provenance
from histotune.tools.table import ShownAsTables, Table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from histotune.datasets.tileset import TileSet
    from histotune.evaluation.external import TargetStudy
    from histotune.evaluation.held_out import SourceStudy
    from histotune.evaluation.material import Material
    from histotune.evaluation.tuned import TunedCrossFit
    from histotune.finetune.memory import MemoryPlan
    from histotune.heads.head import Head, SweepResult
    from histotune.studies.config import ExperimentConfig
    from histotune.studies.setup import Setup
    from histotune.studies.tuned_arm import TunedArm


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult(ShownAsTables):
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

    def tables(self) -> tuple[Table, ...]:
        """Return what was found."""
        return tables_of(self.inputs.findings)


@dataclass(frozen=True)
class Embedded:
    """An experiment's data as every arm sees them; empty where there is no source, or no target.

    Attributes:
        source: The source as every arm sees it.
        target: The target.
        twins: Some of the source's tiles as further draws of the random weights see them.
    """

    source: tuple[ArmMaterial, ...]
    target: tuple[ArmMaterial, ...]
    twins: tuple[Material, ...] = ()

    @property
    def materials(self) -> tuple[Material, ...]:
        """Everything that was embedded."""
        return (*(arm.material for arms in self.both for arm in arms), *self.twins)

    @property
    def both(self) -> tuple[tuple[ArmMaterial, ...], ...]:
        """The arms of the data sets that are there."""
        return tuple(arms for arms in (self.source, self.target) if arms)


@dataclass(frozen=True)
class Studies:
    """What was found on the source and on the target, and what fine-tuned."""

    source: SourceStudy | None
    target: TargetStudy | None
    arm: TunedArm | None = None

    def probes(self) -> Iterator[Head]:
        """Yield every head of the probe that scored tiles."""
        sweeps = (*(self.source.finals if self.source else ()), *(self.target.direct if self.target else ()))
        for one in sweeps:
            if one.arm == PROBE:
                yield from (result.head for result in (one.result, *one.folds))

    @property
    def tuned(self) -> TunedCrossFit | None:
        """The fine-tuned models, of the source where there is one."""
        return next((study.tuned for study in (self.source, self.target) if study is not None), None)


def run_experiment(config: ExperimentConfig, command: str) -> RunResult:
    """Read, embed, sweep, score and report one experiment.

    Args:
        config: What to do; see :class:`~histotune.studies.config.ExperimentConfig`.
        command: The command line, for the report.

    Returns:
        The finished run; its folder appears only when everything is done.

    Raises:
        UserError: Anything the user can mend; nothing is left half-written.
    """
    with claimed_folder(config):
        require_wandb(config.tracking)
        require_device(config.sweep)
        _require_search(config)
        watch = Stopwatch()
        setup = set_up_experiment(config, watch)
        plan = plan_tuning(setup)
        with tuning_worker(setup.config) as worker:
            embedded = embed_experiment(setup, watch)
            studies = _study(setup, embedded, plan, watch)
            findings = _findings(setup.config, studies, embedded)
            ledger = _count_scorings(setup.config, studies, findings)
            inputs = _report_inputs(setup, studies, findings, embedded, command)
            result = _write(setup, replace(inputs, ledger=ledger), studies, embedded, watch)
            if studies.arm is not None:
                worker.forget(studies.arm.state)
        return result


def _require_search(config: ExperimentConfig) -> None:
    """Find out before anything is computed whether a search can be made; torch is not imported where there is none."""
    if config.finetune is not None and config.finetune.search is not None:
        from histotune.finetune.search import require_search

        require_search(config.finetune)


def embed_experiment(setup: Setup, watch: Stopwatch) -> Embedded:
    """Embed an experiment's data for every arm: all that several processes do together."""
    config = setup.config
    source, target = (setup.tiles, setup.external) if config.source is not None else (None, setup.tiles)
    source_arms = embed_arms(setup, config.source, source, watch)
    twins = embed_twins(setup, source_arms[0].material.tiles, watch) if source_arms else ()
    return Embedded(source_arms, embed_arms(setup, config.target, target, watch), twins)


def _study(setup: Setup, embedded: Embedded, plan: MemoryPlan | None, watch: Stopwatch) -> Studies:
    config = setup.config
    support = SweepSupport(FitCache.at(config.cache))
    arm = start_tuned_arm(setup, embedded.both[0][0].material, support, plan)
    tools = None if arm is None else arm.tools
    settings = StudySettings(config.evaluation, config.sweep, config.interval, setup.split, support, tools)
    source, target, target_arms = None, None, embedded.target
    if embedded.source:
        with watch.stage(f"sweep and score {_announced(embedded.source)}"):
            source = study_source(embedded.source, settings, embedded.twins)
    if source is not None and arm is not None:
        source, target_arms = _carried(arm, source, embedded.target, watch)
    if embedded.target:
        with watch.stage(f"sweep and score {_announced(embedded.target)}"):
            target = study_target(target_arms, source, settings, scored_part(settings.evaluation))
    return Studies(source, target, arm)


def _announced(arms: tuple[ArmMaterial, ...]) -> str:
    """Say what begins, which may take minutes; return the data set's name."""
    name = arms[0].material.tiles.name
    log.info("Choosing heads for %s by cross-validation and scoring held-out %ss", name, group_word(name))
    return name


def _carried(
    arm: TunedArm, source: SourceStudy, target: tuple[ArmMaterial, ...], watch: Stopwatch
) -> tuple[SourceStudy, tuple[ArmMaterial, ...]]:
    """Let the fine-tuned backbone see the target, where there is one."""
    if not target:
        return source, target
    with watch.stage(f"embed {target[0].material.tiles.name} (fine-tuned)"):
        source, seen = carry_tuned(arm, source, target[0].material.tiles)
    return source, target if seen is None else (target[0], seen, *target[1:])


def _findings(config: ExperimentConfig, studies: Studies, embedded: Embedded) -> Findings:
    present = [study for study in (studies.source, studies.target) if study is not None]
    tables = tuple(finding for study in present for finding in study.findings)
    if not tables:
        raise UserError("there is nothing to score", fix="give a data set with labels: histotune run --help")
    choices = tuple(study.choice for study in present if study.choice is not None)
    materials = [arms[0].material for arms in embedded.both]
    heads = [choice.head_id for choice in choices]
    backbone, names = materials[0].embeddings.space.backbone, (material.tiles.name for material in materials)
    return Findings(
        title=f"{backbone} on {' and '.join(names)}",
        answer=write_answer(tables, choices),
        backbone=backbone,
        view=materials[0].view,
        datasets=tuple(_facts(material.tiles) for material in materials),
        findings=tables,
        choices=choices,
        split_hash=present[0].split_hash,
        choice_hash=hash_json([config.choices(), heads]),
        tuned=tuned_choice(studies.arm, studies.tuned),
    )


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
    setup: Setup,
    studies: Studies,
    findings: Findings,
    embedded: Embedded,
    command: str,
) -> ReportInputs:
    config = setup.config
    present = [study for study in (studies.source, studies.target) if study is not None]
    scored = [item for study in present for item in study.scored]
    provenance = {
        **collect_provenance().as_dict(),
        "run id": new_run_id(),
        **cost_of(studies.tuned),
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
            for arm in chain(*embedded.both)
            for material in (arm.material,)
        ],
    }
    tiles = tuple(arms[0].material.tiles for arms in embedded.both)
    predictions = pl.concat(
        item.predictions.table.with_columns(finding=pl.lit(item.finding), arm=pl.lit(item.arm)) for item in scored
    )
    efficiency = studies.source.label_efficiency if studies.source else None
    placed = next((study.embedding_map for study in present if study.embedding_map is not None), None)
    return ReportInputs(
        findings=findings,
        artifacts=Artifacts(predictions, join_trials(studies.source, studies.target), efficiency, placed),
        provenance=provenance,
        stages=(),
        ledger=(),
        config=config.model_dump(mode="json"),
        thumbnails=explain_errors(largest_errors(scored, tiles, config.loader), studies.probes(), tiles, setup),
        command=command,
    )


def _probe_bundle(setup: Setup, result: SweepResult, material: Material) -> Bundle:
    """Return the probe with all that is saved beside it."""
    reference = training_reference(result, material.embeddings, material.tiles, material.input_mpp_N)
    return Bundle(result.head, setup.config.backbone, setup.view, setup.config.embedding.precision, reference)


def _write(setup: Setup, inputs: ReportInputs, studies: Studies, embedded: Embedded, watch: Stopwatch) -> RunResult:
    """Write the run folder; it appears whole or not at all."""
    config = setup.config
    with atomic_folder(config.out) as folder:
        with watch.stage("report"):
            for name, sweeps, arms in (
                ("head", studies.source.finals if studies.source else (), embedded.source),
                ("head-direct", studies.target.direct if studies.target else (), embedded.target),
            ):
                if sweeps:
                    save_bundle(_probe_bundle(setup, sweeps[0].result, arms[0].material), folder / name)
            if studies.arm is not None and studies.tuned is not None:
                save_tuned_head(studies.arm, studies.tuned, folder / TUNED_FOLDER)
                save_shown_tiles(studies.arm, folder / "plots")
            drawings = Drawings(folder / PLOTS, (config.out / PLOTS,))
            write_report(replace(inputs, stages=tuple(watch.stages)), folder / "report.html", drawings)
        inputs = replace(inputs, stages=tuple(watch.stages))
        save_run(inputs, folder)
    n_computed = sum(material.embeddings.n_computed for material in embedded.materials)
    tracked = track_run(inputs, studies.source, studies.target, config)
    return RunResult(inputs, config.out, n_computed, tracked)
