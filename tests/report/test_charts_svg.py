from __future__ import annotations

import pytest

from histotune.report.charts import Frame, drawing, nice_ticks, px, text


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.38, 1.02, [0.4, 0.6, 0.8, 1.0]),
        (-0.02, 0.11, [0.0, 0.05, 0.1]),
    ],
)
def test_ticks_are_round_and_within_the_range(low: float, high: float, ticks: list[float]) -> None:
    assert nice_ticks(low, high) == ticks


def test_coordinates_are_short_and_never_minus_zero() -> None:
    assert [px(value) for value in (12.0, -0.04, 3.14159, 359.25)] == ["12", "0", "3.1", "359.2"]


def test_a_frame_maps_its_corners() -> None:
    frame = Frame(10, 20, 100, 50, (0.0, 2.0), (0.5, 1.0))
    assert (frame.x(0.0), frame.x(2.0), frame.y(0.5), frame.y(1.0)) == (10, 110, 70, 20)


def test_labels_and_alternative_text_are_escaped() -> None:
    picture = drawing(10, '"><script>', [text(0, 0, "<b>&")])
    assert "<script>" not in picture
    assert "<b>" not in picture
    assert 'aria-label="&#34;&gt;&lt;script&gt;"' in picture
