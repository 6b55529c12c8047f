"""From what the user typed to a backbone's facts; timm is asked once per name and remembered."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histotune.backbones.adapters import pin_adapter
from histotune.backbones.entries import catalog_entries
from histotune.backbones.model_files import describe_folder, describe_hub, describe_timm
from histotune.backbones.spec import BackboneSpec
from histotune.backbones.weights import resolve_revision
from histotune.images.config import ViewConfig
from histotune.tools.errors import UserError, closest_name
from histotune.tools.files import hash_bytes, is_regular_file, json_or_none, read_json, unsealed, write_sealed
from histotune.tools.provenance import library_version

if TYPE_CHECKING:
    from histotune.backbones.entries import BackboneConfig, CatalogEntry


LOG = logging.getLogger(__name__)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FORMS = "timm/ARCHITECTURE, random/NAME, a hub id ORGANISATION/NAME, a local folder, external:NAME"


def find_backbone(config: BackboneConfig, cache: Path | None = None) -> BackboneSpec:
    """Return the facts about a backbone by its name.

    Args:
        config: Catalog name (``lite0``, ``midnight``, ``uni2-h``), ``timm/ARCHITECTURE[.TAG]``, a hub id, a local
            folder (transformers or timm format), ``random/`` before any of them, or ``external:NAME`` for embeddings
            that were imported under a name.
        cache: Folder that remembers what timm said about a name, so that later runs need not import timm.

    Returns:
        The spec; hub backbones and adapters without a pinned revision carry the commit that was found.

    Raises:
        UserError: Unknown name (with the closest one), missing folder, an unknown kind of model, or one that needs
            code of its own.

    Example:
        >>> from histotune.backbones.entries import BackboneConfig
        >>> find_backbone(BackboneConfig(name="midnight")).source
        'kaiko-ai/midnight'
    """
    if config.name.startswith("random/"):
        return random_twin(_without_adapter(config.model_copy(update={"name": config.name[7:]}), cache))
    return pin_adapter(_adapted(_pinned(_without_adapter(config, cache)), config))


def find_entry(name: str) -> CatalogEntry | None:
    """Return the catalog entry of a name or a hub id; None for what the catalog does not know."""
    by_name = next((entry for entry in catalog_entries() if entry.name == name), None)
    if by_name is not None or name.startswith("timm/"):  # timm's own names mean timm's own transform
        return by_name
    return next((entry for entry in catalog_entries() if entry.spec.repository.lower() == name.lower()), None)


def pinned_config(config: BackboneConfig, spec: BackboneSpec) -> BackboneConfig:
    """Return the settings with the revisions that were resolved, so that repeating a run takes the same weights."""
    update = {"revision": spec.revision or config.revision}
    if spec.adapter:
        update |= {"adapter": spec.adapter, "adapter_revision": spec.adapter_revision}
    return config.model_copy(update=update)


def _without_adapter(config: BackboneConfig, cache: Path | None) -> BackboneSpec:
    entry = find_entry(config.name)
    if entry is not None:
        return _from_catalog(entry, config)
    if config.name.startswith(PREFIX):
        return describe_external(config.name, cache)
    if config.name.startswith("timm/"):
        return _remembered_timm(config, cache)
    folder = Path(config.name).expanduser()
    if folder.is_dir():
        return describe_folder(folder)
    if HUB_ID.fullmatch(config.name):
        return describe_hub(config.name, config.revision)
    raise unknown_backbone(config.name)


def _from_catalog(entry: CatalogEntry, config: BackboneConfig) -> BackboneSpec:
    """Return an entry's spec, with the user's revision or local weights in place of the catalog's."""
    if entry.own_code is not None:
        raise UserError(
            f"{entry.own_code.reason}; such code is never run",
            value=entry.name,
            allowed="the names `histotune backbones` shows as shape-verified",
            fix=entry.own_code.fix,
        )
    spec = replace(entry.spec, revision=config.revision or entry.spec.revision)
    if not config.weights:
        return spec
    path = Path(config.weights).expanduser()
    if not path.exists():
        raise UserError("the checkpoint does not exist", value=path, fix="check --set backbone.weights=...")
    if spec.kind == "timm":
        return replace(spec, checkpoint=str(path), revision="")
    if spec.kind != "transformers" or not path.is_dir():
        raise UserError(
            "these weights can't take the place of the backbone's own",
            value=path,
            allowed="a file or folder for timm backbones, a folder of save_pretrained for transformers",
            fix="leave out --set backbone.weights=...",
        )
    return replace(spec, source=str(path), revision="")


def _pinned(spec: BackboneSpec) -> BackboneSpec:
    """Fill in the commit of a catalog backbone that has none pinned."""
    if spec.revision or not spec.repository or not spec.model_args:
        return spec
    return replace(spec, revision=resolve_revision(spec.repository, "", spec.weights_file))


def _adapted(spec: BackboneSpec, config: BackboneConfig) -> BackboneSpec:
    """Return a spec with the adapter that the user asked for."""
    if config.adapter == "none":
        return replace(spec, adapter="", adapter_revision="")
    adapter = config.adapter or spec.adapter
    own = adapter == spec.adapter
    return replace(
        spec, adapter=adapter, adapter_revision=config.adapter_revision or (spec.adapter_revision if own else "")
    )


def random_twin(spec: BackboneSpec, seed: int = 0) -> BackboneSpec:
    """Return the same architecture and transform with seeded random weights: a floor."""
    if spec.kind in ("colour-histogram", "external"):
        raise UserError("this backbone has no weights to draw", value=spec.name, fix="use it as it is")
    name = f"random/{spec.name.removeprefix('random/')}"
    return replace(spec, name=name, weights="random", seed=seed, adapter="", adapter_revision="")


