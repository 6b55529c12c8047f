"""The command line: every body is a few lines that call the library."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histotune.cli.apply import explain, predict
from histotune.cli.backbones import backbones_app
from histotune.cli.cache import cache_app
from histotune.cli.cluster import NOT_LAUNCHED, cloud_app, submit
from histotune.cli.data import data_app
from histotune.cli.deploy import export, push, serve
from histotune.cli.ending import print_page
from histotune.cli.options import Cache
from histotune.cli.run import demo, embed, evaluate, finetune, run, show, sweep
from histotune.cli.studies import compare, leaderboard, matrix, transfer, trials, with_wandb_mode
from histotune.cli.terminal import ExplainedGroup, explain_in_colours, log_to_terminal, run_app, with_options_first
from histotune.tools.table import console

if TYPE_CHECKING:
    from collections.abc import Sequence

TOGETHER = ("embed", "run", "sweep", "demo", "finetune")  # what several processes may run together, under torchrun

LONG = (*TOGETHER, "evaluate", "matrix", "transfer", "predict")  # what a spot machine may not live to end

PANELS = {
    "Start": ("demo", "doctor", "run", "config"),
    "Data": ("data",),
    "Train": ("backbones", "embed", "sweep", "finetune"),
    "Judge": ("evaluate", "matrix", "transfer", "compare", "leaderboard"),
    "Hand over": ("report", "predict", "explain", "export", "push", "serve"),
    "Scale": ("submit", "cloud"),
    "Upkeep": ("trials", "cache"),
}  # fmt: skip
"""The commands in the order of the work, by the panels in which ``histotune --help`` shows them; all are named here."""
PANEL_OF = {name: panel for panel, names in PANELS.items() for name in names}


class InOrderOfWork(ExplainedGroup):
    """The commands below ``histotune``, in the order of the work."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401  (Typer's context, whose class lies elsewhere by version)
        """Return the commands as the table has them, any other at the end."""
        places = {name: place for place, name in enumerate(PANEL_OF)}
        return sorted(super().list_commands(ctx), key=lambda name: places.get(name, len(places)))


app = typer.Typer(
    name="histotune",
    cls=InOrderOfWork,
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Fine-tune and evaluate pathology foundation models on your tiles: leak-free, with honest intervals.\n\n"
        "Begin with the demo: no download, no GPU, 3 minutes. --help behind a command's name explains it, with an "
        "example.\n\nExample: histotune demo"
    ),
)
config_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="See what a recipe does, field by field.\n\nExample: histotune config show breakhis",
)


@app.callback()
def options(
    ctx: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", help="Also show the details behind each message, and tracebacks.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only warnings and results.")] = False,
) -> None:
    """Options of every command; they may also stand behind its name."""
    leads = os.environ.get("WORLD_SIZE", "1") == "1" or _join_ranks(ctx.invoked_subcommand or "")
    level = logging.DEBUG if debug else logging.WARNING if quiet or not leads else logging.INFO
    log_to_terminal(level)
    if ctx.invoked_subcommand in LONG:
        from histotune.cluster.spot import watch_spot

        watch_spot()
    ctx.obj = {"debug": debug}


def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write the page. Default: RUN/report.html.")
    ] = None,
    add: Annotated[
        list[Path] | None, typer.Option("--add", help="Folder of histotune transfer or matrix: a section of its own.")
    ] = None,
    latex: Annotated[Path | None, typer.Option("--latex", help="Also write all tables as LaTeX to this file.")] = None,
    figures: Annotated[
        bool, typer.Option("--figures", help="Also write every figure as PDF and PNG, into figures beside the page.")
    ] = False,
) -> None:
    """Draw a finished run's report again, with other studies of its head in it.

    Example: histotune report runs/breakhis --add transfers/breakhis-pcam --latex tables.tex --figures
    """
    from histotune.studies.report_verb import report as report_again

    folder = (out.parent if out is not None else run_folder) / "figures" if figures else None
    print_page(report_again(run_folder, out=out, add=add or (), latex=latex, figures=folder))
    if folder is not None:
        print(f"figures: {folder}")
    if latex is not None:
        print(f"tables: {latex}")


def doctor(
    cache: Cache = None,
    deep: Annotated[bool, typer.Option("--deep", help="Also import torch and multiply in each precision.")] = False,
) -> None:
    """Versions, devices, precision, cache, hub token: what works here, and the command that mends what doesn't.

    Example: histotune doctor --deep
    """
    from histotune.studies import data_verbs
    from histotune.tools.doctor import render

    console().print(render(data_verbs.doctor(cache, deep=deep)))


config_app.command()(show)
COMMANDS = (
    demo, doctor, run, embed, sweep, finetune, evaluate, matrix, transfer, compare, leaderboard, report, predict,
    explain, export, push, serve, trials, submit,
)  # fmt: skip
GROUPS = {"config": config_app, "data": data_app, "backbones": backbones_app, "cache": cache_app, "cloud": cloud_app}
for command in COMMANDS:
    passed_on = {"allow_interspersed_args": False} if command is submit else None  # what follows is another command
    app.command(rich_help_panel=PANEL_OF.get(command.__name__), context_settings=passed_on)(command)
for group_name, group in GROUPS.items():
    app.add_typer(group, name=group_name, rich_help_panel=PANEL_OF.get(group_name))
explain_in_colours(app)


def _join_ranks(command: str) -> bool:
    """Take this process's place among several; return whether it leads them."""
    from histotune.tools.errors import UserError
    from histotune.tools.ranks import process_rank, see_own_gpu

    rank = process_rank()
    if rank.world_size > 1 and command not in TOGETHER:
        raise UserError(
            "this command runs in one process, and here are several",
            value=f"{command}, {rank}",
            allowed=", ".join(TOGETHER),
            fix="run it without torchrun (unset WORLD_SIZE)",
        )
    see_own_gpu(rank)
    return rank.leads


def main() -> None:
    """Entry point: run a command; a mistake the user can mend is one message and exit code 2."""
    from histotune.tools.errors import UserError
    from histotune.tools.streams import explained_memory, finish_streams, prepare_streams

    prepare_streams()
    sys.argv = with_options_first(with_wandb_mode(sys.argv))
    try:
        with explained_memory():
            _refuse_other_encodings(sys.argv)
            try:
                _run_with_buckets()
            finally:
                finish_streams()
    except UserError as error:
        if "--debug" in sys.argv:
            raise
        several = os.environ.get("WORLD_SIZE", "1") != "1"
        sys.stderr.write(f"rank {os.environ.get('RANK', '?')}: error: {error}\n" if several else f"error: {error}\n")
        raise SystemExit(2) from None


def _run_with_buckets() -> None:
    """Run a command; where one of its places is in a bucket, on local copies."""
    if not any(word.startswith("s3:") or "=s3:" in word for word in sys.argv):
        run_app(app)
        return
    from histotune.cluster.buckets import local_places

    log_to_terminal(logging.INFO)
    with local_places(sys.argv, NOT_LAUNCHED) as words:
        sys.argv = words
        run_app(app)


def _refuse_other_encodings(words: Sequence[str]) -> None:
    """Refuse names that are not UTF-8: tables and JSON, which keep them, can't hold them."""
    from histotune.tools.errors import UserError
    from histotune.tools.streams import escaped, is_text, move_command

    odd = next((word for word in words if not is_text(word)), None)
    if odd is not None:
        raise UserError(
            "this name is not UTF-8, and tables and reports can't hold it",
            value=escaped(odd),
            fix=f"rename it: {move_command(odd)}",
        )


if __name__ == "__main__":
    main()
