"""A head with everything needed to apply it to new images: backbone, view, precision."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from histotune.backbones.entries import BackboneConfig
from histotune.heads.head import (
    Head,
    load_head,
    save_head,
)
from histotune.images.config import ViewConfig
from histotune.tools.atomic import bring_back
from histotune.tools.devices import Precision  # noqa: TC001  (part of a record that others introspect)
from histotune.tools.errors import UserError
from histotune.tools.files import write_json

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Bundle:
    """A deployable head."""

    head: Head
    backbone: BackboneConfig
    view: ViewConfig
    precision: Precision


def save_bundle(bundle: Bundle, folder: Path) -> None:
    """Write a head and its surroundings.

    Args:
        bundle: What to save.
        folder: Made when missing.
    """
    save_head(bundle.head, folder)
    write_json(
        folder / "bundle.json",
        {
            "backbone": bundle.backbone.model_dump(mode="json"),
            "view": bundle.view.model_dump(mode="json"),
            "precision": bundle.precision,
        },
    )


def load_bundle(folder: Path) -> Bundle:
    """Read a head and its surroundings.

    Args:
        folder: A head folder, or a run folder that holds one as ``head``.

    Returns:
        The bundle.

    Raises:
        UserError: No head there, or a damaged one.
    """
    bring_back(folder)
    for place in (folder, folder / "head", folder / "head-direct"):
        if (place / "bundle.json").is_file():
            folder = place
            break
    else:
        raise UserError(
            "no head in this folder",
            value=folder,
            allowed="a run folder, or its head folder",
            fix="histotune run RECIPE --out DIR, then pass DIR",
        )
    try:
        data = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
        backbone, view = BackboneConfig(**data["backbone"]), ViewConfig(**data["view"])
        precision = data["precision"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValidationError) as error:
        raise UserError("bundle.json is damaged", value=folder, fix="repeat the run that wrote this head") from error
    return Bundle(load_head(folder), backbone, view, precision)
