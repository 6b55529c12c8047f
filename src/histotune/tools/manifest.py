"""A folder's manifest: the hash of every file in it, so that a changed byte is found before it is believed.

It guards against accidents: a torn copy, a bad disk, an edit by hand. Who forges a file can forge the manifest, too.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path, PurePosixPath
from typing import Any

from histotune.tools.errors import UserError
from histotune.tools.files import hash_file, hash_json, json_or_none, read_json, write_json
from histotune.tools.stand_ins import fix_of, stand_in_at

LOG = logging.getLogger(__name__)
MANIFEST_FILE = "manifest.json"
CLAIM = {"manifest": MANIFEST_FILE}
"""What one of a folder's own files says, so that a lost manifest is told from a folder of an earlier version."""
CLAIMING = ("provenance.json", "protocol.json", "matrix.json", "transfer.json")
FORMAT = "histotune manifest 1"
DRAWN = (".html", ".tex")  # drawn again from the other files, whenever somebody asks
DIGEST = re.compile(r"[0-9a-f]{64}")
COPY_AGAIN = "copy the folder again from where it was made, or make it again as it was made first"
NAMED = 10  # files that a message names


def write_manifest(folder: Path, *names: str) -> None:
    """Write down the hash of every file in a folder, but for pages that are drawn from the others.

    Args:
        folder: Holds everything that the manifest should speak of.
        names: Only these files; the folder may hold other people's.
    """
    _write(folder, {name: hash_file(folder / name) for name in names or _names(folder)})


def renew_manifest(folder: Path, *names: str) -> None:
    """Take up files that were added to a folder with a manifest, or written again; a folder without one stays so.

    Args:
        folder: The folder.
        names: Paths below it, with slashes.
    """
    if (folder / MANIFEST_FILE).is_file():
        files = read_manifest(folder)
        _write(folder, {**files, **{name: hash_file(folder / name) for name in names}})


def unlist(folder: Path, name: str) -> None:
    """Take a file out of a folder's manifest, before it is replaced: a killed process leaves no wrong hash."""
    if (folder / MANIFEST_FILE).is_file():
        files = read_manifest(folder)
        _write(folder, {one: digest for one, digest in files.items() if one != name})


def is_listed(folder: Path, name: str) -> bool:
    """Whether a manifest speaks of a file; where there is none, every file is as good as listed."""
    if not (folder / MANIFEST_FILE).is_file():
        return True
    return name in read_manifest(folder)


def verify_folder(folder: Path, fix: str, *names: str) -> None:
    """Compare a folder with its manifest before anything in it is believed.

    Args:
        folder: The folder; one of an earlier version has no manifest, and that is said.
        fix: What a person can do about damage.
        names: Only these files are read, so only they are compared.

    Raises:
        UserError: Files are missing or changed, the manifest is damaged, or it is gone.
    """
    if check_manifest(folder, fix, *names):
        return
    if any(_claims_manifest(folder / name) for name in CLAIMING):
        raise UserError(
            f"this folder was written with a {MANIFEST_FILE}, which is gone",
            value=folder,
            allowed="the folder as it was written, with all its files",
            fix=COPY_AGAIN,
        )
    LOG.warning(
        "%s has no %s: whether its files have changed since they were written can't be told", folder, MANIFEST_FILE
    )


def check_manifest(folder: Path, fix: str, *names: str) -> bool:
    """Compare a folder's files with its manifest.

    Args:
        folder: The folder.
        fix: What a person can do about damage.
        names: Only these files; all without any.

    Returns:
        Whether there is a manifest; folders of earlier versions have none.

    Raises:
        UserError: Files are missing or changed, or the manifest is damaged.
    """
    if not (folder / MANIFEST_FILE).is_file():
        return False
    files = read_manifest(folder)
    wanted = {name: files.get(name, "") for name in names} if names else files
    bad = [_state(folder, name, digest) for name, digest in sorted(wanted.items())]
    bad = [one for one in bad if one]
    if bad:
        more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        raise UserError(
            "files of this folder are not as they were written",
            value=f"{folder}: {', '.join(bad[:NAMED])}{more}",
            allowed="the folder as it was written; a report can be drawn again, results can't be edited",
            fix=fix_of(bad, fix),
        )
    return True


def read_manifest(folder: Path) -> dict[str, str]:
    """Return the hash of each file, after the manifest's own has been checked."""
    path = folder / MANIFEST_FILE
    try:
        data: Any = read_json(path)
        files = data["files"]
        sound = data["format"] == FORMAT and data["sha256"] == hash_json(files) and all(map(_is_entry, files.items()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        sound, files = False, {}
    if not sound:
        raise UserError("this manifest is damaged, or was written by another version", value=path, fix=COPY_AGAIN)
    return dict(files)


def is_manifest(folder: Path) -> bool:
    """Whether a folder has a manifest of histotune's, damaged or not in what it says of the files."""
    data = json_or_none(folder / MANIFEST_FILE)
    return isinstance(data, dict) and data.get("format") == FORMAT


def _write(folder: Path, files: dict[str, str]) -> None:
    write_json(folder / MANIFEST_FILE, {"format": FORMAT, "files": files, "sha256": hash_json(files)})


def _names(folder: Path) -> list[str]:
    """Return the files of a folder that the manifest speaks of, as paths with slashes."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if name != MANIFEST_FILE and not name.endswith(DRAWN))


def _is_entry(entry: tuple[object, object]) -> bool:
    """Whether an entry names a file below the folder and a hash."""
    name, digest = entry
    if not isinstance(name, str) or not isinstance(digest, str) or DIGEST.fullmatch(digest) is None:
        return False
    parts = PurePosixPath(name)
    return not parts.is_absolute() and ".." not in parts.parts and name != ""


def _state(folder: Path, name: str, digest: str) -> str:
    """Return what is wrong with a file; nothing where it is as it was written."""
    path = folder / Path(name)
    if not path.is_file():
        return f"{name} (missing)"
    try:
        if hash_file(path) == digest:
            return ""
        instead = stand_in_at(path)
        return f"{name} ({instead.words if instead else 'changed'})"
    except OSError:
        return f"{name} (can't be read)"


def _claims_manifest(path: Path) -> bool:
    """Whether a file says that its folder has a manifest: it does so itself, or in its provenance."""
    data = json_or_none(path)
    if not isinstance(data, dict):
        return False
    provenance = data.get("provenance")
    return any(isinstance(one, dict) and one.get("manifest") is not None for one in (data, provenance))
