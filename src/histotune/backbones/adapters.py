"""Files and identity of an adapter, and whether it belongs to a backbone; no deep-learning library is imported.

An adapter is PEFT's (``adapter_config.json``), or the tensors that fine-tuning has changed
(``tuned_weights.safetensors`` with ``histotune_adapter.json``).
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from histotune.backbones.weights import cached_file, commit_of, hub_file, model_json, weights_hash
from histotune.images.hashes import HashIndex
from histotune.tools.atomic import atomic_folder
from histotune.tools.errors import UserError
from histotune.tools.files import CHECKSUM, canonical_json, hash_bytes, unsealed, write_json
from histotune.tools.provenance import library_version
from histotune.tools.stand_ins import refuse_stand_in

if TYPE_CHECKING:
    from collections.abc import Iterable

    from histotune.backbones.spec import BackboneSpec


LOG = logging.getLogger(__name__)
CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
TUNED = "tuned_weights.safetensors"
SIDECAR, README = "histotune_adapter.json", "README.md"
SIDECAR_FORMAT = 1
SIDECAR_FIELDS = ("format", "kind", "method", "naming", "base", "sha256")  # of the tensors kind
AdapterKind = Literal["peft", "tensors"]
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
        kind: ``peft``, or ``tensors`` for changed tensors of the network itself.
        config: ``adapter_config.json``; the sidecar for changed tensors.
        weights: ``adapter_model.safetensors``, or ``tuned_weights.safetensors``.
        sidecar: What histotune wrote beside them; None for adapters of others.
    """

    kind: AdapterKind
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
    return _hub_files(parts[1], f"{parts[2].lstrip('/')}/" if parts[2] else "", revision)


def adapter_hash(spec: BackboneSpec, index: HashIndex | None = None) -> str:
    """Return the SHA-256 that identifies what an adapter changes; empty without one.

    Over the bytes of its weights and, for PEFT's, those of its settings that change what it computes: a name, a folder
    or the version that wrote it does not count.
    """
    if not spec.adapter:
        return ""
    files = locate_adapter(spec.adapter, spec.adapter_revision)
    settings = read_adapter_config(files)
    check_base(spec, files)
    check_base_weights(spec, files, index)
    found = (index or HashIndex(None)).files((files.weights,))[0]
    if files.kind == "tensors":  # how they came about changes nothing
        refuse_changed(files, settings, found)
        return hash_bytes("tensors", found)
    counted = {
        name: value
        for name, value in settings.items()
        if name not in DESCRIPTIVE and value not in (None, False, {}, [])
    }
    for name in ("target_modules", "exclude_modules"):  # saved sets: their order is chance
        if isinstance(counted.get(name), list):
            counted[name] = sorted(counted[name])
    return hash_bytes("adapter", canonical_json(counted), found)


def read_adapter_config(files: AdapterFiles) -> dict[str, Any]:
    """Return an adapter's settings; of changed tensors, what the sidecar says of them."""
    settings = model_json(files.config)
    if files.kind == "tensors":
        return _tensor_settings(settings, files.config)
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
    if files.kind == "tensors":
        return read_adapter_config(files)
    return {} if files.sidecar is None else model_json(files.sidecar)


def refuse_changed(files: AdapterFiles, settings: dict[str, Any], found: str) -> None:
    """Refuse changed tensors whose file is not the one that the sidecar was written for."""
    if found != settings["sha256"]:
        raise UserError(
            f"{TUNED} has changed since it was written",
            value=files.weights.parent,
            allowed=f"SHA-256 {settings['sha256'][:12]}, this is {found[:12]}",
            fix="copy the adapter's folder again",
        )


