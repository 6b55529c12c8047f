"""Apply a saved head to images: probabilities, decisions, sets of classes, and what lies far from training.

Images pass by in parts: embedded (or read from the cache), predicted, written, forgotten. A killed prediction goes on
where it was, because the cache holds what was embedded; the table appears whole, and is the same to the byte.
"""

# N tiles of a part, K classes

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.datasets.unlabelled import read_unlabelled_images
from histotune.deploy.prediction_table import UNITS, UnitSums, beside, decision_columns, table_writer, write_predictions
from histotune.embeddings.embed import embed
from histotune.embeddings.space import EmbedRequest, LoadedBackbone
from histotune.heads.conformal import COVERAGE, conformal_members, conformal_rule
from histotune.heads.distance import distance_rule, sample_distances
from histotune.heads.head import class_probabilities, decide, head_logits, space_note
from histotune.heads.outliers import FarthestTile, far_words, find_far
from histotune.heads.reference import SCALE_FACTOR
from histotune.images.decode import UnreadableTilesError, tile_sources
from histotune.images.view_checks import view_notes
from histotune.images.views import input_mpp
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from histotune.backbones.spec import BackboneSpec
    from histotune.datasets.config import OnBadImage
    from histotune.datasets.tileset import TileSet
    from histotune.deploy.bundle import Bundle
    from histotune.embeddings.space import EmbeddingConfig, Embeddings
    from histotune.heads.conformal import ConformalRule
    from histotune.heads.distance import DistanceRule
    from histotune.images.config import LoaderConfig

LOG = logging.getLogger(__name__)
PART_TILES = 8192
JOINT = " | "  # between the classes of a set
BEYOND_THE_DECISION = ("set", "abstains", "distance", "far", "input_mpp", "other_scale", "slide", "case")
WORTH_A_WARNING = 2.0
"""Far images are a warning beyond twice the share of false alarms; below they are said in passing."""


@dataclass(frozen=True)
class PredictSettings:
    """How prediction computes, and what is known about the images.

    Attributes:
        embedding: Device, batches.
        loader: How pixels are read.
        cache: Root folder of the cache.
        on_bad_image: Whether images that can't be read stop it or stay without a prediction.
        mpp: Scale of the images, um/px; None where unknown, which is enough for views without ``target_mpp``.
        coverage: Share of tiles of new cases whose set of classes is to hold the true one; None takes 0.9.
    """

    embedding: EmbeddingConfig
    loader: LoaderConfig
    cache: Path
    on_bad_image: OnBadImage = "fail"
    mpp: float | None = None
    coverage: float | None = None


@dataclass
class PredictionCounts:
    """What was counted while images passed by.

    Attributes:
        n_images: Images asked for.
        n_skipped: Images that can't be read.
        n_abstained: Images whose set has several classes.
        n_far: Images far from training.
        n_other_scale: Images that the network sees at another scale than the training tiles.
        n_scaled: Images whose scale is known.
        farthest: The farthest image.
        files: Tables that were written.
    """

    n_images: int = 0
    n_skipped: int = 0
    n_abstained: int = 0
    n_far: int = 0
    n_other_scale: int = 0
    n_scaled: int = 0
    farthest: FarthestTile = field(default_factory=lambda: FarthestTile("", 0.0))
    files: tuple[Path, ...] = ()


