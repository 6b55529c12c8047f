"""A cohort on disk: rendered by all cores, complete or absent, and not rendered twice."""

from __future__ import annotations

import io
import multiprocessing
import os
import re
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.datasets.synthetic.cohort import (
    MPP_BY_MAGNIFICATION,
    PCAM_CENTRE_PX,
    PCAM_MPP,
    Patch,
    RenderJob,
    SyntheticConfig,
    breakhis_jobs,
    make_cases,
    patch_job,
    pcam_patches,
)
from histotune.datasets.synthetic.render import render
from histotune.tools.atomic import atomic_folder
from histotune.tools.errors import UserError
from histotune.tools.files import hash_json, read_json, write_json
from histotune.tools.progress import track
from histotune.tools.provenance import cpu_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    Drawing = Callable[[Callable[[RenderJob], Any], Sequence[RenderJob]], Iterator[Any]]  # a map over jobs


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
        with _drawing(workers) as draw:
            write_breakhis(config, temporary / "breakhis", draw)
            patches_by_part = write_pcam(config, temporary / "pcam", draw)
        write_oracle(config, patches_by_part, temporary / ORACLE, mark)
        for part in ("breakhis", "pcam"):
            write_json(temporary / part / MARK, mark)
    return paths


def cohort_files(folder: Path) -> tuple[Path, ...]:
    """Return the files of a rendered cohort, told by their names; no link is followed."""
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
        data = read_json(path)
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and data.get("what") == WARNING and not path.parent.is_symlink()


def cohort_mark(config: SyntheticConfig) -> dict[str, object]:
    """Return the content of the mark that says what a folder holds; it tells nothing about the tissue."""
    return {
        "what": WARNING,
        "seed": config.seed,
        "config_hash": hash_json(config.model_dump(mode="json")),
        "generator_version": GENERATOR_VERSION,
    }


def _holds(paths: CohortPaths, mark: dict[str, object], n_png: int) -> bool:
    """Whether a cohort with this mark is there and no file of it was taken away."""
    try:
        marks = [read_json(part / MARK) for part in (paths.breakhis, paths.pcam)]
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
        raise UserError(
            "the synthetic cohort needs a folder, and this is a file", value=folder, fix="choose another path"
        )
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
            raise UserError(
                f"the {part} folder here has no {MARK}, so it may be real data and is left alone",
                value=folder / part,
                fix="choose another folder",
            )
    foreign = _foreign_file(folder)
    if foreign is not None:
        raise UserError(
            "a file in this cohort's folder was not rendered, and replacing the cohort would lose it",
            value=foreign,
            fix="move the file away, or choose another folder",
        )


def _foreign_file(folder: Path) -> Path | None:
    """Return a file below an older cohort's folder that is not the cohort's; None where there is none."""
    own = set(cohort_files(folder))
    found = (Path(place) / name for place, folders, names in os.walk(folder) for name in (*names, *folders))
    return next((path for path in found if path not in own and (path.is_symlink() or not path.is_dir())), None)


# ---- Files in the layouts of BreakHis and PatchCamelyon, and the oracle ----


LEVEL_0_MPP = 0.243  # the scale in whose pixels PatchCamelyon's meta file gives positions


def write_breakhis(config: SyntheticConfig, folder: Path, draw: Drawing) -> None:
    """Write the PNG tree."""
    jobs = [job for _, _, job in breakhis_jobs(config)]
    for parent in sorted({(folder / job.path).parent for job in jobs}):
        parent.mkdir(parents=True, exist_ok=True)
    for _ in track(draw(partial(_save, folder), jobs), "rendering synthetic BreakHis", total=len(jobs)):
        pass


def write_pcam(config: SyntheticConfig, folder: Path, draw: Drawing) -> dict[str, tuple[Patch, ...]]:
    """Write pixels, labels and slides of train, valid and test."""
    folder.mkdir(parents=True, exist_ok=True)
    patches_by_part = pcam_patches(config)
    patches = [patch for part in patches_by_part.values() for patch in part]
    jobs = [patch_job(config, patch, number) for number, patch in enumerate(patches)]
    pixels = np.stack(list(track(draw(_draw, jobs), "rendering synthetic PatchCamelyon", total=len(jobs))))
    start = 0
    for part, part_patches in patches_by_part.items():
        stem = f"camelyonpatch_level_2_split_{part}"
        labels = np.array([patch.label for patch in part_patches], np.uint8).reshape(-1, 1, 1, 1)
        _write_h5(folder / f"{stem}_x.h5", "x", pixels[start : start + len(part_patches)])
        _write_h5(folder / f"{stem}_y.h5", "y", labels)
        (folder / f"{stem}_meta.csv").write_text(_meta_csv(part_patches), encoding="utf-8", newline="\n")
        start += len(part_patches)
    return patches_by_part


