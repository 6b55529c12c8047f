"""One self-contained page: figures, tables and everything needed to repeat the run."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from histotune.evaluation.findings import UNIT
from histotune.report.added_sections import show_added
from histotune.report.choice import honest_scores, runners_up, selected_score, temperature, threshold
from histotune.report.curve_figures import ranking_figure
from histotune.report.figures import Figure, external_figure, leak_figure, magnification_figure
from histotune.report.growth_figures import growth_figure
from histotune.report.map_figures import map_figures
from histotune.report.paired_figures import paired_figure, paired_lines
from histotune.report.robustness_table import RobustnessSection, robustness_section
from histotune.report.rows import ScoreTable, score_tables
from histotune.report.sweep_figures import sweep_figure
from histotune.report.words import SYNTHETIC, count, covered_score, group_count, number
from histotune.tools.files import canonical_json, write_text
from histotune.tools.provenance import redact

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from jinja2 import Environment

    from histotune.evaluation.findings import DatasetFacts, Finding, FindingId, PartTable
    from histotune.report.run_folder import ReportInputs, Thumbnail
    from histotune.statistics.predictions import IntervalConfig


SHORT_TITLES: dict[FindingId, str] = {
    "in-domain": "In-domain",
    "cross-magnification": "Cross-magnification",
    "leak-price": "Leak's price",
    "external": "External validation",
    "direct": "Direct training",
}


@dataclass(frozen=True)
class PartSection:
    """A finding's probe by site, scanner, stain or unit, with what must be known to read it, or why there is none."""

    title: str
    finding: Finding
    tables: tuple[ScoreTable, ...]
    note: str


@dataclass(frozen=True)
class Section:
    """A finding as the page shows it."""

    finding: Finding
    short: str
    figure: Figure | None
    tables: tuple[ScoreTable, ...]
    marks: tuple[str, ...]
    parts: tuple[PartSection, ...]
    paired: Figure | None
    paired_lines: tuple[str, ...]
    robustness: tuple[RobustnessSection, ...]
    maps: tuple[Figure, ...]


@dataclass(frozen=True)
class Picture:
    """A tile of the largest errors, its JPEG as a data URI."""

    thumbnail: Thumbnail
    uri: str


@dataclass(frozen=True)
class Gallery:
    """The largest errors of one finding."""

    title: str
    pictures: tuple[Picture, ...]


def write_report(inputs: ReportInputs, path: Path) -> None:
    """Write the report as one HTML file that loads nothing, runs no script and is never half-written.

    Args:
        inputs: Everything the page shows.
        path: Target file, usually ``report.html``.

    Raises:
        UserError: The disk is full or the folder can't be written.

    Example:
        >>> write_report(inputs, Path("runs/demo/report.html"))  # doctest: +SKIP
    """
    write_text(path, render_page(inputs))


def render_page(inputs: ReportInputs) -> str:
    """Return the page's HTML; equal inputs give equal text.

    Args:
        inputs: Everything the page shows.

    Returns:
        A whole HTML document in valid Unicode.
    """
    return render_template(
        page_environment(),
        "report.html.j2",
        inputs=inputs,
        findings=inputs.findings,
        sections=tuple(_section(inputs, finding) for finding in inputs.findings.findings),
        sweep=sweep_figure(inputs.findings, inputs.artifacts),
        growth=_growth(inputs),
        added=show_added(inputs.added),
        galleries=tuple(_galleries(inputs)),
        credits=tuple(_credits(inputs)),
        command=redact(inputs.command),
        config_lines=tuple(flat_settings(inputs.config)),
        versions=_versions(inputs.provenance),
        machine=tuple(_machine(inputs.provenance)),
        total_s=sum(stage.seconds_s for stage in inputs.stages),
    )


