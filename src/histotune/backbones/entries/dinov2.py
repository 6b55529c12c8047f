"""DINOv2 on natural images, in timm's format."""

from histotune.backbones.entries.licences import apache
from histotune.backbones.entries.where import DINOV2_README, EVA, IMAGENET_MEAN, IMAGENET_STD
from histotune.backbones.entry import CatalogEntry, Overlap, cite
from histotune.backbones.spec import BackboneSpec


def _entry(size: str, letter: str, revision: str, params_m: float, dim: int) -> CatalogEntry:
    repository = f"timm/vit_{size}_patch14_dinov2.lvd142m"
    return CatalogEntry(
        BackboneSpec(
            name=f"dinov2-{letter}",
            kind="timm",
            source=f"vit_{size}_patch14_dinov2.lvd142m",
            revision=revision,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            licence="Apache-2.0",
            citation="Oquab et al. 2023, arXiv 2304.07193",
            overlap="none: natural images (LVD-142M)",
            default_pooling=("cls",),
            hub_id=repository,
            model_args=(("img_size", 518), ("dynamic_img_size", True)),
        ),
        about=f"DINOv2 ViT-{'g' if letter == 'g' else letter.upper()}/14, natural images (Meta)",
        licence=apache(f"https://huggingface.co/{repository}"),
        params_m=params_m,
        params_step_m=0.1,
        dim=dim,
        registers=0,
        overlap=Overlap("no", "no", "no"),
        sources=(
            cite(f"https://huggingface.co/{repository}", "hub", "revision", "params", "architecture", "normalisation"),
            cite(DINOV2_README, "overlap"),
            cite("timm 1.0.31, timm/models/vision_transformer.py", "dim"),
            cite(f"{EVA} (224 px, class token)", "size", "pooling"),
        ),
        notes=("trained at 224 and then 518 px; the default view is 224, as pathology comparisons use it",),
        verified=True,
    )


DINOV2 = (
    _entry("small", "s", "0686a689726076609b20e80d263cb5aa7be945f5", 22.1, 384),
    _entry("base", "b", "117371543cc3adbf9bda0dbd93a85577e9f362a7", 86.6, 768),
    _entry("large", "l", "48430325ec5b028c4cd538616390e41adc2e1bd4", 304.4, 1024),
    _entry("giant", "g", "dd22bb6485eeb29d67273f76d983061298bdc7f0", 1136.5, 1536),
)
