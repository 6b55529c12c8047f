"""PatchCamelyon from Zenodo: nine files, each verified, unpacked and verified again."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from histotune.datasets.fetch.download import Partial, Unavailable, describe_check, digest_file, download, mismatches
from histotune.datasets.fetch.source import (
    Checksums,
    FetchedFile,
    Need,
    PlannedFile,
    Result,
    cant_fetch,
    clear_leftovers,
    explained_fetch,
    file_entry,
    here_already,
    need_of,
    require_space,
    show_bytes,
    size_of,
    staging_folder,
    unchanged,
    write_receipt,
)
from histotune.datasets.fetch.transport import public_url
from histotune.datasets.fetch.unpack import UnsafeMember, flush_all, safe_member_path, unpack_gz
from histotune.tools.atomic import FULL_DISK
from histotune.tools.errors import UserError, raise_together
from histotune.tools.progress import is_watched
from histotune.tools.stand_ins import WEB_PAGE
from histotune.tools.tabular import parquet_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from histotune.datasets.fetch.source import FileState, Receipt, RemoteFile, Source, Transfer


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
        """Fetch what is missing."""
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


# ---- Parquet from the Hugging Face hub ----


FINAL = "hub"
HTTP_CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")
UNREACHABLE, CHECK_NETWORK = "the hub can't be reached", "check the network connection of this machine"
PARQUET = re.compile(r"data/(?P<part>train|valid|test)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?\.parquet")


@dataclass(frozen=True)
class HubFile:
    """A parquet file as the hub describes it.

    Attributes:
        name: Path in the repository.
        part: ``train``, ``valid`` or ``test``.
        size_bytes: Its length; None where the hub does not say.
        sha256: Of its bytes; None where the hub does not say.
    """

    name: str
    part: str
    size_bytes: int | None
    sha256: str | None


@dataclass(frozen=True)
class PcamHub:
    """PatchCamelyon's copy on the hub.

    Attributes:
        source: For people.
        repository: Data set repository.
        rows: Tiles per part.
        dataset: Name on the command line.
    """

    source: Source
    repository: str
    rows: Mapping[str, int]
    dataset: str = "pcam"

    def plan(self, folder: Path, receipt: Receipt) -> tuple[PlannedFile, ...]:
        """Return one line: which files there are, the hub says when it is asked."""
        state: FileState = "here" if _all_here(folder, receipt) else "to fetch"
        check = "SHA-256 and length as the hub has them; number of rows per part as published"
        return (PlannedFile(f"{self.repository}: data/*.parquet", self.source.download_bytes, False, check, state),)

    def need(self, folder: Path, receipt: Receipt) -> Need:
        """Return the space for what is missing."""
        here = _all_here(folder, receipt)
        return need_of(0 if here else self.source.download_bytes, 0, size_of(staging_folder(folder, FINAL)))

    def bring(self, folder: Path, receipt: Receipt, transfer: Transfer) -> Result:
        """Fetch all parquet files of the newest commit."""
        if _all_here(folder, receipt):
            return Result(receipt, False)
        if (folder / FINAL).exists():
            raise here_already(folder / FINAL, "this folder is in the way of the copy from the hub")
        with explained_fetch(self, folder, lambda error: _explain(error, self.repository)):
            commit, files = self._list()
        staging = staging_folder(folder, FINAL)
        staging.mkdir(parents=True, exist_ok=True)
        missing_bytes = sum(file.size_bytes or 0 for file in files) - size_of(staging)
        require_space(folder, missing_bytes + transfer.config.margin_bytes, f"{len(files)} parquet files")
        entries = [self._fetch_one(folder, file, commit, transfer) for file in files]
        self._require_rows(staging, files)
        shutil.rmtree(staging / ".cache", ignore_errors=True)  # the hub library's own notes on what it downloaded
        flush_all()
        staging.replace(folder / FINAL)
        final = tuple(replace(entry, name=f"{FINAL}/{entry.name}") for entry in entries)
        note = f"From commit {commit} of {self.repository}."
        receipt = replace(receipt, files=final, address=f"https://huggingface.co/datasets/{self.repository}")
        return Result(write_receipt(folder, replace(receipt, notes=(note,))), True)

    def _list(self) -> tuple[str, list[HubFile]]:
        """Ask the hub for the newest commit and its parquet files."""
        from huggingface_hub import HfApi

        info = HfApi().dataset_info(self.repository, files_metadata=True)
        files = [file for file in map(_hub_file, info.siblings or ()) if file is not None]
        found = {file.part for file in files}
        if found != set(self.rows) or info.sha is None:
            raise UserError(
                "the repository does not hold the parquet files of all parts",
                value=self.repository,
                allowed=", ".join(f"data/{part}-00000-of-00001.parquet" for part in self.rows),
            )
        return info.sha, sorted(files, key=lambda file: file.name)

    def _fetch_one(self, folder: Path, file: HubFile, commit: str, transfer: Transfer) -> FetchedFile:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils import disable_progress_bars

        if not is_watched():
            disable_progress_bars()
        staging = staging_folder(folder, FINAL)
        with explained_fetch(self, folder, lambda error: _explain(error, self.repository)):
            hf_hub_download(self.repository, file.name, repo_type="dataset", revision=commit, local_dir=staging)
        path = staging / file.name
        digest = digest_file(path)
        if wrong := mismatches(digest, Checksums(sha256=file.sha256), file.size_bytes):
            path.unlink()
            raise UserError(
                f"{file.name} is not what the hub describes ({'; '.join(wrong)}); it was removed",
                fix="run the same command again, or choose another --source",
            )
        checked = "length as the hub has it" if file.sha256 is None else "SHA-256 and length as the hub has them"
        transfer.say(f"{file.name}: arrived ({show_bytes(digest.size_bytes)}), {checked}")
        return file_entry(staging, file.name, digest, checked)

    def _require_rows(self, staging: Path, files: list[HubFile]) -> None:
        import pyarrow as pa

        rows = dict.fromkeys(self.rows, 0)
        for file in files:
            try:
                rows[file.part] += parquet_file(staging / file.name).metadata.num_rows
            except (pa.ArrowException, OSError) as error:
                raise UserError(f"{file.name} is no parquet file ({type(error).__name__})", value=staging) from error
        wrong = [f"{part} {rows[part]:,} of {n:,}" for part, n in self.rows.items() if rows[part] != n]
        if wrong:
            raise UserError(
                f"the copy on the hub does not have PatchCamelyon's number of tiles ({', '.join(wrong)})",
                value=self.repository,
                fix="choose another --source",
            )


def _explain(error: Exception, repository: str) -> tuple[str, str] | None:
    """Return what happened and what helps; None for a fault of ours."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/datasets/{repository}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    terms = f"accept its terms at {page}, then `hf auth login`"
    # In this order: the later kinds of error hold the earlier ones.
    explanations: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str, str], ...] = (
        (errors.OfflineModeIsEnabled, "offline mode is on", "unset HF_HUB_OFFLINE"),
        (errors.GatedRepoError, "the repository is gated and access was not granted", terms),
        (errors.RepositoryNotFoundError, "the repository is gone, renamed or private", f"see {page}"),
        (errors.RevisionNotFoundError, "the repository lost a commit", f"see {page}"),
        (errors.LocalEntryNotFoundError, UNREACHABLE, CHECK_NETWORK),
        (errors.EntryNotFoundError, "the repository lost one of its files", f"see {page}"),
        (errors.HfHubHTTPError, f"the hub refuses the download (status {status})", "`hf auth whoami` shows the token"),
    )
    for kinds, what, fix in explanations:
        if isinstance(error, kinds):
            return what, fix
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        return "the disk is full", "free space there"
    if isinstance(error, json.JSONDecodeError):
        return f"the hub's answer is no data: perhaps it is {WEB_PAGE.words}", WEB_PAGE.fix
    # The library's HTTP client has its own errors for a missing connection, and it changed between versions.
    network = type(error).__module__.partition(".")[0] in HTTP_CLIENTS
    return (UNREACHABLE, CHECK_NETWORK) if network or isinstance(error, OSError) else None


def _hub_file(sibling: Any) -> HubFile | None:  # noqa: ANN401  (huggingface_hub has no types here)
    match = PARQUET.fullmatch(sibling.rfilename)
    if match is None:
        return None
    try:
        safe_member_path(sibling.rfilename)
    except UnsafeMember:
        return None
    sha256 = getattr(getattr(sibling, "lfs", None), "sha256", None)
    return HubFile(sibling.rfilename, match["part"], getattr(sibling, "size", None), sha256)


def _all_here(folder: Path, receipt: Receipt) -> bool:
    return bool(receipt.files) and all(unchanged(folder, entry) for entry in receipt.files)
