"""Pictures: the same bytes for the same data, text as text, nothing on a page that its policy forbids, used again."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histotune.report.charts import (
    BLUE,
    COLOURS,
    VERMILLION,
    Axis,
    CalibrationBin,
    CalibrationChart,
    Chart,
    Curves,
    DrawnEstimate,
    Figure,
    Forest,
    ForestRow,
    Grid,
    GridCell,
    Line,
    Look,
    MapKind,
    PointMap,
    RankLine,
)
from histotune.report.drawing import NARROW_PX, WIDE_PX, draw_chart
from histotune.report.svg import INDEX, Drawings, draw_svg, inline_svg

PROBE, RANDOM = Look(BLUE, "disc"), Look(VERMILLION, "square", "dashed")
ROWS = (
    ForestRow("breakhis 200X", "180 tiles, 30 cases", DrawnEstimate(0.85, 0.62, 0.94), PROBE, True, "On new cases"),
    ForestRow("no interval", "9 tiles, 2 cases", DrawnEstimate(0.5), RANDOM),
    ForestRow("missing", "9 tiles, 2 cases", DrawnEstimate(math.nan), PROBE),
)
CHARTS: dict[str, Chart] = {
    "forest": Forest("AUROC", "Words.", True, ROWS, (0.3, 1.02), 0.5, "chance"),
    "curves": Curves(
        "ROC", "Words.", False,
        (Line(((0, 0), (0.5, 0.8), (1, 1)), PROBE, "probe", ((0, 0, 0.1), (1, 0.9, 1))),
         Line(((0, 0), (1, 1)), RANDOM)),
        Axis("x", (0, 1)), Axis("y", (0, 1)), diagonal=True,
    ),
    "trials": Curves(
        "Trials", "Words.", False,
        (Line(((1e-3, 0.7), (1.0, 0.5)), PROBE, "cls", ((1e-3, 0.6, 0.8), (1.0, 0.4, 0.6)), ((1.0, 0.5),),
              ((1e-3, 0.7),)),),
        Axis("L2 penalty", scale="log"), Axis("Log-loss", (0.3, 0.9)), reference=0.69, reference_label="guessing",
    ),
    "calibration": CalibrationChart("Calibration", "Words.", False, (CalibrationBin(0, 0.5, 0.3, 0.2, 4),
                               CalibrationBin(0.5, 1, 0.8, 0.9, 40)), "malignant"),
    "map": PointMap("Map", "Words.", True, (MapKind("benign (2)", ((0, 0), (1, 2)), PROBE),), "across", "up"),
    "grid": Grid("Matrix", "Words.", False, ("40X",), ("40X", "100X"), ((GridCell(DrawnEstimate(0.9, 0.8, 1.0), True),
                 GridCell(DrawnEstimate(math.nan))),), across="scored at"),
    "ranks": RankLine("Ranks", "Words.", False, ("a", "b"), (1.2, 1.8), ((0, 1),), 1.4),
}  # fmt: skip


@pytest.mark.parametrize("name", CHARTS)
def test_equal_charts_give_equal_bytes_and_text_stays_text(name: str) -> None:
    text = draw_svg(CHARTS[name], NARROW_PX)
    assert text == draw_svg(CHARTS[name], NARROW_PX)
    assert f">{CHARTS[name].title}</text>" in text
    assert not re.search(r"\d{4}-\d\d-\d\dT", text)


@pytest.mark.parametrize("name", CHARTS)
@pytest.mark.parametrize("width_px", [NARROW_PX, WIDE_PX])
def test_everything_lies_inside_the_picture(name: str, width_px: float) -> None:
    figure = draw_chart(CHARTS[name], width_px)
    figure.canvas.draw() if hasattr(figure.canvas, "draw") else None
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert box.x0 >= -0.02 and box.y0 >= -0.02 and box.x1 <= width + 0.02 and box.y1 <= height + 0.02


@pytest.mark.parametrize("name", CHARTS)
def test_on_a_page_a_picture_has_no_styles_and_its_colours_are_variables(name: str) -> None:
    shown = str(inline_svg(draw_svg(CHARTS[name], NARROW_PX), CHARTS[name], ""))
    root = ElementTree.fromstring(shown)
    for element in root.iter():
        assert "style" not in element.attrib and element.tag not in ("style", "metadata", "script")
        for value in element.attrib.values():
            assert value not in COLOURS.values()
    assert "var(--" in shown
    assert root.get("role") == "img" and root.get("aria-label", "").endswith("Words.")


@pytest.mark.parametrize("name", CHARTS)
def test_every_reference_is_found_and_two_pictures_share_no_id(name: str) -> None:
    chart = CHARTS[name]
    pages = [str(inline_svg(draw_svg(one, NARROW_PX), one, "")) for one in (chart, replace(chart, title="Another"))]
    ids = [re.findall(r'\bid="([^"]+)"', page) for page in pages]
    for page, own in zip(pages, ids, strict=True):
        referred = set(re.findall(r"url\(#([^)]+)\)", page)) | set(re.findall(r'href="#([^"]+)"', page))
        assert referred == set(own) and len(own) == len(set(own))
    assert not set(ids[0]) & set(ids[1])


def test_synthetic_is_said_in_a_file_that_may_be_cut_out_and_in_the_words_of_a_page() -> None:
    text = draw_svg(CHARTS["forest"], NARROW_PX)
    assert ">SYNTHETIC</text>" in text
    shown = str(inline_svg(text, CHARTS["forest"], ""))
    assert ">SYNTHETIC<" not in shown and 'aria-label="SYNTHETIC data. ' in shown
    assert "SYNTHETIC" not in draw_svg(CHARTS["curves"], NARROW_PX)


@settings(max_examples=25, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=20))
def test_hostile_names_are_shown_as_they_are(name: str) -> None:
    named = f"<b onload=x>$\\frac{{1}}{{2}}$ {name}"
    row = replace(ROWS[0], label=named)
    chart = Forest(named, named, False, (row,), (0.0, 1.0))
    root = ElementTree.fromstring(str(inline_svg(draw_svg(chart, WIDE_PX), chart, "wide")))
    assert {element.tag for element in root.iter()} <= {"svg", "g", "defs", "path", "use", "text", "clipPath", "rect"}
    texts = [element.text or "" for element in root.iter("text")]
    assert any(text.startswith("<b onload=x>$\\frac{1}{2}$") for text in texts)


def figure_of(chart: Chart, name: str = "one") -> Figure:
    return Figure(name, (chart,), "Caption.")


def test_a_picture_is_drawn_once_and_used_again_by_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Drawings(tmp_path / "plots")
    panels = first.panels(figure_of(CHARTS["forest"]))
    first.finish()
    assert first.n_drawn == 2 and sorted(path.name for path in (tmp_path / "plots").iterdir()) == [
        "one-narrow.svg", "one.svg", INDEX,
    ]  # fmt: skip
    monkeypatch.setattr("histotune.report.svg.draw_svg", lambda *_: pytest.fail("drawn again"))
    again = Drawings(earlier=(tmp_path / "plots",))
    assert again.panels(figure_of(CHARTS["forest"])) == panels and again.n_drawn == 0


@pytest.mark.parametrize("damage", ["byte", "lost", "index", "outside"])
def test_a_changed_picture_is_drawn_anew(tmp_path: Path, damage: str) -> None:
    plots = tmp_path / "plots"
    first = Drawings(plots)
    panels = first.panels(figure_of(CHARTS["ranks"]))
    first.finish()
    if damage == "byte":
        (plots / "one.svg").write_text((plots / "one.svg").read_text().replace("Ranks", "Lies"))
    elif damage == "lost":
        (plots / "one.svg").unlink()
    elif damage == "index":
        (plots / INDEX).write_text("[1, 2")
    else:
        (tmp_path / "one.svg").write_text((plots / "one.svg").read_text())
        (plots / INDEX).write_text((plots / INDEX).read_text().replace('"one.svg"', '"../one.svg"'))
    again = Drawings(earlier=(plots,))
    assert again.panels(figure_of(CHARTS["ranks"])) == panels and again.n_drawn == 1


def test_other_data_are_another_picture(tmp_path: Path) -> None:
    first = Drawings(tmp_path / "plots")
    first.panels(figure_of(CHARTS["ranks"]))
    first.finish()
    again = Drawings(earlier=(tmp_path / "plots",))
    again.panels(figure_of(replace(CHARTS["ranks"], ranks=(1.3, 1.7))))  # type: ignore[call-arg]
    assert again.n_drawn == 1


def test_a_users_own_style_changes_nothing() -> None:
    import matplotlib as mpl

    text = draw_svg(CHARTS["curves"], NARROW_PX)
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        assert draw_svg(CHARTS["curves"], NARROW_PX) == text
