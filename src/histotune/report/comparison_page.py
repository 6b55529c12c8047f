"""A comparison of runs as tables and as one self-contained page."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from histotune.report.comparison_figures import domain_figures, ranking_figure
from histotune.report.page import page_environment, render_template
from histotune.report.study_tables import PlainTable, score_text
from histotune.report.words import SYNTHETIC, covered_score, metric_label
from histotune.tools.files import write_text
from histotune.tools.provenance import redact

if TYPE_CHECKING:
    from pathlib import Path

    from histotune.evaluation.comparison import Family, Ranking, RunComparison
    from histotune.statistics.scores import SeedScore


def comparison_tables(found: RunComparison) -> tuple[PlainTable, ...]:
    """Return all tables of a comparison: per family the runs' scores and their differences, then the rankings.

    Args:
        found: The comparison.

    Returns:
        Tables of text, for the terminal and the page.
    """
    tables = [table for family in found.families for table in (_scores(family), _differences(family))]
    return (*tables, *(_ranks(ranking) for ranking in found.rankings if ranking.ranks is not None))


def write_comparison_page(found: RunComparison, command: str, path: Path) -> None:
    """Write the page; it loads nothing and runs no script.

    Args:
        found: The comparison.
        command: The command that made it.
        path: Target file, usually ``comparison.html``.
    """
    marks = tuple(dict.fromkeys(mark for family in found.families for mark in family.marks))
    page = render_template(
        page_environment(),
        "comparison.html.j2",
        ("style.css", "transfer.css"),
        found=found,
        marks=marks,
        synthetic=SYNTHETIC in marks,
        figures=domain_figures(found.families),
        ranks=[figure for ranking in found.rankings if (figure := ranking_figure(ranking)) is not None],
        tables=comparison_tables(found),
        notes=comparison_notes(found),
        command=redact(command),
    )
    write_text(path, page)


def comparison_notes(found: RunComparison) -> tuple[str, ...]:
    """Return what must be known beside the tables.

    Args:
        found: The comparison.
    """
    why = dict.fromkeys(f"No mean ranks: {ranking.reason}." for ranking in found.rankings if ranking.ranks is None)
    return (
        "p values come from swapping all of a group's predictions between two runs, and are adjusted within each "
        "family: one metric on one domain.",
        *why,
        *found.notes,
    )


def _scores(family: Family) -> PlainTable:
    rows = tuple((name, covered_score(found.score) + _spread(found)) for name, found in family.scores)
    n = family.scores[0][1].score
    groups = f"{n.n_groups} groups" if n.n_groups else "groups unknown"
    marks = f" [{', '.join(family.marks)}]" if family.marks else ""
    title = f"{metric_label(family.metric)}, {family.domain} ({family.finding}): {n.n_tiles:,} tiles, {groups}{marks}"
    return PlainTable(title, ("run", metric_label(family.metric)), rows)


def _spread(found: SeedScore) -> str:
    """Return the spread over seeds, which is no interval: it says nothing of other groups."""
    n_seeds = len(found.seed_values)
    return (
        f"; probabilities averaged over {n_seeds} seeds, SD of the seeds' own {found.seed_sd:.3f}"
        if n_seeds > 1
        else ""
    )


def _differences(family: Family) -> PlainTable:
    rows = tuple(
        (f"{pair.first} − {pair.second}", score_text(pair.difference, signed=True), pair.in_words())
        for pair in family.comparisons
    )
    return PlainTable(
        f"{metric_label(family.metric)}, {family.domain}: paired differences", ("pair", "difference", "p"), rows
    )


def _ranks(ranking: Ranking) -> PlainTable:
    ranks = ranking.ranks
    if ranks is None:
        raise ValueError("a ranking without ranks has no table")
    rows = [(name, f"{rank:.2f}") for name, rank in zip(ranks.names, ranks.mean_ranks, strict=True)]
    rows += [
        (f"{pair.first} and {pair.second}",
         f"Wilcoxon p = {pair.p_value:.2g}, by Holm {pair.p_adjusted:.2g} (smallest attainable {ranks.smallest_p:.2g})"
         + ("; within the critical difference" if pair.within_critical_difference else ""))
        for pair in ranks.pairs
    ]  # fmt: skip
    overall = (
        "all runs tie everywhere" if math.isnan(ranks.p_value) else f"Friedman (Iman-Davenport) p = {ranks.p_value:.2g}"
    )
    title = (
        f"{metric_label(ranking.metric)}: mean ranks over {len(ranks.data_sets)} data sets "
        f"({', '.join(ranks.data_sets)}); "
        f"{overall}; critical difference {ranks.critical_difference:.2f}"
    )
    return PlainTable(title, ("run", "mean rank"), tuple(rows))
