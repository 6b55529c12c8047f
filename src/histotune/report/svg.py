"""Charts as SVG: drawn once, kept beside the run with the hash of their data, and brought onto a page without styles.

A picture on disk is matplotlib's own file and opens anywhere. On a page it loses what a page must not have twice or at
all: style attributes, which its policy forbids; ids that repeat; colours that a dark page can't change.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from histotune.report.charts import COLOURS, Forest
from histotune.report.drawing import FLAG_ID, NARROW_PX, WIDE_PX, chart_style, draw_chart
from histotune.tools.files import hash_bytes, json_or_none, write_json, write_text
from histotune.tools.streams import one_line

if TYPE_CHECKING:
    from pathlib import Path

    from markupsafe import Markup

    from histotune.report.charts import Chart, Figure

PLOTS, INDEX = "plots", "plots.json"
"""The folder of a run's pictures, and the file in it that says from which data each was drawn."""
SVG_NAMESPACE, LINK = "http://www.w3.org/2000/svg", "{http://www.w3.org/1999/xlink}href"
KEPT_STYLES = frozenset({
    "fill", "fill-opacity", "opacity", "stroke", "stroke-dasharray", "stroke-dashoffset", "stroke-linecap",
    "stroke-linejoin", "stroke-opacity", "stroke-width", "text-anchor",
})  # fmt: skip
"""What a style says that a page keeps, as attributes of the same name."""
VARIABLES = {colour: f"var(--{name})" for name, colour in COLOURS.items()}
REFERENCE = re.compile(r"url\(#([^)]+)\)")
DECIMALS = re.compile(r"-?\d+\.\d{3,}")
FONT_SIZE = re.compile(r"(\d+(?:\.\d+)?)px")


@dataclass
class Drawings:
    """The pictures of one page: drawn where they are new, read where equal data were drawn before.

    Attributes:
        folder: Where new pictures are written; None keeps them on the page alone.
        earlier: Folders with pictures of earlier runs.
        n_drawn: How many had to be drawn.
        shown: Every chart of the page by the name of its picture.
    """

    folder: Path | None = None
    earlier: tuple[Path, ...] = ()
    n_drawn: int = 0
    shown: dict[str, Chart] = field(default_factory=dict)
    _index: dict[str, dict[str, str]] = field(default_factory=dict)
    _known: dict[str, str] | None = None

    def panels(self, figure: Figure) -> tuple[Markup, ...]:
        """Return a figure's pictures for a page, a wide form of every forest beside the narrow one."""
        shown: list[Markup] = []
        for name, chart in zip(figure.file_names(), figure.charts, strict=True):
            self.shown[name] = chart
            if isinstance(chart, Forest) and len(figure.charts) == 1:
                shown.append(inline_svg(self.svg(name, chart, WIDE_PX), chart, "wide"))
                shown.append(inline_svg(self.svg(f"{name}-narrow", chart, NARROW_PX), chart, "narrow"))
            else:
                shown.append(inline_svg(self.svg(name, chart, NARROW_PX), chart, ""))
        return tuple(shown)

    def svg(self, name: str, chart: Chart, width_px: float) -> str:
        """Return a picture as an SVG document, from an earlier folder where its data were the same."""
        drawn_from = f"{chart.data_hash}-{width_px:g}"
        text = self._earlier_pictures().get(drawn_from)
        if text is None:
            text = draw_svg(chart, width_px)
            self.n_drawn += 1
            self._earlier_pictures()[drawn_from] = text
        if self.folder is not None:
            file = f"{name}.svg"
            self._index[file] = {"data": drawn_from, "sha256": hash_bytes(text)}
            self.folder.mkdir(exist_ok=True)
            write_text(self.folder / file, text)
        return text

    def finish(self) -> None:
        """Write from which data each picture was drawn; what lies in the index already stays."""
        if self.folder is None or not self._index:
            return
        found = json_or_none(self.folder / INDEX)
        write_json(self.folder / INDEX, {**(found if isinstance(found, dict) else {}), **self._index})

    def _earlier_pictures(self) -> dict[str, str]:
        """Read the pictures of earlier folders, once, by what they were drawn from; a changed file is left out."""
        if self._known is None:
            self._known = {}
            for folder in self.earlier:
                index = json_or_none(folder / INDEX)
                for file, said in index.items() if isinstance(index, dict) else ():
                    text = _read_picture(folder, file, said)
                    if text is not None:
                        self._known[said["data"]] = text
        return self._known


