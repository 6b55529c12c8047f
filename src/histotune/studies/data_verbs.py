"""The public verbs for what comes before a study: read, fetch, audit and split a data set; look at the machine."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from histotune.studies.arguments import (
    Fields,
    Place,
    assignments,
    build_config,
    config_of,
    path_of,
    tiles_of,
)
from histotune.tools.atomic import claimed
from histotune.tools.errors import UserError, name_setting
from histotune.tools.table import ShownAsTables

if TYPE_CHECKING:
    from histotune.audit.audit import AuditRequest
    from histotune.audit.verdicts import Audit, Verdict
    from histotune.datasets.fetch.source import FetchOutcome, FetchPlan
    from histotune.datasets.splits.split import Split
    from histotune.datasets.tileset import TileSet
    from histotune.studies.config import ExperimentConfig
    from histotune.tools.doctor import MachineDiagnosis
    from histotune.tools.table import Table


@dataclass(frozen=True)
class AuditOutcome(ShownAsTables):
    """A finished audit, and the folder of its page; None where none was asked for."""

    audit: Audit
    folder: Path | None

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all findings."""
        return self.audit.verdict

    def tables(self) -> tuple[Table, ...]:
        """Return the findings, and the tables behind them."""
        from histotune.report.result_tables import tables_of

        return tables_of(self.audit)


def read(dataset: str, data: Place | None = None, *, on_bad_image: str | None = None, set: Fields = None) -> TileSet:
    """Read a data set's files into a table of tiles; no pixel is decoded.

    Args:
        dataset: ``breakhis``, ``pcam``, ``tiles``, or a Python file that reads one.
        data: Folder of the data set, or table of tiles.
        on_bad_image: ``fail`` (default) or ``skip``: what becomes of images that can't be read.
        set: Further fields, such as ``{"source.labels": "eva4"}``.

    Returns:
        One row per labelled tile, with its group, class, magnification and scale.

    Raises:
        UserError: The folder is missing or holds something else.

    Example:
        >>> import histotune as ht
        >>> tiles = ht.read("breakhis", "BreaKHis_v1")
        >>> len(tiles), tiles.n_groups, tiles.class_names
        (72, 12, ('benign', 'malignant'))
    """
    from histotune.studies.setup import read_single

    typed = {"data": path_of(data), "on_bad_image": on_bad_image, "settings": assignments(set)}
    return read_single(build_config(dataset, **typed))


def fetch(
    dataset: str, to: Place | None = None, source: str | None = None, *, dry_run: bool = False
) -> FetchPlan | FetchOutcome:
    """Get a data set from its own home: resumed where it stopped, verified, unpacked.

    Args:
        dataset: ``breakhis`` or ``pcam``.
        to: Folder to write; the user's data folder without one.
        source: ``home`` (default), ``kaggle``, or for PatchCamelyon ``hub``.
        dry_run: Only list files, checks and space.

    Returns:
        What was fetched, or what would be.

    Raises:
        UserError: No such data set or source, no space, or nothing came.

    Example:
        >>> import histotune as ht
        >>> plan = ht.fetch("pcam", "PCAM", dry_run=True)
        >>> plan.source.name
        'home'
    """
    import logging

    import numpy as np

    from histotune.datasets.fetch import fetch as room
    from histotune.datasets.fetch.source import NetworkConfig, Transfer

    folder = room.default_folder(dataset) if to is None else Path(to).expanduser()
    name_setting(folder, "--to FOLDER")
    config = NetworkConfig()
    if dry_run:
        return room.plan_fetch(dataset, folder, source, config)
    # Unseeded on purpose: the jitter keeps machines apart that were cut off together.
    say = logging.getLogger("histotune.fetch").info
    return room.fetch(dataset, folder, source, Transfer(config, np.random.default_rng(), say, time.sleep))


