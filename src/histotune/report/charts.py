"""What a chart shows, as frozen data: forests, curves, a calibration, a map, a matrix, ranks. Nothing is drawn here.

A chart's data decide its picture: equal data have an equal hash, and a picture that lies there already is used again.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from histotune.report.words import number, sample_words
from histotune.tools.files import hash_json
from histotune.tools.marks import SYNTHETIC

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from histotune.statistics.predictions import Score

# Okabe & Ito's colours, told apart with every common colour blindness and by lightness when printed in grey. On the
# page each becomes a variable of the style sheet, so that a dark page has lighter ones.
BLUE = "#0072b2"
PALE_BLUE = "#a9cfe6"
VERMILLION = "#c94f00"
GREEN = "#00805e"
PURPLE = "#a3508a"
AMBER = "#b37700"
GREY = "#595959"
PALE_GREY = "#bdbdbd"
INK = "#1b1b1b"
RULE = "#e3e3e3"
PAPER = "#ffffff"
COLOURS = {
    "blue": BLUE, "pale-blue": PALE_BLUE, "vermillion": VERMILLION, "green": GREEN, "purple": PURPLE, "amber": AMBER,
    "quiet": GREY, "pale": PALE_GREY, "ink": INK, "grid": RULE, "paper": PAPER,
}  # fmt: skip

STYLE_VERSION = 1
"""Part of every chart's hash: raise it where the drawing changes and pictures of earlier versions must not be used."""

Marker = Literal["disc", "circle", "square", "triangle", "diamond"]
Dash = Literal["solid", "dashed", "dotted", "longdash"]


@dataclass(frozen=True)
class DrawnEstimate:
    """A value with its limits; NaN where they are refused or undefined."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @classmethod
    def of(cls, score: Score) -> DrawnEstimate:
        """Return a score's value with its limits."""
        if score.interval is None:
            return cls(score.value)
        return cls(score.value, score.interval.low, score.interval.high)

    @property
    def known(self) -> list[float]:
        """The value and the ends of its interval, as far as there are any."""
        return [value for value in (self.value, self.low, self.high) if math.isfinite(value)]

    def __str__(self) -> str:
        """Return ``0.842 [0.751, 0.912]``, or what is missing."""
        return self.words(signed=False)

    def words(self, *, signed: bool) -> str:
        """Return the estimate as text, with a plus sign where ``signed``."""
        if math.isnan(self.value):
            return "not estimable"
        value = number(self.value, signed=signed)
        if math.isnan(self.low):
            return f"{value}, no interval"
        return f"{value} [{number(self.low)}, {number(self.high)}]"


@dataclass(frozen=True)
class Look:
    """How an arm is drawn: colour, marker, and how its line is broken and how thick it is."""

    colour: str
    shape: Marker
    dash: Dash = "solid"
    thin: bool = False


@dataclass(frozen=True)
class Chart:
    """What every chart says.

    Attributes:
        title: The heading above it.
        alt: The picture in words, for people who don't see it.
        synthetic: Whether it shows rendered tissue.
    """

    title: str
    alt: str
    synthetic: bool

    @property
    def words(self) -> str:
        """The alternative text."""
        return f"{SYNTHETIC} data. {self.alt}" if self.synthetic else self.alt

    @property
    def data_hash(self) -> str:
        """Hash of everything that decides the picture."""
        return hash_json([STYLE_VERSION, type(self).__name__, asdict(self)])


@dataclass(frozen=True)
class ForestRow:
    """One line of a forest: an estimate with its label and its numbers.

    Attributes:
        label: What it is of.
        n: What it was measured on, in words.
        estimate: Value and interval.
        look: Colour and marker.
        strong: Whether it is what the chart is about.
        section: Heading above the row; only where it differs from the row before.
    """

    label: str
    n: str
    estimate: DrawnEstimate
    look: Look
    strong: bool = False
    section: str = ""


@dataclass(frozen=True)
class Forest(Chart):
    """Estimates with intervals under one another.

    Attributes:
        rows: From top to bottom.
        axis: Left and right end.
        reference: Where a dashed line stands; NaN for none.
        reference_label: What it is.
        signed: Whether values are differences.
    """

    rows: tuple[ForestRow, ...]
    axis: tuple[float, float]
    reference: float = math.nan
    reference_label: str = ""
    signed: bool = False


