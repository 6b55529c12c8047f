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
from histotune.cli.options import (
    Adapter,
    AllowLeaky,
    BackboneName,
    Cache,
    Cluster,
    Data,
    DatasetArgument,
    Final,
    FromRun,
    Magnification,
    OnBadImage,
    Out,
    Pcam,
    RecipeName,
    SetField,
    SplitName,
    View,
    Wandb,
)
from histotune.cli.studies import compare, matrix, transfer, trials, with_wandb_mode
from histotune.tools.table import console

if TYPE_CHECKING:
    from collections.abc import Sequence

TOGETHER = ("embed", "run", "sweep", "demo")  # what several processes may run together, under torchrun


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
config_app = typer.Typer(no_args_is_help=True, help="See what a recipe does, field by field.")
app.add_typer(backbones_app, name="backbones")
app.add_typer(data_app, name="data")
app.add_typer(cache_app, name="cache")
app.add_typer(config_app, name="config")
app.command()(trials)
app.command()(matrix)
app.command()(compare)
app.command()(transfer)


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
def demo(out: Out = None, cache: Cache = None, settings: SetField = None) -> None:
    """The main job on synthetic tissue: audit, embed, sweep, score, report. No download, no GPU, under 3 minutes."""
    from histotune.cli.run import run_and_print
    from histotune.studies.arguments import build_config

    run_and_print(build_config("demo", out=out, cache=cache, settings=settings))


@app.command()
def run(
    recipe: RecipeName = None,
    data: Data = None,
    pcam: Pcam = None,
    train_magnification: Magnification = None,
    backbone: BackboneName = None,
    adapter: Adapter = None,
    view: View = None,
    out: Out = None,
    cache: Cache = None,
    settings: SetField = None,
    split: SplitName = None,
    allow_leaky: AllowLeaky = False,
    final: Final = False,
    cluster: Cluster = None,
    on_bad_image: OnBadImage = None,
    from_run: FromRun = None,
    wandb: Wandb = None,
) -> None:
    """Run a whole experiment and write its report.

    histotune run midnight --data BreaKHis_v1 --pcam PCAM --train-magnification 40X

    histotune run --from runs/breakhis --out runs/again
    """
    from histotune.cli.run import run_and_print
    from histotune.studies.arguments import build_config

    run_and_print(
        build_config(
            recipe,
            data=data,
            pcam=pcam,
            train_magnification=train_magnification,
            backbone=backbone,
            adapter=adapter,
            view=view,
            out=out,
            cache=cache,
            settings=settings,
            split=split,
            allow_leaky=allow_leaky,
            final=final,
            cluster=cluster,
            on_bad_image=on_bad_image,
            from_run=from_run,
            wandb=wandb,
        )
    )


@app.command()
def embed(
    dataset: DatasetArgument,
    data: Data = None,
    backbone: BackboneName = None,
    adapter: Adapter = None,
    view: View = None,
    cache: Cache = None,
    settings: SetField = None,
    on_bad_image: OnBadImage = None,
    estimate: Annotated[bool, typer.Option("--estimate", help="Only time a few batches: hours and GB.")] = False,
) -> None:
    """Embed every tile once with a frozen backbone; the second time nothing is computed."""
    from histotune.cli.run import embed_and_print, estimate_and_print
    from histotune.studies.arguments import build_config

    config = build_config(
        dataset,
        data=data,
        backbone=backbone,
        adapter=adapter,
        view=view,
        cache=cache,
        settings=settings,
        on_bad_image=on_bad_image,
    )
    (estimate_and_print if estimate else embed_and_print)(config)


@app.command()
def sweep(
    dataset: DatasetArgument,
    data: Data = None,
    train_magnification: Magnification = None,
    backbone: BackboneName = None,
    adapter: Adapter = None,
    view: View = None,
    out: Out = None,
    cache: Cache = None,
    settings: SetField = None,
    on_bad_image: OnBadImage = None,
    split: SplitName = None,
    wandb: Wandb = None,
) -> None:
    """Choose a head by grouped cross-validation over the training cases and save it."""
    from histotune.cli.run import sweep_and_print
    from histotune.studies.arguments import build_config

    sweep_and_print(
        build_config(
            dataset,
            data=data,
            train_magnification=train_magnification,
            backbone=backbone,
            adapter=adapter,
            view=view,
            out=out,
            cache=cache,
            settings=settings,
            on_bad_image=on_bad_image,
            split=split,
            wandb=wandb,
        ),
        out,
    )


