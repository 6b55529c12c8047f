"""Options of the command line: their types here, their names and help in ``options.toml``.

The options that several commands share are declared once, and :func:`option` reads the others where a command takes
them.
"""

# typer reads these annotations when a command is registered, so that their types are imported at run time.

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from histotune.studies.config import ExperimentConfig


@cache
def _described() -> dict[str, dict[str, dict[str, Any]]]:
    return tomllib.loads(resources.files(__package__).joinpath("options.toml").read_text(encoding="utf-8"))


def option(name: str) -> Any:  # noqa: ANN401  (typer has two kinds of parameters, without a common type)
    """Return an option or an argument as ``options.toml`` describes it under this name, such as "every.data"."""
    table, _, key = name.partition(".")
    facts = dict(_described()[table][key])
    if facts.pop("argument", False):
        return typer.Argument(**facts)
    return typer.Option(*facts.pop("flags", [f"--{key}"]), **facts)


def typed_config(typed: dict[str, Any]) -> ExperimentConfig:
    """Return the config of a command's recipe or data set with the other options that were typed, by their names."""
    from histotune.studies.arguments import build_config

    rest = {name: value for name, value in typed.items() if name != "recipe"}
    return build_config(typed["recipe"] if "recipe" in typed else typed["dataset"], **rest)


Data = Annotated[Path | None, option("every.data")]
Pcam = Annotated[Path | None, option("every.pcam")]
Magnification = Annotated[str | None, option("every.train-magnification")]
BackboneName = Annotated[str | None, option("every.backbone")]
Adapter = Annotated[str | None, option("every.adapter")]
View = Annotated[str | None, option("every.view")]
Out = Annotated[Path | None, option("every.out")]
Cache = Annotated[Path | None, option("every.cache")]
Final = Annotated[bool, option("every.final")]
Cluster = Annotated[str | None, option("every.cluster")]
OnBadImage = Annotated[str | None, option("every.on-bad-image")]
SetField = Annotated[list[str] | None, option("every.set")]
DatasetArgument = Annotated[str, option("every.dataset")]
SplitName = Annotated[str | None, option("every.split")]
AllowLeaky = Annotated[bool, option("every.allow-leaky")]
RecipeName = Annotated[str | None, option("every.recipe")]
FromRun = Annotated[Path | None, option("every.from")]
Wandb = Annotated[str | None, option("every.wandb")]
