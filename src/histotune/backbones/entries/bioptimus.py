"""H-optimus-0, H-optimus-1 and H0-mini of Bioptimus."""

from histotune.backbones.entries.licences import academic_gated, apache_gated
from histotune.backbones.entries.where import BIOPTIMUS_MEAN, BIOPTIMUS_STD, EVA, TRIDENT
from histotune.backbones.entry import CatalogEntry, Overlap, cite
from histotune.backbones.spec import BackboneSpec, ModelArgument

RELEASE = (
    "https://github.com/bioptimus/releases/blob/c369f8fb2fda321c28c5c5d112b77bf351056f81/models/h-optimus/v0/README.md"
)
CARD0, CARD1 = "https://huggingface.co/bioptimus/H-optimus-0", "https://huggingface.co/bioptimus/H-optimus-1"
CARD_MINI = "https://huggingface.co/bioptimus/H0-mini"
LAUNCH = (
    "https://resources.bioptimus.com/bioptimus-launches-h-optimus-1-a-state-of-the-art-foundation-model-for-pathology"
)
SPECTRA = "https://huggingface.co/medarc/spectra-h-optimus-0-lora"
_GIANT: tuple[tuple[str, ModelArgument], ...] = (
    ("img_size", 224), ("init_values", 1e-5), ("global_pool", "token"), ("dynamic_img_size", True),
)  # fmt: skip

H_OPTIMUS_0 = CatalogEntry(
    BackboneSpec(
        name="h-optimus-0",
        kind="timm",
        source="vit_giant_patch14_reg4_dinov2",
        revision="b145cc1e6c6b30d3251aa8b1f844e6974188a743",
        mean=BIOPTIMUS_MEAN,
        std=BIOPTIMUS_STD,
        interpolation="bilinear",
        licence="Apache-2.0 (gated)",
        citation="Saillard et al. 2024, https://github.com/bioptimus/releases/tree/main/models/h-optimus/v0",
        gated=True,
        training_mpp=(0.5,),
        overlap="trained on a proprietary collection of 500,000 slides",
        default_pooling=("cls",),
        hub_id="bioptimus/H-optimus-0",
        model_args=_GIANT,
    ),
    about="H-optimus-0, DINOv2 ViT-g/14 with 4 registers (Bioptimus)",
    licence=apache_gated(CARD0),
    params_m=1100,
    params_step_m=100,
    dim=1536,
    registers=4,
    overlap=Overlap("no", "no", "no"),
    sources=(
        cite(RELEASE, "dim", "registers", "architecture", "normalisation", "size", "pooling", "mpp", "overlap"),
        cite(CARD0, "hub", "params"),
        cite(SPECTRA, "revision", "gated"),
        cite(TRIDENT, "architecture"),
    ),
    verified=True,
)

H_OPTIMUS_1 = CatalogEntry(
    BackboneSpec(
        name="h-optimus-1",
        kind="timm",
        source="vit_giant_patch14_reg4_dinov2",
        mean=BIOPTIMUS_MEAN,
        std=BIOPTIMUS_STD,
        interpolation="bilinear",
        licence="CC-BY-NC-ND-4.0 (gated)",
        citation="Bioptimus 2025, https://huggingface.co/bioptimus/H-optimus-1",
        gated=True,
        overlap="trained on a proprietary collection of one million slides",
        default_pooling=("cls",),
        hub_id="bioptimus/H-optimus-1",
        model_args=_GIANT,
    ),
    about="H-optimus-1, DINOv2 ViT-g/14 with 4 registers (Bioptimus)",
    licence=academic_gated(CARD1),
    params_m=1100,
    params_step_m=100,
    dim=1536,
    registers=4,
    overlap=Overlap("no", "no", "no"),
    sources=(
        cite(TRIDENT, "dim", "registers", "architecture", "normalisation", "size", "pooling"),
        cite(CARD1, "hub", "gated"),
        cite(LAUNCH, "params", "overlap"),
    ),
    notes=("requests for access are granted by hand and may stay pending (its discussion 21 on the hub)",),
    verified=True,
)

H0_MINI = CatalogEntry(
    BackboneSpec(
        name="h0-mini",
        kind="timm",
        source="vit_base_patch14_reg4_dinov2",
        mean=BIOPTIMUS_MEAN,
        std=BIOPTIMUS_STD,
        licence="CC-BY-NC-ND-4.0 (gated)",
        citation="Filiot et al. 2025, arXiv 2501.16239",
        gated=True,
        overlap="distilled from H-optimus-0 on TCGA tiles: benchmarks cut from TCGA overlap",
        default_pooling=("cls",),
        hub_id="bioptimus/H0-mini",
        model_args=(
            ("img_size", 224),
            ("init_values", 1e-5),
            ("mlp_ratio", 5.33334),
            ("mlp_layer", "SwiGLUPacked"),
            ("act_layer", "SiLU"),
            ("dynamic_img_size", True),
        ),
    ),
    about="H0-mini, ViT-B/14 with SwiGLU and 4 registers, distilled from H-optimus-0 (Bioptimus, Owkin)",
    licence=academic_gated(CARD_MINI),
    dim=768,
    registers=4,
    overlap=Overlap("yes", "no", "no"),
    sources=(
        cite(CARD_MINI, "hub", "gated"),
        cite(f"{EVA}/bioptimus.py", "dim", "registers", "normalisation", "size", "pooling"),
        cite(TRIDENT, "architecture", "pooling"),
        cite("arXiv 2501.16239", "overlap"),
    ),
    notes=(
        "width of its MLP and layer scale follow from its teacher's packed SwiGLU; where its config.json differs, that "
        "counts",
    ),
    verified=True,
)
