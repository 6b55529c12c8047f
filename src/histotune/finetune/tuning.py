"""Fine-tune one training set: start at its probe, let groups that took no part judge, return what they bear out.

The probe is selected and refitted without the tuning groups. Whether fine-tuning helped is asked of those groups alone,
paired by group, and the probe is kept unless the tuned model is better by a standard error.
"""

# N tiles, n tiles of the tuning groups, K classes, G tuning groups, E epochs scored (the start is 0), R rates

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from histotune.datasets.splits.folds import assign_group_folds
from histotune.datasets.splits.split import tile_groups
from histotune.finetune.checkpoints import Checkpoints
from histotune.finetune.loop import TrainingTask, tile_logits, train
from histotune.heads.calibrate import BinaryTiles, CrossFitted, calibrate, choose_threshold, fit_temperatures
from histotune.heads.family import SweepSupport, SweepTask
from histotune.heads.head import Calibration, Decision, SweepResult, calibrated_logits, softmax
from histotune.heads.select import group_means, tile_losses
from histotune.heads.sweep import sweep
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from histotune.finetune.config import FinetuneConfig, LoopConfig
    from histotune.finetune.tuned_model import TunedModel
    from histotune.finetune.workbench import StartingPoint, Workbench
    from histotune.heads.config import SweepConfig

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]
    Bools = NDArray[np.bool_]


LOG = logging.getLogger(__name__)
Verdict = Literal["tuned", "probe"]


@dataclass(frozen=True)
class TuningCurve:
    """What tuning groups say of a learning rate.

    Attributes:
        rate: The learning rate of the backbone.
        loss_EG: Log-loss of each tuning group after every epoch, at the temperature that suits the epoch; row 0 is
            the probe.
        logit_EnK: Logits of the tuning tiles.
    """

    rate: float
    loss_EG: Float
    logit_EnK: Float

    def gain(self, epoch: int) -> tuple[float, float]:
        """Return by how much an epoch's loss lies below the probe's, paired by group, and its standard error."""
        # d_g = loss of the probe less loss of the epoch in group g: mean d, and SD(d) / sqrt(G).
        gap_G = self.loss_EG[0] - self.loss_EG[epoch]
        error = float(gap_G.std(ddof=1) / np.sqrt(len(gap_G))) if len(gap_G) > 1 else float("inf")
        return float(gap_G.mean()), error


