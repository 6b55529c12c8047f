"""SGD heads as a family: (training set x fold x trial) of a pooling in one batched training."""

# n rows, D columns, K classes, T trials, H hidden units

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from histotune.heads.config import draw_trials
from histotune.heads.family import Family, Refit, Trial, full_logits
from histotune.heads.head import HiddenLayer, TrainingColumns
from histotune.heads.sgd.jobs import (
    Layer,
    LearningCurve,
    TrainData,
    TrainedHead,
    TrainJob,
    TrainOptions,
    TrainSplit,
    column_moments,
)
from histotune.heads.sgd.train import head_logits, train_heads
from histotune.tools.devices import find_device
from histotune.tools.provenance import library_version

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from histotune.heads.config import SgdSettings, SweepConfig
    from histotune.heads.family import Outcomes, SweepData, TrainingSet
    from histotune.heads.fit_cache import FitCache

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]
    Arrays = Mapping[str, NDArray[np.generic]]


CHUNK_JOBS = 1024
"""Heads trained and kept together: enough to fill a batched step, few enough to lose little."""


class SgdFamily(Family):
    """Linear heads and small MLPs trained by AdamW, Adam or SGD.

    With a monitored metric every fold keeps its own best epoch, chosen on the fold's held-out tiles, so that the
    out-of-fold scores are more optimistic than a penalty's; the refit then trains for the median of those epochs.

    Args:
        config: ``config.sgd`` says what is tried.
    """

    name = "sgd"

    def __init__(self, config: SweepConfig) -> None:
        super().__init__(config)
        self._resumed_epochs: dict[tuple[Trial, bytes], int] = {}

    def trials(self, poolings: Sequence[tuple[str, ...]]) -> tuple[Trial, ...]:
        """See :class:`~histotune.heads.family.Family`; the class weightings of the sweep cross the search's draws."""
        drawn = draw_trials(self.config.sgd)
        if "class_weight" not in self.config.sgd.space:
            drawn = tuple(
                each.model_copy(update={"class_weight": weighting})
                for weighting in self.config.class_weights
                for each in drawn
            )
        return tuple(
            Trial(pooling, each.class_weight, each.weight_decay, each) for pooling in poolings for each in drawn
        )

    def fill(
        self, data: SweepData, parts: Sequence[TrainingSet], trials: Sequence[Trial], members: Int, found: Outcomes
    ) -> None:
        """See :class:`~histotune.heads.family.Family`; all folds are trained together."""
        # Every (training set, fold) is a split of one batched training, and its jobs are the trials in their order.
        x_nD, settings = data.matrix(trials[0].pooling), [_training(trial) for trial in trials]
        folds = [(number, fold) for number, part in enumerate(parts) for fold in range(part.n_folds)]
        splits = tuple(_fold_split(parts[number], fold) for number, fold in folds)
        jobs = [TrainJob(one, split, self.config.sgd.training_seed) for split in range(len(splits)) for one in settings]
        heads = self._train(x_nD, data, splits, jobs)
        kept = np.array([head.kept_epoch for head in heads]).reshape(len(folds), len(trials))
        for split, (number, fold) in enumerate(folds):
            fold_heads = heads[split * len(trials) : (split + 1) * len(trials)]
            held = np.flatnonzero(parts[number].fold_n == fold)
            logit_TnK = _logits(fold_heads, settings, x_nD[splits[split].held_rows], data.n_classes)
            found[number].logit_TnK[np.ix_(members, held)] = logit_TnK
            found[number].diverged_T[members] |= [head.diverged for head in fold_heads]
        # A trial that diverged in any fold has no logits; a refit trains for the median over folds of the best epochs.
        for number, part in enumerate(parts):
            found[number].logit_TnK[found[number].diverged_T] = np.nan
            of_part = kept[[split for split, fold in enumerate(folds) if fold[0] == number]]
            for trial, epochs in zip(trials, np.median(of_part, axis=0), strict=True):
                self._resumed_epochs[trial, part.rows.tobytes()] = max(1, round(float(epochs)))

    def refit_together(self, data: SweepData, chosen: Sequence[tuple[TrainingSet, Trial]]) -> list[Refit]:
        """See :class:`~histotune.heads.family.Family`."""
        splits = tuple(TrainSplit(part.rows) for part, _ in chosen)
        jobs = [
            TrainJob(_training(trial), split, self.config.sgd.training_seed, self._epochs(data, part, trial))
            for split, (part, trial) in enumerate(chosen)
        ]
        x_nD = data.matrix(chosen[0][1].pooling)
        heads = self._train(x_nD, data, splits, jobs)
        moments = [column_moments(x_nD, split.train_rows) for split in splits]
        columns = [TrainingColumns(*one, is_floored=self.config.sgd.standardise) for one in moments]
        return [
            replace(_refit(head, job.settings, data.n_classes), columns=own)
            for head, job, own in zip(heads, jobs, columns, strict=True)
        ]

    def _epochs(self, data: SweepData, part: TrainingSet, trial: Trial) -> int | None:
        """Return after how many epochs a refit stops: None, or where the folds' best epochs lay."""
        if self.config.sgd.stopping.monitor is None:
            return None
        key = trial, part.rows.tobytes()
        if key not in self._resumed_epochs:
            self.out_of_fold(data, [part], [trial])
        return self._resumed_epochs[key]

    def _train(
        self, x_nD: NDArray[np.floating], data: SweepData, splits: tuple[TrainSplit, ...], jobs: Sequence[TrainJob]
    ) -> list[TrainedHead]:
        """Train; a refit has no held-out tiles, and so nothing to stop by."""
        sgd = self.config.sgd
        options = TrainOptions(metrics=(), device=find_device(sgd.device).kind)
        if len(splits[0].held_rows):
            options = replace(options, stopping=sgd.stopping)
        train_data = TrainData(x_nD, data.y_n, data.n_classes, splits, sgd.standardise)
        return train_or_resume(train_data, jobs, options, data.support.fits)


