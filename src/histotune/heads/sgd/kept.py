"""Trained heads, kept in chunks: an SGD sweep that was interrupted goes on after the last finished chunk."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from histotune.heads.sgd.data import Curve, Layer, TrainedHead
from histotune.heads.sgd.train import train_heads
from histotune.tools.provenance import library_version

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from histotune.heads.fit_cache import FitCache
    from histotune.heads.sgd.data import Job, TrainData, TrainOptions

    Arrays = Mapping[str, NDArray[np.generic]]

CHUNK_JOBS = 1024
"""Heads trained and kept together: enough to fill a batched step, few enough to lose little."""


def train_kept(
    data: TrainData,
    jobs: Sequence[Job],
    options: TrainOptions,
    fits: FitCache,
    done: Callable[[int], None] = lambda _: None,
) -> list[TrainedHead]:
    """Train heads in chunks, or read those that are kept.

    Args:
        data: What all jobs share.
        jobs: Which heads.
        options: How the loop runs; without a checkpoint of its own, and without functions of the caller.
        fits: Keeps finished chunks.
        done: Called with the number of heads finished so far.

    Returns:
        One head per job, the same bytes whether trained or read.

    Example:
        >>> train_kept(data, jobs, TrainOptions(metrics=()), FitCache.at(cache))  # doctest: +SKIP
    """
    heads: list[TrainedHead] = []
    for start in range(0, len(jobs), CHUNK_JOBS):
        chunk = jobs[start : start + CHUNK_JOBS]
        part, own = _own_splits(data, chunk)
        train = partial(_train_packed, part, own, options)
        arrays = fits.recall(_inputs(part), _facts(part, own, options), train)
        heads += _unpack(arrays, len(chunk))
        done(len(heads))
    return heads


def _train_packed(data: TrainData, jobs: Sequence[Job], options: TrainOptions) -> dict[str, NDArray[np.generic]]:
    return _pack(train_heads(data, jobs, options))


def _own_splits(data: TrainData, jobs: Sequence[Job]) -> tuple[TrainData, list[Job]]:
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


def _facts(data: TrainData, jobs: Sequence[Job], options: TrainOptions) -> dict[str, object]:
    return {
        "solver": "sgd", "n_classes": data.n_classes, "standardise": data.standardise, "n_splits": len(data.splits),
        "jobs": [[job.settings.model_dump(mode="json"), job.split, job.seed, job.stop_after] for job in jobs],
        "metrics": list(options.measured()), "stopping": options.stopping.model_dump(mode="json"),
        "device": options.device, "torch": library_version("torch"),
    }  # fmt: skip


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
    layers: dict[int, dict[int, dict[str, NDArray[np.generic]]]] = {number: {} for number in range(n_heads)}
    curves: dict[int, dict[int, Curve]] = {number: {} for number in range(n_heads)}
    for name, values in arrays.items():
        if found := re.fullmatch(r"(\d+) (weight|bias) (\d+)", name):
            layers[int(found[1])].setdefault(int(found[3]), {})[found[2]] = values
        elif found := re.fullmatch(r"(\d+) curve (\d+) (\w+)", name):
            curves[int(found[1])][int(found[2])] = Curve(found[3], np.asarray(values, np.float64))
    heads = []
    for number, (kept, begun, steps, diverged) in enumerate(np.asarray(arrays["counts"]).tolist()):
        own_layers = tuple(
            Layer(np.asarray(one["weight"]), np.asarray(one["bias"])) for _, one in sorted(layers[number].items())
        )
        own_curves = tuple(curve for _, curve in sorted(curves[number].items()))
        heads.append(TrainedHead(own_layers, own_curves, kept, begun, steps, bool(diverged)))
    return heads
