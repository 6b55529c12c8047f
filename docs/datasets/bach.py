"""BACH (ICIAR 2018): four classes of breast tissue, large photographs at a known scale.

Use: ``histotune run bach.py --data ICIAR2018_BACH_Challenge``

Facts about the data set are from memory, so check them against its home before you publish: 400 TIFF images of
2048 x 1536 pixels at 0.42 um/px, 100 each in ``Photos/{Benign,InSitu,Invasive,Normal}``, and a table without a header,
``Photos/microscopy_ground_truth.csv``, with file name and class. Some patients gave several images; who did is not
published.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from histotune.datasets import CandidateScale, ClassScheme, DatasetSpec, Tile
from histotune.tools import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from histotune.datasets import DatasetConfig

CLASSES = ("Normal", "Benign", "InSitu", "Invasive")

SPEC = DatasetSpec(
    name="bach",
    title="BACH",
    licence="CC BY-NC-ND",
    citation="Aresta and others: BACH: grand challenge on breast cancer histology images. Medical Image Analysis 2019.",
    url="https://iciar2018-challenge.grand-challenge.org",
    stain="H&E",
    scales=(CandidateScale("nominal", {"": 0.42}, 1.0, "As its authors state."),),
    schemes=(ClassScheme("all4", CLASSES, {name: name for name in CLASSES}, "From normal to invasive."),),
    group="unknown: which images share a patient is not published",
    caveats=("A view that crops the centre square loses a quarter of each image.",),
)


def read(config: DatasetConfig) -> Iterator[Tile]:
    """Yield a tile per image; the folder is its class, and the table, where it is there, must agree."""
    class_by_name = _ground_truth(config.path)
    for path in sorted(config.path.rglob("*.tif")):
        label = path.parent.name
        if label not in CLASSES:
            continue
        if class_by_name.get(path.name, label) != label:
            raise UserError("folder and ground truth disagree", value=path, allowed=class_by_name[path.name])
        yield Tile(path, label=label)


def _ground_truth(folder: Path) -> dict[str, str]:
    """Return the class of each file by the table, spelt as the folders are."""
    class_by_name: dict[str, str] = {}
    for table in folder.rglob("microscopy_ground_truth.csv"):
        with table.open(encoding="utf-8-sig", newline="") as stream:
            class_by_name.update((row[0], row[1].replace(" ", "")) for row in csv.reader(stream) if row)
    return class_by_name
