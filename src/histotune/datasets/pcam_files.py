"""What is known about PatchCamelyon, whatever the copy."""

from __future__ import annotations

from histotune.datasets.catalog import CandidateScale, ClassScheme, DatasetSpec
from histotune.datasets.tileset import LabelRegion

PARTS = ("train", "valid", "test")
SIDE_PX = 96

SPEC = DatasetSpec(
    name="patch_camelyon",
    title="PatchCamelyon",
    licence="CC0 1.0",
    citation=(
        "Veeling, Linmans, Winkens, Cohen, Welling: Rotation equivariant CNNs for digital pathology. MICCAI 2018. "
        "arXiv:1806.03962. Slides: Camelyon16, Ehteshami Bejnordi et al., JAMA 318(22), 2017."
    ),
    url="https://zenodo.org/records/2546921",
    stain="H&E",
    scales=(
        CandidateScale(
            "nominal",
            {"": 0.972},
            1.0,
            "Camelyon16 slides at 0.243 um/px, taken at level 2, which is four times coarser: 0.972 um/px.",
        ),
    ),
    schemes=(
        ClassScheme(
            "binary",
            ("normal", "tumour"),
            {"0": "normal", "1": "tumour"},
            "Whether the centre 32x32 pixels hold at least one tumour pixel.",
        ),
    ),
    group="a Camelyon16 slide",
    label_region=LabelRegion(left_px=32, top_px=32, width_px=32, height_px=32),
    caveats=(
        "The label speaks about the centre 32x32 pixels only: a view that moves or crops the centre changes its "
        "meaning.",
        "The patches derive from Camelyon16, on whose slides several foundation models were pretrained; their scores "
        "here are not fully external.",
        "Classes are balanced by construction (nearly so in Kaggle's copy): the prevalence is not that of a clinic.",
        "The original train part is known to hold many duplicate patches; Kaggle's copy leaves them out.",
    ),
)
