"""The catalog for people: a table of all, all facts about one, and what a check found."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from histotune.backbones.entry import FIGURES, CatalogEntry

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.table import Table

    from histotune.backbones.access import AccessReport

ANSWERS = {True: "yes", False: "no", None: "see licence"}
SEEN = {"yes": "●", "no": "-", "unknown": "?"}
STATES = {"ok": "ok", "problem": "NO", "unknown": "?"}
LEGEND = (
    "Overlap: ● the pretraining data, as its authors describe it, holds TCGA / Camelyon16 (PCam) / BreakHis images, "
    "- it does not, ? not known.\n"
    "shape-verified: built at full size and compared with the cited figures. listed: needs code of its own.\n"
    "All facts and their sources: histotune backbones show NAME. Can I use it here: histotune backbones check NAME."
)


def catalog_table(entries: Iterable[CatalogEntry]) -> Table:
    """Return a table with a row per backbone.

    Args:
        entries: The catalog.

    Returns:
        A table to print.
    """
    from rich.table import Table

    table = Table(title="Backbones", caption=LEGEND, caption_justify="left", title_justify="left", pad_edge=False)
    for name in ("name", "params", "dim", "mpp", "gated", "licence", "commercial", "overlap T/C/B", "status"):
        table.add_column(name, justify="right" if name in ("params", "dim") else "left", overflow="fold")
    for entry in entries:
        spec, o = entry.spec, entry.overlap
        table.add_row(
            entry.name,
            params_words(entry),
            "" if entry.dim is None else str(entry.dim),
            _mpp(spec.training_mpp),
            "gated" if spec.gated else "",
            entry.licence.name.removesuffix(" (gated)"),
            ANSWERS[entry.licence.commercial],
            " ".join(SEEN[one] for one in (o.tcga, o.camelyon16, o.breakhis)),
            entry.status,
        )
    return table


def params_words(entry: CatalogEntry) -> str:
    """Return the cited number of parameters as people write it; empty where none is cited.

    Args:
        entry: The entry.

    Returns:
        Such as "1.1 B" or "21.7 M".
    """
    if entry.params_m is None:
        return ""
    if entry.params_m >= 1000:
        return f"{entry.params_m / 1000:g} B"
    return f"{entry.params_m:g} M"


def entry_text(entry: CatalogEntry) -> str:
    """Return everything known about a backbone, each figure with its sources.

    Args:
        entry: The entry.

    Returns:
        Lines to print.
    """
    lines = [f"{entry.name}: {entry.about}", f"  status: {entry.status}"]
    if entry.own_code is not None:
        lines += [f"  why it is only listed: {entry.own_code.reason}", f"  what to do: {entry.own_code.fix}"]
    lines += [f"  {label}: {words}{_marks(entry, figure)}" for label, words, figure in _facts(entry) if words]
    licence = entry.licence
    lines += [
        f"  licence: {licence.name} ({licence.source})",
        f"    commercial use: {ANSWERS[licence.commercial]}; pass on the weights: {ANSWERS[licence.share_weights]}; "
        f"pass on fine-tuned ones: {ANSWERS[licence.share_derivatives]}; "
        f"embeddings and heads bound too: {ANSWERS[licence.outputs_restricted]}",
        f"  cite: {entry.spec.citation}",
        *(f"  note: {note}" for note in entry.notes),
        "  sources:",
        *(f"    [{number}] {source.where}" for number, source in enumerate(entry.sources, start=1)),
    ]
    return "\n".join(lines)


def access_table(reports: Sequence[AccessReport]) -> Table:
    """Return a table of what checks found.

    Args:
        reports: One per backbone.

    Returns:
        A table to print.
    """
    from rich.table import Table

    table = Table(title="Access", title_justify="left", pad_edge=False)
    for name in ("backbone", "", "", "answer", "what to do"):
        table.add_column(name, overflow="fold")
    for report in reports:
        for number, one in enumerate(report.findings):
            table.add_row(report.name if number == 0 else "", one.what, STATES[one.state], one.words, one.fix)
        verdict = "can be used" if report.usable else "can't be used yet"
        table.add_row("", "", "", verdict, "", style="bold", end_section=True)
    return table


def _facts(entry: CatalogEntry) -> tuple[tuple[str, str, str], ...]:
    """Return (label, words, figure) per fact, in the order of the catalog's columns."""
    spec, o = entry.spec, entry.overlap
    loadable = entry.own_code is None
    unpinned = "unpinned: the commit found at first load is recorded with the run" if spec.repository else ""
    blocks = ", ".join(f"{block.name} {block.stop - block.start}" for block in entry.blocks)
    facts = (
        ("hub", spec.repository, "hub"),
        ("revision", spec.revision or (unpinned if loadable else ""), "revision"),
        ("access", "gated: accept the licence on its page" if spec.gated else "", "gated"),
        ("parameters", params_words(entry), "params"),
        ("column blocks", blocks if loadable else "", "dim"),
        ("dim", "" if loadable or entry.dim is None else str(entry.dim), "dim"),
        ("register tokens", "" if entry.registers is None else str(entry.registers), "registers"),
        ("architecture", _architecture(entry) if loadable else "", "architecture"),
        ("recommended pooling", " + ".join(spec.default_pooling) if loadable else "", "pooling"),
        ("input", f"{spec.size_px} px, {spec.interpolation}" if loadable else "", "size"),
        ("normalisation", f"mean {_triple(spec.mean)}, std {_triple(spec.std)}" if loadable else "", "normalisation"),
        ("training mpp", _mpp(spec.training_mpp), "mpp"),
        ("overlap", f"TCGA {o.tcga}, Camelyon16 (PCam) {o.camelyon16}, BreakHis {o.breakhis}: {spec.overlap}",
         "overlap"),
        ("adapter", spec.adapter, "hub"),
        ("needs", entry.needs, "architecture"),
    )  # fmt: skip
    assert {figure for _, _, figure in facts} <= set(FIGURES)
    return facts


def _architecture(entry: CatalogEntry) -> str:
    spec = entry.spec
    if spec.kind == "transformers":
        return json.dumps(dict(spec.model_args))
    return f"timm {spec.source} {json.dumps(dict(spec.model_args))}" if spec.model_args else spec.source


def _marks(entry: CatalogEntry, figure: str) -> str:
    numbers = [str(number) for number, source in enumerate(entry.sources, start=1) if figure in source.figures]
    return f" [{', '.join(numbers)}]" if numbers else ""


def _mpp(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _triple(values: tuple[float, float, float]) -> str:
    return "/".join(f"{value:g}" for value in values)
