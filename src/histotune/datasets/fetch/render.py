"""A plan and an outcome as a person reads them."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from histotune.datasets.fetch.records import show_bytes

if TYPE_CHECKING:
    from histotune.datasets.fetch.records import FetchedFile, FetchOutcome, FetchPlan, PlannedFile


def render_plan(plan: FetchPlan) -> str:
    """Write a plan as plain text.

    Args:
        plan: From ``plan_fetch``.

    Returns:
        Several lines.
    """
    width = max(len(file.name) for file in plan.files)
    total = sum(file.about_bytes for file in plan.files if file.state in ("to fetch", "to resume"))
    enough = "enough" if plan.free_bytes >= plan.need_bytes else "NOT ENOUGH"
    return "\n".join(
        [
            f"{plan.title} from {plan.source.where}",
            f"into {plan.folder}; nothing was written",
            "",
            *(_plan_line(file, width) for file in plan.files),
            "",
            f"to download: {show_bytes(total)}",
            f"free space: {show_bytes(plan.free_bytes)}; needed at the worst moment: {show_bytes(plan.need_bytes)}, "
            f"margin included: {enough}",
        ]
    )


def render_outcome(outcome: FetchOutcome) -> str:
    """Write an outcome as plain text: where the data are, how they were verified, licence, citation, next command.

    Args:
        outcome: From ``fetch``.

    Returns:
        Several lines.
    """
    done = "is here" if outcome.new else "was here already; nothing was fetched"
    citation = textwrap.fill(f"Cite: {outcome.citation}", 110, subsequent_indent="  ")
    return "\n".join(
        [
            f"{outcome.title} {done}: {outcome.folder}",
            *(_file_line(file) for file in outcome.files),
            *(textwrap.fill(note, 110, initial_indent="  - ", subsequent_indent="    ") for note in outcome.notes),
            f"Licence: {outcome.licence}",
            citation,
            f"next: histotune data describe {outcome.dataset} --data {outcome.folder}",
        ]
    )


def _plan_line(file: PlannedFile, width: int) -> str:
    size = ("" if file.exact else "about ") + show_bytes(file.about_bytes)
    return f"  {file.name.ljust(width)}  {size:>13}  {file.state:<9}  {file.check}"


def _file_line(file: FetchedFile) -> str:
    by_hand = " (put here by hand)" if file.by_hand else ""
    return f"  {file.name}  {show_bytes(file.size_bytes)}  {file.checked}{by_hand}"
