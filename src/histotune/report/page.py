"""One self-contained page: figures, tables and everything needed to repeat the run."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from histotune.evaluation.findings import UNIT
from histotune.report.decision_tables import decision_tables
from histotune.report.figures import (
    external_figure,
    leak_figure,
    magnification_figure,
    paired_figure,
    paired_lines,
)
from histotune.report.short_sections import short_sections
from histotune.report.story import first_screen
from histotune.report.study_figures import few_shot_figure, matrix_figure, recovery_figures
from histotune.report.study_tables import (
    cell_tables,
    choice_tables,
    conclusion_first,
    embedding_tables,
    transfer_tables,
)
from histotune.report.svg import PLOTS, Drawings
from histotune.report.sweep_figures import TrainedOn, label_efficiency_figure, map_figures, sweep_figure, trials_figure
from histotune.report.tables import part_finding, robustness_section, score_tables
from histotune.report.words import count, covered_score, group_count, number, runners_up
from histotune.tools.files import canonical_json, write_text
from histotune.tools.marks import LEAKY, SYNTHETIC
from histotune.tools.provenance import redact
from histotune.tools.tabular import write_parquet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import polars as pl
    from jinja2 import Environment
    from markupsafe import Markup

    from histotune.datasets.tileset import TileSet
    from histotune.evaluation.findings import DatasetFacts, Finding, PartTable
    from histotune.report.charts import Figure
    from histotune.report.run_folder import ReportInputs, Thumbnail


def write_report(inputs: ReportInputs, path: Path, drawings: Drawings | None = None) -> None:
    """Write the report as one HTML file that loads nothing and is never half-written.

    Args:
        inputs: Everything the page shows.
        path: Target file, usually ``report.html``.
        drawings: Where its pictures are kept; without them they stand on the page alone.

    Raises:
        UserError: The disk is full or the folder can't be written.

    Example:
        >>> write_report(inputs, Path("runs/demo/report.html"))  # doctest: +SKIP
    """
    drawings = drawings or Drawings()
    write_text(path, render_page(inputs, drawings))
    drawings.finish()


def render_page(inputs: ReportInputs, drawings: Drawings | None = None) -> str:
    """Return the page's HTML; equal inputs give equal text."""
    findings, artifacts = inputs.findings, inputs.artifacts
    return render_template(
        page_environment(),
        "report.html.j2",
        drawings=drawings or Drawings(),
        inputs=inputs,
        findings=findings,
        synthetic=findings.synthetic,
        first=first_screen(findings, known_overlap(findings.backbone)),
        sections=short_sections(inputs),
        sweep=sweep_figure(findings, artifacts),
        label_efficiency=label_efficiency_figure(artifacts.label_efficiency, synthetic=findings.synthetic),
        choices=choice_tables(findings),
        embeddings=embedding_tables(inputs.provenance),
        galleries=tuple(_galleries(inputs)),
        credits=tuple(_credits(inputs)),
        machine=tuple(_machine(inputs.provenance)),
    )


def known_overlap(backbone: str) -> str:
    """Return what is known of benchmark data in a backbone's pretraining; empty where nothing is."""
    from histotune.backbones.catalog import find_entry

    entry = find_entry(backbone)
    return "" if entry is None else entry.spec.overlap


