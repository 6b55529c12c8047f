"""Which setting a folder comes from, so that a message about the folder names the setting to change."""

from __future__ import annotations

import os
from pathlib import Path

DEFAULT = "--out FOLDER"
SETTING_BY_FOLDER: dict[Path, str] = {}


def name_setting(folder: Path, setting: str) -> None:
    """Remember that a folder, and all below it, was chosen by a setting.

    Args:
        folder: The folder; it need not exist.
        setting: As a person types it, such as ``--cache FOLDER``.
    """
    SETTING_BY_FOLDER[_absolute(folder)] = setting


def setting_of(path: Path) -> str:
    """Return the setting that decides where a path lies; that of the nearest folder above it.

    Example:
        >>> name_setting(Path("/kept"), "--set ledger=FOLDER")
        >>> setting_of(Path("/kept/ledger.jsonl")), setting_of(Path("/else/run"))
        ('--set ledger=FOLDER', '--out FOLDER')
    """
    path = _absolute(path)
    return next((SETTING_BY_FOLDER[one] for one in (path, *path.parents) if one in SETTING_BY_FOLDER), DEFAULT)


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path.expanduser()))  # noqa: PTH100  (resolve() would follow links)
