"""What a fine-tuning leaves: an adapter of the backbone on disk, and the head that belongs to it."""

# n training tiles, D columns

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from histotune.backbones.adapters import save_adapter
from histotune.backbones.tuned_weights import save_tuned
from histotune.datasets.splits.split import tile_groups
from histotune.embeddings.space import embedding_space
from histotune.heads.head import NO_HASHES, Head
from histotune.heads.sweep import distinct_rows
from histotune.images.hashes import HashIndex
from histotune.tools.devices import find_device
from histotune.tools.marks import TUNED

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from histotune.backbones.spec import BackboneSpec
    from histotune.finetune.batches import Inputs
    from histotune.finetune.tuned_model import TunedModel
    from histotune.finetune.tuning import TunedSet
    from histotune.finetune.workbench import StartingPoint, TuningBench

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]


AT_ONCE = 64


@dataclass(frozen=True)
class TunedBackbone:
    """A fine-tuned backbone and its head.

    Attributes:
        spec: The backbone with its adapter.
        head: The head, on embeddings of that backbone.
    """

    spec: BackboneSpec
    head: Head


def save_outcome(tuned: TunedSet, bench: TuningBench, train_rows: Int, folder: Path) -> TunedBackbone:
    """Save the adapter of a tuned model and return the backbone and head that everything else can use.

    Args:
        tuned: A training set whose tuned model is returned.
        bench: What it was trained on.
        train_rows: Its training tiles.
        folder: Where the adapter goes: PEFT's files for ``lora`` and ``dora``, the changed tensors for the others.

    Returns:
        The backbone with the adapter in ``folder``, and its head.

    Raises:
        ValueError: No model was tuned.
        UserError: The folder can't be written.
    """
    if tuned.start is None:
        raise ValueError("the probe is returned for this training set; there is no adapter to save")
    index = HashIndex(bench.of.cache / "hashes.sqlite")
    save_weights(tuned.start, bench, folder, index)
    spec = replace(bench.of.spec, adapter=str(folder), adapter_revision="")
    embeddings = bench.of.embeddings
    space = embedding_space(spec, bench.of.view, find_device(), "fp32", index)
    linear, decided = tuned.start.model.head(), tuned.decided
    x_nD = tuned_columns(tuned.start.model, tuned.start.inputs, train_rows)
    tiles, groups = bench.of.tiles, tile_groups(bench.of.tiles)
    sha256_N32 = embeddings.sha256_N32
    head = Head(
        weight_KD=linear.weight_KD,
        bias_K=linear.bias_K,
        pooling=linear.blocks,
        columns=tuple(embeddings.columns(linear.blocks).tolist()),
        class_names=tiles.class_names,
        backbone=spec.name,
        space_key=space.key,
        compatibility_key=space.compatibility_key,
        penalty=tuned.probe.head.penalty,
        n_tiles=len(train_rows),
        n_groups=len({groups[row] for row in train_rows}),
        train_groups=tuple(sorted({groups[row] for row in train_rows})),
        calibration=decided.calibration,
        decision=decided.decision,
        family=TUNED,
        train_sha256_N32=NO_HASHES if sha256_N32 is None else distinct_rows(sha256_N32[train_rows]),
        train_mean_D=x_nD.mean(axis=0),
        train_std_D=x_nD.std(axis=0),
    )
    return TunedBackbone(spec, head)


def save_weights(start: StartingPoint, bench: TuningBench, folder: Path, index: HashIndex) -> None:
    """Write what moved, with the hash of the weights that it belongs to."""
    trainable, spec = start.trainable, bench.of.spec
    if trainable.peft is not None:
        save_adapter(trainable.peft, folder, spec, index)
        return
    held = dict(trainable.network.module.named_parameters())
    tensors = {name: held[name].detach().float().cpu().contiguous() for name in trainable.names}
    save_tuned(tensors, folder, spec, bench.config.method.name, index)


def tuned_columns(model: TunedModel, inputs: Inputs, rows: Int, view: int = 0) -> Float:
    """Return the columns that a head reads of tiles in one of their views (n, D); view 0 shows them as they are."""
    model.eval()
    parts = []
    with torch.no_grad():
        for start in range(0, len(rows), AT_ONCE):
            parts.append(model.columns(inputs.tensor(rows[start : start + AT_ONCE], view)).double().cpu().numpy())
    return np.concatenate(parts)
