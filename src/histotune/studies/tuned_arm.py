"""The fine-tuned arm of an experiment: its tools, its head on a second data set, its files in the run folder."""

from __future__ import annotations

import logging
import shutil
import uuid
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from histotune.deploy.bundle import ADAPTER_BESIDE, Bundle, save_bundle
from histotune.evaluation.held_out import ArmMaterial
from histotune.heads.reference import TrainingReference
from histotune.images.augment import save_contact_sheet
from histotune.studies.setup import embed_material
from histotune.tools.atomic import remove_tree
from histotune.tools.files import hash_json, is_locked, lock
from histotune.tools.marks import TUNED

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from histotune.datasets.tileset import TileSet
    from histotune.evaluation.findings import TunedChoice
    from histotune.evaluation.held_out import SourceStudy
    from histotune.evaluation.material import Material
    from histotune.evaluation.tuned import TunedCrossFit, TuningTools
    from histotune.finetune.memory import MemoryPlan
    from histotune.finetune.outcome import TunedBackbone
    from histotune.heads.family import SweepSupport
    from histotune.studies.config import ExperimentConfig
    from histotune.studies.setup import Setup


LOG = logging.getLogger(__name__)
TUNED_FOLDER = "head-tuned"
"""Where a run keeps its fine-tuned head and adapter."""
SHEET = "augmented-tiles.png"
SHOWN_TILES = 6
NOT_CROSS_FITTED = "no held-out predictions of a fine-tuned head are kept; those of its probe say nothing of it"


@dataclass(frozen=True)
class TunedArm:
    """What fine-tunes in an experiment.

    Attributes:
        setup: The experiment's backbone, view and settings.
        tools: The network and its tiles.
        state: Folder for what an interrupted run goes on from; several processes may share it.
        own: Name of what this process alone keeps there.
    """

    setup: Setup
    tools: TuningTools
    state: Path
    own: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def adapter(self) -> Path:
        """Where the adapter is kept until the run folder has it."""
        return self.state / f"adapter-{self.own}"


def plan_tuning(setup: Setup) -> MemoryPlan | None:
    """Find out before anything is embedded whether a fine-tuning can be made, and how a step of it fits into memory.

    Args:
        setup: The resolved experiment.

    Returns:
        The plan; None where the config asks for no fine-tuning.

    Raises:
        UserError: A method that the backbone does not take, an augmentation that would move a label's region, or no
            memory for a single tile; nothing is written.
    """
    config = setup.config
    if config.finetune is None:
        return None
    from histotune.embeddings.space import Embeddings, external_space
    from histotune.finetune.memory import plan_memory
    from histotune.finetune.workbench import TunedTiles, TuningBench
    from histotune.images.augment import check_augmentation
    from histotune.studies.tuning_estimate import refuse_adapter

    refuse_adapter(setup)
    check_augmentation(setup.tiles, setup.view, config.finetune.augment)
    # A plan asks the network and the number of classes: no tile is read for it, and no embedding needed.
    no_tiles, no_space = setup.tiles.take(np.empty(0, np.int64)), external_space(setup.backbone.name, "")
    nothing = Embeddings(np.empty((0, 0), np.float32), (), (), no_space)
    of = TunedTiles(no_tiles, nothing, setup.backbone, setup.view, config.loader, config.cache)
    plan = plan_memory(TuningBench(of, config.finetune))
    LOG.info("memory: %s", plan.words)
    return plan


def start_tuned_arm(
    setup: Setup, material: Material, support: SweepSupport, plan: MemoryPlan | None
) -> TunedArm | None:
    """Return what fine-tunes the probe's backbone on some tiles; None where the config asks for nothing.

    Args:
        setup: The resolved experiment.
        material: The tiles as the frozen backbone sees them.
        support: Solved fits to read and add to.
        plan: How a step fits into memory, from :func:`plan_tuning`.
    """
    config = setup.config
    if config.finetune is None:
        return None
    from histotune.evaluation.tuned import TuningTools  # these need torch, which a study from the cache does not
    from histotune.finetune.memory import apply_plan
    from histotune.finetune.tuning import TuningRequest
    from histotune.finetune.workbench import TunedTiles, TuningBench
    from histotune.studies.tuning_estimate import announce

    depends_on = [config.choices(), material.tiles.pixel_fingerprint, material.tiles.label_fingerprint]
    state = config.cache / "finetune" / hash_json(depends_on)[:24]
    of = TunedTiles(material.tiles, material.embeddings, setup.backbone, setup.view, config.loader, config.cache)
    bench = TuningBench(of, config.finetune)
    announce(setup, bench, apply_plan(bench, plan))
    return TunedArm(setup, TuningTools(bench, TuningRequest(config.sweep, support, state)), state)


