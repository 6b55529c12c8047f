"""One experiment, complete: the rooms' settings composed, overridden by name, saved and read back."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from histotune.backbones.entries import BackboneConfig
from histotune.datasets.config import DatasetConfig
from histotune.datasets.synthetic.cohort import SyntheticConfig
from histotune.embeddings.space import EmbeddingConfig
from histotune.evaluation.config import EvaluationConfig
from histotune.finetune.config import FinetuneConfig
from histotune.heads.config import SweepConfig
from histotune.images.config import LoaderConfig, ViewChoice
from histotune.published.protocols import ProtocolConfig
from histotune.statistics.predictions import IntervalConfig
from histotune.tools.atomic import bring_back
from histotune.tools.errors import UserError, closest_name, name_setting, raise_together
from histotune.tools.files import parse_json, read_json, user_dir
from histotune.tools.manifest import verify_folder
from histotune.transfer.case import TransferConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic.fields import FieldInfo


AGAIN = "repeat the run from its recipe: histotune run RECIPE --data DIR --out NEW"
UNSET: dict[str, object] = {
    "class_level": 1,
    "layout": None,
    "ids": None,
    "also_missing": [],
    "not_missing": [],
    "max_classes": None,
}
WandbMode = Literal["off", "offline", "online"]


class TrackingConfig(BaseModel):
    """Where a run is tracked besides the local table, which is always written.

    Attributes:
        wandb: ``off``; ``offline`` writes a W&B run to the disk and asks nobody; ``online`` uploads it, with the login
            that ``wandb login`` made.
        wandb_project: W&B project.
        wandb_entity: W&B user or team; None takes the login's own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    wandb: WandbMode = "off"
    wandb_project: str = "histotune"
    wandb_entity: str | None = None


