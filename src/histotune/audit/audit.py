"""The audit of a data set, from names to pixels to embeddings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from histotune.audit.duplicates import EXACT, FIELDS, NEAR, duplicate_finding, exact_copies, near_copies
from histotune.audit.leaks import balance_tables, name_findings
from histotune.audit.overlap import cached_embeddings, overlapping_fields
from histotune.audit.pixels import BadTile, header_problem, pixel_findings, scan, unreadable
from histotune.audit.verdicts import Audit, AuditConfig, AuditFinding, audit_facts, count
from histotune.datasets.dataset_spec import known_specs
from histotune.datasets.disk import IMAGE_SUFFIXES, list_files
from histotune.datasets.read import read_dataset
from histotune.images.config import LoaderConfig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from histotune.audit.pixels import Fingerprints
    from histotune.audit.verdicts import Facts
    from histotune.datasets.config import DatasetConfig
    from histotune.datasets.splits.split import Split
    from histotune.datasets.tileset import TileSet


@dataclass(frozen=True)
class AuditRequest:
    """What is audited.

    Attributes:
        tiles: The tiles; labels as they will be used.
        split: The split to check; None takes the data set's own parts.
        finest: The same files under their finest labels; None uses those of ``tiles``.
        config: What is looked at.
        loader: How pixels are read.
        cache: Cache whose embeddings are looked through for overlapping fields; None leaves them out.
        unread: Files that the reader had to leave out because they can't be read.
    """

    tiles: TileSet
    split: Split | None = None
    finest: TileSet | None = None
    config: AuditConfig = field(default_factory=AuditConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    cache: Path | None = None
    unread: tuple[BadTile, ...] = ()


def audit(request: AuditRequest) -> Audit:
    """Look a data set over before anything is trained on it; a bad file is a finding, not the end.

    Args:
        request: Tiles, split, settings.

    Returns:
        A verdict per finding, with tables.

    Example:
        >>> from histotune.datasets.read import read_dataset  # doctest: +SKIP
        >>> audit(AuditRequest(read_dataset(config))).verdict  # doctest: +SKIP
        'warning'
    """
    # From what costs nothing to what reads every pixel: names and tables first.
    facts = audit_facts(request.tiles, request.split, request.finest, request.config.max_listed)
    findings = list(name_findings(facts, request.config.few_groups))
    findings += _unread_by_name(facts) if request.config.quick else _pixel_findings(facts, request)
    tiles = facts.tiles
    spec = known_specs().get(tiles.name)
    return Audit(
        name=tiles.name,
        title=spec.title if spec else tiles.name,
        synthetic=tiles.synthetic,
        licence=tiles.licence,
        citation=tiles.citation,
        n_tiles=len(tiles),
        n_groups=tiles.n_groups,
        group=spec.group if spec else "the group_id column",
        split=facts.split,
        settings=request.config.model_dump(mode="json"),
        findings=tuple(findings),
        tables=balance_tables(facts),
        notes=(*tiles.notes, *_own_notes(request.config)),
    )


def finest_labels(config: DatasetConfig) -> TileSet | None:
    """Read a data set under the scheme that tells most classes apart, such as BreakHis's eight diagnoses."""
    spec = known_specs().get(config.name)
    schemes = spec.schemes if spec else ()
    finest = max(schemes, key=lambda scheme: len(scheme.class_names), default=None)
    if finest is None or finest.name == config.labels or len(schemes) == 1:
        return None
    return read_dataset(config.model_copy(update={"labels": finest.name}))


def unread_files(root: Path, tiles: TileSet) -> tuple[BadTile, ...]:
    """Find image files below a folder that are no tiles and whose header can't be read; a table names its own."""
    if root.is_file():
        return ()
    listing = list_files(root)
    known = set(tiles.table["path"].unique().to_list())
    others = (path for path in listing.paths if path not in known and path.lower().endswith(IMAGE_SUFFIXES))
    reasons = ((path, header_problem(path)) for path in others)
    return tuple(BadTile(-1, listing.relative(path), reason) for path, reason in reasons if reason)


def _unread_by_name(facts: Facts) -> Iterator[AuditFinding]:
    """Say what the reader itself could not read; whether the others can be read, names alone don't tell."""
    n_skipped = facts.tiles.n_skipped
    if n_skipped:
        sentence = f"{count(n_skipped, 'file')} could not be read and {'is' if n_skipped == 1 else 'are'} no tile here."
        yield facts.finding("unreadable", "error", sentence, facts.table.clear(), n=n_skipped)


def _pixel_findings(facts: Facts, request: AuditRequest) -> Iterator[AuditFinding]:
    config = request.config
    found = scan(facts.tiles, request.loader)
    yield unreadable(facts, (*request.unread, *found.bad))
    exact = exact_copies(found.fingerprints)
    yield duplicate_finding(facts, exact, EXACT)
    near = near_copies(found.fingerprints, exact, config)
    yield duplicate_finding(facts, near, NEAR)
    if request.cache is not None:
        yield _fields(facts, found.fingerprints, request, request.cache)
    yield from pixel_findings(facts, found.fingerprints, config)


def _fields(facts: Facts, fingerprints: Fingerprints, request: AuditRequest, cache: Path) -> AuditFinding:
    embeddings = cached_embeddings(facts.tiles, fingerprints.read_N, cache, rehash=request.loader.rehash)
    if embeddings is None:
        sentence = "Not checked, because no network's embeddings of these tiles are in the cache."
        return AuditFinding(FIELDS.id, FIELDS.title, "not checked", sentence, advice="Run `histotune embed` first.")
    fields = overlapping_fields(facts, fingerprints, embeddings, request.loader)
    return duplicate_finding(facts, fields, FIELDS)


def _own_notes(config: AuditConfig) -> tuple[str, ...]:
    if config.quick:
        return ("Quick: names and tables only; no pixel was read, so duplicates, blank tiles and stain are unknown.",)
    return ()
