"""PLIP, a CLIP fine-tuned on pathology images from social media: its vision tower."""

from histotune.backbones.entries.where import CLIP_MEAN, CLIP_STD
from histotune.backbones.entry import CatalogEntry, Licence, cite
from histotune.backbones.spec import BackboneSpec

HOME = "https://github.com/PathologyFoundation/plip"
SIZES = "https://gist.github.com/rwightman/26043466fa319a7e3b920ae5faae97ef"

PLIP = CatalogEntry(
    BackboneSpec(
        name="plip",
        kind="transformers",
        source="vinid/plip",
        mean=CLIP_MEAN,
        std=CLIP_STD,
        licence="not stated",
        citation="Huang et al. 2023, Nature Medicine, doi 10.1038/s41591-023-02504-3",
        overlap="images from social media, of unknown origin",
        default_pooling=("pooled",),
        model_args=(
            ("model_type", "clip_vision_model"),
            ("hidden_size", 768),
            ("num_hidden_layers", 12),
            ("num_attention_heads", 12),
            ("intermediate_size", 3072),
            ("patch_size", 32),
            ("image_size", 224),
        ),
    ),
    about="PLIP, the vision tower of a CLIP ViT-B/32 (Stanford)",
    licence=Licence("not stated", None, None, None, None, HOME),
    params_m=87.85,
    params_step_m=0.5,
    dim=768,
    sources=(
        cite(HOME, "hub", "architecture"),
        cite(f"{SIZES} (ViT-B-32, image tower with its projection of 0.4 M)", "params", "dim", "architecture"),
        cite("arXiv 2103.00020 (CLIP's preprocessing, which the card's CLIPProcessor is)", "normalisation", "size"),
    ),
    notes=("the embedding is the class token after the last norm, 768 wide, before the projection to 512",),
    verified=True,
)