def carry_tuned(arm: TunedArm, study: SourceStudy, target: TileSet | None) -> tuple[SourceStudy, ArmMaterial | None]:
    """Return the study with the tuned head among those that go on, and the target as the tuned backbone sees it."""
    if study.tuned is None or study.tuned.final.start is None or target is None:
        return study, None
    tuned = keep_adapter(arm, study.tuned)
    request = replace(arm.setup.request(), spec=tuned.spec)
    seen = ArmMaterial(TUNED, embed_material(target, request))
    head = replace(tuned.head, space_key=seen.material.embeddings.space.key)
    return replace(study, carried=((TUNED, head),)), seen


def keep_adapter(arm: TunedArm, fit: TunedCrossFit) -> TunedBackbone:
    """Write the adapter of the final model beside the run's state."""
    from histotune.finetune.outcome import save_outcome

    # the tiles that trained are those with logits out of fold
    rows = np.flatnonzero(np.isfinite(fit.final.probe.out_of_fold_logit_NK).all(axis=1))
    remove_tree(arm.adapter)
    return save_outcome(fit.final, arm.tools.bench, rows, arm.adapter)


def save_tuned_head(arm: TunedArm, fit: TunedCrossFit, folder: Path) -> None:
    """Write the tuned head, its adapter beside it, so that the folder can be moved; nothing where the probe is kept.

    Args:
        arm: What fine-tuned.
        fit: The fine-tuned models.
        folder: The head's folder inside the run.
    """
    if fit.final.start is None:
        return
    tuned = keep_adapter(arm, fit)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(arm.adapter, folder / ADAPTER_BESIDE)
    backbone = arm.setup.config.backbone.model_copy(update={"adapter": ADAPTER_BESIDE})
    precision, reference = arm.setup.config.embedding.precision, TrainingReference(reason=NOT_CROSS_FITTED)
    save_bundle(Bundle(tuned.head, backbone, arm.setup.view, precision, reference), folder)


def save_shown_tiles(arm: TunedArm, folder: Path) -> None:
    """Write a sheet of what the network sees of some training tiles; nothing where they are not varied."""
    bench = arm.tools.bench
    if bench.config.augment.is_off:
        return
    rows = np.linspace(0, len(bench.of.tiles) - 1, min(SHOWN_TILES, len(bench.of.tiles))).astype(np.int64)
    folder.mkdir(parents=True, exist_ok=True)
    save_contact_sheet(folder / SHEET, list(bench.pixels.shown(rows, 0)), bench.config.augment, bench.config.loop.seed)


def cost_of(fit: TunedCrossFit | None) -> dict[str, object]:
    """Return what fine-tuning took, for the provenance; nothing where nothing was fine-tuned."""
    if fit is None:
        return {}
    return {"fine-tuning": {"seconds": round(fit.tune_s, 1), "outer folds": len(fit.folds)}}


def tuned_choice(arm: TunedArm | None, fit: TunedCrossFit | None) -> TunedChoice | None:
    """Return what fine-tuning decided; None where nothing was fine-tuned."""
    if arm is None or fit is None:
        return None
    from histotune.evaluation.tuned import describe_tuning

    return describe_tuning(fit, arm.tools)


# ---- Several processes on one state ----


@contextmanager
def tuning_worker(config: ExperimentConfig) -> Iterator[TuningWorker]:
    """Let other processes of the same fine-tuning know that this one works on it, from its start to its end.

    Args:
        config: The experiment; those that choose the same share their searches and trainings, wherever they write.
    """
    if config.finetune is None:
        yield TuningWorker(None)
        return
    folder = config.cache / "finetune" / "workers" / hash_json(config.choices())[:24]
    worker = TuningWorker(folder / f"{uuid.uuid4().hex}.lock")
    with ExitStack() as held:
        with worker.gate():  # nobody leaves, and removes the state, while this one enters
            held.enter_context(lock(folder / worker.name))
        yield worker
    (folder / worker.name).unlink(missing_ok=True)


@dataclass(frozen=True)
class TuningWorker:
    """One of the processes that share the state of a fine-tuning.

    Attributes:
        path: File whose lock it holds while it lives, which the system frees when it is killed; None holds none.
    """

    path: Path | None

    @property
    def name(self) -> str:
        """Name of its file."""
        return "" if self.path is None else self.path.name

    @contextmanager
    def gate(self) -> Iterator[None]:
        """Let one process at a time enter or leave."""
        if self.path is None:
            yield
            return
        with lock(self.path.parent.with_suffix(".gate.lock")):
            yield

    def forget(self, state: Path) -> None:
        """Remove what an interrupted run would have gone on from: the run is written.

        Where others still work on it they keep it, and the last of them removes it; killed ones do not count.
        """
        if self.path is None:
            return
        with self.gate():
            others = [one for one in self.path.parent.glob("*.lock") if one.name != self.name]
            if any(is_locked(one) for one in others):
                LOG.info("the state of the search is kept: another process works on it")
                return
            for one in others:
                one.unlink(missing_ok=True)
            remove_tree(state)
