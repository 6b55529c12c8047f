"""What names and tables alone tell: who lies on two sides of the split, which case has two ids or two diagnoses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import polars as pl

from histotune.audit.verdicts import (
    CHECKS,
    UNKNOWN,
    UNLABELLED,
    AuditFinding,
    AuditTable,
    Verdict,
    count,
    frame_table,
    natural,
    not_checked,
    passed,
    some,
)
from histotune.datasets.describe import groups_with_several

if TYPE_CHECKING:
    from collections.abc import Iterator

    from histotune.audit.verdicts import Facts

MIXED_SHARE = 1 / 3  # where more groups than this hold several classes, labels belong to tiles


@dataclass(frozen=True)
class _Unit:
    """What should lie on one side only, as ``checks.toml`` has it."""

    column: str
    one: str
    many: str
    verdict: Verdict


UNITS = {check: _Unit(**facts["unit"]) for check, facts in CHECKS.items() if "unit" in facts}


def name_findings(facts: Facts, few_groups: int) -> Iterator[AuditFinding]:
    """Yield what can be found without reading a pixel."""
    if facts.split is None:
        yield not_checked("split-groups", "no split was given", "Repeat with --split NAME or a split file.")
    else:
        for check, unit in UNITS.items():
            if check == "split-groups" or facts.table[unit.column].null_count() < len(facts.table):
                yield _across_sides(facts, check, unit, facts.split.name)
    yield _unknown_groups(facts)
    if facts.table["source_patient_id"].null_count() < len(facts.table):
        yield _several_patients(facts)
    yield _several_diagnoses(facts)
    yield _few_groups(facts, few_groups)
    yield _odd_sizes(facts)


def _across_sides(facts: Facts, check: str, unit: _Unit, split: str) -> AuditFinding:
    table = facts.table.filter(pl.col("side").is_not_null() & pl.col(unit.column).is_not_null())
    n_unknown = facts.table.filter(pl.col("side").is_not_null() & pl.col(unit.column).is_null()).height
    if table["side"].n_unique() < 2:
        known = f"{unit.many} are known on {some(sorted(set(table['side'])))} only" if len(table) else ""
        return not_checked(check, known or f"the {unit.one} of every tile on a side is unknown")
    sides = table.group_by(unit.column).agg(pl.col("side").unique().sort().alias("sides"), pl.len().alias("tiles"))
    shared = sides.filter(pl.col("sides").list.len() > 1).sort(unit.column)
    if shared.is_empty():
        rest = f" {count(n_unknown, 'tile')} of unknown {unit.one} could not be checked." if n_unknown else ""
        return passed(check, f"No known {unit.one} lies on two sides ({split}: {some(facts.sides, 8)}).{rest}")
    hit = table.filter(pl.col(unit.column).is_in(shared[unit.column].to_list()))
    judged = [side for side in facts.sides if side != "train"]
    lie = "lies" if len(shared) == 1 else "lie"
    return facts.finding(
        check,
        unit.verdict,
        f"{count(len(shared), unit.one, unit.many)} {lie} on more than one side of {split}: "
        + "; ".join(_exposure(table, hit, side, unit) for side in judged if (hit["side"] == side).any())
        + ".",
        hit.filter(pl.col("side").is_in(judged)),
        frame_table(f"{unit.many.capitalize()} on several sides", _with_joined(shared, "sides")),
        frame_table("Tiles that share with another side", _exposed_by_class(table, hit, judged)),
        n=len(shared),
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


def _unknown_groups(facts: Facts) -> AuditFinding:
    lost = facts.table.filter(pl.col("group_id").is_null())
    if lost.is_empty():
        return passed("groups-unknown", "The group of every tile is known.")
    sentence = (
        f"The group of {len(lost):,} of {count(len(facts.table), 'tile')} is unknown, so no grouped split or interval "
        "can be made on them, and whether one case lies on two sides can't be checked."
    )
    return facts.finding("groups-unknown", "warning", sentence, lost)


def _several_patients(facts: Facts) -> AuditFinding:
    if facts.table.select(pl.any_horizontal(pl.col("group_id", "source_patient_id").is_null()).all()).item():
        return not_checked("group-patients", "no tile has both a group and a patient id of the authors")
    groups = groups_with_several(facts.table, "source_patient_id")
    if groups.is_empty():
        return passed("group-patients", "No group holds several of the authors' patient ids.")
    n_ids = int(groups["source_patient_id"].list.len().sum())
    sentence = (
        f"{count(n_ids, 'patient id')} of the authors belong to {count(len(groups), 'group')}, such as "
        f"{groups['group_id'][0]} ({some(groups['source_patient_id'][0])})."
    )
    hit = facts.table.filter(pl.col("group_id").is_in(groups["group_id"].to_list()))
    names = frame_table("Groups with several patient ids", _with_joined(groups, "source_patient_id"))
    return facts.finding("group-patients", "note", sentence, hit, names, n=len(groups))


def _several_diagnoses(facts: Facts) -> AuditFinding:
    labelled = facts.table.filter(pl.col("class") != UNLABELLED)
    groups = groups_with_several(labelled, "class")
    sizes = labelled.filter(pl.col("group_id").is_not_null()).group_by("group_id").len()
    n_groups, n_several = len(sizes), int((sizes["len"] > 1).sum())
    if not n_several:
        return not_checked("group-labels", "no group is known to hold two labelled tiles")
    if groups.is_empty():
        return passed("group-labels", "No group holds several classes.")
    if facts.tiles.label_region is not None or len(groups) > MIXED_SHARE * n_groups:
        sentence = f"{len(groups):,} of {n_groups:,} groups hold several classes: labels belong to tiles, not to cases."
        return passed("group-labels", sentence, n=len(groups))
    hit = labelled.filter(pl.col("group_id").is_in(groups["group_id"].to_list()))
    named = some(f"{group} ({', '.join(classes)})" for group, classes in groups.select("group_id", "class").iter_rows())
    sentence = f"{count(len(groups), 'group')} {'has' if len(groups) == 1 else 'have'} several diagnoses: {named}."
    names = frame_table("Groups with several classes", _with_joined(groups, "class"))
    return facts.finding("group-labels", "warning", sentence, hit, names, n=len(groups))


def _few_groups(facts: Facts, limit: int) -> AuditFinding:
    table = facts.table.filter((pl.col("label") != UNLABELLED) & pl.col("group_id").is_not_null())
    if table.is_empty():
        return not_checked("class-groups", "no labelled tile has a group")
    parts = facts.split is not None and "train" in facts.sides
    places = ["side", "magnification"] if parts else ["magnification"]
    counted = table.filter(pl.col("side").is_not_null()) if parts else table
    counted = counted.group_by(*places, "label").agg(tiles=pl.len(), groups=pl.col("group_id").n_unique())
    few = counted.filter(pl.col("groups") < limit).sort(natural("magnification"), *places, "groups", "label")
    if few.is_empty():
        return passed("class-groups", f"Every class has at least {limit} groups wherever it occurs.")
    rows = few.select(
        pl.concat_str(places, separator=" ").str.replace(UNKNOWN, "").str.strip_chars(), "label", "groups"
    )
    named = some((f"{where} {label} {n}".strip() for where, label, n in rows.iter_rows()), 8)
    sentence = (
        f"Fewer than {limit} groups of a class: {named}. No interval over groups can be given there, and folds lack "
        "the class."
    )
    numbers = frame_table(f"Classes with fewer than {limit} groups", few.rename({"label": "class"}))
    found = facts.finding("class-groups", "warning", sentence, facts.table.clear(), numbers, n=len(few))
    return replace(found, n_tiles=int(few["tiles"].sum()))


def _odd_sizes(facts: Facts) -> AuditFinding:
    known = facts.table.filter(pl.col("width_px").is_not_null() & pl.col("height_px").is_not_null())
    if known.is_empty():
        return not_checked("sizes", "sizes are not known before tiles are read")
    sizes = known.group_by("width_px", "height_px").agg(tiles=pl.len())
    sizes = sizes.sort("tiles", "width_px", "height_px", descending=[True, False, False])
    width_px, height_px, n_usual = sizes.row(0)
    if len(sizes) == 1:
        return passed("sizes", f"Every tile is {width_px} x {height_px} px.")
    odd = known.filter((pl.col("width_px") != width_px) | (pl.col("height_px") != height_px))
    others = some(f"{w} x {h}: {n:,}" for w, h, n in sizes[1:].iter_rows())
    sentence = (
        f"{len(odd):,} of {len(known):,} tiles are not {width_px} x {height_px} px like the other {n_usual:,} "
        f"({others})."
    )
    return facts.finding("sizes", "note", sentence, odd, frame_table("Sizes", sizes))


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
    present = set(facts.table["class"].unique().to_list())
    magnifications = (
        facts.table.select("magnification").unique().sort(natural("magnification"), "magnification").to_series()
    )
    groups = known.group_by("group_id").agg(
        slides=pl.col("slide_id").drop_nulls().n_unique(),
        tiles=pl.len(),
        **{name: (pl.col("class") == name).sum() for name in (*facts.class_names, UNLABELLED) if name in present},
        **{f"at {m}": (pl.col("magnification") == m).sum() for m in magnifications if len(magnifications) > 1},
        sides=pl.col("side").drop_nulls().unique().sort().str.join(", "),
    )
    title = "Groups" + (f" (the first {max_rows:,} of {len(groups):,})" if len(groups) > max_rows else "")
    return classes, frame_table(title, groups.sort("group_id").head(max_rows))


def _with_joined(table: pl.DataFrame, column: str) -> pl.DataFrame:
    return table.with_columns(pl.col(column).list.join(", "))
