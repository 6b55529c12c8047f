"""A config resolved once: which tiles, which split, which backbone at which revision, which view, which arms.

Every study takes a :class:`Setup`, and a saved head gives its own through :func:`config_of_head`. The backbone and the
view are looked up here and nowhere else.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from histotune.backbones.catalog import colour_histogram, find_backbone, pinned_config, random_twin
from histotune.datasets.dataset_spec import known_specs
from histotune.datasets.read import read_dataset
from histotune.datasets.splits.split import require_groups
from histotune.datasets.tileset import require_classes
from histotune.embeddings.embed import embed
from histotune.embeddings.space import EmbedRequest, chosen_view, with_view_notes
from histotune.evaluation.crossfit import cross_fit_task
from histotune.evaluation.external import check_direct_training
from histotune.evaluation.findings import Artifacts
from histotune.evaluation.floors import N_TWINS, twin_rows
from histotune.evaluation.held_out import ArmMaterial
from histotune.evaluation.ledger import LEDGER_FILE
from histotune.evaluation.material import Material
from histotune.evaluation.plan import part_rows, plan_source, scored_part, training_rows, with_parts
from histotune.heads.classes import match_classes
from histotune.heads.family import check_inner_folds
from histotune.heads.label_efficiency import check_label_efficiency
from histotune.images.config import ViewChoice
from histotune.images.view_checks import check_view, moves_label
from histotune.images.views import input_mpp
from histotune.report.run_folder import FILES, RECOMPUTE_FILE
from histotune.tools.atomic import claimed, require_writable
from histotune.tools.errors import UserError, collect, raise_together
from histotune.tools.files import json_or_none, lock
from histotune.tools.manifest import is_manifest
from histotune.tools.marks import COLOUR_HISTOGRAM, EXTERNAL, PROBE, RANDOM_WEIGHTS
from histotune.tools.ranks import process_rank

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from histotune.backbones.entries import BackboneConfig
    from histotune.backbones.spec import BackboneSpec
    from histotune.datasets.config import DatasetConfig, OnBadImage
    from histotune.datasets.read import Part
    from histotune.datasets.splits.split import Split
    from histotune.datasets.tileset import TileSet
    from histotune.deploy.bundle import Bundle
    from histotune.images.config import ViewConfig
    from histotune.studies.config import ExperimentConfig
    from histotune.tools.progress import Stopwatch

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One arm of a study: its name, its backbone, and the view that backbone is shown."""

    arm: str
    backbone: BackboneSpec
    view: ViewConfig


@dataclass(frozen=True)
class Setup:
    """A config, resolved: what every study works on.

    Attributes:
        config: The settings, with the backbone's revision pinned: what a run repeats from is what it used.
        tiles: The data set studied: the source, or the target where there is no source.
        split: The split that was named for it, or that its parts make; None where neither is.
        entries: The probe first, then the floors that have a probe of their own.
        external: The second data set of an experiment, for external validation; None without one.
    """

    config: ExperimentConfig
    tiles: TileSet
    split: Split | None
    entries: tuple[Entry, ...]
    external: TileSet | None = None

    @property
    def backbone(self) -> BackboneSpec:
        """The probe's backbone."""
        return self.entries[0].backbone

    @property
    def view(self) -> ViewConfig:
        """The probe's view."""
        return self.entries[0].view

    @property
    def on_bad_image(self) -> OnBadImage:
        """Whether images that can't be read stop the study or are left out with a note."""
        return single_dataset(self.config).on_bad_image

    def request(self, entry: Entry | None = None) -> EmbedRequest:
        """Return what to ask of the embedding room for one arm; the probe's without one."""
        config, chosen = self.config, entry or self.entries[0]
        return EmbedRequest(
            chosen.backbone,
            chosen.view,
            config.embedding,
            config.loader,
            config.cache,
            self.on_bad_image,
            process_rank(),
        )

    def with_view(self, choice: ViewChoice) -> Setup:
        """Return the same study seen through another view by the probe."""
        entry = replace(self.entries[0], view=chosen_view(choice, self.backbone))
        return replace(self, config=self.config.model_copy(update={"view": choice}), entries=(entry, *self.entries[1:]))

    def embed(self, tiles: TileSet | None = None) -> Material:
        """Embed tiles, those of the setup without others, with the probe's backbone; from the cache where they are."""
        return embed_material(self.tiles if tiles is None else tiles, self.request())


