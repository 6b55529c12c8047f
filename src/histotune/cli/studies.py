"""The commands on studies and their tables: matrix, transfer, compare, leaderboard, trials."""

from __future__ import annotations

import logging
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from histotune.cli.ending import print_page
from histotune.cli.options import (
    BackboneName,
    Cache,
    Classes,
    Cluster,
    Data,
    Final,
    OnBadImage,
    Out,
    SetField,
)
from histotune.tools.atomic import claimed
from histotune.tools.errors import UserError, closest_name
from histotune.tools.files import parse_json, user_dir
from histotune.tools.marks import PROBE, arm_words
from histotune.tools.streams import one_line
from histotune.tools.table import CENTRED, PADDED, Layout, Table, columns_of, console, rows_of
from histotune.tools.tabular import as_pattern

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from histotune.published.leaderboard import Board, Refusal
    from histotune.published.published_numbers import Query

LOG = logging.getLogger(__name__)


def matrix(
    dataset: Annotated[str, typer.Argument(help="breakhis, tiles, or my_dataset.py: one with magnifications.")],
    data: Data = None,
    backbone: BackboneName = None,
    matched: Annotated[
        bool, typer.Option("--matched", help="Also embed with equal input_mpp, and with equal field of view.")
    ] = False,
    split: Annotated[str | None, typer.Option("--split", help="Folds, such as grouped-5-seed0.")] = None,
    out: Out = None,
    cache: Cache = None,
    settings: SetField = None,
    cluster: Cluster = None,
    on_bad_image: OnBadImage = None,
) -> None:
    """Train at every magnification, score every magnification: the full matrix, groups disjoint everywhere.

    Example: histotune matrix breakhis --data data/breakhis --matched --out studies/matrix
    """
    from histotune.studies.arguments import build_config

    config = build_config(
        dataset,
        data=data,
        backbone=backbone,
        split=split,
        cache=cache,
        settings=settings,
        cluster=cluster,
        on_bad_image=on_bad_image,
    )
    from histotune.report.study_pages import matrix_table, reasons_of
    from histotune.studies import verbs

    outcome = verbs.matrix(config, matched=matched, out=out)
    study = outcome.study
    terminal = console(160)
    for matrix in study.matrices:
        terminal.print(matrix_table(matrix, study.marks).as_rich(CENTRED), highlight=False, markup=False)
        for reason in reasons_of(matrix):
            print(one_line(f"  n. e. or no interval, {reason}"))
        if matrix.training_size == "equal":
            for scale in matrix.scales:
                print(f"  {scale.magnification}: {scale.input_mpp:.3g} um/px{f'; {scale.lost}' if scale.lost else ''}")
    print(f"\n{one_line(study.answer)}\n\n{one_line(str(outcome.ledger))}\nsaved: {outcome.folder}")
    print_page(outcome.folder / "matrix.html")


def transfer(
    head: Annotated[Path, typer.Argument(help="Folder of a finished run, which holds its held-out scores.")],
    target: Annotated[str, typer.Argument(help="breakhis, pcam, tiles, or my_dataset.py.")],
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of the target, or table of tiles.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for transfer.json and transfer.html.", show_default=False)
    ] = None,
    cache: Cache = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Any field of the config: --set transfer.stain=reinhard. Repeatable.", show_default=False
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="A split of the target: its valid or test part.", show_default=False)
    ] = None,
    classes: Classes = None,
    final: Final = False,
    cluster: Cluster = None,
    on_bad_image: OnBadImage = None,
    images: Annotated[
        bool, typer.Option("--images/--no-images", help="Embed the target again with scale and stain undone.")
    ] = True,
) -> None:
    """Say why a head falls short on another data set: what is lost in ranking and in the decision, and what helps.

    Example: histotune transfer runs/breakhis pcam --data data/pcam --final
    """
    from histotune.studies.arguments import build_config

    out = out or Path("transfers") / f"{head.resolve().name}-{Path(target).stem}"
    config = build_config(
        target,
        data=data,
        out=out,
        cache=cache,
        settings=settings,
        split=split,
        classes=classes,
        final=final,
        cluster=cluster,
        on_bad_image=on_bad_image,
    )
    from histotune.report.study_tables import transfer_tables
    from histotune.studies import verbs
    from histotune.transfer.diagnose import conclusion

    outcome = verbs.transfer(head, config, images=images)
    found = outcome.diagnosis
    print(f"\n{one_line(conclusion(found.verdict))}\n")
    console(140).print(transfer_tables(found)[0].as_rich(PADDED))
    for note in found.notes:
        print(one_line(note))
    LOG.debug("%s", found.paragraph)
    print(one_line(str(outcome.ledger)))
    print("what each remedy gives back, and what could not be told, stands in the report")
    print_page(outcome.folder / "transfer.html")
    run, study = (shlex.quote(str(folder)) for folder in (head, outcome.folder))
    print(f"next, the same in the run's report:\n  histotune report {run} --add {study}")


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs, two or more arms.")],
    metrics: Annotated[
        list[str] | None, typer.Option("--metric", help="Default: auroc and balanced_accuracy. Repeatable.")
    ] = None,
    pairs: Annotated[
        list[str] | None, typer.Option("--pair", help="A,B: the declared family instead of all pairs. Repeatable.")
    ] = None,
    first: Annotated[bool, typer.Option("--first", help="Compare all with the first run only.")] = False,
    permutations: Annotated[int, typer.Option("--permutations", help="Most permutations of a p value.", min=99)] = 9999,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the permutations.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for comparison.json and comparison.html.")] = None,
) -> None:
    """Compare runs on the same tiles: paired intervals and p values; mean ranks over five or more data sets.

    Example: histotune compare runs/midnight runs/lite0 --out runs/comparison
    """
    from histotune.report.study_pages import comparison_notes, comparison_tables
    from histotune.studies import verbs

    found = verbs.compare(
        runs, metrics=metrics or (), pairs=pairs or (), first=first, permutations=permutations, seed=seed, out=out
    ).comparison
    terminal = console(160)
    for table in comparison_tables(found):
        terminal.print(table.as_rich(PADDED))
    for note in comparison_notes(found):
        print(one_line(note))
    if out is not None:
        print(f"saved: {out}")
        print_page(out / "comparison.html")