class ExperimentConfig(BaseModel):
    """A whole experiment; recipes return it, ``--set`` changes it, a run folder keeps it.

    Attributes:
        recipe: Name of the recipe it came from.
        cohort: Synthetic tissue to write first, into ``cohort_path``; None uses files that are there.
        cohort_path: Where the synthetic cohort is written.
        source: Data set studied by held-out cases; None skips to the target.
        target: Second data set with official parts: external validation and direct training.
        backbone: The frozen network.
        view: How images become its input; what is None is as the backbone documents it.
        loader: How pixels are read.
        embedding: How embeddings are computed.
        sweep: Which heads are tried.
        evaluation: What is scored.
        interval: How intervals are made.
        transfer: How ``histotune transfer`` diagnoses; a run does not use it.
        tracking: Where a run is tracked besides the local table of trials.
        finetune: How the backbone is fine-tuned beside its probe; None leaves it frozen.
        protocol: A published protocol to repeat in place of a study of our own.
        out: Run folder.
        cache: Folder for embeddings, hashes and solved fits; safe to delete.
        ledger: Folder of the ledger of scorings and of the table of trials; keep it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str
    cohort: SyntheticConfig | None = None
    cohort_path: Path | None = None
    source: DatasetConfig | None = None
    target: DatasetConfig | None = None
    backbone: BackboneConfig = Field(default_factory=BackboneConfig)
    view: ViewChoice | None = None
    loader: LoaderConfig = Field(default_factory=LoaderConfig)
    embedding: EmbeddingConfig = Field(default_factory=EmbeddingConfig)
    sweep: SweepConfig = Field(default_factory=SweepConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    interval: IntervalConfig = Field(default_factory=IntervalConfig)
    transfer: TransferConfig = Field(default_factory=TransferConfig)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)
    protocol: ProtocolConfig | None = None
    finetune: FinetuneConfig | None = None
    out: Path = Path("runs/run")
    cache: Path = Field(default_factory=lambda: user_dir("cache"))
    ledger: Path = Field(default_factory=lambda: user_dir("state"))

    def model_post_init(self, context: Any, /) -> None:  # noqa: ANN401  (pydantic's)
        """Let messages about these folders name the settings that they come from."""
        name_setting(self.cache, "--cache FOLDER")
        name_setting(self.ledger, "--set ledger=FOLDER")

    def choices(self) -> dict[str, object]:
        """Return what a result depends on: everything but folders, ways of computing, and the split.

        The ledger counts choices under the hash of each split, and a split may be named by a path.
        """
        aside = {"out", "cache", "ledger", "cohort_path", "loader", "embedding", "tracking", "transfer"}
        data = self.model_dump(mode="json", exclude=aside)
        data["sweep"].pop("label_efficiency")
        for name in ("split", "allow_leaky", "permutations", "robustness_k", "embedding_map"):
            data["evaluation"].pop(name)
        if data["interval"]["mix"] == "sampled":  # choices only where they are some, so that older ones keep their hash
            data["interval"].pop("mix")
        if data["evaluation"]["leak_null_draws"] is None:
            data["evaluation"]["leak_null_draws"] = 3  # what the default was; no choice of a head hangs on it
        if not data["evaluation"]["classes"]:  # a choice only where it is one, so that older ones keep their hash
            data["evaluation"].pop("classes")
        for name in ("protocol", "finetune"):  # choices only where they are some, so that older ones keep their hash
            if data[name] is None:
                data.pop(name)
        if self.finetune is not None:
            data["finetune"] = self.finetune.choices()
        for name in ("source", "target"):
            if data[name] is not None:
                for place in ("path", "slides_from", "code", "images_from"):
                    data[name].pop(place)
                for setting, unset in UNSET.items():
                    if data[name][setting] == unset:
                        data[name].pop(setting)
        return data


def override(config: ExperimentConfig, assignments: Sequence[str]) -> ExperimentConfig:
    """Apply ``field.subfield=value`` assignments, typed; report every mistake together.

    Example:
        >>> override(ExperimentConfig(recipe="x"), ["sweep.folds=3"]).sweep.folds
        3
    """
    data = config.model_dump(mode="json")
    errors = [error for assignment in assignments if (error := _assign(data, assignment)) is not None]
    return parse_config(data, errors)


def parse_config(data: dict[str, Any], errors: Sequence[UserError] = ()) -> ExperimentConfig:
    """Validate a config read from JSON or changed by hand."""
    try:
        config = ExperimentConfig.model_validate(data)
    except ValidationError as error:
        raise_together([*errors, *(_explain(detail) for detail in error.errors())])
        raise
    raise_together(list(errors))
    return config


def load_config(run: Path, *, checked: bool = False) -> ExperimentConfig:
    """Read the resolved config of a run folder.

    Args:
        run: The folder, or its ``config.json``.
        checked: The folder has been compared with its manifest already.

    Returns:
        The config.

    Raises:
        UserError: No config there, or one that has changed since it was written.
    """
    bring_back(run)
    path = run if run.suffix == ".json" else run / "config.json"
    if not path.is_file():
        raise UserError("this folder holds no config.json, so it is no run", value=run, fix="histotune run --help")
    if not checked and path.name == "config.json":
        verify_folder(path.parent, AGAIN, path.name)
    try:
        data = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError("config.json is not readable JSON", value=path, fix=AGAIN) from error
    if not isinstance(data, dict):
        raise UserError("config.json holds no config", value=path, fix=AGAIN)
    return parse_config(data)


def _assign(data: dict[str, Any], assignment: str) -> UserError | None:
    """Set one field of the nested data, or say what is wrong with the assignment."""
    name, equals, text = assignment.partition("=")
    if not equals:
        return UserError("--set takes field=value", value=assignment, fix="--set sweep.folds=3")
    model: type[BaseModel] = ExperimentConfig
    place, parents = data, name.split(".")
    for depth, part in enumerate(parents):
        if part not in model.model_fields:
            return _unknown(name, part, ".".join(parents[:depth]), model)
        inner = _inner_model(model.model_fields[part], place.get(part))
        if depth == len(parents) - 1:
            place[part] = _parse(text)
        elif inner is None:
            return UserError("this field has no fields of its own", value=name, allowed=".".join(parents[: depth + 1]))
        else:
            place[part] = _fields_of(place.get(part), inner)
            place, model = place[part], inner
    return None


def _fields_of(value: object, model: type[BaseModel]) -> dict[str, Any]:
    """Return the fields to change one of: those there, or those behind a name such as ``sweep.sgd=common-wandb``."""
    if isinstance(value, str):
        with suppress(ValidationError):  # an unknown name is told when the whole config is read
            return model.model_validate(value).model_dump(mode="json")
    return value if isinstance(value, dict) else {}


def _unknown(name: str, part: str, parent: str, model: type[BaseModel]) -> UserError:
    prefix = f"{parent}." if parent else ""
    closest = closest_name(part, model.model_fields) or closest_name(name, _all_fields(ExperimentConfig))
    return UserError(
        "unknown field",
        value=name,
        allowed=", ".join(prefix + field for field in model.model_fields),
        closest=None if closest is None else closest if "." in closest else prefix + closest,
        fix="`histotune config show RECIPE` prints every field",
    )


def _all_fields(model: type[BaseModel], prefix: str = "") -> list[str]:
    names = []
    for name, field in model.model_fields.items():
        inner = _inner_model(field)
        names += [prefix + name] if inner is None else _all_fields(inner, f"{prefix}{name}.")
    return names


def _inner_model(field: FieldInfo, value: object = None) -> type[BaseModel] | None:
    """The config class of a field, through ``X | None``; among several the one that ``value`` names; None otherwise."""
    models = _models_in(field.annotation)
    name = value.get("name") if isinstance(value, dict) else None
    named = [model for model in models if len(models) > 1 and model.model_fields["name"].default == name]
    return next(iter(named or models), None)


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    inside = get_args(annotation) if get_origin(annotation) in (Annotated, Union, UnionType) else ()
    return [model for argument in inside for model in _models_in(argument)]


def _parse(text: str) -> object:
    """JSON where it is JSON, plain text otherwise."""
    try:
        return parse_json(text)
    except ValueError:
        return text


def _explain(detail: Any) -> UserError:  # noqa: ANN401  (pydantic's ErrorDetails differs between versions)
    """Say what a field does not take: its value unless that is a whole section, and the closest word it does take."""
    name, value = ".".join(str(part) for part in detail["loc"]), detail.get("input")
    words = re.findall(r"'([^']*)'", str(detail.get("ctx", {}).get("expected", "")))
    closest = closest_name(str(value), words) if words else None
    fix = f"--set {name}={closest}" if closest else "`histotune config show RECIPE` prints every field with its value"
    return UserError(
        f"{name}: {detail['msg'][:1].lower()}{detail['msg'][1:]}",
        value=None if isinstance(value, dict) else value,
        closest=closest,
        fix=fix,
    )