def flat_settings(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield a nested config as (dotted field, value as JSON), sorted, in the form that ``--set`` takes.

    Sorted, because a run folder's JSON keeps no order and must give the same page.

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
    environment.globals.update(SYNTHETIC=SYNTHETIC, LEAKY=LEAKY)
    environment.filters.update({shown.__name__: shown for shown in FILTERS}, score=covered_score)
    return environment


def data_uri(jpeg: bytes) -> str:
    """Return a picture as an address that holds it."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def render_template(
    environment: Environment,
    template: str,
    sheets: tuple[str, ...] = ("style.css",),
    scripts: tuple[str, ...] = ("page.js",),
    **values: object,
) -> str:
    """Return a page that loads nothing: its styles inside, allowed by their hash alone."""
    style = "\n".join(environment.get_template(name).render().strip() for name in sheets)
    script = "\n".join(environment.get_template(name).render().strip() for name in scripts)
    page = environment.get_template(template).render(
        style=trusted(style), style_hash=_digest(style), script=trusted(script), script_hash=_digest(script), **values
    )
    # File names may hold bytes that are not UTF-8; Python keeps them as lone surrogates, which no file can store.
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def _digest(text: str) -> str:
    """Return the hash by which the page's policy allows its own style sheet and script, and nothing else."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def trusted(text: str) -> Markup:
    """Mark a style sheet or script as ours: it is a packaged file, and escaping its quotes would break it."""
    from markupsafe import Markup

    return Markup(text)  # noqa: S704  (packaged text, no user's word in it)


def part_note(part: PartTable) -> str:
    """Return what must be known to read a finding's rows by site, scanner, stain or unit; or why there are none."""
    if not part.rows or part.column == UNIT:
        return part.note
    return (
        "Each row holds other cases, of another prevalence perhaps: a difference between rows need not be the "
        f"{part.column}'s doing."
    )


def embedding_maps(finding: Finding, inputs: ReportInputs) -> tuple[Figure, ...]:
    """Return the maps of embeddings below the held-out score of the same tiles."""
    ids = [one.id for one in inputs.findings.findings if one.id in ("in-domain", "direct")]
    if finding.id not in ids[:1]:
        return ()
    return map_figures(inputs.artifacts.embedding_map, synthetic=inputs.findings.synthetic)


def main_figure(finding: Finding, inputs: ReportInputs) -> Figure | None:
    """Return the rest of a finding's figure, whose first chart stands in its short section."""
    findings = inputs.findings
    match finding.id:
        case "in-domain":
            return None
        case "cross-magnification":
            figure = magnification_figure(finding, findings)
        case "leak-price":
            figure = leak_figure(finding, findings)
        case "direct":
            return external_figure(finding, findings)
        case _:
            figure = external_figure(finding, findings)
    rest = () if figure is None else figure.charts[1:]
    return replace(figure, name=f"{figure.name}-more", charts=rest) if figure is not None and rest else None


def _galleries(inputs: ReportInputs) -> Iterator[tuple[str, list[Thumbnail]]]:
    """Yield the largest errors under the title of their finding."""
    titles: dict[str, str] = {finding.id: finding.title for finding in inputs.findings.findings}
    for finding in dict.fromkeys(item.finding for item in inputs.thumbnails):
        yield titles.get(finding, finding), [item for item in inputs.thumbnails if item.finding == finding]


def _credits(inputs: ReportInputs) -> Iterator[DatasetFacts]:
    """Yield the data sets whose tiles are shown."""
    shown = [inputs.findings.dataset_of(item.domain) for item in inputs.thumbnails]
    yield from (dataset for dataset in inputs.findings.datasets if dataset in shown)


def _machine(provenance: dict[str, object]) -> Iterator[tuple[str, str]]:
    """Yield everything of the provenance that stands in no table and is not the command."""
    for key, value in sorted(provenance.items()):
        if key not in ("versions", "command", "embeddings"):
            for name, text in flat_settings(value, key):
                yield name.replace("_", " ").replace(".", " "), text.strip('"')


FILTERS = (
    count,
    group_count,
    number,
    runners_up,
    redact,
    data_uri,
    flat_settings,
    main_figure,
    score_tables,
    decision_tables,
    paired_figure,
    paired_lines,
    part_finding,
    part_note,
    robustness_section,
    embedding_maps,
    matrix_figure,
    recovery_figures,
    few_shot_figure,
    transfer_tables,
    cell_tables,
    conclusion_first,
)
"""What the templates make figures, tables and words with, by its own name."""


# ------------------------------------------------------------------------------
# A sweep's folder: every trial as a table, and the plots as pictures that stand alone.


def save_sweep(trials: pl.DataFrame, label_efficiency: pl.DataFrame | None, tiles: TileSet, folder: Path) -> None:
    """Write a sweep's trials and plots."""
    write_parquet(trials, folder / "trials.parquet")
    known = {str(name): TrainedOn(tiles.synthetic, len(tiles.class_names)) for name in trials["trained_on"].unique()}
    if label_efficiency is not None:
        write_parquet(label_efficiency, folder / "label_efficiency.parquet")
    drawings = Drawings(folder / PLOTS)
    for figure in (
        trials_figure(trials, known),
        label_efficiency_figure(label_efficiency, synthetic=tiles.synthetic),
    ):
        if figure is not None:
            drawings.panels(figure)
    drawings.finish()
