"""Fine-tune one training set: start at its probe, let groups that took no part judge, return what they bear out.

The probe is selected and refitted without the tuning groups. Whether fine-tuning helped is asked of those groups alone,
paired by group, and the probe is kept unless the tuned model is better by a standard error.
"""

# N tiles, n tiles of the tuning groups, K classes, G tuning groups, E epochs scored (the start is 0)

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl
import torch

from histotune.datasets.splits.folds import DRAWN, assign_group_folds, draw_groups
from histotune.datasets.splits.split import tile_groups
from histotune.finetune.candidates import Candidates, StatePlace, TuningPart, rows_by_id, tile_ids, training_task
from histotune.finetune.config import TrialSettings
from histotune.finetune.edges import edge_warnings
from histotune.finetune.judge import Chosen, TuningCurve, choose_epoch, tuned_threshold
from histotune.finetune.loop import NonFiniteLossError, tile_logits
from histotune.finetune.search import SearchedTrial, SearchPlace, TrialSearch, require_search
from histotune.heads.calibrate import calibrate
from histotune.heads.family import SweepSupport, SweepTask
from histotune.heads.head import Calibration, Decision, SweepResult, calibrated_logits, softmax
from histotune.heads.sweep import sweep
from histotune.tools.errors import UserError
from histotune.tools.files import hash_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from histotune.finetune.candidates import EpochWatcher
    from histotune.finetune.config import TuningSearch
    from histotune.finetune.tuned_model import TunedModel
    from histotune.finetune.workbench import StartingPoint, TuningBench
    from histotune.heads.config import SweepConfig

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]
    Bools = NDArray[np.bool_]


LOG = logging.getLogger(__name__)
Verdict = Literal["tuned", "kept"]
SAID: dict[Verdict, str] = {"tuned": "tuned", "kept": "probe kept"}


@dataclass(frozen=True)
class TuningTrial:
    """One candidate and how it ended.

    Attributes:
        settings: The candidate.
        end: ``finished``, ``stopped`` early by the search, or ``diverged``: its loss was not finite.
        epoch: The epoch that its losses choose, or the one after which it was stopped; 0 where it diverged.
        loss: Mean log-loss of the tuning groups then, nats; NaN where it diverged.
        loss_se: Its standard error over groups; NaN unless it finished.
        chosen: Whether it is the one that was chosen.
    """

    settings: TrialSettings
    end: Literal["finished", "stopped", "diverged"]
    epoch: int
    loss: float
    loss_se: float
    chosen: bool = False


@dataclass(frozen=True)
class TuningDecision:
    """What is returned for one training set, and why.

    Attributes:
        verdict: ``tuned``, or ``kept`` where the probe is.
        rate: Chosen learning rate; NaN where there was nothing to choose.
        epoch: Epochs that were trained.
        gain: By how much the loss on the tuning groups lay below the probe's, nats, groups being asked of the
            candidates and epochs that halves of the others choose.
        gain_se: Its standard error over groups.
        n_groups: Number of tuning groups.
        reason: The decision in words.
        curves: What the tuning groups said of every candidate that finished.
        calibration: Of the tuned model, from the logits of its tuning tiles.
        decision: Its threshold, from the same.
        settings: The chosen candidate; None where there was nothing to choose.
        trials: Every candidate, in the order in which they were asked.
        edges: Sentences about chosen values at the end of what was tried, with the wider range to try.
        rank_gain: By how much the AUROC lay above the probe's; NaN where no two tuning groups can be compared.
        rank_gain_se: Its standard error over groups.
    """

    verdict: Verdict
    rate: float
    epoch: int
    gain: float
    gain_se: float
    n_groups: int
    reason: str
    curves: tuple[TuningCurve, ...] = field(default=(), repr=False)
    calibration: Calibration = field(default_factory=Calibration)
    decision: Decision = field(default_factory=Decision)
    settings: TrialSettings | None = None
    trials: tuple[TuningTrial, ...] = field(default=(), repr=False)
    edges: tuple[str, ...] = ()
    rank_gain: float = float("nan")
    rank_gain_se: float = float("nan")

    def table(self) -> pl.DataFrame:
        """Return a row per candidate: its settings, how it ended, its best epoch and loss, and whether it was chosen.

        The columns are those of a sweep's table of trials, as far as they have the same meaning.
        """
        rows = [
            {
                **one.settings.model_dump(),
                "end": one.end,
                "epoch": one.epoch,
                "log_loss": one.loss,
                "log_loss_se": one.loss_se,
                "diverged": one.end == "diverged",
                "chosen": one.chosen,
            }
            for one in self.trials
        ]
        return pl.DataFrame(rows, infer_schema_length=None)


