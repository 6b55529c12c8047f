"""Files and identity of a PEFT adapter, and whether it belongs to a backbone; no deep-learning library is imported."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histotune.backbones.weights import cached_file, commit_of, hub_file, model_json, weights_hash
from histotune.images.hashes import HashIndex
from histotune.tools.atomic import atomic_folder
from histotune.tools.errors import UserError
from histotune.tools.files import canonical_json, hash_bytes, write_json
from histotune.tools.provenance import library_version
from histotune.tools.stand_ins import refuse_stand_in

if TYPE_CHECKING:
    from histotune.backbones.spec import BackboneSpec


LOG = logging.getLogger(__name__)
CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
SIDECAR = "histotune_adapter.json"
HUB_ADAPTER = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)((?:/[A-Za-z0-9][\w.-]*)*)")
COMMIT = re.compile(r"[0-9a-f]{40}")
DESCRIPTIVE = frozenset(
    {
        "base_model_name_or_path",
        "revision",
        "auto_mapping",
        "task_type",
        "inference_mode",
        "peft_version",
    }
)  # settings that do not change what an adapter computes


@dataclass(frozen=True)
class AdapterFiles:
    """The files of an adapter.

    Attributes:
        config: ``adapter_config.json``.
        weights: ``adapter_model.safetensors``.
        sidecar: What histotune wrote beside them; None for adapters of others.
    """

    config: Path
    weights: Path
    sidecar: Path | None


def pin_adapter(spec: BackboneSpec) -> BackboneSpec:
    """Fill in the commit of an adapter on the hub that has none pinned."""
    if not spec.adapter:
        return spec
    if spec.kind not in ("timm", "transformers", "lite0"):
        raise UserError("this backbone takes no adapter", value=spec.name, fix="leave out --adapter")
    if COMMIT.fullmatch(spec.adapter_revision) or _folder(spec.adapter) is not None:
        return spec
    return replace(spec, adapter_revision=_hub_commit(locate_adapter(spec.adapter, spec.adapter_revision), spec))


def locate_adapter(source: str, revision: str = "") -> AdapterFiles:
    """Return the files of an adapter, downloading them where the local hub cache lacks them."""
    folder = _folder(source)
    if folder is not None:
        return _local_files(folder)
    parts = HUB_ADAPTER.fullmatch(source)
    if parts is None:
        raise UserError(
            "this adapter does not exist",
            value=source,
            allowed="a folder, or ORGANISATION/NAME[/FOLDER]",
            fix="check --adapter",
        )
    repository, below = parts[1], parts[2].lstrip("/")
    prefix = f"{below}/" if below else ""
    config = hub_file(repository, f"{prefix}{CONFIG}", revision, optional=True)
    if config is None:
        raise UserError(
            f"this repository has no {prefix}{CONFIG}",
            value=repository,
            fix=f"where it keeps adapters in folders, pass --adapter {repository}/FOLDER",
        )
    complete = cached_file(repository, f"{prefix}{WEIGHTS}", revision) is not None
    weights = hub_file(repository, f"{prefix}{WEIGHTS}", revision, optional=True)
    if weights is None:
        raise _pickled(source, hub_file(repository, f"{prefix}{PICKLED}", revision, optional=True))
    sidecar = cached_file(repository, f"{prefix}{SIDECAR}", revision)
    if sidecar is None and not complete:  # most adapters have none: it is asked for once, with the weights
        sidecar = hub_file(repository, f"{prefix}{SIDECAR}", revision, optional=True)
    return AdapterFiles(config, weights, sidecar)


def adapter_hash(spec: BackboneSpec, index: HashIndex | None = None) -> str:
    """Return the SHA-256 that identifies what an adapter changes; empty without one.

    Over the bytes of its weights and those of its settings that change what it computes: a name, a folder or the
    version that wrote it does not count.
    """
    if not spec.adapter:
        return ""
    files = locate_adapter(spec.adapter, spec.adapter_revision)
    settings = read_adapter_config(files)
    check_base(spec, files)
    _check_base_weights(spec, files, index)
    counted = {
        name: value
        for name, value in settings.items()
        if name not in DESCRIPTIVE and value not in (None, False, {}, [])
    }
    for name in ("target_modules", "exclude_modules"):  # saved sets: their order is chance
        if isinstance(counted.get(name), list):
            counted[name] = sorted(counted[name])
    return hash_bytes("adapter", canonical_json(counted), (index or HashIndex(None)).files((files.weights,))[0])


def read_adapter_config(files: AdapterFiles) -> dict[str, Any]:
    """Return an adapter's settings."""
    settings = model_json(files.config)
    if "peft_type" not in settings:
        raise UserError(f"{CONFIG} names no peft_type", value=files.config, fix="save the adapter again with peft")
    return settings


