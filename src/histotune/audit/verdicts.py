"""What an audit finds: a verdict per finding, with the tiles it is about and what to do."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from typing import TYPE_CHECKING, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from collections.abc import Iterable

    from histotune.datasets.splits.split import Split
    from histotune.datasets.tileset import TileSet


Verdict = Literal["ok", "not checked", "note", "warning", "error"]
VERDICTS: tuple[Verdict, ...] = ("ok", "not checked", "note", "warning", "error")  # rising
Cell = str | int | float | None
OFFICIAL = "official parts"
UNLABELLED = "unlabelled"
UNKNOWN = "unknown"
CHECKS = tomllib.loads(resources.files(__package__).joinpath("checks.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class AuditTable:
    """A small table.

    Attributes:
        title: What it shows.
        columns: Headers.
        rows: Cells by row.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Cluster:
    """Tiles that show the same thing.

    Attributes:
        tile_ids: The tiles, sorted; cut where there are many.
        n_tiles: How many there are.
        note: What sets the copies apart, such as "mirrored or turned"; empty where nothing does.
    """

    tile_ids: tuple[str, ...]
    n_tiles: int
    note: str = ""


@dataclass(frozen=True)
class AuditFinding:
    """One thing that was looked at.

    Attributes:
        id: Such as "exact-duplicates".
        title: For people.
        verdict: ``ok``, ``not checked`` (nothing could be looked at), ``note`` (know it), ``warning`` (mind it) or
            ``error`` (results would be wrong).
        sentence: What was found.
        n: How many: clusters, groups or tiles, as the sentence says.
        n_tiles: Tiles concerned.
        tile_ids: Some of them, sorted.
        advice: What to do; empty where nothing needs doing.
        clusters: Tiles that belong together, the weightiest first; some of them.
        tables: Details.
        every: All tiles concerned, a row each, where ``tile_ids`` or ``clusters`` hold only some of them; else None.
    """

    id: str
    title: str
    verdict: Verdict
    sentence: str
    n: int = 0
    n_tiles: int = 0
    tile_ids: tuple[str, ...] = ()
    advice: str = ""
    clusters: tuple[Cluster, ...] = ()
    tables: tuple[AuditTable, ...] = ()
    every: pl.DataFrame | None = field(default=None, repr=False, compare=False)

    @property
    def file(self) -> str:
        """Name of the CSV file with all tiles, beside the page; empty where the lists are whole."""
        return "" if self.every is None else f"{self.id}.csv"

    def as_dict(self) -> dict[str, object]:
        """Return a JSON-ready dict, with the name of the file of all tiles where there is one."""
        facts = asdict(replace(self, every=None))
        del facts["every"]
        return {**facts, "file": self.file} if self.file else facts


def passed(check: str, sentence: str, n: int = 0) -> AuditFinding:
    """Return a finding that nothing is wrong."""
    return AuditFinding(check, CHECKS[check]["title"], "ok", sentence, n=n)


def not_checked(check: str, because: str, advice: str = "") -> AuditFinding:
    """Return a finding that nothing could be looked at, which is no sign that nothing is wrong."""
    return AuditFinding(check, CHECKS[check]["title"], "not checked", f"Not checked, because {because}.", advice=advice)


@dataclass(frozen=True)
class AuditedSplit:
    """The split that was checked.

    Attributes:
        name: Its name; "official parts" for the data set's own.
        split_hash: SHA-256 of its sides; empty for official parts.
        leaky: Whether it is marked LEAKY by its maker.
        notes: What its maker says about it.
    """

    name: str
    split_hash: str = ""
    leaky: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Audit:
    """Everything an audit says; equal data and settings give an equal record, whatever the order of the tiles.

    Attributes:
        name: Data set name.
        title: For people.
        synthetic: Whether the tiles were rendered by a program.
        licence: Licence of the images.
        citation: How to cite them.
        n_tiles: Tiles.
        n_groups: Known groups.
        group: What a group is, in words.
        split: The split that was checked; None where there is none.
        settings: The audit's settings.
        findings: One per thing looked at, in a fixed order.
        tables: Balance of classes, magnifications, groups and sides.
        notes: What the reader skipped or assumed, and what the audit did not look at.
    """

    name: str
    title: str
    synthetic: bool
    licence: str
    citation: str
    n_tiles: int
    n_groups: int
    group: str
    split: AuditedSplit | None
    settings: dict[str, object]
    findings: tuple[AuditFinding, ...]
    tables: tuple[AuditTable, ...]
    notes: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all findings."""
        return max((finding.verdict for finding in self.findings), key=VERDICTS.index, default="ok")

    def finding(self, finding_id: str) -> AuditFinding:
        """Return a finding by its id.

        Args:
            finding_id: Such as "exact-duplicates".

        Returns:
            The finding.

        Raises:
            KeyError: It was not looked at.
        """
        for finding in self.findings:
            if finding.id == finding_id:
                return finding
        raise KeyError(finding_id)

    def as_dict(self) -> dict[str, object]:
        """Return a JSON-ready dict with the overall verdict; no times, paths or versions in it."""
        findings = tuple(finding.as_dict() for finding in self.findings)
        return {"verdict": self.verdict, **asdict(replace(self, findings=())), "findings": findings}


# ------------------------------------------------------------------------------
# Settings of the audit


class AuditConfig(BaseModel):
    """What the audit looks at, and from where on it speaks.

    Attributes:
        quick: Judge names and tables only; no pixel is read.
        near_bits: Perceptual hashes that differ in at most this many of 63 bits are looked at as near duplicates.
        near_correlation: Correlation that three quarters of a thumbnail's parts need to be called a near duplicate.
        orientations: Also find mirrored and turned copies (all eight orientations).
        tissue_free: A tile with a smaller share of stained pixels counts as free of tissue.
        tile_z: Robust z from which a tile's stain is called unusual.
        group_z: The same for a group's median; 3.5 is the usual limit (Iglewicz, Hoaglin: How to detect and handle
            outliers, 1993).
        few_groups: A class with fewer groups gets no interval over groups and no grouped folds.
        max_listed: Affected tiles listed per finding; all are counted, and unreadable files are always all listed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    quick: bool = False
    near_bits: int = Field(7, ge=0, le=7)
    near_correlation: float = Field(0.9, gt=0, le=1)
    orientations: bool = True
    tissue_free: float = Field(0.005, ge=0, lt=1)
    tile_z: float = Field(6.0, gt=0)
    group_z: float = Field(3.5, gt=0)
    few_groups: int = Field(5, ge=2)
    max_listed: int = Field(100, ge=1)