@dataclass(frozen=True)
class TunedSet:
    """A training set, fine-tuned.

    Attributes:
        probe: The probe of the whole training set.
        decided: What is returned and why.
        start: The trained model, and what it takes; None where no model was trained to the end.
    """

    probe: SweepResult
    decided: TuningDecision
    start: StartingPoint | None = None

    def logits(self, rows: Int) -> Float:
        """Return the tuned model's logits of some tiles (n, K)."""
        if self.start is None:
            raise ValueError("no model was tuned on this training set")
        return tile_logits(self.start.model, self.start.inputs, rows)

    def probabilities(self, logit_nK: Float) -> Float:
        """Return calibrated probabilities of the tuned model's logits."""
        return softmax(calibrated_logits(self.decided.calibration, logit_nK))


@dataclass(frozen=True)
class TuningRequest:
    """What a fine-tuning needs besides its network and tiles.

    Attributes:
        sweep: How the probe is found.
        support: Solved fits to read and add to.
        state: Folder for checkpoints, finished trainings and searches; None keeps none.
    """

    sweep: SweepConfig
    support: SweepSupport = field(default_factory=SweepSupport)
    state: Path | None = None


def tune_set(bench: TuningBench, train_N: Bools, request: TuningRequest, name: str = "all") -> TunedSet:
    """Fine-tune on one training set and decide, on groups that took no part, what to return.

    Args:
        bench: The network and the tiles.
        train_N: Tiles that may be learned from.
        request: The probe's sweep, and where state is kept.
        name: Of this training set, in checkpoints.

    Returns:
        The probe, the decision, and the tuned model where it is returned.

    Raises:
        UserError: The probe itself can't be trained, or every candidate's loss is not finite.
    """
    require_search(bench.config)
    parts, why_not = tuning_parts(bench, train_N)
    probes, too_few = find_probes(bench, [train_N, *(part.train_N for part in parts)], request)
    if too_few or not parts:
        return TunedSet(probes[0], _no_tuning(too_few or why_not))
    # a name stands for its tiles, too: under another split the first fold holds others
    place = StatePlace(request.state, f"{name}-{hash_bytes(*tile_ids(bench, train_N))[:8]}")
    candidates = Candidates(bench, parts, probes[1:], place)
    decided = decide_tuning(candidates, try_candidates(candidates))
    for words in decided.edges:
        LOG.warning("%s (training set %s)", words, name)
    if decided.verdict == "kept" or decided.settings is None:
        return TunedSet(probes[0], decided)
    if candidates.keeps_weights:  # a hold-out: the weights that its groups judged are what is returned
        start = bench.with_config(decided.settings.applied(bench.config)).start(probes[1].head)
        load_trained(start.model, candidates.weights(decided.settings))
        return TunedSet(probes[0], decided, start)
    return TunedSet(probes[0], decided, _refitted(candidates, train_N, probes[0], decided))


