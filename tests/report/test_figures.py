from __future__ import annotations

from dataclasses import replace

import pytest

from histotune.report.charts import Forest
from histotune.report.figures import external_figure, leak_figure, magnification_figure
from tests.report.made_up import cross_magnification, leak_price, made_findings


def test_a_row_shows_its_number_and_its_interval() -> None:
    finding = cross_magnification()
    figure = magnification_figure(finding, made_findings())
    assert figure is not None
    forest = figure.charts[0]
    assert isinstance(forest, Forest)
    drawn = [row.estimate.value for row in forest.rows if row.label == "probe"]
    assert drawn == pytest.approx([row.scores[0].value for row in finding.rows if row.arm == "probe"])


def test_the_trained_magnification_is_marked_and_every_row_has_its_n() -> None:
    figure = magnification_figure(cross_magnification(), made_findings())
    assert figure is not None
    for forest in figure.charts:
        assert isinstance(forest, Forest)
        assert ["trained here" in row.section for row in forest.rows if row.label == "probe"] == [False, True, False]
        assert [row.n for row in forest.rows if row.label == "probe"][2] == "21 tiles, 4 groups"
        assert sum(row.strong for row in forest.rows) == 1


def test_each_magnification_has_its_strongest_floor_below_it() -> None:
    figure = magnification_figure(cross_magnification(), made_findings())
    assert figure is not None
    forest = figure.charts[0]
    assert isinstance(forest, Forest)
    assert [row.label for row in forest.rows] == ["probe", "random weights"] * 3


def test_the_leak_is_called_leaky_and_its_price_is_signed() -> None:
    figure = leak_figure(leak_price(), made_findings())
    assert figure is not None
    assert len(figure.charts) == 3
    assert "random image split (LEAKY)" in figure.charts[0].alt
    assert "+0.109 [0.039, 0.159]" in figure.charts[2].alt


def test_external_validation_shows_direct_training_and_floors_beside_it() -> None:
    findings = made_findings()
    external = findings.finding("external")
    assert external is not None
    figure = external_figure(external, findings)
    assert figure is not None
    forest = figure.charts[0]
    assert isinstance(forest, Forest)
    labels = ["from breakhis 100X", "from pcam train", "random weights", "colour histogram", "untuned head"]
    assert [row.label for row in forest.rows] == labels
    assert {row.n for row in forest.rows} == {"96 tiles, 24 groups"}


def test_a_finding_without_a_probe_has_no_figure() -> None:
    nothing = replace(cross_magnification(), rows=())
    for draw in (magnification_figure, leak_figure, external_figure):
        assert draw(nothing, made_findings()) is None