def colour_histogram() -> BackboneSpec:
    """Return the floor that knows colour only: 32 bins per RGB channel of the view."""
    return next(entry.spec for entry in catalog_entries() if entry.spec.kind == "colour-histogram")


def documented_view(spec: BackboneSpec) -> ViewConfig:
    """Return the view that a backbone's documentation asks for."""
    pad_rgb = (0, 0, 0)  # where a crop is larger than the image, transformers and torchvision fill with black
    cropped = {} if spec.resize_px is None or spec.resize_px >= spec.size_px else {"pad_rgb": pad_rgb}
    return ViewConfig(
        name=spec.view_name,
        size_px=spec.size_px,
        resize_px=spec.resize_px,
        interpolation=spec.interpolation,
        **cropped,
    )


def _remembered_timm(config: BackboneConfig, cache: Path | None) -> BackboneSpec:
    """Ask timm about a name once per timm version; importing it takes seconds."""
    path = None if cache is None else cache / "timm_names.json"
    key = json.dumps([library_version("timm"), config.name, config.revision, config.weights, "crop_pct"])
    known = read_timm_names(path)
    if key not in known:
        spec = describe_timm(config)
        if path is not None:
            write_sealed(path, {**read_timm_names(path), key: asdict(spec)})
        return spec
    facts: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in known[key].items()
    }
    return BackboneSpec(**facts)


def read_timm_names(path: Path | None) -> dict[str, dict[str, Any]]:
    """Return what timm has said about names; nothing where it was not asked yet, or the file is damaged."""
    if path is None or not path.is_file():
        return {}
    try:
        data = read_json(path)
        names = unsealed(data, data)
        wanted = {field.name for field in fields(BackboneSpec)}
        if not all(isinstance(one, dict) and one.keys() <= wanted for one in names.values()):
            raise ValueError("an entry is no backbone")
        return names
    except (OSError, ValueError, TypeError) as error:
        LOG.warning("%s is damaged (%s); timm is asked again", path, error)
        return {}


def unknown_backbone(name: str) -> UserError:
    """Return the mistake of a name that nothing is called by, with the closest one."""
    if name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1:
        return UserError("this backbone folder does not exist", value=name, fix="check the path")
    names = [entry.name for entry in catalog_entries()]
    return UserError(
        "unknown backbone",
        value=name,
        allowed=f"{', '.join(names)}, {FORMS}",
        closest=closest_name(name, names),
        fix="histotune backbones lists them",
    )


# ---- Imported embeddings ----


PREFIX = "external:"
NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class ExternalFile:
    """A file that embeddings were imported from: its name, the hash of its bytes, its rows."""

    name: str
    sha256: str
    n_rows: int


@dataclass(frozen=True)
class ExternalRecord:
    """Imported embeddings under a name.

    Attributes:
        name: What follows ``external:``.
        claimed: The network that made them, as the user or the files say; nobody here has checked it.
        files: Where they came from.
        blocks: Names of the column blocks.
    """

    name: str
    claimed: str
    files: tuple[ExternalFile, ...]
    blocks: tuple[str, ...]

    @property
    def files_hash(self) -> str:
        """Hash over the files' bytes, whatever their names and order."""
        return hash_bytes(*sorted(file.sha256 for file in self.files))


def describe_external(name: str, cache: Path | None) -> BackboneSpec:
    """Return imported embeddings as a backbone that computes nothing."""
    record = read_external(name.removeprefix(PREFIX), cache)
    return BackboneSpec(
        name=name,
        kind="external",
        source=record.claimed,
        revision=record.files_hash,
        licence="unknown: external embeddings",
        citation=f"imported from {len(record.files):,} files, unverified",
        default_pooling=record.blocks,
    )


def read_external(name: str, cache: Path | None) -> ExternalRecord:
    """Read what was imported under a name."""
    path = None if cache is None else record_path(name, cache)
    if cache is None or path is None or not path.is_file():
        known = [] if cache is None else external_names(cache)
        raise UserError(
            "no embeddings were imported under this name",
            value=name,
            allowed=", ".join(known) or "none yet",
            closest=closest_name(name, known),
            fix="histotune cache import FILES --as NAME, with the same --cache",
        )
    try:
        data = unsealed(read_json(path), {field.name for field in fields(ExternalRecord)})
        files = tuple(ExternalFile(**file) for file in data["files"])
        return ExternalRecord(data["name"], data["claimed"], files, tuple(data["blocks"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            "the record of these imported embeddings is damaged",
            value=path,
            fix=f"histotune cache import FILES --as {name} --replace",
        ) from error


def write_external(record: ExternalRecord, cache: Path) -> None:
    """Write a record; its embeddings can then be used as ``--backbone external:NAME``."""
    write_sealed(record_path(record.name, cache), asdict(record))


def external_names(cache: Path) -> list[str]:
    """Return the names under which embeddings were imported."""
    return sorted(path.stem for path in (cache / "external").glob("*.json"))


def is_record(path: Path) -> bool:
    """Return whether a file is the record of an import, whatever else lies beside it."""
    if path.suffix != ".json" or not NAME.fullmatch(path.stem) or not is_regular_file(path):
        return False
    data = json_or_none(path)
    return isinstance(data, dict) and data.keys() >= {field.name for field in fields(ExternalRecord)}


def record_path(name: str, cache: Path) -> Path:
    """Return where the record of a name is kept."""
    if not NAME.fullmatch(name):
        raise UserError(
            "this is no name for imported embeddings",
            value=name,
            allowed="letters, digits, dots, dashes and underscores",
            fix="--as uni-trident",
        )
    return cache / "external" / f"{name}.json"
