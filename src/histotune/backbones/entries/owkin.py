"""Phikon and Phikon-v2 of Owkin."""

from histotune.backbones.entries.licences import non_commercial
from histotune.backbones.entries.where import EVA, IMAGENET_MEAN, IMAGENET_STD, TRIDENT, WSISTREAM
from histotune.backbones.entry import CatalogEntry, Overlap, cite
from histotune.backbones.spec import BackboneSpec

CARD, CARD2 = "https://huggingface.co/owkin/phikon", "https://huggingface.co/owkin/phikon-v2"
CONFIG = f"{CARD}/blob/cd6ea0861ccd7a242d92f4d349cf88bf5eab7053/config.json"
HOME = "https://github.com/owkin/HistoSSLscaling/blob"
LICENCE = f"{HOME}/371d1dc40fe8016be2d2dce81d1aba2da72298cd/LICENSE.txt"

PHIKON = CatalogEntry(
    BackboneSpec(
        name="phikon",
        kind="transformers",
        source="owkin/phikon",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        interpolation="bilinear",
        licence="Owkin non-commercial licence",
        citation="Filiot et al. 2023, medRxiv 2023.07.21.23292757",
        training_mpp=(0.5,),
        overlap="trained on TCGA tiles: benchmarks cut from TCGA overlap; BreakHis and PatchCamelyon do not",
        default_pooling=("cls",),
        model_args=(
            ("model_type", "vit"),
            ("hidden_size", 768),
            ("num_hidden_layers", 12),
            ("num_attention_heads", 12),
            ("intermediate_size", 3072),
            ("patch_size", 16),
            ("image_size", 224),
        ),
    ),
    about="Phikon, iBOT ViT-B/16 (Owkin)",
    licence=non_commercial("Owkin non-commercial", LICENCE, outputs_restricted=True),
    params_m=85.8,
    params_step_m=0.1,
    dim=768,
    registers=0,
    overlap=Overlap("yes", "no", "no"),
    sources=(
        cite(CONFIG, "hub", "dim", "architecture"),
        cite(f"{CARD}/commit/77f84c87dbf1662e2ed5a9ad0215fa02eacbb49f", "params", "overlap", "size"),
        cite(TRIDENT, "normalisation", "size", "pooling"),
        cite(f"{HOME}/191c71cbec70cea4e67bda1016b6196e12fccb8c/README.md", "mpp", "overlap"),
    ),
    verified=True,
)

PHIKON_V2 = CatalogEntry(
    BackboneSpec(
        name="phikon-v2",
        kind="transformers",
        source="owkin/phikon-v2",
        revision="419e8285b80eac3b60beca0d9b91942d48ad7b8e",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        interpolation="bilinear",
        licence="Owkin non-commercial licence",
        citation="Filiot et al. 2024, arXiv 2409.09173",
        training_mpp=(0.5,),
        overlap="trained on 132 public data sets, TCGA among them; the others were not compared with benchmarks",
        default_pooling=("cls",),
        model_args=(
            ("model_type", "dinov2"),
            ("hidden_size", 1024),
            ("num_hidden_layers", 24),
            ("num_attention_heads", 16),
            ("patch_size", 16),
            ("image_size", 224),
        ),
    ),
    about="Phikon-v2, DINOv2 ViT-L/16 (Owkin)",
    licence=non_commercial("Owkin non-commercial", f"{CARD2}/blob/main/LICENSE.pdf", outputs_restricted=True),
    params_m=303,
    params_step_m=2,
    dim=1024,
    registers=0,
    overlap=Overlap("yes", "unknown", "unknown"),
    sources=(
        cite(f"{CARD2}/tree/419e8285b80eac3b60beca0d9b91942d48ad7b8e", "hub", "revision", "params"),
        cite(f"{EVA}/owkin.py", "dim", "pooling"),
        cite(TRIDENT, "normalisation", "size", "pooling"),
        cite(f"{WSISTREAM}/phikon.md", "registers", "architecture", "mpp", "overlap"),
        cite("arXiv 2409.09173", "architecture", "overlap"),
    ),
    verified=True,
)
