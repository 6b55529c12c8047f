"""A sweep's folder: every trial as a table, and the plots as pictures that stand alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from histotune.report.folder import GROWTH_FILE
from histotune.report.growth_figures import growth_figure
from histotune.report.page import page_environment
from histotune.report.sweep_figures import TrainedOn, plot_name, trials_figure

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl
    from markupsafe import Markup

    from histotune.datasets.tileset import TileSet
    from histotune.report.figures import Figure

FONT = 'svg { font-family: system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; background: #fff; }'


def save_sweep(trials: pl.DataFrame, growth: pl.DataFrame | None, tiles: TileSet, folder: Path) -> None:
    """Write a sweep's trials and plots.

    Args:
        trials: Columns of ``SweepResult.trials`` plus ``trained_on``, ``backbone`` and ``arm``.
        growth: Score against the number of training groups; None where it was not asked for.
        tiles: The data set.
        folder: An existing folder.
    """
    trials.write_parquet(folder / "trials.parquet")
    known = {str(name): TrainedOn(tiles.synthetic, len(tiles.class_names)) for name in trials["trained_on"].unique()}
    save_plots(trials_figure(trials, known), plot_name(trials), folder)
    if growth is not None:
        growth.write_parquet(folder / GROWTH_FILE)
        save_plots(growth_figure(growth, synthetic=tiles.synthetic), "training-groups", folder)


def save_plots(figure: Figure | None, name: str, folder: Path) -> None:
    """Write a figure's panels as SVG files that open by themselves, into ``plots`` of a folder.

    Args:
        figure: The figure; None writes nothing.
        name: Name of the files; from the second panel on with a number.
        folder: An existing folder.
    """
    if figure is None:
        return
    (folder / "plots").mkdir(exist_ok=True)
    for number, panel in enumerate(figure.panels, 1):
        file = f"{name}.svg" if number == 1 else f"{name}-{number}.svg"
        (folder / "plots" / file).write_text(standalone(panel), encoding="utf-8", newline="\n")


def standalone(panel: Markup) -> str:
    """Return a panel of the page as an SVG document with its styles inside.

    Args:
        panel: From a figure.
    """
    sheet = page_environment().get_template("style.css").render()
    rules = "\n".join([FONT, *re.findall(r"^svg .*$", sheet, re.MULTILINE)])
    head, _, rest = panel.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>{rules}</style>{rest}\n'
