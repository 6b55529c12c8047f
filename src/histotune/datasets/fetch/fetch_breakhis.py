"""BreakHis from its home: one archive without a published checksum, so its own integrity and the counts decide."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from histotune.datasets.breakhis import NAME_PATTERN
from histotune.datasets.disk import FETCH_RECORDS
from histotune.datasets.fetch.download import Partial, Unavailable, digest_file, download
from histotune.datasets.fetch.source import (
    BREAKHIS_COUNTS,
    FACTS,
    Need,
    PlannedFile,
    Result,
    cant_fetch,
    clear_leftovers,
    file_entry,
    here_already,
    need_of,
    tree_entry,
    unchanged,
    unpacked_folder,
    write_receipt,
)
from histotune.datasets.fetch.transport import public_url
from histotune.datasets.fetch.unpack import (
    Limits,
    explained_unpacking,
    flush_all,
    member_writer,
    read_through,
    visit_tar_gz,
)
from histotune.tools.atomic import atomic_folder
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from histotune.datasets.fetch.source import FileState, Receipt, RemoteFile, Source, Transfer
    from histotune.datasets.fetch.unpack import Member


# ---- Is it all of BreakHis ----


BREAKHIS_FOLDER = "BreaKHis_v1"
Cell = tuple[str, str]  # magnification and class letter
COUNTS_CHECK = FACTS["kaggle"]["breakhis"]["check"]  # Kaggle publishes no more than the home does


def count_images(names: Iterable[str]) -> Counter[Cell]:
    """Count images per magnification and class; a name that comes twice counts once."""
    counts: Counter[Cell] = Counter()
    for name in set(names):
        match = NAME_PATTERN.fullmatch(name)
        if match is not None and name.lower().endswith(".png"):  # as published
            counts[f"{match['magnification']}X", match["b"] or match["m"]] += 1
    return counts


def images_below(folder: Path) -> Counter[Cell]:
    """Count the images below a folder, work in progress left out."""
    paths = (path for path in folder.rglob("*.[pP][nN][gG]") if FETCH_RECORDS not in path.relative_to(folder).parts)
    return count_images(path.name for path in paths)


def missing_images(counts: Mapping[Cell, int], published: Mapping[Cell, int] = BREAKHIS_COUNTS) -> str:
    """Return how the counts differ from the published ones, "" where they agree."""
    classes = {"B": "benign", "M": "malignant"}
    wrong = [
        f"{magnification} {classes[letter]} {counts.get((magnification, letter), 0):,} of {n:,}"
        for (magnification, letter), n in published.items()
        if counts.get((magnification, letter), 0) != n
    ]
    return ", ".join(wrong)


ARCHIVE_CHECK = f"gzip and tar integrity; {COUNTS_CHECK}"


@dataclass(frozen=True)
class BreakhisHome:
    """BreakHis's own home.

    Attributes:
        source: For people.
        file: The archive.
        limits: What it may unpack to.
        counts: Published images per magnification and class.
        dataset: Name on the command line.
    """

    source: Source
    file: RemoteFile
    limits: Limits
    counts: Mapping[tuple[str, str], int]
    dataset: str = "breakhis"

    def plan(self, folder: Path, receipt: Receipt) -> tuple[PlannedFile, ...]:
        """Return the one line of the archive."""
        file = self.file
        return (PlannedFile(file.name, file.about_bytes, file.exact, ARCHIVE_CHECK, self._state(folder)),)

    def need(self, folder: Path, receipt: Receipt) -> Need:
        """Return the space for the archive beside its images."""
        state = self._state(folder)
        if state == "here":
            return Need(0, "everything is here")
        archive = self.file.about_bytes if state in ("to fetch", "to resume") else 0
        return need_of(archive, self.source.unpacked_bytes, min(archive, Partial(self.file, folder).size_bytes))

    def bring(self, folder: Path, receipt: Receipt, transfer: Transfer) -> Result:
        """Fetch the archive, test it, unpack it, count."""
        clear_leftovers(folder, ())
        here = images_below(folder)
        if here and not missing_images(here, self.counts):
            return Result(self._adopt(folder, receipt), False)
        if here or (folder / BREAKHIS_FOLDER).exists():
            lacking = missing_images(here, self.counts)
            raise here_already(folder, f"this folder holds BreakHis images, but not all of them ({lacking})")
        receipt = self._archive(folder, receipt, transfer)
        return Result(self._unpack(folder, receipt, transfer), True)

    def _adopt(self, folder: Path, receipt: Receipt) -> Receipt:
        """Return the receipt of images that are all there, as unpacked here or as somebody arranged them."""
        entry = receipt.find(BREAKHIS_FOLDER)
        if (folder / BREAKHIS_FOLDER).is_dir():
            now = tree_entry(folder, BREAKHIS_FOLDER, COUNTS_CHECK)
            if entry is not None and (entry.sha256, entry.size_bytes) == (now.sha256, now.size_bytes):
                return receipt
            return write_receipt(folder, replace(receipt, files=(now,)))
        return receipt

    def _archive(self, folder: Path, receipt: Receipt, transfer: Transfer) -> Receipt:
        """Return a receipt with a tested archive in the folder."""
        path = folder / self.file.name
        if unchanged(folder, receipt.find(self.file.name)):
            return receipt
        if path.is_file():
            transfer.say(f"{path.name} is here; testing it")
            try:
                self._test(path)
            except UserError as error:
                fix = f"move or remove it (rm '{path}') and run the same command again"
                raise UserError(error.what, value=path, fix=fix) from error
            digest, address, by_hand = digest_file(path), receipt.address, True
        else:
            try:
                got = download(self.file, folder, transfer, self._test)
            except Unavailable as error:
                raise cant_fetch(self, folder, str(error), error.fix) from error
            digest, address, by_hand = got.digest, public_url(got.url), False
        entry = file_entry(folder, path.name, digest, ARCHIVE_CHECK, by_hand=by_hand)
        note = (
            f"No checksum is published for {path.name}: it was verified by its gzip and tar structure and the number "
            f"of images per magnification and class. It has {digest.size_bytes:,} bytes and SHA-256 {digest.sha256}."
        )
        transfer.say(note)
        return write_receipt(folder, replace(receipt.with_file(entry), address=address, notes=(note,)))

    def _test(self, path: Path) -> None:
        """Read the archive to its last byte and count the images in it."""
        names: list[str] = []

        def look(member: Member) -> None:
            """Read a member to its end and keep its name."""
            names.append(member.path.name)
            read_through(member)

        visit_tar_gz(path, self.limits, look, f"testing {self.file.name}")
        lacking = missing_images(count_images(names), self.counts)
        if lacking:
            raise UserError(f"{self.file.name} is whole but holds other images than published ({lacking})", value=path)

    def _unpack(self, folder: Path, receipt: Receipt, transfer: Transfer) -> Receipt:
        archive, packed = folder / self.file.name, receipt.find(self.file.name)
        with explained_unpacking(archive), atomic_folder(unpacked_folder(folder)) as temporary:
            visit_tar_gz(archive, self.limits, member_writer(temporary, BREAKHIS_FOLDER), f"unpacking {archive.name}")
            lacking = missing_images(images_below(temporary), self.counts)
            if lacking:
                raise UserError(f"{archive.name} changed while it was unpacked ({lacking})", value=archive)
            flush_all()
        unpacked_folder(folder).replace(folder / BREAKHIS_FOLDER)
        entry = tree_entry(folder, BREAKHIS_FOLDER, ARCHIVE_CHECK)
        receipt = write_receipt(folder, receipt.with_file(entry, without=archive.name))
        if packed is not None and packed.by_hand:
            transfer.say(f"{archive.name} is not needed any more")
        else:
            archive.unlink()
        return receipt

    def _state(self, folder: Path) -> FileState:
        if not missing_images(images_below(folder), self.counts):
            return "here"
        if (folder / self.file.name).is_file():
            return "to verify"
        return "to resume" if Partial(self.file, folder).size_bytes else "to fetch"
