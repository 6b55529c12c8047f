from __future__ import annotations

import io

import pytest
from rich.console import Console

from histotune.report.tables import summary_table
from tests.report.made_up import REASON, made_findings


def printed(width: int, *, synthetic: bool = False) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(summary_table(made_findings(synthetic=synthetic)))
    return stream.getvalue()


def test_the_summary_names_every_main_number() -> None:
    text = printed(120)
    for label in (
        "in-domain: breakhis 100X", "breakhis 100X → 40X", "breakhis 100X → 400X", "random image split LEAKY",
        "leak's price (paired) LEAKY", "external: pcam test", "direct: pcam test TOO NARROW", "floor: random weights",
    ):  # fmt: skip
        assert label in text


def test_every_line_has_its_numbers_and_its_n() -> None:
    lines = printed(120).splitlines()
    line = next(line for line in lines if "in-domain" in line)
    assert "0.842 [0.772, 0.892]" in line
    assert line.split()[-2:] == ["96", "24"]
    few = next(line for line in lines if "→ 400X" in line)
    assert few.split()[-2:] == ["21", "4"]
    assert f"interval not estimable: {REASON}" in "\n".join(lines)


@pytest.mark.parametrize("width", [50, 60, 77, 78, 80, 100])
def test_no_number_is_cut_off_in_a_narrow_terminal(width: int) -> None:
    text = printed(width)
    assert max(len(line) for line in text.splitlines()) <= width
    squeezed = "".join(text.split())
    for part in ("0.842", "0.772,", "0.892]", "+0.142", "0.192]"):
        assert part in squeezed


def test_synthetic_is_said() -> None:
    assert "SYNTHETIC" in printed(100, synthetic=True)
    assert "SYNTHETIC" not in printed(100)


def test_brackets_are_not_read_as_markup() -> None:
    assert "[0.772, 0.892]" in printed(100)