class Predictor:
    """A head with its backbone, ready to be applied to any number of images.

    Args:
        bundle: The head, its backbone and view.
        backbone: The bundle's backbone, found.
        settings: Device, batch size, cache, coverage.
    """

    def __init__(self, bundle: Bundle, backbone: BackboneSpec, settings: PredictSettings) -> None:
        self._bundle, self._settings = bundle, settings
        embedding = settings.embedding.model_copy(update={"precision": bundle.precision})
        where = (settings.loader, settings.cache, settings.on_bad_image)
        self._request = EmbedRequest(backbone, bundle.view, embedding, *where, loaded=LoadedBackbone())
        self._said: set[str] = set()
        reference = bundle.reference
        coverage = COVERAGE if settings.coverage is None else settings.coverage
        self._sets = None if reference.held_out is None else conformal_rule(bundle.head, reference.held_out, coverage)
        self._far = None if reference.sample is None else distance_rule(reference.sample)
        self._far_limit = 0.0
        self.counts = PredictionCounts()
        if self._sets is None and settings.coverage is not None:
            raise UserError(
                f"this head gives no sets of classes: {reference.reason}",
                value=f"--coverage {settings.coverage:g}",
                fix="leave out --coverage, or train the head on 30 cases or more",
            )

    def parts(self, tiles: TileSet) -> Iterator[pl.DataFrame]:
        """Yield the predictions of some tiles at a time, in order.

        Args:
            tiles: From :func:`~histotune.datasets.unlabelled.read_unlabelled_images`.

        Yields:
            Tables of equal columns, a row per tile.
        """
        self._begin(tiles)
        n_tiles, unreadable = len(tiles), None
        for start in range(0, n_tiles, PART_TILES):
            part = tiles.take(np.arange(start, min(start + PART_TILES, n_tiles)))
            if n_tiles > PART_TILES:
                LOG.info("images %s to %s of %s", f"{start + 1:,}", f"{start + len(part):,}", f"{n_tiles:,}")
            try:
                found = self._predicted(part, embed(part, self._request))
            except UnreadableTilesError as error:  # all of this part: others may be readable
                if self._settings.on_bad_image == "fail" or not _are_all(part, error):
                    raise
                unreadable, found = error, self._without_rows()
            yield self._complete(part, found)
        if unreadable is not None and self.counts.n_skipped == self.counts.n_images:
            raise unreadable
        self._finish()

    def rows(self, tiles: TileSet, embeddings: Embeddings) -> pl.DataFrame:
        """Return the predictions of tiles whose embeddings are there, in the columns of :meth:`parts`.

        Args:
            tiles: Some tiles.
            embeddings: A row for each of them, in their order.

        Returns:
            A row per tile.
        """
        return self._complete(tiles, self._predicted(tiles, embeddings))

    @property
    def far_rule(self) -> DistanceRule | None:
        """From where on an image counts as far from training; None where the head knows no training tiles."""
        return self._far

    @property
    def sets(self) -> ConformalRule | None:
        """How sets of classes are made; None where there are none."""
        return self._sets

    def _begin(self, tiles: TileSet) -> None:
        for note in tiles.notes:
            LOG.warning(note)
        if tiles.table["width_px"].null_count() < len(tiles):  # of images of unknown size nothing is known
            for note in view_notes(tiles, self._bundle.view):
                LOG.info(note)
        if self._sets is not None:
            LOG.info(self._sets.words(self._bundle.head.class_names))
        else:
            LOG.info("No sets of classes: %s.", self._bundle.reference.reason)

    def _say(self, note: str) -> None:
        """Say something once, whatever part it is true of."""
        if note and note not in self._said:
            self._said.add(note)
            LOG.info(note)

    def _predicted(self, tiles: TileSet, embeddings: Embeddings) -> pl.DataFrame:
        """Return the rows of tiles that could be read."""
        head = self._bundle.head
        self._say(space_note(head, embeddings))
        probability_NK = class_probabilities(head, head_logits(head, embeddings))
        names = np.array(head.class_names, dtype=object)
        sets, abstains = self._sets_of(probability_NK)
        distance_N, far = self._distances(embeddings)
        return pl.DataFrame(
            {
                "path": embeddings.tile_ids,
                "predicted": names[decide(head, probability_NK)].tolist(),
                **{f"probability_{name}": probability_NK[:, index] for index, name in enumerate(head.class_names)},
                "set": sets,
                "abstains": abstains,
                "distance": distance_N,
                "far": far,
            },
            schema_overrides={"set": pl.String, "abstains": pl.Boolean, "distance": pl.Float64, "far": pl.Boolean},
        )

    def _without_rows(self) -> pl.DataFrame:
        names = [f"probability_{name}" for name in self._bundle.head.class_names]
        texts, numbers, flags = ("path", "predicted", "set"), (*names, "distance"), ("abstains", "far")
        types = dict.fromkeys(texts, pl.String) | dict.fromkeys(numbers, pl.Float64) | dict.fromkeys(flags, pl.Boolean)
        return pl.DataFrame(schema=types)

    def _sets_of(self, probability_NK: NDArray[np.float64]) -> tuple[list[str] | None, list[bool] | None]:
        """Return each tile's set of classes as text, and whether it has several."""
        if self._sets is None:
            return None, None
        head = self._bundle.head
        members_NK = conformal_members(head, probability_NK, self._sets.limit)
        rows = members_NK.tolist()
        texts = [JOINT.join(name for name, is_in in zip(head.class_names, row, strict=True) if is_in) for row in rows]
        abstains_N = members_NK.sum(axis=1) > 1
        self.counts.n_abstained += int(abstains_N.sum())
        return texts, abstains_N.tolist()

    def _distances(self, embeddings: Embeddings) -> tuple[NDArray[np.float64] | None, list[bool] | None]:
        """Return how far each tile lies from those that trained, and whether that is far; None where unknown.

        A head without a sample of its training tiles knows only which columns lie far outside.
        """
        head, sample = self._bundle.head, self._bundle.reference.sample
        outside = find_far(head, embeddings)
        far_N = outside.deviation_N > outside.limit
        self._far_limit = outside.limit
        measured_N, distance_N = outside.deviation_N, None
        if self._far is not None and sample is not None:
            measured_N = distance_N = sample_distances(head, sample, embeddings)
            far_N = far_N | (distance_N > self._far.limit)
        elif head.train_mean_D is None:
            return None, None
        first = int(np.argmax(measured_N))
        if measured_N[first] > self.counts.farthest.deviation:
            self.counts.farthest = FarthestTile(embeddings.tile_ids[first], float(measured_N[first]))
        self.counts.n_far += int(far_N.sum())
        return distance_N, far_N.tolist()

    def _complete(self, tiles: TileSet, found: pl.DataFrame) -> pl.DataFrame:
        """Return a row per tile, those that could not be read without a prediction, and what is known of each."""
        scale, input_mpp_N = self._bundle.reference.scale, input_mpp(tiles, self._bundle.view)
        seen_mpp_N = np.sqrt(input_mpp_N.prod(axis=1))
        is_known_N = np.isfinite(seen_mpp_N)
        known = pl.DataFrame(
            {
                "path": tiles.tile_ids,
                "input_mpp": pl.Series(seen_mpp_N, dtype=pl.Float64).fill_nan(None),
                "other_scale": [None] * len(tiles) if scale is None else scale.is_other(seen_mpp_N),
                "slide": tiles.table["slide_id"],
                "case": tiles.table["group_id"],
            },
            schema_overrides={"other_scale": pl.Boolean},
        ).with_columns(other_scale=pl.when(pl.col("input_mpp").is_not_null()).then(pl.col("other_scale")))
        self.counts.n_images += len(tiles)
        self.counts.n_skipped += len(tiles) - found.height
        self.counts.n_scaled += int(is_known_N.sum())
        self.counts.n_other_scale += int(known["other_scale"].sum() or 0)
        names = [f"probability_{name}" for name in self._bundle.head.class_names]
        whole = known.join(found, on="path", how="left", maintain_order="left")
        is_predicted = pl.col("predicted").is_not_null()
        decided = decision_columns(self._bundle.head)
        decisions = [pl.when(is_predicted).then(one).alias(one.meta.output_name()) for one in decided]
        return whole.with_columns(decisions).select(
            "path", "predicted", *names, "threshold", "decision", *BEYOND_THE_DECISION
        )

    def _finish(self) -> None:
        """Say what was found in all images."""
        counts, far, scale = self.counts, self._far, self._bundle.reference.scale
        n_read = counts.n_images - counts.n_skipped
        if far is not None:
            farthest = f"{counts.farthest.tile_id}, {counts.farthest.deviation:.2f}; far is beyond {far.limit:.2f}"
            many = counts.n_far > WORTH_A_WARNING * far.false_alarms * n_read
            if note := far.note(counts.n_far, n_read, farthest):
                LOG.log(logging.WARNING if many else logging.INFO, "%s", note)
        elif counts.n_far:
            LOG.warning(far_words(counts.n_far, n_read, counts.farthest, self._far_limit))
        if self._sets is not None and counts.n_abstained:
            LOG.info("The head abstains on %s of %s images.", f"{counts.n_abstained:,}", f"{n_read:,}")
        if scale is None:
            return
        trained = f"{scale.low_mpp:.3g} to {scale.high_mpp:.3g} um/px at the network's input"
        if counts.n_other_scale:
            LOG.warning(
                f"{counts.n_other_scale:,} of {counts.n_images:,} images are seen at another scale than the tiles that "
                f"trained this head ({trained}, a factor of {SCALE_FACTOR * scale.factor:.3g} allowed): column "
                "input_mpp. A view with target_mpp shows every image at one scale."
            )
        elif not counts.n_scaled:
            LOG.info(
                "The scale of the images is unknown (--mpp), so it is not compared with the training's: %s.", trained
            )


