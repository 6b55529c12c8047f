"""What the command line says about the cross-magnification matrix."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  (typer reads the annotations)
from typing import Annotated

import typer

Matched = Annotated[
    bool,
    typer.Option("--matched", help="Also embed with equal input_mpp, and with equal field of view."),
]


def matrix(
    dataset: Annotated[str, typer.Argument(help="breakhis, tiles, or my_dataset.py: one with magnifications.")],
    data: Annotated[Path | None, typer.Option("--data", help="Folder of the data set, or table of tiles.")] = None,
    backbone: Annotated[str | None, typer.Option("--backbone", help="See `histotune backbones`.")] = None,
    matched: Matched = False,
    split: Annotated[str | None, typer.Option("--split", help="Folds, such as grouped-5-seed0.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write; appears when finished.")] = None,
    cache: Annotated[Path | None, typer.Option("--cache", help="Folder for embeddings.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any field of the config.")] = None,
    cluster: Annotated[str | None, typer.Option("--cluster", help="'tile': TOO NARROW intervals.")] = None,
    on_bad_image: Annotated[str | None, typer.Option("--on-bad-image", help="fail (default) or skip.")] = None,
) -> None:
    """Train at every magnification, score every magnification: the full matrix, groups disjoint everywhere."""
    from histotune.cli.matrix_commands import matrix_and_print
    from histotune.cli.run import build_config

    config = build_config(
        dataset, data=data, backbone=backbone, split=split, cache=cache, settings=settings, cluster=cluster,
        on_bad_image=on_bad_image,
    )  # fmt: skip
    matrix_and_print(config, out, matched=matched)
