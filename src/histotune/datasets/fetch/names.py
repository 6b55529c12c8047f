"""Names inside archives: only plain ones below the folder, whatever an archive says."""

from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath

MAX_PART_BYTES = 255  # longest file name of common file systems
RESERVED = {"con", "prn", "aux", "nul", *(f"{stem}{n}" for stem in ("com", "lpt") for n in range(1, 10))}
FORBIDDEN = set('<>:"|?*\\')  # Windows takes none of them, and no data set here needs one


class UnsafeMember(Exception):
    """A member of an archive that is not written.

    Args:
        name: Its name in the archive, control characters shown as escapes.
        why: What is wrong with it.
    """

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{ascii(name)[1:121].rstrip(chr(39))} ({why})")


def safe_member_path(name: str) -> PurePosixPath:
    """Return where a member may be written below the target folder.

    Args:
        name: As the archive has it.

    Returns:
        A relative path without ``.`` and ``..``.

    Raises:
        UnsafeMember: The name is absolute, leads out of the folder, or can't be a file name on every system.

    Example:
        >>> str(safe_member_path("./BreaKHis_v1/a.png"))
        'BreaKHis_v1/a.png'
    """
    if name.startswith(("/", "\\")) or name[1:2] == ":":
        raise UnsafeMember(name, "an absolute path")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts:
        raise UnsafeMember(name, "an empty name")
    for part in parts:
        _require_plain(name, part)
    return PurePosixPath(*parts)


class SeenPaths:
    """Notices two members that would become one file, here or where case does not count."""

    def __init__(self) -> None:
        self._is_folder: dict[str, bool] = {}

    def add(self, name: str, path: PurePosixPath, *, folder: bool) -> None:
        """Count a member.

        Args:
            name: As the archive has it.
            path: Where it goes.
            folder: Whether it is one.

        Raises:
            UnsafeMember: Something of that path was there before, or a file stands where a folder is needed.
        """
        for parent in (*path.parents[:-1], *([path] if folder else [])):
            if not self._is_folder.setdefault(_key(parent), True):
                raise UnsafeMember(name, "a file and a folder of one name")
        if not folder:
            if _key(path) in self._is_folder:
                raise UnsafeMember(name, "a name that comes twice")
            self._is_folder[_key(path)] = False


def _key(path: PurePosixPath) -> str:
    """Return what two paths share where case and the form of accents do not count."""
    return unicodedata.normalize("NFC", str(path)).casefold()


def _require_plain(name: str, part: str) -> None:
    if part == "..":
        raise UnsafeMember(name, "leads out of the folder")
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in part):
        raise UnsafeMember(name, "control characters in the name")
    if FORBIDDEN & set(part) or part.endswith((" ", ".")) or part.split(".", maxsplit=1)[0].casefold() in RESERVED:
        raise UnsafeMember(name, "a name that some systems can't write")
    try:
        n_bytes = len(part.encode())
    except UnicodeEncodeError:
        raise UnsafeMember(name, "a name that is no text") from None
    if n_bytes > MAX_PART_BYTES:
        raise UnsafeMember(name, "a name that is too long")
