"""Tiny instances of the real architectures, their blocks, and the layers that adapters go on."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import timm as timm_library
import torch

from histotune.backbones.network import Network, build_network
from histotune.backbones.spec import BackboneSpec


@dataclass(frozen=True)
class Family:
    """A tiny network and what is known about it.

    Attributes:
        spec: How it is built.
        names: Its blocks, as today's libraries name them; see :func:`blocks_of`.
        adapted: Ends of the layers that an adapter on query and value goes on; none where there is no attention.
        stem: Parameters before the blocks.
        tail: Parameters after the blocks that reach the outputs.
        earlier: Its blocks, as transformers named them before 5.23; none where nothing has changed.
    """

    spec: BackboneSpec
    names: tuple[str, ...]
    adapted: tuple[str, ...]
    stem: tuple[str, ...]
    tail: tuple[str, ...]
    earlier: tuple[str, ...] = ()


def timm(architecture: str, size_px: int, **arguments: int | float | bool | str) -> BackboneSpec:
    return BackboneSpec(architecture, "timm", architecture, weights="random", size_px=size_px,
                        model_args=tuple(arguments.items()))  # fmt: skip


def transformers(kind: str, size_px: int, **settings: int | float | bool | str) -> BackboneSpec:
    return BackboneSpec(kind, "transformers", kind, weights="random", size_px=size_px,
                        model_args=(("model_type", kind), *settings.items()))  # fmt: skip


def numbered(path: str, n: int, start: int = 0) -> tuple[str, ...]:
    return tuple(f"{path}{number}" for number in range(start, start + n))


TINY = {"img_size": 32, "embed_dim": 32, "depth": 3, "num_heads": 2}
SWIN = {"img_size": 64, "embed_dim": 12, "window_size": 4}
SMALL = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64,
    "image_size": 32, "patch_size": 16,
}  # fmt: skip
PATCH, NORM, LAYERNORM = "patch_embed.proj.weight", ("norm.weight", "norm.bias"), ("layernorm.weight", "layernorm.bias")
FUSED, SPLIT = ("attn.qkv",), ("attention.q_proj", "attention.v_proj")
BLOCKS, LAYERS, ENCODER = numbered("blocks.", 3), numbered("layers.", 3), numbered("encoder.layer.", 3)
CLS = ("cls_token", "pos_embed", PATCH)
EMBEDDED = ("embeddings.cls_token", "embeddings.position_embeddings")
DINO = (*EMBEDDED, "embeddings.mask_token")

FAMILIES = {
    "timm-vit": Family(timm("vit_tiny_patch16_224", 32, **TINY), BLOCKS, FUSED, CLS, NORM),
    "timm-vit-registers": Family(
        timm("vit_small_patch14_reg4_dinov2", 28, **{**TINY, "img_size": 28}), BLOCKS, FUSED, ("reg_token", *CLS), NORM
    ),
    "timm-vit-swiglu": Family(
        timm("vit_tiny_patch16_224", 32, **TINY, mlp_layer="SwiGLUPacked", act_layer="SiLU"), BLOCKS, FUSED, CLS, NORM
    ),
    "timm-deit3": Family(timm("deit3_small_patch16_224", 32, **TINY), BLOCKS, FUSED, CLS, NORM),
    "timm-eva": Family(
        timm("eva02_tiny_patch14_224", 28, **{**TINY, "img_size": 28}), BLOCKS, FUSED, CLS, ()
    ),
    "timm-eva-split": Family(
        timm("eva02_base_patch14_224", 28, **{**TINY, "img_size": 28}), BLOCKS, ("attn.q_proj", "attn.v_proj"), CLS, ()
    ),
    "timm-dinov3": Family(
        timm("vit_small_patch16_dinov3", 32, **TINY), BLOCKS, FUSED, ("cls_token", "reg_token", PATCH), NORM
    ),
    "timm-beit": Family(timm("beit_base_patch16_224", 32, **TINY), BLOCKS, FUSED, ("cls_token", PATCH), ()),
    "timm-swin": Family(
        timm("swin_tiny_patch4_window7_224", 64, **SWIN), numbered("layers.", 4), FUSED, (PATCH,), NORM
    ),
    "timm-swinv2": Family(
        timm("swinv2_tiny_window8_256", 64, **SWIN), numbered("layers.", 4), FUSED, (PATCH,), NORM
    ),
    "timm-convnext": Family(
        timm("convnext_atto", 32), numbered("stages.", 4), (), ("stem.0.weight", "stem.1.bias"),
        ("head.norm.weight", "head.norm.bias"),
    ),
    "timm-resnet": Family(timm("resnet18", 32), numbered("layer", 4, 1), (), ("conv1.weight", "bn1.bias"), ()),
    "lite0": Family(
        BackboneSpec("lite0", "lite0", "tf_efficientnet_lite0", weights="random", size_px=32), numbered("blocks.", 7),
        (), ("conv_stem.weight", "bn1.weight"), ("conv_head.weight", "bn2.weight", "bn2.bias"),
    ),
    "vit": Family(transformers("vit", 32, **SMALL), LAYERS, SPLIT, EMBEDDED, LAYERNORM, ENCODER),
    "beit": Family(transformers("beit", 32, **SMALL), LAYERS, SPLIT, ("embeddings.cls_token",), (), ENCODER),
    "dinov2": Family(transformers("dinov2", 32, **SMALL), ENCODER, SPLIT, DINO, LAYERNORM),
    "dinov2-registers": Family(
        transformers("dinov2_with_registers", 32, **SMALL, num_register_tokens=2), ENCODER, SPLIT,
        ("embeddings.register_tokens", *DINO), LAYERNORM,
    ),
    "midnight": Family(transformers("dinov2", 32, **SMALL, use_swiglu_ffn=True), ENCODER, SPLIT, DINO, LAYERNORM),
    "dinov3": Family(
        transformers("dinov3_vit", 32, **SMALL), numbered("model.layer.", 3), SPLIT,
        ("embeddings.cls_token", "embeddings.mask_token"), NORM, numbered("layer.", 3),
    ),
    "clip": Family(
        transformers("clip_vision_model", 32, **SMALL), numbered("encoder.layers.", 3),
        ("self_attn.q_proj", "self_attn.v_proj"), ("embeddings.class_embedding", "pre_layrnorm.weight"),
        ("post_layernorm.weight", "post_layernorm.bias"),
    ),
    "swin": Family(
        transformers("swin", 64, embed_dim=12, image_size=64, patch_size=4, window_size=2),
        numbered("encoder.layers.", 4), (*SPLIT, "attention.self.query", "attention.self.value"),
        ("embeddings.norm.weight",), LAYERNORM,
    ),
}  # fmt: skip
WITH_ATTENTION = [name for name, family in FAMILIES.items() if family.adapted]
CONVOLUTIONAL = [name for name, family in FAMILIES.items() if not family.adapted]


def bare(spec: BackboneSpec) -> Network:
    """Return a network with random weights; skips a family that an older library does not have."""
    if spec.kind == "timm" and not timm_library.is_model(spec.source):
        pytest.skip(f"this timm has no {spec.source}")
    return build_network(spec)


def blocks_of(family: Family, network: Network) -> tuple[str, ...]:
    """Return the blocks of a family under the names that the library in use gives them."""
    held = dict(network.module.named_modules())
    return family.names if family.names[0] in held or not family.earlier else family.earlier


def built(spec: BackboneSpec) -> Network:
    """Return a network as pretraining leaves it: no weight, bias or norm is zero all over, as random ones are.

    Skips a family that an older library does not have.
    """
    network = bare(spec)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.module.parameters():
            if not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def images(spec: BackboneSpec, seed: int = 0, n: int = 4) -> torch.Tensor:
    return torch.randn(n, 3, spec.size_px, spec.size_px, generator=torch.Generator().manual_seed(seed))
