"""DINOv3 on natural images, in timm's open copies; the gated ones of Meta load by their hub id."""

from histotune.backbones.entries.where import DINOV3_README, IMAGENET_MEAN, IMAGENET_STD
from histotune.backbones.entry import CatalogEntry, Licence, Overlap, cite
from histotune.backbones.spec import BackboneSpec

LICENCE = "https://ai.meta.com/resources/models-and-libraries/dinov3-license"


def _entry(size: str, letter: str, params: tuple[float, float], dim: int) -> CatalogEntry:
    repository = f"timm/vit_{size}_patch16_dinov3.lvd1689m"
    return CatalogEntry(
        BackboneSpec(
            name=f"dinov3-{letter}",
            kind="timm",
            source=f"vit_{size}_patch16_dinov3.lvd1689m",
            size_px=256,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            licence="DINOv3 License",
            citation="Siméoni et al. 2025, arXiv 2508.10104",
            overlap="none: natural images (LVD-1689M)",
            default_pooling=("cls",),
            hub_id=repository,
            model_args=(("img_size", 256), ("dynamic_img_size", True)),
        ),
        about=f"DINOv3 {size.replace('_', ' ')} /16 with 4 registers, natural images (Meta)",
        licence=Licence("DINOv3 License", None, None, None, None, LICENCE),
        params_m=params[0],
        params_step_m=params[1],
        dim=dim,
        registers=4,
        overlap=Overlap("no", "no", "no"),
        sources=(
            cite(DINOV3_README, "params", "normalisation", "size", "overlap", "pooling"),
            cite(f"https://huggingface.co/{repository}", "hub", "architecture"),
            cite("timm 1.0.31, timm/models/eva.py", "dim", "registers"),
        ),
        needs="timm>=1.0.20",
        notes=("its licence was not read clause by clause: read it before you share weights or products",),
        verified=True,
    )


DINOV3 = (
    _entry("small", "s", (21, 1), 384),
    _entry("base", "b", (86, 1), 768),
    _entry("large", "l", (300, 100), 1024),
    _entry("huge_plus", "h", (840, 10), 1280),
    _entry("7b", "7b", (6716, 1), 4096),
)
