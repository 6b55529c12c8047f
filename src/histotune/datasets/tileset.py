"""What a data set is to the rest of histotune: a table of tiles and what is known about them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import polars as pl

from histotune.tools.errors import UserError
from histotune.tools.files import hash_bytes
from histotune.tools.table import Column, ShownAsTables, Table, rows_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from histotune.datasets.config import DatasetConfig


LEVEL = "Perhaps another level of folders: "  # how notes begin that doubt that --data is the right folder
MppSource = Literal["nominal", "estimated", "user"]

TILE_SCHEMA = pl.Schema(
    {
        "tile_id": pl.String,  # unique within the data set and independent of where it lies on disk
        "path": pl.String,  # the image file, or the HDF5 or parquet file holding the pixels
        "row": pl.Int64,  # row of the HDF5 data set "x" or of the parquet column "image"; null for image files
        "label": pl.Int32,  # index into class_names; null where unlabelled
        "group_id": pl.String,  # what splits, folds, intervals and paired tests use; null where unknown
        "source_patient_id": pl.String,  # the data set authors' own patient id
        "slide_id": pl.String,
        "site": pl.String,
        "scanner": pl.String,
        "stain": pl.String,
        "magnification": pl.String,  # a label such as "40X"
        "mpp": pl.Float64,  # micrometres per pixel of the stored image
        "mpp_source": pl.String,  # nominal, estimated or user
        "mpp_factor": pl.Float64,  # multiplicative uncertainty of mpp, 1 = exact
        "width_px": pl.Int32,
        "height_px": pl.Int32,
        "split": pl.String,  # the data set's own part: train, valid, test; null where it has none
    }
)


@dataclass(frozen=True)
class LabelRegion:
    """The part of a tile that its label speaks about, in source pixels."""

    left_px: int
    top_px: int
    width_px: int
    height_px: int


@dataclass(frozen=True)
class TileSet(ShownAsTables):
    """A table of tiles with what is known about the data set.

    Attributes:
        name: Data set name, such as "breakhis".
        table: One row per tile, columns of :data:`TILE_SCHEMA`, sorted by tile_id.
        class_names: Names by label index; in binary tasks index 1 is the positive class (malignant, tumour).
        label_region: What the label speaks about where it is not the whole tile.
        licence: Licence of the images.
        citation: How to cite them.
        synthetic: True for rendered tissue, which is labelled SYNTHETIC wherever it appears.
        notes: What the reader skipped or assumed (law 6), one sentence each.
        asked: Those of the notes that ask the user something, or count what is missing; whoever reads the files says
            them on the terminal, too.
        marks: Further warnings that every number made with these tiles carries, such as EXTERNAL.
        n_skipped: Images left out because they can't be read; marks every number (law 6).
        label_moved: True where the view moves or cuts the label's region; marks every number.
        pixel_fingerprint: Hash over the content hashes of all tiles; known once they have been read.
        read_from: The settings it was read with; None for tiles that were made in memory.
    """

    name: str
    table: pl.DataFrame
    class_names: tuple[str, ...]
    licence: str
    citation: str
    label_region: LabelRegion | None = None
    synthetic: bool = False
    notes: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    n_skipped: int = 0
    label_moved: bool = False
    pixel_fingerprint: str | None = None
    read_from: DatasetConfig | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the table against the schema and the ids for uniqueness."""
        if dict(self.table.schema) != dict(TILE_SCHEMA):
            raise ValueError(f"table of {self.name} does not follow TILE_SCHEMA: {self.table.schema}")
        if self.table["tile_id"].n_unique() != len(self.table):
            raise ValueError(f"tile ids of {self.name} are not unique")

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.table)

    @property
    def tile_ids(self) -> tuple[str, ...]:
        """Tile ids in row order."""
        return tuple(self.table["tile_id"])

    @property
    def labels_N(self) -> NDArray[np.int64]:
        """Label per tile, int64; -1 where unlabelled."""
        return self.table["label"].fill_null(-1).cast(pl.Int64).to_numpy()

    @property
    def has_groups(self) -> bool:
        """Whether every tile's group is known, which intervals and grouped splits need."""
        return self.table["group_id"].null_count() == 0

    @property
    def n_groups(self) -> int:
        """Number of known groups; null ids count as none."""
        return self.table["group_id"].drop_nulls().n_unique()

    @property
    def label_fingerprint(self) -> str:
        """Hash of (tile_id, label, group_id, split) of every tile and of the class names."""
        columns = self.table.select("tile_id", "label", "group_id", "split").sort("tile_id")
        return hash_bytes("\n".join(self.class_names), columns.write_csv())

    def tables(self) -> tuple[Table, ...]:
        """Return how many tiles and groups each class has at each magnification."""
        counted = (
            self.table.group_by("magnification", "label", maintain_order=True)
            .agg(pl.len(), pl.col("group_id").drop_nulls().n_unique())
            .sort("magnification", "label", nulls_last=True)
        )
        rows = [
            (magnification or "", "unlabelled" if label is None else self.class_names[label], f"{n:,}", f"{n_groups:,}")
            for magnification, label, n, n_groups in counted.iter_rows()
        ]
        columns = (Column("magnification"), Column("class"), Column("tiles", "right"), Column("groups", "right"))
        title = f"{self.name}: {len(self):,} tiles of {self.n_groups:,} groups"
        return (Table(title, columns, rows_of(rows), self.notes, self.marks),)

    def where(self, condition: pl.Expr) -> TileSet:
        """Return the tiles that meet a polars condition.

        Args:
            condition: For example ``pl.col("magnification") == "40X"``.

        Returns:
            A TileSet with the same facts and fewer rows.
        """
        return replace(self, table=self.table.filter(condition), pixel_fingerprint=None)

    def without(self, reason_by_tile: Mapping[str, str]) -> TileSet:
        """Return the tiles without those that can't be read, and say so in the notes.

        Args:
            reason_by_tile: Tile id -> why it can't be read.

        Returns:
            A TileSet with fewer rows and a note; itself where nothing is left out.
        """
        if not reason_by_tile:
            return self
        rest = self.where(~pl.col("tile_id").is_in(list(reason_by_tile)))
        return replace(
            rest, n_skipped=self.n_skipped + len(reason_by_tile), notes=(*self.notes, skipped_note(reason_by_tile))
        )

    def take(self, rows: NDArray[np.int64]) -> TileSet:
        """Return the tiles at the given row numbers, in that order.

        Args:
            rows: Row numbers.

        Returns:
            A TileSet with those rows.
        """
        return replace(self, table=self.table[rows], pixel_fingerprint=None)


