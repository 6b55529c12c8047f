"""From what the user typed to a backbone's facts; timm is asked once per name and remembered."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histotune.backbones.describe import describe_folder, describe_hub, describe_timm
from histotune.backbones.entries import ENTRIES
from histotune.backbones.entries.colour_histogram import COLOUR_HISTOGRAM
from histotune.backbones.external import PREFIX, describe_external
from histotune.backbones.records import BackboneSpec
from histotune.errors import UserError, closest_name
from histotune.files import write_json
from histotune.images.config import ViewConfig
from histotune.provenance import library_version

if TYPE_CHECKING:
    from histotune.backbones.config import BackboneConfig

LOG = logging.getLogger(__name__)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FORMS = "timm/ARCHITECTURE, random/NAME, a hub id ORGANISATION/NAME, a local folder, external:NAME"


def find_backbone(config: BackboneConfig, cache: Path | None = None) -> BackboneSpec:
    """Return the facts about a backbone by its name.

    Args:
        config: Catalog name (``lite0``, ``midnight``, ``colour-histogram``), ``timm/ARCHITECTURE[.TAG]``, a hub id,
            a local folder (transformers or timm format), ``random/`` before any of them, or ``external:NAME`` for
            embeddings that were imported under a name.
        cache: Folder that remembers what timm said about a name, so that later runs need not import timm.

    Returns:
        The spec; hub backbones without a pinned revision carry the commit of the local snapshot.

    Raises:
        UserError: Unknown name (with the closest one), missing folder, or an unknown kind of model.

    Example:
        >>> from histotune.backbones.config import BackboneConfig
        >>> find_backbone(BackboneConfig(name="midnight")).source
        'kaiko-ai/midnight'
    """
    if config.name.startswith("random/"):
        return random_twin(find_backbone(config.model_copy(update={"name": config.name[7:]}), cache))
    entry = next((entry for entry in ENTRIES if config.name in (entry.name, entry.source)), None)
    if entry is not None:
        return replace(entry, revision=config.revision or entry.revision)
    if config.name.startswith(PREFIX):
        return describe_external(config.name, cache)
    if config.name.startswith("timm/"):
        return _remembered_timm(config, cache)
    folder = Path(config.name).expanduser()
    if folder.is_dir():
        return describe_folder(folder)
    if HUB_ID.fullmatch(config.name):
        return describe_hub(config.name, config.revision)
    raise _unknown(config.name)


def random_twin(spec: BackboneSpec, seed: int = 0) -> BackboneSpec:
    """Return the same architecture and transform with seeded random weights: a floor.

    Args:
        spec: The backbone.
        seed: Seed of the weights.

    Returns:
        A spec whose name begins with ``random/``.

    Raises:
        UserError: The backbone has no weights.
    """
    if spec.kind in ("colour-histogram", "external"):
        raise UserError("this backbone has no weights to draw", value=spec.name, fix="use it as it is")
    return replace(spec, name=f"random/{spec.name.removeprefix('random/')}", weights="random", seed=seed)


def colour_histogram() -> BackboneSpec:
    """Return the floor that knows colour only: 32 bins per RGB channel of the view."""
    return COLOUR_HISTOGRAM


def documented_view(spec: BackboneSpec) -> ViewConfig:
    """Return the view that a backbone's documentation asks for."""
    return ViewConfig(size_px=spec.size_px, interpolation=spec.interpolation)


def _remembered_timm(config: BackboneConfig, cache: Path | None) -> BackboneSpec:
    """Ask timm about a name once per timm version; importing it takes seconds."""
    path = None if cache is None else cache / "timm_names.json"
    key = json.dumps([library_version("timm"), config.name, config.revision, config.weights])
    known = _read_names(path)
    if key not in known:
        spec = describe_timm(config)
        if path is not None:
            write_json(path, {**_read_names(path), key: asdict(spec)})
        return spec
    facts: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in known[key].items()
    }
    return BackboneSpec(**facts)


def _read_names(path: Path | None) -> dict[str, dict[str, Any]]:
    if path is None or not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        LOG.warning("%s is damaged (%s); timm is asked again", path, error)
        return {}


def _unknown(name: str) -> UserError:
    if name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1:
        return UserError("this backbone folder does not exist", value=name, fix="check the path")
    names = [entry.name for entry in ENTRIES]
    return UserError("unknown backbone", value=name, allowed=f"{', '.join(names)}, {FORMS}",
                     closest=closest_name(name, names), fix="histotune embed --help shows examples")  # fmt: skip