def tuning_parts(bench: TuningBench, train_N: Bools) -> tuple[tuple[TuningPart, ...], str]:
    """Deal the groups of a training set into those that train and those that judge; none, with the reason, if few."""
    config, tiles = bench.config, bench.of.tiles
    rows = rows_by_id(bench, train_N)
    groups = tile_groups(tiles)
    own = [groups[row] for row in rows]
    if len(set(own)) < 2:
        return (), "one group can't train and judge at once"
    by_folds = config.inner == "folds" or (config.inner == "auto" and bench.cuts)
    labels_n, n_classes, seed = tiles.labels_N[rows], len(tiles.class_names), config.loop.seed
    if by_folds:
        n_folds = min(config.inner_folds, len(set(own)))
        fold_by_group = assign_group_folds(own, labels_n, n_classes, n_folds, seed)
        judging = [rows[np.array([fold_by_group[group] == fold for group in own])] for fold in range(n_folds)]
    else:
        permille = min(max(round(1000 * config.tuning_share), 1), 999)
        side_by_group = draw_groups(own, labels_n, n_classes, permille, seed).side_by_group
        judging = [rows[np.array([side_by_group[group] == DRAWN for group in own])]]
    parts = tuple(TuningPart(_without(train_N, one), one) for one in judging)
    n_known = len(np.unique(labels_n))
    if any(len(np.unique(tiles.labels_N[part.train_N])) < n_known for part in parts):
        return (), "without the tuning groups a class would be missing"
    return parts, ""


def _without(train_N: Bools, rows: Int) -> Bools:
    inside_N = train_N.copy()
    inside_N[rows] = False
    return inside_N


def find_probes(
    bench: TuningBench, train_sets: Sequence[Bools], request: TuningRequest
) -> tuple[tuple[SweepResult, ...], str]:
    """Return the probe of every training set; that of the first alone, and why, where another has none."""
    tiles, embeddings = bench.of.tiles, bench.of.embeddings
    default = bench.of.spec.default_pooling

    def probes(sets: Sequence[Bools]) -> tuple[SweepResult, ...]:
        """Sweep several training sets together."""
        task = SweepTask(tiles.labels_N, tile_groups(tiles), tiles.class_names, np.stack(sets), "grouped", default, ())
        return sweep(embeddings, task, request.sweep, request.support)

    try:
        return probes(train_sets), ""
    except UserError as error:
        if len(train_sets) == 1:
            raise
        return probes(train_sets[:1]), f"without the tuning groups there is no probe: {error.what}"


def try_candidates(candidates: Candidates) -> tuple[SearchedTrial, ...]:
    """Train every candidate: those of the search, or one per learning rate.

    Raises:
        UserError: The loss of every one is not finite.
    """
    config = candidates.bench.config
    trials = _grid(candidates) if config.search is None else _search(candidates, config.search)
    if not any(one.end == "finished" for one in trials):
        raise UserError(
            "the loss of every trial is not finite",
            value=f"{len(trials)} trials",
            fix="--set finetune.search.space.lr=[1e-6,1e-4], or finetune.loop.precision=fp32",
        )
    return trials


def _grid(candidates: Candidates) -> tuple[SearchedTrial, ...]:
    """Try one candidate per learning rate; one whose loss is not finite is left out if there are others."""
    config, trials, own = candidates.bench.config, [], TrialSettings.of(candidates.bench.config)
    for rate in dict.fromkeys(config.rates or (config.loop.lr,)):
        settings = own.model_copy(update={"lr": rate})
        try:
            candidates.curve(settings)
        except NonFiniteLossError as error:
            if len(config.rates) < 2:
                raise
            LOG.warning("the learning rate %g is left out: %s", rate, error.what)
            trials.append(SearchedTrial(settings, "diverged", 0, float("nan")))
        else:
            trials.append(SearchedTrial(settings, "finished", 0, float("nan")))
    return tuple(trials)


def _search(candidates: Candidates, search: TuningSearch) -> tuple[SearchedTrial, ...]:
    folder, name = candidates.place.folder, candidates.place.name
    place = SearchPlace(None if folder is None else folder / "search", name, len(candidates.parts))

    def attempt(settings: TrialSettings, watcher: EpochWatcher) -> float:
        """Train a candidate and return its least tuning loss."""
        curve = candidates.curve(settings, watcher)
        return curve.least(few=candidates.few)

    return TrialSearch(candidates.bench.config, search, place).run(attempt)