@app.command()
def evaluate(
    head: Annotated[Path, typer.Argument(help="Head folder, or a run folder.")],
    dataset: DatasetArgument,
    data: Data = None,
    cache: Cache = None,
    settings: SetField = None,
    final: Final = False,
    cluster: Cluster = None,
    on_bad_image: OnBadImage = None,
) -> None:
    """Score a saved head on a data set; cases that trained it are found and marked."""
    from histotune.cli.run import evaluate_and_print
    from histotune.studies.arguments import build_config

    config = build_config(
        dataset, data=data, cache=cache, settings=settings, final=final, cluster=cluster, on_bad_image=on_bad_image
    )
    evaluate_and_print(head, config)


@app.command()
def predict(
    head: Annotated[Path, typer.Argument(help="Head folder, or a run folder.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Table to write: .csv or .parquet. Default: print CSV.")
    ] = None,
    cache: Cache = None,
    settings: SetField = None,
    on_bad_image: OnBadImage = None,
    mpp: Annotated[
        float | None,
        typer.Option("--mpp", help="Scale of the images, um/px; heads of a view with target_mpp need it."),
    ] = None,
) -> None:
    """Predict class probabilities for images: a table with a row per image."""
    from histotune.cli.run import predict_and_print
    from histotune.studies import verbs

    table = verbs.predict(head, images, out=out, cache=cache, on_bad_image=on_bad_image, mpp=mpp, set=settings)
    predict_and_print(table, out)


@app.command()
def leaderboard(
    dataset: Annotated[str, typer.Option("--dataset", help="BreakHis, PCam, ...")] = "",
    protocol: Annotated[str, typer.Option("--protocol", help="eva, thunder-linear, ..., or their beginning.")] = "",
    model: Annotated[str, typer.Option("--model", help="Part of a backbone's name.")] = "",
    pooling: Annotated[str, typer.Option("--pooling", help="CLS, CLS+mean patch, ...")] = "",
    split: Annotated[str, typer.Option("--split", help="val, test, ...")] = "",
    metric: Annotated[str, typer.Option("--metric", help="balanced_accuracy, macro_f1, ...")] = "",
    style: Annotated[str, typer.Option("--format", help="table, markdown, csv or latex.")] = "table",
    out: Annotated[Path | None, typer.Option("--out", help="File to write instead of printing.")] = None,
    runs: Annotated[
        list[Path] | None,
        typer.Option("--run", help="Your run of a published protocol, beside scores of the same; repeatable."),
    ] = None,
) -> None:
    """Published scores, one table per protocol, with what weakens them; without options an overview."""
    from histotune.cli.studies import show_leaderboard
    from histotune.published.published_numbers import Query

    show_leaderboard(Query(dataset, protocol, model, pooling, split, metric), style, out, runs or ())


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
) -> None:
    """Draw a finished run's report again, with other studies of its head in it."""
    from histotune.studies import verbs

    print(f"report: {verbs.report(run_folder, out=out, add=add or (), latex=latex)}")
    if latex is not None:
        print(f"tables: {latex}")


@config_app.command("show")
def show(
    recipe: Annotated[str, typer.Argument(help="demo, breakhis, pcam, midnight, or a run folder.")],
    settings: SetField = None,
) -> None:
    """Print every field of a recipe's config; each can be changed with --set."""
    from histotune.cli.run import config_and_print

    config_and_print(recipe, settings)


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
    from histotune.tools.streams import is_text

    odd = next((word for word in words if not is_text(word)), None)
    if odd is not None:
        raise UserError(
            "this name is not UTF-8, and tables and reports can't hold it",
            value=os.fsencode(odd).decode("utf-8", "backslashreplace"),
            fix="rename it: convmv -f latin1 -t utf8 --notest PATH",
        )


if __name__ == "__main__":
    main()