def _training(trial: Trial) -> SgdSettings:
    if trial.training is None:
        raise TypeError(f"{trial} is no trial of an SGD head")
    return trial.training


def _fold_split(part: TrainingSet, fold: int) -> TrainSplit:
    """Return one fold; held-out groups weigh the same in the monitored log-loss, as they do in the choice."""
    held = np.flatnonzero(part.fold_n == fold)
    sizes = np.bincount(part.group_n[held], minlength=part.n_groups)
    return TrainSplit(part.fold_train_rows(fold), part.rows[held], 1.0 / sizes[part.group_n[held]])


def _logits(
    heads: Sequence[TrainedHead], settings: Sequence[SgdSettings], x_nD: NDArray[np.floating], n_classes: int
) -> Float:
    """Return logits (T, n, K); those of linear heads of one shape are one product."""
    # Heads with one hidden layer go one by one; in binary tasks class 0 has logit 0.
    out_TnK = np.full((len(heads), len(x_nD), n_classes), np.nan)
    for one_logit in (False, True):
        linear = [t for t, head in enumerate(heads) if len(head.layers) == 1 and settings[t].one_logit == one_logit]
        if linear:
            weight_TKD = np.stack([heads[t].layers[0].weight_OI for t in linear])
            out_TnK[linear] = full_logits(weight_TKD, np.stack([heads[t].layers[0].bias_O for t in linear]), x_nD)
    for t, head in enumerate(heads):
        if len(head.layers) == 2:
            logit_nO = head_logits(head, x_nD, settings[t].activation)
            out_TnK[t] = np.pad(logit_nO, ((0, 0), (n_classes - logit_nO.shape[1], 0)))
    return out_TnK - out_TnK[:, :, :1] if n_classes == 2 else out_TnK


def _refit(head: TrainedHead, training: SgdSettings, n_classes: int) -> Refit:
    """Return a head's weights, relative to class 0 in binary tasks."""
    # A head with one logit gets zeros for class 0; with two logits class 0's row is subtracted from both.
    output = head.layers[-1]
    missing = n_classes - len(output.bias_O)
    weight_KD = np.pad(output.weight_OI.astype(np.float64), ((missing, 0), (0, 0)))
    bias_K = np.pad(output.bias_O.astype(np.float64), (missing, 0))
    if n_classes == 2:
        weight_KD, bias_K = weight_KD - weight_KD[0], bias_K - bias_K[0]
    hidden = None
    if len(head.layers) == 2:
        first = head.layers[0]
        weight_HD, bias_H = first.weight_OI.astype(np.float64), first.bias_O.astype(np.float64)
        hidden = HiddenLayer(weight_HD, bias_H, training.activation)
    return Refit(
        weight_KD,
        bias_K,
        converged=not head.diverged,
        hidden=hidden,
        diverged=head.diverged,
        loss_E=head.curve("train_loss"),
    )


