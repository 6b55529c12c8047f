"""A data set from one of its sources into a folder: plan, lock, space, fetch, receipt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from histotune.datasets.fetch.place import (
    Receipt,
    free_bytes,
    locked,
    read_receipt,
    require_space,
    write_receipt,
)
from histotune.datasets.fetch.records import FetchOutcome, FetchPlan
from histotune.datasets.fetch.registry import SPEC_NAMES, find_origin
from histotune.datasets.read import dataset_spec
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from histotune.datasets.fetch.config import NetworkConfig
    from histotune.datasets.fetch.records import Transfer
    from histotune.datasets.fetch.source import Origin


def default_folder(dataset: str) -> Path:
    """Return where a data set goes unless somebody says otherwise.

    Args:
        dataset: Name on the command line.
    """
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
