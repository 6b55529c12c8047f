"""Commands that hand a head over to other programs and people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from histotune.cli.options import Cache, SetCoverage, SetField


def export(
    head: Annotated[Path, typer.Argument(help="Head folder, or a run folder.")],
    format: Annotated[
        str, typer.Option("--format", help="transformers, onnx, wsinfer (with QuPath) or folder.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.", show_default=False)],
    tile_px: Annotated[
        int | None,
        typer.Option("--tile-px", help="wsinfer: side of the tiles that trained the head."),
    ] = None,
    mpp: Annotated[float | None, typer.Option("--mpp", help="Scale of the images that it will see, um/px.")] = None,
    head_only: Annotated[bool, typer.Option("--head-only", help="folder: leave out the backbone's weights.")] = False,
    for_own_use: Annotated[
        bool, typer.Option("--for-own-use", help="Write weights that the licence does not let you pass on.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    cache: Cache = None,
) -> None:
    """Write a head for other programs, with its backbone, view and calibration.

    Example: histotune export runs/breakhis --format transformers --out for-transformers

    Example: histotune export runs/pcam --format wsinfer --tile-px 96 --mpp 0.972 --out for-qupath
    """
    from histotune.studies import export_verbs

    done = export_verbs.export(
        head,
        format,
        out=out,
        tile_px=tile_px,
        mpp=mpp,
        head_only=head_only,
        for_own_use=for_own_use,
        overwrite=overwrite,
        cache=cache,
    )
    print(done)


def push(
    folder: Annotated[Path, typer.Argument(help="Folder of histotune export, or a head's or run's folder.")],
    repo_id: Annotated[str, typer.Argument(help="OWNER/NAME on the hub.")],
    yes: Annotated[bool, typer.Option("--yes", help="Upload; without it nothing leaves this machine.")] = False,
    public: Annotated[bool, typer.Option("--public", help="Let everybody see it. Default: private.")] = False,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help="Address of the hub. Default: HF_ENDPOINT, or the public one.")
    ] = None,
    cache: Cache = None,
) -> None:
    """Show what an upload to a model hub would hold; --yes uploads it.

    Example: histotune push for-transformers yourname/breakhis-head
    """
    from histotune.studies import export_verbs

    print(export_verbs.push(folder, repo_id, yes=yes, public=public, endpoint=endpoint, cache=cache))
    print(f"uploaded to {repo_id}" if yes else "nothing was uploaded; add --yes to do it")


def serve(
    head: Annotated[Path, typer.Argument(metavar="HEAD", help="Head folder, or a run folder.", show_default=False)],
    port: Annotated[int, typer.Option("--port", help="Port; 0 takes a free one.")] = 8000,
    host: Annotated[
        str, typer.Option("--host", help="Address of this machine; the default is reached from this machine alone.")
    ] = "127.0.0.1",
    to_network: Annotated[
        bool, typer.Option("--to-network", help="Allow a --host that other machines reach; there is no password.")
    ] = False,
    max_upload_mib: Annotated[float, typer.Option("--max-upload-mib", help="Most MiB of a request.")] = 32.0,
    cache: Cache = None,
    settings: SetField = None,
    mpp: Annotated[
        float | None,
        typer.Option("--mpp", help="Scale of images whose sender does not say it, um/px.", show_default=False),
    ] = None,
    coverage: SetCoverage = None,
) -> None:
    """Serve a head as a web page and a JSON API on this machine: drop an image, see what the head says and why.

    Example: histotune serve runs/breakhis
    """
    from histotune.studies import export_verbs

    export_verbs.serve(
        head,
        host=host,
        port=port,
        to_network=to_network,
        max_upload_mib=max_upload_mib,
        cache=cache,
        mpp=mpp,
        coverage=coverage,
        set=settings,
    )
