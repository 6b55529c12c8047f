"""Midnight-12k, the pathology foundation model of kaiko.ai: a DINOv2 ViT-g/14 with SwiGLU, 1.1 B parameters."""

from histotune.backbones.records import BackboneSpec

MIDNIGHT = BackboneSpec(
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
)
