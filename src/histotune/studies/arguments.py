"""From plain arguments, as the command line and the verbs take them, to a config."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histotune.datasets.config import check_on_bad_image
from histotune.images.config import check_view_name
from histotune.studies.config import ExperimentConfig, load_config, override, parse_config
from histotune.studies.recipes import RecipeData, find_recipe, recipe_names
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from histotune.datasets.tileset import TileSet
    from histotune.deploy.bundle import Bundle

LOG = logging.getLogger(__name__)
Fields = Mapping[str, object] | Sequence[str] | None
"""Fields of the config by dotted names, as ``{"sweep.folds": 3}``, or as the command line takes them."""
Place = str | Path
PART_OF_OPTION = {
    **dict.fromkeys(("train_magnification", "final", "split", "allow_leaky", "classes"), "evaluation"),
    "cluster": "interval",
    "wandb": "tracking",
}
RECIPE_BY_DATASET = {"patch_camelyon": "pcam", "breakhis": "breakhis", "tiles": "tiles"}


def build_config(recipe: str | None, **typed: Any) -> ExperimentConfig:  # noqa: ANN401  (command-line options)
    """Return a recipe's config with the command line's options and --set fields applied."""
    if typed.get("from_run") is not None:
        config = _own_places(load_config(typed["from_run"]))
        _check_repeat(config, recipe)
    elif recipe is None:
        raise UserError(
            "a recipe is needed", allowed=", ".join(recipe_names()), fix="histotune run breakhis --data DIR"
        )
    else:
        config = find_recipe(recipe)(RecipeData(_folder(typed.get("data")), _folder(typed.get("pcam"))))
    config = _with_options(config, typed)
    return override(config, typed.get("settings") or [])


def _own_places(config: ExperimentConfig) -> ExperimentConfig:
    """Return the config of somebody's run folder with your own ledger and cache, and no upload; what differs is said.

    The folder may be a stranger's: where a run writes and what it uploads is for whoever repeats it to say.
    """
    own = ExperimentConfig(recipe=config.recipe)
    new: dict[str, object] = {"tracking": own.tracking, "ledger": own.ledger, "cache": own.cache}
    if config.cohort is not None:
        new |= _cohort_below(config, own.cache)
    places = (("ledger", config.ledger, own.ledger), ("cache", config.cache, own.cache))
    left = ["W&B"] if config.tracking != own.tracking else []
    left += [f"{name} {theirs}" for name, theirs, mine in places if theirs.resolve() != mine.resolve()]
    if left:
        LOG.warning("not taken over from the folder: %s; --set and options ask for them", ", ".join(left))
    return config.model_copy(update=new)


def _cohort_below(config: ExperimentConfig, cache: Path) -> dict[str, object]:
    """Return the places of the synthetic cohort below a cache."""
    cohort = cache / "synthetic"
    parts = (("source", config.source, "breakhis"), ("target", config.target, "pcam"))
    moved = {
        name: dataset.model_copy(update={"path": cohort / folder})
        for name, dataset, folder in parts
        if dataset is not None
    }
    return {"cohort_path": cohort, **moved}


def _folder(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser()


def _check_repeat(config: ExperimentConfig, recipe: str | None) -> None:
    """Refuse a recipe beside --from, and a run folder that would run somebody's Python file unasked."""
    code = next((data.code for data in (config.source, config.target) if data is not None and data.code), None)
    if code is None and recipe is not None:
        raise UserError("--from repeats a run, so no recipe goes with it", value=recipe)
    if code is not None and (recipe is None or Path(recipe).expanduser().absolute() != code.absolute()):
        raise UserError(
            "this run read its data with a Python file, which only runs when you name it",
            value=code,
            fix=f"histotune run {code} --from RUN",
        )