def write_oracle(
    config: SyntheticConfig, patches_by_part: dict[str, tuple[Patch, ...]], path: Path, mark: dict[str, object]
) -> None:
    """Write what is true of the cohort and stands in none of its files."""
    cases = [{**asdict(case), "code": case.code} for case in make_cases(config)]
    slides = {patch.slide.name: asdict(patch.slide) for part in patches_by_part.values() for patch in part}
    write_json(
        path,
        {
            **mark,
            "config": config.model_dump(mode="json"),
            "breakhis": {
                "mpp": {f"{key}X": value for key, value in MPP_BY_MAGNIFICATION.items()},
                "label": "nothing" if config.null_labels else "atypia of the case's epithelium",
                "cases": cases,
            },
            "pcam": {
                "mpp": PCAM_MPP * config.scale,
                "claimed_mpp": PCAM_MPP,
                "label": _pcam_meaning(config),
                "label_region_px": PCAM_CENTRE_PX,
                "slides": slides,
                "tiles": {part: [_facts(patch) for patch in tiles] for part, tiles in patches_by_part.items()},
            },
        },
    )


def _pcam_meaning(config: SyntheticConfig) -> str:
    if config.null_labels:
        return "nothing"
    other = f"; with probability {config.label_meaning:g} instead: mostly epithelium of any kind in the whole tile"
    return "tumour within the centre" + (other if config.label_meaning else "")


def _facts(patch: Patch) -> dict[str, object]:
    return {
        "tumour_in_centre": patch.tumour,
        "mostly_epithelium": patch.other,
        "label": patch.label,
        "x_um": patch.x_um,
        "y_um": patch.y_um,
    }


def _meta_csv(patches: tuple[Patch, ...]) -> str:
    rows = ["coord_y,coord_x,tumor_patch,center_tumor_patch,wsi"]
    for patch in patches:
        y, x = round(patch.y_um / LEVEL_0_MPP), round(patch.x_um / LEVEL_0_MPP)
        rows.append(f"{y},{x},{patch.tumour_anywhere or patch.label},{patch.label},{patch.slide.name}")
    return "\n".join(rows) + "\n"


def _write_h5(path: Path, name: str, values: NDArray[np.uint8]) -> None:
    import h5py

    written = io.BytesIO()  # the library would tell of a full disk in words of its own
    with h5py.File(written, "w") as file:
        file.create_dataset(name, data=values)
    path.write_bytes(written.getbuffer())


# ---- Rendering by several processes ----


CHUNK = 8
Z_RLE = 3  # zlib's run-length strategy: three times as fast as its default on noisy images, and no larger


@contextmanager
def _drawing(workers: int | None) -> Iterator[Drawing]:
    """Give a ``map`` over processes that are gone with the block; None takes one per core, 1 draws in this process."""
    n_workers = cpu_count() if workers is None else workers
    if n_workers <= 1:
        yield map
        return
    # Started afresh (spawn), as Windows and macOS do; after an error nothing is drawn that was still to come.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(n_workers, mp_context=context, initializer=_leave_interrupts_to_parent)
    try:
        yield partial(pool.map, chunksize=CHUNK)
    except BrokenProcessPool as error:
        raise UserError(
            "a process that renders synthetic tissue died (out of memory, or a script without a main guard)",
            fix='call write_cohort(..., workers=1), or put the script below `if __name__ == "__main__":`',
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _draw(job: RenderJob) -> NDArray[np.uint8]:
    return render(job.tissue, job.field, job.camera, job.seed)


def _save(folder: Path, job: RenderJob) -> None:
    from PIL import Image

    Image.fromarray(_draw(job)).save(folder / job.path, "PNG", compress_level=1, compress_type=Z_RLE)