@dataclass(frozen=True)
class Line:
    """One curve in data units, with an optional band and marked points; ``joined=False`` leaves points apart."""

    points: tuple[tuple[float, float], ...]
    look: Look
    label: str = ""
    band: tuple[tuple[float, float, float], ...] = ()  # x, low, high
    chosen: tuple[tuple[float, float], ...] = ()
    flagged: tuple[tuple[float, float], ...] = ()
    joined: bool = True
    marked: bool = False


@dataclass(frozen=True)
class Axis:
    """One axis of a chart of curves.

    Attributes:
        label: What lies along it, with its unit or direction.
        limits: Its ends; None for ends that fit the data.
        ticks: Where labels stand; empty for round places.
        tick_labels: The labels at ``ticks``.
        scale: ``log`` where equal distances are equal factors.
    """

    label: str
    limits: tuple[float, float] | None = None
    ticks: tuple[float, ...] = ()
    tick_labels: tuple[str, ...] = ()
    scale: Literal["linear", "log"] = "linear"


@dataclass(frozen=True)
class Curves(Chart):
    """Lines over two axes.

    Attributes:
        lines: Drawn in this order.
        x: The lower axis.
        y: The left axis.
        diagonal: Whether a dashed diagonal shows chance.
        reference: Height of a dashed line; NaN for none.
        reference_label: What the dashed line is.
        note: A remark in the upper right corner.
    """

    lines: tuple[Line, ...]
    x: Axis
    y: Axis
    diagonal: bool = False
    reference: float = math.nan
    reference_label: str = ""
    note: str = ""


@dataclass(frozen=True)
class CalibrationBin:
    """Tiles whose predicted probabilities lie between two limits."""

    low: float
    high: float
    mean_probability: float
    observed: float
    n_tiles: int


@dataclass(frozen=True)
class CalibrationChart(Chart):
    """Observed share of ``event`` against its predicted probability, and how many tiles each bin holds."""

    bins: tuple[CalibrationBin, ...]
    event: str


@dataclass(frozen=True)
class MapKind:
    """Points of one look: their name, their places."""

    label: str
    points: tuple[tuple[float, float], ...]
    look: Look


@dataclass(frozen=True)
class PointMap(Chart):
    """Points in a plane without units."""

    kinds: tuple[MapKind, ...]
    across: str
    up: str


@dataclass(frozen=True)
class GridCell:
    """One cell of a grid: its estimate, and whether it is framed."""

    estimate: DrawnEstimate
    framed: bool = False


@dataclass(frozen=True)
class Grid(Chart):
    """Estimates in rows and columns, darker where the value is higher between ``limits``."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[GridCell, ...], ...]
    limits: tuple[float, float] = (0.5, 1.0)
    across: str = ""


@dataclass(frozen=True)
class RankLine(Chart):
    """Mean ranks on a line, with bars over what can't be told apart (Demsar, JMLR 2006)."""

    names: tuple[str, ...]
    ranks: tuple[float, ...]
    cliques: tuple[tuple[int, int], ...]
    critical_difference: float


@dataclass(frozen=True)
class Figure:
    """One numbered figure of the page.

    Attributes:
        name: Name of its files.
        charts: Side by side, under one another on a phone.
        caption: What is shown and how to read it.
    """

    name: str
    charts: tuple[Chart, ...]
    caption: str

    def file_names(self) -> tuple[str, ...]:
        """Return the names of its pictures without their ending, such as ``leak`` and ``leak-2``."""
        return tuple(self.name if nth == 1 else f"{self.name}-{nth}" for nth in range(1, len(self.charts) + 1))


def score_row(label: str, score: Score, look: Look, *, strong: bool = True) -> ForestRow:
    """Return a row that shows one score."""
    return ForestRow(label, sample_words(score.n_tiles, score.n_groups), DrawnEstimate.of(score), look, strong)


def signed_axis(rows: Iterable[ForestRow], low: float, high: float) -> tuple[float, float]:
    """Return an axis of differences that holds all rows, reaches at least so far, and leaves room at both ends."""
    known = [value for row in rows for value in row.estimate.known]
    low, high = min([low, *known]), max([high, *known])
    return low - 0.08 * (high - low), high + 0.08 * (high - low)


def difference_forest(
    title: str, alt: str, rows: Sequence[ForestRow], axis: tuple[float, float], *, synthetic: bool
) -> Forest:
    """Return differences around zero; the words are completed by the rows' own."""
    told = "; ".join(f"{row.label} {row.estimate.words(signed=True)}" for row in rows)
    return Forest(title, f"{alt}: {told}.", synthetic, tuple(rows), axis, 0.0, "no difference", signed=True)
