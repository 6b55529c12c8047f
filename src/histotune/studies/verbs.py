"""The public verbs, as ``import histotune as ht`` gives them: plain arguments in, typed records back.

Arguments have the command line's names and defaults; every other field of the config is reached by
``set={"sweep.folds": 3}``, as ``--set`` does. The command line builds the same arguments and calls the same verbs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from histotune.studies.arguments import (
    Fields,
    Place,
    assignments,
    build_config,
    bundle_of,
    changed_config,
    command_of,
    config_of,
    path_of,
    tiles_of,
)
from histotune.studies.config import ExperimentConfig
from histotune.tools.atomic import claimed
from histotune.tools.errors import UserError, closest_name
from histotune.tools.table import Column, ShownAsTables, Table, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from histotune.datasets.tileset import TileSet
    from histotune.deploy.bundle import Bundle
    from histotune.embeddings.space import Embeddings
    from histotune.evaluation.material import Material
    from histotune.heads.family import Tried
    from histotune.statistics.metrics import MetricName
    from histotune.statistics.predictions import Predictions, Score
    from histotune.studies.compare import ComparisonOutcome
    from histotune.studies.experiment import RunResult
    from histotune.studies.matrix import MatrixOutcome
    from histotune.studies.protocol import ProtocolOutcome
    from histotune.studies.setup import Setup
    from histotune.studies.stages import EvaluationOutcome, SweepOutcome
    from histotune.studies.transfer import TransferOutcome


@dataclass(frozen=True)
class EmbeddedTiles(ShownAsTables):
    """Tiles with their embeddings, rows aligned, and how they were made.

    Attributes:
        setup: The backbone, its view and the other settings.
        material: The tiles that could be read, and their embeddings.
    """

    setup: Setup
    material: Material

    @property
    def tiles(self) -> TileSet:
        """The tiles that could be read."""
        return self.material.tiles

    @property
    def embeddings(self) -> Embeddings:
        """One row per tile."""
        return self.material.embeddings

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.material.tiles)

    def tables(self) -> tuple[Table, ...]:
        """Return how many rows there are, and what their columns are."""
        space, blocks = self.embeddings.space, self.embeddings.blocks
        rows = [(block.name, str(block.stop - block.start)) for block in blocks]
        title = f"{self.tiles.name}: {len(self):,} tiles with {space.backbone} ({space.precision})"
        return (Table(title, (Column("columns"), Column("width", "right")), rows_of(rows), self.embeddings.notes),)


def embed(
    tiles: TileSet | str | ExperimentConfig,
    backbone: str | None = None,
    data: Place | None = None,
    *,
    adapter: str | None = None,
    view: str | None = None,
    cache: Place | None = None,
    on_bad_image: str | None = None,
    set: Fields = None,
) -> EmbeddedTiles:
    """Embed every tile once with a frozen backbone; the second time nothing is computed.

    Args:
        tiles: What :func:`read` gave, or a data set's name.
        backbone: A name out of ``histotune backbones``, ``timm/NAME``, a hub id, or a local folder.
        data: Folder of the data set, where it is named.
        adapter: PEFT's or changed tensors, merged into the backbone.
        view: ``short-side-crop``, ``square``, ``letterbox`` or ``tiles``; as the backbone documents it without one.
        cache: Folder for embeddings; safe to delete.
        on_bad_image: ``fail`` (default) or ``skip``.
        set: Further fields, such as ``{"embedding.precision": "fp32"}``.

    Returns:
        The tiles that could be read, with one embedding each.

    Raises:
        UserError: No such backbone, weights that are not there, images that can't be read.

    Example:
        >>> import histotune as ht
        >>> x = ht.embed(ht.read("breakhis", "BreaKHis_v1"), "colour-histogram")
        >>> x.embeddings.matrix_ND.shape
        (72, 96)
    """
    from histotune.studies.setup import set_up

    typed = {"adapter": adapter, "view": view, "cache": cache, "on_bad_image": on_bad_image}
    config = config_of(tiles, data, backbone=backbone, set=set, **typed)
    setup = set_up(config, tiles_of(tiles, config))
    return EmbeddedTiles(setup, setup.embed())


def sweep(
    tiles: EmbeddedTiles | TileSet | str | ExperimentConfig,
    backbone: str | None = None,
    data: Place | None = None,
    *,
    train_magnification: str | None = None,
    split: str | None = None,
    out: Place | None = None,
    cache: Place | None = None,
    set: Fields = None,
    watch: Callable[[Tried], None] | None = None,
) -> SweepOutcome:
    """Choose a head by grouped cross-validation over the training cases, refit it, and save it.

    Args:
        tiles: What :func:`embed` or :func:`read` gave, or a data set's name.
        backbone: As for :func:`embed`; the one of embedded tiles is theirs.
        data: Folder of the data set, where it is named.
        train_magnification: Magnification that trains, such as ``100X``.
        split: Name or file of a split, whose train part trains.
        out: Folder to write; ``heads/DATASET`` without one.
        cache: Folder for embeddings and solved fits.
        set: Further fields, such as ``{"sweep.folds": 3}``.
        watch: Called whenever trials are finished.

    Returns:
        The head with its backbone and view (``.head``), every trial, and how the choice was made.

    Raises:
        UserError: Too few groups, one class only, or a folder that holds other files.

    Example:
        >>> import histotune as ht
        >>> x = ht.embed(ht.read("breakhis", "BreaKHis_v1"), "colour-histogram")
        >>> found = ht.sweep(x, train_magnification="100X", out="head", set={"sweep.folds": 3})
        >>> found.head.head.class_names
        ('benign', 'malignant')
    """
    from histotune.studies.stages import sweep_tiles

    typed = {"train_magnification": train_magnification, "split": split, "cache": cache}
    if isinstance(tiles, EmbeddedTiles):
        config = changed_config(tiles.setup.config, typed, set)
    else:
        config = config_of(tiles, data, backbone=backbone, set=set, **typed)
    config = config.model_copy(update={"out": Path(out) if out is not None else Path("heads") / config.recipe})
    return sweep_tiles(config, None if isinstance(tiles, str | ExperimentConfig) else _plain(tiles), watch)


def evaluate(
    head: Bundle | Place,
    tiles: TileSet | str | ExperimentConfig,
    data: Place | None = None,
    *,
    cache: Place | None = None,
    classes: Mapping[str, str] | str | None = None,
    exclude_seen: bool = False,
    out: Place | None = None,
    final: bool = False,
    cluster: str | None = None,
    on_bad_image: str | None = None,
    set: Fields = None,
) -> EvaluationOutcome:
    """Score a head on a data set; tiles and groups that trained it are found, and their rows marked.

    Args:
        head: What :func:`sweep` gave as ``.head``, or a head's or run's folder.
        tiles: What :func:`read` gave, or a data set's name.
        data: Folder of the data set, where it is named.
        cache: Folder for embeddings.
        classes: How classes of the data are read, as ``{"normal": "benign"}``; an empty name leaves its tiles out.
        exclude_seen: Leave out tiles that trained the head, and tiles of groups that did.
        out: Table of the predictions to write: ``.csv``, ``.tsv``, ``.parquet`` or ``.xlsx``; None writes none.
        final: Score the test part; every scoring is counted.
        cluster: ``tile``: intervals as if tiles were independent (TOO NARROW).
        on_bad_image: ``fail`` (default) or ``skip``.
        set: Further fields of the config.

    Returns:
        Scores with intervals per domain, how often this split has been scored, and a row per tile (``.table``).

    Raises:
        UserError: No head there, other classes, or the scored part is missing.

    Example:
        >>> import histotune as ht
        >>> tiles = ht.read("breakhis", "BreaKHis_v1")
        >>> x = ht.embed(tiles, "colour-histogram")
        >>> head = ht.sweep(x, train_magnification="100X", out="head", set={"sweep.folds": 3}).head
        >>> [row.domain for row in ht.evaluate(head, tiles).finding.rows]
        ['breakhis 100X', 'breakhis 400X']
    """
    from histotune.deploy.prediction_table import check_table_name, write_predictions
    from histotune.studies.stages import evaluate_head

    place = path_of(out)
    if place is not None:
        check_table_name(place)
    typed = {"cache": cache, "classes": classes, "final": final, "cluster": cluster, "on_bad_image": on_bad_image}
    config = config_of(tiles, data, set=set, **typed)
    with claimed(place, folder=False):
        outcome = evaluate_head(bundle_of(head), config, _plain(tiles), exclude_seen=exclude_seen)
        if place is not None:
            write_predictions(outcome.table, place)
    return outcome


def score(
    predictions: Predictions,
    metrics: Sequence[MetricName] = ("auroc", "balanced_accuracy"),
    *,
    cluster: str = "group",
    within_folds: bool = False,
) -> tuple[Score, ...]:
    """Score predictions, with intervals over whole groups.

    Args:
        predictions: One row per tile, every one labelled.
        metrics: What to compute.
        cluster: ``group``, or ``tile``: intervals as if tiles were independent (TOO NARROW).
        within_folds: AUROC compares only tiles that one head scored.

    Returns:
        One score per metric; NaN with a reason where it is undefined.

    Raises:
        UserError: Unknown metric, or an unlabelled tile.

    Example:
        >>> import histotune as ht
        >>> tiles = ht.read("breakhis", "BreaKHis_v1")
        >>> x = ht.embed(tiles, "colour-histogram")
        >>> head = ht.sweep(x, train_magnification="100X", out="head", set={"sweep.folds": 3}).head
        >>> [one.name for one in ht.score(ht.evaluate(head, tiles).predictions, ["auroc"])]
        ['auroc']
    """
    from histotune.statistics.predictions import IntervalConfig
    from histotune.statistics.scores import score_predictions

    if cluster not in ("group", "tile"):
        raise UserError(
            "unknown cluster of an interval",
            value=cluster,
            allowed="group, tile",
            closest=closest_name(cluster, ("group", "tile")),
            fix='cluster="group"',
        )
    interval = IntervalConfig.model_validate({"cluster": cluster})
    return score_predictions(predictions, metrics, interval, within_folds=within_folds)


def transfer(
    head: Place,
    target: str | ExperimentConfig,
    data: Place | None = None,
    *,
    out: Place | None = None,
    cache: Place | None = None,
    split: str | None = None,
    classes: Mapping[str, str] | str | None = None,
    final: bool = False,
    cluster: str | None = None,
    on_bad_image: str | None = None,
    images: bool = True,
    set: Fields = None,
) -> TransferOutcome:
    """Say why a head falls short on another data set: what is lost in ranking and in the decision, and what helps.

    Args:
        head: Folder of a finished run, which holds its held-out scores.
        target: ``breakhis``, ``pcam``, ``tiles``, or a Python file that reads the target.
        data: Folder of the target, or table of tiles.
        out: Folder for ``transfer.json`` and ``transfer.html``; ``transfers/RUN-TARGET`` without one.
        cache: Folder for embeddings.
        split: A split of the target: its valid or test part.
        classes: How classes of the target are read, as ``{"normal": "benign"}``.
        final: Score the test part; every scoring is counted.
        cluster: ``tile``: intervals as if tiles were independent (TOO NARROW).
        on_bad_image: ``fail`` (default) or ``skip``.
        images: Embed the target again with scale and stain undone.
        set: Further fields, such as ``{"transfer.stain": "reinhard"}``.

    Returns:
        The diagnosis, the ledger's count and the folder.

    Raises:
        UserError: No finished run there, or a target with other classes.

    Example:
        >>> import histotune as ht
        >>> few = {"sweep.folds": 3, "evaluation.outer_folds": 3, "evaluation.floors": []}
        >>> run = ht.run("breakhis", "BreaKHis_v1", backbone="colour-histogram", out="run", set=few)
        >>> found = ht.transfer("run", "pcam", "PCAM", out="transfer", images=False)
        >>> found.diagnosis.target
        'patch_camelyon valid'
    """
    from histotune.studies.transfer import run_transfer
    from histotune.tools.provenance import redact

    place = Path(head)
    if isinstance(target, ExperimentConfig):
        config = target
    else:
        folder = Path(out) if out is not None else Path("transfers") / f"{place.resolve().name}-{Path(target).stem}"
        typed = {"cache": cache, "split": split, "classes": classes, "final": final, "cluster": cluster}
        config = config_of(target, data, out=folder, set=set, on_bad_image=on_bad_image, **typed)
    return run_transfer(place, config, redact(command_of("transfer")), images=images)


def matrix(
    dataset: str | ExperimentConfig,
    data: Place | None = None,
    backbone: str | None = None,
    *,
    matched: bool = False,
    split: str | None = None,
    out: Place | None = None,
    cache: Place | None = None,
    cluster: str | None = None,
    on_bad_image: str | None = None,
    set: Fields = None,
) -> MatrixOutcome:
    """Train at every magnification, score every magnification; groups are disjoint everywhere.

    Args:
        dataset: ``breakhis``, ``tiles``, or a Python file: a data set with magnifications.
        data: Folder of the data set, or table of tiles.
        backbone: As for :func:`embed`.
        matched: Also embed with equal input scale, and with equal field of view.
        split: Folds, such as ``grouped-5-seed0``.
        out: Folder to write; ``runs/DATASET-matrix`` without one.
        cache: Folder for embeddings.
        cluster: ``tile``: intervals as if tiles were independent (TOO NARROW).
        on_bad_image: ``fail`` (default) or ``skip``.
        set: Further fields of the config.

    Returns:
        The matrices, the ledger's count and the folder.

    Raises:
        UserError: Fewer than two magnifications, or a folder that holds other files.

    Example:
        >>> import histotune as ht
        >>> few = {"sweep.folds": 3, "evaluation.outer_folds": 3}
        >>> found = ht.matrix("breakhis", "BreaKHis_v1", "colour-histogram", out="matrix", set=few)
        >>> found.study.matrices[0].columns
        ('100X', '400X')
    """
    from histotune.studies.matrix import run_matrix

    typed = {"split": split, "cache": cache, "cluster": cluster, "on_bad_image": on_bad_image}
    config = config_of(dataset, data, backbone=backbone, set=set, **typed)
    config = config.model_copy(update={"out": Path(out) if out else Path("runs") / f"{config.recipe}-matrix"})
    return run_matrix(config, command_of("matrix"), matched=matched)


def compare(
    runs: Sequence[Place],
    *,
    metrics: Sequence[str] = (),
    pairs: Sequence[str] = (),
    first: bool = False,
    permutations: int = 9999,
    seed: int = 0,
    out: Place | None = None,
) -> ComparisonOutcome:
    """Compare runs on the same tiles: paired intervals and p values; mean ranks over five or more data sets.

    Args:
        runs: Folders of finished runs, two or more.
        metrics: Names of metrics; AUROC and balanced accuracy without any.
        pairs: The declared family, as ``"A,B"``; all pairs without any.
        first: Compare all with the first run only.
        permutations: Most permutations behind a p value.
        seed: Seed of the permutations.
        out: Folder for ``comparison.json`` and ``comparison.html``; None writes none.

    Returns:
        Scores, paired differences and ranks, and the folder.

    Raises:
        UserError: A folder is no finished run, or the runs share no tiles.

    Example:
        >>> import histotune as ht
        >>> few = {"sweep.folds": 3, "evaluation.outer_folds": 3, "evaluation.floors": []}
        >>> names = {"a": 0, "b": 1}
        >>> for name, seed in names.items():
        ...     again = few | {"sweep.seed": seed}
        ...     run = ht.run("breakhis", "BreaKHis_v1", backbone="colour-histogram", out=name, set=again)
        >>> found = ht.compare(["a", "b"], permutations=99)
        >>> found.comparison.names
        ('a', 'b')
    """
    from histotune.studies.compare import CompareRequest, compare_folders

    folders = tuple(Path(run) for run in runs)
    asked = CompareRequest(folders, tuple(metrics), tuple(pairs), first, permutations, seed)
    return compare_folders(asked, None if out is None else Path(out), command_of("compare"))


def run(
    recipe: str | ExperimentConfig | None = None,
    data: Place | None = None,
    pcam: Place | None = None,
    *,
    train_magnification: str | None = None,
    backbone: str | None = None,
    out: Place | None = None,
    cache: Place | None = None,
    split: str | None = None,
    final: bool = False,
    on_bad_image: str | None = None,
    from_run: Place | None = None,
    set: Fields = None,
) -> RunResult | ProtocolOutcome:
    """Run a whole experiment, or a published protocol, and write its folder.

    Args:
        recipe: ``demo``, ``breakhis``, ``pcam``, ``midnight``, ``tiles``, a Python file, or a published protocol.
        data: Folder of the data set, or table of tiles.
        pcam: PatchCamelyon folder: external validation and direct training.
        train_magnification: Magnification that trains, such as ``100X``.
        backbone: As for :func:`embed`.
        out: Run folder; appears when finished.
        cache: Folder for embeddings and solved fits.
        split: Name or file of a split.
        final: Score the test part; every scoring is counted.
        on_bad_image: ``fail`` (default) or ``skip``.
        from_run: Repeat a finished run from its folder.
        set: Further fields of the config.

    Returns:
        The finished run with its findings, or the protocol's table.

    Raises:
        UserError: Anything the user can mend; nothing is left half-written.

    Example:
        >>> import histotune as ht
        >>> few = {"sweep.folds": 3, "evaluation.outer_folds": 3, "evaluation.floors": []}
        >>> run = ht.run("breakhis", "BreaKHis_v1", backbone="colour-histogram", out="run", set=few)
        >>> (run.folder / "report.html").exists()
        True
    """
    from histotune.studies.experiment import run_experiment
    from histotune.studies.protocol import run_protocol

    if isinstance(recipe, ExperimentConfig):
        config = recipe
    else:
        typed = {
            "train_magnification": train_magnification,
            "backbone": backbone,
            "out": path_of(out),
            "cache": path_of(cache),
            "split": split,
            "final": final,
            "on_bad_image": on_bad_image,
            "from_run": path_of(from_run),
            "settings": assignments(set),
        }
        config = build_config(recipe, data=path_of(data), pcam=path_of(pcam), **typed)
    study = run_experiment if config.protocol is None else run_protocol
    return study(config, command_of("run"))


def _plain(tiles: EmbeddedTiles | TileSet | str | ExperimentConfig) -> TileSet | None:
    """Return tiles as they were read; None where they still have to be."""
    if isinstance(tiles, str | ExperimentConfig):
        return None
    return tiles.setup.tiles if isinstance(tiles, EmbeddedTiles) else tiles
