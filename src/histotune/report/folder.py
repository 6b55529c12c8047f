"""A run folder: what is written when a run ends, and read back to draw its report again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import polars as pl

from histotune.evaluation.findings import Artifacts, LedgerCount, findings_from_dict
from histotune.report.added import load_added, read_object
from histotune.report.run_folder import ReportInputs, Thumbnail
from histotune.tools.errors import UserError
from histotune.tools.files import write_json
from histotune.tools.progress import StageTime

if TYPE_CHECKING:
    from pathlib import Path

FILES = ("scores.json", "predictions.parquet", "trials.parquet", "provenance.json", "config.json", "thumbnails.json")

REPEAT = "histotune run --from DIR repeats a run"
GROWTH_FILE = "label_efficiency.parquet"
MAP_FILE = "embedding_map.parquet"


def save_run(inputs: ReportInputs, folder: Path) -> None:
    """Write everything a report is made from.

    ``scores.json`` holds results only, so that equal runs give equal bytes; times and counts go to
    ``provenance.json``.

    Args:
        inputs: The finished run.
        folder: An existing folder.
    """
    write_json(folder / "scores.json", inputs.findings.as_dict())
    inputs.artifacts.predictions.write_parquet(folder / "predictions.parquet")
    inputs.artifacts.trials.write_parquet(folder / "trials.parquet")
    if inputs.artifacts.label_efficiency is not None:
        inputs.artifacts.label_efficiency.write_parquet(folder / GROWTH_FILE)
    if inputs.artifacts.embedding_map is not None:
        inputs.artifacts.embedding_map.write_parquet(folder / MAP_FILE)
    write_json(folder / "config.json", inputs.config)
    write_json(
        folder / "provenance.json",
        {
            **inputs.provenance,
            "command": inputs.command,
            "stages": [{"name": stage.name, "seconds_s": round(stage.seconds_s, 3)} for stage in inputs.stages],
            "ledger": [{"target": c.target, "times": c.times, "choices": c.choices} for c in inputs.ledger],
        },
    )
    _save_thumbnails(inputs.thumbnails, folder)


def load_run(folder: Path) -> ReportInputs:
    """Read a run folder back.

    Args:
        folder: Written by :func:`save_run`.

    Returns:
        What its report is made from.

    Raises:
        UserError: Files are missing, or one of them is damaged.
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"this is no finished run: {', '.join(missing)} missing", value=folder, fix="histotune run RECIPE --out DIR"
        )
    provenance = read_object(folder / "provenance.json", REPEAT)
    try:
        return ReportInputs(
            findings=findings_from_dict(read_object(folder / "scores.json", REPEAT)),
            artifacts=Artifacts(
                pl.read_parquet(folder / "predictions.parquet"),
                pl.read_parquet(folder / "trials.parquet"),
                pl.read_parquet(folder / GROWTH_FILE) if (folder / GROWTH_FILE).is_file() else None,
                pl.read_parquet(folder / MAP_FILE) if (folder / MAP_FILE).is_file() else None,
            ),
            stages=tuple(StageTime(**stage) for stage in provenance.pop("stages")),
            ledger=tuple(LedgerCount(**count) for count in provenance.pop("ledger")),
            config=read_object(folder / "config.json", REPEAT),
            thumbnails=_load_thumbnails(folder),
            command=provenance.pop("command"),
            added=load_added(folder),
            provenance=provenance,
        )
    except (ValueError, KeyError, TypeError, OSError, pl.exceptions.PolarsError) as error:
        raise UserError(
            f"this run folder is damaged: {error}", value=folder, fix="histotune run --from DIR repeats a run"
        ) from error


def _save_thumbnails(thumbnails: tuple[Thumbnail, ...], folder: Path) -> None:
    index = []
    (folder / "thumbnails").mkdir(exist_ok=True)
    for number, thumbnail in enumerate(thumbnails):
        name = f"thumbnails/{number:03d}.jpg"
        (folder / name).write_bytes(thumbnail.jpeg)
        facts = {key: value for key, value in vars(thumbnail).items() if key != "jpeg"}
        index.append({**facts, "file": name})
    write_json(folder / "thumbnails.json", index)


def _load_thumbnails(folder: Path) -> tuple[Thumbnail, ...]:
    index = json.loads((folder / "thumbnails.json").read_text(encoding="utf-8"))
    return tuple(
        Thumbnail(
            **{key: value for key, value in facts.items() if key != "file"},
            jpeg=(folder / "thumbnails" / facts["file"].rpartition("/")[2]).read_bytes(),
        )
        for facts in index
    )