# ------------------------------------------------------------------------------
# The table that every finding is made from: a row per tile, sorted by id, with its class in words and its side


KEPT = (
    "tile_id", "group_id", "slide_id", "site", "scanner", "source_patient_id", "magnification", "width_px", "height_px",
    "label", "class", "side",
)  # fmt: skip


IN_FILES = ("tile_id", "group_id", "slide_id", "class", "side", "width_px", "height_px")
"""Columns of the files that hold all tiles of a finding."""


@dataclass(frozen=True)
class Facts:
    """A tile set as the audit sees it.

    Attributes:
        tiles: The tiles, sorted by tile_id.
        table: tile_id, group_id, slide_id, site, scanner, source_patient_id, magnification, width_px, height_px,
            label (class name as the tiles are labelled), class (its finest name), each "unlabelled" where there is
            none, side (null where a tile takes no part).
        class_names: Finest class names, in their own order.
        split: The split whose sides stand in ``side``; None where there is none.
        max_listed: Most tiles that a finding lists.
    """

    tiles: TileSet
    table: pl.DataFrame
    class_names: tuple[str, ...]
    split: AuditedSplit | None
    max_listed: int

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides that occur: train, valid, test, then the others by length and name."""
        order = {"train": 0, "valid": 1, "test": 2}
        present = self.table["side"].drop_nulls().unique().to_list()
        return tuple(sorted(present, key=lambda side: (order.get(side, 3), len(side), side)))

    def finding(
        self, check: str, verdict: Verdict, sentence: str, hit: pl.DataFrame, *tables: AuditTable, n: int | None = None
    ) -> AuditFinding:
        """Return what a check found: the tiles that were hit, the first of them by id, and what to do.

        Args:
            check: Its id, as in ``checks.toml``.
            verdict: How grave it is.
            sentence: What was found.
            hit: Rows of the table that it is about.
            *tables: The numbers behind it.
            n: How many things were found, where these are no tiles.
        """
        title, advice = CHECKS[check]["title"], CHECKS[check]["advice"]
        listed = tuple(hit["tile_id"].head(self.max_listed).to_list())
        n = len(hit) if n is None else n
        every = hit.select(one for one in IN_FILES if one in hit.columns) if len(hit) > self.max_listed else None
        return AuditFinding(check, title, verdict, sentence, n, len(hit), listed, advice, tables=tables, every=every)


def audit_facts(tiles: TileSet, split: Split | None, finest: TileSet | None, max_listed: int) -> Facts:
    """Lay out what is known about each tile without reading a pixel."""
    tiles = replace(tiles, table=tiles.table.sort("tile_id"))
    labels = finest if finest is not None else tiles
    classes = labels.table.select("tile_id", _in_words(labels).alias("class"))
    side = tiles.table["split"] if split is None else pl.Series(split.side_of_tiles(tiles), dtype=pl.String)
    named = tiles.table.with_columns(_in_words(tiles).alias("label"), side.alias("side"))
    table = named.join(classes, on="tile_id", how="left", maintain_order="left").with_columns(
        pl.col("class").fill_null(UNLABELLED), pl.col("magnification").fill_null(UNKNOWN)
    )
    return Facts(tiles, table.select(KEPT), labels.class_names, _split_facts(split, side), max_listed)


def frame_table(title: str, frame: pl.DataFrame) -> AuditTable:
    """Turn a data frame into a table of plain cells."""
    columns = tuple(name.replace("_", " ") for name in frame.columns)
    return AuditTable(title, columns, tuple(tuple(row) for row in frame.iter_rows()))


def natural(column: str) -> pl.Expr:
    """Return a sort key that puts 40X before 100X."""
    return pl.col(column).str.extract(r"^(\d+)").cast(pl.Int64).fill_null(10**9)


def some(names: Iterable[str], limit: int = 5) -> str:
    """Join names with commas; a long list is cut with a count of the rest."""
    listed = list(names)
    rest = len(listed) - limit
    return ", ".join(listed[:limit]) + (f" and {rest:,} more" if rest > 0 else "")


def count(n: int, one: str, many: str = "") -> str:
    """Return a number with its word in the right form.

    Example:
        >>> count(1, "tile"), count(2000, "tile")
        ('1 tile', '2,000 tiles')
    """
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def _in_words(tiles: TileSet) -> pl.Expr:
    names = dict(enumerate(tiles.class_names))
    return pl.col("label").replace_strict(names, default=None, return_dtype=pl.String).fill_null(UNLABELLED)


def _split_facts(split: Split | None, side: pl.Series) -> AuditedSplit | None:
    if split is not None:
        return AuditedSplit(split.name, split.split_hash, split.leaky, split.notes)
    return AuditedSplit(OFFICIAL) if side.drop_nulls().len() else None