def _with_options(config: ExperimentConfig, typed: dict[str, Any]) -> ExperimentConfig:
    """Put the named options into their fields."""
    data = config.model_dump(mode="json")
    given = {name: value for name, value in typed.items() if value is not None and value is not False}
    for name, part in PART_OF_OPTION.items():
        if name in given:
            data[part][name] = given[name]
    for dataset in (data["source"], data["target"]):
        if dataset is not None and "on_bad_image" in given:
            dataset["on_bad_image"] = check_on_bad_image(given["on_bad_image"])
    if "view" in given:
        data["view"] = {**(data["view"] or {}), "name": check_view_name(given["view"])}
    if "backbone" in given:
        data["backbone"] = {"name": given["backbone"]}
    if "adapter" in given:
        data["backbone"]["adapter"] = given["adapter"]
    if "method" in given:
        data["finetune"] = {**(data["finetune"] or {}), "method": {"name": given["method"]}}
    if "fraction" in given:
        studied = data["source"] or data["target"]
        if studied is None:
            raise UserError(
                "there is no data set to learn a share of", value=given["fraction"], fix="add --data FOLDER"
            )
        studied["subset"]["group_fraction"] = given["fraction"]
    if "outer" in given:
        one = given["outer"] == 1  # one training: a fifth of the groups is held out
        data["evaluation"] |= {"split": "holdout-20-seed0"} if one else {"outer_folds": given["outer"]}
    data |= {name: str(given[name]) for name in ("out", "cache") if name in given}
    if "cache" in given and data["cohort"] is not None:
        cohort = Path(given["cache"]) / "synthetic"
        data["cohort_path"] = str(cohort)
        data["source"]["path"], data["target"]["path"] = str(cohort / "breakhis"), str(cohort / "pcam")
    return parse_config(data)


def config_of(
    tiles: TileSet | str | ExperimentConfig, data: Place | None, *, set: Fields = None, **typed: object
) -> ExperimentConfig:
    """Return the config of a data set that was named or read; one that is there already stays as it is."""
    if isinstance(tiles, ExperimentConfig):
        return tiles
    for name in ("out", "cache", "pcam"):
        typed[name] = path_of(typed.get(name))  # type: ignore[arg-type]  # a place or None
    settings = assignments(set)
    if isinstance(tiles, str):
        return build_config(tiles, data=path_of(data), settings=settings, **typed)
    made = tiles.read_from
    if made is None:
        return build_config("tiles", data=Path(), settings=settings, **typed)
    recipe = str(made.code) if made.code is not None else RECIPE_BY_DATASET.get(made.name, "tiles")
    config = build_config(recipe, data=made.path, **typed)
    part = "source" if config.source is not None else "target"
    bad = typed.get("on_bad_image") or made.on_bad_image
    config = config.model_copy(update={part: made.model_copy(update={"on_bad_image": bad})})
    return override(config, settings)


def changed_config(config: ExperimentConfig, typed: Mapping[str, object], fields: Fields) -> ExperimentConfig:
    """Return the config of embedded tiles with what a sweep adds to it."""
    given = {
        "evaluation.train_magnification": typed["train_magnification"],
        "evaluation.split": typed["split"],
        "cache": typed["cache"],
    }
    named = assignments({name: value for name, value in given.items() if value is not None})
    return override(config, [*named, *assignments(fields)])


def tiles_of(tiles: TileSet | str | ExperimentConfig, config: ExperimentConfig) -> TileSet:
    """Return tiles that were read, or read those that a config names."""
    from histotune.studies.setup import read_single

    return read_single(config) if isinstance(tiles, str | ExperimentConfig) else tiles


def bundle_of(head: Bundle | Place) -> Bundle:
    """Return a head with its backbone and view, loaded where its folder is named."""
    from histotune.deploy.bundle import load_bundle

    return load_bundle(Path(head)) if isinstance(head, str | Path) else head


def path_of(place: Place | None) -> Path | None:
    """Return a place as a path; None stays None."""
    return None if place is None else Path(place)


def assignments(fields: Fields) -> list[str]:
    """Return fields as ``--set`` takes them: ``sweep.folds=3``."""
    if fields is None:
        return []
    if not isinstance(fields, Mapping):
        return list(fields)
    return [f"{name}={value if isinstance(value, str | Path) else json.dumps(value)}" for name, value in fields.items()]


def command_of(verb: str) -> str:
    """Return the command line that runs, or the verb where Python calls it: a report says what it was made by."""
    started = Path(sys.argv[0]) if sys.argv else Path()
    by_command = started.stem == "histotune" or started.parts[-2:] == ("histotune", "__main__.py")
    return " ".join(["histotune", *sys.argv[1:]]) if by_command else f"histotune.{verb}() in Python"