# ------------------------------------------------------------------------------
# Trained heads, kept in chunks: an SGD sweep that was interrupted goes on after the last finished chunk


def train_or_resume(
    data: TrainData,
    jobs: Sequence[TrainJob],
    options: TrainOptions,
    fits: FitCache,
    done: Callable[[int], None] = lambda _: None,
) -> list[TrainedHead]:
    """Train heads in chunks, or read those that are kept."""
    heads: list[TrainedHead] = []
    for start in range(0, len(jobs), CHUNK_JOBS):
        chunk = jobs[start : start + CHUNK_JOBS]
        part, own = _own_splits(data, chunk)
        train = partial(_train_packed, part, own, options)
        arrays = fits.recall(_inputs(part), _facts(part, own, options), train)
        heads += _unpack(arrays, len(chunk))
        done(len(heads))
    return heads


def _train_packed(data: TrainData, jobs: Sequence[TrainJob], options: TrainOptions) -> dict[str, NDArray[np.generic]]:
    return _pack(train_heads(data, jobs, options))


def _own_splits(data: TrainData, jobs: Sequence[TrainJob]) -> tuple[TrainData, list[TrainJob]]:
    """Keep the splits that a chunk uses, so that another fold's change misses only its own chunks."""
    used = sorted({job.split for job in jobs})
    place = {split: number for number, split in enumerate(used)}
    return (
        replace(data, splits=tuple(data.splits[split] for split in used)),
        [replace(job, split=place[job.split]) for job in jobs],
    )


def _inputs(data: TrainData) -> dict[str, NDArray[np.generic]]:
    inputs: dict[str, NDArray[np.generic]] = {"x_ND": data.x_ND, "y_N": np.asarray(data.y_N, np.int64)}
    for number, split in enumerate(data.splits):
        for name, value in vars(split).items():
            if value is not None:
                inputs[f"split {number} {name}"] = np.asarray(value)
    return inputs


def _facts(data: TrainData, jobs: Sequence[TrainJob], options: TrainOptions) -> dict[str, object]:
    return {
        "solver": "sgd",
        "n_classes": data.n_classes,
        "standardise": data.standardise,
        "n_splits": len(data.splits),
        "jobs": [[job.settings.model_dump(mode="json"), job.split, job.seed, job.stop_after] for job in jobs],
        "metrics": list(options.measured()),
        "stopping": options.stopping.model_dump(mode="json"),
        "device": options.device,
        "torch": library_version("torch"),
    }


def _pack(heads: Sequence[TrainedHead]) -> dict[str, NDArray[np.generic]]:
    counts = [[head.kept_epoch, head.n_epochs, head.n_steps, head.diverged] for head in heads]
    arrays: dict[str, NDArray[np.generic]] = {"counts": np.array(counts, np.int64).reshape(len(heads), 4)}
    for number, head in enumerate(heads):
        for place, layer in enumerate(head.layers):
            arrays[f"{number} weight {place}"] = np.asarray(layer.weight_OI)
            arrays[f"{number} bias {place}"] = np.asarray(layer.bias_O)
        for place, curve in enumerate(head.curves):
            arrays[f"{number} curve {place} {curve.metric}"] = np.asarray(curve.value_E, np.float64)
    return arrays


def _unpack(arrays: Arrays, n_heads: int) -> list[TrainedHead]:
    layers: list[list[Layer]] = [[] for _ in range(n_heads)]
    curves: list[dict[int, LearningCurve]] = [{} for _ in range(n_heads)]
    for name, values in sorted(arrays.items()):
        number, kind, place, *metric = (*name.split(), "", "")
        if kind == "weight":  # at most two layers, so that the names sort as the layers do
            layers[int(number)].append(Layer(np.asarray(values), np.asarray(arrays[f"{number} bias {place}"])))
        elif kind == "curve":
            curves[int(number)][int(place)] = LearningCurve(metric[0], np.asarray(values, np.float64))
    counts = np.asarray(arrays["counts"]).tolist()
    return [
        TrainedHead(tuple(own), tuple(curve for _, curve in sorted(named.items())), kept, begun, steps, bool(diverged))
        for own, named, (kept, begun, steps, diverged) in zip(layers, curves, counts, strict=True)
    ]
