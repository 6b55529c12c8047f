"""PatchCamelyon from Zenodo: nine files, each verified, unpacked and verified again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from histotune.datasets.fetch.checks import describe_check, digest_file, mismatches
from histotune.datasets.fetch.download import Unavailable, download
from histotune.datasets.fetch.partial import Partial
from histotune.datasets.fetch.place import clear_leftovers, file_entry, unchanged, write_receipt
from histotune.datasets.fetch.records import FetchedFile, PlannedFile
from histotune.datasets.fetch.source import Need, Result, cant_fetch, need_of
from histotune.datasets.fetch.transport import public_url
from histotune.datasets.fetch.unpack import unpack_gz
from histotune.tools.errors import UserError, raise_together

if TYPE_CHECKING:
    from pathlib import Path

    from histotune.datasets.fetch.place import Receipt
    from histotune.datasets.fetch.records import Checksums, FileState, RemoteFile, Source, Transfer


@dataclass(frozen=True)
class PcamHome:
    """PatchCamelyon's own home.

    Attributes:
        source: For people.
        files: What it holds.
        dataset: Name on the command line.
    """

    source: Source
    files: tuple[RemoteFile, ...]
    dataset: str = "pcam"

    def plan(self, folder: Path, receipt: Receipt) -> tuple[PlannedFile, ...]:
        """Return a line per file, without hashing what is there."""
        return tuple(
            PlannedFile(file.name, file.about_bytes, file.exact, _check_of(file), _state(folder, file, receipt))
            for file in self.files
        )

    def need(self, folder: Path, receipt: Receipt) -> Need:
        """Return the space for what is missing: compressed files are removed one by one."""
        missing = [file for file in self.files if _state(folder, file, receipt) in ("to fetch", "to resume")]
        packed = [file.about_bytes for file in missing if file.unpacked is not None]
        kept = sum(file.about_bytes if file.unpacked is None else file.unpacked.limit_bytes for file in missing)
        return need_of(max(packed, default=0), kept, sum(Partial(file, folder).size_bytes for file in missing))

    def bring(self, folder: Path, receipt: Receipt, transfer: Transfer) -> Result:
        """Fetch what is missing.

        Args:
            folder: The data folder, locked.
            receipt: What is there.
            transfer: Patience, jitter and messages.

        Returns:
            What is there now.

        Raises:
            UserError: A file there is another one than published, or one can't be fetched.
        """
        clear_leftovers(folder, tuple(file.final_name for file in self.files))
        receipt = self._verify_what_is_here(folder, receipt, transfer)
        new = False
        for file in self.files:
            if receipt.find(file.final_name) is None:
                receipt = self._bring_one(folder, file, receipt, transfer)
                new = True
        return Result(receipt, new)

    def _verify_what_is_here(self, folder: Path, receipt: Receipt, transfer: Transfer) -> Receipt:
        """Keep the entries that hold, add those of files put there by hand; all wrong files are reported at once."""
        errors: list[UserError] = []
        files: list[FetchedFile] = []
        for file in self.files:
            for name, checksums in _names(file):
                entry = receipt.find(name)
                if entry is not None and unchanged(folder, entry):
                    files.append(entry)
                elif (folder / name).is_file():
                    transfer.say(f"{name} is here; verifying it")
                    digest = digest_file(folder / name)
                    wrong = mismatches(digest, checksums)
                    errors += [_wrong_file(folder / name, wrong)] if wrong else []
                    files.append(file_entry(folder, name, digest, describe_check(checksums), by_hand=True))
        raise_together(errors)
        return write_receipt(folder, replace(receipt, files=tuple(files)))

    def _bring_one(self, folder: Path, file: RemoteFile, receipt: Receipt, transfer: Transfer) -> Receipt:
        packed = receipt.find(file.name)
        if packed is None:
            try:
                got = download(file, folder, transfer)
            except Unavailable as error:
                raise cant_fetch(self, folder, f"{file.name}: {error}", error.fix, put=file.name) from error
            packed = file_entry(folder, file.name, got.digest, describe_check(file.checksums))
            receipt = write_receipt(folder, replace(receipt.with_file(packed), address=public_url(got.url)))
            transfer.say(f"{file.name}: arrived, {packed.checked}")
        if file.unpacked is None:
            return receipt
        digest = unpack_gz(folder / file.name, folder, file.unpacked)
        entry = file_entry(folder, file.unpacked.name, digest, describe_check(file.unpacked.checksums))
        receipt = write_receipt(folder, receipt.with_file(entry, without=file.name))
        if packed.by_hand:
            transfer.say(f"{file.unpacked.name}: unpacked, {entry.checked}; {file.name} is not needed any more")
        else:
            (folder / file.name).unlink()
            transfer.say(f"{file.unpacked.name}: unpacked, {entry.checked}; {file.name} was removed")
        return receipt


def _names(file: RemoteFile) -> list[tuple[str, Checksums]]:
    """Return the names to look for; a compressed file counts for nothing beside its unpacked one."""
    names = [(file.name, file.checksums)]
    return names if file.unpacked is None else [(file.unpacked.name, file.unpacked.checksums), *names]


def _wrong_file(path: Path, wrong: list[str]) -> UserError:
    return UserError(
        f"a file of this name is here and is not the published one: {'; '.join(wrong)}",
        value=path,
        fix=f"move or remove it (rm '{path}') and run the same command again",
    )


def _check_of(file: RemoteFile) -> str:
    unpacked = "" if file.unpacked is None else "; MD5 of the unpacked file"
    return describe_check(file.checksums) + unpacked


def _state(folder: Path, file: RemoteFile, receipt: Receipt) -> FileState:
    for name, _ in _names(file):
        if (folder / name).is_file():
            return "here" if unchanged(folder, receipt.find(name)) and name == file.final_name else "to verify"
    return "to resume" if Partial(file, folder).size_bytes else "to fetch"
