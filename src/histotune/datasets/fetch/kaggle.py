"""Both data sets from Kaggle through ``kagglehub``, or from the zip file that a person downloaded there."""

from __future__ import annotations

import importlib
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histotune.datasets.fetch.source import (
    Need,
    PlannedFile,
    Result,
    clear_leftovers,
    explained_fetch,
    here_already,
    need_of,
    size_of,
    staging_folder,
    tree_entry,
    write_receipt,
)
from histotune.datasets.fetch.source import unpacked_folder as unpacked_in
from histotune.datasets.fetch.unpack import Limits, explained_unpacking, flush_all, member_writer, visit_zip
from histotune.tools.atomic import FULL_DISK, atomic_folder
from histotune.tools.errors import UserError
from histotune.tools.tabular import TableError, read_csv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from histotune.datasets.fetch.source import FileState, Receipt, Source, Transfer

FINAL = "kaggle"
INSTALL = 'pip install "kagglehub>=1.0,<2"'
LOGIN = "make a token at https://www.kaggle.com/settings and put it where Kaggle says (~/.kaggle/kaggle.json)"


@dataclass(frozen=True)
class KaggleCopy:
    """A copy on Kaggle.

    Attributes:
        dataset: Name on the command line.
        source: For people.
        handle: Kaggle's name of it.
        competition: Whether it belongs to a competition, whose rules must be accepted.
        archive: Name of the zip file that Kaggle's page gives.
        limits: What it may unpack to.
        lacking: Looks at a folder and says what is missing in it, "" for nothing.
        check: What that compares, as a phrase.
    """

    dataset: str
    source: Source
    handle: str
    competition: bool
    archive: str
    limits: Limits
    lacking: Callable[[Path], str]
    check: str

    def plan(self, folder: Path, receipt: Receipt) -> tuple[PlannedFile, ...]:
        """Return one line: Kaggle gives all in one archive."""
        return (PlannedFile(self.handle, self.source.download_bytes, False, self.check, self._state(folder, receipt)),)

    def need(self, folder: Path, receipt: Receipt) -> Need:
        """Return the space for the archive beside its files."""
        state = self._state(folder, receipt)
        if state == "here":
            return Need(0, "everything is here")
        staged = size_of(staging_folder(folder, FINAL))
        return need_of(0 if state == "to verify" else self.source.download_bytes, self.source.unpacked_bytes, staged)

    def bring(self, folder: Path, receipt: Receipt, transfer: Transfer) -> Result:
        """Fetch and unpack the copy."""
        clear_leftovers(folder, ())
        if self._state(folder, receipt) == "here":
            return Result(receipt, False)
        if (folder / FINAL).exists():
            raise here_already(folder / FINAL, "this folder is in the way of the copy from Kaggle")
        archive = folder / self.archive
        if archive.is_file():
            transfer.say(f"{archive.name} is here; unpacking it")
            self._from_zip(folder, archive)
        else:
            self._from_kaggle(folder, transfer)
        entry = tree_entry(folder, FINAL, self.check)
        note = f"Kaggle publishes no checksum of {self.handle}; verified: {self.check}."
        address = self.source.manual_url
        return Result(write_receipt(folder, replace(receipt, files=(entry,), notes=(note,), address=address)), True)

    def _from_zip(self, folder: Path, archive: Path) -> None:
        with explained_unpacking(archive), atomic_folder(unpacked_in(folder)) as temporary:
            visit_zip(archive, self.limits, member_writer(temporary), f"unpacking {archive.name}")
            self._require_all(temporary, archive)
            flush_all()
        unpacked_in(folder).replace(folder / FINAL)

    def _from_kaggle(self, folder: Path, transfer: Transfer) -> None:
        kagglehub = _kagglehub()
        staging = staging_folder(folder, FINAL)
        staging.mkdir(parents=True, exist_ok=True)
        transfer.say(f"asking Kaggle for {self.handle}")
        # kagglehub resumes inside its own cache only, so the cache is put onto the disk that the data go to.
        with (
            _environment("KAGGLEHUB_CACHE", str(staging)),
            explained_fetch(self, folder, lambda error: _explain(error, self)),
        ):
            ask = kagglehub.competition_download if self.competition else kagglehub.dataset_download
            arrived = Path(ask(self.handle))
        _refuse_links(arrived)
        self._require_all(arrived, arrived)
        flush_all()
        if staging.resolve() in arrived.resolve().parents:
            arrived.replace(folder / FINAL)
        else:  # on Kaggle's own machines the data are mounted, not downloaded
            with atomic_folder(folder / FINAL) as temporary:
                shutil.copytree(arrived, temporary, dirs_exist_ok=True)
        shutil.rmtree(staging, ignore_errors=True)

    def _require_all(self, here: Path, shown: Path) -> None:
        lacking = self.lacking(here)
        if lacking:
            raise UserError(
                f"the copy from Kaggle is not complete ({lacking})",
                value=shown,
                fix=f"remove {shown} and run the same command again, or choose another --source",
            )

    def _state(self, folder: Path, receipt: Receipt) -> FileState:
        entry = receipt.find(FINAL)
        if entry is not None and (folder / FINAL).is_dir():
            now = tree_entry(folder, FINAL, "")
            if (now.sha256, now.size_bytes) == (entry.sha256, entry.size_bytes):
                return "here"
        return "to verify" if (folder / self.archive).is_file() else "to fetch"