def _read_picture(folder: Path, file: str, said: object) -> str | None:
    """Return a picture that lies where the index says, unchanged; None otherwise."""
    if not isinstance(said, dict) or not {"data", "sha256"} <= said.keys() or "/" in file or "\\" in file:
        return None
    try:
        text = (folder / file).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    return text if hash_bytes(text) == said["sha256"] else None


def draw_svg(chart: Chart, width_px: float) -> str:
    """Return a chart as an SVG document that opens by itself; equal charts give equal text."""
    stream = io.StringIO()
    with chart_style():
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        draw_chart(chart, width_px).savefig(stream, format="svg", metadata={**nothing, "Title": one_line(chart.title)})
    return stream.getvalue()


def inline_svg(text: str, chart: Chart, css: str) -> Markup:
    """Return a picture for a page: no styles, colours as variables, ids of its own, words for people who don't see it.

    Args:
        text: The document, as matplotlib wrote it.
        chart: What it shows.
        css: ``wide`` or ``narrow`` where the page shows one of two.

    Returns:
        An ``svg`` element.
    """
    from markupsafe import Markup

    root = ElementTree.fromstring(text)  # noqa: S314  (our own picture, whose hash was checked)
    prefix = f"c{hash_bytes(text)[:8]}"
    referred = set(REFERENCE.findall(text)) | set(re.findall(r'href="#([^"]+)"', text))
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child) in ("metadata", "style", "title", "desc") or child.get("id") == FLAG_ID:
                parent.remove(child)
    for element in root.iter():
        _make_plain(element, prefix, referred)
    width, height = root.get("viewBox", "0 0 0 0").split()[2:]
    root.attrib = {
        "class": f"chart {css}".strip(), "role": "img", "aria-label": one_line(chart.words),
        "viewBox": f"0 0 {float(width):g} {float(height):g}", "width": f"{float(width):g}",
        "stroke-linejoin": "round", "stroke-linecap": "butt",
    }  # fmt: skip
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # noqa: S704  (built from escaped parts)


def _local(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _make_plain(element: ElementTree.Element, prefix: str, referred: set[str]) -> None:
    """Turn one element's styles into attributes and its ids into the page's own."""
    element.tag = _local(element)
    for name, value in _style_parts(element.attrib.pop("style", "")):
        if name in KEPT_STYLES:
            element.set(name, value)
        elif name in ("font", "font-size") and (size := FONT_SIZE.search(value)):
            element.set("font-size", size[1])
            if re.search(r"\b(bold|[6-9]00)\b", value):
                element.set("font-weight", "650")
        elif name == "font-weight" and value in ("bold", "600", "650", "700"):
            element.set("font-weight", "650")
    for name, value in list(element.attrib.items()):
        if name == LINK:
            del element.attrib[name]
            element.set("href", f"#{prefix}{value[1:]}")
        elif name == "id":
            del element.attrib[name]
            if value in referred:
                element.set("id", f"{prefix}{value}")
        else:
            own = REFERENCE.sub(lambda found: f"url(#{prefix}{found[1]})", VARIABLES.get(value, value))
            element.set(name, DECIMALS.sub(_two_decimals, own))
    if element.text is not None and not element.text.strip():
        element.text = None
    if element.tail is not None and not element.tail.strip():
        element.tail = None


def _two_decimals(found: re.Match[str]) -> str:
    """A hundredth of a pixel is not seen, and a page is a third smaller."""
    return f"{round(float(found[0]), 2) + 0.0:g}"


def _style_parts(style: str) -> list[tuple[str, str]]:
    pairs = (part.partition(":") for part in style.split(";") if ":" in part)
    return [(name.strip(), value.strip()) for name, _, value in pairs]
