"""Candidates of one fine-tuning: each is trained on the tuning parts of a training set and judged by their groups."""

# N tiles, n tiles of the tuning groups, K classes, E epochs scored (the start is 0)

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from histotune.datasets.splits.split import tile_groups
from histotune.finetune.judge import TuningCurve, TuningJudge, first_of_window
from histotune.finetune.kept_training import KeptTraining, TrainingOutcome
from histotune.finetune.loop import TrainingTask
from histotune.tools.files import hash_bytes, hash_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from histotune.finetune.config import FinetuneConfig, TrialSettings
    from histotune.finetune.workbench import StartingPoint, TuningBench
    from histotune.heads.head import SweepResult

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]
    Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class TuningPart:
    """Who trains and who judges once.

    Attributes:
        train_N: Tiles that are trained on.
        rows: Tiles of the tuning groups, in the order of their ids.
    """

    train_N: Bools
    rows: Int


class EpochWatcher(Protocol):
    """Whoever follows a candidate while it trains."""

    def epoch_done(self, part: int, epoch: int, loss: float) -> None:
        """Hear the tuning loss of one part after an epoch.

        Raises:
            TrialStoppedError: The candidate is not to go on.
        """
        ...


class TrialStoppedError(Exception):
    """A candidate that its watcher stops."""


@dataclass(frozen=True)
class StatePlace:
    """Where the trainings of one training set are kept.

    Attributes:
        folder: The folder; None keeps nothing.
        name: Of the training set.
    """

    folder: Path | None
    name: str

    def training(self, name: str, config: FinetuneConfig, trained: Sequence[str], tuned: Sequence[str]) -> KeptTraining:
        """Return a training's files.

        Args:
            name: Of the training, among those of this training set.
            config: A candidate's config.
            trained: Ids of the tiles that are trained on.
            tuned: Ids of the tiles that judge.
        """
        name = f"{self.name}-{name}"
        on = {"trained on": hash_bytes(*trained), "tuned on": hash_bytes(*tuned)}
        identity = {"finetune": config.choices(), "part": name, "best epoch": "mean of a window", **on}
        return KeptTraining(self.folder, name, identity, config.loop.save_minutes * 60.0)


def rows_by_id(bench: TuningBench, mask_N: Bools) -> Int:
    """Return the marked rows in the order of their tiles' ids, so that the order of the tile set changes nothing."""
    ids = bench.of.tiles.tile_ids
    return np.array(sorted(np.flatnonzero(mask_N), key=lambda row: ids[row]), dtype=np.int64)


def tile_ids(bench: TuningBench, mask_N: Bools) -> list[str]:
    """Return the ids of the marked tiles in their order."""
    ids = bench.of.tiles.tile_ids
    return [ids[row] for row in rows_by_id(bench, mask_N)]


def training_task(bench: TuningBench, start: StartingPoint, train_rows: Int, tuning_rows: Int) -> TrainingTask:
    """Return the training of a starting point, its tokens computed."""
    bench.prepare(start.inputs, train_rows, tuning_rows)
    tiles = bench.of.tiles
    groups, n_views = tile_groups(tiles), bench.n_views
    return TrainingTask(
        start.model, start.rate_of, start.inputs, tiles.labels_N, groups, train_rows, tuning_rows, n_views
    )