def check_base(spec: BackboneSpec, files: AdapterFiles) -> None:
    """Refuse an adapter that names another base model; warn where that can't be told or its revision differs."""
    settings, declared = read_adapter_config(files), read_sidecar(files).get("base") or {}
    base = str(declared.get("repository") or settings.get("base_model_name_or_path") or "")
    revision = str(declared.get("revision") or settings.get("revision") or "")
    repository = spec.repository
    if "weights_hash" in declared:
        return  # the hash of the weights says more than names
    if not repository or not HUB_ADAPTER.fullmatch(base):
        LOG.warning(
            "the adapter %s names %r as its base; whether that is %s can't be told",
            spec.adapter,
            base or "nothing",
            spec.name,
        )
    elif base.removeprefix("hf-hub:").lower() != repository.lower():
        raise UserError(
            f"this adapter was made for {base}, not for {repository}",
            value=spec.adapter,
            fix=f"choose --backbone {base}, or another adapter",
        )
    elif revision and spec.revision and revision != spec.revision:
        LOG.warning(
            "the adapter %s was made for revision %s of %s, this is %s", spec.adapter, revision, base, spec.revision
        )


def read_sidecar(files: AdapterFiles) -> dict[str, Any]:
    """Return what histotune wrote beside an adapter; empty where it did not write it."""
    return {} if files.sidecar is None else model_json(files.sidecar)


def _check_base_weights(spec: BackboneSpec, files: AdapterFiles, index: HashIndex | None) -> None:
    declared = read_sidecar(files).get("base") or {}
    expected = declared.get("weights_hash")
    if expected is None:
        return
    bare = replace(spec, adapter="", adapter_revision="")
    if weights_hash(bare, index) != expected:
        name = declared.get("name", "another backbone")
        raise UserError(
            "this adapter was trained on other weights than this backbone's",
            value=spec.adapter,
            allowed=f"{name}, weights {str(expected)[:12]}",
            fix=f"choose --backbone {name}",
        )


def _folder(source: str) -> Path | None:
    folder = Path(source).expanduser()
    return folder if folder.is_dir() else None


def _local_files(folder: Path) -> AdapterFiles:
    if not (folder / CONFIG).is_file():
        below = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
        raise UserError(
            f"this folder has no {CONFIG}, so it is no adapter",
            value=folder,
            allowed=f"one of its folders: {', '.join(below)}" if below else "what peft's save_pretrained wrote",
            fix=f"pass --adapter {folder / below[0]}" if below else "check --adapter",
        )
    if not (folder / WEIGHTS).is_file():
        raise _pickled(str(folder), folder / PICKLED if (folder / PICKLED).is_file() else None)
    refuse_stand_in(folder / WEIGHTS, "this adapter's file of weights")
    sidecar = folder / SIDECAR
    return AdapterFiles(folder / CONFIG, folder / WEIGHTS, sidecar if sidecar.is_file() else None)


def _pickled(source: str, found: Path | None) -> UserError:
    what = f"this adapter has no {WEIGHTS}"
    if found is not None:
        what = f"this adapter is a pickled {PICKLED}, which is never loaded"
    return UserError(
        what, value=source, allowed=WEIGHTS, fix="load it where you trust it and save it with save_pretrained(folder)"
    )


def _hub_commit(files: AdapterFiles, spec: BackboneSpec) -> str:
    parts = HUB_ADAPTER.fullmatch(spec.adapter)
    depth = 0 if parts is None else parts[2].count("/")
    return commit_of(files.config.parents[depth - 1] if depth else files.config)


# ---- Saving ----


def save_adapter(model: Any, folder: Path, spec: BackboneSpec, index: HashIndex | None = None) -> None:  # noqa: ANN401
    """Save an adapter with the naming of its layers and the weights it was trained on."""
    repository = spec.repository if spec.weights == "pretrained" else ""
    for config in model.peft_config.values():  # never a path of this machine
        config.base_model_name_or_path = repository or spec.name.removeprefix("random/")
        config.revision = spec.revision or None
    base = {
        "name": spec.name,
        "repository": repository,
        "revision": spec.revision,
        "weights_hash": weights_hash(spec, index),
    }
    with atomic_folder(folder) as temporary:
        model.save_pretrained(temporary, safe_serialization=True)
        (temporary / "README.md").unlink(missing_ok=True)  # peft's empty model card
        write_json(temporary / SIDECAR, {"format": 1, "naming": _naming(model, spec), "base": base})


def _naming(model: Any, spec: BackboneSpec) -> dict[str, object]:  # noqa: ANN401
    """Return how the adapted layers are called, block numbers left out, and by which library."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    network = model.base_model.model
    adapted = {
        re.sub(r"\.\d+\.", ".N.", name) for name, part in network.named_modules() if isinstance(part, BaseTunerLayer)
    }
    library = "transformers" if spec.kind == "transformers" else "timm"
    return {"library": library, "version": library_version(library), "layers": sorted(adapted)}