@dataclass(frozen=True)
class TuningDecision:
    """What is returned for one training set, and why.

    Attributes:
        verdict: ``tuned`` or ``probe``.
        rate: Chosen learning rate; NaN where there was nothing to choose.
        epoch: Epochs that were trained.
        gain: By how much the tuned model's loss lay below the probe's on the tuning groups, nats.
        gain_se: Its standard error over groups.
        n_groups: Number of tuning groups.
        reason: The decision in words.
        curves: What the tuning groups said of every rate.
        calibration: Of the tuned model, from the logits of its tuning tiles.
        decision: Its threshold, from the same.
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
class TuningPart:
    """Who trains and who judges once.

    Attributes:
        train_N: Tiles that are trained on.
        rows: Tiles of the tuning groups.
    """

    train_N: Bools
    rows: Int


@dataclass(frozen=True)
class TuningRequest:
    """What a fine-tuning needs besides its network and tiles.

    Attributes:
        sweep: How the probe is found.
        support: Solved fits to read and add to.
        state: Folder for checkpoints; None keeps none.
    """

    sweep: SweepConfig
    support: SweepSupport = field(default_factory=SweepSupport)
    state: Path | None = None


def tune_set(bench: Workbench, train_N: Bools, request: TuningRequest, name: str = "all") -> TunedSet:
    """Fine-tune on one training set and decide, on groups that took no part, what to return.

    Args:
        bench: The network and the tiles.
        train_N: Tiles that may be learned from.
        request: The probe's sweep, and where state is kept.
        name: Of this training set, in checkpoints.

    Returns:
        The probe, the decision, and the tuned model where it is returned.

    Raises:
        UserError: The probe itself can't be trained.
    """
    config = bench.config
    parts, why_not = tuning_parts(bench, train_N)
    probes = find_probes(bench, [train_N, *(part.train_N for part in parts)], request)
    if len(probes) < 1 + len(parts):
        parts, why_not = (), "without the tuning groups too few cases are left for a probe"
    if not parts:
        return TunedSet(probes[0], _no_tuning(config, why_not))
    rates = config.rates or (config.loop.lr,)
    curves, best = [], {}
    for number, rate in enumerate(rates):
        curve, best[rate] = _tried(bench, parts, probes[1:], request, (f"{name}-{number}", rate))
        curves.append(curve)
    decided = decide_tuning(bench, parts, curves)
    if decided.verdict == "probe":
        return TunedSet(probes[0], decided)
    if len(parts) == 1:  # a hold-out: the weights that its groups judged are what is returned
        start = bench.start(probes[1].head)
        load_trained(start.model, best[decided.rate])
        return TunedSet(probes[0], decided, start)
    rows = np.flatnonzero(train_N)
    start = bench.start(probes[0].head)
    loop = config.loop.model_copy(update={"lr": decided.rate})
    task = _task(bench, start, rows, rows[:0])
    train(task, loop, None, _checkpoints(bench, request, f"{name}-refit", loop), decided.epoch)
    return TunedSet(probes[0], decided, start)


def tuning_parts(bench: Workbench, train_N: Bools) -> tuple[tuple[TuningPart, ...], str]:
    """Deal the groups of a training set into those that train and those that judge; none, with the reason, if few."""
    config, tiles = bench.config, bench.of.tiles
    rows = np.flatnonzero(train_N)
    groups = tile_groups(tiles)
    own = [groups[row] for row in rows]
    n_groups = len(set(own))
    by_folds = config.inner == "folds" or (config.inner == "auto" and bench.keeps_prefix)
    n_folds = min(config.inner_folds if by_folds else max(round(1.0 / config.tuning_share), 2), n_groups)
    if n_folds < 2:
        return (), "one group can't train and judge at once"
    fold_by_group = assign_group_folds(own, tiles.labels_N[rows], len(tiles.class_names), n_folds, config.loop.seed)
    fold_n = np.array([fold_by_group[group] for group in own])
    parts = []
    for fold in range(n_folds if by_folds else 1):
        inside_N = train_N.copy()
        inside_N[rows[fold_n == fold]] = False
        if len(np.unique(tiles.labels_N[inside_N])) < len(np.unique(tiles.labels_N[train_N])):
            return (), "without the tuning groups a class would be missing"
        parts.append(TuningPart(inside_N, rows[fold_n == fold]))
    return tuple(parts), ""


def find_probes(bench: Workbench, train_sets: Sequence[Bools], request: TuningRequest) -> tuple[SweepResult, ...]:
    """Return the probe of every training set; that of the first alone where the others hold too few groups."""
    tiles, embeddings = bench.of.tiles, bench.of.embeddings
    default = bench.of.spec.default_pooling
    for sets in (train_sets, train_sets[:1]):
        task = SweepTask(tiles.labels_N, tile_groups(tiles), tiles.class_names, np.stack(sets), "grouped", default, ())
        try:
            return sweep(embeddings, task, request.sweep, request.support)
        except UserError:
            if len(sets) == 1:
                raise
    return ()


def _tried(
    bench: Workbench,
    parts: Sequence[TuningPart],
    probes: Sequence[SweepResult],
    request: TuningRequest,
    trial: tuple[str, float],
) -> tuple[TuningCurve, dict[str, torch.Tensor]]:
    """Train with one rate on every tuning part; its groups judge every epoch. Returns the last part's best weights."""
    (name, rate), logits, tensors = trial, [], {}
    rows = np.concatenate([part.rows for part in parts])
    judge = _Judge.of(bench, rows)
    loop = bench.config.loop.model_copy(update={"lr": rate})
    for number, (part, probe) in enumerate(zip(parts, probes, strict=True)):
        start = bench.start(probe.head)
        task = _task(bench, start, np.flatnonzero(part.train_N), part.rows)
        kept = _checkpoints(bench, request, f"{name}-{number}", loop)
        few = judge.n_groups < bench.config.least_groups
        trained = train(task, loop, None if few else _Judge.of(bench, part.rows).mean, kept)
        logits.append(trained.logit_EnK)
        tensors = trained.best_tensors
    logit_EnK = np.concatenate(logits, axis=1)
    loss_EG = np.stack([judge.losses(logit_nK) for logit_nK in logit_EnK])
    return TuningCurve(rate, loss_EG, logit_EnK), tensors


