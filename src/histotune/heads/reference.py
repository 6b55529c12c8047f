"""What a head's training says of new tiles: which sets of classes to give, what lies far from it, at which scale.

It is kept beside a saved head: ``reference.safetensors`` for the numbers, an entry of ``bundle.json`` for what they
mean. Heads of before have none, and predict without.
"""

# N tiles, n tiles of a sample, K classes, D columns

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from histotune.heads.conformal import MIN_CALIBRATION_GROUPS, HeldOutTiles, held_out_tiles
from histotune.heads.distance import TrainingSample, training_sample
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from histotune.datasets.tileset import TileSet
    from histotune.embeddings.space import Embeddings
    from histotune.heads.head import Head, SweepResult


SCALE_FACTOR = 1.25
"""Scales within this factor of those that trained count as the same."""
SEED = 0
TENSORS = {
    "probability_nK": np.float32, "label_n": np.int32, "group_n": np.int32,
    "sample_nD": np.float16, "sample_group_n": np.int32, "sample_distance_n": np.float32, "sample_sha256_n32": np.uint8,
}  # fmt: skip
NOT_KEPT = "this head was saved without a record of its held-out predictions"
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class TrainingScale(BaseModel):
    """At which scale the network saw the training tiles.

    Attributes:
        low_mpp: The finest, um/px at the network's input.
        median_mpp: The median.
        high_mpp: The coarsest.
        factor: Multiplicative uncertainty of all of them; 1 is exact.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    low_mpp: Positive
    median_mpp: Positive
    high_mpp: Positive
    factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0

    def is_other(self, input_mpp_N: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which tiles the network sees at another scale; unknown scales are none."""
        allowed = SCALE_FACTOR * self.factor
        return np.asarray((input_mpp_N < self.low_mpp / allowed) | (input_mpp_N > self.high_mpp * allowed))


@dataclass(frozen=True)
class TrainingReference:
    """What is kept of a head's training.

    Attributes:
        held_out: Training tiles as heads saw them that had not seen their group; None without.
        sample: Training tiles to measure distances from; None without.
        scale: The scale of the training tiles; None where unknown.
        reason: Why there are no sets and no distances; empty where there are.
    """

    held_out: HeldOutTiles | None = None
    sample: TrainingSample | None = None
    scale: TrainingScale | None = None
    reason: str = NOT_KEPT


