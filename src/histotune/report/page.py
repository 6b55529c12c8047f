"""One self-contained page: figures, tables and everything needed to repeat the run."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING

from histotune.evaluation.findings import UNIT
from histotune.report.decision_tables import decision_tables
from histotune.report.figures import (
    Figure,
    external_figure,
    leak_figure,
    magnification_figure,
    paired_figure,
    paired_lines,
    ranking_figure,
)
from histotune.report.study_figures import few_shot_figure, matrix_panels, recovery_figures
from histotune.report.study_tables import transfer_tables
from histotune.report.sweep_figures import (
    TrainedOn,
    label_efficiency_figure,
    map_figures,
    plot_name,
    sweep_figure,
    trials_figure,
)
from histotune.report.tables import part_finding, robustness_section, score_tables
from histotune.report.words import (
    count,
    covered_score,
    group_count,
    nested_estimates,
    number,
    runners_up,
    selected_score,
    temperature,
    threshold,
)
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
    """Return the page's HTML; equal inputs give equal text."""
    return render_template(
        page_environment(),
        "report.html.j2",
        inputs=inputs,
        findings=inputs.findings,
        sweep=sweep_figure(inputs.findings, inputs.artifacts),
        label_efficiency=label_efficiency_figure(
            inputs.artifacts.label_efficiency, synthetic=inputs.findings.synthetic
        ),
        galleries=tuple(_galleries(inputs)),
        credits=tuple(_credits(inputs)),
        machine=tuple(_machine(inputs.provenance)),
    )


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
    environment.globals.update(SYNTHETIC=SYNTHETIC, LEAKY=LEAKY, SHORT_TITLES=SHORT_TITLES)
    environment.filters.update({shown.__name__: shown for shown in FILTERS}, score=covered_score)
    return environment


def data_uri(jpeg: bytes) -> str:
    """Return a picture as an address that holds it."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def render_template(
    environment: Environment,
    template: str,
    sheets: tuple[str, ...] = ("style.css",),
    **values: object,
) -> str:
    """Return a page that loads nothing: its styles inside, allowed by their hash alone."""
    style = "\n".join(environment.get_template(name).render().strip() for name in sheets)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    page = environment.get_template(template).render(style=trusted_style(style), style_hash=digest, **values)
    # File names may hold bytes that are not UTF-8; Python keeps them as lone surrogates, which no file can store.
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def trusted_style(style: str) -> object:
    """Mark a style sheet as ours: it is a packaged file, and escaping its quotes would break it."""
    from markupsafe import Markup

    return Markup(style)  # noqa: S704  (packaged text, no user's word in it)


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
    """Return the figure that opens a finding's section."""
    if finding.id == "in-domain":
        return ranking_figure(finding, inputs.findings, inputs.artifacts, _interval_settings(inputs))
    draw = {"cross-magnification": magnification_figure, "leak-price": leak_figure}.get(finding.id, external_figure)
    return draw(finding, inputs.findings)


def _interval_settings(inputs: ReportInputs) -> IntervalConfig:
    """Return how the run's intervals were made."""
    from histotune.statistics.predictions import IntervalConfig

    saved = inputs.config.get("interval")
    return IntervalConfig.model_validate(saved if isinstance(saved, dict) else {})


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
    """Yield everything of the provenance that is neither a version nor the command."""
    for key, value in sorted(provenance.items()):
        if key not in ("versions", "command"):
            for name, text in flat_settings(value, key):
                yield name.replace("_", " ").replace(".", " "), text.strip('"')


FILTERS = (
    count,
    group_count,
    number,
    selected_score,
    nested_estimates,
    temperature,
    threshold,
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
    matrix_panels,
    recovery_figures,
    few_shot_figure,
    transfer_tables,
)
"""What the templates make figures, tables and words with, by its own name."""


# ------------------------------------------------------------------------------
# A sweep's folder: every trial as a table, and the plots as pictures that stand alone.


FONT = 'svg { font-family: system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; background: #fff; }'


def save_sweep(trials: pl.DataFrame, label_efficiency: pl.DataFrame | None, tiles: TileSet, folder: Path) -> None:
    """Write a sweep's trials and plots."""
    write_parquet(trials, folder / "trials.parquet")
    known = {str(name): TrainedOn(tiles.synthetic, len(tiles.class_names)) for name in trials["trained_on"].unique()}
    save_plots(trials_figure(trials, known), plot_name(trials), folder)
    if label_efficiency is not None:
        write_parquet(label_efficiency, folder / "label_efficiency.parquet")
    save_plots(label_efficiency_figure(label_efficiency, synthetic=tiles.synthetic), "training-groups", folder)


def save_plots(figure: Figure | None, name: str, folder: Path) -> None:
    """Write a figure's panels as SVG files that open by themselves, into ``plots`` of a folder."""
    if figure is None:
        return
    (folder / "plots").mkdir(exist_ok=True)
    for nth, panel in enumerate(figure.panels, 1):
        file = f"{name}.svg" if nth == 1 else f"{name}-{nth}.svg"
        (folder / "plots" / file).write_text(standalone(panel), encoding="utf-8", newline="\n")


def standalone(panel: Markup) -> str:
    """Return a panel of the page as an SVG document with its styles inside."""
    sheet = page_environment().get_template("style.css").render()
    rules = "\n".join([FONT, *re.findall(r"^svg .*$", sheet, re.MULTILINE)])
    head, _, rest = panel.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>{rules}</style>{rest}\n'
