"""OpenMidnight, the replication of Midnight by Sophont and MedARC."""

from histotune.backbones.entries.licences import apache_gated
from histotune.backbones.entries.where import IMAGENET_MEAN, IMAGENET_STD, TRIDENT, TRIDENT_TABLE
from histotune.backbones.entry import CatalogEntry, Overlap, cite
from histotune.backbones.spec import BackboneSpec

CARD = "https://huggingface.co/SophontAI/OpenMidnight"
SPECTRA = "https://huggingface.co/medarc/spectra-openmidnight-lora"

OPENMIDNIGHT = CatalogEntry(
    BackboneSpec(
        name="openmidnight",
        kind="timm",
        source="vit_giant_patch14_reg4_dinov2",
        revision="87189e6674d397a14a5cd342c97b1a1615a185aa",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        interpolation="bilinear",
        licence="Apache-2.0 (gated)",
        citation="Sophont and MedARC 2025, https://huggingface.co/SophontAI/OpenMidnight",
        gated=True,
        overlap="trained on TCGA slides: benchmarks cut from TCGA overlap; BreakHis and PatchCamelyon do not",
        default_pooling=("cls",),
        hub_id="SophontAI/OpenMidnight",
        weights_file="teacher_checkpoint_load.pt",
        layout="dinov2",
        model_args=(("img_size", 224), ("init_values", 1e-5), ("dynamic_img_size", True)),
    ),
    about="OpenMidnight, DINOv2 ViT-g/14 with 4 registers (Sophont, MedARC)",
    licence=apache_gated(CARD),
    params_m=1100,
    params_step_m=100,
    dim=1536,
    registers=4,
    overlap=Overlap("yes", "no", "no"),
    sources=(
        cite(CARD, "hub", "gated", "params", "overlap"),
        cite(SPECTRA, "revision", "dim", "architecture"),
        cite(TRIDENT, "registers", "architecture", "normalisation", "size", "pooling"),
        cite(TRIDENT_TABLE, "dim"),
    ),
    notes=(
        "its authors squash the image to 224 x 224; the default view crops the centre square",
        "its checkpoint is a torch file, read with weights_only=True: where it holds more than tensors it is refused",
    ),
    verified=True,
)