@dataclass
class Candidates:
    """Trains candidates and remembers what tuning groups say of them.

    Attributes:
        bench: The network and the tiles.
        parts: Who trains and who judges; one part is a hold-out.
        probes: The probe of every part.
        place: Where trainings are kept.
    """

    bench: TuningBench
    parts: tuple[TuningPart, ...]
    probes: tuple[SweepResult, ...]
    place: StatePlace
    _curves: dict[TrialSettings, TuningCurve] = field(default_factory=dict, repr=False)
    _least: float = math.inf
    _best: TrialSettings | None = None
    _weights: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Number the judging groups."""
        self.rows = np.concatenate([part.rows for part in self.parts])
        self.judge = TuningJudge.of(self.bench.of.tiles, self.rows)

    @property
    def few(self) -> bool:
        """Whether too few groups judge to tell a best epoch."""
        return self.judge.n_groups < self.bench.config.least_groups

    @property
    def sizes(self) -> list[int]:
        """Tuning tiles of each part, in order."""
        return [len(part.rows) for part in self.parts]

    @property
    def keeps_weights(self) -> bool:
        """Whether what its groups judge is what is returned."""
        return len(self.parts) == 1

    def curve(self, settings: TrialSettings, watcher: EpochWatcher | None = None) -> TuningCurve:
        """Return what the tuning groups say of a candidate; it is trained once.

        Raises:
            TrialStoppedError: The watcher stopped it.
            UserError: Its loss is not finite.
        """
        if settings in self._curves:
            return self._curves[settings]
        outcomes = [self._trained(settings, part, watcher) for part in range(len(self.parts))]
        logit_EnK = np.concatenate([one.logit_EnK for one in outcomes], axis=1)
        loss_EG = np.stack([self.judge.losses(logit_nK) for logit_nK in logit_EnK])
        rank_EG = np.stack([self.judge.rankings(logit_nK, self.sizes) for logit_nK in logit_EnK])
        curve = self._curves[settings] = TuningCurve(settings, loss_EG, rank_EG, logit_EnK)
        if self.keeps_weights:
            self._keep_best(curve, outcomes[0])
        return curve

    def weights(self, settings: TrialSettings) -> dict[str, torch.Tensor]:
        """Return a hold-out's parameters at their best epoch."""
        if settings == self._best and self._weights:
            return self._weights
        return self._trained(settings, 0, None, needs_weights=True).tensors

    def _trained(
        self, settings: TrialSettings, number: int, watcher: EpochWatcher | None, *, needs_weights: bool = False
    ) -> TrainingOutcome:
        """Train a candidate on one part, or read what came of it when that was done before."""
        part, kept = self.parts[number], self._kept(settings, number)
        judge = TuningJudge.of(self.bench.of.tiles, part.rows)
        watch = _Watch(judge, number, settings.epochs, watcher, few=self.few)
        with kept.alone():
            outcome = kept.outcome()
            if outcome is not None and (outcome.tensors or not needs_weights):
                watch.hear(outcome.logit_EnK)
                return outcome
            bench = self.bench.with_config(settings.applied(self.bench.config))
            start = bench.start(self.probes[number].head)
            task = training_task(bench, start, rows_by_id(bench, part.train_N), part.rows)
            try:
                watch.hear(kept.past_logits())
                return kept.run(task, bench.config.loop, watch)
            except TrialStoppedError:
                kept.give_up()
                raise

    def _kept(self, settings: TrialSettings, number: int) -> KeptTraining:
        """Return the files of a candidate's training on one part."""
        part, ids = self.parts[number], self.bench.of.tiles.tile_ids
        name = f"{hash_json(settings.model_dump(mode='json'))[:12]}-{number}"
        config = settings.applied(self.bench.config)
        return self.place.training(name, config, tile_ids(self.bench, part.train_N), [ids[row] for row in part.rows])

    def _keep_best(self, curve: TuningCurve, outcome: TrainingOutcome) -> None:
        """Keep the weights of the best candidate so far and let those of the others go."""
        least = curve.least(few=self.few)
        loser: TrialSettings | None = curve.settings
        if least < self._least:
            loser, self._best, self._least, self._weights = self._best, curve.settings, least, outcome.tensors
        if loser is not None:
            self._kept(loser, 0).forget_weights()


class _Watch:
    """The criterion of one training: what its tuning groups choose an epoch by. The start is never its best epoch."""

    def __init__(
        self, judge: TuningJudge, part: int, n_epochs: int, watcher: EpochWatcher | None, *, few: bool
    ) -> None:
        self._judge, self._part, self._n_epochs, self._watcher, self._few = judge, part, n_epochs, watcher, few
        self._start: Float | None = None
        self._losses: list[float] = []

    def __call__(self, logit_nK: Float) -> float:
        """Return what the best epoch has least of."""
        if self._start is None or np.array_equal(logit_nK, self._start):  # again after a loss that was not finite
            self._start, self._losses = logit_nK, []
            return math.inf
        self._losses.append(self._judge.mean(logit_nK))
        epoch = len(self._losses)
        if self._watcher is not None:
            self._watcher.epoch_done(self._part, epoch, self._losses[-1])
        window = self._losses[first_of_window(epoch, self._n_epochs) - 1 :]
        return -float(epoch) if self._few else float(np.mean(window))

    def hear(self, logit_EnK: Float | None) -> None:
        """Go through epochs that were scored before."""
        for logit_nK in () if logit_EnK is None else logit_EnK:
            self(logit_nK)