def decide_tuning(candidates: Candidates, trials: Sequence[SearchedTrial]) -> TuningDecision:
    """Choose candidate and epoch by loss; keep the probe unless loss or AUROC of the tuning groups clearly beats it."""
    config, few, n_groups = candidates.bench.config, candidates.few, candidates.judge.n_groups
    finished = dict.fromkeys(one.settings for one in trials if one.end == "finished")
    curves = [candidates.curve(settings) for settings in finished]
    # With few tuning groups a best epoch is chance: the last one of the schedule is taken.
    chosen = choose_epoch(curves, few=few)
    better = chosen.beats_probe(config.standard_errors)
    fixed = f"; fewer than {config.least_groups} of them, so the last epoch is taken" if few else ""
    kept = "" if better or not config.keep_tuned else "; returned all the same, as asked for"
    verdict: Verdict = "tuned" if better or config.keep_tuned else "kept"
    crossfitted = candidates.judge.crossfitted(chosen.curve.logit_EnK[chosen.epoch], candidates.sizes)
    calibration = calibrate(crossfitted, "temperature")
    settings = chosen.curve.settings
    return TuningDecision(
        verdict=verdict,
        rate=settings.lr,
        epoch=chosen.epoch,
        gain=chosen.loss.mean,
        gain_se=chosen.loss.error,
        rank_gain=chosen.rank.mean,
        rank_gain_se=chosen.rank.error,
        n_groups=n_groups,
        reason=f"{SAID[verdict]}: {_said(chosen)}, {n_groups} tuning groups{fixed}{kept}",
        curves=tuple(curves),
        calibration=calibration,
        decision=tuned_threshold(crossfitted, calibration),
        settings=settings,
        trials=tuple(_told(one, candidates, settings) for one in trials),
        edges=edge_warnings(config, settings),
    )


def _said(chosen: Chosen) -> str:
    """Return the gains of a choice in words."""
    loss, rank = chosen.loss, chosen.rank
    side = "above" if loss.mean < 0 else "below"
    said = f"log-loss {abs(loss.mean):.3f} nats {side} the probe's, standard error {loss.error:.3f}"
    if np.isnan(rank.mean):
        return said
    side = "below" if rank.mean < 0 else "above"
    return f"{said}; AUROC {abs(rank.mean):.3f} {side} the probe's, standard error {rank.error:.3f}"


def _told(one: SearchedTrial, candidates: Candidates, chosen: TrialSettings) -> TuningTrial:
    """Return a trial with what its curve says."""
    told = TuningTrial(one.settings, one.end, one.epoch, one.loss, float("nan"), chosen=one.settings == chosen)
    if one.end != "finished":
        return replace(told, chosen=False)
    curve = candidates.curve(one.settings)
    best = choose_epoch([curve], few=candidates.few).epoch
    loss_G = curve.loss_EG[best]
    error = float(loss_G.std(ddof=1) / np.sqrt(len(loss_G))) if len(loss_G) > 1 else float("nan")
    return replace(told, epoch=best, loss=float(loss_G.mean()), loss_se=error)


def _refitted(candidates: Candidates, train_N: Bools, probe: SweepResult, decided: TuningDecision) -> StartingPoint:
    """Train the chosen candidate on all groups from their own probe, up to the chosen epoch of the same schedule."""
    if decided.settings is None:
        raise ValueError("no candidate was chosen")
    bench = candidates.bench.with_config(decided.settings.applied(candidates.bench.config))
    rows = rows_by_id(bench, train_N)
    kept = candidates.place.training(f"refit-{decided.epoch}", bench.config, tile_ids(bench, train_N), ())
    start = bench.start(probe.head)
    with kept.alone():
        outcome = kept.outcome()
        if outcome is None:
            kept.run(training_task(bench, start, rows, rows[:0]), bench.config.loop, None, decided.epoch)
        else:
            load_trained(start.model, outcome.tensors)
    return start


def _no_tuning(reason: str) -> TuningDecision:
    nan = float("nan")
    return TuningDecision("kept", nan, 0, nan, nan, 0, f"{SAID['kept']}: not fine-tuned, since {reason}")


def load_trained(model: TunedModel, tensors: dict[str, torch.Tensor]) -> None:
    """Put parameters that were kept back into a model."""
    with torch.no_grad():
        for name, one in model.named_parameters():
            if name in tensors:
                one.copy_(tensors[name])