Format = Literal["table", "markdown", "csv", "latex", "html"]
FORMATS: tuple[Format, ...] = ("table", "markdown", "csv", "latex", "html")
ENDINGS = {".csv": "csv", ".tex": "latex", ".html": "html"}


def leaderboard(
    dataset: Annotated[str, typer.Option("--dataset", help="BreakHis, PCam, ...")] = "",
    protocol: Annotated[str, typer.Option("--protocol", help="eva, thunder-linear, ..., or their beginning.")] = "",
    model: Annotated[str, typer.Option("--model", help="Part of a backbone's name.")] = "",
    pooling: Annotated[str, typer.Option("--pooling", help="CLS, CLS+mean patch, ...")] = "",
    split: Annotated[str, typer.Option("--split", help="val, test, ...")] = "",
    metric: Annotated[str, typer.Option("--metric", help="balanced_accuracy, macro_f1, ...")] = "",
    style: Annotated[str, typer.Option("--format", help="table, markdown, csv, latex or html.")] = "table",
    out: Annotated[Path | None, typer.Option("--out", help="File to write instead of printing.")] = None,
    runs: Annotated[
        list[Path] | None,
        typer.Option("--run", help="Your run of a published protocol, beside scores of the same; repeatable."),
    ] = None,
) -> None:
    """Published scores, one table per protocol, with what weakens them; without options an overview.

    Example: histotune leaderboard --dataset BreakHis --model midnight
    """
    from histotune.published.published_numbers import Query

    show_leaderboard(Query(dataset, protocol, model, pooling, split, metric), style, out, runs or ())


def show_leaderboard(query: Query, style: str, out: Path | None, runs: Sequence[Path] = ()) -> None:
    """Print or save the boards that a query asks for; an overview where nothing is asked."""
    style = _style(style, out)
    with claimed(out, folder=False):
        boards, refused = _boards(query, runs)
        if out is not None:
            _save(boards, style, out)
        elif style == "table":
            _print_leaderboard(boards, overview=not runs and not any(vars(query).values()))
        else:
            sys.stdout.write(_text(boards, style))
    for one in refused:  # a table that is read by a program stays a table
        print(f"\n{one}", file=sys.stdout if style == "table" or out is not None else sys.stderr)


def _boards(query: Query, runs: Sequence[Path]) -> tuple[tuple[Board, ...], tuple[Refusal, ...]]:
    from histotune.published.leaderboard import make_boards
    from histotune.published.published_numbers import published_scores, select

    published = select(published_scores(), query)
    if not runs:
        return make_boards(published), ()
    from histotune.published.leaderboard import read_own_scores

    own = read_own_scores(runs, [one.protocol for one in published])
    protocols = {one.protocol for one in own.scores}
    return make_boards([one for one in published if one.protocol in protocols], own.scores), own.refused


def _style(style: str, out: Path | None) -> str:
    from histotune.tools.errors import UserError, closest_name

    if style not in FORMATS:
        raise UserError("unknown format", value=style, allowed=", ".join(FORMATS), closest=closest_name(style, FORMATS))
    if out is not None and style == "table":
        return ENDINGS.get(out.suffix, "markdown")
    return style