def decide_tuning(bench: Workbench, parts: Sequence[TuningPart], curves: Sequence[TuningCurve]) -> TuningDecision:
    """Choose rate and epoch by the loss of the tuning groups, and keep the probe unless it is clearly beaten."""
    config, rows = bench.config, np.concatenate([part.rows for part in parts])
    n_groups = curves[0].loss_EG.shape[1]
    few = n_groups < config.least_groups
    # With few tuning groups a best epoch is chance: the last one of the schedule is taken.
    epochs = [len(curves[0].loss_EG) - 1] if few else range(1, len(curves[0].loss_EG))
    options = [(curve.loss_EG[epoch].mean(), number, epoch) for number, curve in enumerate(curves) for epoch in epochs]
    _, number, epoch = min(options)
    curve = curves[number]
    gain, error = curve.gain(epoch)
    better = gain > config.standard_errors * error
    said = f"log-loss {gain:+.3f} nats below the probe's, standard error {error:.3f}, {n_groups} tuning groups"
    fixed = f"; fewer than {config.least_groups} of them, so the last epoch is taken" if few else ""
    kept = "" if better or not config.keep_tuned else "; returned all the same, as asked for"
    verdict: Verdict = "tuned" if better or config.keep_tuned else "probe"
    crossfitted = _Judge.of(bench, rows).crossfitted(curve.logit_EnK[epoch], parts)
    calibration = calibrate(crossfitted, "temperature")
    return TuningDecision(
        verdict, curve.rate, epoch, gain, error, n_groups, f"{verdict}: {said}{fixed}{kept}", tuple(curves),
        calibration, _threshold(crossfitted, calibration),
    )  # fmt: skip


def _threshold(found: CrossFitted, calibration: Calibration) -> Decision:
    """Choose the threshold of two classes on calibrated probabilities, as for swept heads."""
    if found.logit_nK.shape[1] != 2:
        return Decision(reason="several classes: the most probable one")
    probability_n = softmax(calibrated_logits(calibration, found.logit_nK))[:, 1]
    tiles = BinaryTiles(probability_n, found.y_n == 1, found.group_n, found.n_groups)
    return choose_threshold(tiles, "balanced-accuracy", 0.95)


def _no_tuning(config: FinetuneConfig, reason: str) -> TuningDecision:
    nan = float("nan")
    return TuningDecision("probe", nan, 0, nan, nan, 0, f"probe: not fine-tuned, since {reason}")


@dataclass(frozen=True)
class _Judge:
    """Tuning tiles: their labels and groups."""

    y_n: Int
    group_n: Int
    n_groups: int

    @classmethod
    def of(cls, bench: Workbench, rows: Int) -> _Judge:
        groups = tile_groups(bench.of.tiles)
        own = [groups[row] for row in rows]
        codes = {group: code for code, group in enumerate(sorted(set(own)))}
        return cls(bench.of.tiles.labels_N[rows], np.array([codes[group] for group in own], np.int64), len(codes))

    def losses(self, logit_nK: Float) -> Float:
        """Return each group's log-loss (G,) at the temperature that suits all of them best.

        A network that ranks better but shouts would lose by its plain log-loss; what is returned is calibrated.
        """
        weight_n = 1.0 / (np.bincount(self.group_n, minlength=self.n_groups)[self.group_n] * self.n_groups)
        temperature = float(fit_temperatures(logit_nK, self.y_n, weight_n[None])[0])
        return np.asarray(
            tile_losses(logit_nK[None] / temperature, self.y_n)[0] @ group_means(self.group_n, self.n_groups)
        )

    def mean(self, logit_nK: Float) -> float:
        """Return the mean of the groups' losses."""
        return float(self.losses(logit_nK).mean())

    def crossfitted(self, logit_nK: Float, parts: Sequence[TuningPart]) -> CrossFitted:
        """Return the logits with the part that held each tile out."""
        fold_n = np.repeat(np.arange(len(parts)), [len(part.rows) for part in parts])
        if len(parts) == 1:  # a hold-out: its groups are dealt into folds for the calibration alone
            fold_n = self.group_n % min(5, max(self.n_groups, 1))
        return CrossFitted(logit_nK, self.y_n, self.group_n, self.n_groups, fold_n)


def _task(bench: Workbench, start: StartingPoint, train_rows: Int, tuning_rows: Int) -> TrainingTask:
    bench.prepare(start.inputs, train_rows, tuning_rows)
    tiles = bench.of.tiles
    return TrainingTask(
        start.model, start.rate_of, start.inputs, tiles.labels_N, tile_groups(tiles), train_rows, tuning_rows,
        bench.n_views,
    )  # fmt: skip


def _checkpoints(bench: Workbench, request: TuningRequest, name: str, loop: LoopConfig) -> Checkpoints | None:
    if request.state is None:
        return None
    identity = {"finetune": bench.config.model_copy(update={"loop": loop}).model_dump(mode="json"), "part": name}
    return Checkpoints(request.state / f"{name}.safetensors", identity, loop.save_minutes * 60.0)


def load_trained(model: TunedModel, tensors: dict[str, torch.Tensor]) -> None:
    """Put parameters that were kept back into a model."""
    with torch.no_grad():
        for name, one in model.named_parameters():
            if name in tensors:
                one.copy_(tensors[name])
