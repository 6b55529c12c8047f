"""histotune data estimate-mpp and the scale block of describe, as typed."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import CommandResult
from tests.images.drawn import Drawing


@pytest.fixture
def drawn_breakhis(tmp_path: Path) -> Path:
    """Return BreakHis files with nuclei of 9 um at 0.3 um/px (400X) and 1.2 um/px (100X)."""
    folder = tmp_path / "drawn"
    folder.mkdir()
    for letter, code in (("B", "A"), ("M", "DC")):
        for magnification, diameter_px in ((100, 7.5), (400, 30.0)):
            drawing = Drawing(diameter_px, 300, 400, seed=magnification + len(code))
            name = f"SOB_{letter}_{code}-14-{1000 + len(code)}-{magnification}-001.png"
            Image.fromarray(drawing.image_HWC()).save(folder / name)
    return folder


def test_a_measured_scale_is_written_and_can_be_adopted(
    histotune: Callable[..., CommandResult], drawn_breakhis: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scale" / "found.json"
    result = histotune("data", "estimate-mpp", "breakhis", "--data", drawn_breakhis, "--out", out)
    assert result.code == 0, result.err
    for words in ("100X : 400X", "contradicted by the nuclei", "joint fit", "no tile was looked at"):
        assert words in result.out
    found = json.loads(out.read_text())
    by_label = {scale["magnification"]: scale for scale in found["magnifications"]}
    assert by_label["400X"]["mpp"] == pytest.approx(0.3, rel=0.2)
    assert by_label["40X"]["n_tiles"] == 0
    assert by_label["40X"]["diameter_px"] is None
    assert found["prior"]["diameter_um"] == 9
    assert len(found["tiles"]) == 4
    assert "Lindeberg" in found["method"]

    line = re.search(r"To adopt it:  (.*)", result.out)
    assert line is not None
    described = histotune("data", "describe", "breakhis", "--data", drawn_breakhis, *shlex.split(line[1]))
    assert described.code == 0, described.err
    assert f"{by_label['400X']['mpp']:.4g}  estimated" in described.out


def test_describe_states_what_the_network_sees(histotune: Callable[..., CommandResult], drawn_breakhis: Path) -> None:
    default = histotune("data", "describe", "breakhis", "--data", drawn_breakhis)
    assert "input of lite0 (short-side-crop 224 px, bicubic)" in default.out
    assert "input_mpp" in default.out
    assert "100 x 75" in default.out  # 400 x 300 px at 0.25 um/px
    other = histotune("data", "describe", "breakhis", "--data", drawn_breakhis, "--backbone", "midnight")
    assert "input of midnight (short-side-crop 224 px, bilinear)" in other.out


def test_mistakes_are_reported_together(histotune: Callable[..., CommandResult], drawn_breakhis: Path) -> None:
    result = histotune(
        "data", "estimate-mpp", "breakhis", "--data", drawn_breakhis, "--tissue", "liver", "--max-tiles", -1
    )
    assert result.code == 2
    assert "--tissue" in result.err
    assert "--max-tiles" in result.err
    assert "Traceback" not in result.err


def test_tiles_without_nuclei_give_no_scale(histotune: Callable[..., CommandResult], breakhis: Path) -> None:
    result = histotune("data", "estimate-mpp", "breakhis", "--data", breakhis, "--max-tiles", 8)
    assert result.code == 0, result.err
    assert "No scale to adopt" in result.out
    assert "--set" not in result.out
