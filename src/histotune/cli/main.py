"""The command line: every body is a few lines that call the library."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from histotune.cli.backbones import backbones_app
from histotune.cli.cache import cache_app
from histotune.cli.data import data_app
from histotune.cli.options import Cache
from histotune.cli.run import demo, embed, evaluate, finetune, predict, run, show, sweep
from histotune.cli.studies import compare, leaderboard, matrix, transfer, trials, with_wandb_mode
from histotune.tools.table import console

if TYPE_CHECKING:
    from collections.abc import Sequence

TOGETHER = ("embed", "run", "sweep", "demo", "finetune")  # what several processes may run together, under torchrun


class Interruptible(TyperGroup):
    """Commands that say, when they are stopped by hand, what is kept and which command goes on."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  (Typer's context, whose class lies elsewhere from version to version)
        """Run a command; Ctrl-C ends it with one message, since Typer would end it without a word."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            again = shlex.join(["histotune", *sys.argv[1:]])
            sys.stderr.write(
                f"\nstopped; finished embeddings and solved fits are kept. The same command resumes:\n  {again}\n"
            )
            raise SystemExit(130) from None


app = typer.Typer(
    name="histotune",
    cls=Interruptible,
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Fine-tune and evaluate pathology foundation models on your tiles: leak-free, with honest intervals.\n\n"
        "Start with `histotune demo` (no download, no GPU), then "
        "`histotune run breakhis --data BreaKHis_v1 --train-magnification 100X`."
    ),
)
config_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="See what a recipe does, field by field.")
app.add_typer(backbones_app, name="backbones")
app.add_typer(data_app, name="data")
app.add_typer(cache_app, name="cache")
app.add_typer(config_app, name="config")
config_app.command()(show)
for command in (trials, matrix, compare, transfer, demo, run, finetune, embed, sweep, evaluate, predict, leaderboard):
    app.command()(command)


@app.callback()
def options(
    ctx: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug messages.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only warnings and results.")] = False,
) -> None:
    """Options of every command."""
    leads = os.environ.get("WORLD_SIZE", "1") == "1" or _join_ranks(ctx.invoked_subcommand or "")
    level = logging.DEBUG if debug else logging.WARNING if quiet or not leads else logging.INFO
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("histotune").setLevel(level)
    ctx.obj = {"debug": debug}


@app.command()
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
    """Draw a finished run's report again, with other studies of its head in it."""
    from histotune.studies.report_verb import report as report_again

    folder = (out.parent if out is not None else run_folder) / "figures" if figures else None
    print(f"report: {report_again(run_folder, out=out, add=add or (), latex=latex, figures=folder)}")
    if folder is not None:
        print(f"figures: {folder}")
    if latex is not None:
        print(f"tables: {latex}")


@app.command()
def doctor(
    cache: Cache = None,
    deep: Annotated[bool, typer.Option("--deep", help="Also import torch and multiply in each precision.")] = False,
) -> None:
    """Versions, devices, precision, cache, hub token: what works here, and the command that mends what doesn't."""
    from histotune.studies import data_verbs
    from histotune.tools.doctor import render

    console().print(render(data_verbs.doctor(cache, deep=deep)))


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
    sys.argv = with_wandb_mode(sys.argv)
    try:
        with explained_memory():
            _refuse_other_encodings(sys.argv)
            try:
                app()
            finally:
                finish_streams()
    except UserError as error:
        if "--debug" in sys.argv:
            raise
        several = os.environ.get("WORLD_SIZE", "1") != "1"
        sys.stderr.write(f"rank {os.environ.get('RANK', '?')}: error: {error}\n" if several else f"error: {error}\n")
        raise SystemExit(2) from None


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
