"""The tile encoder of Prov-GigaPath."""

from histotune.backbones.entries.where import IMAGENET_MEAN, IMAGENET_STD, TRIDENT, WSISTREAM
from histotune.backbones.entry import CatalogEntry, Licence, Overlap, cite
from histotune.backbones.spec import BackboneSpec

HOME = "https://github.com/prov-gigapath/prov-gigapath/blob/0383083c4569dd914e20b2a264e90a92abfa5709"

PROV_GIGAPATH = CatalogEntry(
    BackboneSpec(
        name="prov-gigapath",
        kind="timm",
        source="vit_giant_patch14_dinov2",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        licence="Prov-GigaPath License Terms (gated)",
        citation="Xu et al. 2024, Nature, doi 10.1038/s41586-024-07441-w",
        gated=True,
        training_mpp=(0.5,),
        overlap="trained on slides of Providence: no TCGA, no Camelyon16, no BreakHis",
        default_pooling=("cls",),
        hub_id="prov-gigapath/prov-gigapath",
        model_args=(
            ("img_size", 224),
            ("patch_size", 16),
            ("embed_dim", 1536),
            ("depth", 40),
            ("num_heads", 24),
            ("mlp_ratio", 5.33334),
            ("init_values", 1e-5),
            ("dynamic_img_size", True),
        ),
    ),
    about="Prov-GigaPath tile encoder, DINOv2 ViT-g/16 (Microsoft, Providence)",
    licence=Licence("Prov-GigaPath terms (gated)", False, False, False, None, f"{HOME}/LICENSE"),
    params_m=1130,
    params_step_m=10,
    dim=1536,
    registers=0,
    overlap=Overlap("no", "no", "no"),
    sources=(
        cite(f"{HOME}/README.md", "hub", "gated", "normalisation", "size", "pooling"),
        cite(TRIDENT, "dim", "architecture"),
        cite("https://bio.rodeo/models/prov-gigapath", "params"),
        cite("doi 10.1038/s41586-024-07441-w", "mpp", "overlap"),
        cite(f"{WSISTREAM}/prov-gigapath.md", "mpp", "overlap"),
    ),
    notes=(
        "its authors resize to 256 px and crop the centre 224; the default view resizes the short side to 224",
        "its hub page says Apache-2.0, its repository carries terms for research alone; the stricter ones are listed",
    ),
    verified=True,
)
