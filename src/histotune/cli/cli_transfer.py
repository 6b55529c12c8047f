"""``histotune transfer``: why an external validation falls short."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def transfer(
    head: Annotated[Path, typer.Argument(help="Folder of a finished run, which holds its held-out scores.")],
    target: Annotated[str, typer.Argument(help="breakhis, pcam, tiles, or my_dataset.py.")],
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of the target, or table of tiles.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for transfer.json and transfer.html.", show_default=False)
    ] = None,
    cache: Annotated[Path | None, typer.Option("--cache", help="Folder for embeddings.", show_default=False)] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any field of the config: --set transfer.stain=reinhard. Repeatable.",
                     show_default=False),
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="A split of the target: its valid or test part.", show_default=False)
    ] = None,
    final: Annotated[bool, typer.Option("--final", help="Score the test part. Every scoring is counted.")] = False,
    cluster: Annotated[
        str | None,
        typer.Option("--cluster", help="'tile': intervals as if tiles were independent (TOO NARROW).",
                     show_default=False),
    ] = None,
    on_bad_image: Annotated[
        str | None, typer.Option("--on-bad-image", help="fail (default) or skip.", show_default=False)
    ] = None,
    images: Annotated[
        bool, typer.Option("--images/--no-images", help="Embed the target again with scale and stain undone.")
    ] = True,
) -> None:  # fmt: skip
    """Say why a head falls short on another data set: what is lost in ranking and in the decision, and what helps.

    histotune transfer runs/breakhis pcam --data PCAM --final
    """
    from histotune.cli.run import build_config
    from histotune.cli.transfer_commands import transfer_and_print

    config = build_config(
        target, data=data, out=out or Path("transfers") / f"{head.resolve().name}-{Path(target).stem}", cache=cache,
        settings=settings, split=split, final=final, cluster=cluster, on_bad_image=on_bad_image,
    )  # fmt: skip
    transfer_and_print(head, config, images=images)
