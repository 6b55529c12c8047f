"""What names and tables alone tell: who lies on two sides of the split, which case has two ids or two diagnoses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from histotune.audit.verdicts import (
    UNKNOWN,
    UNLABELLED,
    AuditFinding,
    AuditTable,
    Verdict,
    count,
    frame_table,
    natural,
    some,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from histotune.audit.verdicts import AuditConfig, Facts

MIXED_SHARE = 1 / 3  # where more groups than this hold several classes, labels belong to tiles
JOIN_ADVICE = "Give all tiles of a case one side: split with `grouped` folds, by group_id."


@dataclass(frozen=True)
class _Unit:
    """What should lie on one side only."""

    column: str
    one: str
    many: str
    verdict: Verdict
    advice: str


UNITS = (
    _Unit("group_id", "group", "groups", "error", JOIN_ADVICE),
    _Unit("slide_id", "slide", "slides", "error", JOIN_ADVICE),
    _Unit("source_patient_id", "source patient", "source patients", "error", JOIN_ADVICE),
    _Unit("site", "site", "sites", "note", "A score on this split says nothing about a new site."),
)


def name_findings(facts: Facts, config: AuditConfig) -> Iterator[AuditFinding]:
    """Yield what can be found without reading a pixel."""
    if facts.split is None:
        yield AuditFinding(
            "split-groups",
            "Groups across sides",
            "note",
            "No split was given, so nothing was checked across sides.",
            advice="Repeat with --split NAME or a split file.",
        )
    else:
        known = (unit for unit in UNITS if facts.table[unit.column].null_count() < len(facts.table))
        yield from (_across_sides(facts, unit, config.max_listed) for unit in known)
    yield _unknown_groups(facts, config.max_listed)
    if facts.table["source_patient_id"].null_count() < len(facts.table):
        yield _several_patients(facts, config.max_listed)
    yield _several_diagnoses(facts, config.max_listed)
    yield _few_groups(facts, config)
    yield _odd_sizes(facts, config.max_listed)


def _across_sides(facts: Facts, unit: _Unit, max_listed: int) -> AuditFinding:
    assert facts.split is not None
    finding_id, title = f"split-{unit.many.replace(' ', '-')}", f"{unit.many.capitalize()} across sides"
    table = facts.table.filter(pl.col("side").is_not_null() & pl.col(unit.column).is_not_null())
    sides = table.group_by(unit.column).agg(pl.col("side").unique().sort().alias("sides"), pl.len().alias("tiles"))
    shared = sides.filter(pl.col("sides").list.len() > 1).sort(unit.column)
    if shared.is_empty():
        sentence = f"No {unit.one} lies on two sides ({facts.split.name}: {some(facts.sides, 8)})."
        return AuditFinding(finding_id, title, "ok", sentence)
    hit = table.filter(pl.col(unit.column).is_in(shared[unit.column].to_list()))
    judged = [side for side in facts.sides if side != "train"]
    exposed = hit.filter(pl.col("side").is_in(judged))
    details = _exposed_by_class(table, hit, judged)
    names = frame_table(f"{unit.many.capitalize()} on several sides", _with_joined(shared, "sides"))
    lie = "lies" if len(shared) == 1 else "lie"
    return AuditFinding(
        finding_id,
        title,
        unit.verdict,
        f"{count(len(shared), unit.one, unit.many)} {lie} on more than one side of {facts.split.name}: "
        + "; ".join(_exposure(table, hit, side, unit) for side in judged if (hit["side"] == side).any())
        + ".",
        n=len(shared),
        n_tiles=len(exposed),
        tile_ids=_listed(exposed, max_listed),
        advice=unit.advice,
        tables=(names, frame_table("Tiles that share with another side", details)),
    )


def _exposure(table: pl.DataFrame, hit: pl.DataFrame, side: str, unit: _Unit) -> str:
    on_side, shared = table.filter(pl.col("side") == side), hit.filter(pl.col("side") == side)
    by_class = _exposed_by_class(on_side, shared, [side])
    parts = ", ".join(
        f"{name} {n_shared:,} of {n:,}" for _, name, n, n_shared in by_class.iter_rows() if name != UNLABELLED
    )
    return f"{len(shared):,} of {len(on_side):,} tiles of {side} are of {unit.many} that also lie elsewhere" + (
        f" ({parts})" if parts else ""
    )


def _exposed_by_class(table: pl.DataFrame, hit: pl.DataFrame, sides: list[str]) -> pl.DataFrame:
    counted = table.group_by("side", "class").agg(pl.len().alias("tiles"))
    shared = hit.group_by("side", "class").agg(pl.len().alias("shared"))
    joined = counted.join(shared, on=["side", "class"], how="left").with_columns(pl.col("shared").fill_null(0))
    kept = joined.filter(pl.col("side").is_in(sides))
    return kept.sort("side", "shared", "class", descending=[False, True, False])


def _unknown_groups(facts: Facts, max_listed: int) -> AuditFinding:
    lost = facts.table.filter(pl.col("group_id").is_null())
    if lost.is_empty():
        return AuditFinding("groups-unknown", "Tiles without a group", "ok", "The group of every tile is known.")
    return AuditFinding(
        "groups-unknown",
        "Tiles without a group",
        "warning",
        f"The group of {len(lost):,} of {count(len(facts.table), 'tile')} is unknown, so no grouped split or interval "
        "can be made on them, and whether one case lies on two sides can't be checked.",
        n=len(lost),
        n_tiles=len(lost),
        tile_ids=_listed(lost, max_listed),
        advice="Add the column that names case or slide (PatchCamelyon: the meta.csv files).",
    )


def _several_patients(facts: Facts, max_listed: int) -> AuditFinding:
    title = "Cases under several ids"
    groups = _groups_with_several(facts.table, "source_patient_id")
    if groups.is_empty():
        return AuditFinding("group-patients", title, "ok", "No group holds several of the authors' patient ids.")
    hit = facts.table.filter(pl.col("group_id").is_in(groups["group_id"].to_list()))
    n_ids = int(groups["source_patient_id"].list.len().sum())
    return AuditFinding(
        "group-patients",
        title,
        "note",
        f"{count(n_ids, 'patient id')} of the authors belong to {count(len(groups), 'group')}, such as "
        f"{groups['group_id'][0]} ({some(groups['source_patient_id'][0])}).",
        n=len(groups),
        n_tiles=len(hit),
        tile_ids=_listed(hit, max_listed),
        advice="Groups keep each case together; a split by the authors' ids would put one case on both sides.",
        tables=(frame_table("Groups with several patient ids", _with_joined(groups, "source_patient_id")),),
    )


def _several_diagnoses(facts: Facts, max_listed: int) -> AuditFinding:
    finding_id, title = "group-labels", "Cases with several diagnoses"
    labelled = facts.table.filter(pl.col("class") != UNLABELLED)
    groups = _groups_with_several(labelled, "class")
    n_groups = labelled["group_id"].drop_nulls().n_unique()
    if groups.is_empty():
        return AuditFinding(finding_id, title, "ok", "No group holds several classes.")
    if facts.tiles.label_region is not None or len(groups) > MIXED_SHARE * n_groups:
        sentence = f"{len(groups):,} of {n_groups:,} groups hold several classes: labels belong to tiles, not to cases."
        return AuditFinding(finding_id, title, "ok", sentence, n=len(groups))
    hit = labelled.filter(pl.col("group_id").is_in(groups["group_id"].to_list()))
    named = some(f"{group} ({', '.join(classes)})" for group, classes in groups.select("group_id", "class").iter_rows())
    has = "has" if len(groups) == 1 else "have"
    return AuditFinding(
        finding_id,
        title,
        "warning",
        f"{count(len(groups), 'group')} {has} several diagnoses: {named}.",
        n=len(groups),
        n_tiles=len(hit),
        tile_ids=_listed(hit, max_listed),
        advice="Keep each such case on one side whatever its class; ask the data set's authors which diagnosis holds.",
        tables=(frame_table("Groups with several classes", _with_joined(groups, "class")),),
    )


def _few_groups(facts: Facts, config: AuditConfig) -> AuditFinding:
    finding_id, title, limit = "class-groups", "Groups per class", config.few_groups
    table = facts.table.filter((pl.col("label") != UNLABELLED) & pl.col("group_id").is_not_null())
    if table.is_empty():
        return AuditFinding(finding_id, title, "note", "Groups per class can't be counted: no labelled tile has one.")
    parts = facts.split is not None and "train" in facts.sides
    places = ["side", "magnification"] if parts else ["magnification"]
    counted = table.filter(pl.col("side").is_not_null()) if parts else table
    counted = counted.group_by(*places, "label").agg(tiles=pl.len(), groups=pl.col("group_id").n_unique())
    few = counted.filter(pl.col("groups") < limit).sort(natural("magnification"), *places, "groups", "label")
    if few.is_empty():
        return AuditFinding(finding_id, title, "ok", f"Every class has at least {limit} groups wherever it occurs.")
    rows = few.select(
        pl.concat_str(places, separator=" ").str.replace(UNKNOWN, "").str.strip_chars(), "label", "groups"
    )
    named = some((f"{where} {label} {n}".strip() for where, label, n in rows.iter_rows()), 8)
    return AuditFinding(
        finding_id,
        title,
        "warning",
        f"Fewer than {limit} groups of a class: {named}. No interval over groups can be given there, and folds lack "
        "the class.",
        n=len(few),
        n_tiles=int(few["tiles"].sum()),
        advice="Join classes, or report these classes without an interval.",
        tables=(frame_table(f"Classes with fewer than {limit} groups", few.rename({"label": "class"})),),
    )


def _odd_sizes(facts: Facts, max_listed: int) -> AuditFinding:
    finding_id, title = "sizes", "Tile sizes"
    known = facts.table.filter(pl.col("width_px").is_not_null() & pl.col("height_px").is_not_null())
    if known.is_empty():
        return AuditFinding(finding_id, title, "ok", "Sizes are not known before tiles are read.")
    sizes = known.group_by("width_px", "height_px").agg(tiles=pl.len())
    sizes = sizes.sort("tiles", "width_px", "height_px", descending=[True, False, False])
    width_px, height_px, n_usual = sizes.row(0)
    if len(sizes) == 1:
        return AuditFinding(finding_id, title, "ok", f"Every tile is {width_px} x {height_px} px.")
    odd = known.filter((pl.col("width_px") != width_px) | (pl.col("height_px") != height_px))
    others = some(f"{w} x {h}: {n:,}" for w, h, n in sizes[1:].iter_rows())
    return AuditFinding(
        finding_id,
        title,
        "note",
        f"{len(odd):,} of {len(known):,} tiles are not {width_px} x {height_px} px like the other {n_usual:,} "
        f"({others}).",
        n=len(odd),
        n_tiles=len(odd),
        tile_ids=_listed(odd, max_listed),
        advice="Views resize by the short side, so another size is another scale at the network's input.",
        tables=(frame_table("Sizes", sizes),),
    )


def balance_tables(facts: Facts, max_rows: int = 1000) -> tuple[AuditTable, ...]:
    """Count tiles and groups by class, magnification, side and group."""
    order = {name: place for place, name in enumerate(facts.class_names)}
    keys = ("magnification", "class")
    counted = facts.table.group_by(*keys).agg(
        tiles=pl.len(),
        groups=pl.col("group_id").drop_nulls().n_unique(),
        **{f"{side}: tiles": (pl.col("side") == side).sum() for side in facts.sides},
        **{f"{side}: groups": pl.col("group_id").filter(pl.col("side") == side).n_unique() for side in facts.sides},
    )
    place = pl.col("class").replace_strict(order, default=len(order), return_dtype=pl.Int64)
    classes = frame_table(
        "Classes by magnification and side", counted.sort(natural("magnification"), "magnification", place)
    )
    known = facts.table.filter(pl.col("group_id").is_not_null())
    if known.is_empty():
        return (classes,)
    groups = known.group_by("group_id").agg(
        slides=pl.col("slide_id").drop_nulls().n_unique(),
        tiles=pl.len(),
        **{name: (pl.col("class") == name).sum() for name in _present(facts)},
        **{f"at {m}": (pl.col("magnification") == m).sum() for m in _magnifications(facts)},
        sides=pl.col("side").drop_nulls().unique().sort().str.join(", "),
    )
    title = "Groups" + (f" (the first {max_rows:,} of {len(groups):,})" if len(groups) > max_rows else "")
    return classes, frame_table(title, groups.sort("group_id").head(max_rows))


def _present(facts: Facts) -> list[str]:
    present = set(facts.table["class"].unique().to_list())
    return [name for name in (*facts.class_names, UNLABELLED) if name in present]


def _magnifications(facts: Facts) -> list[str]:
    found = facts.table.select("magnification").unique().sort(natural("magnification"), "magnification")
    names = found["magnification"].to_list()
    return names if len(names) > 1 else []


def _groups_with_several(table: pl.DataFrame, column: str) -> pl.DataFrame:
    grouped = table.filter(pl.col("group_id").is_not_null()).group_by("group_id")
    counted = grouped.agg(pl.col(column).drop_nulls().unique().sort(), tiles=pl.len())
    return counted.filter(pl.col(column).list.len() > 1).sort("group_id")


def _with_joined(table: pl.DataFrame, column: str) -> pl.DataFrame:
    return table.with_columns(pl.col(column).list.join(", "))


def _listed(table: pl.DataFrame, max_listed: int) -> tuple[str, ...]:
    return tuple(table["tile_id"].head(max_listed).to_list())
