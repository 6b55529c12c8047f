"""What each arm of an experiment sees: the tiles embedded with its backbone, from the cache where they are there."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from histotune.backbones.catalog import colour_histogram, find_backbone, pinned_config, random_twin
from histotune.datasets.read import read_dataset
from histotune.embeddings.embed import embed
from histotune.embeddings.space import EmbedRequest, chosen_view, with_view_notes
from histotune.evaluation.findings import (
    COLOUR_HISTOGRAM,
    EXTERNAL,
    PROBE,
    RANDOM_WEIGHTS,
)
from histotune.evaluation.held_out import ArmMaterial
from histotune.evaluation.material import Material
from histotune.evaluation.plan import part_rows, plan_source, scored_part, with_parts
from histotune.images.view_checks import check_view, moves_label
from histotune.images.views import input_mpp
from histotune.tools.errors import UserError, collect, raise_together
from histotune.tools.files import explained_os_errors, lock, make_folder
from histotune.tools.ranks import process_rank

if TYPE_CHECKING:
    from pathlib import Path

    from histotune.backbones.spec import BackboneSpec
    from histotune.datasets.config import DatasetConfig, OnBadImage
    from histotune.datasets.splits.split import Split
    from histotune.datasets.tileset import TileSet
    from histotune.studies.config import ExperimentConfig
    from histotune.tools.progress import Stopwatch


def embed_dataset(
    config: ExperimentConfig, tiles: TileSet, spec: BackboneSpec, on_bad_image: OnBadImage = "fail"
) -> Material:
    """Embed a data set with one backbone, from the cache where it is there."""
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
    """Return the backbone of each arm: the probe's, then those of the floors with a probe of their own."""
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
    """Embed with every arm's backbone; what one of them can't read is left out for all that follow."""
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


def single_dataset(config: ExperimentConfig) -> DatasetConfig:
    """Return the one data set that ``embed``, ``sweep`` and ``evaluate`` work on."""
    dataset = config.source or config.target
    if dataset is None:
        raise UserError("no data set was given", fix="add --data DIR")
    return dataset


def refuse_foreign_folder(out: Path) -> None:
    """Refuse to replace a folder that is no run, and find out early whether it can be written."""
    if out.exists() and not out.is_dir():
        raise UserError("a file lies where the run folder should go", value=out, fix="choose another --out")
    foreign = _foreign_names(out) if out.is_dir() else ()
    if foreign:
        raise UserError("this folder holds other files; a run would replace them",
                        value=f"{out}: {', '.join(foreign[:10])}{', ...' if len(foreign) > 10 else ''}",
                        fix="choose another --out, or move them away")  # fmt: skip
    with explained_os_errors(out):
        make_folder(out.parent)
        probe = out.parent / f".{out.name}.probe"
        probe.mkdir(exist_ok=True)
        probe.rmdir()


def write_cohort_first(config: ExperimentConfig, watch: Stopwatch) -> None:
    """Write the synthetic cohort where the config asks for one."""
    if config.cohort is None or config.cohort_path is None:
        return
    from histotune.datasets.synthetic.cohort_folder import write_cohort

    beside = config.cohort_path.with_name(f".{config.cohort_path.name}.lock")
    with watch.stage("write synthetic tissue"), lock(beside):  # several processes may want it
        write_cohort(config.cohort, config.cohort_path)


def embed_experiment(config: ExperimentConfig, watch: Stopwatch) -> Embedded:
    """Read the data of an experiment and embed it for every arm: all that several processes do together."""
    write_cohort_first(config, watch)
    with watch.stage("read data"):
        source = None if config.source is None else read_dataset(config.source)
        target = None if config.target is None else read_dataset(config.target)
        target_split = None
        if source is None and target is not None:
            target, target_split = with_parts(target, config.evaluation)
        _check_before_embedding(config, source, target)
    pinned = pinned_config(config.backbone, find_backbone(config.backbone, config.cache))
    config = config.model_copy(update={"backbone": pinned})  # what a run repeats from is what it used
    source_arms = embed_arms(config, config.source, source, watch)
    target_arms = embed_arms(config, config.target, target, watch)
    return Embedded(config, source_arms, target_arms, target_split)


@dataclass(frozen=True)
class Embedded:
    """An experiment's data, embedded: the config with its backbone pinned, the arms, the target's split."""

    config: ExperimentConfig
    source_arms: tuple[ArmMaterial, ...]
    target_arms: tuple[ArmMaterial, ...]
    target_split: Split | None


def _check_before_embedding(config: ExperimentConfig, source: TileSet | None, target: TileSet | None) -> None:
    """Find what would stop the study now, not after hours of embedding; report it all together."""
    errors: list[UserError] = []
    if source is not None:
        with collect(errors):
            plan_source(source, config.evaluation)
    if target is not None:
        with collect(errors):
            part_rows(target, scored_part(config.evaluation))
    with collect(errors):
        _check_labels_match(source, target)
    with collect(errors):
        _check_views(config, source, target)
    raise_together(errors)


def _check_views(config: ExperimentConfig, source: TileSet | None, target: TileSet | None) -> None:
    """Find tiles that a view can't be made of, for every arm's view."""
    views = dict.fromkeys(chosen_view(config.view, spec) for _, spec in arm_backbones(config))
    for tiles in (source, target):
        for view in views:
            if tiles is not None:
                check_view(tiles, view)


def _check_labels_match(source: TileSet | None, target: TileSet | None) -> None:
    if source is not None and target is not None and len(source.class_names) != len(target.class_names):
        raise UserError(
            "a head can't be carried to a data set with another number of classes",
            value=f"{len(source.class_names)} classes in {source.name}",
            allowed=f"{len(target.class_names)} classes, as in {target.name}",
            fix="--set source.labels=binary",
        )


def _foreign_names(folder: Path) -> tuple[str, ...]:
    """Return what lies in a folder and is no part of a run, matrix, protocol or head."""
    names = sorted(path.name for path in folder.iterdir())
    is_own = any((folder / name).is_file() for name in ("bundle.json", "protocol.json")) or _is_run_config(folder)
    return tuple(name for name in names if not (is_own and name in RUN_NAMES))


def _is_run_config(folder: Path) -> bool:
    """Whether ``config.json`` is histotune's: a model saved for transformers has one, too."""
    try:
        data = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and {"recipe", "backbone", "evaluation"} <= data.keys()


RUN_NAMES = frozenset({
    "added", "bundle.json", "config.json", "embedding_map.parquet", "head", "head-direct", "head.json",
    "head.safetensors", "label_efficiency.parquet", "matrix.csv", "matrix.html", "matrix.json", "plots",
    "predictions.parquet", "protocol.json", "provenance.json", "report.html", "scores.json", "thumbnails",
    "thumbnails.json", "trials.parquet",
})  # fmt: skip
