"""Tiny networks in the real file formats, written offline from fixed seeds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .inputs import settle

if TYPE_CHECKING:
    from pathlib import Path

    from .scene import Edit

PROCESSOR = {
    "do_center_crop": True, "crop_size": {"height": 56, "width": 56}, "size": {"shortest_edge": 56},
    "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "resample": 2,
}  # fmt: skip
LAYERS = (  # of a block: (name, rows, columns)
    ("attention.attention.query", 32, 32), ("attention.attention.value", 32, 32), ("mlp.weights_in", 176, 32),
)  # fmt: skip
ADAPTER = {
    "peft_type": "LORA", "r": 4, "lora_alpha": 6, "lora_dropout": 0.1, "bias": "none", "task_type": None,
    "target_modules": ["query", "value", "mlp.weights_in"], "base_model_name_or_path": None, "init_lora_weights": True,
}  # fmt: skip


def dinov2(name: str = "dinov2", n_registers: int = 0) -> Edit:
    """Return what saves a DINOv2 of Midnight's kind, only small: SwiGLU, 14 px patches, 32 columns."""

    def write(folder: Path) -> None:
        import torch
        import transformers

        transformers.utils.logging.disable_progress_bar()
        kind = "Dinov2WithRegisters" if n_registers else "Dinov2"
        options: dict[str, Any] = {"num_register_tokens": n_registers} if n_registers else {"use_swiglu_ffn": True}
        config = getattr(transformers, f"{kind}Config")(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14, **options
        )
        with torch.random.fork_rng():
            torch.manual_seed(3)
            getattr(transformers, f"{kind}Model")(config).save_pretrained(folder / name)
        (folder / name / "preprocessor_config.json").write_text(json.dumps(PROCESSOR), encoding="utf-8")
        settle(folder / name)

    return write


def adapter(name: str = "adapter") -> Edit:
    """Return what saves a LoRA adapter for :func:`dinov2`, as the hub holds them."""

    def write(folder: Path) -> None:
        import torch
        from safetensors.torch import save_file

        generator = torch.Generator().manual_seed(0)
        tensors = {}
        for block in (0, 1):
            for layer, rows, columns in LAYERS:
                stem = f"base_model.model.encoder.layer.{block}.{layer}"
                tensors[f"{stem}.lora_A.weight"] = torch.randn(4, columns, generator=generator)
                tensors[f"{stem}.lora_B.weight"] = torch.randn(rows, 4, generator=generator)
        (folder / name).mkdir()
        save_file(tensors, folder / name / "adapter_model.safetensors")
        (folder / name / "adapter_config.json").write_text(json.dumps(ADAPTER), encoding="utf-8")
        settle(folder / name)

    return write


def timm_vit(name: str = "vit") -> Edit:
    """Return what saves a small ViT in timm's format: architecture, arguments, safetensors."""

    def write(folder: Path) -> None:
        import timm
        import torch
        from safetensors.torch import save_file

        arguments = {"img_size": 64, "embed_dim": 24, "depth": 2, "num_heads": 2, "reg_tokens": 2}
        with torch.random.fork_rng():
            torch.manual_seed(5)
            model = timm.create_model("vit_tiny_patch16_224", num_classes=4, **arguments)
        (folder / name).mkdir()
        save_file(model.state_dict(), folder / name / "model.safetensors")
        facts = {"input_size": [3, 64, 64], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}
        config = {"architecture": "vit_tiny_patch16_224", "model_args": arguments,
                  "pretrained_cfg": {**facts, "interpolation": "bilinear"}}  # fmt: skip
        (folder / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
        settle(folder / name)

    return write