def _tensor_settings(settings: dict[str, Any], path: Path) -> dict[str, Any]:
    """Check what the sidecar of changed tensors must say."""
    if settings.get("format") != SIDECAR_FORMAT and isinstance(settings.get("format"), int):
        raise UserError(
            f"this adapter has format {settings['format']}, which this histotune does not know",
            value=path,
            allowed=f"format {SIDECAR_FORMAT}",
            fix="pip install --upgrade histotune",
        )
    try:
        facts = unsealed(settings, SIDECAR_FIELDS)
        base = facts.get("base")
        if facts.get("kind") != "tensors" or facts.get("format") != SIDECAR_FORMAT:
            raise ValueError("it speaks of another kind of adapter")
        if CHECKSUM not in settings or not isinstance(base, dict) or not isinstance(facts.get("sha256"), str):
            raise ValueError("it lacks a hash or its base")
        if not isinstance(base.get("weights_hash"), str) or not isinstance(facts.get("naming"), dict):
            raise ValueError("it does not say what the tensors belong to")
    except ValueError as error:
        raise UserError(
            f"{SIDECAR} is damaged or not histotune's: {error}", value=path, fix="copy the adapter's folder again"
        ) from error
    return facts


def check_base_weights(spec: BackboneSpec, files: AdapterFiles, index: HashIndex | None = None) -> None:
    """Refuse an adapter whose sidecar names the hash of other weights than this backbone's."""
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
    config, tuned, sidecar = (folder / name if (folder / name).is_file() else None for name in (CONFIG, TUNED, SIDECAR))
    if config is not None and (tuned is not None or _says_tensors(sidecar)):
        raise _two_kinds(str(folder))
    if tuned is not None:
        refuse_stand_in(tuned, "this adapter's file of weights")
        return _tensor_files(tuned, sidecar, str(folder))
    if config is None:
        raise _no_adapter(folder)
    if not (folder / WEIGHTS).is_file():
        raise _pickled(str(folder), folder / PICKLED if (folder / PICKLED).is_file() else None)
    refuse_stand_in(folder / WEIGHTS, "this adapter's file of weights")
    return AdapterFiles("peft", config, folder / WEIGHTS, sidecar)


def _hub_files(repository: str, prefix: str, revision: str) -> AdapterFiles:
    """Find or download an adapter's files; no file is asked for that the kind of adapter does not have."""
    tuned = cached_file(repository, f"{prefix}{TUNED}", revision)
    find_config = cached_file(repository, f"{prefix}{CONFIG}", revision)
    config = find_config if tuned else hub_file(repository, f"{prefix}{CONFIG}", revision, optional=True)
    if config is None and tuned is None:
        tuned = hub_file(repository, f"{prefix}{TUNED}", revision, optional=True)
    if config is None and tuned is None:
        raise UserError(
            f"this repository has no {prefix}{CONFIG} and no {prefix}{TUNED}",
            value=repository,
            fix=f"where it keeps adapters in folders, pass --adapter {repository}/FOLDER",
        )
    complete = cached_file(repository, f"{prefix}{WEIGHTS}", revision) is not None
    sidecar = cached_file(repository, f"{prefix}{SIDECAR}", revision)
    if sidecar is None and (tuned or not complete):  # PEFT's mostly have none: it is asked for once, with the weights
        sidecar = hub_file(repository, f"{prefix}{SIDECAR}", revision, optional=True)
    source = f"{repository}/{prefix}".rstrip("/")
    if config is not None and (tuned is not None or _says_tensors(sidecar)):
        raise _two_kinds(source)
    if tuned is not None:
        return _tensor_files(tuned, sidecar, source)
    assert config is not None
    weights = hub_file(repository, f"{prefix}{WEIGHTS}", revision, optional=True)
    if weights is None:
        raise _pickled(source, hub_file(repository, f"{prefix}{PICKLED}", revision, optional=True))
    return AdapterFiles("peft", config, weights, sidecar)


def _tensor_files(tuned: Path, sidecar: Path | None, source: str) -> AdapterFiles:
    if sidecar is None:
        raise UserError(
            f"this adapter has no {SIDECAR}, so that nobody can tell which weights its tensors belong to",
            value=source,
            allowed=f"{TUNED} with {SIDECAR}, as fine-tuning writes them",
            fix="copy the adapter's folder again",
        )
    return AdapterFiles("tensors", sidecar, tuned, sidecar)


