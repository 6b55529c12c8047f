"""The verbs that apply a saved head to images: what it says of them, and where in them that comes from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from histotune.studies.arguments import Fields, Place, assignments, bundle_of, path_of
from histotune.studies.config import ExperimentConfig, override
from histotune.tools.atomic import claimed
from histotune.tools.errors import UserError, name_setting

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from histotune.deploy.bundle import Bundle
    from histotune.deploy.predict import PredictionCounts, PredictSettings

PICTURES = ("png", "svg")


def predict(
    head: Bundle | Place,
    images: Sequence[Place] | Place,
    *,
    out: Place | None = None,
    cache: Place | None = None,
    on_bad_image: str | None = None,
    mpp: float | None = None,
    coverage: float | None = None,
    set: Fields = None,
) -> pl.DataFrame:
    """Predict class probabilities for images.

    Args:
        head: What :func:`sweep` gave as ``.head``, or a head's or run's folder.
        images: Image files, folders of them, patterns such as ``"tiles/*.png"``, HDF5 files, tables of tiles.
        out: Table to write: ``.csv``, ``.tsv``, ``.parquet`` or ``.xlsx``; beside it those by slide and by case. None
            writes none.
        cache: Folder for embeddings.
        on_bad_image: ``fail`` (default) or ``skip``.
        mpp: Scale of the images, um/px; heads of a view with a target scale need it.
        coverage: Share of tiles of new cases whose set of classes is to hold the true one; 0.9 without.
        set: Further fields, such as ``{"embedding.device": "cpu"}``.

    Returns:
        A row per image: ``path``, ``predicted``, ``probability_<class>`` per class, ``threshold`` and ``decision``,
        then the conformal ``set``, what lies ``far`` from training, scale, slide and case.

    Raises:
        UserError: No head there, images that can't be read, or a coverage that the head can't give.

    Example:
        >>> import histotune as ht
        >>> x = ht.embed(ht.read("breakhis", "BreaKHis_v1"), "colour-histogram")
        >>> head = ht.sweep(x, train_magnification="100X", out="head", set={"sweep.folds": 3}).head
        >>> ht.predict(head, "BreaKHis_v1").columns[:5]
        ['path', 'predicted', 'probability_benign', 'probability_malignant', 'threshold']
    """
    from histotune.deploy.predict import predict as apply
    from histotune.deploy.prediction_table import check_table_name
    from histotune.studies.setup import backbone_of_head

    place = path_of(out)
    if place is not None:
        check_table_name(place)
    settings = predict_settings(cache, set, on_bad_image=on_bad_image, mpp=mpp, coverage=coverage)
    with claimed(place, folder=False):
        bundle = bundle_of(head)
        return apply(bundle, backbone_of_head(bundle, settings.cache), _paths(images), settings, place)


def predict_files(
    head: Bundle | Place,
    images: Sequence[Place] | Place,
    out: Place | None,
    *,
    cache: Place | None = None,
    on_bad_image: str | None = None,
    mpp: float | None = None,
    coverage: float | None = None,
    set: Fields = None,
) -> PredictionCounts:
    """Predict class probabilities for any number of images into a table, with memory for a part of them.

    Args:
        head: As for :func:`predict`, like all arguments but one.
        images: What to predict.
        out: Table to write; None prints CSV.
        cache: Folder for embeddings.
        on_bad_image: ``fail`` (default) or ``skip``.
        mpp: Scale of the images, um/px.
        coverage: Coverage of the sets of classes.
        set: Further fields.

    Returns:
        What was counted, and the tables that were written.

    Raises:
        UserError: As for :func:`predict`.

    Example:
        >>> predict_files("runs/breakhis", "tiles/**/*.png", "p.parquet").n_images  # doctest: +SKIP
        10000
    """
    from histotune.deploy.predict import predict_to
    from histotune.deploy.prediction_table import check_table_name
    from histotune.studies.setup import backbone_of_head

    place = path_of(out)
    if place is not None:
        check_table_name(place)
    settings = predict_settings(cache, set, on_bad_image=on_bad_image, mpp=mpp, coverage=coverage)
    with claimed(place, folder=False):
        bundle = bundle_of(head)
        return predict_to(place, bundle, backbone_of_head(bundle, settings.cache), _paths(images), settings)


def explain(
    head: Bundle | Place,
    images: Sequence[Place] | Place,
    out: Place,
    *,
    class_name: str | None = None,
    picture: str = "png",
    cache: Place | None = None,
    mpp: float | None = None,
    set: Fields = None,
) -> pl.DataFrame:
    """Draw where in each image a linear head's logit comes from: an exact sum over the places of the image.

    Args:
        head: What :func:`sweep` gave as ``.head``, or a head's or run's folder; linear, on patch tokens or on average
            pooling.
        images: As for :func:`predict`.
        out: Folder for a picture per image, all terms (``terms.parquet``) and an index (``index.csv``, ``index.html``).
        class_name: Whose logit; None takes class 1 of two classes, and of several the one that the head says.
        picture: ``png`` or ``svg``.
        cache: Folder for what is known of files and networks.
        mpp: Scale of the images, um/px; heads of a view with a target scale need it.
        set: Further fields, such as ``{"embedding.device": "cpu"}``.

    Returns:
        A row per image: ``path, class, probability, logit, baseline, cls_term, map_sum, cls_share, picture``; baseline,
        class token and map add up to the logit.

    Raises:
        UserError: A head or backbone whose logit is no sum over places, an unknown class, or images that can't be read.

    Example:
        >>> import histotune as ht
        >>> x = ht.embed(ht.read("breakhis", "BreaKHis_v1"), "colour-histogram")
        >>> head = ht.sweep(x, train_magnification="100X", out="head", set={"sweep.folds": 3}).head
        >>> ht.explain(head, "BreaKHis_v1", "maps")["class"].unique().to_list()  # doctest: +SKIP
        ['malignant']
    """
    from histotune.deploy.maps import MapSettings, explain_images
    from histotune.studies.setup import backbone_of_head

    if picture not in PICTURES:
        raise UserError(
            "pictures are not drawn in this format", value=picture, allowed=", ".join(PICTURES), fix="--format png"
        )
    settings = predict_settings(cache, set, mpp=mpp)
    bundle = bundle_of(head)
    maps = MapSettings(settings, class_name, "svg" if picture == "svg" else "png")
    return explain_images(Path(out), bundle, backbone_of_head(bundle, settings.cache), _paths(images), maps)


def predict_settings(cache: Place | None, fields: Fields, **given: Any) -> PredictSettings:  # noqa: ANN401
    """Return how heads are applied, by the options and fields that were given."""
    from histotune.datasets.config import check_on_bad_image
    from histotune.deploy.predict import PredictSettings

    config = override(ExperimentConfig(recipe="predict"), assignments(fields))
    folder = Path(cache) if cache is not None else config.cache
    name_setting(folder, "--cache FOLDER")
    bad = check_on_bad_image(given.pop("on_bad_image", None) or "fail")
    return PredictSettings(config.embedding, config.loader, folder, bad, **given)


def _paths(images: Sequence[Place] | Place) -> list[Path]:
    return [Path(images)] if isinstance(images, str | Path) else [Path(image) for image in images]
