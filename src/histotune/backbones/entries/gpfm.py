"""GPFM of HKUST's SmartLab."""

from histotune.backbones.entries.licences import mit
from histotune.backbones.entries.where import EVA, IMAGENET_MEAN, IMAGENET_STD, TRIDENT, TRIDENT_TABLE, WSISTREAM
from histotune.backbones.entry import CatalogEntry, Overlap, cite
from histotune.backbones.spec import BackboneSpec

GPFM = CatalogEntry(
    BackboneSpec(
        name="gpfm",
        kind="timm",
        source="vit_large_patch14_dinov2",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        licence="MIT",
        citation="Ma et al. 2024, arXiv 2407.18449",
        overlap="trained on 33 public data sets, TCGA among them; compare its list with your benchmark",
        default_pooling=("cls",),
        hub_id="majiabo/GPFM",
        weights_file="GPFM.pth",
        layout="dinov2",
        model_args=(("img_size", 224), ("init_values", 1e-5), ("dynamic_img_size", True)),
    ),
    about="GPFM, ViT-L/14 distilled from UNI, CONCH and Phikon (HKUST)",
    licence=mit(TRIDENT_TABLE),
    dim=1024,
    registers=0,
    overlap=Overlap("yes", "unknown", "unknown"),
    sources=(
        cite(TRIDENT, "hub", "architecture", "normalisation", "size", "pooling"),
        cite(f"{EVA}/hkust.py", "dim", "architecture"),
        cite(f"{WSISTREAM}/gpfm.md", "normalisation", "overlap"),
    ),
    notes=(
        "trained at each slide's own resolution, so it has no training mpp",
        "its teachers UNI and CONCH forbid derivatives; whether that binds GPFM is not said",
    ),
    verified=True,
)