def set_up(config: ExperimentConfig, tiles: TileSet, split: Split | None = None) -> Setup:
    """Resolve a config for tiles that were read: find the backbone, pin its revision, choose the view."""
    backbone = find_backbone(config.backbone, config.cache)
    entry = Entry(PROBE, backbone, chosen_view(config.view, backbone))
    return Setup(_pinned(config, backbone), tiles, split, (entry,))


def read_with_parts(config: ExperimentConfig, read: TileSet | None = None) -> tuple[TileSet, Split | None]:
    """Read the one data set of a config where it is not there yet; split it as the config names, or its own parts."""
    return with_parts(read_single(config) if read is None else read, config.evaluation)


def rows_that_train(tiles: TileSet, config: ExperimentConfig) -> NDArray[np.bool_]:
    """Return which tiles a sweep trains on: the training magnification, within the train part where there are parts."""
    # rows of the training magnification, and of the train part where the data set has parts
    train_N = training_rows(tiles, config.evaluation.train_magnification)
    if tiles.table["split"].null_count() == 0:
        in_part_N = np.zeros(len(tiles), dtype=np.bool_)
        in_part_N[part_rows(tiles, "train")] = True
        train_N &= in_part_N
    trains = tiles.take(np.flatnonzero(train_N))
    require_classes(trains, "a sweep")
    require_groups(trains)
    return train_N


def set_up_experiment(config: ExperimentConfig, watch: Stopwatch) -> Setup:
    """Write the cohort where one is asked for, read the data, find all that would stop the study, resolve the arms."""
    write_cohort_first(config, watch)
    with watch.stage("read data"):
        source = None if config.source is None else read_dataset(config.source, "source")
        target = None if config.target is None else read_dataset(config.target, "target")
        split = None
        if source is None and target is not None:
            target, split = with_parts(target, config.evaluation)
        studied = target if source is None else source
        if studied is None:
            raise UserError("there is nothing to score", fix="give a data set with labels: histotune run --help")
        errors: list[UserError] = []
        with collect(errors):
            target = _matched_target(config, source, target)
        entries = _checked_entries(config, source, target, errors)
    pinned = _pinned(config, entries[0].backbone)
    return Setup(pinned, studied, split, entries, None if source is None else target)


def config_of_head(config: ExperimentConfig, bundle: Bundle) -> ExperimentConfig:
    """Return a config with a saved head's own backbone, view and precision.

    Whether a moved label is accepted is the user's to say, not the head's.
    """
    embedding = config.embedding.model_copy(update={"precision": bundle.precision})
    view = ViewChoice(**bundle.view.model_dump())
    if config.view is not None and config.view.allow_moved_label is not None:
        view = view.model_copy(update={"allow_moved_label": config.view.allow_moved_label})
    return config.model_copy(update={"backbone": bundle.backbone, "view": view, "embedding": embedding})


def backbone_of_head(bundle: Bundle, cache: Path) -> BackboneSpec:
    """Return the backbone that a saved head was trained on."""
    return find_backbone(bundle.backbone, cache)


def backbone_of(config: BackboneConfig, cache: Path | None = None) -> BackboneSpec:
    """Return the backbone that a config names, its revision pinned."""
    return find_backbone(config, cache)


def is_documented_view(setup: Setup) -> bool:
    """Return whether the probe sees what the backbone's authors document."""
    return setup.view == chosen_view(None, setup.backbone)


def embed_arms(
    setup: Setup, dataset: DatasetConfig | None, tiles: TileSet | None, watch: Stopwatch
) -> tuple[ArmMaterial, ...]:
    """Embed with every arm's backbone; what one of them can't read is left out for all that follow."""
    if tiles is None or dataset is None:
        return ()
    arms: list[ArmMaterial] = []
    for entry in setup.entries:
        what = entry.backbone.name if entry.arm == PROBE else f"floor: {entry.backbone.name}"
        with watch.stage(f"embed {tiles.name} ({what})"):
            request = replace(setup.request(entry), on_bad_image=dataset.on_bad_image)
            material = embed_material(tiles, request)
            arms.append(ArmMaterial(entry.arm, material))
            tiles = material.tiles
    if len(tiles) < len(arms[0].material.tiles):
        raise UserError(
            "images became unreadable while they were embedded",
            value=tiles.notes[-1],
            fix="run again when nothing writes into the data set",
        )
    return tuple(arms)


