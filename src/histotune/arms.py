"""What each arm of an experiment sees: the tiles embedded with its backbone, from the cache where they are there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from histotune.backbones.catalog import colour_histogram, find_backbone, random_twin
from histotune.embeddings.choice import chosen_view, with_view_notes
from histotune.embeddings.extract import embed
from histotune.embeddings.ranks import process_rank
from histotune.embeddings.space import EmbedRequest
from histotune.errors import UserError
from histotune.evaluation.floors import COLOUR_HISTOGRAM, RANDOM_WEIGHTS
from histotune.evaluation.material import Material
from histotune.evaluation.scoring import EXTERNAL
from histotune.evaluation.source import PROBE, ArmMaterial
from histotune.images.view_checks import moves_label
from histotune.images.views import input_mpp

if TYPE_CHECKING:
    from histotune.backbones.records import BackboneSpec
    from histotune.config import ExperimentConfig
    from histotune.datasets.config import DatasetConfig, OnBadImage
    from histotune.datasets.records import TileSet
    from histotune.progress import Stopwatch


def embed_dataset(
    config: ExperimentConfig, tiles: TileSet, spec: BackboneSpec, on_bad_image: OnBadImage = "fail"
) -> Material:
    """Embed a data set with one backbone, from the cache where it is there.

    Args:
        config: View, precision, cache.
        tiles: The data set.
        spec: The backbone.
        on_bad_image: Whether tiles that can't be read stop the run or are left out with a note.

    Returns:
        Tiles and embeddings, rows aligned, with the content fingerprint filled in.
    """
    view = chosen_view(config.view, spec)
    request = EmbedRequest(spec, view, config.embedding, config.loader, config.cache, on_bad_image, process_rank())
    embeddings = embed(tiles, request)
    rest = with_view_notes(tiles, view).without(embeddings.unreadable)
    rest = replace(rest, pixel_fingerprint=embeddings.pixel_fingerprint, notes=(*embeddings.notes, *rest.notes))
    if embeddings.space.external:
        rest = replace(rest, marks=(*rest.marks, EXTERNAL))
        return Material(rest, embeddings, np.full(len(rest), np.nan), "unknown view", spec.default_pooling)
    rest = replace(rest, label_moved=moves_label(rest, view))
    mpp_N = np.asarray(input_mpp(rest, view)).reshape(len(rest), -1).mean(axis=1)
    return Material(rest, embeddings, mpp_N, view.words, spec.default_pooling)


def arm_backbones(config: ExperimentConfig) -> tuple[tuple[str, BackboneSpec], ...]:
    """Return the backbone of each arm: the probe's, then those of the floors with a probe of their own.

    Args:
        config: The experiment.

    Returns:
        Pairs of arm name and backbone.
    """
    spec = find_backbone(config.backbone, config.cache)
    arms = [(PROBE, spec)]
    if "random-weights" in config.evaluation.floors and spec.kind != "external":  # a note says so
        arms.append((RANDOM_WEIGHTS, random_twin(spec, config.evaluation.seed)))
    if "colour-histogram" in config.evaluation.floors:
        arms.append((COLOUR_HISTOGRAM, colour_histogram()))
    return tuple(arms)


def embed_arms(
    config: ExperimentConfig, dataset: DatasetConfig | None, tiles: TileSet | None, watch: Stopwatch
) -> tuple[ArmMaterial, ...]:
    """Embed with every arm's backbone; what one of them can't read is left out for all that follow.

    Args:
        config: The experiment.
        dataset: The data set's settings; None where there is none.
        tiles: Its tiles.
        watch: Times each embedding.

    Returns:
        The arms, the probe first; empty without a data set.

    Raises:
        UserError: Images that can't be read, or that became unreadable on the way.
    """
    if tiles is None or dataset is None:
        return ()
    arms: list[ArmMaterial] = []
    for arm, spec in arm_backbones(config):
        what = spec.name if arm == PROBE else f"floor: {spec.name}"
        with watch.stage(f"embed {tiles.name} ({what})"):
            material = embed_dataset(config, tiles, spec, dataset.on_bad_image)
            arms.append(ArmMaterial(arm, material))
            tiles = material.tiles
    if len(tiles) < len(arms[0].material.tiles):
        raise UserError("images became unreadable while they were embedded", value=tiles.notes[-1],
                        fix="run again when nothing writes into the data set")  # fmt: skip
    return tuple(arms)
