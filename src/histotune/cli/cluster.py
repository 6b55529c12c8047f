"""The commands of more than one machine: what a rented one takes and costs, with the commands that launch it."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histotune.cli.ending import print_table
from histotune.tools.errors import UserError, closest_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from histotune.cluster.cloud_plan import CloudTime
    from histotune.studies.config import ExperimentConfig

cloud_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help=(
        "What a command takes and costs on a rented machine; nothing is launched.\n\n"
        "Example: histotune cloud plan --tiles 7909 -- embed breakhis --backbone midnight"
    ),
)
PASSED_ON = {"allow_interspersed_args": False, "ignore_unknown_options": False}
SHARED = ("embed", "run", "sweep", "demo", "finetune")
NOT_LAUNCHED = ("cloud", "submit")


@cloud_app.command("plan", context_settings=PASSED_ON)
def plan(
    ctx: typer.Context,
    command: Annotated[
        list[str],
        typer.Argument(
            metavar="COMMAND...|RECIPE", help="A command as you would type it behind histotune, or a recipe."
        ),
    ],
    machine: Annotated[str, typer.Option("--machine", help="Kind of machine, as AWS calls it.")] = "g4dn.xlarge",
    tiles: Annotated[
        int | None,
        typer.Option("--tiles", min=1, help="Tiles to embed. Default: those of the data set.", show_default=False),
    ] = None,
    hours: Annotated[
        float | None, typer.Option("--hours", min=0.0, help="The time, where you know it.", show_default=False)
    ] = None,
    results: Annotated[
        str, typer.Option("--results", help="s3://BUCKET/PREFIX that keeps what was done.", show_default=False)
    ] = "",
    package: Annotated[
        str, typer.Option("--package", help="What is installed there: a requirement, or s3://BUCKET/FILE.whl.")
    ] = "histotune[s3]",
    disk: Annotated[int, typer.Option("--disk", min=75, help="Size of the machine's disk, GB.")] = 200,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Also write the two files that launch it into this folder.", show_default=False),
    ] = None,
) -> None:
    """Time and price of a command on a rented machine, on demand and spot, and the commands that launch it.

    Example: histotune cloud plan --tiles 327680 --out cloud -- embed pcam --data data/pcam --backbone midnight
    """
    from histotune.cluster.cloud_plan import LaunchOptions, plan_cloud, write_launch_files

    words, typed = _typed(ctx, command)
    folder = Path("cloud") if out is None else out
    options = LaunchOptions(machine, results, package, folder.as_posix(), disk)
    known = _given(hours) if hours is not None else _time_there(words, typed, options.machine, tiles)
    planned = plan_cloud(words, known, options)
    for table in planned.tables():
        print_table(table)
    if out is not None:
        for path in write_launch_files(planned, out):
            print(f"written: {path}")
    print(
        "\nnothing was launched; one of these does it"
        + ("" if out is not None else ", once --out cloud wrote its file")
    )
    for line, words_of_it in zip(planned.launch_lines, WAYS, strict=True):
        print(f"  # {words_of_it}\n  {line}")
    for option in ("data", "pcam"):
        place = typed.get(option)
        if place is not None and not str(place).startswith("s3:"):
            print(f"--{option} {place} is a place on this computer: upload it and name it as s3://BUCKET/PREFIX")
    if not results:
        print("without --results s3://BUCKET/PREFIX what was done goes with the machine")


def submit(
    ctx: typer.Context,
    command: Annotated[
        list[str],
        typer.Argument(
            metavar="COMMAND...|RECIPE", help="A command as you would type it behind histotune, or a recipe."
        ),
    ],
    executor: Annotated[str, typer.Option("--executor", help="slurm, local, or auto: SLURM where it is.")] = "auto",
    over: Annotated[
        str | None,
        typer.Option("--over", help="FIELD=A,B,C: an array, a job per value of a config field.", show_default=False),
    ] = None,
    ranks: Annotated[int, typer.Option("--ranks", min=1, help="Processes that share the shards of a job.")] = 1,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Machines of a job.")] = 1,
    gpus: Annotated[int, typer.Option("--gpus", min=0, help="GPUs per machine; 0 for none.")] = 1,
    cpus: Annotated[int, typer.Option("--cpus", min=1, help="Processors per rank.")] = 4,
    memory: Annotated[
        float, typer.Option("--memory", min=0.0, help="GB per machine. Default: the cluster's.", show_default=False)
    ] = 0.0,
    hours: Annotated[
        float, typer.Option("--hours", min=0.001, help="A longer job is asked for again and goes on.")
    ] = 12.0,
    partition: Annotated[str, typer.Option("--partition", help="Of SLURM.", show_default=False)] = "",
    account: Annotated[str, typer.Option("--account", help="Of SLURM.", show_default=False)] = "",
    logs: Annotated[Path, typer.Option("--logs", help="Folder of the jobs' logs.")] = Path("jobs"),
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the jobs and say how they ended.")] = False,
) -> None:
    """Hand a command to SLURM as a job or an array; a job that is taken away is asked for again and goes on.

    Example: histotune submit --ranks 4 --gpus 4 -- embed pcam --data data/pcam --backbone midnight
    """
    from histotune.cluster import submit as jobs

    words, typed = _typed(ctx, command)
    if executor not in jobs.EXECUTORS:
        raise UserError(
            "no such executor",
            value=executor,
            closest=closest_name(executor, jobs.EXECUTORS),
            allowed=", ".join(jobs.EXECUTORS),
        )
    if ranks > 1 and words[0] not in SHARED:
        raise UserError(
            "this command is not shared among ranks", value=words[0], allowed=", ".join(SHARED), fix="leave out --ranks"
        )
    options = jobs.JobOptions(
        executor, logs, ranks, nodes, gpus, cpus, memory, hours, partition=partition, account=account
    )
    handed = jobs.submit(_divided(words, typed, over), options)
    for job in handed:
        print(f"job {job.job_id}: histotune {shlex.join(job.words)}\n  log: {', '.join(map(str, job.logs))}")
    if wait and any(failures := jobs.wait_for(handed)):
        said = [f"job {job.job_id}: {failure}" for job, failure in zip(handed, failures, strict=True) if failure]
        raise UserError(
            "\n".join([f"{len(said)} of {len(handed)} jobs failed", *said]), fix="read the logs named above"
        )


def _divided(words: tuple[str, ...], typed: Mapping[str, Any], over: str | None) -> Sequence[tuple[str, ...]]:
    """Return the command, or one per value of a field."""
    from histotune.cluster.submit import divided

    if over is None:
        return [words]
    name, _, values = over.partition("=")
    if not values or "settings" not in typed:
        raise UserError(
            "an array goes over the values of a config field",
            value=over,
            fix="--over finetune.loop.seed=0,1,2 -- finetune ...",
        )
    if "out" in typed and typed["out"] is None:
        raise UserError("each job of an array writes a folder of its own", fix="add --out FOLDER to the command")
    return divided(words, name, values.split(","))


WAYS = (
    "SkyPilot, on demand; the machine goes when the command ends",
    "SkyPilot, spot: started again elsewhere when it is taken back",
    "AWS alone, on demand; PROFILE: an instance profile that may read and write your buckets",
    "AWS alone, spot: when it is taken back, launch it again and it goes on from --results",
)


def _typed(ctx: typer.Context, command: Sequence[str]) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    """Return the words of a command and what its options say, as the command itself would read them.

    A recipe alone is run. Mistakes in the command are told here, before a machine is paid for.
    """
    from histotune.studies.recipes import recipe_names

    root: Any = ctx.find_root().command
    known = [name for name in root.commands if name not in NOT_LAUNCHED]
    name = command[0]
    if name not in known and (name in recipe_names() or name.endswith(".py")):
        return _typed(ctx, ("run", *command))
    if name not in known:
        raise UserError(
            "no such command or recipe",
            value=name,
            closest=closest_name(name, [*known, *recipe_names()]),
            fix="histotune cloud plan -- embed breakhis --data DIR",
        )
    inner = root.commands[name]
    typed = {} if hasattr(inner, "commands") else inner.make_context(name, list(command[1:])).params
    return tuple(command), typed


def _given(hours: float) -> CloudTime:
    from histotune.cluster.cloud_plan import CloudTime

    return CloudTime((hours, hours), "The time is the one you gave.")


def _time_there(words: Sequence[str], typed: Mapping[str, Any], machine: str, tiles: int | None) -> CloudTime:
    from histotune.cluster.cloud_plan import CloudTime, find_machine, time_of

    found = find_machine(machine)
    if not {"dataset", "recipe"} & set(typed):
        return CloudTime(
            (math.nan, math.nan), f"How long histotune {words[0]} takes is not estimated: --hours says it."
        )
    config = _config_of(words[0], typed)
    return time_of(config, found, tiles, tunes=config.finetune is not None)


def _config_of(name: str, typed: Mapping[str, Any]) -> ExperimentConfig:
    from histotune.studies.arguments import build_config
    from histotune.studies.recipes import with_finetuning

    options = {key: value for key, value in typed.items() if key not in ("dataset", "recipe")}
    settings = options.pop("settings", None)
    config = build_config(typed.get("dataset") or typed.get("recipe"), **options)
    if name == "finetune":
        config = with_finetuning(config)
    from histotune.studies.config import override

    return override(config, settings or [])