def embed_twins(setup: Setup, tiles: TileSet, watch: Stopwatch) -> tuple[Material, ...]:
    """Embed a part of the tiles with further draws of the random weights, where they are a floor."""
    evaluation = setup.config.evaluation
    floor = next((entry for entry in setup.entries if entry.arm == RANDOM_WEIGHTS), None)
    if floor is None:
        return ()
    part = tiles.take(twin_rows(tiles, evaluation.train_magnification, evaluation.seed))
    materials = []
    for number in range(1, N_TWINS + 1):
        entry = replace(floor, backbone=replace(floor.backbone, seed=floor.backbone.seed + number))
        with watch.stage(f"embed {tiles.name} (floor: {entry.backbone.name}, draw {number + 1})"):
            materials.append(embed_material(part, setup.request(entry)))
    return tuple(materials)


def embed_material(tiles: TileSet, request: EmbedRequest) -> Material:
    """Embed tiles and note what the view does to them; rows of tiles and embeddings are aligned."""
    embeddings = embed(tiles, request)
    rest = with_view_notes(tiles, request.view).without(embeddings.unreadable)
    rest = replace(rest, pixel_fingerprint=embeddings.pixel_fingerprint, notes=(*embeddings.notes, *rest.notes))
    pooling = request.spec.default_pooling
    if embeddings.space.external:
        rest = replace(rest, marks=(*rest.marks, EXTERNAL))
        return Material(rest, embeddings, np.full(len(rest), np.nan), "unknown view", pooling)
    rest = replace(rest, label_moved=moves_label(rest, request.view))
    # input_mpp gives um/px per tile and axis; a tile's one figure is the mean of both axes
    mpp_N = np.asarray(input_mpp(rest, request.view)).reshape(len(rest), -1).mean(axis=1)
    return Material(rest, embeddings, mpp_N, request.view.words, pooling)


def single_dataset(config: ExperimentConfig) -> DatasetConfig:
    """Return the one data set that ``embed``, ``sweep`` and ``evaluate`` work on."""
    dataset = config.source or config.target
    if dataset is None:
        raise UserError("no data set was given", fix="add --data DIR")
    return dataset


def read_single(config: ExperimentConfig) -> TileSet:
    """Read the one data set that a config names; messages name its own settings, those of the source or the target."""
    return read_dataset(single_dataset(config), part_of(config))


def part_of(config: ExperimentConfig) -> Part:
    """Return what the one data set of a config is."""
    return "target" if config.source is None else "source"


@contextmanager
def claimed_folder(config: ExperimentConfig, out: Path | None = None) -> Iterator[None]:
    """Hold a study's folder from its start to its end, after a look for all that would stop its results at the end.

    Args:
        config: Names the folder, and the one of the ledger.
        out: The folder, where it is not the config's.

    Raises:
        UserError: Another process writes there, the folder holds other files, or one of the two can't be written.
    """
    place = config.out if out is None else out
    with claimed(place, folder=True):
        _refuse_foreign_folder(place)
        require_writable(config.ledger / LEDGER_FILE)
        yield


def _refuse_foreign_folder(out: Path) -> None:
    """Refuse to replace a folder that is no run."""
    foreign = _foreign_names(out) if out.is_dir() else ()
    if foreign:
        raise UserError(
            "this folder holds other files; a run would replace them",
            value=f"{out}: {', '.join(foreign[:10])}{', ...' if len(foreign) > 10 else ''}",
            fix="choose another --out, or move them away",
        )


def write_cohort_first(config: ExperimentConfig, watch: Stopwatch) -> None:
    """Write the synthetic cohort where the config asks for one."""
    if config.cohort is None or config.cohort_path is None:
        return
    from histotune.datasets.synthetic.cohort_folder import write_cohort

    beside = config.cohort_path.with_name(f".{config.cohort_path.name}.lock")
    with watch.stage("write synthetic tissue"), lock(beside):  # several processes may want it
        write_cohort(config.cohort, config.cohort_path)


def _pinned(config: ExperimentConfig, backbone: BackboneSpec) -> ExperimentConfig:
    return config.model_copy(update={"backbone": pinned_config(config.backbone, backbone)})


