"""A cohort on disk: rendered by all cores, complete or absent, and not rendered twice."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from histotune.tools.errors import UserError
from histotune.tools.files import atomic_folder, hash_json, write_json

if TYPE_CHECKING:
    from histotune.datasets.synthetic.cohort import SyntheticConfig

GENERATOR_VERSION = "4"
MARK = "SYNTHETIC.json"
ORACLE = "oracle.json"
COHORT_FILE = re.compile(
    rf"{re.escape(ORACLE)}|(breakhis|pcam)/{re.escape(MARK)}|breakhis/BreaKHis_v1/histology_slides/breast/.*/SOB_[^/]+\.png"
    r"|pcam/camelyonpatch_level_2_split_(train|valid|test)_(x\.h5|y\.h5|meta\.csv)"
)
WARNING = "SYNTHETIC: rendered by a program from random numbers; shows no patient and no real tissue."


@dataclass(frozen=True)
class CohortPaths:
    """Where a cohort lies.

    Attributes:
        breakhis: Folder in the layout of BreakHis.
        pcam: Folder in the layout of PatchCamelyon.
        oracle: JSON file with everything that is true of the cohort and that no reader may know.
    """

    breakhis: Path
    pcam: Path
    oracle: Path


def write_cohort(config: SyntheticConfig, folder: Path, workers: int | None = None) -> CohortPaths:
    """Render a cohort, unless the folder already holds this one.

    Args:
        config: What to render.
        folder: Where it goes; an older cohort there is replaced, anything else is left alone.
        workers: Processes that render; None takes one per core. The files don't depend on it.

    Returns:
        Where its parts lie.

    Raises:
        UserError: The folder holds something that is not a cohort, the disk is full, or nothing can be written.

    Example:
        >>> paths = write_cohort(SyntheticConfig(seed=1), Path("cohort"))  # doctest: +SKIP
    """
    paths = CohortPaths(folder / "breakhis", folder / "pcam", folder / ORACLE)
    mark = cohort_mark(config)
    if _holds(paths, mark, n_png=4 * config.n_groups * config.tiles_per_case):
        return paths
    _require_replaceable(folder)
    _refuse_starting_child()
    with atomic_folder(folder) as temporary:
        from histotune.datasets.synthetic.files import write_breakhis, write_oracle, write_pcam
        from histotune.datasets.synthetic.pool import Renderer

        with Renderer(workers) as renderer:
            write_breakhis(config, temporary / "breakhis", renderer)
            patches_by_part = write_pcam(config, temporary / "pcam", renderer)
        write_oracle(config, patches_by_part, temporary / ORACLE, mark)
        for part in ("breakhis", "pcam"):
            write_json(temporary / part / MARK, mark)
    return paths


def cohort_files(folder: Path) -> tuple[Path, ...]:
    """Return the files of a rendered cohort, told by their names; no link is followed.

    Args:
        folder: Where a cohort may lie.

    Returns:
        Its own files; empty where no part has the mark of a cohort. Whatever else lies there is not among them.
    """
    marked = {part for part in ("breakhis", "pcam") if _is_mark(folder / part / MARK)}
    if not marked or folder.is_symlink():
        return ()
    found = (Path(place) / name for place, _, names in os.walk(folder) for name in sorted(names))
    if _is_mark(folder / ORACLE):
        marked.add(ORACLE)
    own = [path for path in found if not path.is_symlink() and _is_cohort_name(path.relative_to(folder), marked)]
    return tuple(own)


def _is_cohort_name(path: Path, marked: set[str]) -> bool:
    """Whether a path below the cohort's folder is one that rendering writes, in a part that has its mark."""
    return path.parts[0] in marked and COHORT_FILE.fullmatch(path.as_posix()) is not None


def _is_mark(path: Path) -> bool:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and data.get("what") == WARNING and not path.parent.is_symlink()


def cohort_mark(config: SyntheticConfig) -> dict[str, object]:
    """Return the content of the mark that says what a folder holds; it tells nothing about the tissue.

    Args:
        config: What is rendered.

    Returns:
        A JSON-ready dict.
    """
    return {
        "what": WARNING,
        "seed": config.seed,
        "config_hash": hash_json(config.model_dump(mode="json")),
        "generator_version": GENERATOR_VERSION,
    }


def _holds(paths: CohortPaths, mark: dict[str, object], n_png: int) -> bool:
    """Whether a cohort with this mark is there and no file of it was taken away."""
    try:
        marks = [json.loads((part / MARK).read_text(encoding="utf-8")) for part in (paths.breakhis, paths.pcam)]
    except (OSError, ValueError):
        return False
    if not paths.oracle.is_file() or any(found != mark for found in marks):
        return False
    return sum(1 for _ in paths.breakhis.rglob("*.png")) == n_png and len(list(paths.pcam.glob("*.h5"))) == 6


def _refuse_starting_child() -> None:
    """Stop a worker that runs a script without a main guard once more, before it writes beside its parent."""
    import multiprocessing

    if getattr(multiprocessing.current_process(), "_inheriting", False):  # what multiprocessing itself goes by
        raise RuntimeError("a script without a main guard starts itself again in every process that renders")


def _require_replaceable(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError("the synthetic cohort needs a folder, and this is a file", value=folder,
                        fix="choose another path")  # fmt: skip
    names = {entry.name for entry in folder.iterdir()}
    if names and not names <= {"breakhis", "pcam", ORACLE}:
        raise UserError(
            "this folder holds something else, and writing the cohort would replace it",
            value=folder,
            allowed="a new or empty folder, or an older synthetic cohort",
            fix="choose another folder",
        )
    for part in ("breakhis", "pcam"):
        if (folder / part).exists() and not (folder / part / MARK).is_file():
            raise UserError(f"the {part} folder here has no {MARK}, so it may be real data and is left alone",
                            value=folder / part, fix="choose another folder")  # fmt: skip
    foreign = _foreign_file(folder)
    if foreign is not None:
        raise UserError("a file in this cohort's folder was not rendered, and replacing the cohort would lose it",
                        value=foreign, fix="move the file away, or choose another folder")  # fmt: skip


def _foreign_file(folder: Path) -> Path | None:
    """Return a file below an older cohort's folder that is not the cohort's; None where there is none."""
    own = set(cohort_files(folder))
    found = (Path(place) / name for place, folders, names in os.walk(folder) for name in (*names, *folders))
    return next((path for path in found if path not in own and (path.is_symlink() or not path.is_dir())), None)