def flat_settings(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield a nested config as (dotted field, value as JSON), sorted, in the form that ``--set`` takes.

    Sorted, because a run folder's JSON keeps no order and must give the same page.

    Args:
        value: The config; mappings are descended into, everything else is one value.
        prefix: Field path so far.

    Yields:
        Field and value.

    Example:
        >>> list(flat_settings({"sweep": {"seed": 0, "poolings": ["cls"]}}))
        [('sweep.poolings', '["cls"]'), ('sweep.seed', '0')]
    """
    if isinstance(value, dict) and value:
        for key, item in sorted(value.items()):
            yield from flat_settings(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, " ".join(canonical_json(value).split()).replace("[ ", "[").replace(" ]", "]")


def page_environment() -> Environment:
    """Return the templates of this room, everything escaped unless trusted, unknown names an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("histotune.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(count=count, group_count=group_count, number=number, score=covered_score)
    for words in (selected_score, honest_scores, temperature, threshold, runners_up):
        environment.filters[words.__name__] = words
    return environment


def render_template(
    environment: Environment,
    template: str,
    sheets: tuple[str, ...] = ("style.css",),
    **values: object,
) -> str:
    """Return a page that loads nothing: its styles inside, allowed by their hash alone.

    Args:
        environment: From :func:`page_environment`.
        template: Its name; it takes ``style`` and ``style_hash`` besides the values.
        sheets: Style sheets, in order.
        **values: What it shows.

    Returns:
        A whole HTML document in valid Unicode.
    """
    style = "\n".join(environment.get_template(name).render().strip() for name in sheets)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    page = environment.get_template(template).render(style=trusted_style(style), style_hash=digest, **values)
    # File names may hold bytes that are not UTF-8; Python keeps them as lone surrogates, which no file can store.
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def trusted_style(style: str) -> object:
    """Mark a style sheet as ours: it is a packaged file, and escaping its quotes would break it.

    Args:
        style: The sheet.

    Returns:
        The same text, which templates don't escape.
    """
    from markupsafe import Markup

    return Markup(style)  # noqa: S704  (packaged text, no user's word in it)


def _section(inputs: ReportInputs, finding: Finding) -> Section:
    marks = dict.fromkeys(mark for row in finding.rows for mark in row.marks if mark != SYNTHETIC)
    figure = _figure(inputs, finding)
    parts = tuple(_part_section(finding, part) for part in finding.parts)
    return Section(
        finding, SHORT_TITLES[finding.id], figure, score_tables(finding), tuple(marks), parts,
        paired_figure(finding, synthetic=inputs.findings.synthetic), paired_lines(finding),
        tuple(robustness_section(table, inputs.findings) for table in finding.robustness), _maps(inputs, finding),
    )  # fmt: skip


def _part_section(finding: Finding, part: PartTable) -> PartSection:
    """Return the probe's rows by site, scanner, stain or unit as tables like the finding's own."""
    note = part.note
    if part.rows and part.column != UNIT:
        note = (
            "Each row holds other cases, of another prevalence perhaps: a difference between rows need not be the "
            f"{part.column}'s doing."
        )
    shown = replace(finding, title=f"{finding.title}: the probe by {part.column}", rows=part.rows, parts=())
    return PartSection(f"By {part.column}", shown, score_tables(shown) if part.rows else (), note)


def _maps(inputs: ReportInputs, finding: Finding) -> tuple[Figure, ...]:
    """Return the maps of embeddings below the held-out score of the same tiles."""
    ids = [one.id for one in inputs.findings.findings if one.id in ("in-domain", "direct")]
    if finding.id not in ids[:1]:
        return ()
    return map_figures(inputs.artifacts.embedding_map, synthetic=inputs.findings.synthetic)


def _growth(inputs: ReportInputs) -> Figure | None:
    table = inputs.artifacts.label_efficiency
    return None if table is None else growth_figure(table, synthetic=inputs.findings.synthetic)


def _figure(inputs: ReportInputs, finding: Finding) -> Figure | None:
    if finding.id == "in-domain":
        return ranking_figure(finding, inputs.findings, inputs.artifacts, _interval_settings(inputs))
    draw = {"cross-magnification": magnification_figure, "leak-price": leak_figure}.get(finding.id, external_figure)
    return draw(finding, inputs.findings)


def _interval_settings(inputs: ReportInputs) -> IntervalConfig:
    """Return how the run's intervals were made."""
    from histotune.statistics.predictions import IntervalConfig

    saved = inputs.config.get("interval")
    return IntervalConfig.model_validate(saved if isinstance(saved, dict) else {})


def _galleries(inputs: ReportInputs) -> Iterator[Gallery]:
    titles = {finding.id: finding.title for finding in inputs.findings.findings}
    for finding in dict.fromkeys(item.finding for item in inputs.thumbnails):
        items = [item for item in inputs.thumbnails if item.finding == finding]
        title = next((text for key, text in titles.items() if key == finding), finding)
        yield Gallery(title, tuple(Picture(item, _data_uri(item.jpeg)) for item in items))


def _credits(inputs: ReportInputs) -> Iterator[DatasetFacts]:
    """Yield the data sets whose tiles are shown."""
    shown = [inputs.findings.dataset_of(item.domain) for item in inputs.thumbnails]
    yield from (dataset for dataset in inputs.findings.datasets if dataset in shown)


def _data_uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _versions(provenance: dict[str, object]) -> tuple[tuple[str, str], ...]:
    versions = provenance.get("versions")
    return (
        tuple((str(name), str(text)) for name, text in sorted(versions.items())) if isinstance(versions, dict) else ()
    )


def _machine(provenance: dict[str, object]) -> Iterator[tuple[str, str]]:
    """Yield everything of the provenance that is neither a version nor the command."""
    for key, value in sorted(provenance.items()):
        if key not in ("versions", "command"):
            for name, text in flat_settings(value, key):
                yield name.replace("_", " ").replace(".", " "), text.strip('"')
