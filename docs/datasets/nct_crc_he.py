"""NCT-CRC-HE-100K: nine tissue classes of colorectal cancer, a folder each.

Use: ``histotune run nct_crc_he.py --data NCT-CRC-HE-100K``

Facts about the data set are from memory, so check them against its home before you publish: 100,000 TIFF tiles of
224 x 224 pixels at 0.5 um/px, colour-normalised, from 86 slides; names such as ``ADI-AAAFLCLY.tif`` say the class and
nothing of the patient, so groups are unknown and every score over folds of single tiles is marked LEAKY.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from histotune.datasets import CandidateScale, ClassScheme, DatasetSpec, Tile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from histotune.datasets import DatasetConfig

CLASSES = ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM")

SPEC = DatasetSpec(
    name="nct_crc_he",
    title="NCT-CRC-HE-100K",
    licence="CC BY 4.0",
    citation="Kather, Halama, Marx: 100,000 histological images of human colorectal cancer and healthy tissue. 2018.",
    url="https://zenodo.org/records/1214456",
    stain="H&E",
    scales=(CandidateScale("nominal", {"": 0.5}, 1.0, "As its authors state."),),
    schemes=(ClassScheme("all9", CLASSES, {name: name for name in CLASSES}, "The nine tissue classes."),),
    group="unknown: the files do not say whose tissue they show",
    caveats=(
        "Without patients no split of these tiles is free of leakage; CRC-VAL-HE-7K has other patients to test on.",
    ),
)


def read(config: DatasetConfig) -> Iterator[Tile]:
    """Yield a tile per image; the folder is its class."""
    for path in sorted(config.path.rglob("*.tif")):
        yield Tile(path, label=path.parent.name)
