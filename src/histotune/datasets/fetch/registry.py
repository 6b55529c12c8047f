"""Which data sets can be fetched, and from where."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histotune.datasets.fetch import facts
from histotune.datasets.fetch.breakhis import BreakhisHome
from histotune.datasets.fetch.breakhis_images import COUNTS_CHECK, images_below, missing_images
from histotune.datasets.fetch.hub import PcamHub
from histotune.datasets.fetch.kaggle import KaggleCopy, lacking_tiffs
from histotune.datasets.fetch.pcam import PcamHome
from histotune.datasets.fetch.unpack import Limits
from histotune.tools.errors import UserError, closest_name

if TYPE_CHECKING:
    from pathlib import Path

    from histotune.datasets.fetch.source import Origin

SPEC_NAMES = {"breakhis": "breakhis", "pcam": "patch_camelyon"}
BREAKHIS_LIMITS = Limits(facts.BREAKHIS_LIMIT_MEMBERS, facts.BREAKHIS_LIMIT_BYTES)
PCAM_LIMITS = Limits(400_000, 20_000_000_000)


def origins_of(dataset: str) -> tuple[Origin, ...]:
    """Return the sources of a data set, its own home first.

    Args:
        dataset: Name on the command line.

    Raises:
        UserError: It can't be fetched.
    """
    if dataset == "breakhis":
        return _breakhis()
    if dataset == "pcam":
        return _pcam()
    raise UserError("this data set can't be fetched", value=dataset, allowed=", ".join(SPEC_NAMES),
                    closest=closest_name(dataset, SPEC_NAMES))  # fmt: skip


def find_origin(dataset: str, source: str | None) -> Origin:
    """Return a source by name.

    Args:
        dataset: Name on the command line.
        source: Its name; None for the data set's own home.

    Raises:
        UserError: There is no such source; the closest name is given.
    """
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
    home, kaggle = facts.BREAKHIS_SOURCES
    return (
        BreakhisHome(home, facts.BREAKHIS_FILES[0], BREAKHIS_LIMITS, facts.BREAKHIS_COUNTS),
        KaggleCopy(
            dataset="breakhis",
            source=kaggle,
            handle=facts.BREAKHIS_KAGGLE,
            competition=False,
            archive="archive.zip",
            limits=BREAKHIS_LIMITS,
            lacking=_lacking_images,
            check=COUNTS_CHECK,
        ),
    )


def _pcam() -> tuple[Origin, ...]:
    home, hub, kaggle = facts.PCAM_SOURCES
    return (
        PcamHome(home, facts.pcam_files()),
        PcamHub(hub, facts.HUB_REPOSITORY, facts.PCAM_ROWS),
        KaggleCopy(
            dataset="pcam",
            source=kaggle,
            handle=facts.PCAM_KAGGLE,
            competition=True,
            archive=f"{facts.PCAM_KAGGLE}.zip",
            limits=PCAM_LIMITS,
            lacking=lacking_tiffs,
            check="every training label has its image and every training image its label; no checksum is published",
        ),
    )


def _lacking_images(folder: Path) -> str:
    return missing_images(images_below(folder))
