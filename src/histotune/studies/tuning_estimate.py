"""How much a fine-tuning of an experiment is, told before it starts."""

# N tiles

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from histotune.backbones.catalog import random_twin
from histotune.backbones.weights import weights_are_here
from histotune.datasets.read import SUBSET
from histotune.embeddings.estimate import request_space
from histotune.embeddings.space import Embeddings
from histotune.evaluation.plan import part_rows, plan_source, scored_part
from histotune.finetune.estimate_tuning import TuningEstimate, estimate_tuning
from histotune.finetune.memory import MemoryPlan, apply_plan
from histotune.finetune.workbench import TunedTiles, TuningBench
from histotune.studies.setup import Setup, set_up_experiment
from histotune.tools.errors import UserError
from histotune.tools.progress import Stopwatch
from histotune.tools.ranks import process_rank

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.datasets.tileset import TileSet
    from histotune.studies.config import ExperimentConfig

    Bools = NDArray[np.bool_]


LOG = logging.getLogger(__name__)
STAND_IN = "The weights are not on this machine: timed with random ones of the same architecture."
SHORT_S = 3.0
"""Seconds that a run spends on timing steps before it starts."""


def estimate_finetuning(config: ExperimentConfig) -> TuningEstimate:
    """Say how many trainings a fine-tuning means, how long they take, and how a step fits into memory.

    Nothing is embedded and nothing trained; content hashes of the tiles are remembered.

    Args:
        config: An experiment that fine-tunes.

    Returns:
        Numbers, hours, memory, room and prices.

    Raises:
        UserError: Nothing is fine-tuned, not even one tile fits, or anything that stops the run itself.
    """
    if config.finetune is None:
        raise UserError("nothing is fine-tuned here, so there is nothing to estimate", fix="histotune finetune --help")
    setup = set_up_experiment(config, Stopwatch())
    refuse_adapter(setup)
    here = weights_are_here(setup.backbone)
    spec = setup.backbone if here else random_twin(setup.backbone)
    none = Embeddings(np.empty((0, 0), np.float32), (), (), request_space(replace(setup.request(), spec=spec)))
    bench = TuningBench(TunedTiles(setup.tiles, none, spec, setup.view, config.loader, config.cache), config.finetune)
    plan = apply_plan(bench)
    found = estimate_tuning(bench, training_sets(setup.tiles, setup.config), plan)
    return replace(found, notes=(*kept_of(setup.tiles), *found.notes, *(() if here else (STAND_IN,))))


def kept_of(tiles: TileSet) -> tuple[str, ...]:
    """Return what was kept of a data set of which a part was asked for; nothing for a whole one."""
    return tuple(note for note in tiles.notes if note.startswith(f"{SUBSET} "))


def refuse_adapter(setup: Setup) -> None:
    """Refuse to fine-tune a backbone that has an adapter already."""
    if setup.backbone.adapter:
        raise UserError(
            "an adapter on an adapter can't be trained: it would belong to no backbone that others have",
            value=setup.backbone.adapter,
            fix="histotune backbones merge --backbone B --adapter A --out FOLDER, then --backbone FOLDER",
        )


def announce(setup: Setup, bench: TuningBench, plan: MemoryPlan) -> None:
    """Say how many trainings a run means and about how long they take, before the first one starts."""
    if process_rank().leads:
        found = estimate_tuning(bench, training_sets(bench.of.tiles, setup.config), plan, SHORT_S)
        LOG.info("fine-tuning: %s", found.words)
        for note in kept_of(bench.of.tiles):
            LOG.info("%s", note)


def training_sets(tiles: TileSet, config: ExperimentConfig) -> tuple[Bools, ...]:
    """Return which tiles may train, per model: that of every outer fold, and the final one where it is another.

    Args:
        tiles: The source, or the target where there is no source.
        config: The experiment.

    Returns:
        A mask over the tiles per training set.
    """
    labelled_N = tiles.labels_N >= 0
    if config.source is None:
        train_N, fold_N = _official_parts(tiles, config)
    else:
        plan = plan_source(tiles, config.evaluation).fit
        train_N, fold_N = plan.train_N, plan.fold_N
    train_N = train_N & labelled_N
    folds = [train_N & (fold_N != fold) for fold in sorted({int(fold) for fold in fold_N[fold_N >= 0]})]
    same = any(np.array_equal(one, train_N) for one in folds)  # a part is scored: its model is the final one
    return tuple(folds) if same else (*folds, train_N)


def _official_parts(tiles: TileSet, config: ExperimentConfig) -> tuple[Bools, NDArray[np.int64]]:
    """Return the training part of a target, and fold 0 where it is scored."""
    fold_N = np.full(len(tiles), -1, dtype=np.int64)
    fold_N[part_rows(tiles, scored_part(config.evaluation))] = 0
    return (tiles.table["split"].fill_null("") == "train").to_numpy(), fold_N