def _entries(config: ExperimentConfig) -> tuple[Entry, ...]:
    """Return the arms: the probe's, then those of the floors with a probe of their own."""
    backbone = find_backbone(config.backbone, config.cache)
    arms, floors = [(PROBE, backbone)], set(config.evaluation.floors)
    if backbone.kind == "colour-histogram" and floors & {"random-weights", "colour-histogram"}:
        LOG.warning("a colour histogram has no weights and is itself a floor, so that these two floors are left out")
        floors -= {"random-weights", "colour-histogram"}
    if "random-weights" in floors and backbone.kind != "external":  # a note says so
        arms.append((RANDOM_WEIGHTS, random_twin(backbone, config.evaluation.seed)))
    if "colour-histogram" in floors:
        arms.append((COLOUR_HISTOGRAM, colour_histogram()))
    return tuple(Entry(arm, spec, chosen_view(config.view, spec)) for arm, spec in arms)


def _matched_target(config: ExperimentConfig, source: TileSet | None, target: TileSet | None) -> TileSet | None:
    """Return the target as the source's heads read it; as it is where there is no source."""
    classes = config.evaluation.classes
    if source is not None and target is not None:
        return _in_order_of(source, target, classes)
    if classes:
        raise UserError(
            "--classes reads the classes of a second data set, and none is given",
            value=", ".join(f"{name}={other}" for name, other in classes.items()),
            fix="leave it out, or give the second data set: --pcam FOLDER",
        )
    return target


def _checked_entries(
    config: ExperimentConfig, source: TileSet | None, target: TileSet | None, errors: list[UserError]
) -> tuple[Entry, ...]:
    """Return the arms after a look for what would stop the study after hours of embedding; all of it told together."""
    entries: tuple[Entry, ...] = ()
    if source is not None:
        with collect(errors):
            plan = plan_source(source, config.evaluation)
            task = cross_fit_task(source, plan.fit)
            check_inner_folds(source.tile_ids, task, config.sweep)
            check_label_efficiency(source.tile_ids, task, config.sweep)
    if target is not None:
        with collect(errors):
            part_rows(target, scored_part(config.evaluation))
            check_direct_training(target, config.sweep)
    with collect(errors):
        entries = _entries(config)
        for tiles in (source, target):
            for view in dict.fromkeys(entry.view for entry in entries):
                if tiles is not None:
                    check_view(tiles, view)
    raise_together(errors)
    return entries


def _in_order_of(source: TileSet, target: TileSet, classes: Mapping[str, str]) -> TileSet:
    """Return the target with its classes in the order of the source's, matched by name: heads are carried over."""
    try:
        match = match_classes(target, source.class_names, classes)
    except UserError as error:
        spec = known_specs().get(source.name)
        schemes = () if spec is None else spec.schemes
        fits = [scheme for scheme in schemes if len(scheme.class_names) == len(target.class_names)]
        if not fits or set(fits[0].class_names) == set(source.class_names):
            raise
        fix = f"--set source.labels={fits[0].name}"
        raise UserError(error.what, value=error.value, allowed=error.allowed, fix=fix) from error
    return replace(match.in_own_words(), notes=(*target.notes, *match.notes))


def _foreign_names(folder: Path) -> tuple[str, ...]:
    """Return what lies in a folder and is no part of a run, matrix, protocol or head."""
    names = sorted(path.name for path in folder.iterdir())
    named = any((folder / name).is_file() for name in ("bundle.json", "protocol.json"))
    is_own = named or _is_run_config(folder) or is_manifest(folder)
    return tuple(name for name in names if not (is_own and name in RUN_NAMES))


def _is_run_config(folder: Path) -> bool:
    """Whether ``config.json`` is histotune's: a model saved for transformers has one, too."""
    data = json_or_none(folder / "config.json")
    return isinstance(data, dict) and {"recipe", "backbone", "evaluation"} <= data.keys()


RUN_NAMES = {
    *FILES,
    *(f"{table.name}.parquet" for table in fields(Artifacts)),
    "added",
    "bundle.json",
    "head",
    "head-direct",
    "head-tuned",
    "head.json",
    "head.safetensors",
    "matrix.csv",
    "matrix.html",
    "manifest.json",
    "matrix.json",
    "plots",
    "figures",
    "protocol.json",
    "reference.safetensors",
    RECOMPUTE_FILE,
    "report.html",
    "thumbnails",
}
"""What runs write into their folders."""
