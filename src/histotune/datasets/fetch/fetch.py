"""A data set from one of its sources into a folder: plan, lock, space, fetch, receipt."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from histotune.datasets.fetch.fetch_breakhis import BreakhisHome, images_below, missing_images
from histotune.datasets.fetch.fetch_pcam import PcamHome, PcamHub
from histotune.datasets.fetch.kaggle import KaggleCopy, lacking_tiffs
from histotune.datasets.fetch.source import (
    BREAKHIS_COUNTS,
    FACTS,
    FILES,
    PCAM_ROWS,
    SOURCES,
    FetchOutcome,
    FetchPlan,
    Receipt,
    free_bytes,
    locked,
    read_receipt,
    require_space,
    show_bytes,
    write_receipt,
)
from histotune.datasets.fetch.unpack import Limits
from histotune.datasets.read import dataset_spec
from histotune.tools.errors import UserError, closest_name

if TYPE_CHECKING:
    from histotune.datasets.fetch.source import FetchedFile, NetworkConfig, Origin, PlannedFile, Transfer


def default_folder(dataset: str) -> Path:
    """Return where a data set goes unless somebody says otherwise."""
    return Path("data") / dataset


def plan_fetch(dataset: str, folder: Path, source: str | None, config: NetworkConfig) -> FetchPlan:
    """Say what a fetch would do; nothing is written and nobody is asked.

    Args:
        dataset: ``breakhis`` or ``pcam``.
        folder: Where the data would go.
        source: Name of a source; None for the data set's own home.
        config: Has the margin.

    Returns:
        Files, lengths, checks, space.

    Raises:
        UserError: No such data set or source.
    """
    origin = find_origin(dataset, source)
    receipt = _receipt(origin, folder)
    need_bytes = origin.need(folder, receipt).n_bytes
    return FetchPlan(
        title=dataset_spec(SPEC_NAMES[dataset]).title,
        source=origin.source,
        folder=folder,
        files=origin.plan(folder, receipt),
        need_bytes=need_bytes + (config.margin_bytes if need_bytes else 0),
        free_bytes=free_bytes(folder),
    )


def fetch(dataset: str, folder: Path, source: str | None, transfer: Transfer) -> FetchOutcome:
    """Bring a data set into a folder; what is there and verified is not fetched again.

    Args:
        dataset: ``breakhis`` or ``pcam``.
        folder: Where the data go.
        source: Name of a source; None for the data set's own home.
        transfer: Patience, jitter and messages.

    Returns:
        What is there and how it was verified.

    Raises:
        UserError: One message with what to do; what arrived is kept for the next call.
    """
    origin = find_origin(dataset, source)
    with locked(folder, transfer):
        receipt = _receipt(origin, folder)
        need = origin.need(folder, receipt)
        if need.n_bytes:
            margin_bytes = transfer.config.margin_bytes
            require_space(folder, need.n_bytes + margin_bytes, f"{need.what}, and a margin")
        result = origin.bring(folder, receipt, transfer)
        receipt = result.receipt
        if result.new or not receipt.complete:
            receipt = write_receipt(folder, replace(receipt, complete=True))
    spec = dataset_spec(SPEC_NAMES[dataset])
    return FetchOutcome(
        title=spec.title,
        dataset=dataset,
        folder=folder,
        files=receipt.files,
        new=result.new,
        licence=spec.licence,
        citation=spec.citation,
        notes=receipt.notes,
    )


def _receipt(origin: Origin, folder: Path) -> Receipt:
    """Return the folder's receipt, or an empty one; the copy of another source is not mixed with this one."""
    receipt = read_receipt(folder)
    if receipt is None or not receipt.files:
        return Receipt(origin.dataset, origin.source.name)
    if (receipt.dataset, receipt.source) != (origin.dataset, origin.source.name):
        raise UserError(
            f"this folder holds {receipt.dataset} from --source {receipt.source}; two copies are not mixed",
            value=folder,
            fix=f"use what is there (histotune data describe {receipt.dataset} --data {folder}), or choose another "
            "folder with --to",
        )
    return receipt


# ---- The sources ----


SPEC_NAMES = {"breakhis": "breakhis", "pcam": "patch_camelyon"}
LIMITS = {dataset: Limits(**limits) for dataset, limits in FACTS["limits"].items()}


def origins_of(dataset: str) -> tuple[Origin, ...]:
    """Return the sources of a data set, its own home first."""
    if dataset == "breakhis":
        return _breakhis()
    if dataset == "pcam":
        return _pcam()
    raise UserError(
        "this data set can't be fetched",
        value=dataset,
        allowed=", ".join(SPEC_NAMES),
        closest=closest_name(dataset, SPEC_NAMES),
    )


def find_origin(dataset: str, source: str | None) -> Origin:
    """Return a source by name."""
    by_name = {origin.source.name: origin for origin in origins_of(dataset)}
    name = source or next(iter(by_name))
    if name not in by_name:
        raise UserError(
            f"{dataset} has no such source",
            value=name,
            allowed="; ".join(f"{known} ({origin.source.where})" for known, origin in by_name.items()),
            closest=closest_name(name, by_name),
        )
    return by_name[name]


def _breakhis() -> tuple[Origin, ...]:
    home, kaggle = SOURCES["breakhis"]
    return (
        BreakhisHome(home, FILES["breakhis"][0], LIMITS["breakhis"], BREAKHIS_COUNTS),
        KaggleCopy(
            "breakhis", kaggle, **FACTS["kaggle"]["breakhis"], limits=LIMITS["breakhis"], lacking=_lacking_images
        ),
    )


def _pcam() -> tuple[Origin, ...]:
    home, hub, kaggle = SOURCES["pcam"]
    return (
        PcamHome(home, FILES["pcam"]),
        PcamHub(hub, FACTS["hub"], PCAM_ROWS),
        KaggleCopy("pcam", kaggle, **FACTS["kaggle"]["pcam"], limits=LIMITS["pcam"], lacking=lacking_tiffs),
    )


def _lacking_images(folder: Path) -> str:
    return missing_images(images_below(folder))


# ---- Words ----


def render_plan(plan: FetchPlan) -> str:
    """Write a plan as plain text."""
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
    """Write an outcome as plain text: where the data are, how they were verified, licence, citation, next command."""
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
