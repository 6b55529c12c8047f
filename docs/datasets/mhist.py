"""MHIST: hyperplastic polyps or sessile serrated adenomas, labelled by the vote of seven pathologists.

Use: ``histotune run mhist.py --data MHIST``

Facts about the data set are from memory, so check them against its home before you publish: 3,152 PNG tiles of
224 x 224 pixels below ``images/``, and ``annotations.csv`` with the columns Image Name, Majority Vote Label (HP or
SSA), Number of Annotators who Selected SSA (Out of 7), and Partition (train or test). Patients are not published.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from histotune.datasets import ClassScheme, DatasetSpec, Tile
from histotune.tools import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from histotune.datasets import DatasetConfig

SPEC = DatasetSpec(
    name="mhist",
    title="MHIST",
    licence="its authors' research use agreement",
    citation="Wei, Suriawinata, Ren, Liu and others: A Petri dish for histopathology image analysis. AIME 2021.",
    url="https://bmirds.github.io/MHIST/",
    stain="H&E",
    schemes=(ClassScheme("binary", ("HP", "SSA"), {"HP": "HP", "SSA": "SSA"}, "The majority of seven votes."),),
    group="unknown: patients are not published",
    caveats=("Where the vote was four to three, the label is close to a coin's.",),
)


def read(config: DatasetConfig) -> Iterator[Tile]:
    """Yield a tile per row of the annotations."""
    table = config.path / "annotations.csv"
    if not table.is_file():
        raise UserError("annotations.csv is missing", value=config.path, fix="point --data to the folder that holds it")
    paths = {path.name: path for path in config.path.rglob("*.png")}
    with table.open(encoding="utf-8-sig", newline="") as stream:
        for row in csv.DictReader(stream):
            name = row["Image Name"]
            yield Tile(paths.get(name, name), label=row["Majority Vote Label"], split=row["Partition"])
