"""Virchow and Virchow2 of Paige and Microsoft Research."""

from histotune.backbones.entries.licences import academic_gated, apache_gated
from histotune.backbones.entries.where import IMAGENET_MEAN, IMAGENET_STD, TRIDENT, WSISTREAM
from histotune.backbones.entry import CatalogEntry, Overlap, cite
from histotune.backbones.spec import BackboneSpec, ModelArgument

CARD, CARD2 = "https://huggingface.co/paige-ai/Virchow", "https://huggingface.co/paige-ai/Virchow2"
SPECTRA = "https://huggingface.co/medarc/spectra-virchow-lora"
_ARGUMENTS: tuple[tuple[str, ModelArgument], ...] = (
    ("img_size", 224), ("init_values", 1e-5), ("mlp_ratio", 5.3375), ("global_pool", ""), ("dynamic_img_size", True),
    ("mlp_layer", "SwiGLUPacked"), ("act_layer", "SiLU"),
)  # fmt: skip

VIRCHOW = CatalogEntry(
    BackboneSpec(
        name="virchow",
        kind="timm",
        source="vit_huge_patch14_224",
        revision="19eebc84ae33e79f1b2d866e6ff90ae50e522f9a",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        licence="Apache-2.0 (gated)",
        citation="Vorontsov et al. 2024, Nature Medicine, doi 10.1038/s41591-024-03141-0",
        gated=True,
        training_mpp=(0.5,),
        overlap="trained on slides of Memorial Sloan Kettering: no TCGA, no Camelyon16, no BreakHis",
        default_pooling=("cls", "patch_mean"),
        hub_id="paige-ai/Virchow",
        model_args=_ARGUMENTS,
    ),
    about="Virchow, DINOv2 ViT-H/14 with SwiGLU (Paige, Microsoft)",
    licence=apache_gated(CARD),
    params_m=632,
    dim=1280,
    registers=0,
    overlap=Overlap("no", "no", "no"),
    sources=(
        cite(TRIDENT, "dim", "architecture", "normalisation", "size", "pooling"),
        cite(CARD, "hub", "gated"),
        cite(SPECTRA, "revision", "architecture"),
        cite("doi 10.1038/s41591-024-03141-0", "params", "mpp", "overlap"),
        cite(f"{WSISTREAM}/virchow.md", "params", "mpp"),
    ),
    verified=True,
)

VIRCHOW2 = CatalogEntry(
    BackboneSpec(
        name="virchow2",
        kind="timm",
        source="vit_huge_patch14_224",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        licence="CC-BY-NC-ND-4.0 (gated)",
        citation="Zimmermann et al. 2024, arXiv 2408.00738",
        gated=True,
        training_mpp=(0.25, 0.5, 1.0, 2.0),
        overlap="trained on slides of Memorial Sloan Kettering and its consultations: no TCGA, no Camelyon16",
        default_pooling=("cls", "patch_mean"),
        hub_id="paige-ai/Virchow2",
        model_args=(*_ARGUMENTS, ("reg_tokens", 4)),
    ),
    about="Virchow2, DINOv2 ViT-H/14 with SwiGLU and 4 registers (Paige, Microsoft)",
    licence=academic_gated(CARD2),
    params_m=632,
    dim=1280,
    registers=4,
    overlap=Overlap("no", "no", "no"),
    sources=(
        cite(TRIDENT, "dim", "registers", "architecture", "normalisation", "size", "pooling"),
        cite(CARD2, "hub", "gated"),
        cite("arXiv 2408.00738", "params", "mpp", "overlap"),
        cite(f"{WSISTREAM}/virchow.md", "registers", "mpp"),
    ),
    verified=True,
)