class ReferenceFacts(BaseModel):
    """What ``bundle.json`` says of a reference.

    Attributes:
        sha256: SHA-256 of ``reference.safetensors``; empty where there is none.
        n_groups: Calibration groups.
        k: Which neighbour of the sample is measured; 0 without a sample.
        scale: Scale of the training tiles.
        reason: Why there are no sets and no distances.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    n_groups: Annotated[int, Field(ge=0)] = 0
    k: Annotated[int, Field(ge=0)] = 0
    scale: TrainingScale | None = None
    reason: str = ""


def training_reference(
    result: SweepResult, embeddings: Embeddings, tiles: TileSet, input_mpp_N: NDArray[np.float64]
) -> TrainingReference:
    """Keep what a sweep's training tiles say of new tiles.

    Args:
        result: The sweep; its out-of-fold logits calibrate sets.
        embeddings: All tiles that were embedded, aligned with the logits.
        tiles: The same tiles.
        input_mpp_N: Scale at which the network saw each, um/px; NaN where unknown.

    Returns:
        The reference; without sets and distances, and with the reason, where groups are unknown or fewer than 30.
    """
    logit_NK, labels_N = result.out_of_fold_logit_NK, tiles.labels_N
    rows = np.flatnonzero(np.isfinite(logit_NK).all(axis=1) & (labels_N >= 0))
    scale = _scale(input_mpp_N[rows], tiles.take(rows))
    group_ids = tiles.table["group_id"].to_list()
    n_unknown, n_groups = sum(group_ids[row] is None for row in rows), len({group_ids[row] for row in rows})
    if n_unknown:
        return TrainingReference(
            scale=scale, reason=f"the case of {n_unknown:,} of {len(rows):,} training tiles is unknown"
        )
    if n_groups < MIN_CALIBRATION_GROUPS:
        few = f"{n_groups} groups trained it, and fewer than {MIN_CALIBRATION_GROUPS} say too little of new ones"
        return TrainingReference(scale=scale, reason=few)
    rng, groups = np.random.default_rng(SEED), tuple(group or "" for group in group_ids)
    held_out = held_out_tiles(result.head, logit_NK, labels_N, groups, rng)
    sample = training_sample(result.head, embeddings, rows, groups, rng)
    return TrainingReference(held_out, sample, scale, "")


def _scale(input_mpp_n: NDArray[np.float64], tiles: TileSet) -> TrainingScale | None:
    """Return the range of scales of some tiles; None where one is unknown."""
    if not len(input_mpp_n) or not np.isfinite(input_mpp_n).all():
        return None
    low, median, high = (float(np.quantile(input_mpp_n, level)) for level in (0.0, 0.5, 1.0))
    return TrainingScale(
        low_mpp=low,
        median_mpp=median,
        high_mpp=high,
        factor=float(tiles.table["mpp_factor"].fill_null(1.0).max()),  # type: ignore[arg-type]  # numbers
    )


# ---- As files ----


def reference_tensors(reference: TrainingReference) -> dict[str, NDArray[Any]]:
    """Return what goes into ``reference.safetensors``; nothing where there is nothing."""
    tensors: dict[str, NDArray[Any]] = {}
    if (held := reference.held_out) is not None:
        tensors |= {"probability_nK": held.probability_nK, "label_n": held.label_n, "group_n": held.group_n}
    if (sample := reference.sample) is not None:
        tensors |= {
            "sample_nD": sample.scaled_nD,
            "sample_group_n": sample.group_n,
            "sample_distance_n": sample.distance_n,
            "sample_sha256_n32": sample.sha256_n32,
        }
    return {name: np.ascontiguousarray(values) for name, values in tensors.items()}


def reference_from(facts: ReferenceFacts, tensors: Mapping[str, NDArray[Any]], head: Head) -> TrainingReference:
    """Return a reference as its files hold it.

    Args:
        facts: From ``bundle.json``.
        tensors: From ``reference.safetensors``, whose hash has been compared.
        head: The head beside it.

    Returns:
        The same as was saved.

    Raises:
        UserError: The numbers do not fit each other or the head.
    """
    odd = [name for name, values in tensors.items() if TENSORS.get(name) != values.dtype]
    if odd:
        raise _damaged(f"it holds other tensors: {', '.join(sorted(odd))}")
    held_out = sample = None
    if "probability_nK" in tensors:
        held_out = HeldOutTiles(tensors["probability_nK"], tensors["label_n"], tensors["group_n"], facts.n_groups)
        n = len(held_out.label_n)
        if held_out.probability_nK.shape != (n, len(head.class_names)) or held_out.group_n.shape != (n,) or n == 0:
            raise _damaged("its predictions do not fit the head's classes")
    if "sample_nD" in tensors:
        sample = TrainingSample(
            tensors["sample_nD"],
            tensors["sample_group_n"],
            tensors["sample_distance_n"],
            facts.k,
            tensors["sample_sha256_n32"],
        )
        if sample.scaled_nD.shape[1] != len(head.columns) or not 1 <= facts.k <= len(sample.scaled_nD):
            raise _damaged("its sample does not fit the head's columns")
    return TrainingReference(held_out, sample, facts.scale, facts.reason)


def _damaged(detail: str) -> UserError:
    return UserError(
        f"reference.safetensors beside this head is damaged ({detail})",
        fix="copy the folder again, or repeat the run that wrote this head",
    )
