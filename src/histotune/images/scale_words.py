"""A measured scale as text for the terminal."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

from histotune.images.scale import METHOD, ScaleEstimate
from histotune.tools.table import align_columns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


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


def text_table(title: str, rows: Sequence[Mapping[str, object]]) -> str:
    """Write rows, each a value by its heading, with columns as wide as their content and numbers to the right."""
    if not rows:
        return ""
    cells = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    return align_columns(title, cells, [not isinstance(value, str) for value in rows[0].values()])


def _show_magnifications(estimate: ScaleEstimate) -> str:
    rows = [
        {
            "magnification": scale.magnification or "any",
            "nuclei_px": scale.diameter_px,
            "95 %": _range(scale.low_px, scale.high_px),
            "tiles": scale.n_tiles,
            "measured": scale.n_estimable,
            "groups": scale.n_groups,
            "mpp_alone": scale.mpp_alone,
            "mpp": scale.mpp,
            "mpp_factor": scale.mpp_factor,
            "mpp from": scale.how,
        }
        for scale in estimate.magnifications
    ]
    return text_table("Nuclear diameter and scale (um/px; the truth within a factor of mpp_factor)", rows)


def _ratios(estimate: ScaleEstimate) -> str:
    rows = [
        {
            "magnifications": f"{check.coarse} : {check.fine}",
            "measured": check.measured,
            "95 %": _range(check.low, check.high),
            "expected": check.expected,
        }
        for check in estimate.ratios
    ]
    return text_table("Ratios of nuclear diameter between magnifications", rows)


def _candidates(estimate: ScaleEstimate) -> str:
    rows = [
        {
            "source": check.source,
            "magnification": check.magnification or "any",
            "mpp": check.mpp,
            "nuclei would be um": check.nucleus_um,
            "verdict": "supported" if check.supported else "contradicted by the nuclei",
        }
        for check in estimate.candidates
    ]
    return text_table("Scales on record", rows)


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
