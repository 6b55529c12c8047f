from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from histotune.report.page import render_page
from histotune.report.run_folder import FILES, load_run, save_run
from histotune.tools.errors import UserError
from tests.report.made_up import made_inputs, made_thumbnail

if TYPE_CHECKING:
    from pathlib import Path


def test_a_report_drawn_again_from_its_folder_is_the_same_page(tmp_path: Path) -> None:
    inputs = made_inputs(thumbnails=(made_thumbnail("a"), made_thumbnail("b")))
    save_run(inputs, tmp_path)
    assert render_page(load_run(tmp_path)) == render_page(inputs)


def test_scores_hold_neither_time_nor_command(tmp_path: Path) -> None:
    save_run(made_inputs(), tmp_path)
    first = (tmp_path / "scores.json").read_bytes()
    save_run(made_inputs(stages=(), command="another", ledger=(), provenance={"cpu": "another"}), tmp_path)
    assert (tmp_path / "scores.json").read_bytes() == first


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    save_run(made_inputs(), tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=name):
        load_run(tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_one_clear_message(name: str, tmp_path: Path) -> None:
    save_run(made_inputs(), tmp_path)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError):
        load_run(tmp_path)


def test_a_thumbnail_index_can_not_point_outside_its_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    save_run(made_inputs(), run)
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    index = json.loads((run / "thumbnails.json").read_text())
    index[0]["file"] = "../../secret.jpg"
    (run / "thumbnails.json").write_text(json.dumps(index))
    with pytest.raises(UserError):
        load_run(run)
