"""Files that are never half-written: atomic writes, locks between processes, content hashes, user folders."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_JSON_BYTES = 256 * 2**20
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
NO_WRITE = (errno.EROFS, errno.EACCES, errno.EPERM)
PARTIAL = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}\.partial")  # the names that atomic_path makes


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` that replaces it only when the block succeeds.

    The content is flushed to disk before the rename, so a reader sees the old file or the whole new one.
    """
    with explained_os_errors(path):
        make_folder(path.parent)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            _flush_to_disk(temporary)
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def unfinished_name(path: Path) -> str | None:
    """Return the name that a half-written file of :func:`atomic_path` was to get; None for any other file.

    Example:
        >>> unfinished_name(Path(".space.json.ab12cd34.partial"))
        'space.json'
    """
    found = PARTIAL.fullmatch(path.name)
    return None if found is None else found["name"]


def is_regular_file(path: Path) -> bool:
    """Return whether a path is a file itself and no link to one."""
    return path.is_file() and not path.is_symlink()


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path`` only when the block succeeds, replacing an older one."""
    with explained_os_errors(path):
        make_folder(path.parent)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial"))
        try:
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            _replace_folder(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def explained_os_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a folder without write permission into a UserError naming ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK:
            raise UserError(
                "the disk is full; nothing was left half-written",
                value=path,
                fix=f"free space on {path.parent} or choose another folder (--out, --cache)",
            ) from error
        if error.errno in NO_WRITE:
            raise UserError(
                "this folder can't be written",
                value=path.parent,
                fix="choose a folder you own (--out, --cache) or change its permissions",
            ) from error
        raise


def make_folder(folder: Path) -> None:
    """Make a folder with its parents, if it isn't there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:
        found = next((part for part in (folder, *folder.parents) if part.exists()), folder)
        what = "a file stands where a folder should be" if found.is_file() else "no folder can be made here"
        raise UserError(what, value=found, fix="choose another folder (--out, --cache)") from error


def remove_empty_folders(folder: Path) -> None:
    """Remove the empty folders below a folder, then the folder itself if nothing is left in it; no link is followed."""
    for place, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):  # what still holds something stays
            Path(place).rmdir()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically, keys sorted, so that equal values give equal bytes; NaN becomes null.

    Args:
        path: Target file.
        value: Anything ``json`` can hold.
    """
    write_text(path, canonical_json(value) + "\n")


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:  # noqa: ANN401  (whatever JSON holds)
    """Read a JSON file.

    Args:
        path: The file.
        max_bytes: A longer file is refused unread.

    Returns:
        Whatever it holds.

    Raises:
        ValueError: It is no JSON, no UTF-8, too long, or nested deeper than any file of histotune's.
        OSError: It can't be read.
    """
    with path.open("rb") as stream:
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"more than {readable_bytes(max_bytes)}")
    return parse_json(data)


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401  (whatever JSON holds)
    """Return what JSON text holds; whatever is wrong with it is a ValueError, endless nesting included."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def canonical_json(value: object) -> str:
    """Return JSON with sorted keys and strict numbers (NaN and infinities become null)."""
    return json.dumps(_strict(value), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)


@contextmanager
def lock(path: Path, timeout_s: float = 600.0) -> Iterator[None]:
    """Hold an exclusive lock between processes; the operating system frees it when the process dies."""
    import filelock

    with explained_os_errors(path):
        make_folder(path.parent)
        guard = filelock.FileLock(path)
        try:
            guard.acquire(timeout=timeout_s)
        except filelock.Timeout as error:
            raise UserError(
                f"another process has been using this folder for {timeout_s:.0f} s",
                value=path.parent,
                fix="wait for it to finish, or pass another --cache",
            ) from error
    try:
        yield
    finally:
        guard.release()


def is_locked(path: Path) -> bool:
    """Return whether a running process holds a lock; nothing is made or changed."""
    import filelock

    if not path.is_file():
        return False
    guard = filelock.FileLock(path)
    try:
        guard.acquire(timeout=0)
    except filelock.Timeout:
        return True
    except OSError:
        return False
    guard.release()
    return False


def hash_bytes(*parts: bytes | str) -> str:
    """Return the SHA-256 of the parts; each is length-prefixed, so ("ab", "c") differs from ("a", "bc")."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def hash_json(value: object) -> str:
    """Return the SHA-256 of a value's canonical JSON."""
    return hash_bytes(canonical_json(value))


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, streamed.

    Args:
        path: The file.

    Returns:
        64 hexadecimal digits.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def readable_bytes(n_bytes: int) -> str:
    """Return a size for people, in decimal units.

    Example:
        >>> readable_bytes(1_250_000)
        '1.2 MB'
    """
    if n_bytes < 1_000_000:
        return f"{n_bytes / 1e3:.1f} kB"
    return f"{n_bytes / 1e6:,.1f} MB" if n_bytes < 1_000_000_000 else f"{n_bytes / 1e9:,.2f} GB"


def user_dir(kind: Literal["cache", "state"]) -> Path:
    """Return histotune's folder for re-creatable files (cache) or for records to keep (state)."""
    home = Path.home()
    if sys.platform == "darwin":
        base = home / "Library" / ("Caches" if kind == "cache" else "Application Support")
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local")) / kind
    else:
        variable, default = (
            ("XDG_CACHE_HOME", home / ".cache") if kind == "cache" else ("XDG_STATE_HOME", home / ".local" / "state")
        )
        base = Path(os.environ.get(variable) or default)
    return base / "histotune"


def _strict(value: object) -> object:
    """Return the value with NaN and infinities replaced by None and tuples by lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return value


def _replace_folder(temporary: Path, path: Path) -> None:
    """Move a finished folder into place; an older one steps aside first, since folders can't be overwritten."""
    if not path.exists():
        temporary.replace(path)
        return
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    path.replace(old)
    try:
        temporary.replace(path)
    except OSError:
        old.replace(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _flush_to_disk(path: Path) -> None:
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
