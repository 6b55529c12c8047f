"""Files that are never half-written: atomic writes, locks between processes, content hashes, user folders."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import stat
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from histotune.tools.atomic import atomic_path, explained_os_errors, make_folder
from histotune.tools.errors import UserError, setting_of
from histotune.tools.stand_ins import START_BYTES, stand_in

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

HALF_CHARACTER = "\\ud"  # how JSON begins to spell one
MAX_JSON_BYTES = 256 * 2**20
MAX_JSON_DEPTH = 100
CHECKSUM = "checksum"


def is_regular_file(path: Path) -> bool:
    """Return whether a path is a file itself and no link to one."""
    return path.is_file() and not path.is_symlink()


def require_regular(path: Path) -> None:
    """Refuse a folder, a device or a pipe where a file is needed; opening a pipe would wait for ever.

    Raises:
        OSError: It is none, or it can't be looked at.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "this is a folder, a device or a pipe", str(path))


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
    require_regular(path)
    with path.open("rb") as stream:
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"more than {readable_bytes(max_bytes)}")
    return parse_json(data)


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401  (whatever JSON holds)
    """Return what JSON text holds; whatever is wrong with it is a ValueError, endless nesting included.

    Halves of a character, which JSON can spell by their number, are wrong, too: nothing could be written with them.
    """
    text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
    try:
        value = json.loads(text)
        if HALF_CHARACTER in text.lower():
            json.dumps(value, ensure_ascii=False).encode()  # a ValueError where there is half a character alone
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except ValueError as error:
        found = stand_in(text[:START_BYTES].encode() if isinstance(text, str) else text[:START_BYTES])
        raise (error if found is None else ValueError(f"it is {found.words}")) from error
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        level = [inner for one in level if isinstance(one, dict | list) for inner in _inside(one)]
        if not level:
            return value
    raise ValueError("nested too deeply")


def _inside(container: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container


def write_sealed(path: Path, facts: Mapping[str, object]) -> None:
    """Write a JSON object atomically, with a checksum over what it says.

    Args:
        path: Target file.
        facts: What it says, without a key ``checksum``.
    """
    write_json(path, {**facts, CHECKSUM: hash_json(dict(facts))})


def unsealed(data: object, known: Collection[str]) -> dict[str, Any]:
    """Return what a JSON object says once its checksum has been compared; files of earlier versions have none.

    Args:
        data: What was read.
        known: The keys that it may have; with another one it is damaged, for that may have been the checksum.

    Raises:
        ValueError: It is no object, has other keys, or has changed since it was written.
    """
    if not isinstance(data, dict):
        raise ValueError("no JSON object")
    facts = {name: value for name, value in data.items() if name != CHECKSUM}
    if not facts.keys() <= set(known):
        raise ValueError(f"unknown entries: {', '.join(sorted(facts.keys() - set(known)))}")
    if CHECKSUM in data and data[CHECKSUM] != hash_json(facts):
        raise ValueError("it has changed since it was written")
    return facts


def canonical_json(value: object) -> str:
    """Return JSON with sorted keys and strict numbers (NaN and infinities become null)."""
    return json.dumps(_strict(value), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)


def json_or_none(path: Path) -> Any:  # noqa: ANN401  (whatever the file holds)
    """Return what a JSON file holds; None where it can't be read."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


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
                fix=f"wait for it to finish, or choose another folder: {setting_of(path)}",
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


def hash_bytes(*parts: bytes | str | memoryview) -> str:
    """Return the SHA-256 of the parts; each is length-prefixed, so ("ab", "c") differs from ("a", "bc").

    A memoryview is one of single bytes, whose length is the number of its items.
    """
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
    """Return histotune's folder for re-creatable files (cache) or for records to keep (state).

    Args:
        kind: Which of the two.

    Returns:
        The folder, which need not exist yet.

    Raises:
        UserError: The user has no home folder, and no variable names another place.
    """
    if sys.platform == "darwin":
        base = _home() / "Library" / ("Caches" if kind == "cache" else "Application Support")
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or _home() / "AppData" / "Local") / kind
    else:
        variable, default = ("XDG_CACHE_HOME", ".cache") if kind == "cache" else ("XDG_STATE_HOME", ".local/state")
        base = Path(os.environ.get(variable) or _home() / default)
    return base / "histotune"


def _home() -> Path:
    """Return the user's home folder; containers and batch systems run users without one."""
    try:
        return Path.home()
    except RuntimeError as error:
        raise UserError(
            "this user has no home folder, so there is no place for the cache and the ledger",
            value=f"user {os.getuid()}" if hasattr(os, "getuid") else None,
            fix="export HOME=/a/folder/of/yours (or XDG_CACHE_HOME and XDG_STATE_HOME), then run the command again",
        ) from error


def _strict(value: object) -> object:
    """Return the value with NaN and infinities replaced by None and tuples by lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return value
