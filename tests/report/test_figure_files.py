"""Figures for notebooks and papers: every one of the report, as matplotlib figures, as PDF and as PNG."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from histotune.cli.main import app
from histotune.report import draw_run, save_figures, save_run
from histotune.tools.errors import UserError
from tests.report.made_up import made_inputs

NAMES = ("headline", "leak", "ranking", "ranking-2", "ranking-3", "magnifications", "external", "direct", "penalty")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save_run(made_inputs(), folder)
    return folder


def test_every_figure_of_the_report_is_a_matplotlib_figure(run: Path) -> None:
    from matplotlib.figure import Figure

    drawn = draw_run(run)
    assert set(NAMES) <= set(drawn)
    assert all(isinstance(figure, Figure) and figure.axes for figure in drawn.values())


def test_files_are_whole_readable_and_the_same_every_time(run: Path, tmp_path: Path) -> None:
    files = save_figures(run, tmp_path / "one")
    again = save_figures(run, tmp_path / "two")
    assert {file.suffix for file in files} == {".pdf", ".png"} and len(files) == 2 * len(draw_run(run))
    for one, other in zip(files, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
    with Image.open(tmp_path / "one" / "headline.png") as image:
        assert image.width > 3000  # 300 dots to the inch
    pdf = (tmp_path / "one" / "headline.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and b"/FontFile2" in pdf and b"CreationDate" not in pdf


def test_the_command_writes_them_beside_the_page(run: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(run), "--out", str(tmp_path / "page.html"), "--figures"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "figures" / "headline.pdf").is_file() and "figures:" in done.output


def test_a_folder_without_a_run_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished run"):
        draw_run(tmp_path)