def skipped_note(reason_by_name: Mapping[str, str]) -> str:
    """Return the sentence that says which images were left out."""
    n, shown = len(reason_by_name), 5
    some = ", ".join(f"{name} ({reason})" for name, reason in list(reason_by_name.items())[:shown])
    more = f" and {n - shown:,} more" if n > shown else ""
    return f"Skipped {n:,} image{'' if n == 1 else 's'} that can't be read: {some}{more}."


def tile_table(rows: dict[str, object]) -> pl.DataFrame:
    """Build a table of :data:`TILE_SCHEMA` from columns, missing ones filled with nulls, sorted by tile_id."""
    unknown = set(rows) - set(TILE_SCHEMA)
    if unknown:
        raise ValueError(f"columns outside TILE_SCHEMA: {sorted(unknown)}")
    n = len(rows["tile_id"])  # type: ignore[arg-type]
    columns = {name: rows.get(name, [None] * n) for name in TILE_SCHEMA}
    return pl.DataFrame(columns, schema=TILE_SCHEMA, strict=False).sort("tile_id")


def require_classes(tiles: TileSet, purpose: str) -> None:
    """Refuse a tile set that holds one class only."""
    present = sorted({tiles.class_names[label] for label in set(tiles.labels_N.tolist()) if label >= 0})
    if len(present) < 2:
        raise UserError(
            f"{purpose} needs tiles of at least two classes and found {len(present)}",
            value=", ".join(present) or "none labelled",
            allowed=", ".join(tiles.class_names),
            fix=next(
                (note for note in tiles.notes if note.startswith(LEVEL)),
                "check --data and --train-magnification; `histotune data describe` lists what is there",
            ),
        )


# ---- Groups: the one place where they are made ----


def breakhis_group_id(year: str, slide: str) -> str:
    """Return the case of a BreakHis slide: year and accession number without block letters.

    The authors count 22549AB, 22549CD and 22549G as three patients, but they are blocks of one accession. Accession
    13412 is filed under ductal and under lobular carcinoma, 21998 under fibroadenoma and phyllodes tumour: the same
    case each time. That one accession is one patient is an inference, so these groups are called cases.

    Example:
        >>> breakhis_group_id("14", "22549AB")
        '14-22549'
    """
    return f"{year}-{slide.rstrip('ABCDEFGHIJKLMNOPQRSTUVWXYZ')}"


def breakhis_source_patient_id(class_letter: str, tumour: str, year: str, slide: str) -> str:
    """Return the BreakHis authors' own patient id: the name of the patient's folder in their tree.

    The data set's 82 patients are its 82 patient folders (24 benign, 58 malignant). Their suffixed numbers alone
    make 81, because 13412 has a folder under ductal and one under lobular carcinoma; so the diagnosis belongs to
    the id.

    Example:
        >>> breakhis_source_patient_id("M", "DC", "14", "13412")
        'SOB_M_DC_14-13412'
    """
    return f"SOB_{class_letter}_{tumour}_{year}-{slide}"


def patch_camelyon_group_id(wsi: str) -> str:
    """Return the group of a PatchCamelyon patch: its Camelyon16 slide."""
    return wsi