def _says_tensors(sidecar: Path | None) -> bool:
    return sidecar is not None and model_json(sidecar).get("kind") == "tensors"


def _two_kinds(source: str) -> UserError:
    return UserError(
        f"this adapter holds files of two kinds: {CONFIG} of PEFT, and changed tensors",
        value=source,
        allowed=f"{CONFIG} with {WEIGHTS}, or {TUNED} with {SIDECAR}",
        fix="keep each adapter in a folder of its own",
    )


def _no_adapter(folder: Path) -> UserError:
    below = sorted(one.name for one in folder.iterdir() if any((one / name).is_file() for name in (CONFIG, TUNED)))
    return UserError(
        f"this folder has no {CONFIG} and no {TUNED}, so it is no adapter",
        value=folder,
        allowed=f"one of its folders: {', '.join(below)}"
        if below
        else "what peft's save_pretrained or histotune wrote",
        fix=f"pass --adapter {folder / below[0]}" if below else "check --adapter",
    )


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
    base = base_facts(spec, index)
    refuse_foreign_files(folder)
    for config in model.peft_config.values():  # never a path of this machine
        config.base_model_name_or_path = base["repository"] or spec.name.removeprefix("random/")
        config.revision = spec.revision or None
    with atomic_folder(folder) as temporary:
        model.save_pretrained(temporary, safe_serialization=True, save_embedding_layers=False)  # else it asks the hub
        (temporary / README).unlink(missing_ok=True)  # peft's empty model card
        naming = {**naming_library(spec), "layers": _adapted_layers(model)}
        write_json(temporary / SIDECAR, {"format": SIDECAR_FORMAT, "naming": naming, "base": base})


def base_facts(spec: BackboneSpec, index: HashIndex | None) -> dict[str, str]:
    """Return what a sidecar says about the backbone that an adapter was trained on; one with an adapter is refused."""
    if spec.adapter:
        raise UserError(
            "an adapter on an adapter can't be saved: it says what changes relative to the weights of its base, and "
            "these were changed by another adapter already",
            value=spec.adapter,
            allowed="a backbone without --adapter",
            fix=f"histotune backbones merge --backbone {spec.name} --adapter {spec.adapter} --out FOLDER, then train "
            "on --backbone FOLDER",
        )
    return {
        "name": spec.name,
        "repository": spec.repository if spec.weights == "pretrained" else "",
        "revision": spec.revision,
        "weights_hash": weights_hash(spec, index),
    }


def refuse_foreign_files(folder: Path) -> None:
    """Refuse to replace a folder that holds anything else than an adapter."""
    own = {CONFIG, WEIGHTS, TUNED, SIDECAR, README}
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in own) if folder.is_dir() else []
    if foreign:
        raise UserError(
            "this folder holds other files; an adapter would replace them",
            value=f"{folder}: {', '.join(foreign[:10])}",
            fix="choose another folder, or move them away",
        )


def naming_library(spec: BackboneSpec) -> dict[str, str]:
    """Return the library whose names an adapter carries, and its version."""
    library = "transformers" if spec.kind == "transformers" else "timm"
    return {"library": library, "version": library_version(library)}


def name_patterns(names: Iterable[str]) -> list[str]:
    """Return names with the numbers of blocks left out, each once.

    Example:
        >>> name_patterns(["blocks.0.attn.qkv.weight", "blocks.1.attn.qkv.weight"])
        ['blocks.N.attn.qkv.weight']
    """
    return sorted({re.sub(r"\.\d+(?=\.)", ".N", name) for name in names})


def _adapted_layers(model: Any) -> list[str]:  # noqa: ANN401
    from peft.tuners.tuners_utils import BaseTunerLayer

    network = model.base_model.model
    return name_patterns(name for name, part in network.named_modules() if isinstance(part, BaseTunerLayer))