def audit(
    tiles: TileSet | str,
    data: Place | None = None,
    *,
    split: str | None = None,
    out: Place | None = None,
    quick: bool = False,
    embeddings: bool = False,
    cache: Place | None = None,
    set: Fields = None,
) -> AuditOutcome:
    """Look for duplicates, leaks across the split, blank tiles, imbalance and odd stain; a verdict for each.

    Args:
        tiles: What :func:`read` gave, or a data set's name.
        data: Folder of the data set, where it is named.
        split: Name or file of the split to check.
        out: Folder for ``audit.html`` and ``audit.json``; None writes none.
        quick: Names only; no pixel is read.
        embeddings: Also look for overlapping fields among cached embeddings.
        cache: Folder for embeddings.
        set: Further fields of the config.

    Returns:
        The findings, the verdict and the folder.

    Raises:
        UserError: The data set can't be read, or the split is not one.

    Example:
        >>> import histotune as ht
        >>> found = ht.audit(ht.read("breakhis", "BreaKHis_v1"), quick=True)
        >>> found.verdict in ("ok", "not checked", "note", "warning", "error")
        True
    """
    from histotune.audit.audit import audit as look
    from histotune.report.pictures import audit_pictures
    from histotune.report.study_pages import write_audit

    if not isinstance(tiles, str) and tiles.read_from is None:
        raise UserError(
            "these tiles were made in memory, and an audit reads files",
            value=tiles.name,
            fix='ht.audit("tiles", "tiles.csv")',
        )
    config = config_of(tiles, data, cache=cache, set=set)
    folder = path_of(out)
    with claimed(folder, folder=True):
        request = _audit_request(config, split, quick=quick, embeddings=embeddings)
        result = look(request)
        if folder is not None:
            write_audit(result, audit_pictures(result, request.tiles, request.split, config.loader), folder)
    return AuditOutcome(result, folder)


def _audit_request(config: ExperimentConfig, split: str | None, *, quick: bool, embeddings: bool) -> AuditRequest:
    """Read the data set anew, since files that can't be read are findings here, and the split to check."""
    from histotune.audit.audit import AuditRequest, finest_labels, unread_files
    from histotune.audit.verdicts import AuditConfig
    from histotune.datasets.read import read_dataset
    from histotune.datasets.splits.named import find_split
    from histotune.studies.setup import part_of, single_dataset

    source = single_dataset(config).model_copy(update={"on_bad_image": "skip"})  # bad files are findings here
    found = read_dataset(source, part_of(config))
    # a leaky split too is checked, since leaks are what an audit is for
    checked = None if split is None else find_split(split, found, allow_leaky=True)
    return AuditRequest(
        tiles=found,
        split=checked,
        finest=finest_labels(source),
        config=AuditConfig(quick=quick),
        loader=config.loader,
        cache=config.cache if embeddings else None,
        unread=() if quick else unread_files(source.path, found),
    )


def split(
    tiles: TileSet | str,
    data: Place | None = None,
    *,
    split: str = "grouped-5-seed0",
    out: Place | None = None,
    allow_leaky: bool = False,
    set: Fields = None,
) -> Split:
    """Make a split by its name, or check one from a file.

    Args:
        tiles: What :func:`read` gave, or a data set's name.
        data: Folder of the data set, where it is named.
        split: ``grouped-5-seed0``, ``holdout-20-seed0``, ``eva``, ``thunder``, ``authors-5``, ``pcam-official``, or a
            file.
        out: File to write; None writes none.
        allow_leaky: Take a split with groups on two sides; it is marked LEAKY.
        set: Further fields of the config.

    Returns:
        The split, by tile id.

    Raises:
        UserError: No such split, or one that leaks.

    Example:
        >>> import histotune as ht
        >>> folds = ht.split(ht.read("breakhis", "BreaKHis_v1"), split="grouped-3-seed0")
        >>> len(folds.sides), folds.leaky
        (3, False)
    """
    from histotune.datasets.splits.named import find_split, save_split

    place = path_of(out)
    with claimed(place, folder=False):
        found = find_split(split, tiles_of(tiles, config_of(tiles, data, set=set)), allow_leaky=allow_leaky)
        if place is not None:
            save_split(found, place)
    return found


def doctor(cache: Place | None = None, *, deep: bool = False) -> MachineDiagnosis:
    """Say what works on this machine, and the command that mends what does not.

    Args:
        cache: Folder for embeddings; the user's own without one.
        deep: Also import torch and multiply in each precision.

    Returns:
        The checks.

    Example:
        >>> import histotune as ht
        >>> bool(ht.doctor().checks)
        True
    """
    from histotune.tools.doctor import diagnose
    from histotune.tools.files import user_dir

    return diagnose(Path(cache) if cache is not None else user_dir("cache"), deep=deep)