def _text(boards: tuple[Board, ...], style: str) -> str:
    from histotune.report.study_pages import boards_page
    from histotune.report.study_tables import boards_csv, boards_latex, boards_markdown

    return {"csv": boards_csv, "latex": boards_latex, "html": boards_page}.get(style, boards_markdown)(boards)


def _save(boards: tuple[Board, ...], style: str, out: Path) -> None:
    from histotune.tools.files import write_text

    write_text(out, _text(boards, style))
    print(f"{sum(len(board.rows) for board in boards)} scores of {len(boards)} protocols: {out}")


def _print_leaderboard(boards: tuple[Board, ...], *, overview: bool) -> None:

    from histotune.report.study_tables import board_notes, board_table, boards_overview

    terminal = console(140)
    if overview:
        terminal.print(boards_overview(boards).as_rich(Layout(has_notes=True)))
        return
    for board in boards:
        terminal.print(board_table(board).as_rich())
        terminal.print("\n".join(board_notes(board)), markup=False, highlight=False)


def trials(
    dataset: Annotated[str | None, typer.Option("--dataset", help="Only this data set.", show_default=False)] = None,
    backbone: Annotated[str | None, typer.Option("--backbone", help="Only this backbone.", show_default=False)] = None,
    top: Annotated[int, typer.Option("--top", help="How many.", min=1)] = 20,
    everything: Annotated[bool, typer.Option("--all", help="Also floors and the sweeps of outer folds.")] = False,
) -> None:
    """Every trial of every sweep on this machine, best first: a row per trial, from the local table.

    Example: histotune trials --dataset breakhis --top 10
    """
    from histotune.studies.tracking import read_trials, trials_folder

    state = user_dir("state")
    table = read_trials(state)
    if table.is_empty():
        print(f"no sweep has been recorded in {trials_folder(state)}")
        return
    table = _narrowed(table, {"data_set": dataset, "backbone": backbone}, everything=everything)
    for (trained_on,), part in table.group_by("trained_on", maintain_order=True):
        best = part.sort("score", nulls_last=True, maintain_order=True).head(top)
        console(160).print(recorded_table(str(trained_on), best).as_rich(CENTRED), highlight=False, markup=False)
    print(
        f"{len(table):,} trials of {table['run_id'].n_unique():,} runs; all of them: polars.scan_parquet("
        f"'{as_pattern(trials_folder(state))}/*.parquet')"
    )


def with_wandb_mode(arguments: list[str]) -> list[str]:
    """Return a command line on which ``--wandb`` alone means ``--wandb offline``."""
    spelled = []
    for place, word in enumerate(arguments):
        spelled.append(word)
        if word == "--wandb" and arguments[place + 1 : place + 2] not in (["offline"], ["online"], ["off"]):
            spelled.append("offline")
    return spelled


def _narrowed(table: pl.DataFrame, chosen: dict[str, str | None], *, everything: bool) -> pl.DataFrame:
    """Keep what was asked for; a name that is nowhere on record is a mistake."""
    for column, name in chosen.items():
        if name is None:
            continue
        known = sorted(set(table[column]))
        if name not in known:
            raise UserError(
                f"no trial on record has this {column.replace('_', ' ')}",
                value=name,
                allowed=", ".join(known),
                closest=closest_name(name, known),
            )
        table = table.filter(table[column] == name)
    if everything:
        return table
    return table.filter((table["arm"] == PROBE) & (table["training_set"] == "all"))


def recorded_table(trained_on: str, trials: pl.DataFrame) -> Table:
    """Return trials on record as a table."""
    names = ("log-loss", "SE", "AUROC", "backbone", "family", "settings", "groups", "run", "")
    rows = rows_of(
        (
            *(_number(row[name]) for name in ("score", "score_se", "auroc")),
            row["backbone"],
            row["family"],
            _settings(row["settings"]),
            str(row["n_groups"]),
            row["run_id"],
            _remark(row),
        )
        for row in trials.iter_rows(named=True)
    )
    title = f"{trained_on}: group-balanced log-loss, out of fold, lower is better"
    return Table(title, columns_of(names, right=("log-loss", "SE", "AUROC", "groups"), fit="cut"), rows)


def _settings(text: str) -> str:
    found: dict[str, Any] = parse_json(text)
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in found.items()
    )


def _remark(row: dict[str, Any]) -> str:
    words = (
        ("chosen, optimistic", row["chosen"]),
        ("diverged", row["diverged"]),
        ("not converged", not row["converged"] and not row["diverged"]),
        (arm_words(row["arm"]), row["arm"] != PROBE),
        (row["training_set"], row["training_set"] != "all"),
    )
    return ", ".join(word for word, is_so in words if is_so)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
