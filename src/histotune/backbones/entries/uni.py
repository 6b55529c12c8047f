"""UNI and UNI2-h of the Mahmood Lab."""

from histotune.backbones.entries.licences import academic_gated
from histotune.backbones.entries.where import EVA, IMAGENET_MEAN, IMAGENET_STD, TRIDENT, UNI_README, WSISTREAM
from histotune.backbones.entry import CatalogEntry, Overlap, cite
from histotune.backbones.spec import BackboneSpec

UNI2_CARD = "https://huggingface.co/MahmoodLab/UNI2-h"

UNI = CatalogEntry(
    BackboneSpec(
        name="uni",
        kind="timm",
        source="vit_large_patch16_224",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        interpolation="bilinear",
        licence="CC-BY-NC-ND-4.0 (gated)",
        citation="Chen et al. 2024, Nature Medicine, doi 10.1038/s41591-024-02857-3",
        gated=True,
        training_mpp=(0.5,),
        overlap="trained on slides of MGH, BWH and GTEx: no TCGA, no Camelyon16, no BreakHis",
        default_pooling=("cls",),
        hub_id="MahmoodLab/UNI",
        model_args=(("img_size", 224), ("patch_size", 16), ("init_values", 1e-5), ("dynamic_img_size", True)),
    ),
    about="UNI, DINOv2 ViT-L/16 (Mahmood Lab)",
    licence=academic_gated(UNI_README),
    params_m=300,
    params_step_m=100,
    dim=1024,
    registers=0,
    overlap=Overlap("no", "no", "no"),
    sources=(
        cite(UNI_README, "hub", "gated", "size", "normalisation", "pooling"),
        cite(TRIDENT, "architecture", "normalisation", "size"),
        cite(f"{EVA}/mahmood.py", "dim", "gated"),
        cite("doi 10.1038/s41591-024-02857-3 (0.3 B; Mass-100K)", "params", "mpp", "overlap"),
        cite(f"{WSISTREAM}/uni.md", "params", "mpp", "overlap"),
    ),
    verified=True,
)

UNI2_H = CatalogEntry(
    BackboneSpec(
        name="uni2-h",
        kind="timm",
        source="vit_giant_patch14_224",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        interpolation="bilinear",
        licence="CC-BY-NC-ND-4.0 (gated)",
        citation="UNI 2, Mahmood Lab 2025, https://huggingface.co/MahmoodLab/UNI2-h",
        gated=True,
        overlap="350,000 slides whose origin is not described in full",
        default_pooling=("cls",),
        hub_id="MahmoodLab/UNI2-h",
        model_args=(
            ("img_size", 224),
            ("patch_size", 14),
            ("depth", 24),
            ("num_heads", 24),
            ("init_values", 1e-5),
            ("embed_dim", 1536),
            ("mlp_ratio", 2.66667 * 2),
            ("no_embed_class", True),
            ("mlp_layer", "SwiGLUPacked"),
            ("act_layer", "SiLU"),
            ("reg_tokens", 8),
            ("dynamic_img_size", True),
        ),
    ),
    about="UNI2-h, DINOv2 ViT-H/14 with SwiGLU and 8 registers (Mahmood Lab)",
    licence=academic_gated(UNI2_CARD),
    params_m=681,
    params_step_m=1,
    dim=1536,
    registers=8,
    sources=(
        cite(UNI_README, "hub", "dim", "registers", "architecture", "normalisation", "size", "pooling"),
        cite(UNI2_CARD, "gated"),
        cite(f"{WSISTREAM}/uni.md", "params"),
    ),
    verified=True,
)
