"""What the command line says about tracking: ``histotune trials``, and ``--wandb``."""

from __future__ import annotations

from typing import Annotated

import typer

Wandb = Annotated[
    str | None,
    typer.Option(
        "--wandb",
        metavar="[offline|online]",
        help="Also write the run to Weights & Biases: offline (the default, no login, no network) or online.",
        show_default=False,
    ),
]


def trials(
    dataset: Annotated[str | None, typer.Option("--dataset", help="Only this data set.", show_default=False)] = None,
    backbone: Annotated[str | None, typer.Option("--backbone", help="Only this backbone.", show_default=False)] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="How many.")] = 20,
    everything: Annotated[bool, typer.Option("--all", help="Also floors and the sweeps of outer folds.")] = False,
) -> None:
    """Every trial of every sweep on this machine, best first: a row per trial, from the local table."""
    from histotune.cli.trial_commands import TrialFilter, trials_and_print

    trials_and_print(TrialFilter(dataset, backbone, top, everything))


def with_wandb_mode(arguments: list[str]) -> list[str]:
    """Return a command line on which ``--wandb`` alone means ``--wandb offline``."""
    spelled = []
    for place, word in enumerate(arguments):
        spelled.append(word)
        if word == "--wandb" and arguments[place + 1 : place + 2] not in (["offline"], ["online"], ["off"]):
            spelled.append("offline")
    return spelled
