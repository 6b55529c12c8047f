"""A download in progress: NAME.partial and the small file that says what it is part of."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from histotune.datasets.fetch.records import show_bytes
from histotune.tools.errors import UserError
from histotune.tools.files import FULL_DISK, NO_WRITE, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from histotune.datasets.fetch.records import RemoteFile
    from histotune.datasets.fetch.transport import Reply


@dataclass(frozen=True)
class PartialRecord:
    """What the bytes so far belong to.

    Attributes:
        url: Address they came from.
        etag: Entity tag of that version of the file, for If-Range.
        last_modified: Its date, used where there is no entity tag.
        total_bytes: Announced length of the whole.
        md5: Expected hash, "" where none is published.
        sha256: Expected hash, "" where none is published.
    """

    url: str
    etag: str | None
    last_modified: str | None
    total_bytes: int | None
    md5: str
    sha256: str

    @property
    def validator(self) -> str | None:
        """Value of If-Range."""
        return self.etag or self.last_modified


@dataclass(frozen=True)
class Partial:
    """The pair of files beside the finished name.

    Attributes:
        file: What is being downloaded.
        folder: Where.
    """

    file: RemoteFile
    folder: Path

    @property
    def path(self) -> Path:
        """The bytes so far."""
        return self.folder / f"{self.file.name}.partial"

    @property
    def record_path(self) -> Path:
        """What they belong to."""
        return self.folder / f"{self.file.name}.partial.json"

    @property
    def size_bytes(self) -> int:
        """Bytes so far."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def read(self) -> PartialRecord | None:
        """Return what the bytes belong to; None where that is unknown or was another file."""
        try:
            record = PartialRecord(**json.loads(self.record_path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        same = (record.md5, record.sha256) == self._hashes and record.url in self.file.urls
        return record if same else None

    def begin(self, url: str, reply: Reply) -> PartialRecord:
        """Empty the bytes, then write down what the next ones belong to.

        Args:
            url: Address asked.
            reply: Its answer with status 200.
        """
        # In this order: a process killed in between leaves no bytes of one version beside the name of another.
        with explained_writes(self):
            self.path.write_bytes(b"")
        record = PartialRecord(url, reply.etag, reply.last_modified, reply.total_bytes, *self._hashes)
        write_json(self.record_path, asdict(record))
        return record

    @contextmanager
    def writer(self) -> Iterator[Callable[[bytes], None]]:
        """Add bytes behind those that are there; on a full disk those that fitted stay and count.

        Yields:
            A function that adds bytes.

        Raises:
            UserError: The disk is full or the file can't be written.
        """
        with explained_writes(self), self.path.open("ab", buffering=0) as stream:

            def write(data: bytes) -> None:
                view = memoryview(data)
                while view:
                    view = view[stream.write(view) :]

            yield write

    def drop(self) -> None:
        """Remove both files."""
        self.path.unlink(missing_ok=True)
        self.record_path.unlink(missing_ok=True)

    def finish(self) -> Path:
        """Give the verified bytes their final name.

        Returns:
            The finished file.
        """
        final = self.folder / self.file.name
        with explained_writes(self):
            with self.path.open("rb+") as stream:
                os.fsync(stream.fileno())
            self.path.replace(final)
            flush_folder(self.folder)
        self.record_path.unlink(missing_ok=True)
        return final

    @property
    def _hashes(self) -> tuple[str, str]:
        return self.file.checksums.md5 or "", self.file.checksums.sha256 or ""


@contextmanager
def explained_writes(partial: Partial) -> Iterator[None]:
    """Turn a full disk and a missing permission into one message that says what is kept.

    Args:
        partial: What is being written.

    Raises:
        UserError: In place of the OSError; other OSErrors pass through.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK:
            kept = partial.size_bytes
            missing = max(0, partial.file.about_bytes - kept)
            raise UserError(
                f"the disk is full; {show_bytes(kept)} of {partial.file.name} are kept",
                value=partial.folder,
                fix=f"free at least {show_bytes(missing)} there and run the same command again; it continues",
            ) from error
        if error.errno in NO_WRITE:
            raise UserError("this folder can't be written", value=partial.folder,
                            fix="choose a folder you own with --to, or change its permissions") from error  # fmt: skip
        raise


def flush_folder(folder: Path) -> None:
    """Flush a rename in a folder to disk, where the platform can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    except OSError:
        return  # some network file systems
    finally:
        os.close(handle)
