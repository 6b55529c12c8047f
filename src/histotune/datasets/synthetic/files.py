"""The cohort's files in the layouts of BreakHis and PatchCamelyon, and the oracle's facts beside them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from histotune.datasets.synthetic.cases import make_cases
from histotune.datasets.synthetic.plan import (
    MPP_BY_MAGNIFICATION,
    PCAM_CENTRE_PX,
    PCAM_MPP,
    Patch,
    breakhis_jobs,
    patch_job,
    pcam_patches,
)
from histotune.tools.files import write_json

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from histotune.datasets.synthetic.cohort import SyntheticConfig
    from histotune.datasets.synthetic.pool import Renderer

LEVEL_0_MPP = 0.243  # the scale in whose pixels PatchCamelyon's meta file gives positions


def write_breakhis(config: SyntheticConfig, folder: Path, renderer: Renderer) -> None:
    """Write the PNG tree.

    Args:
        config: What to render.
        folder: The data set's folder.
        renderer: What draws.
    """
    jobs = [job for _, _, job in breakhis_jobs(config)]
    for parent in sorted({(folder / job.path).parent for job in jobs}):
        parent.mkdir(parents=True, exist_ok=True)
    renderer.save_all(folder, jobs, "rendering synthetic BreakHis")


def write_pcam(config: SyntheticConfig, folder: Path, renderer: Renderer) -> dict[str, tuple[Patch, ...]]:
    """Write pixels, labels and slides of train, valid and test.

    Args:
        config: What to render.
        folder: The data set's folder.
        renderer: What draws.

    Returns:
        The tiles by part, in file order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    patches_by_part = pcam_patches(config)
    patches = [patch for part in patches_by_part.values() for patch in part]
    jobs = [patch_job(config, patch, number) for number, patch in enumerate(patches)]
    pixels = renderer.draw_all(jobs, "rendering synthetic PatchCamelyon")
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
    """Write what is true of the cohort and stands in none of its files.

    Args:
        config: What was rendered.
        patches_by_part: The PatchCamelyon tiles.
        path: The JSON file.
        mark: What the cohort's marks say.
    """
    cases = [
        {**asdict(case), "code": case.code} for case in make_cases(config)
    ]  # fmt: skip
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

    with h5py.File(path, "w") as file:
        file.create_dataset(name, data=values)