def predict(
    bundle: Bundle, backbone: BackboneSpec, images: Sequence[Path], settings: PredictSettings, out: Path | None = None
) -> pl.DataFrame:
    """Embed images and apply a head.

    Args:
        bundle: The head, its backbone and view.
        backbone: The bundle's backbone, found.
        images: Image files, folders of them, patterns, HDF5 files, tables.
        settings: Device, batch size, cache, coverage.
        out: Table to write as well, with those by slide and by case; None writes none.

    Returns:
        A row per image: ``path``; ``predicted`` and ``probability_<class>`` per class; the head's ``threshold`` and the
        ``decision`` in words; the conformal ``set`` and whether it ``abstains``; the ``distance`` from training and
        whether that is ``far``; ``input_mpp`` and whether that is an ``other_scale``; ``slide`` and ``case``. Nulls for
        images that were skipped as unreadable, and where something is unknown.
    """
    parts: list[pl.DataFrame] = []
    if out is None:
        predictor = Predictor(bundle, backbone, settings)
        parts += predictor.parts(read_unlabelled_images(images, bundle.head.class_names, settings.mpp))
    else:
        predict_to(out, bundle, backbone, images, settings, parts.append)
    return pl.concat(parts)


def predict_to(
    out: Path | None,
    bundle: Bundle,
    backbone: BackboneSpec,
    images: Sequence[Path],
    settings: PredictSettings,
    seen: Callable[[pl.DataFrame], object] | None = None,
) -> PredictionCounts:
    """Embed images, apply a head, and write the table part by part; beside it the tables by slide and by case.

    Args:
        out: The table; None prints CSV, and no tables by slide and case.
        bundle: The head, its backbone and view.
        backbone: The bundle's backbone, found.
        images: As for :func:`predict`.
        settings: Device, batch size, cache, coverage.
        seen: Called with every part of the table.

    Returns:
        What was counted, and the tables that were written.
    """
    predictor, sums = Predictor(bundle, backbone, settings), UnitSums(bundle.head)
    tiles = read_unlabelled_images(images, bundle.head.class_names, settings.mpp)
    with table_writer(out) as write:
        for part in predictor.parts(tiles):
            write(part)
            sums.add(part)
            if seen is not None:
                seen(part)
    files = [] if out is None else [out, *_write_units(sums, out)]
    return replace(predictor.counts, files=tuple(files))


def _write_units(sums: UnitSums, out: Path) -> Iterator[Path]:
    """Write the tables by slide and by case, where there are some, and yield where they are."""
    for unit in UNITS:
        place, table = beside(out, unit), sums.table(unit)
        if table is not None:
            write_predictions(table, place)
            yield place
        elif place.exists():
            LOG.warning("%s is of an earlier prediction: no %s of these images is known", place, unit)


def _are_all(tiles: TileSet, error: UnreadableTilesError) -> bool:
    """Return whether none of some tiles can be read."""
    bad = {(one.source.path, one.source.row) for one in error.tiles}
    return all((source.path, source.row) in bad for source in tile_sources(tiles))
