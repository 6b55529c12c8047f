"""Networks with named outputs, built in fp32 on the CPU from local files only."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from histotune.backbones.checkpoint import DEPTH, read_tensors, unreadable_weights, without_prefix
from histotune.backbones.model_files import has_class_token, timm_arguments, timm_names, transformers_config
from histotune.backbones.spec import Backbone, BackboneSpec, ColumnBlock
from histotune.backbones.weights import locate_weights, model_json, read_lite0
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from histotune.images.hashes import HashIndex

# B batch, C channels, H height, W width, S side, T tokens, D columns


Outputs = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Network:
    """A network and how its named outputs are read.

    Attributes:
        module: The network, in evaluation mode.
        outputs: Maps normalised pixels (B, 3, S, S) to (B, D) per block name; a deep copy of the record reads the copy.
        convolutional: Whether channels-last memory and a half-precision copy of the weights suit it.
    """

    module: torch.nn.Module
    outputs: Callable[[torch.Tensor], Outputs]
    convolutional: bool


def build_network(spec: BackboneSpec, index: HashIndex | None = None) -> Network:
    """Build a network and read its weights; remembered hashes of files save hashing the base of an adapter again."""
    if spec.kind == "transformers":
        return _transformers_network(spec, index)
    module = _with_adapter(_timm_module(spec).float(), spec, index).eval()
    if has_class_token(module):
        return Network(module, partial(_timm_tokens, module), convolutional=False)
    convolutional = any(isinstance(part, torch.nn.BatchNorm2d) for part in module.modules())
    return Network(module, partial(_timm_pooled, module), convolutional)


def _timm_tokens(module: Any, x_BCHW: torch.Tensor) -> Outputs:  # noqa: ANN401  (timm's models share no typed base)
    tokens_BTD = module.forward_features(x_BCHW)
    # Register and distillation tokens are prefix tokens too; they carry no place in the image.
    return {"cls": tokens_BTD[:, 0], "patch_mean": tokens_BTD[:, module.num_prefix_tokens :].mean(1)}


def _timm_pooled(module: Any, x_BCHW: torch.Tensor) -> Outputs:  # noqa: ANN401
    return {"pooled": module.forward_head(module.forward_features(x_BCHW), pre_logits=True)}


def _timm_module(spec: BackboneSpec) -> torch.nn.Module:
    import timm

    found = locate_weights(spec)
    config = {} if found.config is None else model_json(found.config)
    arguments = timm_arguments(spec, config.get("model_args") or {})
    architecture = spec.source.split(".")[0]
    if not timm.is_model(architecture):
        raise UserError(
            "the installed timm knows no such architecture", value=architecture, fix="pip install --upgrade timm"
        )
    native_px = timm.get_pretrained_cfg(spec.source, allow_unregistered=True)
    if native_px is not None and native_px.input_size[-1] != spec.size_px and architecture.startswith("vit_"):
        arguments.setdefault("dynamic_img_size", True)
    with seeded(spec.seed):
        module: torch.nn.Module = timm.create_model(architecture, pretrained=False, num_classes=0, **arguments)
    if spec.kind == "lite0" and spec.weights == "pretrained":
        _load_strictly(module, read_lite0(found.weights[0]), found.weights[0])
    elif spec.weights == "pretrained":
        tensors = without_prefix(read_tensors(found.weights), module.state_dict(), found.weights[0])
        tensors = tensors if spec.layout == "timm" else timm_names(tensors, module, found.weights[0])
        _load_strictly(module, tensors, found.weights[0])
    return module


def _with_adapter(module: torch.nn.Module, spec: BackboneSpec, index: HashIndex | None) -> torch.nn.Module:
    if not spec.adapter:
        return module
    from histotune.backbones.adapters import locate_adapter

    files = locate_adapter(spec.adapter, spec.adapter_revision)
    if files.kind == "tensors":
        from histotune.backbones.tuned_weights import load_tuned

        return load_tuned(module, spec, files, index)
    from histotune.backbones.merge import merge_adapter

    return merge_adapter(module, spec)


def _load_strictly(module: torch.nn.Module, tensors: Outputs, path: Path) -> None:
    """Load every tensor of the network; only those of a classifier or of masked pretraining may be left over."""
    wanted = module.state_dict()
    missing = sorted(name for name in wanted if name not in tensors)
    odd = sorted(name for name in wanted if name in tensors and tensors[name].shape != wanted[name].shape)
    unused = ("head", "classifier", "fc.", "mask_token")
    left = [name for name in tensors if name not in wanted and not name.startswith(unused)]
    if missing or odd or left:
        problems = {"missing": missing, "of another shape": odd, "unknown": left}
        words = "; ".join(f"{len(names)} {what}, e.g. {names[0]}" for what, names in problems.items() if names)
        raise UserError(
            "the checkpoint does not fit the architecture",
            value=path,
            allowed=f"found {words}",
            fix="check that the architecture is the one it was saved from",
        )
    module.load_state_dict({name: tensors[name] for name in wanted})


def _transformers_network(spec: BackboneSpec, index: HashIndex | None) -> Network:
    found = locate_weights(spec)
    settings = dict(spec.model_args)
    if found.config is not None:
        settings = model_json(found.config)
    _refuse_own_code(str(settings.get("model_type", "")), spec.source)
    if spec.weights == "random":
        module = _random_transformers(transformers_config(spec, found.config), spec.seed)
    else:
        module = _pretrained(found.weights)
    return transformers_network(_with_adapter(getattr(module, "vision_model", module).float(), spec, index).eval())


def transformers_network(module: torch.nn.Module) -> Network:
    """Return a vision model of transformers with named outputs."""
    _use_fused_attention(module)
    if not any(name.endswith("cls_token") for name, _ in module.named_parameters()):
        convolutional = any(isinstance(part, torch.nn.BatchNorm2d) for part in module.modules())
        return Network(module, partial(_transformers_pooled, module), convolutional)
    return Network(module, partial(_transformers_tokens, module), convolutional=False)


def _use_fused_attention(module: Any) -> None:  # noqa: ANN401
    """Take torch's fused attention where the architecture has it, whatever a config.json says.

    transformers takes it by itself where nothing else was saved. timm's networks take it wherever
    ``timm.layers.use_fused_attn()`` says so, which is its default.
    """
    chosen = getattr(module.config, "_attn_implementation", "sdpa")
    if getattr(module, "_supports_sdpa", False) and chosen != "sdpa":
        module.set_attn_implementation("sdpa")


def _transformers_tokens(module: Any, x_BCHW: torch.Tensor) -> Outputs:  # noqa: ANN401
    tokens_BTD = module(pixel_values=x_BCHW).last_hidden_state
    patch_px = module.config.patch_size
    n_patches = (x_BCHW.shape[2] // patch_px) * (x_BCHW.shape[3] // patch_px)
    n_prefix = tokens_BTD.shape[1] - n_patches  # class token, registers, distillation token
    if n_prefix < 1:
        raise UserError(
            "this model gives fewer tokens than its patches",
            value=module.config.model_type,
            fix="choose a model without masking",
        )
    return {"cls": tokens_BTD[:, 0], "patch_mean": tokens_BTD[:, n_prefix:].mean(1)}


def _transformers_pooled(module: Any, x_BCHW: torch.Tensor) -> Outputs:  # noqa: ANN401
    answer = module(pixel_values=x_BCHW)
    pooled = getattr(answer, "pooler_output", None)
    if pooled is None:
        hidden = answer.last_hidden_state
        pooled = hidden.mean(dim=(2, 3)) if hidden.ndim == 4 else hidden.mean(dim=1)
    return {"pooled": pooled.flatten(1)}


def _refuse_own_code(kind: str, source: str) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if kind not in CONFIG_MAPPING_NAMES:
        raise UserError(
            f"this model (type {kind or 'unknown'}) needs code of its own, which is never run",
            value=source,
            allowed="model types that the installed transformers knows",
            fix="pip install --upgrade transformers, or use the model's timm version",
        )


def _pretrained(files: tuple[Path, ...]) -> torch.nn.Module:
    import pickle  # for its error class only

    from safetensors import SafetensorError
    from transformers import AutoModel

    folder, safetensors = files[0].parent, files[0].suffix == ".safetensors"
    try:
        with quiet():
            module, report = AutoModel.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=safetensors,
                output_loading_info=True,
                **({} if safetensors else {"weights_only": True}),
            )
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
        raise unreadable_weights(files[0], error) from error
    for tensors in _stripped(files) if _lost(report) else ():  # names under a prefix that transformers does not know
        if not _lost(report):
            break
        with quiet():
            module, report = type(module).from_pretrained(
                None, config=module.config, state_dict=tensors, output_loading_info=True
            )
    if _lost(report) or report["mismatched_keys"]:
        raise UserError(
            "the checkpoint does not hold all weights of its model",
            value=folder,
            allowed=f"missing {', '.join(_lost(report)[:3]) or 'none'}; {len(report['mismatched_keys'])} odd shapes",
            fix="download or save the model again",
        )
    return module  # type: ignore[no-any-return]  # transformers has no types


def _lost(report: dict[str, Any]) -> list[str]:
    """Return which weights a loaded model has not found; no one needs those of a pooler."""
    return sorted(name for name in report["missing_keys"] if "pooler" not in name)


def _stripped(files: tuple[Path, ...]) -> Iterator[Outputs]:
    """Yield a checkpoint with one leading part of its names less each time, as long as all of them share it."""
    tensors = read_tensors(files)
    tensors = {name: value for name, value in tensors.items() if name.startswith("teacher.")} or tensors
    for _ in range(DEPTH):
        first = next(iter(tensors)).partition(".")[0] + "."
        if not all(name.startswith(first) for name in tensors):
            return
        tensors = {name.removeprefix(first): value for name, value in tensors.items()}
        yield tensors


def _random_transformers(config: object, seed: int) -> torch.nn.Module:
    from transformers import AutoModel

    with seeded(seed):
        module = AutoModel.from_config(config, trust_remote_code=False).float()
    return module  # type: ignore[no-any-return]  # transformers has no types


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from torch's CPU generator with a seed and put its state back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from drawing a bar per weight file, and from a screen about a classifier that is left out."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


# ---- The colour histogram as a backbone ----


N_BINS = 32


def load_histogram(spec: BackboneSpec) -> Backbone:
    """Return the colour histogram as a backbone with the block ``pooled``, 96 columns."""
    return Backbone(spec, (ColumnBlock("pooled", 0, 3 * N_BINS),), colour_fractions)


def colour_fractions(pixels_BSSC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the fraction of pixels in each of 32 equal bins, channel by channel."""
    bins_BPC = (pixels_BSSC >> 3).reshape(len(pixels_BSSC), -1, 3)  # 256 / 32 = 8 grey levels per bin
    counts = [[np.bincount(tile_PC[:, channel], minlength=N_BINS) for channel in range(3)] for tile_PC in bins_BPC]
    counts_BD = np.asarray(counts, dtype=np.float64).reshape(-1, 3 * N_BINS)
    return (counts_BD / bins_BPC.shape[1]).astype(np.float32)
