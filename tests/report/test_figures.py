from __future__ import annotations

import re
from dataclasses import replace

import pytest

from histotune.report.figures import external_figure, leak_figure, magnification_figure
from tests.report.made_up import cross_magnification, leak_price, made_arm, made_findings


def test_a_bar_is_as_high_as_its_number() -> None:
    finding = cross_magnification()
    figure = magnification_figure(finding, made_findings())
    assert figure is not None
    heights = [float(text) for text in re.findall(r'<rect [^>]*height="([\d.]+)"', figure.panels[0])]
    values = [row.scores[0].value for row in finding.rows if row.arm == "probe"]
    assert heights == pytest.approx([190 * value for value in values], abs=0.06)


def test_the_trained_magnification_is_marked_and_every_bar_has_its_n() -> None:
    figure = magnification_figure(cross_magnification(), made_findings())
    assert figure is not None
    for panel in figure.panels:
        assert panel.count("trained here") == 1
        assert panel.count("96 tiles</text>") == 2
        assert panel.count("21 tiles</text>") == panel.count("4 groups</text>") - 2 == 1


def test_many_domains_become_a_forest() -> None:
    many = tuple(made_arm("probe", f"breakhis {index}X", 0.8) for index in range(1, 8))
    figure = magnification_figure(replace(cross_magnification(), rows=many), made_findings())
    assert figure is not None
    assert figure.panels[0].count("0.800 [0.730, 0.850]</text>") == 7


def test_the_leak_is_called_leaky_and_its_price_is_signed() -> None:
    figure = leak_figure(leak_price(), made_findings())
    assert figure is not None
    assert len(figure.panels) == 3
    assert "random image split (LEAKY)" in figure.panels[0]
    assert "+0.109 [0.039, 0.159]" in figure.panels[2]


def test_external_validation_shows_direct_training_and_floors_beside_it() -> None:
    findings = made_findings()
    external = findings.finding("external")
    assert external is not None
    figure = external_figure(external, findings)
    assert figure is not None
    labels = ("from breakhis 100X", "from pcam train", "random weights", "colour histogram", "untuned head")
    positions = [figure.panels[0].index(f">{label}</text>") for label in labels]
    assert positions == sorted(positions)
    assert "n = 96 tiles, 24 groups" in figure.panels[0]


def test_a_finding_without_a_probe_has_no_figure() -> None:
    nothing = replace(cross_magnification(), rows=())
    for draw in (magnification_figure, leak_figure, external_figure):
        assert draw(nothing, made_findings()) is None
