"""The options that several commands share, declared once."""

# typer reads these annotations when a command is registered, so that their types are imported at run time.

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    Path | None, typer.Option("--data", help="Folder of the data set, or table of tiles.", show_default=False)
]
Pcam = Annotated[
    Path | None,
    typer.Option("--pcam", help="PatchCamelyon folder: external validation and direct training.", show_default=False),
]
Magnification = Annotated[
    str | None,
    typer.Option("--train-magnification", help="Magnification that trains, such as 100X.", show_default=False),
]
BackboneName = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        help=("A name out of `histotune backbones`, timm/NAME, a hub id, or a local folder saved by save_pretrained."),
        show_default=False,
    ),
]
Adapter = Annotated[
    str | None,
    typer.Option(
        "--adapter",
        help=(
            "Adapter merged into the backbone, PEFT's or changed tensors: a folder, or ORGANISATION/NAME (or "
            ".../NAME/FOLDER) on the hub."
        ),
        show_default=False,
    ),
]
View = Annotated[
    str | None,
    typer.Option(
        "--view",
        help=(
            "short-side-crop, square, letterbox or tiles; its scale: --set view.target_mpp=0.5. "
            "Default: as the backbone documents it."
        ),
        show_default=False,
    ),
]
Out = Annotated[Path | None, typer.Option("--out", help="Folder to write; appears when finished.", show_default=False)]
Cache = Annotated[
    Path | None, typer.Option("--cache", help="Folder for embeddings; safe to delete.", show_default=False)
]
Classes = Annotated[
    str | None,
    typer.Option(
        "--classes",
        help="How classes of the data are read: normal=benign,... (an empty name leaves its tiles out).",
        show_default=False,
    ),
]
Final = Annotated[bool, typer.Option("--final", help="Score the test part. Every scoring is counted.")]
Cluster = Annotated[
    str | None,
    typer.Option("--cluster", help="'tile': intervals as if tiles were independent (TOO NARROW).", show_default=False),
]
OnBadImage = Annotated[
    str | None,
    typer.Option(
        "--on-bad-image",
        help=("fail (default): list every image that can't be read and stop; skip: leave them out, and say so."),
        show_default=False,
    ),
]
Method = Annotated[
    str | None,
    typer.Option("--method", help="lora, dora, last-blocks (default), full or norm.", show_default=False),
]
OuterFolds = Annotated[
    int | None,
    typer.Option("--outer", min=1, help="Outer folds; 1 holds a fifth of the groups out once.", show_default=False),
]
Fraction = Annotated[
    float | None,
    typer.Option(
        "--fraction",
        help=(
            "Share of the slides or cases to learn from, such as 0.01: whole ones, drawn by seed. Of official parts "
            "the training part alone is thinned out."
        ),
        show_default=False,
    ),
]
Fit = Annotated[
    str | None,
    typer.Option("--fit", help="Memory that a step may take, such as 15GB. Default: the card's.", show_default=False),
]
EstimateTuning = Annotated[
    bool, typer.Option("--estimate", help="Only time a few steps: trainings, hours, memory, price.")
]
SetField = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any field of the config: --set sweep.folds=3. Repeatable.", show_default=False),
]
SetCoverage = Annotated[
    float | None,
    typer.Option(
        "--coverage",
        help="Share of tiles of new cases whose set of classes holds the true one. Default: 0.9.",
        show_default=False,
    ),
]
DatasetArgument = Annotated[str, typer.Argument(help="breakhis, pcam, tiles, or my_dataset.py.")]
SplitName = Annotated[
    str | None,
    typer.Option(
        "--split",
        help=("grouped-5-seed0, holdout-20-seed0, eva, thunder, authors-5/fold1, pcam-official, or a split file."),
        show_default=False,
    ),
]
AllowLeaky = Annotated[bool, typer.Option("--allow-leaky", help="Take a split that leaks; every row is marked LEAKY.")]
RecipeName = Annotated[
    str | None,
    typer.Argument(
        help=(
            "demo, breakhis, pcam, midnight, tiles, finetune-breakhis, finetune-pcam, finetune-tiles, my_dataset.py, "
            "or a published protocol: eva-breakhis, eva-pcam, eva-pcam-10shot, thunder-breakhis, thunder-pcam, "
            "uni-breakhis, uni-pcam."
        ),
        show_default=False,
    ),
]
FromRun = Annotated[
    Path | None, typer.Option("--from", help="Repeat a finished run from its folder.", show_default=False)
]
Wandb = Annotated[
    str | None,
    typer.Option(
        "--wandb",
        metavar="[offline|online]",
        help=("Also write the run to Weights & Biases: offline (the default, no login, no network) or online."),
        show_default=False,
    ),
]
