"""What an audit finds: a verdict per finding, with the tiles it is about and what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Verdict = Literal["ok", "note", "warning", "error"]
VERDICTS: tuple[Verdict, ...] = ("ok", "note", "warning", "error")  # rising
Cell = str | int | float | None


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
        verdict: ``ok``, ``note`` (know it), ``warning`` (mind it) or ``error`` (results would be wrong).
        sentence: What was found.
        n: How many: clusters, groups or tiles, as the sentence says.
        n_tiles: Tiles concerned.
        tile_ids: Some of them, sorted.
        advice: What to do; empty where nothing needs doing.
        clusters: Tiles that belong together, the weightiest first; some of them.
        tables: Details.
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
        return {"verdict": self.verdict, **asdict(self)}
