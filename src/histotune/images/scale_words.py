"""A measured scale as text for the terminal."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

from histotune.images.scale import METHOD, ScaleEstimate
from histotune.tools.table import align_columns

if TYPE_CHECKING:
    from collections.abc import Sequence


def render_scale(estimate: ScaleEstimate, part: str) -> str:
    """Write a measured scale as plain text."""
    prior = estimate.prior
    mark = "SYNTHETIC " if estimate.synthetic else ""
    blocks = [
        f"{mark}{estimate.dataset}: scale by the size of its nuclei",
        _filled(
            f"Ruler: nuclei of {prior.tissue} measure {prior.diameter_um:g} um within a factor of "
            f"{prior.factor:g}. {prior.source}"
        ),
        _filled(f"Method: {METHOD}"),
        _show_magnifications(estimate),
        _ratios(estimate),
        _candidates(estimate),
        "\n".join(["Notes", *(_filled(note, "  - ", "    ") for note in estimate.notes)]) if estimate.notes else "",
        _adoption(estimate, part),
    ]
    return "\n\n".join(block for block in blocks if block)


def text_table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Write a table with columns as wide as their content, numbers to the right."""
    if not rows:
        return ""
    cells = [list(header), *([_cell(value) for value in row] for row in rows)]
    return align_columns(title, cells, [not isinstance(value, str) for value in rows[0]])


def _show_magnifications(estimate: ScaleEstimate) -> str:
    header = (
        "magnification",
        "nuclei_px",
        "95 %",
        "tiles",
        "measured",
        "groups",
        "mpp_alone",
        "mpp",
        "mpp_factor",
        "mpp from",
    )
    rows = [
        (
            scale.magnification or "any",
            scale.diameter_px,
            _range(scale.low_px, scale.high_px),
            scale.n_tiles,
            scale.n_estimable,
            scale.n_groups,
            scale.mpp_alone,
            scale.mpp,
            scale.mpp_factor,
            scale.how,
        )
        for scale in estimate.magnifications
    ]
    return text_table("Nuclear diameter and scale (um/px; the truth within a factor of mpp_factor)", header, rows)


def _ratios(estimate: ScaleEstimate) -> str:
    rows = [
        (f"{check.coarse} : {check.fine}", check.measured, _range(check.low, check.high), check.expected)
        for check in estimate.ratios
    ]
    title = "Ratios of nuclear diameter between magnifications"
    return text_table(title, ("magnifications", "measured", "95 %", "expected"), rows)


def _candidates(estimate: ScaleEstimate) -> str:
    rows = [
        (
            check.source,
            check.magnification or "any",
            check.mpp,
            check.nucleus_um,
            "supported" if check.supported else "contradicted by the nuclei",
        )
        for check in estimate.candidates
    ]
    header = ("source", "magnification", "mpp", "nuclei would be um", "verdict")
    return text_table("Scales on record", header, rows)


def _adoption(estimate: ScaleEstimate, part: str) -> str:
    settings = estimate.settings(part)
    if not settings:
        return "No scale to adopt: " + (
            "nothing could be measured." if not estimate.adopted else "some magnifications have no value."
        )
    return "To adopt it:  " + " ".join(f"--set '{setting}'" for setting in settings)


def _range(low: float, high: float) -> str:
    return "-" if math.isnan(low) or math.isnan(high) else f"{low:.3g} to {high:.3g}"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _filled(text: str, first: str = "", other: str = "  ") -> str:
    return textwrap.fill(text, 110, initial_indent=first, subsequent_indent=other)