def lacking_tiffs(folder: Path) -> str:
    """Return what misses in a folder of PatchCamelyon's Kaggle copy: every label needs its image and the reverse."""
    import polars as pl

    tables = sorted(folder.rglob("train_labels.csv"))
    if len(tables) != 1:
        return f"{len(tables)} tables named train_labels.csv"
    try:
        labelled = set(read_csv(tables[0])["id"])
    except (pl.exceptions.PolarsError, TableError) as error:
        return f"train_labels.csv can't be read: {error}"
    images = {path.stem for path in (tables[0].parent / "train").glob("*.tif")}
    if labelled != images or not images:
        return f"{len(labelled - images):,} labels without an image, {len(images - labelled):,} images without a label"
    return ""


def _kagglehub() -> Any:  # noqa: ANN401  (an extra, maybe absent)
    try:
        return importlib.import_module("kagglehub")
    except ImportError as error:
        raise UserError("--source kaggle needs the package kagglehub, which is not installed", fix=INSTALL) from error


def _explain(error: Exception, copy: KaggleCopy) -> tuple[str, str] | None:
    """Return what happened and what helps, by the names of kagglehub's errors; None for a fault of ours."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    name = type(error).__name__
    full = isinstance(error, OSError) and error.errno in FULL_DISK
    network = isinstance(error, OSError) or type(error).__module__.partition(".")[0] in ("requests", "urllib3")
    explanations = (
        (name in ("UnauthenticatedError", "CredentialError") or status == 401, "Kaggle asks for a login", LOGIN),
        (status == 403 and copy.competition, "Kaggle refuses access (status 403)", f"accept {_rules(copy)}; {LOGIN}"),
        (status is not None, f"Kaggle refuses the download (status {status})", f"see {copy.source.manual_url}"),
        (name == "DataCorruptionError", "what arrived has another MD5 than Kaggle announced", "run it again"),
        (full, "the disk is full", "free space there"),
        (network, "Kaggle can't be reached, or the connection broke", "check the network connection of this machine"),
    )
    return next(((what, fix) for applies, what, fix in explanations if applies), None)


def _rules(copy: KaggleCopy) -> str:
    return f"https://www.kaggle.com/competitions/{copy.handle}/rules"


def _refuse_links(folder: Path) -> None:
    links = [path for path in folder.rglob("*") if path.is_symlink()]
    if links:
        raise UserError(f"the copy from Kaggle holds {len(links)} links, which are not followed", value=links[0])


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for the block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
