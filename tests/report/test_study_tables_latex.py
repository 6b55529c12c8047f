"""LaTeX holds what the page holds, and LaTeX can set it."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histotune.cli.studies import show_leaderboard
from histotune.published.leaderboard import make_boards
from histotune.published.published_numbers import Query, published_scores
from histotune.report.run_folder import Added, AddedTransfer, ReportInputs, save_run
from histotune.report.study_tables import PREAMBLE, boards_latex, run_latex
from histotune.report.tables import score_tables
from histotune.statistics.predictions import IntervalConfig
from histotune.studies.report_verb import report
from histotune.tools.table import latex_text
from histotune.transfer.case import TransferConfig
from histotune.transfer.diagnose import diagnose
from tests.report.made_up import made_inputs
from tests.transfer.conftest import make_transfer

DOCUMENT = r"""\documentclass{article}
\usepackage[utf8]{inputenc}\usepackage[T1]{fontenc}
\usepackage{booktabs,textcomp,array}
\begin{document}
%s
\end{document}
"""


@pytest.fixture(scope="module")
def inputs() -> ReportInputs:
    found = diagnose(make_transfer(), TransferConfig(draws=2), IntervalConfig(n_resamples=200))
    return replace(made_inputs(), added=Added((AddedTransfer(found, "once", "command"),), ()))


def unescaped(text: str) -> str:
    """Braces that LaTeX reads as groups."""
    return re.sub(r"\\[{}\\]", "", text)


@given(st.text(max_size=60))
def test_no_character_of_a_text_is_a_command(text: str) -> None:
    plain = re.sub(r"\\(?:[a-z]+\{\}|[&%$#_{},])|\$\\?[a-z]*-?\$|~", "", latex_text(text))
    assert not set(plain) & set("\\&%$#_{}^\n")


def test_every_number_of_the_page_is_in_the_tables(inputs: ReportInputs) -> None:
    found = run_latex(inputs)
    assert found.startswith(PREAMBLE)
    assert found.count(r"\begin{table*}") == found.count(r"\end{table*}") > 3
    assert unescaped(found).count("{") == unescaped(found).count("}")
    for finding in inputs.findings.findings:
        for table in score_tables(finding):
            cells = [cell for group in table.groups for row in group.rows for cell in row.cells if cell is not None]
            assert cells
            for cell in cells:
                assert latex_text(cell.value) in found and latex_text(cell.interval) in found
            for _, text in table.footnotes:
                assert latex_text(text) in found
    assert "Transfer to target" in found


@pytest.mark.parametrize("synthetic", [False, True])
def test_numbers_of_rendered_tissue_say_so(inputs: ReportInputs, synthetic: bool) -> None:
    datasets = tuple(replace(one, synthetic=synthetic) for one in inputs.findings.datasets)
    found = run_latex(replace(inputs, findings=replace(inputs.findings, datasets=datasets)))
    captions = [text for text in re.findall(r"\\caption\{(.*)", found) if "Trained on" in text]
    assert captions and all(text.startswith(r"\textsc{synthetic}") == synthetic for text in captions)


def test_boards_keep_their_caveats() -> None:
    boards = make_boards(published_scores())
    found = boards_latex(boards)
    assert found.count(r"\toprule") == len(boards)
    for board in boards:
        assert all(f"{row.value:.3f}" in found for row in board.rows)
        assert all(latex_text(caveat.rstrip(".")) in found for caveat in board.caveats)


def test_the_commands_write_them(inputs: ReportInputs, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    save_run(replace(inputs, added=Added()), run)
    report(run, latex=tmp_path / "tables.tex")
    assert (tmp_path / "tables.tex").read_text(encoding="utf-8") == run_latex(replace(inputs, added=Added()))
    show_leaderboard(Query(dataset="BreakHis"), "table", tmp_path / "board.tex")
    assert r"\midrule" in (tmp_path / "board.tex").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex found (Debian: texlive-latex-recommended)")
def test_latex_sets_all_of_it(inputs: ReportInputs, tmp_path: Path) -> None:
    body = run_latex(inputs) + boards_latex(make_boards(published_scores())[:3])
    (tmp_path / "page.tex").write_text(
        DOCUMENT % body.replace(r"\end{table*}", r"\end{table*}\clearpage"), encoding="utf-8"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-draftmode", "page.tex"],
        cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
