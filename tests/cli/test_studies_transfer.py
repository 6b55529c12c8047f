"""The command and its composition, without a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from histotune.cli.main import app
from histotune.report.study_pages import write_transfer_page
from histotune.report.study_tables import transfer_tables
from histotune.statistics.predictions import IntervalConfig
from histotune.studies.transfer import _run_folder
from histotune.tools.errors import UserError
from histotune.transfer.case import TransferConfig
from histotune.transfer.diagnose import diagnose
from tests.transfer.conftest import make_transfer


def test_the_command_explains_itself() -> None:
    result = CliRunner().invoke(app, ["transfer", "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "--no-images" in result.output


def test_a_head_without_held_out_scores_is_refused_with_the_command_that_makes_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="held-out scores of the source"):
        _run_folder(tmp_path)


def test_the_page_holds_every_table_and_escapes_names(tmp_path: Path) -> None:
    case = make_transfer()
    found = diagnose(case, TransferConfig(draws=2), IntervalConfig())
    write_transfer_page(found, "histotune transfer <b>", "scored once", tmp_path / "transfer.html")
    page = (tmp_path / "transfer.html").read_text(encoding="utf-8")
    assert "histotune transfer &lt;b&gt;" in page
    assert page.count("<script") == 1  # the page's own
    assert page.count("<caption>") == len(transfer_tables(found))
    assert "Oracles" in page


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_stain_normalisation_brings_colours_closer_and_keeps_glass(method: str) -> None:
    pytest.importorskip("torchstain")
    from histotune.images.stain import StainNormaliser

    rng = np.random.default_rng(0)

    def tissue(dyes: np.ndarray) -> np.ndarray:
        amounts = rng.gamma(2.0, 0.4, (64, 64, 2))
        return np.clip(240.0 * np.exp(-amounts @ dyes), 0, 255).astype(np.uint8)

    ours, theirs = np.array([[0.65, 0.70, 0.29], [0.10, 0.95, 0.20]]), np.array([[0.5, 0.6, 0.6], [0.3, 0.8, 0.5]])
    reference, image = tissue(ours), tissue(theirs)
    changed = StainNormaliser(method, [reference])(image)  # type: ignore[arg-type]
    assert changed is not None
    before, after = (np.abs(one.mean((0, 1)) - reference.mean((0, 1))).sum() for one in (image, changed))
    assert after < 0.5 * before
    assert StainNormaliser(method, [reference])(np.full((32, 32, 3), 245, np.uint8)) is None  # type: ignore[arg-type]


def test_without_torchstain_the_install_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from histotune.images import stain

    monkeypatch.setattr(stain, "has_torchstain", lambda: False)
    with pytest.raises(UserError, match=r"histotune\[stain\]"):
        stain.StainNormaliser("macenko", [np.zeros((4, 4, 3), np.uint8)])
