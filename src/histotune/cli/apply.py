"""Commands that apply a saved head to images: what it says of them, and where in them that comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from histotune.cli.options import Cache, OnBadImage, SetCoverage, SetField

HeadArgument = Annotated[Path, typer.Argument(metavar="HEAD", help="Head folder, or a run folder.", show_default=False)]
ImagesArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="IMAGES",
        help="Image files, folders of them, HDF5 files, tables of tiles, or patterns in quotes: 'tiles/**/*.png'.",
        show_default=False,
    ),
]
ImageScale = Annotated[
    float | None,
    typer.Option(
        "--mpp", help="Scale of the images, um/px; heads of a view with target_mpp need it.", show_default=False
    ),
]


def predict(
    head: HeadArgument,
    images: ImagesArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Table to write: .csv, .tsv, .parquet, .xlsx; beside it those by slide and case. Default: print CSV.",
            show_default=False,
        ),
    ] = None,
    cache: Cache = None,
    settings: SetField = None,
    on_bad_image: OnBadImage = None,
    mpp: ImageScale = None,
    coverage: SetCoverage = None,
) -> None:
    """Predict class probabilities for images: a table with a row per image, written part by part, resumable.

    Example: histotune predict runs/breakhis new_images --out predictions.csv
    """
    from histotune.studies import head_verbs

    done = head_verbs.predict_files(
        head, images, out, cache=cache, on_bad_image=on_bad_image, mpp=mpp, coverage=coverage, set=settings
    )
    if out is not None:
        print(f"{done.n_images:,} predictions: {', '.join(map(str, done.files))}")


def explain(
    head: HeadArgument,
    images: ImagesArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder for the maps; appears when finished.", show_default=False)],
    class_name: Annotated[
        str | None,
        typer.Option(
            "--class",
            help="Whose logit is drawn. Default: the second of two classes, else the one that the head says.",
            show_default=False,
        ),
    ] = None,
    picture: Annotated[str, typer.Option("--format", help="png or svg.")] = "png",
    cache: Cache = None,
    settings: SetField = None,
    mpp: ImageScale = None,
) -> None:
    """Draw where in each image a linear head's logit comes from: an exact sum, in logit units.

    Example: histotune explain runs/breakhis new_images --out maps
    """
    from histotune.studies import head_verbs

    index = head_verbs.explain(
        head, images, out, class_name=class_name, picture=picture, cache=cache, mpp=mpp, set=settings
    )
    for row in index.head(20).iter_rows(named=True):
        print(
            f"{row['path']}: {row['class']} {row['probability']:.3f}, logit {row['logit']:+.2f} = baseline "
            f"{row['baseline']:+.2f}, class token {row['cls_term']:+.2f} ({100 * row['cls_share']:.0f} % of what is "
            f"added, not in the map), map {row['map_sum']:+.2f}"
        )
    if index.height > 20:
        print(f"... and {index.height - 20:,} more")
    print(f"{index.height:,} maps: {out / 'index.html'}")
