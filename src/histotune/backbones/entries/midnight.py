"""Midnight-12k, the pathology foundation model of kaiko.ai: a DINOv2 ViT-g/14 with SwiGLU, 1.1 B parameters."""

from dataclasses import replace

from histotune.backbones.entries.licences import mit
from histotune.backbones.entries.where import WSISTREAM
from histotune.backbones.entry import CatalogEntry, Licence, Overlap, cite
from histotune.backbones.spec import BackboneSpec

CARD = "https://huggingface.co/kaiko-ai/midnight"
SPECTRA = "https://huggingface.co/medarc/spectra-midnight-12k-lora"

MIDNIGHT = CatalogEntry(
    BackboneSpec(
        name="midnight",
        kind="transformers",
        source="kaiko-ai/midnight",
        revision="adc6b15679c981cce6f9b018bbad09d16eeeda9f",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        interpolation="bilinear",
        licence="MIT",
        citation="Karasikov et al. 2025, arXiv 2504.05186; https://huggingface.co/kaiko-ai/midnight",
        training_mpp=(0.25, 0.5, 1.0, 2.0),
        overlap="trained on TCGA slides: benchmarks cut from TCGA overlap; BreakHis and PatchCamelyon do not",
        default_pooling=("cls", "patch_mean"),
        model_args=(
            ("model_type", "dinov2"),
            ("hidden_size", 1536),
            ("num_hidden_layers", 40),
            ("num_attention_heads", 24),
            ("patch_size", 14),
            ("image_size", 224),
            ("use_swiglu_ffn", True),
        ),
    ),
    about="Midnight-12k, DINOv2 ViT-g/14 (kaiko.ai)",
    licence=mit(CARD),
    params_m=1100,
    params_step_m=100,
    dim=1536,
    registers=0,
    overlap=Overlap("yes", "no", "no"),
    sources=(
        cite(CARD, "hub", "normalisation", "size", "pooling", "overlap"),
        cite(SPECTRA, "revision"),
        cite("arXiv 2504.05186", "params", "dim", "architecture", "mpp"),
        cite(f"{WSISTREAM}/midnight.md", "params", "mpp"),
    ),
    verified=True,
)

MIDNIGHT_SPECTRA = replace(
    MIDNIGHT,
    spec=replace(
        MIDNIGHT.spec,
        name="midnight-spectra",
        adapter="medarc/spectra-midnight-12k-lora/seed0",
        licence="MIT (weights); the adapter's terms stand on its card",
        citation=f"{MIDNIGHT.spec.citation}; adapter: {SPECTRA}",
    ),
    about="Midnight-12k with a LoRA adapter against scanner and stain shift (MedARC)",
    licence=Licence("MIT + adapter's card", None, None, None, None, SPECTRA),
    notes=(
        "three seeds are published; this entry takes seed0, --adapter medarc/spectra-midnight-12k-lora/seed1 another",
        "rank 32 on attention and MLP, trained on registered PLISM tiles against base revision adc6b156",
    ),
)
